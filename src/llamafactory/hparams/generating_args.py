# SPDX-License-Identifier: Apache-2.0
"""How text is generated in chat, predict and export checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from .field import arg


@dataclass(frozen=True)
class GeneratingArguments:
    """TODO"""

    do_sample: bool = arg(True, "Sampling vs greedy.")
    temperature: float = arg(0.95, "Softmax temperature.")
    top_p: float = arg(0.7, "Nucleus mass.")
    top_k: int = arg(50, "Candidate count.")
    num_beams: int = arg(1, "Beam width.")
    max_length: int = arg(1024, "Total length cap (dropped when max_new_tokens > 0).")
    max_new_tokens: int = arg(1024, "Generated-token cap (when > 0).")
    repetition_penalty: float = arg(1.0, "Multiplicative repeat penalty.")
    length_penalty: float = arg(1.0, "Beam length exponent.")
    skip_special_tokens: bool = arg(True, "Hide special tokens in decoded text.")
