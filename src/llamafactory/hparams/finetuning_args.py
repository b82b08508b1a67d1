# SPDX-License-Identifier: Apache-2.0
"""Stage, fine-tuning type and what all stages share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from .field import arg


@dataclass(frozen=True)
class FinetuningArguments:
    """TODO"""

    pure_bf16: bool = arg(False, "Keep weights and math in bf16, no autocast.")
    stage: Literal["pt", "sft", "rm", "ppo", "dpo", "kto"] = arg("sft", "Training stage.")
    finetuning_type: Literal["lora", "oft", "freeze", "full"] = arg("lora", "Parameter-selection method.")
    use_llama_pro: bool = arg(False, "Train only the inserted blocks (freeze/LoRA).")
    use_adam_mini: bool = arg(False, "Adam-mini optimiser.")
    use_mca: bool = arg(False, "Set by env USE_MCA.")
    use_megatron_bridge: bool = arg(False, "Set by env USE_MEGATRON_BRIDGE.")
    use_hyper_parallel: bool = arg(False, "HyperParallel backend (pt/sft, full).")
    hyper_parallel_args: str | None = arg(None, "JSON strategy file.")
    hyper_parallel_cp_size: int = arg(1, "Context-parallel size.")
    use_muon: bool = arg(False, "Muon optimiser.")
    use_dft_loss: bool = arg(False, "DFT loss.")
    use_asft_loss: bool = arg(False, "ASFT loss (needs a reference model).")
    asft_alpha: float = arg(0.1, "ASFT KL weight.")
    use_eaft_loss: bool = arg(False, "EAFT loss.")
    eaft_alpha: float = arg(1.0, "EAFT entropy exponent.")
    freeze_vision_tower: bool = arg(True, "Do not train the vision encoder.")
    freeze_multi_modal_projector: bool = arg(True, "Do not train the projector.")
    freeze_language_model: bool = arg(False, "Do not train the LLM part.")
    compute_accuracy: bool = arg(False, "Token accuracy at eval.")
    disable_shuffling: bool = arg(False, "Sequential sampler.")
    early_stopping_steps: int | None = arg(None, "Patience (evals) for early stop.")
    plot_loss: bool = arg(False, "Write loss PNG files.")
    include_effective_tokens_per_second: bool = arg(False, "Report non-padding tokens/s.")


@dataclass(frozen=True)
class SwanLabArguments:
    """TODO"""

    use_swanlab: bool = arg(False, "Enable SwanLab callback.")
    swanlab_project: str | None = arg("llamafactory", "Project.")
    swanlab_workspace: str | None = arg(None, "Workspace.")
    swanlab_run_name: str | None = arg(None, "Experiment name.")
    swanlab_mode: Literal["cloud", "local"] = arg("cloud", "Cloud or local.")
    swanlab_api_key: str | None = arg(None, "Login key (masked in to_dict).")
    swanlab_logdir: str | None = arg(None, "Log folder.")
    swanlab_lark_webhook_url: str | None = arg(None, "Lark bot URL.")
    swanlab_lark_secret: str | None = arg(None, "Lark bot secret.")
