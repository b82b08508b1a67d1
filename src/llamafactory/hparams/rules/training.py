# SPDX-License-Identifier: Apache-2.0
"""Rules of the training loop."""

from __future__ import annotations

from fnmatch import fnmatch
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from ...extras.manifest import NAME as MARKER
from ..field import require, split_list
from ..inner_settings import optimizer_settings, schedule_settings
from ..metrics import is_reported, metrics_of
from ..training_args import TrainingArguments

if TYPE_CHECKING:
    from ..args import TrainArgs


# Name -> the module that must be there. All but SwanLab report by transformers' own callbacks.
TRACKERS = {
    "tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow", "swanlab": "swanlab", "trackio": "trackio",
    "azure_ml": "azureml", "clearml": "clearml", "codecarbon": "codecarbon", "comet_ml": "comet_ml",
    "dagshub": "dagshub", "dvclive": "dvclive", "flyte": "flytekit", "neptune": "neptune",
}  # fmt: skip
# What torch.compile knows without further packages and is not there for torch's own tests; a test compares them.
COMPILERS = (
    "inductor", "eager", "aot_eager", "cudagraphs", "openxla", "tvm", "ts", "aot_ts", "aot_eager_decomp_partition",
    "aot_eager_default_partitioner", "eager_debug", "eager_noexcept", "pre_dispatch_eager", "invoke_subgraph",
    "openxla_eval",
)  # fmt: skip
_WATCHING = (("save_strategy", "best"), ("lr_scheduler_type", "reduce_lr_on_plateau"), ("lr_scheduler_type", "greedy"))


def check(args: TrainArgs) -> None:
    """Rules of the training loop."""
    training = args.training
    require(
        not (training.do_train and training.max_steps <= 0 and training.num_train_epochs <= 0),
        f"num_train_epochs: {training.num_train_epochs} trains nothing; give a positive number or max_steps",
    )
    require(not (training.bf16 and training.fp16), "bf16 and fp16: choose one of the two")
    _check_predict(args)
    _check_best_model(args)
    schedule_settings(training)
    optimizer_settings(training)
    for key in ("push_to_hub", "deepspeed"):
        both = training.async_save and bool(getattr(training, key))
        require(not both, f"async_save: not with {key}; leave one of the two out")
    _check_compiler(training.torch_compile_backend)
    _check_trackers(training.report_to)
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


def _check_best_model(args: TrainArgs) -> None:
    training, metric = args.training, args.training.metric_for_best_model
    require(
        metric is None or is_reported(metric, args),
        f"metric_for_best_model: stage {args.finetuning.stage} reports no {metric!r} here; expected one of "
        f"{', '.join(metrics_of(args))}",
    )
    for key, value in _WATCHING:
        needs = getattr(training, key) == value and training.eval_strategy == "no"
        require(not needs, f"{key}: {value} needs eval_strategy steps or epoch")
    if training.load_best_model_at_end:
        require(training.eval_strategy != "no", "load_best_model_at_end: needs eval_strategy steps or epoch")
        require(training.save_strategy != "no", "load_best_model_at_end: needs checkpoints, save_strategy is no")


def _check_compiler(backend: str | None) -> None:
    if backend is not None and backend not in COMPILERS:
        known = (*COMPILERS, *(entry.name for entry in entry_points(group="torch_dynamo_backends")))
        require(backend in known, f"torch_compile_backend: expected one of {', '.join(known)}, got {backend!r}")


def _check_trackers(given: str | list[str] | None) -> None:
    for name in given if isinstance(given, list) else split_list(given):
        require(
            name in ("none", "all", *TRACKERS),
            f"report_to: unknown tracker {name!r}; choices: none, all, {', '.join(TRACKERS)}",
        )


# What a run writes, renames over or removes there.
_WRITTEN = (
    "*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "adapter_config.json", "config.json",
    "generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "chat_template.jin*", "*processor_config.json", "README.md", "*_results.json", "trainer_*.json*",
    "training_*.png", "rollouts.jsonl", "generated_*", "checkpoint-*",
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
    for path in sorted(folder.glob("checkpoint-*")):
        strange = [] if not path.is_dir() or _is_checkpoint(path) else sorted(inner.name for inner in path.iterdir())
        require(
            not strange,
            f"output_dir: {path} holds {', '.join(strange[:3])} and is no checkpoint, and would be written over or "
            "removed; move it, or choose another output_dir",
        )
    if not training.do_train or training.overwrite_output_dir or training.resume_from_checkpoint:
        return
    if not any(folder.glob("checkpoint-*")):
        require(
            not any(folder.glob("*.safetensors")),
            f"output_dir: {folder} already holds weights; choose another folder or give overwrite_output_dir: true",
        )


def _is_checkpoint(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("trainer_state.json", "run_config.json", "checkpoint_files.json"))


def _is_same_folder(one: str | None, other: str | None) -> bool:
    paths = [Path(str(path)).expanduser() for path in (one, other)]
    return all(path.is_dir() for path in paths) and paths[0].samefile(paths[1])


def _check_resume(training: TrainingArguments) -> None:
    path = training.resume_from_checkpoint
    if path and path.lower() not in ("true", "false"):
        require(Path(path).expanduser().is_dir(), f"resume_from_checkpoint: no such folder: {path}")
