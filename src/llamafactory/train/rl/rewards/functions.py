# SPDX-License-Identifier: Apache-2.0
"""Rewards that have a name of their own; written as users write theirs (see ``reward_set.py``)."""

from __future__ import annotations

import re
import threading
from typing import Any

from ....extras.packages import require

_THOUGHT = re.compile(r"\s*<think>(?P<thought>.*?)</think>(?P<answer>.*)", re.DOTALL)
_WORD = re.compile(
    r"(?<![\\A-Za-z])[A-Za-z]{2,}"
)  # two letters in a row, not of a LaTeX command: text, no bare formula
_VERIFY_SECONDS = 5


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


def math_verify(
    completion_messages: list[list[dict[str, Any]]],
    references: list[str | None],
    solution: list[str | None] | None = None,
    **_: Any,
) -> list[float | None]:
    """1 when the answer is mathematically equal to the solution, else 0; None when the solution cannot be read.

    Args:
        completion_messages: The last number or formula of the last message counts; ``\\boxed{}`` goes first.
        references: Text of the row's own last turn.
        solution: A column of that name goes before it.
    """
    package = require("math_verify", "reward_funcs: math_verify", "math-verify")
    # math_verify stops a formula that takes too long by a signal, which only the main thread can receive.
    seconds = _VERIFY_SECONDS if threading.current_thread() is threading.main_thread() else None
    rewards: list[float | None] = []
    for number, (said, reference) in enumerate(zip(completion_messages, references, strict=True)):
        gold = str((solution[number] if solution is not None else None) or reference or "")
        wanted = package.parse(gold, parsing_timeout=seconds)
        if not wanted and not _WORD.search(gold):
            wanted = package.parse(f"${gold}$", parsing_timeout=seconds)
        if not wanted:
            rewards.append(None)
            continue
        found = package.parse(_answer(said[-1]), parsing_timeout=seconds)
        rewards.append(float(bool(found) and package.verify(wanted, found, timeout_seconds=seconds)))
    return rewards


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
