# SPDX-License-Identifier: Apache-2.0
"""Kernels in a model: equal to transformers' own in float32, as near to it in bfloat16, and in that model alone."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma3TextConfig,
    LlamaConfig,
    Phi3Config,
    PhiConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)

from llamafactory.model import kernels, load_model, load_tokenizer
from llamafactory.model.kernels import native
from llamafactory.train.token_scores import attach

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ROTARY, MLP, NORM = "rotary positions", "gated MLP", "RMSNorm"
EXPERTS = {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
FAMILIES = {  # and how many modules of each kind the kernels fit
    "llama": (LlamaConfig(**SIZES), {ROTARY: 2, MLP: 2, NORM: 5}),
    "qwen3": (Qwen3Config(**SIZES, head_dim=16), {ROTARY: 2, MLP: 2, NORM: 9}),
    "gemma3": (
        Gemma3TextConfig(**SIZES, head_dim=16, layer_types=["sliding_attention", "full_attention"], sliding_window=8),
        {ROTARY: 2, MLP: 2, NORM: 13},
    ),
    "phi3": (Phi3Config(**SIZES), {ROTARY: 2, NORM: 5}),  # gate and up are one layer
    "phi": (PhiConfig(**SIZES), {ROTARY: 2}),  # half of a head is turned; LayerNorm
    "cohere": (CohereConfig(**SIZES), {MLP: 2}),  # neighbouring numbers are turned; a norm with a mean
    "qwen3_moe": (Qwen3MoeConfig(**SIZES, **EXPERTS), {ROTARY: 2, NORM: 9}),
}


def make(family: str) -> torch.nn.Module:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES[family][0], dtype=torch.float32)
    with torch.no_grad():
        for weight in model.parameters():  # norms too: their weights begin at one
            weight.add_(torch.randn_like(weight), alpha=0.05)
    return model


def computed(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Logits, and the gradient of the loss with respect to each weight."""
    ids = torch.randint(3, 128, (2, 12), generator=torch.Generator().manual_seed(1))
    out = model(input_ids=ids, labels=ids, use_cache=False)
    out.loss.backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return {"logits": out.logits, **gradients}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_computes_what_transformers_does(family, caplog):
    plain = make(family)
    fast = copy.deepcopy(plain)
    assert kernels.use_kernels(fast) == FAMILIES[family][1]
    narrow = copy.deepcopy(fast).bfloat16()  # a copy has kernels of its own
    truth = computed(plain)
    for name, found in computed(fast).items():
        torch.testing.assert_close(found, truth[name], rtol=1e-5, atol=1e-5, msg=name)
    for name, found in computed(narrow).items():
        if truth[name].abs().max() > 1e-6:
            cosine = torch.cosine_similarity(found.flatten().double(), truth[name].flatten().double(), dim=0)
            assert cosine > 0.999, name
    assert not any("forward" in vars(module) for module in plain.modules())


def test_where_nothing_compiles_the_model_stays_as_it_is(monkeypatch):
    monkeypatch.setattr(native.shutil, "which", lambda name: None)
    for cached in (native._library, native._building):
        cached.cache_clear()
    try:
        model = make("llama")
        assert kernels.use_kernels(model) == {} and "no C++ compiler" in native.why_missing()
        assert not any("forward" in vars(module) for module in model.modules())
    finally:
        native._building.cache_clear()


def test_what_does_not_fit_goes_the_modules_own_way():
    model = make("llama")
    kernels.use_kernels(model)
    before = model.model.norm(torch.ones(2, 3, 64))
    assert model.double().model.norm(torch.ones(2, 3, 64).double()).dtype == torch.float64
    torch.testing.assert_close(model.float().model.norm(torch.ones(2, 3, 64)), before)
    assert model.to("meta")(input_ids=torch.zeros(1, 4, dtype=torch.long, device="meta")).logits.shape == (1, 4, 128)


LAYOUTS = {
    "dense": lambda: torch.randn(2, 5, 4, 16),
    "heads turned": lambda: torch.randn(2, 4, 5, 16).transpose(1, 2),
    "channels first": lambda: torch.randn(2, 16, 5).transpose(1, 2),
    "all turned": lambda: torch.randn(16, 4, 5, 2).permute(3, 2, 1, 0),
    "a slice": lambda: torch.randn(2, 5, 4, 32)[..., ::2],
    "some rows": lambda: torch.randn(2, 9, 16)[:, ::2],
    "spread": lambda: torch.randn(1, 5, 16).expand(3, 5, 16),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_however_numbers_lie_in_memory(layout):
    """Modules of media towers give their norms what convolutions left behind."""
    model = make("gemma3").model
    norm, mlp = copy.deepcopy(model.layers[0].self_attn.q_norm), copy.deepcopy(model.layers[0].mlp)
    kernels.use_kernels(model)
    fast_norm, fast_mlp = model.layers[0].self_attn.q_norm, model.layers[0].mlp
    torch.manual_seed(2)
    x = LAYOUTS[layout]()
    wide = torch.nn.functional.pad(x, (0, 48)).transpose(0, -2).contiguous().transpose(0, -2)
    for plain, fast, given in ((norm, fast_norm, x), (mlp, fast_mlp, wide)):
        outs = []
        for module in (plain, fast):
            leaf = given.detach().clone(memory_format=torch.preserve_format).requires_grad_()
            out = module(leaf)
            (out * torch.arange(out.numel()).reshape(out.shape)).sum().backward()
            outs.append((out, leaf.grad, *(weight.grad for weight in module.parameters())))
        for found, expected in zip(outs[1], outs[0], strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3 * float(expected.abs().max()))


def test_the_key_switches_all_of_them_off(tiny_llama, train_args, monkeypatch):
    """In this model alone: what a model without the key calls is counted beside it."""
    ids = torch.arange(3, 300)[None]
    called: dict[bool, set[str]] = {}
    for asked in (True, False, True):
        args = train_args(tiny_llama, bf16=True, kernels=asked)
        model = attach(load_model(load_tokenizer(args.model), args)).train()
        called[asked] = names = set()
        monkeypatch.setattr(
            native, "call", lambda name, *_, names=names, call=native.call: names.add(name) or call(name, *_)
        )
        model(input_ids=ids, labels=ids, score=True).log_probs.sum().backward()
        monkeypatch.undo()
    assert called[False] == set()
    assert called[True] >= {"log_prob", "attention_back", "rms_norm", "rms_norm_back", "glu", "rotary"}
