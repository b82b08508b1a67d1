# SPDX-License-Identifier: Apache-2.0
"""The dialect of LLaMA-Factory's v1 engine (``USE_V1=1``)."""

from __future__ import annotations

import os
from typing import Any

from ...extras.errors import ConfigError
from ...extras.launching import processes_per_node
from .rules import Absent, Aside, Dialect, NoCounterpart, Rule, Values, comma, entry_name, fixed, words

_PEFT = {
    "lora": {
        "r": "lora_rank", "rank": "lora_rank", "lora_rank": "lora_rank", "alpha": "lora_alpha",
        "lora_alpha": "lora_alpha", "dropout": "lora_dropout", "lora_dropout": "lora_dropout",
        "target_modules": "lora_target", "lora_target": "lora_target", "modules_to_save": "additional_target",
        "use_rslora": "use_rslora", "use_dora": "use_dora", "adapter_name_or_path": "adapter_name_or_path",
        "export_dir": "export_dir", "export_size": "export_size", "infer_dtype": "infer_dtype",
    },
    "freeze": {
        "freeze_trainable_layers": "freeze_trainable_layers", "freeze_trainable_modules": "freeze_trainable_modules",
        "freeze_extra_modules": "freeze_extra_modules",
    },
}  # fmt: skip
_LAYOUTS: dict[str, dict[str, Any]] = {
    "alpaca": {},
    "sharegpt": {"formatting": "sharegpt"},
    "pair": {"formatting": "sharegpt", "ranking": True},
}
# Rows in the engine's own layout are OpenAI messages.
_OWN_LAYOUT: dict[str, Any] = {"formatting": "openai", "columns": {"messages": "messages"}}
_ONLY_ULYSSES = "only Ulysses splits a sequence here"
# The engine hands the word on to transformers; "flash_attention2" stands in its own examples.
_ATTENTION = {"flash_attention_2": "fa2", "flash_attention2": "fa2", "flash_attention_3": "fa3", "eager": "disabled"}
_PAIR_COLUMNS = {"chosen": "chosen", "rejected": "rejected"}


def _section(value: Any) -> tuple[str, dict[str, Any]]:
    """The name of a plug-in and its settings."""
    if not isinstance(value, dict):
        raise TypeError
    rest = {key: inner for key, inner in value.items() if key != "name" and inner is not None}
    return str(value.get("name") or ""), rest


def _inner(rest: dict[str, Any], table: dict[str, str]) -> dict[str, Any]:
    found = {}
    for key, value in rest.items():
        if key not in table:
            raise NoCounterpart(f"its {key} has no counterpart")
        found[table[key]] = comma(value) if isinstance(value, list) else value
    return found


def _peft(value: Any, _: Values) -> Values:
    name, rest = _section(value)
    if not name:  # ours: fields of a method of PEFT
        return {"peft_config": value}
    if name not in _PEFT:
        raise NoCounterpart(f"expected one of {', '.join(_PEFT)}, got {name}")
    return {"finetuning_type": name, **_inner(rest, _PEFT[name])}


def _quantization(value: Any, _: Values) -> Values:
    name, rest = _section(value)
    if name == "auto":
        return {}
    if name != "bnb":
        raise NoCounterpart(f"expected auto or bnb, got {name}")
    table = {"quantization_bit": "quantization_bit", "quantization_type": "quantization_type",
             "double_quantization": "double_quantization", "compute_dtype": "infer_dtype"}  # fmt: skip
    return {"quantization_method": "bnb", "quantization_bit": 4, **_inner(rest, table)}


def _kernels(value: Any, _: Values) -> Values:
    name, rest = _section(value)
    wanted = str(rest.get("include_kernels", ""))
    return {"enable_liger_kernel": True} if "liger" in name + wanted else {}


def _optimizer(value: Any, _: Values) -> Values:
    name, rest = _section(value)
    if name != "muon" or rest:
        raise NoCounterpart(f"expected muon without settings, got {name} {rest or ''}".rstrip())
    return {"use_muon": True}


def _scheduler(value: Any, _: Values) -> Values:
    name, rest = _section(value)
    return {"lr_scheduler_type": name, **({"lr_scheduler_kwargs": rest} if rest else {})}


def _distribution(value: Any, _: Values) -> Values:
    name, rest = _section(value)
    found = {} if rest.pop("cp_size", 1) == 1 else {"context_parallel_size": value["cp_size"]}
    if rest.pop("cp_mode", "ulysses") != "ulysses":
        raise NoCounterpart(f"its cp_mode: {_ONLY_ULYSSES}")
    if name in ("", "ddp", "none"):
        return found
    if name == "deepspeed":
        return {"deepspeed": rest.get("config_file", rest.get("config")), **found}
    if name != "fsdp2":
        raise NoCounterpart(f"expected fsdp2 or deepspeed, got {name}")
    kind = "shard_grad_op" if rest.pop("reshard_after_forward", True) is False else "full_shard"
    offload = " offload" if rest.pop("offload_params", False) else ""
    for key in ("mixed_precision", "cpu_ram_efficient_loading", "dcp_path"):
        rest.pop(key, None)
    if rest:
        raise NoCounterpart(f"its {next(iter(rest))} has no counterpart")
    return {"fsdp": kind + offload, **found}


def processes() -> int:
    """How many processes a run has: as a worker knows, or as its launcher would start."""
    if "WORLD_SIZE" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    return int(os.environ.get("NNODES") or 1) * processes_per_node(os.environ)


def _global_batch(value: Any, whole: Values) -> Values:
    micro, world = int(whole.get("micro_batch_size") or 1), processes()
    steps, rest = divmod(int(value), micro * world)
    if rest or not steps:
        raise ConfigError(
            f"global_batch_size: {value} is no multiple of micro_batch_size {micro} times {world} "
            + ("processes" if world > 1 else "process")
        )
    return {"gradient_accumulation_steps": steps}


_BATCHING = {
    "normal": {"padding_free": False},
    "padding_free": {"padding_free": True},
    "dynamic_batching": {"packing": True},
    "dynamic_padding_free": {"packing": True},
}


def _batching(value: Any, _: Values) -> Values:
    if value not in _BATCHING:
        raise NoCounterpart(f"expected one of {', '.join(_BATCHING)}, got {value}")
    return _BATCHING[value]


def datasets(key: str) -> Rule:
    """Return the rule for a set: a hub id, a file of rows, or a YAML file that lists several."""

    def rule(value: Any, _: Values) -> Values:
        if not str(value).endswith((".yaml", ".yml")):
            return {key: str(value)}
        from ..reader import read_file

        entries: dict[str, Any] = {}
        for name, entry in read_file(str(value)).values.items():
            entries[entry_name(name, entries)] = _entry(str(value), name, entry)
        return {key: ",".join(entries), "dataset_dir": entries}

    return rule


def _entry(file: str, name: str, entry: Any) -> dict[str, Any]:
    if not isinstance(entry, dict) or "path" not in entry:
        raise ConfigError(f"{file}: {name}: expected a mapping with path")
    places = {"local": "file_name", "hf_hub": "hf_hub_url", "ms_hub": "ms_hub_url", "om_hub": "om_hub_url"}
    source, converter = entry.get("source", "hf_hub"), entry.get("converter")
    if source not in places or (converter is not None and converter not in _LAYOUTS):
        wrong, choices = (
            (f"source: {source}", places) if source not in places else (f"converter: {converter}", _LAYOUTS)
        )
        raise ConfigError(f"{file}: {name}: {wrong}; expected one of {', '.join(choices)}")
    found = {places[source]: entry["path"], **(_OWN_LAYOUT if converter is None else _LAYOUTS[converter])}
    if converter == "pair":
        found["columns"] = _PAIR_COLUMNS
    for theirs, ours in (("split", "split"), ("size", "num_samples"), ("weight", "weight")):
        if entry.get(theirs) is not None:
            found[ours] = entry[theirs]
    unknown = set(entry) - {"path", "source", "converter", "split", "size", "weight", "streaming"}
    if unknown:
        raise ConfigError(f"{file}: {name}: unknown key {sorted(unknown)[0]}")
    return found


_RULES: dict[str, Rule] = {
    "model": "model_name_or_path",
    "custom_chat_template": "template",
    "model_class": words("stage", {"llm": "sft"}),
    "init_config": Aside("weights are read straight to where they belong"),
    "peft_config": _peft,
    "kernel_config": _kernels,
    "quant_config": _quantization,
    "train_dataset": datasets("dataset"),
    "eval_dataset": datasets("eval_dataset"),
    "micro_batch_size": "per_device_train_batch_size",
    "global_batch_size": _global_batch,
    "batching_strategy": _batching,
    "batching_workers": "preprocessing_num_workers",
    "enable_activation_checkpointing": lambda value, _: {"gradient_checkpointing": bool(value)},
    "dist_config": _distribution,
    "dp_size": Aside("processes that no other dimension takes hold copies"),
    "cp_size": lambda value, _: {} if value == 1 else {"context_parallel_size": value},
    "cp_mode": fixed("ulysses", why=_ONLY_ULYSSES),
    "mp_replicate_size": lambda value, _: {} if value == 1 else {"fsdp_config": {"dp_replicate_size": value}},
    "mp_shard_size": Aside("it follows from the number of processes and mp_replicate_size"),
    "dist_timeout": "ddp_timeout",
    "optim_config": _optimizer,
    "lr_scheduler_config": _scheduler,
    "save_epochs": words("save_strategy", {1: "epoch"}),
    "save_ckpt_as_hf": Aside("checkpoints are in Hugging Face's layout always"),
    "sample_backend": words("infer_backend", {"hf": "huggingface", "vllm": "vllm", "sglang": "sglang"}),
    "flash_attn": lambda value, _: {"flash_attn": _ATTENTION.get(value, value)},
    "resume_from_checkpoint": lambda value, _: {} if value == "auto" else {"resume_from_checkpoint": value},
    "save_steps": lambda value, _: {"save_steps": value, "save_strategy": "steps"},
    "chat_template": Absent("give it as custom_chat_template"),
}


def _defaults(values: Values) -> Values:
    """What the engine does where its file says nothing."""
    is_training = any(key in values for key in ("train_dataset", "micro_batch_size", "global_batch_size", "output_dir"))
    if not is_training:
        return {"max_new_tokens": 128} if "sample_backend" in values else {}
    return {
        "stage": "sft", "do_train": True, "finetuning_type": "full", "per_device_train_batch_size": 1,
        "cutoff_len": 2048, "learning_rate": 1e-4, "num_train_epochs": 3.0, "logging_steps": 1, "bf16": True,
        **({} if "save_steps" in values or "save_epochs" in values else {"save_strategy": "no"}),
    }  # fmt: skip


_MARKS = frozenset((
    "custom_chat_template", "model_class", "init_config", "kernel_config", "quant_config", "train_dataset",
    "micro_batch_size", "global_batch_size", "batching_strategy", "batching_workers",
    "enable_activation_checkpointing", "dist_config", "dp_size", "cp_size", "cp_mode", "mp_replicate_size",
    "mp_shard_size", "dist_timeout", "optim_config", "lr_scheduler_config", "save_epochs", "save_ckpt_as_hf",
    "sample_backend",
))  # fmt: skip

dialect = Dialect(
    title="LLaMA-Factory's v1 engine",
    rules=_RULES,
    defaults=_defaults,
    marks=_MARKS,
)
