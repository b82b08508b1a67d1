# SPDX-License-Identifier: Apache-2.0
"""Prompt tuning and its like: trained vectors stand before every sequence, wherever its padding is.

PEFT puts them before the padding and lets positions run through it, so that a row of a left-padded batch is answered
otherwise than alone. Here they stand right before the first token, and the text goes on at the position behind them.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from peft import PeftModelForCausalLM
from torch import Tensor


class VirtualTokens(PeftModelForCausalLM):
    """A language model whose every sequence begins with trained vectors (prompt tuning, p-tuning).

    It is called like the model itself: ``input_ids [B, L]`` hold the text alone, and so do logits, labels and positions
    that come and go.
    """

    @property
    def prefix_length(self) -> int:
        """How many vectors stand before the text."""
        return int(self.active_peft_config.num_virtual_tokens)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        assert input_ids is not None, "the text comes as tokens"
        embeds, mask, order = self._behind_prefix(input_ids, attention_mask)
        k, length = self.prefix_length, input_ids.shape[1]
        if position_ids is None:
            positions = (mask.cumsum(1) - 1).clamp(min=0)
        else:
            own = torch.arange(k, device=mask.device).expand(len(mask), k)
            positions = torch.cat([own, position_ids + k], 1).gather(1, order)
        if labels is not None:
            kwargs |= _of_both(order, k, labels=labels, weights=kwargs.pop("weights", None))
        places = kwargs.pop("positions", None)
        if places is not None:  # of trained tokens: no row of theirs is padded on the left
            kwargs["positions"] = places + k * (places // length + 1)
        output = self.base_model(inputs_embeds=embeds, attention_mask=mask, position_ids=positions, **kwargs)
        return _of_text(output, length, places)

    def generate(self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        """Generate as the model itself does; what comes back begins with ``input_ids``."""
        embeds, mask, _ = self._behind_prefix(input_ids, attention_mask)
        config = copy.deepcopy(kwargs.pop("generation_config", None) or self.base_model.generation_config)
        config.use_cache = True  # without it each step would read the text without what stands before it
        if config.max_new_tokens is None and config.max_length is not None:
            config.max_new_tokens = max(config.max_length - input_ids.shape[1], 1)
        return self.base_model.generate(
            input_ids=input_ids, inputs_embeds=embeds, attention_mask=mask, generation_config=config, **kwargs
        )

    def _behind_prefix(self, input_ids: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Put the vectors before the text of each row.

        Returns:
            Embeddings ``[B, k + L, d]``, mask ``[B, k + L]``, and where each column comes from, in prefix + row.
        """
        rows, length = input_ids.shape
        k = self.prefix_length
        text = self.base_model.get_input_embeddings()(input_ids)
        prefix = self.get_prompt(batch_size=rows).to(text.dtype)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        columns = torch.arange(k + length, device=mask.device).expand(rows, -1)
        padding = mask.long().argmax(1, keepdim=True)  # columns before the first token
        inside = (columns >= padding) & (columns < padding + k)
        order = torch.where(columns < padding, columns + k, torch.where(inside, columns - padding, columns))
        embeds = torch.cat([prefix, text], 1).gather(1, order[..., None].expand(-1, -1, text.shape[-1]))
        both = torch.cat([mask.new_ones(rows, k), mask], 1).gather(1, order)
        return embeds, both, order


def _of_both(order: Tensor, k: int, **tensors: Tensor | None) -> dict[str, Tensor]:
    """Labels and weights of prefix and text: the prefix is not trained on."""
    ignored = {"labels": -100, "weights": 0}
    return {
        name: torch.cat([value.new_full((len(value), k), ignored[name]), value], 1).gather(1, order)
        for name, value in tensors.items()
        if value is not None
    }


def _of_text(output: Any, length: int, places: Tensor | None) -> Any:
    """Leave out what was computed for the prefix, which is on the left; a model's padding there means nothing."""
    logits = getattr(output, "logits", None)  # of an anchor: what makes them
    if isinstance(logits, Tensor) and logits.shape[1] > length:
        output.logits = logits[:, -length:]
    if places is not None and hasattr(output, "_replace"):
        output = output._replace(positions=places)
    return output


def begin_with_prefix(model: Any) -> Any:
    """Let a fresh or loaded prompt-learning adapter of PEFT put its vectors where they belong."""
    if str(model.active_peft_config.peft_type.value) != "PREFIX_TUNING":
        model.__class__ = VirtualTokens
    return model
