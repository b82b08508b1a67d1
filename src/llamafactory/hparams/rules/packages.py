# SPDX-License-Identifier: Apache-2.0
"""Packages that a run needs late, asked for before anything is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...extras.packages import require_installed
from ..deepspeed import zero_of
from ..field import split_list

if TYPE_CHECKING:
    from ..args import TrainArgs

_METRICS = "nltk jieba rouge-chinese"
_TEXT_PACKAGES = ("nltk", "jieba", "rouge_chinese")


def require_packages(args: TrainArgs) -> None:
    """Look for what the engine, and scoring and rewarding answers, will import.

    Raises:
        ConfigError: A package is missing; one line with the key and the pip command.
    """
    scores, stage, rlhf = args.training.predict_with_generate, args.finetuning.stage, args.rlhf
    checks_maths = "math_verify" in split_list(rlhf.reward_funcs)
    rolls_out_there = rlhf.rollout_engine == "vllm" and stage in ("ppo", "grpo", "gkd")
    needed: list[tuple[bool, str, str, str]] = [
        *((scores, name, "predict_with_generate", _METRICS) for name in _TEXT_PACKAGES),
        (zero_of(args) is not None, "deepspeed", "deepspeed", "deepspeed"),
        (checks_maths, "math_verify", "reward_funcs: math_verify", "math-verify"),
        (rolls_out_there, "vllm", "rollout_engine: vllm", "vllm"),
    ]
    for is_asked, package, key, pip in needed:
        if is_asked:
            require_installed(package, key, pip)
