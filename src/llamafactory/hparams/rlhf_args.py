# SPDX-License-Identifier: Apache-2.0
"""Keys shared by the preference and RL stages and by distillation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .field import arg
from .ranges import AT_LEAST_0, AT_LEAST_1, BITS, POSITIVE, SHARE, Range


@dataclass(frozen=True)
class RLHFArguments:
    """Preference and reinforcement learning, distillation."""

    pref_beta: float = arg(0.1, "Strength of the pull to the reference (beta).", within=POSITIVE)
    pref_ftx: float = arg(
        0.0, "Weight of an SFT loss added on the chosen answers (stages dpo and kto).", within=AT_LEAST_0
    )
    pref_bco_weight: float = arg(0.0, "Weight of a BCO loss added in stage dpo.", within=AT_LEAST_0)
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
        0.0,
        "Share of pairs taken to be the wrong way round (pref_loss sigmoid, robust, exo_pair, aot).",
        within=Range(least=0, below=0.5),
    )
    kto_chosen_weight: float = arg(1.0, "Weight of desirable samples.", within=AT_LEAST_0)
    kto_rejected_weight: float = arg(1.0, "Weight of undesirable samples.", within=AT_LEAST_0)
    simpo_gamma: float = arg(0.5, "Margin of SimPO.", within=AT_LEAST_0)
    center_rewards_coefficient: float = arg(
        0.0,
        "Stage rm: weight of a pull of the two rewards' sum to 0, so that rewards of different prompts compare.",
        within=AT_LEAST_0,
    )
    ppo_buffer_size: int = arg(1, "Optimizer steps of prompts that are answered at once.", within=AT_LEAST_1)
    ppo_epochs: int = arg(4, "Passes over each rollout.", within=AT_LEAST_1)
    ppo_score_norm: bool = arg(False, "Scale rewards by the mean and spread of all rewards so far.")
    ppo_target: float = arg(
        6.0, "Divergence (summed over an answer) that the adaptive controller aims at.", within=POSITIVE
    )
    ppo_whiten_rewards: bool = arg(False, "Whiten rewards before the advantages.")
    ref_model: str | None = arg(None, "Reference model; unset = the model before training.")
    ref_model_adapters: str | None = arg(None, "Adapters of the reference model, comma list.", comma=True)
    ref_model_quantization_bit: int | None = arg(None, "Bits of the reference model: 4 or 8.", within=BITS)
    cache_ref_log_probs: bool | None = arg(
        None,
        "Compute the reference's log-probabilities once before training, keep them on disk and free the reference; "
        "unset = if the run sees every row and the data is not streamed.",
    )
    reward_model: str | None = arg(None, "Reward model, adapter or URL.")
    reward_model_adapters: str | None = arg(None, "Adapters of the reward model, comma list.", comma=True)
    reward_model_quantization_bit: int | None = arg(None, "Bits of the reward model: 4 or 8.", within=BITS)
    reward_model_type: Literal["lora", "full", "api"] = arg(
        "lora", "Reward from an adapter on the policy, a model of its own, or a web service."
    )
    share_prompt: bool | None = arg(
        None,
        "Stages rm and dpo: compute the tokens at which both answers of a pair begin alike once; unset = where the "
        "attention can and it saves enough of a batch.",
    )
    ld_alpha: float | None = arg(None, "LD-DPO: weight of tokens beyond the shorter answer.", within=SHARE)

    # Stages ppo and grpo: rewards and rollouts.
    reward_funcs: str | None = arg(
        None, "Reward functions, comma list: built-in names, or ./file.py:function.", comma=True
    )
    reward_weights: str | None = arg(
        None, "Weights of the rewards, comma list in the order of reward_funcs, the reward model last; unset = 1.",
        comma=True,
    )  # fmt: skip
    rollout_engine: str = arg("huggingface", "What writes the answers that are rewarded: huggingface, vllm.")
    rollout_batch_size: int = arg(64, "Answers that one process writes at once.", within=AT_LEAST_1)
    rollout_tools: str | None = arg(None, "Python file whose functions the model may call as tools.")
    rollout_environment: str | None = arg(
        None, "What answers the model's turns and rewards them: ./file.py:Class, or the URL of a service."
    )
    max_tool_rounds: int = arg(
        4, "Most rounds of tool calls, or of answers of the environment, in an answer.", within=AT_LEAST_1
    )
    eval_rollouts: Literal["greedy", "sample"] = arg(
        "greedy", "How evaluation answers: the likeliest tokens, or draws."
    )

    # Stage grpo, named as in TRL.
    loss_type: Literal[
        "grpo", "dr_grpo", "dapo", "bnpo", "gspo", "cispo", "rloo", "reinforce_plus_plus"
    ] = arg("dapo", "Loss of stage grpo.")  # fmt: skip
    num_generations: int = arg(8, "Answers to each prompt, which are compared with each other.", within=Range(least=2))
    num_iterations: int = arg(1, "Passes over each rollout.", within=AT_LEAST_1)
    beta: float = arg(0.0, "Weight of the divergence from the reference; 0 = no reference is kept.", within=AT_LEAST_0)
    epsilon: float = arg(
        0.2, "How far a token's probability may fall (and rise) before its gradient is cut off.", within=POSITIVE
    )
    epsilon_high: float | None = arg(None, "How far it may rise; unset = epsilon.", within=POSITIVE)
    delta: float | None = arg(
        None, "Upper bound of the ratio of bad answers too (above 1 + epsilon_high).", within=Range(above=1)
    )
    scale_rewards: Literal["group", "batch", "none"] | None = arg(
        None, "Divide advantages by the spread of the group, of the batch, or not; unset = as loss_type's paper."
    )
    mask_truncated_completions: bool = arg(False, "Leave answers that were cut off out of the loss.")
    dynamic_sampling: bool = arg(False, "Leave groups whose rewards are all equal out of the loss (DAPO).")

    # Stage gkd, the first three named as in TRL.
    gkd_beta: float = arg(
        0.5,
        "Divergence of student from teacher: 0 = forward KL(teacher || student), 1 = reverse KL(student || teacher), "
        "between = Jensen-Shannon.",
        within=SHARE,
    )
    gkd_temperature: float = arg(1.0, "Temperature of both distributions in the loss.", within=POSITIVE)
    gkd_lambda: float = arg(0.0, "Share of rows that the student answers itself while training.", within=SHARE)
    teacher_model_name_or_path: str | None = arg(None, "Teacher of all sets that teacher_model does not name.")
    teacher_model: dict | None = arg(None, "Teachers by data set: a mapping of names of sets to models.")
    teacher_model_adapters: str | None = arg(None, "Adapters of the teacher, comma list.", comma=True)
    teacher_model_quantization_bit: int | None = arg(None, "Bits of the teachers: 4 or 8.", within=BITS)
