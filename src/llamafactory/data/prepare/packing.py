# SPDX-License-Identifier: Apache-2.0
"""Best-fit-decreasing packing of sequences into rows, over the whole set."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np


def pack(lengths: Sequence[int] | np.ndarray, capacity: int) -> list[list[int]]:
    """Put sequences into as few rows as best-fit-decreasing finds.

    Longest first, each sequence goes into the fullest row that still holds it. Rows with the same room left are
    interchangeable, so they wait on one stack per amount of room: a step costs one bisection over at most ``capacity``
    amounts, O(n log capacity) in all.

    Args:
        lengths: Tokens of each sequence, every one from 1 to ``capacity``.
        capacity: Tokens a row may hold.

    Returns:
        Rows as lists of indices into ``lengths``. Every index occurs once; indices inside a row ascend, and rows are
        ordered by their first index, so the result depends on nothing but the arguments.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    assert sizes.size == 0 or (sizes.min() >= 1 and sizes.max() <= capacity), "lengths must lie in 1..capacity"
    stacks: list[list[list[int]]] = [[] for _ in range(capacity + 1)]  # by room left
    rooms: list[int] = []  # amounts of room that some row has, ascending
    rows: list[list[int]] = []
    order = np.argsort(-sizes, kind="stable")
    for index, size in zip(order.tolist(), sizes[order].tolist(), strict=True):
        position = bisect_left(rooms, size)
        if position < len(rooms):
            room = rooms[position]
            row = stacks[room].pop()
            if not stacks[room]:
                del rooms[position]
        else:
            room, row = capacity, []
            rows.append(row)
        row.append(index)
        left = room - size
        if left:
            if not stacks[left]:
                insort(rooms, left)
            stacks[left].append(row)
    for row in rows:
        row.sort()
    return sorted(rows)
