# SPDX-License-Identifier: Apache-2.0
"""Sequences laid end to end, as the padding-free collator hands them over."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def sequences(lengths: list[int], vocab: int = 300, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(5, vocab, (length,), generator=generator) for length in lengths]


def pack(parts: list[Tensor]) -> dict[str, Any]:
    lengths = [len(part) for part in parts]
    return {
        "input_ids": torch.cat(parts)[None],
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        "cu_seqlens": torch.tensor([0, *lengths]).cumsum(0).to(torch.int32),
        "max_seqlen": max(lengths),
    }
