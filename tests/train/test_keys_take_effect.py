# SPDX-License-Identifier: Apache-2.0
"""Keys of the training section that other tests do not look at: what each changes in a run."""

from __future__ import annotations

import json
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llamafactory.train.token_scores import attach, trained_positions

from .conftest import Keys
from .running import curve, train


@pytest.mark.parametrize("more", [{}, pytest.param({"streaming": True}, marks=pytest.mark.slow)], ids=str)
def test_loading_processes_start_as_asked(
    keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]
) -> None:
    more = {"max_steps": 3, "dataloader_num_workers": 1, **more}
    usual = curve(train(keys(output_dir=str(tmp_path / "usual"), **more)))
    started, popen = [], SpawnProcess._Popen  # type: ignore[attr-defined]
    monkeypatch.setattr(SpawnProcess, "_Popen", staticmethod(lambda process: started.append(process) or popen(process)))
    spawned = train(keys(output_dir=str(tmp_path / "spawn"), dataloader_multiprocessing_context="spawn", **more))
    assert started and curve(spawned) == usual


def test_input_tokens_are_counted_once_and_as_asked(keys: Keys, tmp_path: Path) -> None:
    def tokens(**more: Any) -> int:
        run = train(keys(output_dir=str(tmp_path / "-".join(more.values())), padding_free=False, max_steps=3, **more))
        return int(json.loads((run / "train_results.json").read_text())["total_tokens"])

    real, padded = tokens(include_num_input_tokens_seen="non_padding"), tokens(include_num_input_tokens_seen="all")
    assert tokens(include_num_input_tokens_seen="no") == real < padded


def test_the_softmax_of_a_bfloat16_model_is_taken_in_float32() -> None:
    """What ``upcast_lmhead_output`` asks for."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16).eval()
    ids = torch.randint(0, 64, (2, 8))
    logits = model(input_ids=ids).logits
    assert logits.dtype == torch.bfloat16
    expected = logits[:, :-1].float().log_softmax(-1).gather(-1, ids[:, 1:, None]).flatten()
    scores = attach(model)(input_ids=ids, labels=ids, positions=trained_positions(ids), score=True)
    assert scores.log_probs.dtype == torch.float32
    torch.testing.assert_close(scores.log_probs, expected, rtol=1e-5, atol=1e-5)
