# SPDX-License-Identifier: Apache-2.0
"""Pairs whose prompt is computed once: loss and gradients of two passes, for every kind of isolating attention."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from llamafactory.data.collators import PaddedCollator, PaddingFreeCollator, PairCollator
from llamafactory.data.collators.completions import share_prefixes
from llamafactory.extras.errors import ConfigError
from llamafactory.model import attention
from llamafactory.train.sequence_scores import attach_scores
from llamafactory.train.token_scores import attach

from .conftest import Keys
from .pairs import pair_set
from .running import log_of, train

KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 5},
    "gemma2": {"sliding_window": 5, "attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 8},
    "gemma3_text": {"sliding_window": 5},
    "gpt_oss": {"sliding_window": 5, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2": {},
    "qwen3": {},
    "phi3": {},
    "olmo2": {},
}


class Tokenizer:
    """What the collators need of one."""

    pad_token_id = 0


def _rows(count: int = 3, seed: int = 0) -> list[dict[str, Any]]:
    """Pairs of ragged lengths; some answers begin alike too."""
    draw = random.Random(seed)

    def tokens(most: int) -> list[int]:
        return [draw.randint(5, 300) for _ in range(draw.randint(1, most))]

    rows = []
    for _ in range(count):
        prompt, alike = tokens(20), tokens(3) if draw.random() < 0.5 else []
        answers = [alike + tokens(12) for _ in range(2)]
        row = {"input_ids": [], "labels": [], "seq_lens": []}
        for answer in answers:
            row["input_ids"] += prompt + answer
            row["labels"] += [-100] * len(prompt) + answer
            row["seq_lens"].append(len(prompt) + len(answer))
        rows.append(row)
    return rows


def _gradients(model: Any, scores: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad(set_to_none=True)
    factors = torch.randn(len(scores), generator=torch.Generator().manual_seed(1))
    (scores * factors).sum().backward()
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def _assert_same(model: Any, score: Any, shared: dict[str, Any], whole: dict[str, Any], padded: dict[str, Any]) -> None:
    assert shared["input_ids"].numel() < whole["input_ids"].numel()
    mine, theirs, plain = score(shared), score(whole), score(padded)
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)
    torch.testing.assert_close(mine, plain, rtol=0, atol=1e-5)
    found, expected = _gradients(model, mine), _gradients(model, theirs)
    assert found.keys() == expected.keys() and len(found) > 10
    for name, gradient in expected.items():
        scale = gradient.abs().max().clamp_min(1e-3)
        torch.testing.assert_close(found[name] / scale, gradient / scale, rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_log_probs_and_gradients_are_those_of_two_passes(kind: str, make_tiny_model: Any) -> None:
    attention.register()
    folder = make_tiny_model(kind, **KINDS[kind])
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="isolated", dtype=torch.float32).eval()
    assert attention.can_share_prefixes(model)
    attach(model)
    rows, single = _rows(), PaddingFreeCollator(Tokenizer())
    batches = (
        PairCollator(single, 0.0)(rows),
        PairCollator(single)(rows),
        PairCollator(PaddedCollator(Tokenizer()))(rows),
    )
    _assert_same(model, lambda batch: model(**batch, score=True).log_probs, *batches)


def test_rewards_are_those_of_two_passes(tiny_llama: Path) -> None:
    attention.register()
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(
        tiny_llama, num_labels=1, attn_implementation="isolated", dtype=torch.float32
    ).eval()
    attach_scores(model)
    model.config.pad_token_id = 0
    rows, single = _rows(), PaddingFreeCollator(Tokenizer())
    batches = (
        PairCollator(single, 0.0)(rows),
        PairCollator(single)(rows),
        PairCollator(PaddedCollator(Tokenizer()))(rows),
    )
    _assert_same(model, lambda batch: model(**batch, scores=True), *batches)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(*[st.lists(st.integers(0, 1), min_size=1, max_size=6)] * 2), min_size=1, max_size=4))
def test_the_line_holds_every_token_of_the_sequences(pairs: list[tuple[list[int], list[int]]]) -> None:
    rows = [{"input_ids": a + b, "labels": a + b, "seq_lens": [len(a), len(b)]} for a, b in pairs]
    whole = PairCollator(PaddingFreeCollator(Tokenizer()))(rows)
    shared = share_prefixes(whole)
    if "shared_prefix" not in shared:
        assert all(a[0] != b[0] for a, b in pairs)
        return
    places = shared["shared_prefix"]
    for name in ("input_ids", "position_ids"):
        assert torch.equal(shared[name][0, places["rows"]], whole[name][0])
    line = torch.arange(shared["input_ids"].numel())
    assert torch.equal(places["rows"][places["places"]], line)
    assert sorted([*places["places"].tolist(), *places["again"].tolist()]) == list(range(whole["input_ids"].numel()))
    for name in ("labels", "cu_seqlens"):
        assert torch.equal(shared[name], whole[name])


@pytest.mark.parametrize("stage", ["dpo", "rm"])
def test_a_run_is_the_same(keys: Keys, tmp_path: Path, stage: str) -> None:
    sets = pair_set(tmp_path)
    runs = [
        train(keys(stage=stage, output_dir=str(tmp_path / name), share_prompt=share, val_size=6, **sets))
        for name, share in (("shared", True), ("whole", False))
    ]
    logs = [[row for row in log_of(run) if "loss" in row] for run in runs]
    for mine, theirs in zip(*logs, strict=True):
        for key in ("loss", "grad_norm", "rewards/chosen", "rewards/margins"):
            assert mine[key] == pytest.approx(theirs[key], abs=1e-5, rel=1e-4)
    assert logs[0][-1]["total_tokens"] < 0.9 * logs[1][-1]["total_tokens"]


def test_experts_that_share_their_load_out_count_every_token(make_tiny_model: Any) -> None:
    attention.register()
    folder = make_tiny_model("mixtral", num_local_experts=4, num_experts_per_tok=2)
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="isolated")
    assert attention.can_share_prefixes(model)
    model.config.output_router_logits = True
    assert not attention.can_share_prefixes(model)


def test_a_model_that_cannot_says_so(keys: Keys, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="share_prompt"):
        train(keys(stage="dpo", share_prompt=True, padding_free=False, **pair_set(tmp_path)))
