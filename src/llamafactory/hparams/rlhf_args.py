# SPDX-License-Identifier: Apache-2.0
"""Keys shared by the preference and RL stages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .. import plugins
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
    ppo_buffer_size: int = arg(1, "Optimizer steps of prompts that are answered at once.")
    ppo_epochs: int = arg(4, "Passes over each rollout.")
    ppo_score_norm: bool = arg(False, "Scale rewards by the mean and spread of all rewards so far.")
    ppo_target: float = arg(6.0, "Divergence (summed over an answer) that the adaptive controller aims at.")
    ppo_whiten_rewards: bool = arg(False, "Whiten rewards before the advantages.")
    ref_model: str | None = arg(None, "Reference model; unset = the model before training.")
    ref_model_adapters: str | None = arg(None, "Adapters of the reference model, comma list.", comma=True)
    ref_model_quantization_bit: int | None = arg(None, "Bits of the reference model: 4 or 8.")
    cache_ref_log_probs: bool | None = arg(
        None,
        "Compute the reference's log-probabilities once before training, keep them on disk and free the reference; "
        "unset = if the run sees every row and the data is not streamed.",
    )
    reward_model: str | None = arg(None, "Reward model, adapter or URL.")
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

    # Stages ppo and grpo: rewards and rollouts.
    reward_funcs: str | None = arg(
        None, "Reward functions, comma list: built-in names, or ./file.py:function.", comma=True
    )
    reward_weights: str | None = arg(
        None, "Weights of the rewards, comma list in the order of reward_funcs, the reward model last; unset = 1.",
        comma=True,
    )  # fmt: skip
    rollout_engine: str = arg("huggingface", "What writes the answers that are rewarded: huggingface, vllm.")
    rollout_batch_size: int = arg(64, "Answers that one process writes at once.")
    rollout_tools: str | None = arg(None, "Python file whose functions the model may call as tools.")
    max_tool_rounds: int = arg(4, "Most rounds of tool calls in an answer.")
    eval_rollouts: Literal["greedy", "sample"] = arg(
        "greedy", "How evaluation answers: the likeliest tokens, or draws."
    )

    # Stage grpo, named as in TRL.
    loss_type: Literal[
        "grpo", "dr_grpo", "dapo", "bnpo", "gspo", "cispo", "rloo", "reinforce_plus_plus"
    ] = arg("dapo", "Loss of stage grpo.")  # fmt: skip
    num_generations: int = arg(8, "Answers to each prompt, which are compared with each other.")
    num_iterations: int = arg(1, "Passes over each rollout.")
    beta: float = arg(0.0, "Weight of the divergence from the reference; 0 = no reference is kept.")
    epsilon: float = arg(0.2, "How far a token's probability may fall (and rise) before its gradient is cut off.")
    epsilon_high: float | None = arg(None, "How far it may rise; unset = epsilon.")
    delta: float | None = arg(None, "Upper bound of the ratio of bad answers too (above 1 + epsilon_high).")
    scale_rewards: Literal["group", "batch", "none"] | None = arg(
        None, "Divide advantages by the spread of the group, of the batch, or not; unset = as loss_type's paper."
    )
    mask_truncated_completions: bool = arg(False, "Leave answers that were cut off out of the loss.")
    dynamic_sampling: bool = arg(False, "Leave groups whose rewards are all equal out of the loss (DAPO).")


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
    if stage in ("ppo", "grpo"):
        _check_rl(args)


def _check_rl(args: TrainArgs) -> None:
    """Rules of the stages that reward the model's own answers."""
    rlhf, stage, training, generating = args.rlhf, args.finetuning.stage, args.training, args.generating
    require(training.do_train, f"stage: {stage} needs do_train: true")
    require(
        bool(rlhf.reward_model or rlhf.reward_funcs), f"reward_model: missing, stage {stage} needs it or reward_funcs"
    )
    require(
        not rlhf.reward_model or rlhf.reward_model_type != "lora" or args.finetuning.finetuning_type == "lora",
        "reward_model_type: lora needs finetuning_type lora",
    )
    engines = plugins.names("rollouts")
    require(
        rlhf.rollout_engine in engines,
        f"rollout_engine: expected one of {', '.join(engines)}, got {rlhf.rollout_engine!r}",
    )
    require(generating.do_sample and generating.temperature > 0, f"do_sample: stage {stage} needs draws at random")
    for key, plain in (("num_beams", 1), ("repetition_penalty", 1.0)):
        value = getattr(generating, key)
        require(value == plain, f"{key}: {value} is not possible in stage {stage}, whose answers are drawn as they are")
    require(generating.max_new_tokens > 0, f"max_new_tokens: stage {stage} needs a number above 0")
    require(not (args.data.packing or args.data.neat_packing), f"packing: not in stage {stage}")
    require(not training.predict_with_generate, f"predict_with_generate: not in stage {stage}; do_eval rewards answers")
    for key in ("rollout_batch_size", "max_tool_rounds", "ppo_buffer_size", "ppo_epochs", "num_iterations"):
        require(getattr(rlhf, key) >= 1, f"{key}: expected 1 or more, got {getattr(rlhf, key)}")
    if stage == "grpo":
        require(rlhf.num_generations >= 2, f"num_generations: expected 2 or more, got {rlhf.num_generations}")
        require(rlhf.beta >= 0, f"beta: expected 0 or more, got {rlhf.beta}")
        require(rlhf.epsilon > 0, f"epsilon: expected above 0, got {rlhf.epsilon}")
        high = rlhf.epsilon if rlhf.epsilon_high is None else rlhf.epsilon_high
        require(high > 0, f"epsilon_high: expected above 0, got {high}")
        require(rlhf.delta is None or rlhf.delta > 1 + high, f"delta: expected above {1 + high}, got {rlhf.delta}")
