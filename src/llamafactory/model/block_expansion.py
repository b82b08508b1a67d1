# SPDX-License-Identifier: Apache-2.0
"""LLaMA-Pro (2401.02415): blocks are copied in between, at first without effect, and only they are trained."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..extras.errors import ConfigError
from ..extras.files import publish_folder
from ..extras.locks import staging_folder

FIELD = "expanded_blocks"  # of config.json: the numbers of the blocks that were inserted
_OUTPUTS = re.compile(r"(^|\.)(o_proj|out_proj|down_proj|w2|wo|fc2|c_proj|dense|dense_4h_to_h)(\.(weight|bias))?$")


def expanded_blocks(config: Any, count: int, layers: int) -> list[int]:
    """Return the inserted blocks: those that ``config.json`` names, else the last of each of ``count`` equal parts.

    Args:
        config: Of the expanded model.
        count: ``freeze_trainable_layers``, for models that other programs expanded.
        layers: Blocks of the model.

    Raises:
        ConfigError: Neither says which they are.
    """
    noted = getattr(config.get_text_config(), FIELD, None)
    if noted:
        return [int(number) for number in noted]
    if count < 1 or layers % count or layers == count:
        raise ConfigError(
            f"use_llama_pro: config.json has no {FIELD}, and {layers} blocks are not {count} parts that end in an "
            "inserted one each; make the model by scripts/llama_pro.py, or give freeze_trainable_layers"
        )
    part = layers // count
    return list(range(part - 1, layers, part))


def expand(model: Any, count: int) -> list[int]:
    """Put a copy behind the last block of each of ``count`` equal parts, in place; its outputs are 0.

    Returns:
        The numbers of the copies.

    Raises:
        ConfigError: The blocks are not so many equal parts.
    """
    blocks, config = model.get_decoder().layers, model.config.get_text_config()
    layers = len(blocks)
    if count < 1 or layers % count:
        raise ConfigError(f"num_expand: {count} does not divide the {layers} blocks of the model")
    part = layers // count
    order = [(number, copied) for number in range(layers) for copied in (False, True)]
    order = [(number, copied) for number, copied in order if not copied or (number + 1) % part == 0]
    for name in [key for key, value in vars(config).items() if isinstance(value, list) and len(value) == layers]:
        setattr(config, name, [getattr(config, name)[number] for number, _ in order])
    model.get_decoder().layers = nn.ModuleList(
        _silent(blocks[number]) if copied else blocks[number] for number, copied in order
    )
    found = [place for place, (_, copied) in enumerate(order) if copied]
    config.num_hidden_layers = len(order)
    setattr(config, FIELD, found)
    return found


@torch.no_grad()
def _silent(block: nn.Module) -> nn.Module:
    twin = copy.deepcopy(block)
    for name, weight in twin.named_parameters():
        if _OUTPUTS.search(name):
            weight.zero_()
    return twin


@torch.no_grad()
def expand_folder(model: str, output_dir: str, num_expand: int, shard_size: str = "5GB") -> list[int]:
    """Write an expanded model and prove that it computes what the model does.

    Args:
        model: Folder or hub name.
        output_dir: The new folder.
        num_expand: How many blocks are added.
        shard_size: Most bytes a file of weights.

    Returns:
        The numbers of the inserted blocks.

    Raises:
        ConfigError: The model cannot be expanded so, or the copies would not be without effect.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    final = Path(output_dir)
    if final.exists():
        raise ConfigError(f"output_dir: {final} is there already; choose another folder or remove it")
    base = AutoModelForCausalLM.from_pretrained(model, dtype="auto").eval()
    probe = torch.arange(5, 21)[None] % base.config.get_text_config().vocab_size
    expected = base(input_ids=probe, use_cache=False).logits
    found = expand(base, num_expand)
    final.parent.mkdir(parents=True, exist_ok=True)
    with staging_folder(final, "output_dir") as staging:
        base.save_pretrained(staging, max_shard_size=shard_size)
        AutoTokenizer.from_pretrained(model).save_pretrained(staging)
        del base
        written = AutoModelForCausalLM.from_pretrained(staging, dtype="auto").eval()
        if not torch.equal(written(input_ids=probe, use_cache=False).logits, expected):
            raise ConfigError(
                f"model: blocks of '{model}' cannot be copied without effect; its outputs have other names"
            )
        publish_folder(staging, final)
    return found
