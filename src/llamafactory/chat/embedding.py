# SPDX-License-Identifier: Apache-2.0
"""Vectors of texts: the mean of a language model's last hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..extras.errors import ConfigError
from ..model.whole import require_finite
from ..model.wrapping import beneath_adapters

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ROWS = 8


@torch.inference_mode()
def embed_texts(
    model: Any, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], context: int | None = None
) -> list[list[float]]:
    """Return one vector of unit length for each text.

    Args:
        model: A causal language model, with or without adapters.
        tokenizer: The model's own.
        texts: Texts as they are; the tokenizer's own special tokens are added.
        context: Most tokens the model takes.

    Raises:
        ConfigError: A text has no tokens, or too many.
    """
    ids = [tokenizer(text)["input_ids"] for text in texts]
    for place, tokens in enumerate(ids):
        if not tokens:
            raise ConfigError(f"text {place + 1} is empty")
        if context is not None and len(tokens) > context:
            raise ConfigError(f"text {place + 1} has {len(tokens)} tokens, the model takes {context}")
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        raise ConfigError("embeddings are of texts alone, without the trained prompt of adapter_name_or_path")
    core = beneath_adapters(model)
    order = sorted(range(len(ids)), key=lambda place: len(ids[place]))
    vectors: dict[int, list[float]] = {}
    for start in range(0, len(order), _ROWS):
        places = order[start : start + _ROWS]
        batch = tokenizer.pad(
            {"input_ids": [ids[place] for place in places]}, return_tensors="pt", padding_side="right"
        )
        batch = batch.to(model.device)
        hidden = core.get_decoder()(**batch, use_cache=False).last_hidden_state.float()
        mask = batch["attention_mask"][..., None]
        mean = (hidden * mask).sum(1) / mask.sum(1)
        require_finite(mean, "hidden states")
        unit = torch.nn.functional.normalize(mean, dim=-1).tolist()
        vectors.update(zip(places, unit, strict=True))
    return [vectors[place] for place in range(len(ids))]
