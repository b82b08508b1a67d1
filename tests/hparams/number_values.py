# SPDX-License-Identifier: Apache-2.0
"""Numbers inside and outside of what a key takes, told by the range that it declares."""

from __future__ import annotations

import math
from typing import get_args

from llamafactory.hparams.ranges import MOST_WHOLE
from llamafactory.hparams.schema import Key, all_sections, keys_of


def number_keys() -> list[tuple[str, Key]]:
    """Return the section and the declaration of every key that a number can be given for."""
    return [
        (title, key)
        for title, section in all_sections().items()
        for key in keys_of(section).values()
        if {int, float} & {key.hint, *get_args(key.hint)}
    ]


def is_whole(key: Key) -> bool:
    return float not in (key.hint, *get_args(key.hint))


def inside(key: Key) -> list[float]:
    """Return the borders that a key takes, or numbers right beside those that it does not."""
    within, step = key.within, 1 if is_whole(key) else 1e-6
    found: list[float] = [*within.only, *within.also]
    found += [border for border in (within.least, within.most) if border is not None]
    found += [within.above + step] if within.above is not None else []
    found += [within.below - step] if within.below is not None else []
    found += [1, 0.5] if within.share else []
    return [int(number) for number in found] if is_whole(key) else found


def outside(key: Key) -> list[str]:
    """Return numbers that a key does not take, as a user writes them."""
    within, step = key.within, 1 if is_whole(key) else 1e-6
    found = [math.inf, -math.inf, math.nan, 10**400]
    found += [max(within.only) + 1, min(within.only) - 1] if within.only else []
    found += [within.least - step] if within.least is not None else []
    found += [within.most + step] if within.most is not None else []
    found += [border for border in (within.above, within.below) if border is not None]
    found += [1.5] if within.share else []
    found += [MOST_WHOLE + 1] if is_whole(key) and within.most is None else []
    return [f"{number:d}" if is_whole(key) and math.isfinite(number) else str(number) for number in found[:3]] + [
        str(number) for number in found[3:] if number not in within.also
    ]
