# SPDX-License-Identifier: Apache-2.0
"""Keys shared by the preference and RL stages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .field import arg, require

if TYPE_CHECKING:
    from .args import TrainArgs


_SMOOTHED = ("sigmoid", "robust", "exo_pair", "aot")


@dataclass(frozen=True)
class RLHFArguments:
    """Preference and reinforcement learning."""

    pref_beta: float = arg(0.1, "Strength of the pull to the reference (beta).")
    pref_ftx: float = arg(0.0, "Weight of an SFT loss added on the chosen answers (stages dpo and kto).")
    pref_bco_weight: float = arg(0.0, "Weight of a BCO loss added in stage dpo.")
    pref_loss: Literal[
        "sigmoid",
        "hinge",
        "ipo",
        "kto_pair",
        "orpo",
        "simpo",
        "robust",
        "exo_pair",
        "aot",
        "apo_zero",
        "apo_down",
        "sppo_hard",
        "nca",
        "discopop",
    ] = arg("sigmoid", "Loss of stage dpo.")
    dpo_label_smoothing: float = arg(
        0.0, "Share of pairs taken to be the wrong way round (pref_loss sigmoid, robust, exo_pair, aot)."
    )
    kto_chosen_weight: float = arg(1.0, "Weight of desirable samples.")
    kto_rejected_weight: float = arg(1.0, "Weight of undesirable samples.")
    simpo_gamma: float = arg(0.5, "Margin of SimPO.")
    center_rewards_coefficient: float = arg(
        0.0, "Stage rm: weight of a pull of the two rewards' sum to 0, so that rewards of different prompts compare."
    )
    ppo_buffer_size: int = arg(1, "Rollouts kept, in mini-batches.")
    ppo_epochs: int = arg(4, "Passes over each rollout.")
    ppo_score_norm: bool = arg(False, "Scale rewards to unit spread.")
    ppo_target: float = arg(6.0, "Divergence that the adaptive controller aims at.")
    ppo_whiten_rewards: bool = arg(False, "Whiten rewards before the advantages.")
    ref_model: str | None = arg(None, "Reference model; unset = the model before training.")
    ref_model_adapters: str | None = arg(None, "Adapters of the reference model, comma list.", comma=True)
    ref_model_quantization_bit: int | None = arg(None, "Bits of the reference model: 4 or 8.")
    cache_ref_log_probs: bool | None = arg(
        None,
        "Compute the reference's log-probabilities once before training, keep them on disk and free the reference; "
        "unset = if the run sees every row and the data is not streamed.",
    )
    reward_model: str | None = arg(None, "Reward model, adapter or URL (required in stage ppo).")
    reward_model_adapters: str | None = arg(None, "Adapters of the reward model, comma list.", comma=True)
    reward_model_quantization_bit: int | None = arg(None, "Bits of the reward model: 4 or 8.")
    reward_model_type: Literal["lora", "full", "api"] = arg(
        "lora", "Reward from an adapter on the policy, a model of its own, or a web service."
    )
    share_prompt: bool | None = arg(
        None,
        "Stages rm and dpo: compute the tokens at which both answers of a pair begin alike once; unset = where the "
        "attention can and it saves enough of a batch.",
    )
    ld_alpha: float | None = arg(None, "LD-DPO: weight of tokens beyond the shorter answer.")


def check_training(args: TrainArgs) -> None:
    """Rules between stage and preference keys."""
    rlhf, stage, training = args.rlhf, args.finetuning.stage, args.training
    require(
        rlhf.dpo_label_smoothing == 0 or rlhf.pref_loss in _SMOOTHED,
        f"dpo_label_smoothing: only with pref_loss {', '.join(_SMOOTHED)}, not {rlhf.pref_loss}",
    )
    require(
        0 <= rlhf.dpo_label_smoothing < 0.5,
        f"dpo_label_smoothing: expected 0 or more and less than 0.5, got {rlhf.dpo_label_smoothing}",
    )
    if stage == "dpo":
        require(
            rlhf.dpo_label_smoothing > 0 or rlhf.pref_loss != "exo_pair",
            "pref_loss: exo_pair needs dpo_label_smoothing above 0, for example 0.001",
        )
    if stage in ("dpo", "kto"):
        require(
            not (rlhf.cache_ref_log_probs and args.data.streaming),
            "cache_ref_log_probs: streamed rows are not seen before training; leave it out or set it to false",
        )
    if stage in ("rm", "dpo", "kto"):
        require(rlhf.pref_beta > 0, f"pref_beta: expected more than 0, got {rlhf.pref_beta}")
        require(not (args.data.packing or args.data.neat_packing), f"packing: not in stage {stage}")
        require(not training.predict_with_generate, f"predict_with_generate: not in stage {stage}")
    if stage == "rm":
        require(
            rlhf.center_rewards_coefficient >= 0,
            f"center_rewards_coefficient: expected 0 or more, got {rlhf.center_rewards_coefficient}",
        )
    if stage in ("rm", "ppo"):
        require(not training.load_best_model_at_end, f"load_best_model_at_end: not in stage {stage}")
    if stage == "ppo":
        require(training.do_train, "stage: ppo needs do_train: true")
        require(rlhf.reward_model is not None, "reward_model: missing, stage ppo needs one")
        require(
            rlhf.reward_model_type != "lora" or args.finetuning.finetuning_type == "lora",
            "reward_model_type: lora needs finetuning_type lora",
        )
