# SPDX-License-Identifier: Apache-2.0
"""Rewards that have a name of their own; written as users write theirs (see ``reward_set.py``)."""

from __future__ import annotations

import re
from typing import Any

from ....extras.errors import ConfigError
from ....extras.packages import require
from .mathematics import judge

_THOUGHT = re.compile(r"\s*<think>(?P<thought>.*?)</think>(?P<answer>.*)", re.DOTALL)


def format(completions: list[str], completion_messages: list[list[dict[str, Any]]], **_: Any) -> list[float]:
    """1 for a thought in ``<think>…</think>`` followed by an answer, both not empty, else 0.

    Templates whose prompt already opens the thought, or whose model marks it in another way, are judged by the parsed
    message.
    """
    return [float(_is_formed(text, said[-1])) for text, said in zip(completions, completion_messages, strict=True)]


def accuracy(
    completion_messages: list[list[dict[str, Any]]], references: list[str | None], **_: Any
) -> list[float | None]:
    """1 when the answer without its thought is the reference, but for case, white space and a final stop, else 0."""
    return [
        None if not reference else float(_normal(_answer(said[-1])) == _normal(reference))
        for said, reference in zip(completion_messages, references, strict=True)
    ]


def length(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """Minus the number of tokens, in thousands: of two completions that are alike else, the shorter one wins."""
    return [-len(ids) / 1000 for ids in completion_ids]


def environment(environment_reward: list[float] | None = None, **_: Any) -> list[float]:
    """What the environment paid for all turns."""
    if environment_reward is None:
        raise ConfigError("reward_funcs: environment needs rollout_environment")
    return environment_reward


def math_verify(
    completion_messages: list[list[dict[str, Any]]],
    references: list[str | None],
    solution: list[Any] | None = None,
    **_: Any,
) -> list[float | None]:
    """1 when the answer is mathematically equal to the solution, else 0; None when the solution cannot be read.

    Args:
        completion_messages: The last ``\\boxed{}`` of the last message counts, without one its last number or formula.
        references: Text of the row's own last turn.
        solution: A column of that name goes before it.
    """
    require("math_verify", "reward_funcs: math_verify", "math-verify")
    solutions = solution or [None] * len(references)
    verdicts = [
        judge(str(column) if column not in (None, "") else reference or "", _answer(said[-1]))
        for said, column, reference in zip(completion_messages, solutions, references, strict=True)
    ]
    return [None if verdict is None else float(verdict) for verdict in verdicts]


def _is_formed(text: str, message: dict[str, Any]) -> bool:
    """One thought, then an answer."""
    if (message.get("reasoning_content") or "").strip():
        return bool(_text(message).strip()) and "<think>" not in _text(message)
    found = _THOUGHT.fullmatch(text)
    return (
        found is not None
        and bool(found["thought"].strip())
        and bool(found["answer"].strip())
        and text.count("<think>") == text.count("</think>") == 1
    )


def _answer(message: dict[str, Any]) -> str:
    """The text after the thought."""
    return _text(message).rpartition("</think>")[2].strip()


def _text(message: dict[str, Any]) -> str:
    if message["role"] != "assistant":  # the last word was a tool's: the model has not answered
        return ""
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _normal(text: str) -> str:
    return " ".join(text.split()).casefold().rstrip(".")
