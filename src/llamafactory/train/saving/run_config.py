# SPDX-License-Identifier: Apache-2.0
"""The configuration that a checkpoint was made with, and what of it a resumed run may change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...extras.device import probe
from ...extras.errors import ConfigError, in_one_line
from ...extras.file_list import digest
from ...extras.files import read_json, write_json
from ...extras.logging import get_logger, is_rank0
from ...hparams import resolve_dtypes, split_list, to_dict

if TYPE_CHECKING:
    from ...hparams import InferArgs, TrainArgs
    from ...hparams.data_args import DataArguments

logger = get_logger(__name__)
NAME = "run_config.json"

# Sections that shape the weights; some stages do not read all of them.
_SECTIONS = (
    "kt", "megatron", "badam", "apollo", "galore", "fp8", "qat", "quantization", "media", "model", "data", "finetuning",
    "tuner", "training",
)  # fmt: skip
_OF_PREFERENCES = ("rm", "dpo", "kto", "ppo", "grpo", "gkd")
_OF_ROLLOUTS = ("ppo", "grpo")

# What may differ: where a run goes, how long, what it shows and keeps, on which devices and how fast it computes.
_FREE = (
    "output_dir", "overwrite_output_dir", "do_*", "resume_*", "on_nonfinite", "num_train_epochs", "max_steps",
    "auto_find_batch_size", "log_*", "logging_*", "disable_tqdm", "include_*", "report_to", "run_name", "project",
    "trackio_*", "skip_memory_metrics", "debug", "plot_loss", "compute_accuracy", "channel_loss", "print_param_status",
    "eval_*", "per_device_eval_batch_size", "batch_eval_metrics", "prediction_loss_only", "predict_with_generate",
    "generation_*", "sortish_sampler", "load_best_model_at_end", "early_stopping_steps", "val_size_*", "*_full_eval",
    "loss_watchdog_*", "generate_samples",
    "save_*", "async_save", "enable_jit_checkpoint", "restore_callback_states_from_checkpoint",
    "push_to_hub", "hub_*", "*_hub_token", "dataloader_num_workers", "dataloader_p*",
    "dataloader_in_order", "dataloader_multiprocessing_context",
    "remove_unused_columns", "label_names", "length_column_name", "average_tokens_across_devices",
    "ddp_*", "local_rank", "context_parallel_size", "fsdp", "fsdp_config", "deepspeed", "accelerator_config",
    "parallelism_config", "use_cpu", "tf32",
    "*gradient_checkpointing*", "activation_checkpointing*", "torch_*", "use_cache", "use_reentrant_gc",
    "use_unsloth_gc", "*liger_kernel*", "use_v1_kernels", "flash_attn", "full_determinism", "low_cpu_mem_usage",
    "upcast_lmhead_output", "trust_remote_code", "offload_folder", "use_kv_cache", "max_batch_size", "infer_*",
    "lora_modules", "adapter_folder", "cache_dir", "preprocessing_*", "overwrite_cache", "data_shared_file_system",
    "ignore_pad_token_for_loss", "padding_free", "report_format", "preview_*", "messages", "cache_ref_log_probs",
    "share_prompt", "rollout_engine", "rollout_batch_size", "threads", "activation_offload",
    "activation_keep", "stream_layers",
)  # fmt: skip
# Tensors of the checkpoint would not fit, or would be added to another model.
_FIXED = (
    "stage", "finetuning_type", "base_model", "model_name_or_path", "model_revision", "adapter_name_or_path",
    "train_from_scratch", "mixture_of_depths", "add_tokens", "add_special_tokens", "new_special_tokens_config",
    "init_special_tokens", "resize_vocab", "use_llama_pro", "freeze_*", "quantization_*", "double_quantization",
)  # fmt: skip
# The rollout in a checkpoint of these stages has its size.
_OF_BUFFER = (
    "per_device_train_batch_size", "gradient_accumulation_steps", "world_size", "num_generations", "num_iterations",
    "ppo_buffer_size", "ppo_epochs",
)  # fmt: skip
_FREE_OF_TUNER = ("lora_alpha", "lora_dropout", "use_rslora", "loraplus_*", "pissa_convert")
# The optimizer's state would mean something else.
_OF_OPTIMIZER = (
    "optim*", "loraplus_*", "use_adam_mini", "use_muon", "use_galore", "use_apollo", "use_badam", "galore_*",
    "apollo_*", "badam_*", "stochastic_rounding",
)  # fmt: skip
_OF_SCHEDULE = ("lr_scheduler_*",)
# What these amount to is compared in their place: one may be written in many ways.
_AMOUNTS = {
    "training_data": ("dataset", "dataset_dir", "columns", "media_dir", "tokenized_path"),
    "base_model": ("model_name_or_path", "model_revision", "adapter_name_or_path"),
    "effective_batch": ("per_device_train_batch_size", "gradient_accumulation_steps", "world_size"),
    "number_formats": ("bf16", "fp16", "pure_bf16"),
}
_SHAPE_DATA = (
    "seed", "template", "tool_format", "default_system", "enable_thinking", "preserve_thinking", "thoughts",
    "cutoff_len", "overlong", "train_on_prompt", "mask_history", "train_on_turn_break", "parse_special_tokens",
    "packing", "neat_packing", "max_samples",
    "mix_strategy", "interleave_probs", "val_size", "deduplicate", "streaming", "stage",
)  # fmt: skip


@dataclass(frozen=True)
class Change:
    """One setting of the checkpoint and of now."""

    key: str
    before: Any
    now: Any


@dataclass(frozen=True)
class Start:
    """Where a run begins.

    Attributes:
        config: From :func:`run_config`; its checkpoints keep it.
        checkpoint: Where it goes on, None = from the first step.
        changes: What it does otherwise than the checkpoint.
    """

    config: dict[str, Any]
    checkpoint: Path | None = None
    changes: tuple[Change, ...] = ()

    @property
    def new_optimizer(self) -> bool:
        """Whether the optimizer's state would mean something else."""
        return any(_matches(change.key, _OF_OPTIMIZER) for change in self.changes)

    @property
    def new_schedule(self) -> bool:
        """Whether the learning-rate schedule is another one, its base rate apart."""
        return any(_matches(change.key, _OF_SCHEDULE) for change in self.changes)

    def shift(self, steps_an_epoch: int) -> int:
        """Return how many steps more were done than it takes today to come to the same row.

        With another batch, or other data, an epoch has another number of steps.
        """
        before = read_run_config(self.checkpoint) if self.checkpoint else {}
        if before.get("steps_an_epoch", steps_an_epoch) == steps_an_epoch:
            return int(before.get("shift", 0))
        file = Path(str(self.checkpoint)) / "trainer_state.json"
        state = read_json(file, dict, "resume_from_checkpoint")
        with in_one_line(f"resume_from_checkpoint: {file}"):
            place = int(state["epoch"] * steps_an_epoch + 1e-6)
        logger.warning_rank0(
            "an epoch has %d steps instead of %d; going on in epoch %d, step %d",
            *(steps_an_epoch, before["steps_an_epoch"], place // steps_an_epoch + 1, place % steps_an_epoch + 1),
        )
        return int(state["global_step"]) - place


def run_config(args: TrainArgs, data: DataArguments, fingerprint: str, world_size: int) -> dict[str, Any]:
    """Return the resolved configuration of a run, by flat key, with what decides whether it can go on.

    Args:
        args: The run's.
        data: Its data section, with what the stage decides resolved.
        fingerprint: Of the training data.
        world_size: Processes, or groups of them that share each row.
    """
    stage, training = args.finetuning.stage, args.training
    more = ("rlhf",) * (stage in _OF_PREFERENCES) + ("generating",) * (stage in (*_OF_ROLLOUTS, "gkd"))
    sections = to_dict(replace(args, data=data))
    keys = {key: value for name in (*more, *_SECTIONS) for key, value in (sections.get(name) or {}).items()}
    batch = training.per_device_train_batch_size * training.gradient_accumulation_steps * world_size
    amounts = {
        "training_data": fingerprint,
        "base_model": _weights_digest(args),
        "effective_batch": batch,
        "number_formats": str(resolve_dtypes(args, probe(training.use_cpu))),
        "world_size": world_size,
    }
    whole: dict[str, Any] = json.loads(json.dumps(keys | amounts, default=str))
    return {**whole, "tuner_keys": sorted(sections.get("tuner") or {})}


def write_run_config(folder: Path, config: Mapping[str, Any], steps_an_epoch: int, shift: int) -> None:
    """Write it into a checkpoint, with what :meth:`Start.shift` needs."""
    write_json(folder / NAME, {**config, "steps_an_epoch": steps_an_epoch, "shift": shift})


def find_changes(checkpoint: Path, config: Mapping[str, Any]) -> list[Change]:
    """Return the settings that differ from a checkpoint's and shape the weights."""
    before = read_run_config(checkpoint)
    if not before:
        logger.warning_rank0("%s has no %s: whether the settings are still the same cannot be seen", checkpoint, NAME)
    differing = {key for key in before.keys() & config.keys() - {"tuner_keys"} if before[key] != config[key]}
    for amount, keys in _AMOUNTS.items():
        differing -= _explained(amount, set(keys), before, config)
    differing -= {key for key in differing if _matches(key, _FREE)}
    return [Change(key, before[key], config[key]) for key in config if key in differing]


def read_run_config(checkpoint: Path) -> dict[str, Any]:
    """Read what :func:`write_run_config` wrote; nothing if the checkpoint has none.

    Raises:
        ConfigError: The file is damaged.
    """
    path = checkpoint / NAME
    found: dict[str, Any] = read_json(path, dict, "resume_from_checkpoint") if path.is_file() else {}
    return found


def _explained(amount: str, keys: set[str], before: Mapping[str, Any], now: Mapping[str, Any]) -> set[str]:
    """Return what need not be said: the keys if they amount to the same, else the amount if a key says it."""
    known = before.get(amount) and now.get(amount)
    if known and before[amount] == now[amount]:
        return keys
    saying = keys | set(_SHAPE_DATA) if amount == "training_data" else keys
    says = any(before.get(key) != now.get(key) for key in saying)
    return {amount} if says or not known or amount == "number_formats" else set()


def check_start(config: dict[str, Any], checkpoint: Path | None, allowed: bool) -> Start:
    """Return where a run begins; what it changes is said in a table.

    Args:
        config: From :func:`run_config`.
        checkpoint: Where it goes on, if anywhere.
        allowed: ``resume_changed``.

    Raises:
        ConfigError: A change is not allowed, or the checkpoint's tensors do not fit it.
    """
    changes = find_changes(checkpoint, config) if checkpoint else []
    if checkpoint and changes:
        if is_rank0():
            _show(checkpoint, changes)
        fixed = [change.key for change in changes if _is_fixed(change.key, config)]
        if fixed or not allowed:
            raise _refusal(checkpoint, fixed, [change.key for change in changes], config["finetuning_type"])
    return Start(config, checkpoint, tuple(changes))


def _refusal(checkpoint: Path, fixed: list[str], changed: list[str], finetuning_type: str) -> ConfigError:
    anew = f"another output_dir, where {_beginning(checkpoint, finetuning_type)} begins a new run from its weights"
    ways = f"keep what it was, or choose {anew}"
    if fixed:
        return ConfigError(f"resume_from_checkpoint: {checkpoint} does not fit another {', '.join(fixed)}; {ways}")
    return ConfigError(
        f"resume_from_checkpoint: {checkpoint} was made with another {', '.join(changed)}; "
        f"resume_changed: true goes on with the new one; or {ways}"
    )


def _beginning(checkpoint: Path, finetuning_type: str) -> str:
    """Return what a new run names to begin from a checkpoint, by what the checkpoint holds."""
    if not (checkpoint / "adapter_config.json").is_file():
        return f"model_name_or_path: {checkpoint}"
    if finetuning_type in ("full", "freeze"):
        return f"model_name_or_path: an export of the adapter {checkpoint}"
    return f"adapter_name_or_path: {checkpoint}"


def _is_fixed(key: str, config: Mapping[str, Any]) -> bool:
    of_tuner = key in config["tuner_keys"] and not _matches(key, _FREE_OF_TUNER)
    drawn = key == "seed" and config.get("pissa_init")  # the base that PiSSA leaves depends on it
    rolled = config["stage"] in _OF_ROLLOUTS and key in _OF_BUFFER
    return of_tuner or bool(drawn) or rolled or _matches(key, _FIXED)


def _matches(key: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(key, pattern) for pattern in patterns)


def _show(checkpoint: Path, changes: list[Change]) -> None:
    """Print the changes to stderr."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Changed settings", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("key", checkpoint.name, "now"):
        table.add_column(name, overflow="fold")
    for change in changes:
        table.add_row(change.key, _text(change.before), _text(change.now))
    console = Console(stderr=True, markup=False, highlight=False)
    if not console.is_terminal:
        console.width = 120  # a log file has no width of its own
    console.print(table)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _weights_digest(args: InferArgs) -> str:
    """Return a hash of the model and adapters that training starts from; "" if they are not all local folders."""
    names = [str(args.model.model_name_or_path), *split_list(args.model.adapter_name_or_path)]
    folders = [Path(name).expanduser() for name in names]
    if not all(folder.is_dir() for folder in folders):
        return ""
    files = [path for folder in folders for path in sorted(folder.iterdir()) if _is_of_model(path)]
    return hashlib.blake2b("\0".join(map(digest, files)).encode(), digest_size=16).hexdigest()


def _is_of_model(path: Path) -> bool:
    return path.suffix in (".safetensors", ".bin", ".gguf") or path.name in ("config.json", "adapter_config.json")
