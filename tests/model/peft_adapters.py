# SPDX-License-Identifier: Apache-2.0
"""Adapters made by PEFT itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM


def base(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder)


def save(model_folder: Path, folder: Path, config: Any) -> Path:
    """An adapter by PEFT whose trained weights are random."""
    torch.manual_seed(3)
    tuned = get_peft_model(base(model_folder), config)
    with torch.no_grad():
        for weight in tuned.parameters():
            if weight.requires_grad:
                weight.add_(0.05 * torch.randn_like(weight))
    tuned.save_pretrained(folder)
    return folder
