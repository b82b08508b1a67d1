# SPDX-License-Identifier: Apache-2.0
"""Number formats, recomputation, and the switches of loading."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from llamafactory.extras.errors import ConfigError
from llamafactory.model import checkpointing, is_isolating, load_model, load_tokenizer, report
from llamafactory.model.rope import context_length, scale_rope

from .packing import pack, sequences


def build(args, **options):
    return load_model(load_tokenizer(args.model), args, **options)


def dtypes(model) -> dict[bool, set[torch.dtype]]:
    return {
        wanted: {weight.dtype for weight in model.parameters() if weight.requires_grad is wanted}
        for wanted in (True, False)
    }


@pytest.mark.parametrize(
    ("keys", "trained", "frozen"),
    [
        ({"bf16": True}, {torch.float32}, {torch.bfloat16}),
        ({"bf16": False}, {torch.float32}, {torch.float32}),
        ({"pure_bf16": True, "bf16": None}, {torch.bfloat16}, {torch.bfloat16}),
        ({"bf16": True, "finetuning_type": "full"}, {torch.float32}, set()),
        ({"pure_bf16": True, "bf16": None, "finetuning_type": "full"}, {torch.bfloat16}, set()),
    ],
)
def test_number_formats(keys, trained, frozen, tiny_llama, train_args):
    model = build(train_args(tiny_llama, **keys))
    assert dtypes(model) == {True: trained, False: frozen}
    assert is_isolating(model)
    batch = pack(sequences([5, 9]))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=keys.get("finetuning_type") == "full"):
        out = model(**batch).logits
    out.float().pow(2).mean().backward()
    assert all(torch.isfinite(weight.grad).all() for weight in model.parameters() if weight.grad is not None)


def test_inference(tiny_llama, infer_args):
    for name in ("bfloat16", "float32"):
        model = build(infer_args(tiny_llama, infer_dtype=name), trainable=False)
        assert dtypes(model) == {True: set(), False: {getattr(torch, name)}}
        assert not model.training and not is_isolating(model) and model.config.use_cache
    assert not build(infer_args(tiny_llama, use_kv_cache=False), trainable=False).config.use_cache


def test_norms_in_float32_over_a_bfloat16_model(tiny_llama, train_args):
    model = build(train_args(tiny_llama, bf16=True, upcast_layernorm=True))
    norms = {weight.dtype for name, weight in model.named_parameters() if "norm" in name}
    assert norms == {torch.float32}
    assert model(**pack(sequences([5, 9]))).logits.dtype == torch.bfloat16


def test_report(tiny_llama, train_args):
    model = build(train_args(tiny_llama, lora_target="q_proj", lora_rank=2))
    # q_proj is 64 -> 64, two layers: 2 x (2 x 64 + 64 x 2)
    assert report.trainable_line(model).startswith("trainable params: 512 of ")
    table = report.parameter_table(model).splitlines()
    assert sum(line.endswith("trained") for line in table) == 4


def test_train_from_scratch(tiny_llama, train_args):
    args = train_args(tiny_llama, finetuning_type="full", train_from_scratch=True)
    stored = AutoModelForCausalLM.from_pretrained(tiny_llama).model.embed_tokens.weight
    fresh = build(args).model.embed_tokens.weight
    assert fresh.shape == stored.shape and not torch.equal(fresh, stored)


def test_router_loss(make_tiny_model, tiny_llama, train_args):
    folder = make_tiny_model("mixtral", num_local_experts=4, num_experts_per_tok=2)
    config = build(train_args(folder, moe_aux_loss_coef=0.25)).config
    assert (config.router_aux_loss_coef, config.output_router_logits) == (0.25, True)
    with pytest.raises(ConfigError, match="moe_aux_loss_coef: llama has no router loss"):
        build(train_args(tiny_llama, moe_aux_loss_coef=0.25))


def test_what_is_said(tiny_llama, make_tiny_model, train_args, tmp_path):
    AutoConfig.for_model("vit").save_pretrained(tmp_path / "vit")
    args = train_args(tiny_llama)
    wrong = dataclasses.replace(args, model=dataclasses.replace(args.model, model_name_or_path=str(tmp_path / "vit")))
    with pytest.raises(ConfigError, match="is a vit model, not a language model"):
        load_model(load_tokenizer(args.model), wrong)
    (tmp_path / "vit" / "config.json").write_text('{"model_type": "nobody-knows"}')
    with pytest.raises(ConfigError, match="nobody-knows"):
        load_model(load_tokenizer(args.model), wrong)
    AutoConfig.from_pretrained(tiny_llama).save_pretrained(tmp_path / "hollow")
    hollow = dataclasses.replace(
        args, model=dataclasses.replace(args.model, model_name_or_path=str(tmp_path / "hollow"))
    )
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_model(load_tokenizer(args.model), hollow)


# Recomputation ------------------------------------------------------------------------------------------------------


def recomputes(model) -> bool:
    core = model.get_base_model() if hasattr(model, "get_base_model") else model
    return core.is_activation_checkpointing


@pytest.mark.parametrize(
    ("keys", "free", "expected"),
    [
        ({}, 1 << 34, False),
        ({}, 1 << 20, True),
        ({"disable_gradient_checkpointing": True}, 1 << 20, False),
        ({"activation_checkpointing": True}, 1 << 34, True),
        ({"activation_checkpointing": False}, 1 << 20, False),
        ({"gradient_checkpointing": True}, 1 << 34, True),
        ({"activation_checkpointing": True, "activation_checkpointing_kwargs": {"every_n_layers": 2}}, 1 << 34, True),
    ],
)
def test_when_activations_are_recomputed(keys, free, expected, tiny_llama, train_args, monkeypatch):
    monkeypatch.setattr(checkpointing, "_free_bytes", lambda device: free)
    assert recomputes(build(train_args(tiny_llama, **keys))) is expected


def test_a_known_batch_size_decides(tiny_llama, train_args, monkeypatch):
    monkeypatch.setattr(checkpointing, "_free_bytes", lambda device: 1 << 26)
    args = train_args(tiny_llama, per_device_train_batch_size=8, cutoff_len=8192)
    assert recomputes(build(args))
    assert not recomputes(build(args, batch_tokens=512))


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("reentrant", [None, True])
def test_recomputed_gradients_are_the_same(kind, reentrant, tiny_llama, train_args):
    keys = {} if reentrant is None else {"use_reentrant_gc": reentrant}
    batch = pack(sequences([5, 9, 3]))
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = build(train_args(tiny_llama, finetuning_type=kind, gradient_checkpointing=recompute, **keys))
        assert recomputes(model) is recompute
        model(**batch).logits.pow(2).mean().backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_estimate_of_activations_is_near_what_autograd_keeps(kind, dtype, make_tiny_model):
    folder = make_tiny_model(kind, hidden_size=128, intermediate_size=352, head_dim=32, num_hidden_layers=3)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    tokens = 256
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = model.model(input_ids=torch.stack(sequences([tokens])), use_cache=False)
    assert out.last_hidden_state.requires_grad
    estimate = checkpointing.activation_bytes(model.config, tokens, dtype.itemsize)
    estimate -= 2 * 4 * tokens * model.config.vocab_size  # the logits are not made here
    assert 0.8 < estimate / sum(kept.values()) < 1.2


# Context ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["linear", "dynamic", "yarn", "llama3"])
def test_rope_scaling(method, tiny_llama, train_args):
    model = build(train_args(tiny_llama, rope_scaling=method, cutoff_len=1500))
    assert model.config.rope_parameters["rope_type"] == method
    assert model.config.rope_parameters["factor"] == 3.0
    assert context_length(model.config) == 1536
    rotary = model.get_base_model().model.rotary_emb
    base = 1.0 / (10000.0 ** (torch.arange(0, 16, 2) / 16))
    if method == "linear":
        torch.testing.assert_close(rotary.inv_freq, base / 3)
    if method == "dynamic":  # only sequences beyond the trained length are scaled
        torch.testing.assert_close(rotary.inv_freq, base)
        rotary(torch.zeros(1), torch.tensor([[1535]]))
        # arXiv:2309.00071, NTK-aware interpolation: factor * length / trained - (factor - 1) = 3 * 3 - 2
        torch.testing.assert_close(rotary.inv_freq, 1 / ((10000.0 * 7 ** (16 / 14)) ** (torch.arange(0, 16, 2) / 16)))
    if method in ("yarn", "llama3"):  # fast ones stay, slow ones are interpolated
        torch.testing.assert_close(rotary.inv_freq[0], base[0])
        assert rotary.inv_freq[-1] < base[-1]


def test_rope_is_left_alone_when_the_text_fits(tiny_llama):
    config = AutoConfig.from_pretrained(tiny_llama)
    before = config.to_dict()
    scale_rope(config, "yarn", 512)
    assert config.to_dict() == before
    with pytest.raises(ConfigError, match="rope_scaling: bloom has no single rotary embedding"):
        scale_rope(AutoConfig.for_model("bloom"), "yarn", 4096)
