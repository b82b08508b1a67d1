# SPDX-License-Identifier: Apache-2.0
"""What a template writes around plain messages: worked out once for each shape of conversation.

A shape is the roles and loss weights of the messages. The general renderer writes one conversation of that shape with
marks in place of the texts; what stands between the marks is then the same for every plain conversation of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from typing import TYPE_CHECKING

from ...extras.errors import ConfigError
from ..messages import Message, Role, Sample, Segment
from .base import Piece
from .text_spans import begins_answer, merge, weigh
from .word_cache import Side, Unsafe, WordBatch, WordCache

if TYPE_CHECKING:
    from collections.abc import Callable

# Private-use characters: not stripped, and in no template.
_MARK = re.compile("\ue000(\\d+)\ue001")
_MOST_SHAPES = 4096

Shape = tuple[tuple[Role, float | None], ...]


@dataclass(frozen=True)
class _Fixed:
    """Tokens that every conversation of the shape has at this place."""

    span: int
    ids: list[int]


@dataclass(frozen=True)
class _Open:
    """Text between two added tokens, of one or more spans.

    Attributes:
        spans: Numbers of the spans, ascending.
        parts: For each span what it is joined of: text, or the number of a message.
        sides: For each span.
    """

    spans: tuple[int, ...]
    parts: tuple[tuple[str | int, ...], ...]
    sides: tuple[Side, ...]


@dataclass(frozen=True)
class ShapeTokens:
    """The text spans of a shape (weight, message, begins), and how their tokens come about."""

    spans: tuple[tuple[float, int, bool], ...]
    steps: tuple[_Fixed | _Open, ...]

    def fill(self, texts: Sequence[str], batch: WordBatch) -> list[Segment] | None:
        """Give the segments of one conversation; ``None`` as long as :meth:`WordBatch.learn` is needed first.

        Raises:
            Unsafe: A text does not allow it.
        """
        out: list[list[int]] = [[] for _ in self.spans]
        complete = True
        for step in self.steps:
            if isinstance(step, _Fixed):
                out[step.span] += step.ids
                continue
            filled = ["".join([texts[part] if isinstance(part, int) else part for part in span]) for span in step.parts]
            found = batch.look_up(filled, step.sides)
            if found is None:
                complete = False
                continue
            for span, ids in zip(step.spans, found, strict=True):
                out[span] += ids
        if not complete:
            return None
        segments = [Segment(ids, *span[:2]) for ids, span in zip(out, self.spans, strict=True) if ids]
        return merge(segments) if self.is_split else segments

    @cached_property
    def is_split(self) -> bool:
        """Whether an answer begins where neither weight nor message changes: its context is trained as well."""
        return any(before[:2] == span[:2] for before, span in pairwise(self.spans))


class ShapeCache:
    """Encodes plain conversations by what is known of their shapes.

    Args:
        render: Pieces of a conversation without tools.
        read: The text of a message that the template writes as it stands, ``None`` for any other message.
        words: Encodes what stands between added tokens.
    """

    def __init__(
        self,
        render: Callable[[Sequence[Message]], list[Piece]],
        read: Callable[[Message], str | None],
        words: WordCache,
    ) -> None:
        self.render, self.read, self.words = render, read, words
        self._known: dict[tuple[Shape, bool, bool], ShapeTokens | None] = {}
        self._added = re.compile(f"({'|'.join(map(re.escape, words.added)) or '(?!)'})")

    def encode(
        self, samples: Sequence[Sample], train_on_prompt: bool, mask_history: bool
    ) -> list[list[Segment] | None]:
        """Give the segments of each sample, ``None`` for those that need the general way."""
        batch = self.words.open_batch()
        encoded: list[list[Segment] | None] = [None] * len(samples)
        waiting: list[tuple[int, list[str], ShapeTokens]] = []
        for number, sample in enumerate(samples):
            texts = self._texts(sample)
            shape = None if texts is None else self._look_up(sample.messages, train_on_prompt, mask_history)
            if texts is None or shape is None:
                continue
            try:
                encoded[number] = shape.fill(texts, batch)
            except Unsafe:
                continue
            if encoded[number] is None:
                waiting.append((number, texts, shape))
        batch.learn()
        for number, texts, shape in waiting:
            encoded[number] = shape.fill(texts, batch)
        return encoded

    def _texts(self, sample: Sample) -> list[str] | None:
        if sample.tools:
            return None
        texts = []
        for message in sample.messages:
            text = self.read(message)
            if text is None:
                return None
            texts.append(text)
        return texts

    def _look_up(self, messages: Sequence[Message], train_on_prompt: bool, mask_history: bool) -> ShapeTokens | None:
        shape = tuple([(message.role, message.weight) for message in messages])
        key, known = (shape, train_on_prompt, mask_history), self._known
        if key not in known:
            if len(known) >= _MOST_SHAPES:
                self._known = known = {}
            known[key] = self._build(shape, train_on_prompt, mask_history)
        return known[key]

    def _build(self, shape: Shape, train_on_prompt: bool, mask_history: bool) -> ShapeTokens | None:
        """Read a shape off one rendered conversation; ``None`` where it is not the same for every text."""
        marked = [
            Message.of(role, f"\ue000{number}\ue001", weight=weight) for number, (role, weight) in enumerate(shape)
        ]
        try:
            pieces = self.render(marked)
        except ConfigError:  # the general way names the row
            return None
        writer = _ShapeWriter(self.words)
        for piece, weight in weigh(pieces, marked, train_on_prompt, mask_history):
            span = writer.span(piece, weight)
            mark = _MARK.fullmatch(piece.text)
            if mark and not piece.literal:
                writer.section.append((span, int(mark.group(1))))
            elif _MARK.search(piece.text) or (not piece.literal and self._added.search(piece.text)):
                return None
            else:
                for number, text in enumerate(self._added.split(piece.text)):
                    if number % 2 == 0:
                        writer.section += [(span, text)] if text else []
                    elif self.words.stands_alone(text):
                        writer.token(span, text)
                    else:
                        return None
        writer.close()
        try:
            return ShapeTokens(tuple(writer.spans), tuple(chain.from_iterable(map(self._encode_step, writer.steps))))
        except Unsafe:  # the template itself writes what cannot be cut
            return None

    def _encode_step(self, step: _Fixed | _Open) -> list[_Fixed | _Open]:
        """Encode a step that no message has a part in."""
        if isinstance(step, _Fixed) or any(isinstance(part, int) for span in step.parts for part in span):
            return [step]
        batch, texts = self.words.open_batch(), ["".join(map(str, span)) for span in step.parts]
        while (found := batch.look_up(texts, step.sides)) is None:
            batch.learn()
        return [_Fixed(span, ids) for span, ids in zip(step.spans, found, strict=True)]


class _ShapeWriter:
    """Collects the spans and steps of a shape."""

    def __init__(self, words: WordCache) -> None:
        self.words = words
        self.spans: list[tuple[float, int, bool]] = []
        self.begun: set[int] = set()
        self.steps: list[_Fixed | _Open] = []
        self.section: list[tuple[int, str | int]] = []

    def span(self, piece: Piece, weight: float) -> int:
        """Number of the span that a piece belongs to."""
        begins = begins_answer(piece, weight, self.begun)
        if begins or not self.spans or self.spans[-1][:2] != (weight, piece.message):
            self.spans.append((weight, piece.message, begins))
        return len(self.spans) - 1

    def token(self, span: int, text: str) -> None:
        """An added token ends the section before it."""
        self.close()
        number = self.words.backend.token_to_id(text)
        assert number is not None, text
        self.steps.append(_Fixed(span, [number]))

    def close(self) -> None:
        """Make a step of the section."""
        if self.section:
            spans = tuple(dict.fromkeys(span for span, _ in self.section))
            parts = tuple(tuple(part for owner, part in self.section if owner == span) for span in spans)
            sides = [Side(weight != 0, begins) for weight, _, begins in map(self.spans.__getitem__, spans)]
            self.steps.append(_Open(spans, parts, tuple(sides)))
        self.section = []
