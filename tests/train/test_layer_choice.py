# SPDX-License-Identifier: Apache-2.0
"""Runs that train only some weights: how many, that they learn, what is saved, and that a resume is exact."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, TrainerCallback

from llamafactory.hparams import get_infer_args
from llamafactory.model import load_model, load_tokenizer

from .conftest import Keys
from .running import assert_bit_equal, curve, first_half, train, train_elsewhere, weights_of

IDS = torch.tensor([[5, 17, 80, 3, 44, 261, 9, 120]])
# Keys -> trained numbers of the tiny model: two blocks, hidden 64, keys 32 wide, MLP 128.
BLOCK = 64 * 64 * 2 + 32 * 64 * 2 + 3 * 128 * 64
ROWS: dict[str, tuple[dict[str, Any], int]] = {
    "pattern": ({"freeze_trainable_pattern": r".*\.(v_proj|norm|\w*layernorm)"}, 2 * 32 * 64 + 5 * 64),
    "spectrum and norm": ({"spectrum_top_fraction": 0.5, "freeze_extra_modules": "norm"}, BLOCK + 64),
}


class _Watch(TrainerCallback):
    trained = 0
    logits: torch.Tensor

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.logits = logits(model)


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model.eval()(input_ids=IDS).logits
    return found


@pytest.mark.parametrize("name", ROWS)
def test_some_weights_are_trained_and_a_killed_run_goes_on(name: str, keys: Keys, tmp_path: Path) -> None:
    more, count = ROWS[name]
    steps = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "learning_rate": 3e-3}
    watch = _Watch()
    settings = keys(finetuning_type="freeze", kernels=False, cache_dir=str(tmp_path / "cache"), **steps, **more)
    whole = train(settings, [watch])
    assert watch.trained == count
    losses = [loss for _, loss, _ in curve(whole)]
    assert losses[-1] < losses[0]
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(whole)), watch.logits)
    args = get_infer_args({"model_name_or_path": str(whole), "infer_dtype": "float32"})
    served = load_model(load_tokenizer(args.model), args, trainable=False)
    torch.testing.assert_close(logits(served), watch.logits, rtol=0, atol=1e-6)
    half = tmp_path / "half"
    first_half(whole, half, 6)
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)  # looked at anew: the same layers
    train(settings | {"output_dir": str(half)})
    assert_bit_equal(whole, half)


@pytest.mark.slow
def test_two_ranks_train_the_same_layers(keys: Keys, tmp_path: Path) -> None:
    given = keys(finetuning_type="freeze", spectrum_top_fraction=0.5, max_steps=3, cache_dir=str(tmp_path / "cache"))
    one = train(given | {"output_dir": str(tmp_path / "one")})
    shutil.rmtree(tmp_path / "cache")
    result = train_elsewhere(given | {"per_device_train_batch_size": 2}, ranks=2)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stderr.count("looking at the singular values") == 1
    theirs = weights_of(Path(given["output_dir"]))
    for key, weight in weights_of(one).items():
        torch.testing.assert_close(weight, theirs[key], rtol=1e-3, atol=2e-5, msg=key)
