# SPDX-License-Identifier: Apache-2.0
"""Continuous batching, the model's side: read a prompt, then make one token for every sequence in one forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from ..model.families.family import continues_as_text, isolation
from ..model.media_inputs import on_device
from ..model.rope import rope_kinds
from .kv_pool import Layers, Pools, Slot
from .ragged_attention import RAGGED, Prompts, Step, register

# Rotary embeddings that look at the longest sequence of the batch: a sequence would depend on its neighbours.
_ROPE_OF_THE_BATCH = {"dynamic", "longrope"}


def can_batch(model: Any) -> bool:
    """Whether sequences of different lengths can share a forward pass of this (base) model.

    It needs an attention that can be replaced in every layer, and ordinary keys and values; recurrent layers, chunked
    attention and the like are answered one at a time.
    """
    config = model.config.get_text_config()
    layers = DynamicCache(config=config).layers
    return (
        isolation(type(model), config).works
        and not rope_kinds(config).keys() & _ROPE_OF_THE_BATCH
        and not getattr(config, "num_kv_shared_layers", 0)
        and all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)
    )


def can_join(model: Any) -> bool:
    """Whether an answer to a prompt with media can share forward passes once the prompt was read (of such a model that
    :func:`can_batch` is true of)."""
    return continues_as_text(model.config)


@dataclass(eq=False)
class Reading:
    """A prompt on its way through the model: what was read of it."""

    layers: Layers = ()
    read: int = 0
    shift: int = 0  # see Slot
    cache: DynamicCache | None = None  # while it is read in parts


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


class ModelRunner:
    """Runs the model for many sequences. Lives on one thread.

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

    def read_part(self, reading: Reading, ids: Sequence[int], adapter: str | None) -> Tensor:
        """Read the next part of one long prompt by the model's own attention; return what follows, ``[1, V]``."""
        # Every layer keeps all tokens, also where the model has a window: the attention of decoding applies it.
        reading.cache = reading.cache or DynamicCache()
        positions = torch.arange(reading.read, reading.read + len(ids))[None]
        logits = self._forward(adapter, [list(ids)], positions, past_key_values=reading.cache, logits_to_keep=1)
        reading.read += len(ids)
        reading.layers = [(layer.keys[0], layer.values[0]) for layer in reading.cache.layers]
        return logits[:, -1]

    def read_whole(self, prompts: Sequence[Sequence[int]], adapter: str | None) -> tuple[list[Reading], Tensor]:
        """Read prompts laid end to end, each kept apart; return what follows each, ``[prompts, V]``."""
        lengths = [len(ids) for ids in prompts]
        ends = [0, *accumulate(lengths)]
        last = torch.tensor(ends[1:], device=self._model.device) - 1
        cache = DynamicCache()
        with self._ragged_attention():
            logits = self._forward(
                adapter,
                [[token for ids in prompts for token in ids]],
                torch.cat([torch.arange(length) for length in lengths])[None],
                past_key_values=cache,
                logits_to_keep=last,
                ragged=Prompts(ends),
            )
        readings = [
            Reading(
                [(layer.keys[0, :, start:end], layer.values[0, :, start:end]) for layer in cache.layers], end - start
            )
            for start, end in pairwise(ends)
        ]
        # A few models (VideoLLaMA 3) compute all logits whatever they are asked to keep.
        return readings, logits[0] if logits.shape[1] == len(prompts) else logits[0, last]

    def read_media(
        self, ids: Sequence[int], inputs: Mapping[str, Any], adapter: str | None
    ) -> tuple[list[Reading], Tensor]:
        """Read one prompt with media, as ``model.generate`` does it; return what follows, ``[1, V]``."""
        self.adapters.use(adapter)
        cache = DynamicCache()
        input_ids = torch.tensor([ids], device=self._model.device)
        out = self._model.generate(
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            past_key_values=cache,
            generation_config=GenerationConfig(
                max_new_tokens=1, do_sample=False, pad_token_id=0, return_dict_in_generate=True, output_logits=True
            ),
            **on_device(inputs, self._model),
        )
        layers = [(layer.keys[0], layer.values[0]) for layer in cache.layers]
        # Rotary positions of two and three dimensions leave their distance to the number of tokens in the model.
        deltas = [module.rope_deltas for module in self._model.modules() if hasattr(module, "rope_deltas")]
        return [Reading(layers, len(ids), int(deltas[0]) if deltas else 0)], out.logits[0]

    def admit(self, owner: Any, reading: Reading, first: int, adapter: str | None) -> None:
        """Give a sequence whose prompt was read a slot; ``first`` is its first token."""
        pools = self._pools.setdefault(adapter, Pools())
        slot = Slot(owner, reading.read, first, reading.shift)
        pools.add(slot, reading.layers)
        self._owner[owner] = (pools, slot)

    def drop(self, owner: Any) -> None:
        """Free a sequence's slot, if it has one."""
        held = self._owner.pop(owner, None)
        if held is not None:
            held[0].remove(held[1])

    def groups(self) -> list[str | None]:
        """Adapters that have sequences under way."""
        return [adapter for adapter, pools in self._pools.items() if len(pools)]

    def step(self, adapter: str | None) -> tuple[list[Any], Tensor]:
        """Compute what follows the newest token of an adapter's sequences: their owners, and logits ``[rows, V]``.

        The caller then says which token was sampled (:meth:`advance`) or drops the sequence.
        """
        pools = self._pools[adapter]
        step = Step(pools.parts(self._model.device))
        slots = pools.slots()
        with self._ragged_attention():
            positions = torch.tensor([[slot.length + slot.shift] for slot in slots], device=self._model.device)
            logits = self._forward(adapter, [[slot.last] for slot in slots], positions, ragged=step)
        for slot in slots:
            slot.length += 1
        return [slot.owner for slot in slots], logits[:, -1]

    def advance(self, owner: Any, token_id: int) -> None:
        """Note the token that was sampled for a sequence."""
        self._owner[owner][1].last = token_id

    def _forward(self, adapter: str | None, ids: list[list[int]], positions: Tensor, **options: Any) -> Tensor:
        self.adapters.use(adapter)
        device = self._model.device
        return self._model(
            input_ids=torch.tensor(ids, device=device),
            position_ids=positions.to(device),
            use_cache="past_key_values" in options,
            **options,
        ).logits

    @contextmanager
    def _ragged_attention(self) -> Iterator[None]:
        before = self._config._attn_implementation
        self._config._attn_implementation = RAGGED
        try:
            yield
        finally:
            self._config._attn_implementation = before
