# SPDX-License-Identifier: Apache-2.0
"""A template that is Jinja: the tokenizer's own, or a file.

Text comes from the sandboxed renderer of transformers, within the bounds of `jinja_sandbox`. What the assistant
wrote in it is found by the marks ``{% generation %}``, or else by rendering again with a sentinel put into one turn:
taking the sentinel out of the new text must give the old text back, otherwise the spans are not certain and training is
refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ...extras.errors import ConfigError
from ...extras.logging import get_logger
from ...plugins import resolve
from ..media.families import MediaFamily, probe_family
from ..messages import Message, Part, Sample
from .base import Options, Piece
from .encoding import EncodingTemplate
from .jinja_sandbox import render
from .renderer import THOUGHT, has_thought, split_thought, without_thought
from .text_spans import (
    SENTINEL,
    agreed_end,
    as_parts,
    end_of_calls,
    mark,
    split_marked,
    turn_ends,
    with_sentinel,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = get_logger(__name__)

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
# Words of a source that shows thoughts, and may drop them.
_THINKS = re.compile("(?i)think|thought|reason")
# What a template's source says about its tool dialect; the first that is found counts.
_DIALECTS = {
    "<tool_call>": "qwen",
    "<｜tool▁call▁begin｜>": "deepseek",
    "[CALL_ID]": "mistral_small",
    "[TOOL_CALLS]": "mistral_tekken",
    '"parameters": ': "llama3",
}


class _SyntaxError(ConfigError):
    """The source does not compile."""


class JinjaTemplate(EncodingTemplate):
    """A Jinja chat template bound to a tokenizer.

    Args:
        tokenizer: Gives its special tokens to the Jinja.
        name: ``tokenizer``, or the path of the file.
        source: The Jinja.
        enable_thinking: Passed to the Jinja if False, or if True and asked for.
        preserve_thinking: Passed to the Jinja if set.
        asked: See :class:`Options`.

    Raises:
        ConfigError: The source does not compile.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        name: str,
        source: str,
        *,
        enable_thinking: bool | None = True,
        preserve_thinking: bool = False,
        asked: bool = False,
    ) -> None:
        super().__init__(
            tokenizer, name, enable_thinking=enable_thinking, preserve_thinking=preserve_thinking, asked=asked
        )
        self._source = source
        self._marked = bool(_GENERATION.search(source))
        self._thinks = bool(_THINKS.search(source))
        self._wants_parts = False
        self._wants_parts = self._loses_text()
        self._turn_end: str | ConfigError
        try:
            self._turn_end, self._last_end = self._find_turn_ends()
        except _SyntaxError:
            raise
        except ConfigError as error:
            self._turn_end, self._last_end = error, ""  # good enough to chat with; training says why not
        else:
            last = [self._special.findall(end)[-1:] for end in (self._turn_end, self._last_end)]
            ends = [int(tokenizer.convert_tokens_to_ids(token)) for tokens in last for token in tokens]
            self.stop_token_ids = list(dict.fromkeys([*self.stop_token_ids, *ends]))
        dialect = next((name for mark, name in _DIALECTS.items() if mark in source), "default")
        self.tool_format = resolve("tool_formats", dialect)
        self.thought, self.has_switch = (THOUGHT[0].strip(), THOUGHT[1].strip()), "enable_thinking" in source
        texts = (tokenizer.eos_token, self._turn_end, self._last_end)
        self.ends = tuple(dict.fromkeys(end for end in texts if isinstance(end, str) and end))
        self.openings = ()

    def jinja(self) -> str:
        return self._source

    def rewrites(self, sample: Sample) -> bool:
        return self._thinks

    def parse(self, text: str) -> Message:
        for end in self.ends:
            text = text.removesuffix(end)
        reasoning, text = split_thought(text, None, THOUGHT)
        content, calls = self.tool_format.split(text.lstrip("\n") if reasoning else text)
        return Message("assistant", (Part("text", content),) if content else (), tuple(calls), reasoning or None)

    def media_pieces(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], options: Options, family: MediaFamily
    ) -> list[Piece]:
        # The Jinja writes the placeholders itself; the media are of no use to it.
        blank = [
            replace(message, parts=tuple(part if part.type == "text" else Part(part.type, "medium") for part in parts))
            for message in messages
            for parts in [message.parts]
        ]
        return self._pieces(blank, tools, options)

    def media_family(self, processor: Any) -> MediaFamily:
        return probe_family(processor, self._source, **self.tokenizer.special_tokens_map)

    def pieces(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], options: Options) -> list[Piece]:
        for part in (part for message in messages for part in message.parts):
            if part.type != "text":
                raise ConfigError(f"template {self.name}: a message holds {part.type}, and here only text can be read")
        return self._pieces(messages, tools, options)

    def _pieces(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], options: Options) -> list[Piece]:
        for message in messages:
            if message.weight and message.role != "assistant":
                raise ConfigError(f"template {self.name}: a weight on a {message.role} message needs a named template")
        chat = [mark(message.to_openai(), self._special) for message in messages]
        described = [mark(tool, self._special) for tool in tools]
        if options.add_generation_prompt:
            return list(split_marked(self._render(chat, described, options)[0], [], {}))
        asked_for = options.for_training and self._thinks and messages[-1].role == "assistant"
        if asked_for:
            chat, options = self._as_asked(chat, described, options)
        text, spans = self._spans(chat, described, options)
        apart = [index for index, message in enumerate(messages) if message.call_weight != "as the text"]
        calls = {index: self._calls_start(text, chat, index, described, options) for index in apart}
        opening: list[Piece] = []
        prompt = self._prompt_of(chat, len(chat) - 1, described, options) if asked_for and not self._marked else ""
        if not text.startswith(prompt):
            spans, opening = self._follow_prompt(text, prompt, spans, chat, described, options)
        return list(split_marked(text, spans, calls, opening))

    def _as_asked(
        self, chat: list[dict[str, Any]], tools: list[dict[str, Any]], options: Options
    ) -> tuple[list[dict[str, Any]], Options]:
        """The conversation and the flags with which the Jinja shows the last answer behind the prompt that asks for it.

        A written thought is asked for by name where the Jinja does not think by itself, and left out where that is off.
        """
        thinks, variants = has_thought(chat[-1]), [(chat, options)]
        if thinks and options.enable_thinking is False:
            variants = [([*chat[:-1], without_thought(chat[-1])], options)]
        elif thinks or options.enable_thinking is None:
            variants.append((chat, options.switched(thinks)))
        for turns, flags in variants:
            prompt = self._prompt_of(turns, len(turns) - 1, tools, flags)
            if self._render(turns, tools, flags)[0].startswith(prompt):
                return turns, flags
        return variants[0]

    def _follow_prompt(
        self,
        text: str,
        prompt: str,
        spans: list[tuple[int, int, int]],
        chat: list[dict[str, Any]],
        tools: list[dict[str, Any]],
        options: Options,
    ) -> tuple[list[tuple[int, int, int]], list[Piece]]:
        """The spans, and what stands before the last so that it follows its prompt, which the official text does not.

        Behind a thought that the prompt closed comes the text, and one that it opened is written to its end.
        """
        start, end, index = spans[-1]
        if isinstance(chat[index]["content"], str) and not chat[index].get("tool_calls"):
            words = self._find(text, chat, index, tools, options, at_end=False)
            start = words if prompt.startswith(text[:words]) else start
        tail = prompt[start:]
        if not prompt.startswith(text[:start]) or not _THINKS.search(tail):
            logger.warning_once(
                f"template {self.name}: the last answer of a row does not stand behind the prompt that asks for it, so "
                "it is not trained (nor is it in rows like it); choose a named template"
            )
            return spans[:-1], []
        opening = [Piece(tail, index, False, True)]
        closing = self._closing
        if closing.strip() not in tail:
            thought = chat[index].get("reasoning_content") if options.enable_thinking is not False else None
            closing = "" if text[start:end].startswith(closing.strip()) else closing
            thought = None if thought and thought in text[start:end] else thought
            opening += [Piece(part, index, True, part is closing) for part in (thought, closing) if part]
        return [*spans[:-1], (start, end, index)], opening

    @cached_property
    def _closing(self) -> str:
        """What ends a thought."""
        answer = {"role": "assistant", "content": SENTINEL, "reasoning_content": f"{SENTINEL}A"}
        try:
            chat = [{"role": "user", "content": "A"}, answer]
            text = self._render(chat, [], Options(True, asked=True))[0]
        except ConfigError:
            text = ""
        found = re.search(f"{SENTINEL}A(.+?){SENTINEL}", text, re.DOTALL)
        return found[1] if found else THOUGHT[1]

    def _prompt_of(self, chat: list[dict[str, Any]], index: int, tools: list[dict[str, Any]], options: Options) -> str:
        """The prompt that asks for an answer; with ``enable_thinking: null`` one without a thought is asked for so."""
        if options.enable_thinking is None and has_thought(chat[index]):
            options = options._replace(enable_thinking=True)
        return self._render(chat[:index], tools, options._replace(add_generation_prompt=True))[0]

    def _render(
        self, chat: list[dict[str, Any]], tools: list[dict[str, Any]], options: Options
    ) -> tuple[str, list[tuple[int, int]]]:
        """The text, and the spans of ``{% generation %}`` marks."""
        import jinja2

        chat = [as_parts(message) for message in chat] if self._wants_parts else chat
        try:
            return render(
                self._source,
                chat,
                tools=tools or None,
                return_assistant_tokens_mask=self._marked,
                add_generation_prompt=options.add_generation_prompt,
                **{**self.tokenizer.special_tokens_map, **options.jinja_flags()},
            )
        except jinja2.TemplateSyntaxError as error:
            raise _SyntaxError(f"template {self.name}: line {error.lineno}: {error.message}") from None
        except (jinja2.TemplateError, TypeError) as error:
            raise ConfigError(f"template {self.name}: {error}") from None

    def _loses_text(self) -> bool:
        """Whether the Jinja shows a question only if it comes as a list of parts, as those of vision models may."""
        shown = []
        for content in (SENTINEL, [{"type": "text", "text": SENTINEL}]):
            try:
                shown.append(SENTINEL in self._render([{"role": "user", "content": content}], [], Options(None))[0])
            except _SyntaxError:
                raise
            except ConfigError:
                shown.append(False)
        return shown == [False, True]

    def _find_turn_ends(self) -> tuple[str, str]:
        """See :func:`turn_ends`."""

        def write(chat: list[dict[str, Any]], asks: bool) -> str:
            return self._render(chat, [], Options(None, add_generation_prompt=asks))[0]

        bos = str(self.tokenizer.bos_token or "")
        found = turn_ends(write, self._special, self.tokenizer.get_added_vocab(), bos)
        if found is None:
            raise self._uncertain("an assistant turn's text is not in the rendered text just once")
        return found

    def _uncertain(self, why: str) -> ConfigError:
        return ConfigError(
            f"template {self.name}: cannot tell with certainty what the assistant wrote ({why}); "
            "put {% generation %} marks into the Jinja, or choose a named template"
        )

    def _spans(
        self, chat: list[dict[str, Any]], tools: list[dict[str, Any]], options: Options
    ) -> tuple[str, list[tuple[int, int, int]]]:
        """The text, and (start, end, message) of what the assistant wrote, in characters."""
        text, marked = self._render(chat, tools, options)
        turns = [index for index, message in enumerate(chat) if message["role"] == "assistant"]
        if self._marked:
            if len(marked) != len(turns):
                raise self._uncertain(f"{len(marked)} marked spans for {len(turns)} assistant turns")
            self._warn_of_open_ends([text[start:end] for start, end in marked])
            return text, [(start, end, index) for (start, end), index in zip(marked, turns, strict=True)]
        if turns and isinstance(self._turn_end, ConfigError):
            raise self._turn_end
        spans = []
        for index in turns:
            start = self._start(text, chat, index, tools, options)
            spans.append((start, self._end(text, chat, index, tools, options), index))
        if any(start > end for start, end, _ in spans) or any(a[1] > b[0] for a, b in pairwise(spans)):
            raise self._uncertain("the turns overlap")
        self._warn_of_open_ends([text[start:end] for start, end, _ in spans])
        return text, spans

    def _warn_of_open_ends(self, turns: Sequence[str]) -> None:
        """Say it when a turn that is trained does not end in a special token."""
        ended = [text.rstrip().endswith(self._special_words) for text in turns]
        if not all(ended):
            which = "assistant turns but the last" if ended[-1] else "an assistant turn: the model never learns to stop"
            logger.warning_once(
                f"template {self.name}: no end token is trained behind {which}; put it between the {{% generation %}} "
                "marks of a Jinja of your own, or choose a named template"
            )

    def _start(
        self, text: str, chat: list[dict[str, Any]], index: int, tools: list[dict[str, Any]], options: Options
    ) -> int:
        """Where an assistant turn starts: after the prompt that would have asked for it."""
        prompt = self._prompt_of(chat, index, tools, options)
        if options.enable_thinking is None and not text.startswith(prompt):
            options = options._replace(enable_thinking=True)
            prompt = self._prompt_of(chat, index, tools, options)
        if text.startswith(prompt):
            return len(prompt)
        bare = self._render(chat[:index], tools, options)[0]
        asked = prompt.removeprefix(bare)
        # The prompt also opens or closes a thought that this turn does not show: take the part both have.
        if prompt.startswith(bare) and (agreed := agreed_end(self._special, text, prompt, len(bare))) is not None:
            return agreed
        # Text before this turn changes when more turns follow: look for the turn's own text.
        before = self._find(text, chat, index, tools, options, at_end=False)
        heads = [found.end() for found in self._special.finditer(asked)] + [asked.rfind("\n") + 1, len(asked)]
        follows = not asked or any(text[:before].endswith(asked[:end]) for end in heads if end)
        if chat[index].get("tool_calls") or not follows:
            raise self._uncertain("the text changes when more turns follow")
        return before

    def _end(
        self, text: str, chat: list[dict[str, Any]], index: int, tools: list[dict[str, Any]], options: Options
    ) -> int:
        """Where an assistant turn ends, its end-of-turn token included."""
        before = self._find(text, chat, index, tools, options, at_end=True)
        end = self._last_end if index == len(chat) - 1 else str(self._turn_end)
        if not chat[index].get("tool_calls"):
            if not text.startswith(end, before):
                raise self._uncertain(f"turn {index} does not end with {end!r}")
            return before + len(end)
        end = end if self._special.search(end) else ""
        alone = self._render(chat[: index + 1], tools, options)[0]
        found = end_of_calls(text, before, end, alone)
        if found is None and index + 1 < len(chat) and not alone.startswith(text[:before]):
            # It is shown otherwise when more turns follow: look up to the text of the next one.
            position = text.find(end, before, self._find(text, chat, index + 1, tools, options, at_end=False))
            found = position + len(end) if end and position >= 0 else None
        if found is None:
            raise self._uncertain(f"where the calls of turn {index} end")
        return found

    def _find(
        self,
        text: str,
        chat: list[dict[str, Any]],
        index: int,
        tools: list[dict[str, Any]],
        options: Options,
        at_end: bool,
    ) -> int:
        """Where a turn's text starts, or where it (or the name of its last call) ends."""
        for changed in with_sentinel(chat[index], at_end):
            probe = self._render([*chat[:index], changed, *chat[index + 1 :]], tools, options)[0]
            before, found, _ = probe.partition(SENTINEL)
            if found and probe.replace(SENTINEL, "") == text:  # the name of a call may stand before its result, too
                return len(before)
        raise self._uncertain(f"turn {index} is not rendered as it stands")

    def _calls_start(
        self, text: str, chat: list[dict[str, Any]], index: int, tools: list[dict[str, Any]], options: Options
    ) -> int:
        """Where the calls of a turn start: behind its text, or where it starts if its text is not written."""
        for changed in with_sentinel({**chat[index], "tool_calls": None}, at_end=True):
            changed = {**changed, "tool_calls": chat[index]["tool_calls"]}
            probe = self._render([*chat[:index], changed, *chat[index + 1 :]], tools, options)[0]
            before, found, after = probe.partition(SENTINEL)
            if not found:
                return 0
            if before + after == text:
                return len(before)
        raise self._uncertain(f"the text of turn {index} is not rendered as it stands")
