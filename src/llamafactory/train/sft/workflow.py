# SPDX-License-Identifier: Apache-2.0
"""Supervised fine-tuning: conversations, loss on the responses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...data.processor import SupervisedProcessor
from ...extras.errors import ConfigError, writing
from ..stage import Stage
from ..workflow import run
from .trainer import CustomSeq2SeqTrainer

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from ...hparams import TrainArgs
    from ..trainer import Trainer


def predict(trainer: Trainer, args: TrainArgs) -> None:
    """Write ``generated_predictions.jsonl`` {prompt, predict, label}, row by row, and ``predict_results.json``."""
    sets = trainer.prompts
    if not sets:
        raise ConfigError("do_predict: there is no evaluation data; give eval_dataset or val_size")
    output_dir = Path(str(trainer.args.output_dir))
    output_dir.mkdir(parents=True, exist_ok=True)
    metrics: dict[str, float] = {}
    for name, prompts in sets.items():
        kind = f"_{name}" if name and len(sets) > 1 else ""
        path = output_dir / f"generated_predictions{kind}.jsonl"
        with writing(path):
            metrics |= trainer.score_responses(prompts, f"predict_{name}" if name else "predict", path)
    trainer.callback_handler.on_predict(trainer.args, trainer.state, trainer.control, metrics)
    trainer.report("predict", metrics)


stage = Stage("sft", SupervisedProcessor(), trainer=CustomSeq2SeqTrainer, predict=predict)


def run_sft(args: TrainArgs, callbacks: list[TrainerCallback] | None = None) -> None:
    """Run supervised fine-tuning; see :func:`llamafactory.train.workflow.run`."""
    run(stage.checked(args), callbacks)
