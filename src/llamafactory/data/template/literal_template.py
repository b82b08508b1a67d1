# SPDX-License-Identifier: Apache-2.0
"""A named template: literals bound to a tokenizer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...extras.errors import ConfigError
from ...plugins import resolve
from ..media.families import MediaFamily, jinja_of, probe_family
from ..media.placement import Marks, mark_media, place
from ..messages import Message, Part, Sample
from .base import Options, Piece
from .chat_template import ChatTemplate, slots
from .encoding import EncodingTemplate
from .jinja_writer import write_jinja
from .renderer import render_pieces

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..tool_formats.json_format import JsonToolFormat

_logger = logging.getLogger(__name__)


class LiteralTemplate(EncodingTemplate):
    """A :class:`ChatTemplate` with its tool dialect, bound to a tokenizer.

    Args:
        tokenizer: Its EOS token is replaced when the family requires another one and the tokenizer has it.
        chat: The literals.
        tool_format: The dialect of tools and calls.
        default_system: Replaces the template's own default system text.
        enable_thinking: See :class:`Options`.
        preserve_thinking: See :class:`Options`.
        asked: See :class:`Options`.
    """

    tool_format: JsonToolFormat

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        chat: ChatTemplate,
        tool_format: JsonToolFormat,
        *,
        default_system: str | None = None,
        enable_thinking: bool | None = True,
        preserve_thinking: bool = False,
        asked: bool = False,
    ) -> None:
        _warn_of_missing(tokenizer, chat)
        if chat.eos is not None and tokenizer.eos_token != chat.eos and _token_id(tokenizer, chat.eos) is not None:
            _logger.info("template %s: EOS token %r replaced by %r", chat.name, tokenizer.eos_token, chat.eos)
            tokenizer.eos_token = chat.eos
        super().__init__(
            tokenizer, chat.name, enable_thinking=enable_thinking, preserve_thinking=preserve_thinking, asked=asked
        )
        if default_system is not None:
            chat = replace(chat, default_system=default_system)
        self.chat = _bind(chat, tokenizer)
        self.tool_format = tool_format
        before, _, after = slots(self.chat.assistant)
        thought = self.chat.thought
        self.thought = None if thought is None else (thought[0].strip(), thought[1].strip())
        self.has_switch = thought is not None
        self.ends = tuple(filter(None, (self.chat.end, after, tokenizer.eos_token, *self.chat.stop)))
        self.openings = tuple(filter(None, (before, self.chat.text_start)))
        for word in chat.stop:
            token = _token_id(tokenizer, word)
            if token is not None and token not in self.stop_token_ids:
                self.stop_token_ids.append(token)

    def pieces(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], options: Options) -> list[Piece]:
        return render_pieces(self.chat, self.tool_format, messages, tools, options)

    def media_pieces(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], options: Options, family: MediaFamily
    ) -> list[Piece]:
        marks, chat = Marks(), self.chat
        marked = mark_media(messages, family, chat.strip, marks)
        if family.no_system and marked != list(messages):
            if messages[0].role == "system":
                raise ConfigError(f"template {self.name}: a conversation with media cannot have a system text")
            chat = replace(chat, default_system=None)
        return place(render_pieces(chat, self.tool_format, marked, tools, options), marks)

    def media_family(self, processor: Any) -> MediaFamily:
        if self.chat.media:
            family: MediaFamily = resolve("media", self.chat.media)
            return family
        return probe_family(processor, jinja_of(processor, self.tokenizer), **self.tokenizer.special_tokens_map)

    def plain_text(self, message: Message) -> str | None:
        parts, chat = message.parts, self.chat
        if len(parts) != 1 or parts[0].type != "text" or message.tool_calls or message.reasoning is not None:
            return None
        text: str = parts[0].value
        if not text or message.role == "tool":
            return None
        if chat.strip or chat.thought is not None:
            # The renderer looks at the ends of the text, and for a thought within it.
            if text[0].isspace() or text[-1].isspace():
                return None
            if chat.thought is not None and chat.thought[1].strip() in text:
                return None
        return text

    def rewrites(self, sample: Sample) -> bool:
        chat = self.chat
        return (
            chat.thought is not None
            or (bool(sample.tools) and chat.tools_in == "before_last_user")
            or (chat.gather_system is not None and any(message.role == "system" for message in sample.messages[1:]))
        )

    def jinja(self) -> str:
        media = resolve("media", self.chat.media) if self.chat.media else None
        return write_jinja(self.chat, self.tool_format, self.options, media)

    def parse(self, text: str) -> Message:
        text = text.removeprefix(slots(self.chat.assistant)[0])
        for end in self.ends:
            text = text.removesuffix(end)
        reasoning, thought_found = "", False
        if self.thought is not None:
            opening, closing = self.thought
            if opening in text and closing not in text:  # cut off within the thought
                text += closing
            thought, _, rest = text.partition(closing)
            if closing in text and (opening in thought or not text.startswith(self.chat.text_start or opening)):
                reasoning, text, thought_found = thought.split(opening)[-1].strip("\n"), rest, True
        text = (text.lstrip("\n") if thought_found else text).removeprefix(self.chat.text_start)
        content, calls = self.tool_format.split(text)
        parts = (Part("text", content),) if content else ()
        return Message("assistant", parts, tuple(calls), reasoning or None)


def _bind(chat: ChatTemplate, tokenizer: PreTrainedTokenizerBase) -> ChatTemplate:
    bos = tokenizer.bos_token or ""
    begins = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    return chat.with_tokens(bos, tokenizer.eos_token or "", bos if begins else "")


def _warn_of_missing(tokenizer: PreTrainedTokenizerBase, chat: ChatTemplate) -> None:
    missing = [token for token in chat.special_tokens if _token_id(tokenizer, token) is None]
    if missing:
        _logger.warning(
            "template %s: the tokenizer has no token %s, so each is written as several tokens; add_special_tokens: %s",
            chat.name,
            ", ".join(missing),
            f"{','.join(missing)} adds them",
        )
    if "{{eos}}" in chat.assistant and tokenizer.eos_token is None:
        _logger.warning("template %s: the tokenizer has no EOS token, so nothing ends an answer", chat.name)


def _token_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int | None:
    """The id of a token that the tokenizer knows as one, else None."""
    found = tokenizer.convert_tokens_to_ids(token)
    return None if found is None or (found == tokenizer.unk_token_id and token != tokenizer.unk_token) else found
