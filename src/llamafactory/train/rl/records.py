# SPDX-License-Identifier: Apache-2.0
"""Rollouts as rewards see them, and as the records that are logged and averaged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .rewards.completion import Completion
from .rewards.reward_set import Scores
from .rollouts.rollout import Rollout

Record = dict[str, Any]


def completion_of(rollout: Rollout) -> Completion:
    """Return what rewards are given of a finished rollout."""
    return Completion(
        prompt=tuple(rollout.messages),
        message=rollout.turns[-1],
        text=rollout.text,
        ids=rollout.ids,
        finished=rollout.finished,
        columns=rollout.columns,
        turns=tuple(rollout.turns),
        tools=tuple(rollout.tools),
    )


def records_of(
    rollouts: Sequence[Rollout], slots: Sequence[int], scores: Scores, decode: Callable[..., str]
) -> list[Record]:
    """Return one record a rollout: its texts, rewards and length, and its number among all ranks' as ``slot``.

    Args:
        rollouts: Of this rank.
        slots: Their numbers.
        scores: Of their completions.
        decode: Ids -> text.
    """
    return [
        {
            "slot": slot,
            "prompt": decode(rollout.prompt, skip_special_tokens=True),
            "completion": decode(rollout.ids, skip_special_tokens=len(rollout.turns) == 1),
            "rewards": {name: float(values[number]) for name, values in scores.parts.items()},
            "reward": float(scores.total[number]),
            "length": sum(rollout.written),
            "finished": rollout.finished,
        }
        for number, (slot, rollout) in enumerate(zip(slots, rollouts, strict=True))
    ]


def columns_of(records: list[Record], rewards: Iterable[str]) -> dict[str, list[float]]:
    """Return what is averaged of records, by the name it is logged under.

    Args:
        records: From :func:`records_of`.
        rewards: Names of the single rewards.
    """
    return {
        "reward": [record["reward"] for record in records],
        **{f"reward/{name}": [record["rewards"][name] for record in records] for name in rewards},
        "response_length": [record["length"] for record in records],
        "finished": [float(record["finished"]) for record in records],
    }


def known(values: Iterable[float]) -> list[float]:
    """Return the values that are not nan."""
    return [value for value in values if value == value]
