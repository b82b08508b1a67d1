# SPDX-License-Identifier: Apache-2.0
"""The tensors of a batch's media: decoded when the batch is made, by the processor, for all of its rows in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from ...extras.errors import ConfigError
from ..messages import Part
from .encoder import NO_INPUTS, MediaEncoder
from .expansion import Capture, Expander
from .references import referred
from .source import MediaError

if TYPE_CHECKING:
    import torch
    from transformers import BatchEncoding

Medium = Mapping[str, Any]


class BatchMedia:
    """Makes what a model needs beside the tokens of a batch.

    Args:
        encoder: What the model makes of media.
        count: Tokens of a text that the processor wrote.
    """

    def __init__(self, encoder: MediaEncoder, count: Callable[[str], int]) -> None:
        self.encoder, self._count = encoder, count
        self._expander = Expander(encoder)

    def __call__(
        self, rows: Sequence[Any], media: Sequence[Sequence[Medium]], left: bool = False
    ) -> dict[str, torch.Tensor]:
        """Decode the media of some sequences.

        Args:
            rows: Tokens of each sequence, its media expanded: lists or arrays of integers.
            media: Those of each sequence, as the column ``media`` holds them.
            left: Fill shorter sequences on their left.

        Returns:
            What the processor gives for these sequences, but for ``input_ids`` and ``attention_mask``: tensors of media
            of all of them in order; those as long as the sequences (:func:`along_tokens`) are ``[B, L, ...]``.

        Raises:
            ConfigError: A file cannot be read, or takes another number of tokens than when its row was prepared; names
                the row.
        """
        if self.encoder.family.bare and not any(media):  # this processor refuses text alone, and has no types to give
            return {}
        kinds = {medium["type"] for some in media for medium in some}
        with self._placed(media):
            self.encoder.check_kinds(kinds)
        if self.encoder.row_by_row and "video" in kinds and len(rows) > 1:
            return self._row_by_row(rows, media)
        decoded = [[one for medium in some for one in self._decoded(medium)] for some in media]
        texts = [self._expander.placeholders([medium["type"] for medium in some]) for some in media]
        tokenizer = _Given(self.encoder.processor.tokenizer, rows, left, lambda seen: self._check(seen, media))
        with self._placed(media):
            _check_sound(decoded)
            out = self.encoder.process(texts, decoded, tokenizer)
        inputs = {name: value for name, value in out.items() if name not in NO_INPUTS}
        if any(kind == "video" and one.sound is not None for some in decoded for kind, one in some):
            inputs["use_audio_in_video"] = True
        return inputs

    @contextmanager
    def _placed(self, media: Sequence[Sequence[Medium]]) -> Iterator[None]:
        """Name a row in what is said of a whole batch: the first that has media."""
        try:
            yield
        except _Changed:
            raise
        except ConfigError as error:
            place = next((some[0]["place"] for some in media if some), None)
            raise ConfigError(f"{place}: {error}" if place else str(error)) from None

    def _row_by_row(self, rows: Sequence[Any], media: Sequence[Sequence[Medium]]) -> dict[str, torch.Tensor]:
        """The same for a processor whose tensors have no entry for rows: the media of all stand end to end."""
        import torch

        each = [self([row], [some]) for row, some in zip(rows, media, strict=True) if some]
        return {name: torch.cat([one[name] for one in each]) for name in each[0]}

    def _decoded(self, medium: Medium) -> list[tuple[str, Any]]:
        try:
            return self.encoder.read([Part(medium["type"], referred(medium["source"]))])
        except MediaError as error:
            raise ConfigError(f"{medium['place']}: {error}") from None

    def _check(self, texts: Sequence[str], media: Sequence[Sequence[Medium]]) -> None:
        """Compare what the processor wrote for the media with what was counted when their rows were prepared."""
        for text, some in zip(texts, media, strict=True):
            for written, medium in zip(self._expander.split(text, len(some)), some, strict=True):
                found = self._count(written)
                if found != medium["tokens"]:
                    raise _Changed(
                        f"{medium['place']}: {medium['type']} {medium['source']!r} took {medium['tokens']} tokens when "
                        f"the data was prepared and takes {found} now; has the file changed? set overwrite_cache: true"
                    )


def _check_sound(rows: Sequence[Sequence[tuple[str, Any]]]) -> None:
    """Refuse rows whose videos have a sound beside rows whose videos have none: models are told once for a batch."""
    heard = {
        any(one.sound is not None for one in videos) for row in rows if (videos := [v for k, v in row if k == "video"])
    }
    if len(heard) > 1:
        raise ConfigError(
            "videos with a sound and videos without stand in one batch, whose positions these models count in one way; "
            "set per_device_train_batch_size: 1, or use_audio_in_video: false"
        )


class _Changed(ConfigError):
    """A file takes another number of tokens than it did; names its own row."""


def along_tokens(name: str) -> bool:
    """Whether an input of a processor has an entry for each token, not for each medium."""
    return name.endswith("token_type_ids") or name == "cross_attention_mask"


class _Given(Capture):
    """A tokenizer that answers with tokens that are known: the processor marks media in them."""

    def __init__(self, tokenizer: Any, rows: Sequence[Any], left: bool, check: Callable[[list[str]], None]) -> None:
        super().__init__(tokenizer)
        self._rows, self._left, self._check = rows, left, check

    def answer(self, **options: Any) -> BatchEncoding:
        from transformers import BatchEncoding

        self._check(self.seen)
        length = max(map(len, self._rows))
        ids = np.full((len(self._rows), length), self._tokenizer.pad_token_id)
        mask = np.zeros_like(ids)
        for row, (target, real) in zip(self._rows, zip(ids, mask, strict=True), strict=True):
            part = slice(length - len(row), None) if self._left else slice(len(row))
            target[part], real[part] = row, 1
        data = {"input_ids": ids.tolist(), "attention_mask": mask.tolist()}
        if options.get("return_token_type_ids"):
            data["token_type_ids"] = np.zeros_like(ids).tolist()
        # Idefics asks where characters stand in the tokens, to count those of an image.
        places = None
        if self._tokenizer.is_fast:
            places = self._tokenizer.backend_tokenizer.encode_batch(self.seen, add_special_tokens=False)
        return BatchEncoding(data, encoding=places)
