# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of models that are written under other names than their modules have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import PreTrainedModel


def load_renamed(model: Any, folder: Path) -> bool:
    """Load whole weights that transformers wrote in the layout of the hub.

    Many models that take media are written so (``visual.*`` for ``model.visual.*``); transformers' Trainer would look
    for the names of the modules, find none and go on with the weights of the start.

    Args:
        model: Without wrappers of distributed training.
        folder: A checkpoint.

    Returns:
        Whether they were loaded; else the names are those of the modules, or these are no whole weights.
    """
    files = list(folder.glob("model*.safetensors"))
    if not files or not isinstance(model, PreTrainedModel):
        return False
    names: set[str] = set()
    for file in files:
        with safe_open(file, "pt") as tensors:
            names |= set(tensors.keys())
    if names <= model.state_dict().keys():
        return False
    # In float32, so that weights of either type come back bit by bit.
    saved = type(model).from_pretrained(folder, config=model.config, dtype=torch.float32)
    model.load_state_dict(saved.state_dict(), strict=False)
    return True
