# SPDX-License-Identifier: Apache-2.0
"""Packed = separate, for every kind of attention, against transformers' own eager attention."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from llamafactory.extras import logging
from llamafactory.model import attention
from llamafactory.model.loader import choose_attention

from .packing import pack, sequences

KINDS = {
    "llama": {},
    "mistral": {"sliding_window": 5},
    "gemma2": {"sliding_window": 5, "attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 8},
    "gpt_oss": {"sliding_window": 5, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3": {},
}


@pytest.fixture(scope="module", params=KINDS)
def folder(request, make_tiny_model) -> Path:
    return make_tiny_model(request.param, **KINDS[request.param])


def load(folder: Path, implementation: str, dtype: torch.dtype = torch.float32):
    attention.register()
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=implementation, dtype=dtype)
    model.config.use_cache = False
    for name, weight in model.named_parameters():
        if name.endswith("sinks"):  # random ones are too small to matter
            torch.nn.init.normal_(weight, std=2.0, generator=torch.Generator().manual_seed(1))
    return model.eval()


def test_packed_logits_and_gradients_equal_separate_runs(folder):
    parts = sequences([9, 1, 14, 6])
    packed, separate = load(folder, "isolated"), load(folder, "eager")
    logits = packed(**pack(parts)).logits[0]
    expected = torch.cat([separate(part[None]).logits[0] for part in parts])
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)

    weight = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))
    (logits * weight).sum().backward()
    (expected * weight).sum().backward()
    for (name, mine), theirs in zip(packed.named_parameters(), separate.parameters(), strict=True):
        scale = theirs.grad.abs().max().clamp_min(1e-3)
        torch.testing.assert_close(mine.grad / scale, theirs.grad / scale, rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_change_in_one_sequence_leaves_the_others_bit_equal(folder, dtype):
    model = load(folder, "isolated", dtype)
    parts = sequences([11, 8, 13])
    other = sequences([11, 8, 13], seed=7)
    with torch.no_grad():
        before = model(**pack(parts)).logits[0]
        after = model(**pack([parts[0], other[1], parts[2]])).logits[0]
    assert not torch.equal(before[11:19], after[11:19])
    for others in (slice(0, 11), slice(19, None)):
        if "gpt_oss" in str(folder):  # experts batch the tokens of all sequences, which may round them differently
            atol = 1e-5 if dtype == torch.float32 else 1e-2
            torch.testing.assert_close(before[others], after[others], rtol=0, atol=atol)
        else:
            assert torch.equal(before[others], after[others])


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_batch_is_masked(folder, side):
    long, short = sequences([12, 7])
    blank = torch.zeros(5, dtype=torch.long)
    row = torch.cat([blank, short] if side == "left" else [short, blank])
    where = slice(5, None) if side == "left" else slice(0, 7)
    mask = torch.zeros(2, 12, dtype=torch.long)
    mask[0], mask[1, where] = 1, 1
    batch = {"input_ids": torch.stack([long, row]), "attention_mask": mask}
    batch["position_ids"] = (mask.cumsum(1) - 1).clamp_min(0)
    with torch.no_grad():
        logits = load(folder, "isolated")(**batch).logits
        expected = load(folder, "eager")(**batch).logits
    torch.testing.assert_close(logits[0], expected[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(logits[1, where], expected[1, where], rtol=0, atol=1e-5)


def test_the_varlen_kernel_is_called_as_documented(folder, monkeypatch):
    """The CUDA path on the CPU: the kernel is stood in for by what torch documents of it."""
    model = load(folder, "isolated")
    batch = pack(sequences([9, 1, 14]))
    with torch.no_grad():
        expected = model(**batch).logits

    def varlen_attn(q, k, v, cu_q, cu_k, max_q, max_k, *, scale, window_size, enable_gqa):
        assert cu_q.dtype == torch.int32 and torch.equal(cu_q, cu_k) and max_q == max_k == 14
        out = torch.empty_like(q)
        for a, b in pairwise(cu_q.tolist()):
            place = torch.arange(b - a)
            before = place[:, None] - place[None]
            allowed = (before >= 0) & (before <= (window_size[0] if window_size[0] >= 0 else b - a))
            assert window_size[1] == 0
            parts = [x[a:b].transpose(0, 1)[None] for x in (q, k, v)]
            answer = torch.nn.functional.scaled_dot_product_attention(
                *parts, attn_mask=allowed, scale=scale, enable_gqa=enable_gqa
            )
            out[a:b] = answer[0].transpose(0, 1)
        calls.append(q.shape)
        return out

    calls = []
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_attn)
    monkeypatch.setattr(attention, "_varlen_fits", lambda q, options: options.softcap is None and options.sinks is None)
    with torch.no_grad():
        torch.testing.assert_close(model(**batch).logits, expected, rtol=0, atol=1e-5)
    assert len(calls) == (0 if "gemma2" in str(folder) or "gpt_oss" in str(folder) else 2)


def test_dropout_reaches_the_attention_weights(make_tiny_model):
    model = load(make_tiny_model(attention_dropout=0.5), "isolated")
    batch = pack(sequences([9, 6]))
    with torch.no_grad():
        calm = model(**batch).logits
        assert torch.equal(calm, model(**batch).logits)
        assert not torch.allclose(calm, model.train()(**batch).logits)


def test_generation_uses_ordinary_attention_and_gives_it_back(tiny_llama):
    model, plain = load(tiny_llama, "isolated"), load(tiny_llama, "sdpa")
    prompt = torch.stack(sequences([6, 6]))
    mask = torch.ones_like(prompt)
    mask[0, :2] = 0
    options = {"attention_mask": mask, "max_new_tokens": 5, "do_sample": False}
    with attention.generation_attention(model):
        assert attention.implementation(model) == "sdpa" and not attention.is_isolating(model)
        answer = model.generate(prompt, **options)
    assert attention.implementation(model) == "isolated" and attention.is_isolating(model)
    assert torch.equal(answer, plain.generate(prompt, **options))


@pytest.mark.parametrize(
    ("kind", "keys", "asked", "trainable", "expected"),
    [
        ("llama", {}, "auto", True, "isolated"),
        ("llama", {}, "auto", False, "sdpa"),
        ("llama", {}, "sdpa", True, "sdpa"),
        ("llama", {}, "disabled", True, "eager"),
        ("gemma2", {}, "auto", True, "isolated"),
        ("gemma2", {}, "auto", False, "eager"),  # SDPA has no soft cap
        ("gpt_oss", {}, "auto", False, "eager"),  # nor sinks
        ("qwen3_next", {}, "auto", True, "sdpa"),  # linear-attention layers
        ("mamba", {}, "auto", True, "eager"),
        ("qwen2_moe", {}, "auto", True, "isolated"),
        ("phimoe", {"sliding_window": 128}, "auto", True, "sdpa"),  # window only in the mask
    ],
)
def test_choice_of_attention(kind, keys, asked, trainable, expected):
    config = AutoConfig.for_model(kind, **keys)
    assert choose_attention(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], config, asked, trainable) == expected


@pytest.mark.parametrize(("asked", "name"), [("fa2", "flash_attention_2"), ("fa3", "flash_attention_3")])
def test_flash_attention_that_is_missing_is_said_and_left_out(asked, name, monkeypatch, capsys):
    """77 of 316 files of users ask for it; transformers stops where it is not there."""
    monkeypatch.setattr(logging, "_said", set())
    config = AutoConfig.for_model("llama")
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    for trainable in (True, False):
        assert choose_attention(model_class, config, asked, trainable) == choose_attention(
            model_class, config, "auto", trainable
        )
    assert capsys.readouterr().err.count(f"flash_attn: {asked} is left out, auto is used") == 1
    monkeypatch.setattr(f"transformers.utils.is_flash_attn_{asked[-1]}_available", lambda: True)
    assert choose_attention(model_class, config, asked, True) == name


def test_plain_sdpa_is_not_trusted_to_isolate(tiny_llama):
    assert not attention.is_isolating(load(tiny_llama, "sdpa"))
