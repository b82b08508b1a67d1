# SPDX-License-Identifier: Apache-2.0
"""What one training stage adds to the spine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..extras.errors import ConfigError
from .trainer import Trainer

if TYPE_CHECKING:
    from ..data.loader import DatasetModule
    from ..hparams import TrainArgs
    from ..model.heads import Head


def _never(args: TrainArgs) -> bool:
    return False


def _language_model(args: TrainArgs, dataset: DatasetModule | None) -> None:
    return None


def always(args: TrainArgs) -> bool:
    """Every run of a stage does it."""
    return True


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: As users write it.
        processor: Rows -> features, from the data room.
        head: What ``load_model`` puts on, given the configuration and (None: not known yet) the data; None = the
            language-model head.
        trainer: What differs in the loop: :class:`Trainer` or a subclass with its own ``loss_sums``.
        collator: Makes the collator of rows with several completions from that of single sequences; None = rows are
            single.
        generates: Whether a run puts the model's own completions behind its rows, so that they grow while training.
        chat: Whether the data goes through the chat template, so that it is saved with the tokenizer.
        plots: Logged keys that are drawn.
        finish: Adds to evaluation metrics, for example perplexity.
        predict: Writes predictions of the evaluation sets; None = the stage has none.
    """

    name: str
    processor: Any
    head: Callable[[TrainArgs, DatasetModule | None], Head | None] = _language_model
    trainer: type[Trainer] = Trainer
    collator: Callable[[Any], Any] | None = None
    generates: Callable[[TrainArgs], bool] = _never
    chat: bool = True
    plots: tuple[str, ...] = ("loss", "eval_loss")
    finish: Callable[[dict[str, float]], dict[str, float]] = dict
    predict: Callable[[Trainer, TrainArgs], None] | None = None

    def checked(self, args: TrainArgs) -> TrainArgs:
        """Return ``args``, which must be those of this stage."""
        if args.finetuning.stage != self.name:
            raise ConfigError(f"stage: run_{self.name} trains stage {self.name}, not {args.finetuning.stage}")
        return args
