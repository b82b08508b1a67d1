# SPDX-License-Identifier: Apache-2.0
"""What a padding-free batch with media must be told: positions and attention inside each of its sequences.

Models find both by themselves for padded rows. Of rows that are laid end to end they would count positions through,
or let pictures of one sequence see those of another; so both are computed here, sequence by sequence.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from .families.family import crosses_over, media_sees_itself, prompt_types
from .towers import outside_language

# Of our batches; inside a tower they would be taken for its own.
OURS = ("cu_seqlens", "max_seqlen", "shared_prefix", "media_blocks")


def on_device(inputs: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """Inputs of a model where it is and in its type."""
    return {
        name: value.to(model.device, model.dtype if value.is_floating_point() else None)
        if isinstance(value, Tensor)
        else value
        for name, value in inputs.items()
    }


def prompt_inputs(model: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
    """What ``model.generate`` is given of a batch of prompts ``[B, L]``."""
    inputs = on_device(batch, model)
    return prompt_types(model, inputs["input_ids"]) | inputs


def packed_inputs(causal_lm: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """Return the inputs of a batch with what is needed to compute its media in each sequence as if it were alone.

    Args:
        causal_lm: The transformers model, without wrappers.
        inputs: A batch; positions and blocks are only of one with ``cu_seqlens`` [S + 1] and media.

    Returns:
        ``position_ids`` [3, 1, T] where places have three dimensions; ``media_blocks`` [T] where a medium sees all of
        itself: its number, -1 for text. Media that the processor gives in few bits (Llama 4) have the model's type.
    """
    for name, value in inputs.items():
        if isinstance(value, Tensor) and value.dtype == torch.bfloat16 != causal_lm.dtype:
            inputs = inputs | {name: value.to(causal_lm.dtype)}
    if "cu_seqlens" not in inputs:
        return inputs
    made = dict(inputs)
    decoder = getattr(causal_lm, causal_lm.base_model_prefix)
    if any(name.endswith("grid_thw") for name in inputs) and hasattr(decoder, "get_rope_index"):
        made["position_ids"] = _positions(decoder, inputs)
    types = inputs.get("token_type_ids")
    if types is not None and media_sees_itself(causal_lm.config):
        made["media_blocks"] = _blocks(types[0] == 1)
    return made


def _positions(decoder: Any, inputs: dict[str, Any]) -> Tensor:
    """Positions [3, 1, T] by the model's own function, which is given each sequence as a row."""
    bounds = inputs["cu_seqlens"].tolist()
    lengths = [end - start for start, end in pairwise(bounds)]
    mask = _rows(inputs["input_ids"].new_ones(bounds[-1]), lengths)
    asked = inspect.signature(decoder.get_rope_index).parameters
    given = {name: value for name, value in inputs.items() if name in asked}
    per_token = [name for name in ("input_ids", "mm_token_type_ids") if name in given]
    given |= {name: _rows(inputs[name][0], lengths) for name in per_token}
    positions, _ = decoder.get_rope_index(**{**given, "attention_mask": mask})
    return positions[:, mask.bool()].unsqueeze(1)


def _rows(line: Tensor, lengths: list[int]) -> Tensor:
    """``[T]`` to ``[S, longest]``, filled up with 0."""
    return nn.utils.rnn.pad_sequence(line.split(lengths), batch_first=True)


def _blocks(is_media: Tensor) -> Tensor:
    """Number the runs of true values; -1 elsewhere. Runs of neighbouring sequences are told apart by their bounds."""
    starts = is_media & ~torch.cat([is_media.new_zeros(1), is_media[:-1]])
    return torch.where(is_media, starts.cumsum(0) - 1, -1)


def rows_alike(causal_lm: Any, inputs: Mapping[str, Any]) -> list[tuple[Tensor, dict[str, Any]]]:
    """Cut a padded batch of a model with cross attention into rows that have as many images.

    A token that sees no image is given the mean of all that the batch has for its row, and what fills that up is among
    them; so rows with fewer images than others would be computed otherwise than alone.

    Returns:
        Numbers of rows, and their inputs; all in one for every other model.
    """
    numbers = inputs.get("aspect_ratio_ids")  # [B, images], 0 = fills up
    if numbers is None or not crosses_over(causal_lm.config):
        return [(torch.arange(0), dict(inputs))]
    counts = (numbers > 0).sum(1)
    found = []
    for count in counts.unique().tolist():
        rows = (counts == count).nonzero().squeeze(1)
        part = {name: value[rows] if isinstance(value, Tensor) else value for name, value in inputs.items()}
        for name in ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask"):
            part[name] = part[name][:, :count]
        part["cross_attention_mask"] = part["cross_attention_mask"][:, :, :count]
        if not count:
            part = {name: value for name, value in part.items() if name in ("input_ids", "attention_mask")}
        found.append((rows, part))
    return found


def shield_towers(model: Any) -> None:
    """Keep keywords of ours, which models hand on to whatever they call, out of all but the language model."""
    outside = outside_language(model)
    if outside is None:
        return
    taken = "-"
    for name, module in model.named_modules():
        if name and not name.startswith(taken) and re.fullmatch(outside, name):
            taken = f"{name}."  # the modules in a tower have such keywords of their own
            module.register_forward_pre_hook(_without_ours, with_kwargs=True)


def _without_ours(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args, {name: value for name, value in kwargs.items() if name not in OURS}
