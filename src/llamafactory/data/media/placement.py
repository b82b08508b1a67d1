# SPDX-License-Identifier: Apache-2.0
"""Media among the text of messages: they travel through a template as marks that no text can hold."""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from ...extras.errors import ConfigError
from ..messages import Medium, Message, Part
from ..template.base import Piece
from .families import KINDS, MediaFamily


class Marks:
    """Marks that stand for texts; a new set cannot be foreseen by who writes the conversation."""

    def __init__(self) -> None:
        self._nonce = secrets.token_hex(8)
        self._texts: list[str] = []
        self._pattern = re.compile(f"\ue0f2{self._nonce}:(\\d+)\ue0f3")

    def of(self, text: str) -> str:
        """A new mark that stands for a text."""
        self._texts.append(text)
        return f"\ue0f2{self._nonce}:{len(self._texts) - 1}\ue0f3"

    def split(self, text: str) -> Iterator[tuple[str, bool]]:
        """Cut at the marks; yields the text between them, and the texts they stand for (then with True)."""
        for number, part in enumerate(self._pattern.split(text)):
            if number % 2:
                yield self._texts[int(part)], True
            elif part:
                yield part, False


def mark_media(messages: Sequence[Message], family: MediaFamily, strip: Collection[str], marks: Marks) -> list[Message]:
    """Put marks for the placeholders of media into the text of their messages.

    Args:
        messages: The conversation.
        family: Has every kind of media in it.
        strip: Roles whose text loses white space at both ends.
        marks: Gets the placeholders.
    """
    numbers = dict.fromkeys(KINDS, 0)
    out = []
    for message in messages:
        parts = message.parts
        if all(part.type == "text" for part in parts):
            out.append(message)
            continue
        pair = len(parts) == 2 and any(part.type == "text" for part in parts)
        if family.leading == "always" or (family.leading == "pair" and pair):
            parts = tuple(sorted(parts, key=lambda part: part.type == "text"))
        texts = []
        for part in parts:
            if part.type == "text":
                stripped = family.strip_parts and message.role in strip
                texts.append(part.value.strip() if stripped else part.value)
            else:
                numbers[part.type] += 1
                texts.append(marks.of(family.placeholder(part.type, numbers[part.type])))
        out.append(replace(message, parts=(Part("text", family.join.join(texts)),)))
    return out


def place(pieces: Sequence[Piece], marks: Marks) -> list[Piece]:
    """Write the placeholders in place of their marks; they are the template's, not data."""
    return [
        piece._replace(text=text, literal=piece.literal or marked)
        for piece in pieces
        for text, marked in marks.split(piece.text)
    ]


class MediaText(NamedTuple):
    """A rendered conversation for a processor.

    Attributes:
        text: Special tokens in it are the template's; those that data spells are hidden behind marks.
        marks: What they stand for.
    """

    text: str
    marks: Marks


def hide_special(pieces: Sequence[Piece], special: re.Pattern[str]) -> MediaText:
    """Join pieces to one text, in which no data looks like a special token."""
    marks = Marks()
    texts = [
        piece.text if piece.literal else special.sub(lambda found: marks.of(found.group()), piece.text)
        for piece in pieces
    ]
    return MediaText("".join(texts), marks)


def expand(pieces: Sequence[Piece], tokens: Sequence[str], expansions: Sequence[tuple[Medium, str]]) -> list[Piece]:
    """Write what stands for each medium in place of its placeholder.

    Args:
        pieces: A rendered conversation.
        tokens: What the processor expands.
        expansions: Media and their texts, in order.

    Returns:
        Pieces of media know which medium they stand for.

    Raises:
        ConfigError: There are more or fewer placeholders than media.
    """
    pattern = re.compile(f"({'|'.join(map(re.escape, sorted(tokens, key=len, reverse=True)))})")
    texts = iter(expansions)
    out: list[Piece] = []
    for piece in pieces:
        parts = pattern.split(piece.text) if piece.literal else [piece.text]
        for place, part in enumerate(parts):
            medium, text = next(texts, (None, part)) if place % 2 else (None, part)
            out.append(piece._replace(text=text, medium=medium))
    written = sum(len(pattern.findall(piece.text)) for piece in pieces if piece.literal)
    if written != len(expansions):
        raise ConfigError(f"template: {written} placeholders {' '.join(tokens)} for {len(expansions)} media")
    return out
