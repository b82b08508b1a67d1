# SPDX-License-Identifier: Apache-2.0
"""What every processor promises, and the count it keeps of what became of each sample."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from operator import iadd
from typing import TYPE_CHECKING, Any, Protocol

from ..prepare.overlong import Rule

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ...hparams.data_args import DataArguments
    from ..messages import Sample
    from ..template.base import Template

IGNORED = -100


@dataclass
class Tally:
    """What became of the samples of one set: ``rows = kept + cut + split + too_long + untrained + unanswered``.

    Attributes:
        rows: Samples read.
        kept: Whole in the result.
        cut: In the result with tokens missing.
        split: Became several rows.
        too_long: Left out by ``overlong: drop``.
        untrained: Left out because no token would be trained.
        unanswered: Left out because they hold no answer.
        rows_out: Rows made.
        tokens_out: Tokens in them.
        trained: Trained tokens in them.
        lost: Tokens that are in no row.
        weighted: Rows whose trained tokens do not all have weight 1.
        lengths: Tokens of each sample before anything was cut.
    """

    rows: int = 0
    kept: int = 0
    cut: int = 0
    split: int = 0
    too_long: int = 0
    untrained: int = 0
    unanswered: int = 0
    rows_out: int = 0
    tokens_out: int = 0
    trained: int = 0
    lost: int = 0
    weighted: int = 0
    lengths: array[int] = field(default_factory=lambda: array("i"))

    @property
    def dropped(self) -> int:
        """Samples that are not in the result."""
        return self.too_long + self.untrained + self.unanswered

    @classmethod
    def from_dict(cls, counts: Mapping[str, Any]) -> Tally:
        """From what was kept as JSON; the lengths are a list there."""
        return cls(**{**counts, "lengths": array("i", counts["lengths"])})

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {**vars(self), "lengths": self.lengths.tolist()}

    def add(self, other: Tally) -> None:
        """Add another count to this one."""
        for item in fields(self):
            # In place, so that the list of lengths is not copied for every batch.
            setattr(self, item.name, iadd(getattr(self, item.name), getattr(other, item.name)))

    def settle(self, length: int, rows: int, lost: int, too_long: bool) -> None:
        """Book one sample of ``length`` tokens that became ``rows`` rows, with ``lost`` tokens in none of them.

        ``too_long``: that there is no row is the doing of ``overlong: drop``.
        """
        self.rows += 1
        self.rows_out += rows
        self.lost += lost
        self.lengths.append(length)
        if rows > 1:
            self.split += 1
        elif rows == 1:
            self.cut += lost > 0
            self.kept += lost == 0
        elif too_long:
            self.too_long += 1
        else:
            self.untrained += 1


@dataclass
class Encoded:
    """Rows of features as columns (``sample``: which sample of the batch a row comes from), and the count."""

    columns: dict[str, list[Any]]
    tally: Tally


class Processor(Protocol):
    """Samples to features.

    Attributes:
        name: Name of the processor, part of the cache's key.
        default_overlong: Rule when the user gives none.
        packs: Whether packing is on when the user does not say.
    """

    name: str
    default_overlong: Rule
    packs: bool

    def encode(
        self,
        samples: Sequence[Sample],
        template: Template,
        tokenizer: PreTrainedTokenizerBase,
        args: DataArguments,
    ) -> Encoded:
        """Encode a batch of samples with one call of the tokenizer where that is possible."""
        ...
