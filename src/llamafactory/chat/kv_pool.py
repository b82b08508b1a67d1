# SPDX-License-Identifier: Apache-2.0
"""Keys and values of answers of different lengths that are decoded together, and the attention that reads them.

Each answer has a slot in a pool; a pool holds answers of at most ``capacity`` tokens, from its first slot to its last
without a gap, so that one step reads a plain slice. An answer that outgrows its pool moves to one twice as large: no
answer costs more than twice the memory it needs, however long its neighbours are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

RAGGED = "ragged"
SMALLEST = 128  # tokens

Layers = Sequence[tuple[Tensor, Tensor]]  # keys and values of one answer, [heads, tokens, head size], layer by layer


@dataclass(eq=False)
class Slot:
    """Where one answer's keys and values lie."""

    owner: Any
    length: int  # tokens whose keys and values are stored
    last: int  # the newest token, which is not stored yet


class Pool:
    """Slots of at most ``capacity`` tokens."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.slots: list[Slot] = []
        self.layers: list[tuple[Tensor, Tensor]] = []  # [slots or more, heads, capacity, head size]

    def add(self, slot: Slot, layers: Layers) -> None:
        """Take an answer in; ``layers`` are copied."""
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
        """Return the keys and values of one answer, as views."""
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
    """The answers of one adapter, in pools by length."""

    def __init__(self) -> None:
        self._pools: dict[int, Pool] = {}
        self._home: dict[Slot, Pool] = {}

    def __len__(self) -> int:
        return len(self._home)

    def add(self, slot: Slot, layers: Layers) -> None:
        """Take an answer in."""
        capacity = SMALLEST
        while capacity <= slot.length:
            capacity *= 2
        pool = self._pools.setdefault(capacity, Pool(capacity))
        pool.add(slot, layers)
        self._home[slot] = pool

    def remove(self, slot: Slot) -> None:
        """Free an answer's memory."""
        self._home.pop(slot).remove(slot)

    def slots(self) -> list[Slot]:
        """Every answer, in the order of :meth:`ragged`."""
        return [slot for pool in self._pools.values() for slot in pool.slots]

    def ragged(self, device: torch.device) -> Ragged:
        """Make room for one more token of every answer and describe the step."""
        for slot, pool in list(self._home.items()):
            if slot.length == pool.capacity:
                layers = [(keys.clone(), values.clone()) for keys, values in pool.of(slot)]
                self.remove(slot)
                self.add(slot, layers)
        parts, start = [], 0
        for pool in self._pools.values():
            if pool.slots:
                lengths = [slot.length for slot in pool.slots]
                parts.append(Part(pool, start, torch.tensor(lengths, device=device), max(lengths), min(lengths)))
                start += len(lengths)
        return Ragged(parts)


@dataclass
class Part:
    """The answers of one pool in a step: rows ``start`` onwards of the batch."""

    pool: Pool
    start: int
    lengths: Tensor  # [rows], tokens stored before this step
    longest: int
    shortest: int
    _masks: dict[tuple[int | None, torch.dtype], Tensor | None] = field(default_factory=dict)

    @property
    def rows(self) -> slice:
        """Their rows in the batch."""
        return slice(self.start, self.start + len(self.lengths))

    def store(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write the newest token's keys and values ``[rows, heads, 1, size]``; return all, up to the longest row."""
        keys, values = self.pool.layers[layer]
        count = len(self.lengths)
        place = torch.arange(count, device=key.device)
        keys[place, :, self.lengths] = key[:, :, 0]
        values[place, :, self.lengths] = value[:, :, 0]
        return keys[:count, :, : self.longest + 1], values[:count, :, : self.longest + 1]

    def mask(self, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """What each row sees, ``[rows, 1, 1, tokens]``: added to the scores, or boolean for ``torch.bool``."""
        if window is not None and window > self.longest:
            window = None
        if (window, dtype) not in self._masks:
            self._masks[window, dtype] = self._make_mask(window, dtype)
        return self._masks[window, dtype]

    def _make_mask(self, window: int | None, dtype: torch.dtype) -> Tensor | None:
        if window is None and self.shortest == self.longest:
            return None
        places, own = torch.arange(self.longest + 1, device=self.lengths.device), self.lengths[:, None]
        seen = places <= own
        if window is not None:
            seen &= places > own - window
        if dtype != torch.bool:
            seen = torch.zeros_like(seen, dtype=dtype).masked_fill_(~seen, float("-inf"))
        return seen[:, None, None]


@dataclass(frozen=True)
class Ragged:
    """One step of decoding: a token for each answer."""

    parts: list[Part]

    def positions(self) -> Tensor:
        """Position of each row's token, ``[rows, 1]``."""
        return torch.cat([part.lengths for part in self.parts])[:, None]


def register() -> None:
    """Make ``ragged`` known to transformers as an attention; without a mask function, so models make no mask."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(RAGGED, ragged_attention)


def ragged_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    ragged: Ragged,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of one new token per row over that row's own past, in the form transformers calls.

    Args:
        module: The attention layer; ``layer_idx`` says which keys and values are its own.
        query: ``[rows, heads, 1, size]``.
        key: ``[rows, kv heads, 1, size]``.
        value: Like ``key``.
        attention_mask: Not used.
        ragged: The step; comes through the keyword arguments of the model's forward.
        scaling: Factor on the scores.
        sliding_window: How many tokens back a token sees, itself included.
        softcap: Soft cap of the scores (Gemma 2).
        s_aux: Attention sinks (GPT-OSS).

    Returns:
        ``([rows, 1, heads, size], None)``.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    from ..model.attention import isolated_attention

    query, key = query.to(value.dtype), key.to(value.dtype)
    plain = softcap is None and s_aux is None
    outputs = []
    for part in ragged.parts:
        keys, values = part.store(module.layer_idx, key[part.rows], value[part.rows])
        mask = part.mask(sliding_window, query.dtype if plain else torch.bool)
        options: dict[str, Any] = {"scaling": scaling, "is_causal": False}
        if plain:
            output, _none = sdpa_attention_forward(module, query[part.rows], keys, values, mask, **options)
        else:
            options |= {"softcap": softcap, "s_aux": s_aux}
            output, _none = isolated_attention(module, query[part.rows], keys, values, mask, **options)
        outputs.append(output)
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs), None
