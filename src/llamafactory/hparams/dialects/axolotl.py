# SPDX-License-Identifier: Apache-2.0
"""axolotl's dialect (0.19): https://docs.axolotl.ai/docs/config-reference.html."""

from __future__ import annotations

import math
from typing import Any

from .axolotl_data import entries, sets, template
from .rules import Absent, Aside, Dialect, NoCounterpart, Rule, Values, comma, fixed, listed, when, words
from .v1 import processes


def _adapter(value: Any, _: Values) -> Values:
    kinds = {"lora": {"finetuning_type": "lora"}, "qlora": {"finetuning_type": "lora"}, "": {}}
    if value not in kinds:
        raise NoCounterpart(f"expected lora or qlora, got {value}")
    return kinds[value]


def _targets(value: Any, whole: Values) -> Values:
    if value == "all-linear" or (whole.get("lora_target_linear") and not value):
        return {"lora_target": "all"}
    return {"lora_target": comma(value)}


_RL: dict[str, dict[str, Any]] = {
    "dpo": {"stage": "dpo", "pref_loss": "sigmoid"},
    "ipo": {"stage": "dpo", "pref_loss": "ipo"},
    "orpo": {"stage": "dpo", "pref_loss": "orpo"},
    "simpo": {"stage": "dpo", "pref_loss": "simpo"},
    "kto": {"stage": "kto"},
    "grpo": {"stage": "grpo"},
}


def _rl(value: Any, whole: Values) -> Values:
    if value not in _RL:
        raise NoCounterpart(f"expected one of {', '.join(_RL)}, got {value}")
    beta = whole.get("rl_beta", whole.get("dpo_beta"))
    found = dict(_RL[value])
    if value == "orpo":
        beta = whole.get("orpo_alpha", beta)
    if beta is not None:
        found["beta" if value == "grpo" else "pref_beta"] = beta
    return found


_GRPO = {
    "beta": "beta", "max_completion_length": "max_new_tokens", "num_generations": "num_generations",
    "num_iterations": "num_iterations", "epsilon": "epsilon", "epsilon_high": "epsilon_high", "loss_type": "loss_type",
    "temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "repetition_penalty": "repetition_penalty",
    "mask_truncated_completions": "mask_truncated_completions",
}  # fmt: skip
_GRPO_LISTS = {"reward_funcs": "reward_funcs", "reward_weights": "reward_weights"}
_GRPO_ASIDE = ("log_completions", "sync_ref_model", "vllm_mode", "vllm_server_host", "vllm_server_port",
               "vllm_gpu_memory_utilization", "use_liger_loss")  # fmt: skip


def _trl(value: Any, _: Values) -> Values:
    found: dict[str, Any] = {}
    for key, inner in value.items():
        if key in _GRPO:
            found[_GRPO[key]] = inner
        elif key in _GRPO_LISTS:
            found[_GRPO_LISTS[key]] = comma(inner)
        elif key == "use_vllm":
            found["rollout_engine"] = "vllm" if inner else "huggingface"
        elif key == "scale_rewards":
            found["scale_rewards"] = "group" if inner else "none"
        elif inner not in (None, False) and key not in _GRPO_ASIDE:
            raise NoCounterpart(f"its {key} has no counterpart")
    return found


def _per_epoch(what: str) -> Rule:
    """So many times an epoch, as a share of all steps."""

    def rule(value: Any, whole: Values) -> Values:
        if not value:
            return {f"{what}_strategy": "no"}
        if float(value) == 1:
            return {f"{what}_strategy": "epoch"}
        if whole.get("max_steps"):
            raise NoCounterpart(f"with max_steps nobody knows the length of an epoch; give {what}_steps")
        # Rounded up: a step more for each is harmless, one time more is not.
        share = math.ceil(1e6 / (float(value) * float(whole.get("num_epochs") or 1))) / 1e6
        return {f"{what}_strategy": "steps", f"{what}_steps": share}

    return rule


def _steps(what: str) -> Rule:
    return lambda value, _: {f"{what}_steps": value, f"{what}_strategy": "steps"}


def _checkpointing(value: Any, _: Values) -> Values:
    kinds: dict[Any, dict[str, Any]] = {
        "offload": {"activation_offload": "cpu"}, "offload_disk": {"activation_offload": "disk"},
        "unsloth": {"activation_offload": "cpu"}, True: {"gradient_checkpointing": True},
        False: {"gradient_checkpointing": False}, "true": {"gradient_checkpointing": True},
    }  # fmt: skip
    return kinds[value]


def _bf16(value: Any, _: Values) -> Values:
    return {"auto": {}, "full": {"pure_bf16": True}, True: {"bf16": True}, False: {"bf16": False}}[value]


def _batch(value: Any, whole: Values) -> Values:
    steps, rest = divmod(int(value), int(whole.get("micro_batch_size") or 1) * processes())
    if rest or not steps:
        raise NoCounterpart("it is no multiple of micro_batch_size times the number of processes")
    return {"gradient_accumulation_steps": steps}


def _optimizer(value: Any, _: Values) -> Values:
    renamed: dict[str, dict[str, Any]] = {
        "muon": {"use_muon": True},
        "ao_adamw_8bit": {"optim": "adamw_torch_8bit"},
        "ao_adamw_4bit": {"optim": "adamw_torch_4bit"},
    }
    if value in ("came_pytorch", "adopt_adamw", "optimi_adamw", "ao_adamw_fp8", "dion"):
        raise NoCounterpart(f"{value} is not among our optimizers (docs/optimizers.md)")
    return renamed.get(value, {"optim": value})


def _special_tokens(value: Any, _: Values) -> Values:
    raise NoCounterpart("the template says what ends a turn, and padding needs no token; add_special_tokens adds some")


def _evaluation_part(value: Any, _: Values) -> Values:
    return {"val_size": value} if value else {}


_RULES: dict[str, Rule] = {
    # model
    "base_model": "model_name_or_path",
    "base_model_config": Aside("the model's own"),
    "base_model_ignore_patterns": Aside("only what is read is downloaded"),
    "revision_of_model": "model_revision",
    "tokenizer_config": Absent("the tokenizer lies beside the model"),
    "tokenizer_type": Aside("the tokenizer's files say it"),
    "model_type": Aside("the model's files say it"),
    "processor_type": Aside("the model's files say it"),
    "tokenizer_use_fast": "use_fast_tokenizer",
    "tokenizer_legacy": Aside("the tokenizer's files say it"),
    **dict.fromkeys(
        ("is_llama_derived_model", "is_mistral_derived_model", "is_falcon_derived_model", "is_qwen_derived_model"),
        Aside("the model's files say it"),
    ),
    "load_in_8bit": when(quantization_bit=8),
    "load_in_4bit": when(quantization_bit=4),
    "bnb_config_kwargs": Absent("see quantization_type and double_quantization"),
    "gptq": Aside("the model's files say it"),
    "flash_attention": when(flash_attn="fa2"),
    "sdp_attention": when(flash_attn="sdpa"),
    "eager_attention": when(flash_attn="disabled"),
    "xformers_attention": Absent("see flash_attn"),
    "flex_attention": Absent("see flash_attn"),
    "s2_attention": when(shift_attn=True),
    "attn_implementation": words(
        "flash_attn", {"flash_attention_2": "fa2", "flash_attention_3": "fa3", "sdpa": "sdpa", "eager": "disabled"}
    ),
    "special_tokens": _special_tokens,
    "tokens": listed("add_tokens"),
    "device_map": Aside("placement follows from the number of processes"),
    "low_cpu_mem_usage": Aside("weights are read straight to where they belong"),
    **dict.fromkeys(
        ("liger_rope", "liger_rms_norm", "liger_glu_activation", "liger_layer_norm"), when(enable_liger_kernel=True)
    ),
    "liger_fused_linear_cross_entropy": Aside("the loss is computed in pieces, never with all logits"),
    "liger_cross_entropy": Aside("the loss is computed in pieces, never with all logits"),
    "plugins": Aside("what they switch on has keys of its own"),
    **dict.fromkeys(
        ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "cut_cross_entropy"), Aside("kernels are chosen here")
    ),
    # method
    "adapter": _adapter,
    "lora_model_dir": "adapter_name_or_path",
    "lora_r": "lora_rank",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "lora_target_modules": _targets,
    "lora_target_linear": when(lora_target="all"),
    "lora_modules_to_save": listed("additional_target"),
    "lora_fan_in_fan_out": Aside("the layer's class says it"),
    "peft_use_dora": "use_dora",
    "peft_use_rslora": "use_rslora",
    "peft_init_lora_weights": words(
        "lora_init",
        {True: "default", "gaussian": "gaussian", "olora": "olora", "loftq": "loftq", "orthogonal": "orthogonal"},
    ),
    "peft_layers_to_transform": lambda value, _: {"peft_config": {"layers_to_transform": value}},
    "loraplus_lr_ratio": "loraplus_lr_ratio",
    "loraplus_lr_embedding": "loraplus_lr_embedding",
    "unfrozen_parameters": Absent("see freeze_trainable_pattern"),
    "rl": _rl,
    **dict.fromkeys(("rl_beta", "dpo_beta", "orpo_alpha"), lambda value, whole: {} if whole.get("rl") else _no_rl()),
    "dpo_label_smoothing": "dpo_label_smoothing",
    "rpo_alpha": "pref_ftx",
    "simpo_gamma": "simpo_gamma",
    "cpo_alpha": fixed(0, 0.0, why="SimPO here has no part of supervised loss but pref_ftx"),
    "kto_desirable_weight": "kto_chosen_weight",
    "kto_undesirable_weight": "kto_rejected_weight",
    "reward_model": when(stage="rm"),
    "trl": _trl,
    # data
    "datasets": sets("dataset"),
    "test_datasets": sets("eval_dataset"),
    "pretraining_dataset": lambda value, whole: {
        **entries("dataset", [{"path": value}] if isinstance(value, str) else value, whole),
        "stage": "pt",
        "streaming": True,
    },
    "chat_template": template,
    "chat_template_jinja": lambda value, whole: {} if whole.get("chat_template") else template("jinja", whole),
    "default_system_message": "default_system",
    "dataset_prepared_path": Aside("prepared data has a place in the cache; tokenized_path names one"),
    "dataset_processes": "preprocessing_num_workers",
    "dataset_num_proc": "preprocessing_num_workers",
    "dataset_exact_deduplication": "deduplicate",
    "dataset_keep_in_memory": Aside("rows are read from the disk as they are needed"),
    "shuffle_merged_datasets": lambda value, _: {} if value else {"disable_shuffling": True},
    "val_set_size": _evaluation_part,
    "sequence_len": "cutoff_len",
    "excess_length_strategy": words("overlong", {"drop": "drop", "truncate": "truncate", "raise": "error"}),
    "sample_packing": lambda value, _: {"packing": bool(value)},
    "pad_to_sequence_len": Aside("no padding is computed with"),
    "eval_sample_packing": Aside("a loss does not depend on who shares a batch"),
    **dict.fromkeys(
        (
            "sample_packing_group_size",
            "sample_packing_bin_size",
            "sample_packing_sequentially",
            "multipack_real_batches",
            "sample_packing_eff_est",
            "total_num_tokens",
        ),
        Aside("packing is chosen here"),
    ),
    "batch_flattening": lambda value, _: {"padding_free": bool(value)} if value != "auto" else {},
    "train_on_inputs": "train_on_prompt",
    "group_by_length": when(train_sampling_strategy="group_by_length"),
    # training
    "micro_batch_size": "per_device_train_batch_size",
    "eval_batch_size": "per_device_eval_batch_size",
    "batch_size": _batch,
    "num_epochs": "num_train_epochs",
    "optimizer": _optimizer,
    "lr_scheduler": words(
        "lr_scheduler_type",
        {
            name: name
            for name in (
                "linear",
                "cosine",
                "cosine_with_restarts",
                "polynomial",
                "constant",
                "constant_with_warmup",
                "inverse_sqrt",
                "warmup_stable_decay",
            )
        },
    ),
    "cosine_min_lr_ratio": lambda value, _: {
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": value},
    },
    "warmup_ratio": "warmup_steps",
    "bf16": _bf16,
    "bfloat16": when(pure_bf16=True),
    "gradient_checkpointing": _checkpointing,
    "early_stopping_patience": "early_stopping_steps",
    "saves_per_epoch": _per_epoch("save"),
    "evals_per_epoch": _per_epoch("eval"),
    "save_steps": _steps("save"),
    "eval_steps": _steps("eval"),
    "auto_resume_from_checkpoints": Aside("a run goes on from its newest checkpoint"),
    "save_safetensors": Aside("weights are always safetensors"),
    "strict": Aside("every unknown key is an error here"),
    "ddp": Aside("several processes are copies unless fsdp or deepspeed says else"),
    "fsdp_final_state_dict_type": Aside("what is saved at the end is whole"),
    "fsdp_version": Aside("there is one engine of torch's here"),
    "context_parallel_size": "context_parallel_size",
    "sequence_parallel_degree": "context_parallel_size",
    "tensor_parallel_size": "tensor_parallel_size",
    "expert_parallel_size": "expert_parallel_size",
    "wandb_project": lambda value, _: {"report_to": "wandb", "project": value} if value else {},
    "wandb_name": lambda value, _: {"run_name": value} if value else {},
    "wandb_run_id": lambda value, _: {"run_name": value} if value else {},
    **dict.fromkeys(
        ("wandb_entity", "wandb_watch", "wandb_log_model", "wandb_mode"),
        Aside("set wandb's own variable: WANDB_ENTITY, WANDB_WATCH, WANDB_LOG_MODEL, WANDB_MODE"),
    ),
    "use_wandb": when(report_to="wandb"),
    "use_tensorboard": when(report_to="tensorboard"),
    "use_mlflow": when(report_to="mlflow"),
    "hf_use_auth_token": Aside("the token of `hf auth login` is used"),
    "hub_strategy": "hub_strategy",
    "include_tokens_per_second": Aside("tokens a second are always in the log"),
}


def _no_rl() -> Values:
    raise NoCounterpart("it belongs to rl, which is not given")


def _defaults(values: Values) -> Values:
    return {
        "stage": "sft", "do_train": True, "finetuning_type": "full", "per_device_train_batch_size": 1,
        "num_train_epochs": 1.0, "cutoff_len": 512, "lr_scheduler_type": "cosine", "weight_decay": 0.0,
        "overlong": "drop", "output_dir": "./model-out",
        **({} if "warmup_steps" in values or "warmup_ratio" in values else {"warmup_steps": 0.03}),
        **({} if any(key in values for key in ("save_steps", "saves_per_epoch")) else {"save_strategy": "epoch"}),
    }  # fmt: skip


_MARKS = frozenset((
    "base_model", "datasets", "micro_batch_size", "num_epochs", "sequence_len", "sample_packing", "val_set_size",
    "adapter", "lora_r", "lora_target_linear", "optimizer", "lr_scheduler", "pad_to_sequence_len",
    "dataset_prepared_path", "train_on_inputs", "saves_per_epoch", "evals_per_epoch", "test_datasets",
    "pretraining_dataset", "rl",
))  # fmt: skip

dialect = Dialect(
    title="axolotl",
    rules=_RULES,
    defaults=_defaults,
    marks=_MARKS,
)
