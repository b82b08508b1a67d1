# SPDX-License-Identifier: Apache-2.0
"""The model as the scheduler sees it: read a prompt, then make one token for every answer in one forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from ..model.families.family import isolation
from .kv_pool import RAGGED, Pools, Slot, register

# Rotary embeddings that look at the longest sequence of the batch: an answer would depend on its neighbours.
_ROPE_OF_THE_BATCH = {"dynamic", "longrope"}


def can_batch(model: Any) -> bool:
    """Whether answers of different lengths can share a forward pass of this (base) model.

    It needs transformers' attention interface in every layer and ordinary keys and values; recurrent layers, chunked
    attention and the like are answered one at a time.
    """
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = {rope.get("rope_type")} | {part.get("rope_type") for part in rope.values() if isinstance(part, dict)}
    layers = DynamicCache(config=config).layers
    return (
        isolation(type(model), config).works
        and not kinds & _ROPE_OF_THE_BATCH
        and not getattr(config, "num_kv_shared_layers", 0)
        and all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)
    )


@dataclass(eq=False)
class Reading:
    """A prompt on its way through the model."""

    cache: DynamicCache
    read: int = 0


class Adapters:
    """Chooses which named adapter computes; ``None`` is the model without them."""

    def __init__(self, model: Any, names: Sequence[str]) -> None:
        self._model = model
        self._named = bool(names)
        self._now: str | None = names[0] if names else None

    def use(self, name: str | None) -> None:
        """Switch, if another one is in use."""
        if not self._named or name == self._now:
            return
        if name is None:
            self._model.base_model.disable_adapter_layers()
        else:
            self._model.base_model.enable_adapter_layers()
            self._model.set_adapter(name, inference_mode=True)
        self._now = name


class BatchRunner:
    """Runs the model for many answers. Lives on one thread.

    Args:
        model: A causal language model, or a ``PeftModel`` with named adapters.
        adapters: Names of these adapters.
    """

    def __init__(self, model: Any, adapters: Sequence[str]) -> None:
        register()
        self._model = model
        self._config = (model.get_base_model() if adapters else model).config.get_text_config()
        self.adapters = Adapters(model, adapters)
        self._pools: dict[str | None, Pools] = {}
        self._owner: dict[Any, tuple[Pools, Slot]] = {}

    def __len__(self) -> int:
        return len(self._owner)

    def begin(self) -> Reading:
        """Begin to read a prompt."""
        # Every layer keeps all tokens, also where the model has a window: the attention of decoding applies it.
        return Reading(DynamicCache())

    def read(self, reading: Reading, ids: Sequence[int], adapter: str | None) -> Tensor:
        """Read the next part of a prompt by the model's own attention; return the logits after it, ``[1, V]``."""
        self.adapters.use(adapter)
        input_ids = torch.tensor([list(ids)], device=self._model.device)
        positions = torch.arange(reading.read, reading.read + len(ids), device=input_ids.device)[None]
        output = self._model(
            input_ids=input_ids,
            position_ids=positions,
            past_key_values=reading.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        reading.read += len(ids)
        return output.logits[:, -1]

    def admit(self, owner: Any, reading: Reading, first: int, adapter: str | None) -> None:
        """Give an answer whose prompt was read a slot; ``first`` is its first token."""
        pools = self._pools.setdefault(adapter, Pools())
        slot = Slot(owner, reading.read, first)
        pools.add(slot, [(layer.keys[0], layer.values[0]) for layer in reading.cache.layers])
        self._owner[owner] = (pools, slot)

    def drop(self, owner: Any) -> None:
        """Free an answer's slot, if it has one."""
        held = self._owner.pop(owner, None)
        if held is not None:
            held[0].remove(held[1])

    def groups(self) -> list[str | None]:
        """Adapters that have answers under way."""
        return [adapter for adapter, pools in self._pools.items() if len(pools)]

    def step(self, adapter: str | None) -> tuple[list[Any], Tensor]:
        """Compute what follows the newest token of every answer of an adapter: their owners, and logits ``[rows, V]``.

        The caller then says which token was chosen (:meth:`advance`) or drops the answer.
        """
        self.adapters.use(adapter)
        pools = self._pools[adapter]
        ragged = pools.ragged(self._model.device)
        slots = pools.slots()
        with self._ragged_attention():
            output = self._model(
                input_ids=torch.tensor([[slot.last] for slot in slots], device=self._model.device),
                position_ids=ragged.positions(),
                use_cache=False,
                ragged=ragged,
            )
        for slot in slots:
            slot.length += 1
        return [slot.owner for slot in slots], output.logits[:, -1]

    def advance(self, owner: Any, token_id: int) -> None:
        """Note the token an answer chose."""
        self._owner[owner][1].last = token_id

    @contextmanager
    def _ragged_attention(self) -> Iterator[None]:
        before = self._config._attn_implementation
        self._config._attn_implementation = RAGGED
        try:
            yield
        finally:
            self._config._attn_implementation = before
