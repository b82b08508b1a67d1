# SPDX-License-Identifier: Apache-2.0
"""NEFTune's noise has the paper's size in each sequence, however sequences are laid out in a batch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from llamafactory.train.callbacks.neftune import NoiseCallback

from .conftest import Keys
from .running import assert_bit_equal, curve, first_half, train

LENGTHS, WIDTH, ALPHA = (40, 7, 19), 64, 5.0


def noise_of(folder: Path, batch: dict[str, Any], training: bool = True) -> torch.Tensor:
    """What is added to the embeddings of a batch."""
    model = AutoModelForCausalLM.from_pretrained(folder).train(training)
    seen: list[torch.Tensor] = []
    callback = NoiseCallback(ALPHA)
    callback.on_train_begin(None, None, None, model=model)
    layer = model.model.layers[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        model(**batch)
    layer.remove()
    callback.on_train_end(None, None, None)
    assert not model._forward_pre_hooks and not model.get_input_embeddings()._forward_hooks
    return seen[0] - model.get_input_embeddings()(batch["input_ids"])


def assert_papers(noise: torch.Tensor, length: int) -> None:
    """Uniform within ± alpha / sqrt(L d)."""
    most = ALPHA / math.sqrt(length * WIDTH)
    assert 0.97 * most < noise.abs().max() <= most * (1 + 1e-5)
    assert float(noise.std()) == pytest.approx(most / math.sqrt(3), rel=0.1)


def test_the_size_of_the_noise_is_that_of_each_sequence(tiny_llama: Path) -> None:
    bounds = torch.tensor([0, *LENGTHS]).cumsum(0)
    packed = {
        "input_ids": torch.randint(5, 300, (1, sum(LENGTHS))),
        "cu_seqlens": bounds.to(torch.int32), "max_seqlen": max(LENGTHS),
    }  # fmt: skip
    noise = noise_of(tiny_llama, packed)[0]
    for number, length in enumerate(LENGTHS):
        assert_papers(noise[bounds[number] : bounds[number + 1]], length)
    mask = torch.tensor([[1] * length + [0] * (40 - length) for length in LENGTHS])
    rows = noise_of(tiny_llama, {"input_ids": torch.full(mask.shape, 9), "attention_mask": mask})
    for row, length in zip(rows, LENGTHS, strict=True):
        assert_papers(row[:length], length)
    assert not noise_of(tiny_llama, packed, training=False).any()


def test_a_killed_run_goes_on_with_the_same_noise(keys: Keys, tmp_path: Path) -> None:
    steps = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "neftune_noise_alpha": 5}
    whole = train(keys(**steps))
    plain = train(keys(max_steps=1, output_dir=str(tmp_path / "plain")))
    assert curve(plain)[0][1] != curve(whole)[0][1]
    half = tmp_path / "half"
    first_half(whole, half, 4)
    train(keys(**steps) | {"output_dir": str(half)})
    assert_bit_equal(whole, half)
