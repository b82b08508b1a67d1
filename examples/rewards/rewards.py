# SPDX-License-Identifier: Apache-2.0
"""Rewards for stages ppo and grpo. In a training file:

    reward_funcs: ["examples/rewards/rewards.py:sum_is_right", "examples/rewards/rewards.py:short"]
    reward_weights: 1.0, 0.2

A function gets lists with one entry a completion: ``completions`` (texts), ``prompts``, ``references`` (the answer that
stands in the data), ``completion_ids``, ``finished``, and any column of the data set by its name. It takes what its
signature asks for and returns one number a completion, or None where it has no opinion. See docs/rl.md.
"""

from __future__ import annotations

import re

_NUMBER = re.compile(r"-?\d+")
_SUM = re.compile(r"(-?\d+)\s*\+\s*(-?\d+)")


def short(completion_ids: list[list[int]], **_) -> list[float]:
    """1 for up to 20 tokens, then less and less, 0 from 100 tokens on."""
    return [min(1.0, max(0.0, (100 - len(ids)) / 80)) for ids in completion_ids]


def ends_with_word(completions: list[str], word: list[str] | None = None, **_) -> list[float]:
    """1 when the last word is that of the column ``word`` (without such a column: "rain"), else 0."""
    wanted = word or ["rain"] * len(completions)
    last = [re.findall(r"\w+", text.lower())[-1:] for text in completions]
    return [float(end == [one.lower()]) for end, one in zip(last, wanted, strict=True)]


def sum_is_right(completions: list[str], prompts: list[list[dict]], **_) -> list[float | None]:
    """For questions with a sum, such as "What is 12 + 30?": 1 for the right number at the end, 0.1 for a wrong one."""
    rewards: list[float | None] = []
    for text, prompt in zip(completions, prompts, strict=True):
        asked = _SUM.search(prompt[-1]["content"])
        if asked is None:
            rewards.append(None)  # not a sum: no opinion
            continue
        said = _NUMBER.findall(text)
        right = bool(said) and int(said[-1]) == int(asked[1]) + int(asked[2])
        rewards.append(1.0 if right else 0.1 if said else 0.0)
    return rewards
