# SPDX-License-Identifier: Apache-2.0
"""The dialect of ms-swift (4.6): https://swift.readthedocs.io/en/latest/Instruction/Command-line-parameters.html."""

from __future__ import annotations

import json
import math
from typing import Any

from .rules import Absent, Aside, Dialect, NoCounterpart, Rule, Values, comma, entry_name, fixed, listed, when, words
from .v1 import processes

_FILES = (".json", ".jsonl", ".csv", ".parquet", ".arrow", ".txt")


def _sets(key: str) -> Rule:
    """Sets as ``[HF::|MS::]id_or_path[:subset][#rows]``."""

    def rule(value: Any, whole: Values) -> Values:
        entries: dict[str, Any] = {}
        names: list[str] = []
        renamed = _columns(whole.get("columns"))
        for text in value if isinstance(value, list) else str(value).split():
            path, _, count = str(text).partition("#")
            hub = "hf_hub_url" if whole.get("use_hf") else "ms_hub_url"
            if path[:4].upper() in ("HF::", "MS::"):
                hub, path = {"H": "hf_hub_url", "M": "ms_hub_url"}[path[0].upper()], path[4:]
            is_file = path.endswith(_FILES) or path.startswith(("./", "/", "../"))
            path, subset = (path, "") if is_file else (path.partition(":")[0], path.partition(":")[2])
            if "/" in subset or subset == "all":
                raise NoCounterpart("several subsets of a set; write a set for each")
            entry: dict[str, Any] = {"file_name" if is_file else hub: path}
            entry |= {"subset": subset} if subset else {}
            entry |= {"num_samples": int(count)} if count else {}
            if list(entry) == ["file_name"] and not renamed:  # its layout is looked for, here as there
                names.append(path)
                continue
            names.append(entry_name(path, entries))
            entries[names[-1]] = entry | _layout(renamed)
        return {key: ",".join(names), **({"dataset_dir": entries} if entries else {})}

    return rule


def _columns(value: Any) -> dict[str, str]:
    """Our part of a row -> its column; theirs is a mapping of columns to parts."""
    given = json.loads(value) if isinstance(value, str) else value or {}
    parts = {"query": "prompt", "instruction": "prompt", "response": "response", "output": "response",
             "system": "system", "messages": "messages", "conversations": "messages", "tools": "tools",
             "images": "images", "videos": "videos", "audios": "audios", "rejected_response": "rejected",
             "label": "kto_tag", "history": "history", "input": "query"}  # fmt: skip
    unknown = [part for part in given.values() if part not in parts]
    if unknown:
        raise NoCounterpart(f"its part {unknown[0]} of a row has no counterpart")
    return {parts[part]: column for column, part in given.items()}


def _layout(columns: dict[str, str]) -> dict[str, Any]:
    if not columns:
        return {"formatting": "openai", "columns": {"messages": "messages"}}
    found: dict[str, Any] = {"columns": columns}
    if "messages" in columns:
        found["formatting"] = "openai"
    if "rejected" in columns:
        found |= {"ranking": True, "columns": {**columns, "chosen": columns.get("response", "response")}}
    return found


def _kind(value: Any, whole: Values) -> Values:
    kinds: dict[str, dict[str, Any]] = {
        "lora": {"finetuning_type": "lora"}, "full": {"finetuning_type": "full"},
        "longlora": {"finetuning_type": "lora", "shift_attn": True}, "adalora": {"finetuning_type": "adalora"},
        "vera": {"finetuning_type": "vera"}, "boft": {"finetuning_type": "boft"},
        "fourierft": {"finetuning_type": "fourierft"},
    }  # fmt: skip
    if value not in kinds:
        raise NoCounterpart(f"{value}: docs/methods.md lists the methods here")
    return kinds[value]


_RLHF: dict[str, dict[str, Any]] = {
    "dpo": {"stage": "dpo"},
    "orpo": {"stage": "dpo", "pref_loss": "orpo"},
    "simpo": {"stage": "dpo", "pref_loss": "simpo"},
    "kto": {"stage": "kto"},
    "rm": {"stage": "rm"},
    "ppo": {"stage": "ppo"},
    "grpo": {"stage": "grpo"},
}
_BETAS = {"simpo": 2.0, "grpo": 0.04}


def _rlhf(value: Any, whole: Values) -> Values:
    if value not in _RLHF:
        raise NoCounterpart(f"expected one of {', '.join(_RLHF)}, got {value}")
    found = dict(_RLHF[value])
    beta = whole.get("beta")
    if value in ("dpo", "orpo", "simpo", "kto"):
        found["pref_beta"] = _BETAS.get(value, 0.1) if beta is None else beta
        found["simpo_gamma"] = whole.get("simpo_gamma", 1.0)
        found["pref_loss"] = found.get("pref_loss", whole.get("loss_type") or "sigmoid")
    if value != "simpo":
        found.pop("simpo_gamma", None)
    if value == "kto":
        found.pop("pref_loss", None)
    if value == "grpo":
        found["beta"] = _BETAS["grpo"] if beta is None else beta
        found |= {"loss_type": whole["loss_type"]} if whole.get("loss_type") else {}
    return found


def _of_rlhf(value: Any, whole: Values) -> Values:
    if "rlhf_type" not in whole:
        raise NoCounterpart("it belongs to rlhf_type, which is not given")
    return {}


def _targets(value: Any, _: Values) -> Values:
    text = comma(value)
    return {"lora_target": "all" if text in ("all-linear", "ALL") else text}


def _system(value: Any, _: Values) -> Values:
    if str(value).endswith(".txt"):
        raise NoCounterpart("write the text itself into default_system")
    return {"default_system": value}


def _scale(value: Any, whole: Values) -> Values:
    kinds: dict[str, dict[str, Any]] = {
        "default": {}, "last_round": {} if whole.get("rlhf_type") else {"mask_history": True},
        "all": {"train_on_prompt": True}, "ignore_empty_think": {},
        "last_round_with_ignore_empty_think": {"mask_history": True},
    }  # fmt: skip
    if value not in kinds:
        raise NoCounterpart(f"{value}: a weight of its own in each message is what rows can have here")
    return kinds[value]


def _init(value: Any, _: Values) -> Values:
    text = str(value).lower()
    if text.startswith("pissa"):
        return {"pissa_init": True, **({"pissa_iter": int(text[12:])} if text.startswith("pissa_niter_") else {})}
    known = {"true": "default", "gaussian": "gaussian", "olora": "olora", "loftq": "loftq", "lora-ga": "lora_ga",
             "eva": "eva", "orthogonal": "orthogonal", "corda": "corda"}  # fmt: skip
    if text not in known:
        raise NoCounterpart(f"{value}: see lora_init")
    return {} if text == "true" else {"lora_init": known[text]}


def _deepspeed(value: Any, _: Values) -> Values:
    ready = {"zero0": "ds_z0_config", "zero2": "ds_z2_config", "zero2_offload": "ds_z2_offload_config",
             "zero3": "ds_z3_config", "zero3_offload": "ds_z3_offload_config"}  # fmt: skip
    if value in ready:
        return {"deepspeed": f"examples/deepspeed/{ready[value]}.json"}
    if value == "zero1":
        raise NoCounterpart("write a file of stage 1, or take zero2")
    return {"deepspeed": value}


def _dtype(value: Any, _: Values) -> Values:
    # Their weights are held in this format. Full fine-tuning in it alone is pure_bf16.
    kinds: dict[str, dict[str, Any]] = {"bfloat16": {"bf16": True}, "float16": {"fp16": True}, "float32": {}}
    if value not in kinds:
        raise NoCounterpart(f"expected one of {', '.join(kinds)}, got {value}")
    return kinds[value]


_RULES: dict[str, Rule] = {
    # model
    "model": "model_name_or_path",
    "model_id_or_path": "model_name_or_path",
    "model_type": Aside("the model's files say it"),
    "torch_dtype": _dtype,
    "attn_impl": words(
        "flash_attn",
        {
            "flash_attn": "fa2",
            "flash_attention_2": "fa2",
            "flash_attention_3": "fa3",
            "sdpa": "sdpa",
            "eager": "disabled",
        },
    ),
    "use_hf": lambda value, _: {"hub": "huggingface" if value else "modelscope"},
    "hub_token": lambda value, whole: {"hf_hub_token" if whole.get("use_hf") else "ms_hub_token": value},
    "device_map": Aside("placement follows from the number of processes"),
    "task_type": fixed("causal_lm", why="see stage"),
    "new_special_tokens": listed("add_special_tokens"),
    "quant_method": words(
        "quantization_method", {"bnb": "bnb", "hqq": "hqq", "eetq": "eetq", "quanto": "quanto", "fp8": "fp8"}
    ),
    "quant_bits": "quantization_bit",
    "bnb_4bit_quant_type": "quantization_type",
    "bnb_4bit_use_double_quant": "double_quantization",
    "bnb_4bit_compute_dtype": Aside("it follows bf16 and fp16"),
    "bnb_4bit_quant_storage": Aside("it is chosen here"),
    "adapters": listed("adapter_name_or_path"),
    "use_liger_kernel": "enable_liger_kernel",
    # method
    "tuner_type": _kind,
    "train_type": _kind,
    "sft_type": _kind,
    "tuner_backend": fixed("peft", why="see use_unsloth_gc"),
    "target_modules": _targets,
    "target_regex": Absent("lora_target takes a regular expression too"),
    "modules_to_save": listed("additional_target"),
    "init_weights": _init,
    "lora_bias": lambda value, _: {} if value == "none" else {"peft_config": {"bias": value}},
    "lora_dtype": Aside("adapters are held in float32 or in the number format of pure_bf16"),
    "lorap_lr_ratio": "loraplus_lr_ratio",
    "freeze_llm": "freeze_language_model",
    "freeze_vit": "freeze_vision_tower",
    "freeze_aligner": "freeze_multi_modal_projector",
    "vit_lr": "vision_tower_lr",
    "aligner_lr": "projector_lr",
    "galore_target_modules": listed("galore_target"),
    "galore_update_proj_gap": "galore_update_interval",
    "lisa_activated_layers": Absent("see docs/methods.md for LISA"),
    "rlhf_type": _rlhf,
    "beta": _of_rlhf,
    "simpo_gamma": _of_rlhf,
    "loss_type": _of_rlhf,
    "label_smoothing": "dpo_label_smoothing",
    "rpo_alpha": "pref_ftx",
    "cpo_alpha": fixed(0, 0.0, why="SimPO here has no part of supervised loss but pref_ftx"),
    "desirable_weight": "kto_chosen_weight",
    "undesirable_weight": "kto_rejected_weight",
    "ref_adapters": listed("ref_model_adapters"),
    "reward_adapters": listed("reward_model_adapters"),
    "max_completion_length": "max_new_tokens",
    "reward_funcs": listed("reward_funcs"),
    "reward_weights": listed("reward_weights"),
    "use_vllm": when(rollout_engine="vllm"),
    "vllm_gpu_memory_utilization": "vllm_gpu_util",
    "vllm_max_model_len": "vllm_maxlen",
    "scale_rewards": lambda value, _: {
        "scale_rewards": {True: "group", False: "none", "true": "group", "false": "none"}.get(value, value)
    },
    "log_completions": Aside("rollouts are written beside the log"),
    "enable_dft_loss": "use_dft_loss",
    "enable_channel_loss": "channel_loss",
    "router_aux_loss_coef": lambda value, _: {"moe_aux_loss_coef": value} if value else {},
    # data
    "dataset": _sets("dataset"),
    "val_dataset": _sets("eval_dataset"),
    "columns": lambda value, whole: {},  # read by the sets
    "split_dataset_ratio": lambda value, _: {"val_size": value} if value else {},
    "dataset_num_proc": "preprocessing_num_workers",
    "load_from_cache_file": lambda value, _: {} if value else {"overwrite_cache": True},
    "dataset_shuffle": lambda value, _: {} if value else {"disable_shuffling": True},
    "train_dataloader_shuffle": lambda value, _: {} if value else {"disable_shuffling": True},
    "val_dataset_shuffle": Aside("the order of evaluation rows changes nothing"),
    "shuffle_buffer_size": "buffer_size",
    "interleave_prob": lambda value, _: {"interleave_probs": comma(value), "mix_strategy": "interleave_under"},
    "stopping_strategy": words(
        "mix_strategy", {"first_exhausted": "interleave_under", "all_exhausted": "interleave_over"}
    ),
    "strict": Aside("broken rows are never left out in silence"),
    "lazy_tokenize": Aside("media are decoded while training, text is tokenized before"),
    "model_name": Absent("{{NAME}} in rows: replace it in the file (data/identity.json)"),
    "model_author": Absent("{{AUTHOR}} in rows: replace it in the file (data/identity.json)"),
    "custom_dataset_info": Absent("see dataset_info.json (docs/data.md)"),
    "template": lambda value, _: {} if value in ("default", "") else {"template": str(value).replace("-", "_")},
    "template_backend": Aside("text is the official template's in both"),
    "agent_template": Absent("see tool_format"),
    "system": _system,
    "max_length": "cutoff_len",
    "truncation_strategy": words(
        "overlong", {"delete": "drop", "left": "keep_end", "right": "keep_start", "split": "split"}
    ),
    "loss_scale": _scale,
    "max_pixels": "image_max_pixels",
    "padding_side": Aside("it changes nothing of a loss"),
    "packing_length": Absent("packs are as long as cutoff_len"),
    "packing_num_proc": Aside("packing is quick"),
    "sequence_parallel_size": lambda value, _: {} if value == 1 else {"context_parallel_size": value},
    # training
    "deepspeed": _deepspeed,
    "early_stop_interval": "early_stopping_steps",
    "warmup_ratio": "warmup_steps",
    "optimizer": lambda value, _: {"use_muon": True} if value == "muon" else {"optim": value},
    "gradient_checkpointing": "gradient_checkpointing",
    "vit_gradient_checkpointing": Aside("towers follow gradient_checkpointing"),
    "swanlab_token": "swanlab_api_key",
    "swanlab_exp_name": "swanlab_run_name",
    "resume_only_model": Absent("give the checkpoint as adapter_name_or_path or model_name_or_path"),
    "max_epochs": Absent("see num_train_epochs"),
    "acc_strategy": Aside("accuracy counts tokens"),
    "use_logits_to_keep": Aside("the loss is computed in pieces, never with all logits"),
    "eval_use_evalscope": Absent("see `llamafactory-cli eval`"),
    "use_flash_ckpt": Absent("see async_save"),
    **dict.fromkeys(
        (
            "add_version",
            "create_checkpoint_symlink",
            "check_model",
            "load_args",
            "load_data_args",
            "merge_lora",
            "safe_serialization",
            "ignore_args_error",
            "logging_dir",
            "metric",
        ),
        Aside("it changes nothing of the training"),
    ),
}


def _defaults(values: Values) -> Values:
    kind = values.get("tuner_type", values.get("train_type", values.get("sft_type", "lora")))
    is_lora, micro = kind in ("lora", "longlora"), int(values.get("per_device_train_batch_size") or 1)
    steps = 1 if values.get("rlhf_type") == "grpo" else math.ceil(16 / (micro * processes()))
    evaluates = bool(values.get("val_dataset") or values.get("split_dataset_ratio"))
    return {
        "stage": "sft", "do_train": True, "finetuning_type": "lora", "per_device_train_batch_size": 1,
        "per_device_eval_batch_size": 1, "gradient_accumulation_steps": steps, "weight_decay": 0.1, "adam_beta2": 0.95,
        "learning_rate": 1e-5 if kind == "full" else 1e-4, "lr_scheduler_type": "cosine", "logging_steps": 5,
        "logging_first_step": True, "report_to": "tensorboard", "overlong": "drop", "output_dir": "output",
        **({"lora_rank": 8, "lora_alpha": 32, "lora_dropout": 0.05} if is_lora else {}),
        **({"eval_strategy": "steps", "eval_steps": values.get("save_steps", 500)} if evaluates else {}),
    }  # fmt: skip


_MARKS = frozenset((
    "model", "train_type", "tuner_type", "sft_type", "torch_dtype", "split_dataset_ratio",
    "target_modules", "rlhf_type", "attn_impl", "dataset_num_proc", "truncation_strategy", "loss_scale",
    "val_dataset", "quant_method", "quant_bits", "freeze_vit", "freeze_llm", "freeze_aligner",
    "max_completion_length",
))  # fmt: skip

dialect = Dialect(
    title="ms-swift",
    rules=_RULES,
    defaults=_defaults,
    marks=_MARKS,
)
