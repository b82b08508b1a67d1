# SPDX-License-Identifier: Apache-2.0
"""How fast and how long to train when the user leaves it open, and whether what a run will do can teach anything."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..extras.logging import get_logger
from ..model.config import read_config
from .saving.run_config import read_run_config

if TYPE_CHECKING:
    from ..hparams import TrainArgs
    from ..hparams.training_args import TrainingArguments

logger = get_logger(__name__)

# Weights up to which a rate of AdamW is usual, for adapters and for the weights themselves: small models, and adapters,
# bear and need larger ones.
_RATES = ((0.5e9, 1e-3, 1e-4), (2e9, 5e-4, 3e-5), (9e9, 2e-4, 1e-5), (math.inf, 1e-4, 5e-6))
# Stages that compare or reward completions move a model that can write already.
_SHARE_OF_STAGE = {"pt": 1.0, "sft": 1.0, "gkd": 1.0, "rm": 0.5, "classification": 0.5}
_SHARE_OF_OTHERS = 0.05
_FEW_ROWS, _SMALL_BATCH = 512, 4
# To learn what a small set says; below the second nothing is learned. (docs/training.md has the figures.)
_STEPS, _LEAST_STEPS = 200, 30
_LOGS = 20
_MOST_EPOCHS = 15.0
_FAR = 10.0


def settle_recipe(args: TrainArgs, rows: int, world_size: int, resume: Path | None) -> tuple[TrainArgs, dict[str, Any]]:
    """Return the arguments with what the user left open, and what was chosen.

    Args:
        args: As they were read.
        rows: Of the training data, 0 if they are not known.
        world_size: Processes.
        resume: The checkpoint that the run goes on from; what it chose stays.
    """
    batch = args.training.per_device_train_batch_size if _is_given(args, "per_device_train_batch_size") else None
    usual = usual_recipe(args, rows, world_size, batch)
    if args.training.logging_strategy == "steps" and (
        args.training.eval_strategy != "steps" or args.training.eval_steps is not None
    ):
        usual["logging_steps"] = _logging_steps(replace(args.training, **_open(args, usual)), rows, world_size)
    if resume is not None:
        before = read_run_config(resume)
        usual = {key: before.get(key, value) for key, value in usual.items()}
    chosen = _open(args, usual)
    if chosen:
        said = ", ".join(f"{key} {value:g}" for key, value in chosen.items())
        how = "chosen" if resume is None else f"as in {resume.name}"
        logger.info_rank0("not in the configuration, so %s: %s", how, said)
    return replace(args, training=replace(args.training, **chosen)), chosen


def _open(args: TrainArgs, usual: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in usual.items() if not _is_given(args, key)}


def _logging_steps(training: TrainingArguments, rows: int, world_size: int) -> float:
    """Return how often to log so that a short run has a curve too."""
    batch = training.per_device_train_batch_size * training.gradient_accumulation_steps * world_size
    steps = training.max_steps if training.max_steps > 0 else training.num_train_epochs * math.ceil(rows / batch)
    return float(min(training.logging_steps, max(1, steps // _LOGS)))


def usual_recipe(args: TrainArgs, rows: int, world_size: int, batch: int | None = None) -> dict[str, Any]:
    """Return what is usual for this method, stage, model and amount of data, whatever the user says.

    Args:
        args: Of the run.
        rows: Of the training data, 0 if they are not known.
        world_size: Processes.
        batch: ``per_device_train_batch_size`` if it is decided.
    """
    training, found = args.training, {}
    if "adam" in training.optim:
        found["learning_rate"] = usual_rate(args)
    if args.finetuning.stage not in ("pt", "sft") or not rows:
        return found
    times = world_size * training.gradient_accumulation_steps
    if batch is None:
        batch = max(1, _SMALL_BATCH // times) if rows < _FEW_ROWS else training.per_device_train_batch_size
        found["per_device_train_batch_size"] = batch
    steps = math.ceil(rows / (batch * times))
    found["num_train_epochs"] = float(min(_MOST_EPOCHS, max(3, math.ceil(_STEPS / steps))))
    return found


def usual_rate(args: TrainArgs) -> float:
    """Return the usual peak learning rate of AdamW."""
    finetuning, weights = args.finetuning, count_weights(read_config(args.model))
    whole = finetuning.finetuning_type in ("full", "freeze")
    rate = next(of_whole if whole else of_adapter for most, of_adapter, of_whole in _RATES if weights <= most)
    return float(f"{rate * _SHARE_OF_STAGE.get(finetuning.stage, _SHARE_OF_OTHERS):.2g}")


def count_weights(config: Any) -> float:
    """Return about how many weights compute a token, by a model's configuration; 7e9 if it does not say."""
    text = config.get_text_config()
    hidden, layers = (getattr(text, name, None) for name in ("hidden_size", "num_hidden_layers"))
    if not hidden or not layers:
        return 7e9
    inner = (getattr(text, "intermediate_size", None) or 4 * hidden) * 3
    experts = getattr(text, "num_experts_per_tok", None)
    if experts:
        inner = (getattr(text, "moe_intermediate_size", None) or inner / 3) * 3 * experts
    return float(text.vocab_size * hidden + layers * (4 * hidden**2 + inner * hidden))


def advise(args: TrainArgs, rows: int, steps: int, world_size: int) -> str | None:
    """Return one line with the values to try if a run is too short to learn or its rate far from the usual ones."""
    training, usual = args.training, usual_recipe(args, rows, world_size)
    rate = training.learning_rate
    if "learning_rate" not in usual or rate <= 0:
        return None
    far = usual["learning_rate"] / rate
    # Adam moves a weight by about its rate in each step: half the rate needs twice the steps.
    short = args.finetuning.stage in ("pt", "sft") and steps * min(1.0, 1 / far) < _LEAST_STEPS
    if not short and abs(math.log(far)) < math.log(_FAR) + 1e-9:
        return None
    values = {"learning_rate": usual["learning_rate"]}
    if short:
        if training.max_steps > 0 and rows:  # it wins over the number of epochs
            usual["max_steps"] = _usual_steps(training, usual, rows, world_size)
        values = {key: value for key, value in usual.items() if getattr(training, key) != value}
    ways = " ".join(f"{key}={value:g}" for key, value in values.items())
    method = f"{args.finetuning.finetuning_type} in stage {args.finetuning.stage} on a model of this size"
    if short:
        return f"{steps} steps at learning_rate {rate:g} will teach little; usual for {method}: {ways or 'more rows'}"
    return f"learning_rate {rate:g} is far from what is usual for {method}; try {ways}"


def _usual_steps(training: TrainingArguments, usual: dict[str, Any], rows: int, world_size: int) -> int:
    """Return the steps of the usual epochs, which it takes out of ``usual``; never fewer than are wanted already."""
    batch = usual.get("per_device_train_batch_size", training.per_device_train_batch_size)
    an_epoch = math.ceil(rows / (batch * world_size * training.gradient_accumulation_steps))
    return max(training.max_steps, math.ceil(usual.pop("num_train_epochs") * an_epoch))


def _is_given(args: TrainArgs, key: str) -> bool:
    """Whether the user says it; an effective batch is said by either of its keys, epochs by the number of steps too."""
    if key == "num_train_epochs" and args.training.max_steps > 0:
        return True
    return key in args.keys or (key == "per_device_train_batch_size" and "gradient_accumulation_steps" in args.keys)
