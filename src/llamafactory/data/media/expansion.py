# SPDX-License-Identifier: Apache-2.0
"""What the processor writes for the media of training rows, found without their pixels: a blank of each one's shape."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..messages import Medium
from .placement import expand
from .references import refer_to
from .shapes import Shape, blank, shape_of

if TYPE_CHECKING:
    from transformers import BatchEncoding

    from ..messages import Part
    from ..template.base import Piece
    from .encoder import MediaEncoder

# Stands between placeholders; no processor writes it.
BORDER = "\ue0f4"
_KEPT = 256  # texts that are remembered: of some media they are long


class Expander:
    """Finds what stands for media.

    Args:
        encoder: What the model makes of media.
    """

    def __init__(self, encoder: MediaEncoder) -> None:
        self.encoder = encoder
        self._known: OrderedDict[tuple[Shape, ...], list[str]] = OrderedDict()
        # What this processor writes around the tokens of an image; empty: something else than its count says.
        self._around: tuple[str, str] | tuple[()] | None = None

    def expansions(self, parts: Sequence[Part]) -> list[str]:
        """Measure the media of a conversation and find what stands for each.

        Raises:
            ConfigError: One cannot be read, or is not taken.
        """
        self.encoder.check_kinds([part.type for part in parts])
        # How many stand together may count: some processors cut only a single image into tiles.
        shapes = tuple(shape_of(part.type, part.value, self.encoder.limits) for part in parts)
        found = self._known.get(shapes)
        if found is None:
            found = self._known[shapes] = self._by_formula(shapes) or self._by_processor(shapes)
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return found

    def _by_processor(self, shapes: Sequence[Shape]) -> list[str]:
        media = [(shape.kind, blank(shape)) for shape in shapes]
        texts = Capture(self.encoder.processor.tokenizer)
        self.encoder.process([self.placeholders([shape.kind for shape in shapes])], [media], texts)
        return self.split(texts.seen[0], len(shapes))

    def _by_formula(self, shapes: Sequence[Shape]) -> list[str]:
        """The same for images alone, by the processor's own count, which looks at no pixel; empty where it has none."""
        if self._around == () or {shape.kind for shape in shapes} != {"image"}:
            return []
        counts = self.encoder.count_images([shape.size for shape in shapes])
        token = self.encoder.tokens["image"]
        if counts and self._around is None:
            before, middle, after = self._by_processor(shapes[:1])[0].partition(token * counts[0])
            self._around = (before, after) if middle and token not in after else ()
        if not counts or not self._around:
            return []
        before, after = self._around
        return [before + token * count + after for count in counts]

    def placeholders(self, kinds: Sequence[str]) -> str:
        """A text of nothing but placeholders."""
        return BORDER + "".join(self.encoder.tokens[kind] + BORDER for kind in kinds)

    def split(self, text: str, number: int) -> list[str]:
        """What became of each placeholder of such a text."""
        parts = text.split(BORDER)[1 : number + 1]
        if self.encoder.family.bare and parts:  # the processor writes BOS behind the last image
            parts[-1] = parts[-1].removesuffix(self.encoder.processor.tokenizer.bos_token)
        return parts

    def write(self, pieces: Sequence[Piece], parts: Sequence[Part], place: str) -> list[Piece]:
        """Write what stands for media into a rendered conversation, which holds one placeholder for each.

        Args:
            pieces: The conversation.
            parts: Its media, in order.
            place: File and row that name them.

        Raises:
            ConfigError: It holds more or fewer; or a medium cannot be read.
        """
        texts = self.expansions(parts)
        media = [
            Medium(number, part.type, refer_to(part.value, part.type, self.encoder.store), place)
            for number, part in enumerate(parts)
        ]
        written = expand(pieces, list(self.encoder.tokens.values()), list(zip(media, texts, strict=True)))
        return self._bos_behind(written) if self.encoder.family.bare else written

    def _bos_behind(self, pieces: list[Piece]) -> list[Piece]:
        """Move BOS from the start of a text to behind its last medium, where this processor writes it."""
        bos = self.encoder.processor.tokenizer.bos_token
        last = max((place for place, piece in enumerate(pieces) if piece.medium), default=-1)
        if last < 0 or not pieces[0].literal or not pieces[0].text.startswith(bos):
            return pieces
        first = pieces[0]._replace(text=pieces[0].text.removeprefix(bos))
        behind = pieces[last]._replace(text=bos, medium=None)
        return [first, *pieces[1 : last + 1], behind, *pieces[last + 1 :]]


class Capture:
    """The tokenizer of a processor, which keeps what it is asked to tokenize."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.seen: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, text: str | list[str], **options: Any) -> BatchEncoding:
        self.seen = [text] if isinstance(text, str) else list(text)
        return self.answer(**options)

    def answer(self, **options: Any) -> BatchEncoding:
        """The tokens of what was seen."""
        found: BatchEncoding = self._tokenizer(self.seen, add_special_tokens=False)
        return found
