# SPDX-License-Identifier: Apache-2.0
"""Packages that a run needs late, asked for before anything is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...extras.packages import require_installed
from ..field import split_list

if TYPE_CHECKING:
    from ..args import TrainArgs

_METRICS = "nltk jieba rouge-chinese"
_TEXT_PACKAGES = ("nltk", "jieba", "rouge_chinese")


def require_packages(args: TrainArgs) -> None:
    """Look for what scoring and rewarding answers will import.

    Raises:
        ConfigError: A package is missing; one line with the key and the pip command.
    """
    needed: list[tuple[bool, str, str, str]] = [
        *((args.training.predict_with_generate, name, "predict_with_generate", _METRICS) for name in _TEXT_PACKAGES),
        (
            "math_verify" in split_list(args.rlhf.reward_funcs),
            "math_verify",
            "reward_funcs: math_verify",
            "math-verify",
        ),
        (args.rlhf.rollout_engine == "vllm" and _rolls_out(args), "vllm", "rollout_engine: vllm", "vllm"),
    ]
    for is_asked, package, key, pip in needed:
        if is_asked:
            require_installed(package, key, pip)


def _rolls_out(args: TrainArgs) -> bool:
    return args.finetuning.stage in ("ppo", "grpo")
