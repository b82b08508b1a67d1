# SPDX-License-Identifier: Apache-2.0
"""What a finished run leaves in its folder: the model and its card; and what to type next."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...export.model_card import card_head
from ...extras.errors import ConfigError
from ...extras.files import read_json, set_usual_mode, write_atomic
from ...extras.hub import pushing
from ...extras.logging import get_logger
from ...extras.secrets import mask_values, mask_words, public_name
from ...hparams import split_list
from ...hparams.coercion import as_written
from ...hparams.next_command import next_command
from ...hparams.reader import FILE_ENDINGS
from ...hparams.stages import WITHOUT_TEXT
from ...model.adapter_config import is_live
from ...model.quantizers.record import keys_of_qat
from ...model.vllm_adapter import why_not_in_vllm
from ...plugins import resolve
from .upload import upload_run
from .weights_first import keeping_weights

if TYPE_CHECKING:
    from ...hparams import TrainArgs
    from ..trainer import Trainer

logger = get_logger(__name__)
_STAGING = ".staging-model"
# What says which model a folder holds: an adapter that stayed beside other weights would be loaded on top of them.
_OF_MODEL = (
    "*.safetensors",
    "*.safetensors.index.json",
    "adapter_config.json",
    "config.json",
    "generation_config.json",
)


def train_results(output_dir: str) -> dict[str, float]:
    """Return the figures that an earlier session left; none if it was killed before."""
    path = Path(output_dir) / "train_results.json"
    if not path.exists():
        return {}
    try:
        found: dict[str, float] = read_json(path)
    except ConfigError as error:
        logger.warning_rank0("the figures of the earlier session are lost: %s", error)
        return {}
    return found


def save_model(trainer: Trainer) -> None:
    """Write the finished model into output_dir in the place of the one before it; each file appears whole."""
    output_dir = Path(trainer.args.output_dir)
    staging = output_dir / _STAGING
    if trainer.sharding is not None:  # the first process is about to hold all weights, and nothing is trained any more
        trainer.optimizer.state.clear()
    with keeping_weights(staging):
        trainer.save_model(str(staging), _internal_call=True)
        if not trainer.args.should_save:
            return
        tuner = resolve("tuners", trainer.run_args.finetuning.finetuning_type)
        if hasattr(tuner, "save_final"):
            tuner.save_final(trainer.accelerator.unwrap_model(trainer.model), str(staging), trainer.run_args)
    written = {path.name for path in staging.iterdir()}
    for name in sorted(written):
        for file in (staging / name).iterdir() if (staging / name).is_dir() else (staging / name,):
            set_usual_mode(file)
        if (staging / name).is_dir():
            shutil.rmtree(output_dir / name, ignore_errors=True)
        os.replace(staging / name, output_dir / name)
    staging.rmdir()
    for path in [path for pattern in _OF_MODEL for path in output_dir.glob(pattern)]:
        if path.name not in written:
            path.unlink()


def create_modelcard_and_push(trainer: Trainer, metrics: dict[str, float] | None = None) -> None:
    """Write the model card, and upload the run's folder if ``push_to_hub`` asks for it; all ranks call this together.

    Args:
        trainer: Has trained and saved its model.
        metrics: Results for the card; numbers and their names.
    """
    if trainer.is_world_process_zero():
        adapter = hasattr(trainer.model, "peft_config")
        write_atomic(Path(trainer.args.output_dir) / "README.md", model_card(trainer.run_args, metrics or {}, adapter))
    if trainer.args.push_to_hub:
        with pushing("push_to_hub", trainer.args.output_dir):
            trainer._finish_current_push()
            if trainer.is_world_process_zero():
                upload_run(trainer, "End of training")


def model_card(args: TrainArgs, metrics: dict[str, float], adapter: bool) -> str:
    """Return a README.md: what was trained on what, how, and with which result."""
    sets = ", ".join(public_name(name) for name in split_list(args.data.dataset) + split_list(args.data.eval_dataset))
    tags = ["llama-factory", args.finetuning.finetuning_type, args.finetuning.stage]
    base = public_name(args.model.model_name_or_path)
    keys = "\n".join(f"- {key}: {public_name(value)}" for key, value in sorted(mask_values(args.keys).items()))
    head = card_head("peft" if adapter else "transformers", args.model.model_name_or_path, tags)
    results = "\n".join(f"| {key} | {value:.6g} |" for key, value in sorted(metrics.items()) if _is_number(value))
    return f"""{head}

# {Path(str(args.training.output_dir)).name}

{"An adapter for" if adapter else "A version of"} `{base}`, trained with stage `{args.finetuning.stage}`
({args.finetuning.finetuning_type}) on: {sets or "no named set"}.

## Results

| metric | value |
|---|---|
{results}

## Configuration

{keys}

Versions, seeds and the fingerprint of the data are in `run_manifest.json`, which stays with who trained it.
"""


def same_command(overwrites: bool) -> str:
    """Return what goes on from the last checkpoint: the same command, but that it must not begin anew."""
    if sys.argv[1:2] != ["train"]:  # started by Python code
        return "the same settings" + " with overwrite_output_dir: false" * overwrites
    words = mask_words(sys.argv[2:])
    return shlex.join(["llamafactory-cli", "train", *words, *["overwrite_output_dir=false"] * overwrites])


def next_commands(args: TrainArgs) -> str:
    """Return what to type after training: the same configuration serves chat and export (a reward model: export)."""
    words = sys.argv[2:] if sys.argv[1:2] == ["train"] else []
    output_dir = str(args.training.output_dir)
    if not words or not words[0].endswith(FILE_ENDINGS):
        words = _words_of_result(args, output_dir)  # overrides of a file stay: one of them may be the folder
    export = next_command("export", words, export_dir=_beside(output_dir), **_keys_of_export(args))
    chat = [] if args.finetuning.stage in WITHOUT_TEXT else [next_command("chat", words)]
    return "Next:\n  " + "\n  ".join([*chat, export, *([] if chat == [] else _note_of_vllm(Path(output_dir)))])


def _keys_of_export(args: TrainArgs) -> dict[str, str]:
    """With qat the export is in few bits, as the model was trained; the training rows show that it works."""
    if args.qat.qat == "none":
        return {}
    keys = keys_of_qat(args.qat.qat, args.qat.qat_group_size) | {"export_quantization_dataset": args.data.dataset}
    return {key: as_written(value) for key, value in keys.items()}


def _note_of_vllm(folder: Path) -> list[str]:
    """Say at the end of training, not when it is served, that vLLM needs the merged model."""
    file = folder / "adapter_config.json"
    why = why_not_in_vllm(read_json(file), sys.maxsize) if file.is_file() else None
    cure = "which has no merged form" if why and is_live(folder) else "so export it first"
    return [f"(vllm does not take {why}, {cure})"] if why else []


def _beside(folder: str) -> str:
    """Return a name for the export that is outside of a run's folder; ``.`` and ``..`` are called what they are."""
    path = Path(folder)
    if path.name in ("", ".."):
        return os.path.relpath(f"{os.path.realpath(folder)}-merged")
    return f"{path}-merged"


def _words_of_result(args: TrainArgs, output_dir: str) -> list[str]:
    keys = {"model_name_or_path": output_dir}
    if args.finetuning.finetuning_type not in ("full", "freeze"):
        keys = {"model_name_or_path": str(args.model.model_name_or_path), "adapter_name_or_path": output_dir}
    # Served over the weights that it was trained over.
    keys |= {key: str(args.keys[key]) for key in vars(args.quantization) if args.keys.get(key) is not None}
    if args.data.template:
        keys["template"] = args.data.template
    if args.finetuning.stage in WITHOUT_TEXT:
        keys["stage"] = args.finetuning.stage
    return [f"{key}={value}" for key, value in keys.items()]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
