# SPDX-License-Identifier: Apache-2.0
"""Keys shared by the preference and RL stages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from .field import arg


@dataclass(frozen=True)
class RLHFArguments:
    """TODO"""

    pref_beta: float = arg(0.1, "Beta of preference losses.")
    pref_ftx: float = arg(0.0, "Weight of an added SFT loss on chosen answers.")
    pref_bco_weight: float = arg(0.0, "Weight of an added BCO loss in DPO.")
    pref_loss: Literal["sigmoid", "hinge", "ipo", "kto_pair", "orpo", "simpo"] = arg("sigmoid", "DPO-stage loss choice.")
    dpo_label_smoothing: float = arg(0.0, "CDPO flip probability (sigmoid only).")
    kto_chosen_weight: float = arg(1.0, "Weight of desirable samples.")
    kto_rejected_weight: float = arg(1.0, "Weight of undesirable samples.")
    simpo_gamma: float = arg(0.5, "SimPO margin.")
    ppo_buffer_size: int = arg(1, "Rollout buffer in mini-batches.")
    ppo_epochs: int = arg(4, "Optimisation passes per rollout.")
    ppo_score_norm: bool = arg(False, "Normalise/scale reward scores.")
    ppo_target: float = arg(6.0, "KL target of the adaptive controller.")
    ppo_whiten_rewards: bool = arg(False, "Whiten rewards before advantages.")
    ref_model: str | None = arg(None, "Reference model path.")
    ref_model_adapters: str | None = arg(None, "Adapters of the reference model.")
    ref_model_quantization_bit: int | None = arg(None, "4 / 8 bit reference.")
    reward_model: str | None = arg(None, "Reward model or adapter path, or URL for type api (required for ppo).")
    reward_model_adapters: str | None = arg(None, "Adapters of the reward model.")
    reward_model_quantization_bit: int | None = arg(None, "4 / 8 bit reward model.")
    reward_model_type: Literal["lora", "full", "api"] = arg("lora", "Adapter swap on the policy / separate model / HTTP service.")
    ld_alpha: float | None = arg(None, "LD-DPO weight of the tokens past the shorter answer.")
