# SPDX-License-Identifier: Apache-2.0
"""Another order of a weight in memory changes nothing else: values, shapes and ties stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from llamafactory.chat.weight_layout import lay_out_for_rows


def test_only_the_order_in_memory_changes(make_tiny_model: Any) -> None:
    folder = make_tiny_model(tie_word_embeddings=True, intermediate_size=128)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    lay_out_for_rows(model)
    up, down = model.model.layers[0].mlp.up_proj.weight, model.model.layers[0].mlp.down_proj.weight
    assert not up.is_contiguous() and up.t().is_contiguous() and down.is_contiguous()
    assert not model.lm_head.weight.is_contiguous() and model.lm_head.weight is model.model.embed_tokens.weight
    for (name, weight), other in zip(model.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(weight, other), name
    for length in (1, 7):  # a step of decoding, a prompt
        ids = torch.randint(5, 400, (1, length), generator=torch.Generator().manual_seed(length))
        with torch.inference_mode():
            torch.testing.assert_close(model(ids).logits, plain.double()(ids).logits.float())


def test_bfloat16_stays_as_it_is(tiny_llama: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.bfloat16)
    lay_out_for_rows(model)
    assert all(weight.is_contiguous() for weight in model.parameters())
