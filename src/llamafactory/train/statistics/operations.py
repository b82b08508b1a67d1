# SPDX-License-Identifier: Apache-2.0
"""Floating-point operations of a forward pass, counted on a model without weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.utils.flop_counter import FlopCounterMode

if TYPE_CHECKING:
    from ...hparams import TrainArgs


def count_operations(args: TrainArgs, batch_size: int, seq_length: int) -> tuple[int, int]:
    """Return the operations of one forward pass (a multiplication and an addition are two) and the parameters.

    Matrix products and attention are counted as torch counts them; what is done element by element is not. No weights
    are read.

    Args:
        args: Names the model.
        batch_size: Rows.
        seq_length: Tokens of each.

    Raises:
        ConfigError: The model's configuration cannot be found, or is none of a language model.
    """
    from ...model.config import language_class
    from ...model.empty import planned_config

    config = planned_config(args)
    config._attn_implementation = "eager"
    with torch.device("meta"):
        model = language_class(config).from_config(config).eval()
        ids = torch.ones(batch_size, seq_length, dtype=torch.long)
        mask = torch.zeros(batch_size, 1, seq_length, seq_length)  # one that is given is not looked at
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            model(input_ids=ids, attention_mask=mask, use_cache=False)
    return counter.get_total_flops(), sum(weight.numel() for weight in model.parameters())


def rate_to_begin_with(batch_tokens: float, narrow: bool = False) -> float:
    """Return a learning rate for full fine-tuning, by the square root of the batch's trained tokens.

    LLaMA's pre-training took 3e-4 with 4 million tokens a step (Touvron et al. 2023, table 2); Adam's rate goes with
    the square root of the batch (Malladi et al. 2022).

    Args:
        batch_tokens: Trained tokens of a step.
        narrow: A family of a narrower distribution of weights (Mistral, Gemma): a sixth.
    """
    rate = 3e-4 * (batch_tokens / 4e6) ** 0.5
    return float(rate / 6 if narrow else rate)
