# SPDX-License-Identifier: Apache-2.0
"""Values that follow from others: output folder, what to do, the trained model to serve, number formats. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..extras.device import Device
from ..extras.environment import is_env_enabled
from ..extras.errors import ConfigError
from ..extras.logging import get_logger
from . import deepspeed, parallelism, sharding
from .args import InferArgs, TrainArgs
from .coercion import coerce
from .reader import Flat

logger = get_logger(__name__)

# Stages whose rows are more than one sequence, or are answered.
PAIRED = ("rm", "dpo", "kto", "ppo", "grpo", "embedding", "reranker")
OWN_OPTIMIZERS = ("prodigy", "soap", "lion")  # values of `optim` that transformers does not have
ROUNDING_OPTIMIZERS = ("adamw_torch_8bit", "adamw_torch_4bit")  # of torchao; they round at random when they are told
_ACTIONS = ("do_train", "do_eval", "do_predict")


def derive_training(flat: Flat) -> dict[str, Any]:
    """Return the keys of a training run with the output folder and the action filled in.

    A run that only evaluates or predicts looks at what the same configuration has trained, as inference does.
    """
    values = dict(flat.values)
    for engine in (sharding, deepspeed):
        launched = engine.from_environment()
        if given := [key for key in launched if values.get(key)]:
            raise ConfigError(
                f"{engine.LAUNCHED}: accelerate launch says how to shard, and so does {given[0]}; choose one"
            )
        values |= launched
    values = parallelism.from_dimensions(values)
    asked = [action for action in _ACTIONS if action in values and coerce(action, values[action], bool)]
    if not asked and "do_train" not in values:
        values["do_train"] = True
    elif asked and "do_train" not in asked:
        values = _pointed_at_trained(values)
    if values.get("stage", "sft") in PAIRED and coerce("packing", values.get("packing"), bool | None):
        logger.warning_once(f"packing: left out, stage {values['stage']} has no packs")
        values["packing"] = None
    if values.get("use_ray") is None:
        values["use_ray"] = is_env_enabled("USE_RAY")
    if values.get("output_dir") is None:
        values["output_dir"] = default_output_dir(values)
    values["output_dir"] = str(Path(str(values["output_dir"])).expanduser())
    return values


def default_output_dir(values: dict[str, Any]) -> str:
    """Return ``saves/<model>/<finetuning_type>/<stage>`` for a run that names no folder."""
    model = str(values.get("model_name_or_path") or "model").rstrip("/\\")
    name = Path(model.replace("\\", "/")).name.removesuffix(".gguf")
    return str(Path("saves") / name / str(values.get("finetuning_type", "lora")) / str(values.get("stage", "sft")))


def derive_inference(flat: Flat) -> dict[str, Any]:
    """Return the keys of an inference command, pointing at what the same configuration has trained.

    Only a configuration of training (it names ``output_dir`` or ``dataset``) is looked at, and a given
    ``adapter_name_or_path``, null too, is obeyed.
    """
    values = _pointed_at_trained(dict(flat.values))
    if "adapter_name_or_path" not in values and values.get("output_dir") and values == dict(flat.values):
        _say_untrained(Path(str(values["output_dir"])).expanduser())
    return values


def _say_untrained(folder: Path) -> None:
    """The base model answers to a configuration of training: it was not run, or it was stopped."""
    saved = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    if not saved:
        logger.warning_once(f"nothing is trained in {folder} yet: this is the base model")
        return
    newest = max(saved, key=lambda path: int(path.name.rpartition("-")[2]))
    key = "adapter_name_or_path" if (newest / "adapter_config.json").is_file() else "model_name_or_path"
    logger.warning_once(f"the run in {folder} was stopped, and this is the base model; try it with {key}={newest}")


def _pointed_at_trained(values: dict[str, Any]) -> dict[str, Any]:
    if "adapter_name_or_path" in values or not values.get("model_name_or_path"):
        return values
    if not (values.get("output_dir") or values.get("dataset")):
        return values
    folder = Path(str(values.get("output_dir") or default_output_dir(values))).expanduser()
    if (folder / "adapter_config.json").is_file():
        values["adapter_name_or_path"] = str(folder)
        logger.info_once(
            f"using the adapter in {folder}, trained by this configuration (adapter_name_or_path: null = without)"
        )
    elif (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
        values["model_name_or_path"] = str(folder)
        logger.info_once(
            f"using the model in {folder}, trained by this configuration (adapter_name_or_path: null = the base)"
        )
    return values


def checkpointing_asked(args: TrainArgs) -> bool | None:
    """Return what the keys of activation checkpointing, the newer before the older one, say; None = it is left open."""
    if args.model.disable_gradient_checkpointing:
        return False
    newer = args.training.activation_checkpointing
    return args.training.gradient_checkpointing if newer is None else newer


def chosen_optimizer(args: TrainArgs) -> str | None:
    """Return the row of ``plugins.OPTIMIZERS`` that a run asks for, None for an optimizer that transformers makes."""
    switched = {
        "galore": args.galore.use_galore,
        "apollo": args.apollo.use_apollo,
        "badam": args.badam.use_badam,
        "adam_mini": args.finetuning.use_adam_mini,
        "muon": args.finetuning.use_muon,
        "rounded": args.finetuning.stochastic_rounding and not _rounds_itself(args),
        "loraplus": getattr(args.tuner, "loraplus_lr_ratio", None) is not None,
    }
    optim = args.training.optim
    own = {"galore": optim.startswith("galore_"), "apollo": optim.startswith("apollo_"), optim: optim in OWN_OPTIMIZERS}
    return next((name for name, asked in [*switched.items(), *own.items()] if asked), None)


def _rounds_itself(args: TrainArgs) -> bool:
    return args.training.optim in ROUNDING_OPTIMIZERS


@dataclass(frozen=True)
class Dtypes:
    """Number formats by torch's names.

    Attributes:
        frozen: Of weights that are not trained.
        trainable: Of weights that are.
        compute: Of matrix products.
        autocast: Whether torch's autocast brings float32 weights to ``compute``.
    """

    frozen: str
    trainable: str
    compute: str
    autocast: bool


def resolve_dtypes(args: TrainArgs | InferArgs, device: Device) -> Dtypes:
    """Choose the number formats of a run on a device.

    Raises:
        ConfigError: A format is asked for that the device has not.
    """
    if not isinstance(args, TrainArgs):
        name = _inference_dtype(args.model.infer_dtype, device)
        return Dtypes(frozen=name, trainable=name, compute=name, autocast=False)
    if args.finetuning.pure_bf16:
        _require_bf16("pure_bf16", device)
        return Dtypes("bfloat16", "bfloat16", "bfloat16", autocast=False)
    compute = _training_dtype(args, device)
    if compute == "float32":
        return Dtypes("float32", "float32", "float32", autocast=False)
    if args.finetuning.finetuning_type in ("full", "freeze"):
        return Dtypes(frozen="float32" if args.finetuning.finetuning_type == "full" else compute,
                      trainable="float32", compute=compute, autocast=True)  # fmt: skip
    return Dtypes(frozen=compute, trainable="float32", compute=compute, autocast=False)


def _training_dtype(args: TrainArgs, device: Device) -> str:
    training = args.training
    if training.bf16:
        _require_bf16("bf16", device)
        return "bfloat16"
    if training.fp16:
        if not device.fp16:
            raise ConfigError(f"fp16: {device.name} ({device.type}) cannot train in float16; leave the key out")
        return "float16"
    return "bfloat16" if training.bf16 is None and training.fp16 is None and device.bf16 else "float32"


def _require_bf16(key: str, device: Device) -> None:
    if device.bf16:
        return
    if device.type != "cpu":
        raise ConfigError(f"{key}: {device.name} has no bfloat16; use fp16: true, or leave the key out")
    # Every CPU computes bfloat16, in software if need be: obeyed, but said.
    logger.warning_once(f"{key}: this CPU computes bfloat16 in software, which is slow; leave the key out for float32")


def _inference_dtype(asked: str, device: Device) -> str:
    if asked == "auto":
        return "bfloat16" if device.bf16 else "float16" if device.fp16 else "float32"
    if asked == "bfloat16":
        _require_bf16("infer_dtype", device)
    if asked == "float16" and not device.fp16:
        raise ConfigError(f"infer_dtype: {device.name} ({device.type}) has no float16; use auto, bfloat16 or float32")
    return asked
