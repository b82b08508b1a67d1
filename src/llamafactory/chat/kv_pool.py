# SPDX-License-Identifier: Apache-2.0
"""Keys and values of sequences of different lengths that are decoded together.

Each sequence has a slot in a pool; a pool holds sequences of at most ``capacity`` tokens, from its first slot to its
last without a gap, so that one step reads a plain slice. A sequence that outgrows its pool moves to one twice as large:
no sequence costs more than twice the memory it needs, however long its neighbours are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

SMALLEST = 128  # tokens; a multiple of STRIDE
# Attention reads a multiple of so many tokens. The CPU's kernel adds up in vectors of this width and rounds a rest
# differently: with whole vectors only, attention does not depend on the lengths of the neighbours, bit for bit.
STRIDE = 16

Layers = Sequence[tuple[Tensor, Tensor]]  # keys and values of one sequence, [heads, tokens, head size], layer by layer


@dataclass(eq=False)
class Slot:
    """Where one sequence's keys and values lie."""

    owner: Any
    length: int  # tokens whose keys and values are stored
    last: int  # the newest token, which is not stored yet
    shift: int = 0  # from a token's place to its position: in some families a medium takes fewer positions than tokens


class Pool:
    """Slots of at most ``capacity`` tokens."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.slots: list[Slot] = []
        self.layers: list[tuple[Tensor, Tensor]] = []  # [slots or more, heads, capacity, head size]

    def add(self, slot: Slot, layers: Layers) -> None:
        """Take a sequence in; ``layers`` are copied."""
        place = len(self.slots)
        if not self.layers or place == self.layers[0][0].shape[0]:
            self._grow(layers)
        for (keys, values), (key, value) in zip(self.layers, layers, strict=True):
            keys[place, :, : slot.length] = key[:, : slot.length]
            values[place, :, : slot.length] = value[:, : slot.length]
        self.slots.append(slot)

    def remove(self, slot: Slot) -> None:
        """Free a slot; the last one moves to its place. An empty pool holds no memory."""
        place = self.slots.index(slot)
        last = self.slots.pop()
        if last is not slot:
            for store in (tensor for pair in self.layers for tensor in pair):
                store[place, :, : last.length] = store[len(self.slots), :, : last.length]
            self.slots[place] = last
        if not self.slots:
            self.layers = []

    def of(self, slot: Slot) -> Layers:
        """Return the keys and values of one sequence, as views."""
        place = self.slots.index(slot)
        return [(keys[place, :, : slot.length], values[place, :, : slot.length]) for keys, values in self.layers]

    def _grow(self, like: Layers) -> None:
        """Double the number of slots. New memory is zero: what is masked out must still be a number."""
        room = max(1, 2 * len(self.slots))
        grown = []
        for number, pair in enumerate(like):
            stores = []
            for side, example in enumerate(pair):
                heads, _, size = example.shape
                store = example.new_zeros(room, heads, self.capacity, size)
                if self.layers:
                    store[: len(self.slots)] = self.layers[number][side]
                stores.append(store)
            grown.append((stores[0], stores[1]))
        self.layers = grown


class Pools:
    """The sequences of one adapter, in pools by length."""

    def __init__(self) -> None:
        self._pools: dict[int, Pool] = {}
        self._home: dict[Slot, Pool] = {}

    def __len__(self) -> int:
        return len(self._home)

    def add(self, slot: Slot, layers: Layers) -> None:
        """Take a sequence in."""
        capacity = SMALLEST
        while capacity <= slot.length:
            capacity *= 2
        pool = self._pools.setdefault(capacity, Pool(capacity))
        pool.add(slot, layers)
        self._home[slot] = pool

    def remove(self, slot: Slot) -> None:
        """Free a sequence's memory."""
        self._home.pop(slot).remove(slot)

    def slots(self) -> list[Slot]:
        """Every sequence, in the order of :meth:`parts`."""
        return [slot for pool in self._pools.values() for slot in pool.slots]

    def parts(self, device: torch.device) -> list[Part]:
        """Make room for one more token of every sequence and describe where each is."""
        for slot, pool in list(self._home.items()):
            if slot.length == pool.capacity:
                layers = [(keys.clone(), values.clone()) for keys, values in pool.of(slot)]
                self.remove(slot)
                self.add(slot, layers)
        parts, start = [], 0
        for pool in self._pools.values():
            if pool.slots:
                lengths = [slot.length for slot in pool.slots]
                stored, places = torch.tensor(lengths, device=device), torch.arange(len(lengths), device=device)
                parts.append(Part(pool, start, stored, -(-(max(lengths) + 1) // STRIDE) * STRIDE, places))
                start += len(lengths)
        return parts


@dataclass
class Part:
    """The sequences of one pool in a step: rows ``start`` onwards of the batch."""

    pool: Pool
    start: int
    lengths: Tensor  # [rows], tokens stored before this step
    width: int  # tokens that attention reads of every row
    places: Tensor  # [rows], 0, 1, 2, ...
    _masks: dict[tuple[int | None, torch.dtype, torch.device], Tensor] = field(default_factory=dict)

    @property
    def rows(self) -> slice:
        """Their rows in the batch."""
        return slice(self.start, self.start + len(self.lengths))

    def store(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write the newest token's keys and values ``[rows, heads, 1, size]``; return all that attention reads."""
        keys, values = self.pool.layers[layer]
        count = len(self.lengths)
        places, lengths = self.places.to(key.device), self.lengths.to(key.device)  # layers may be on several devices
        keys[places, :, lengths] = key[:, :, 0]
        values[places, :, lengths] = value[:, :, 0]
        return keys[:count, :, : self.width], values[:count, :, : self.width]

    def mask(self, window: int | None, dtype: torch.dtype, device: torch.device) -> Tensor:
        """What each row sees, ``[rows, 1, 1, width]``: added to the scores, or boolean for ``torch.bool``."""
        key = (window, dtype, device)
        if key not in self._masks:
            places, own = torch.arange(self.width, device=device), self.lengths.to(device)[:, None]
            seen = places <= own
            if window is not None:
                seen &= places > own - window
            if dtype != torch.bool:
                seen = torch.zeros_like(seen, dtype=dtype).masked_fill_(~seen, float("-inf"))
            self._masks[key] = seen[:, None, None]
        return self._masks[key]
