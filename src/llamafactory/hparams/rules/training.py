# SPDX-License-Identifier: Apache-2.0
"""Rules of the training loop."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from ...extras.manifest import NAME as MARKER
from ..field import require
from ..training_args import TrainingArguments

if TYPE_CHECKING:
    from ..args import TrainArgs


def check(args: TrainArgs) -> None:
    """Rules of the training loop."""
    training = args.training
    require(
        not (training.do_train and training.max_steps <= 0 and training.num_train_epochs <= 0),
        f"num_train_epochs: {training.num_train_epochs} trains nothing; give a positive number or max_steps",
    )
    require(not (training.bf16 and training.fp16), "bf16 and fp16: choose one of the two")
    _check_predict(args)
    _check_best_model(training)
    _check_output_dir(training)
    require(
        not training.do_train or not _is_same_folder(training.output_dir, args.model.model_name_or_path),
        f"output_dir: {training.output_dir} is the model that training starts from, and would be written over; "
        "choose another folder",
    )
    _check_resume(training)


def _check_predict(args: TrainArgs) -> None:
    training = args.training
    stage = args.finetuning.stage
    if training.predict_with_generate:
        require(stage == "sft", f"predict_with_generate: only for stage sft, not {stage}")
        require(not args.finetuning.compute_accuracy, "predict_with_generate: not together with compute_accuracy")
    if training.do_predict and stage == "sft":
        require(training.predict_with_generate, "do_predict: needs predict_with_generate: true in stage sft")


def _check_best_model(training: TrainingArguments) -> None:
    if training.load_best_model_at_end:
        require(training.eval_strategy != "no", "load_best_model_at_end: needs eval_strategy steps or epoch")
        require(training.save_strategy != "no", "load_best_model_at_end: needs checkpoints, save_strategy is no")


# What a run writes, renames over or removes there.
_WRITTEN = (
    "*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "adapter_config.json", "config.json",
    "generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "chat_template.jin*", "*processor_config.json", "README.md", "*_results.json", "trainer_*.json*",
    "training_*.png", "rollouts.jsonl", "generated_predictions*", "checkpoint-*",
)  # fmt: skip


def _check_output_dir(training: TrainingArguments) -> None:
    """Nothing that we did not make is written over, and a finished result is not trained over by accident."""
    folder = Path(str(training.output_dir)).expanduser()
    require(not folder.exists() or folder.is_dir(), f"output_dir: {folder} is a file, not a folder")
    if not folder.is_dir():
        return
    if not (folder / MARKER).is_file():
        names = sorted(path.name for path in folder.iterdir())
        strange = [name for name in names if any(fnmatch(name, pattern) for pattern in _WRITTEN)]
        # A checkpoint of ours may have been brought here to go on from.
        strange = [name for name in strange if not (folder / name / "run_config.json").is_file()]
        require(
            not strange,
            f"output_dir: {folder} holds {', '.join(strange[:3])}{' …' if strange[3:] else ''} but no {MARKER}, so it "
            "was not made by a run of this program and would be written over; choose another folder",
        )
    if not training.do_train or training.overwrite_output_dir or training.resume_from_checkpoint:
        return
    if not any(folder.glob("checkpoint-*")):
        require(
            not any(folder.glob("*.safetensors")),
            f"output_dir: {folder} already holds weights; choose another folder or give overwrite_output_dir: true",
        )


def _is_same_folder(one: str | None, other: str | None) -> bool:
    paths = [Path(str(path)).expanduser() for path in (one, other)]
    return all(path.is_dir() for path in paths) and paths[0].samefile(paths[1])


def _check_resume(training: TrainingArguments) -> None:
    path = training.resume_from_checkpoint
    if path and path.lower() not in ("true", "false"):
        require(Path(path).expanduser().is_dir(), f"resume_from_checkpoint: no such folder: {path}")
