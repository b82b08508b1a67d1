# SPDX-License-Identifier: Apache-2.0
"""LongLoRA's shifted attention, against transformers' eager attention with the mask of the paper written out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from llamafactory.extras.errors import ConfigError
from llamafactory.model import attention, is_isolating, load_model, load_tokenizer

from .packing import pack, sequences

GROUP = 8
KINDS = {
    "llama": {},
    "odd heads": {"num_attention_heads": 3, "num_key_value_heads": 3, "hidden_size": 48},
    "one key head": {"num_key_value_heads": 1},
    "mistral": {"sliding_window": 5},
    "gemma2": {"sliding_window": 5, "attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 8},
    "gpt_oss": {"sliding_window": 5, "num_local_experts": 4, "num_experts_per_tok": 2},
}


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, make_tiny_model: Any) -> Path:
    name = request.param if " " not in request.param else "llama"
    return make_tiny_model(name, **KINDS[request.param])


def load(folder: Path, implementation: str) -> Any:
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=implementation, dtype=torch.float32)
    model.config.use_cache = False
    for name, weight in model.named_parameters():
        if name.endswith("sinks"):
            torch.nn.init.normal_(weight, std=2.0, generator=torch.Generator().manual_seed(1))
    return model.train()


def paper_mask(length: int, heads: int, window: int | None) -> torch.Tensor:
    """Added to the scores ``[1, heads, length, length]``: causal, and inside the group of a head."""
    place = torch.arange(length)
    seen = place[:, None] >= place[None]
    if window is not None:
        seen &= place[:, None] - place[None] < window
    masks = []
    for head in range(heads):
        number = (place if head < heads // 2 else place - GROUP // 2 + GROUP) // GROUP
        masks.append(seen & (number[:, None] == number[None]))
    return torch.zeros(1, heads, length, length).masked_fill(~torch.stack(masks)[None], torch.finfo(torch.float32).min)


def separate(folder: Path, part: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Eager logits of one sequence under the paper's mask; layers that have a window get it too."""
    model = load(folder, "eager")
    monkeypatch.setattr(type(model.model.layers[0].self_attn), "forward", _masked(model, len(part)))
    logits = model(input_ids=part[None]).logits[0]
    monkeypatch.undo()
    return logits, model


def _masked(model: Any, length: int) -> Any:
    plain = type(model.model.layers[0].self_attn).forward
    heads = model.config.num_attention_heads

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        kwargs["attention_mask"] = paper_mask(length, heads, getattr(self, "sliding_window", None) or _window(self))
        return plain(self, *args, **kwargs)

    return forward


def _window(layer: Any) -> int | None:
    return layer.config.sliding_window if layer.config.model_type == "mistral" else None


def test_packed_logits_and_gradients_are_the_papers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = sequences([37, 3, 16, 9])
    model = load(folder, attention.register_shifted(GROUP))
    assert is_isolating(model)
    logits = model(**pack(parts)).logits[0]
    weight = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))
    (logits * weight).sum().backward()
    found: dict[str, torch.Tensor] = {}
    start = 0
    for part in parts:
        expected, alone = separate(folder, part, monkeypatch)
        torch.testing.assert_close(logits[start : start + len(part)], expected, rtol=0, atol=1e-5)
        (expected * weight[start : start + len(part)]).sum().backward()
        for name, value in alone.named_parameters():
            found[name] = found.get(name, 0) + value.grad
        start += len(part)
    for name, mine in model.named_parameters():
        scale = found[name].abs().max().clamp_min(1e-3)
        torch.testing.assert_close(mine.grad / scale, found[name] / scale, rtol=0, atol=1e-5, msg=name)


def test_groups_change_training_and_nothing_else(folder: Path) -> None:
    parts = sequences([37, 3])
    shifted, whole = load(folder, attention.register_shifted(GROUP)), load(folder, attention.register_shifted(64))
    attention.register()
    plain = load(folder, "isolated")
    with torch.no_grad():
        full = plain(**pack(parts)).logits
        assert not torch.allclose(shifted(**pack(parts)).logits, full, atol=1e-4)
        # A group of the whole context leaves the first half of the heads as they are; the second is cut at its half.
        assert torch.allclose(whole(**pack(sequences([30, 3]))).logits, plain(**pack(sequences([30, 3]))).logits)
        assert torch.equal(shifted.eval()(**pack(parts)).logits, full)


def test_it_comes_with_the_key_and_only_in_training(tiny_llama: Path, train_args: Any, infer_args: Any) -> None:
    args = train_args(tiny_llama, shift_attn=True, cutoff_len=64)
    model = load_model(load_tokenizer(args.model), args)
    assert attention.implementation(model) == "isolated_shifted_16" and is_isolating(model)
    assert attention.can_share_prefixes(model)
    with attention.generation_attention(model):
        assert attention.implementation(model) == "sdpa"
    assert attention.implementation(model) == "isolated_shifted_16"
    served = infer_args(tiny_llama, shift_attn=True)
    assert attention.implementation(load_model(load_tokenizer(served.model), served, trainable=False)) == "sdpa"


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (
            {"stage": "dpo"},
            "shift_attn: not in stage dpo, whose references or answers are computed with full attention",
        ),
        ({"stage": "ppo", "reward_funcs": "length"}, "shift_attn: not in stage ppo, whose references or answers"),
        ({"use_asft_loss": True}, "shift_attn: not with use_asft_loss, whose reference has full attention"),
        ({"finetuning_type": "p_tuning"}, "shift_attn: not with finetuning_type p_tuning, whose rows are padded"),
        ({"padding_free": False}, "shift_attn: not with padding_free: false"),
        ({"flash_attn": "sdpa"}, "shift_attn: flash_attn: sdpa has no groups; leave flash_attn out"),
        ({"cutoff_len": 7}, "shift_attn: cutoff_len: 7 is too short to be cut in four"),
    ],
    ids=str,
)
def test_what_cannot_be_shifted_is_one_line(keys: dict[str, Any], line: str, train_args: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        train_args("nowhere", shift_attn=True, **keys)
    assert str(caught.value).startswith(line)


def test_a_model_that_mixes_tokens_elsewhere_is_refused(make_tiny_model: Any, train_args: Any) -> None:
    args = train_args(make_tiny_model("bloom", n_layer=1, n_head=2), shift_attn=True)
    with pytest.raises(ConfigError, match=r"^shift_attn: this model cannot be trained with it: BloomForCausalLM does"):
        load_model(load_tokenizer(args.model), args)
