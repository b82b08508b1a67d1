# SPDX-License-Identifier: Apache-2.0
"""What a template writes around plain messages: worked out once for each shape of conversation.

A shape is the roles and loss weights of the messages. The general renderer writes one conversation of that shape with
marks in place of the texts; what stands between the marks is then the same for every plain conversation of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from ...extras.errors import ConfigError
from ..messages import Message, Role, Sample, Segment
from .base import Piece
from .text_spans import weigh
from .word_cache import StretchBatch, StretchEncoder, Unsafe

if TYPE_CHECKING:
    from collections.abc import Callable

# Private-use characters: not stripped, and in no template.
_MARK = re.compile("\ue000(\\d+)\ue001")
_MOST_SHAPES = 4096

Shape = tuple[tuple[Role, float | None], ...]


@dataclass(frozen=True)
class _Fixed:
    """Tokens that every conversation of the shape has at this place."""

    run: int
    ids: list[int]


@dataclass(frozen=True)
class _Open:
    """Text between two added tokens, of one or more runs.

    Attributes:
        runs: Numbers of the runs, ascending.
        parts: For each run what it is joined of: text, or the number of a message.
        trained: For each run.
    """

    runs: tuple[int, ...]
    parts: tuple[tuple[str | int, ...], ...]
    trained: tuple[bool, ...]


@dataclass(frozen=True)
class Outline:
    """The runs of a shape (weight and message), and how their tokens come about."""

    runs: tuple[tuple[float, int], ...]
    steps: tuple[_Fixed | _Open, ...]

    def fill(self, texts: Sequence[str], batch: StretchBatch) -> list[Segment] | None:
        """Give the segments of one conversation; ``None`` as long as :meth:`StretchBatch.learn` is needed first.

        Raises:
            Unsafe: A text does not allow it.
        """
        out: list[list[int]] = [[] for _ in self.runs]
        complete = True
        for step in self.steps:
            if isinstance(step, _Fixed):
                out[step.run] += step.ids
                continue
            filled = ["".join([texts[part] if isinstance(part, int) else part for part in run]) for run in step.parts]
            found = batch.look_up(filled, step.trained)
            if found is None:
                complete = False
                continue
            for run, ids in zip(step.runs, found, strict=True):
                out[run] += ids
        if not complete:
            return None
        return [Segment(ids, *run) for ids, run in zip(out, self.runs, strict=True) if ids]


class Outlines:
    """Encodes plain conversations by their outlines.

    Args:
        render: Pieces of a conversation without tools.
        read: The text of a message that the template writes as it stands, ``None`` for any other message.
        stretches: Encodes what stands between added tokens.
    """

    def __init__(
        self,
        render: Callable[[Sequence[Message]], list[Piece]],
        read: Callable[[Message], str | None],
        stretches: StretchEncoder,
    ) -> None:
        self.render, self.read, self.stretches = render, read, stretches
        self._known: dict[tuple[Shape, bool, bool], Outline | None] = {}
        self._added = re.compile(f"({'|'.join(map(re.escape, stretches.added)) or '(?!)'})")

    def encode(
        self, samples: Sequence[Sample], train_on_prompt: bool, mask_history: bool
    ) -> list[list[Segment] | None]:
        """Give the segments of each sample, ``None`` for those that need the general way."""
        batch = self.stretches.open_batch()
        encoded: list[list[Segment] | None] = [None] * len(samples)
        waiting: list[tuple[int, list[str], Outline]] = []
        for number, sample in enumerate(samples):
            texts = self._texts(sample)
            outline = None if texts is None else self._outline(sample.messages, train_on_prompt, mask_history)
            if texts is None or outline is None:
                continue
            try:
                encoded[number] = outline.fill(texts, batch)
            except Unsafe:
                continue
            if encoded[number] is None:
                waiting.append((number, texts, outline))
        batch.learn()
        for number, texts, outline in waiting:
            encoded[number] = outline.fill(texts, batch)
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

    def _outline(self, messages: Sequence[Message], train_on_prompt: bool, mask_history: bool) -> Outline | None:
        shape = tuple([(message.role, message.weight) for message in messages])
        key, known = (shape, train_on_prompt, mask_history), self._known
        if key not in known:
            if len(known) >= _MOST_SHAPES:
                self._known = known = {}
            known[key] = self._make(shape, train_on_prompt, mask_history)
        return known[key]

    def _make(self, shape: Shape, train_on_prompt: bool, mask_history: bool) -> Outline | None:
        """Read an outline off one rendered conversation; ``None`` where it is not the same for every text."""
        marked = [
            Message.of(role, f"\ue000{number}\ue001", weight=weight) for number, (role, weight) in enumerate(shape)
        ]
        try:
            pieces = self.render(marked)
        except ConfigError:  # the general way names the row
            return None
        writer = _OutlineWriter(self.stretches)
        for piece, weight in weigh(pieces, marked, train_on_prompt, mask_history):
            run = writer.run(weight, piece.message)
            mark = _MARK.fullmatch(piece.text)
            if mark and not piece.literal:
                writer.section.append((run, int(mark.group(1))))
            elif _MARK.search(piece.text) or (not piece.literal and self._added.search(piece.text)):
                return None
            else:
                for number, text in enumerate(self._added.split(piece.text)):
                    if number % 2 == 0:
                        writer.section += [(run, text)] if text else []
                    elif self.stretches.stands_alone(text):
                        writer.token(run, text)
                    else:
                        return None
        writer.close()
        try:
            return Outline(tuple(writer.runs), tuple(chain.from_iterable(map(self._settle, writer.steps))))
        except Unsafe:  # the template itself writes what cannot be cut
            return None

    def _settle(self, step: _Fixed | _Open) -> list[_Fixed | _Open]:
        """Encode a step that no message has a part in."""
        if isinstance(step, _Fixed) or any(isinstance(part, int) for run in step.parts for part in run):
            return [step]
        batch, texts = self.stretches.open_batch(), ["".join(map(str, run)) for run in step.parts]
        while (found := batch.look_up(texts, step.trained)) is None:
            batch.learn()
        return [_Fixed(run, ids) for run, ids in zip(step.runs, found, strict=True)]


class _OutlineWriter:
    """Collects the runs and steps of an outline."""

    def __init__(self, stretches: StretchEncoder) -> None:
        self.stretches = stretches
        self.runs: list[tuple[float, int]] = []
        self.steps: list[_Fixed | _Open] = []
        self.section: list[tuple[int, str | int]] = []

    def run(self, weight: float, message: int) -> int:
        """Number of the run that a piece belongs to."""
        if not self.runs or self.runs[-1] != (weight, message):
            self.runs.append((weight, message))
        return len(self.runs) - 1

    def token(self, run: int, text: str) -> None:
        """An added token ends the section before it."""
        self.close()
        number = self.stretches.backend.token_to_id(text)
        assert number is not None, text
        self.steps.append(_Fixed(run, [number]))

    def close(self) -> None:
        """Make a step of the section."""
        if self.section:
            runs = tuple(dict.fromkeys(run for run, _ in self.section))
            parts = tuple(tuple(part for owner, part in self.section if owner == run) for run in runs)
            self.steps.append(_Open(runs, parts, tuple(self.runs[run][0] != 0 for run in runs)))
        self.section = []
