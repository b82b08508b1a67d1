# SPDX-License-Identifier: Apache-2.0
"""Every optimizer: the loss falls, and 6 steps are another run's 3 and 3 more from its checkpoint, bit for bit."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from .conftest import Keys
from .running import curve, train, train_elsewhere, weights_of

FULL: dict[str, Any] = {"finetuning_type": "full"}
ALL = {"optim_target_modules": "all-linear"}
GALORE = {**FULL, "use_galore": True, "galore_rank": 4, "galore_update_interval": 4}
APOLLO = {**FULL, "use_apollo": True, "apollo_rank": 4, "apollo_update_interval": 4}
BADAM = {**FULL, "use_badam": True, "badam_switch_interval": 4}
# Name -> keys. Those that are slow or of packages that need not be there are tried by `make test-slow` alone.
ROWS: dict[str, dict[str, Any]] = {"galore": GALORE, "badam": BADAM, "muon": {**FULL, "use_muon": True}}
SLOW: dict[str, dict[str, Any]] = {
    "apollo": APOLLO,
    "badam ratio": {**BADAM, "badam_mode": "ratio", "badam_update_ratio": 0.3, "badam_mask_mode": "scatter"},
    "adam-mini": {**FULL, "use_adam_mini": True},
    "galore layerwise": {**GALORE, "galore_layerwise": True, "pure_bf16": True, "bf16": None},
    "galore full": {**GALORE, "galore_proj_type": "full"},
    "galore adafactor": {**GALORE, "optim": "adafactor"},
    "galore 8bit": {**GALORE, "optim": "adamw_8bit"},
    "apollo svd": {**APOLLO, "apollo_proj": "svd", "apollo_scale_type": "tensor", "apollo_scale_front": True},
    "apollo layerwise": {**APOLLO, "apollo_layerwise": True},
    "badam random bf16": {**BADAM, "pure_bf16": True, "bf16": None, "badam_switch_mode": "random"},
    "stochastic rounding": {**FULL, "pure_bf16": True, "bf16": None, "stochastic_rounding": True},
    "muon lora": {"use_muon": True},
    "adam-mini lora": {"use_adam_mini": True},
    "loraplus": {"loraplus_lr_ratio": 16.0},
    "prodigy": {"optim": "prodigy", "learning_rate": 1.0},
    "soap": {**FULL, "optim": "soap"},
    "lion": {"optim": "lion", "learning_rate": 1e-4},
    "galore_adamw": {**FULL, "optim": "galore_adamw", "optim_args": "rank=4,update_proj_gap=4", **ALL},
    "galore_adamw_8bit": {**FULL, "optim": "galore_adamw_8bit", "optim_args": "rank=4", **ALL},
    "galore_adafactor_layerwise": {**FULL, "optim": "galore_adafactor_layerwise", "optim_args": "rank=4", **ALL},
    "apollo_adamw": {**FULL, "optim": "apollo_adamw", "optim_args": "rank=4", **ALL},
    **{
        name: {"optim": name}
        for name in ("adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop", "adamw_8bit",
                     "paged_adamw_32bit", "lion_8bit", "lion_32bit", "ademamix_8bit", "rmsprop_bnb_8bit",
                     "adamw_torch_8bit", "adamw_torch_4bit", "schedule_free_adamw", "schedule_free_radam",
                     "schedule_free_sgd", "stable_adamw", "grokadamw")
    },
}  # fmt: skip
RATES = {"sgd": 1.0, "schedule_free_sgd": 1.0, "adagrad": 1e-2, "lion_8bit": 1e-4, "lion_32bit": 1e-4}
NEEDS = {"8bit": "bitsandbytes", "paged": "bitsandbytes", "bnb": "bitsandbytes", "lion_": "bitsandbytes",
         "torch_4bit": "torchao", "torch_8bit": "torchao", "schedule_free": "schedulefree", "prodigy": "prodigyopt",
         "soap": "pytorch_optimizer", "lion": "lion_pytorch", "stable_adamw": "optimi",
         "grokadamw": "grokadamw"}  # fmt: skip


def _params() -> list[Any]:
    slow = [pytest.param(name, marks=pytest.mark.slow) for name in SLOW]
    return [*ROWS, *slow]


@pytest.mark.parametrize("name", _params())
def test_loss_falls_and_a_resumed_run_is_the_whole_one(
    keys: Keys, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    for part, package in NEEDS.items():
        if part in name and find_spec(package) is None:
            pytest.skip(f"needs {package}")
    given = {"save_strategy": "steps", "save_steps": 3, "learning_rate": RATES.get(name, 1e-3)}
    settings = keys(**{**given, "lr_scheduler_type": "constant", **(ROWS | SLOW)[name]})
    whole = train(settings | {"max_steps": 6, "output_dir": str(tmp_path / "whole")})
    losses = [loss for _, loss, _ in curve(whole)]
    assert losses[-1] < losses[0]
    torch.load(whole / "checkpoint-3" / "optimizer.pt", weights_only=True)
    half = train(settings | {"max_steps": 3})
    assert curve(half) == curve(whole)[:3]
    train(settings | {"max_steps": 6})
    assert "resuming from" in capfd.readouterr().err and curve(half) == curve(whole)
    theirs = weights_of(whole)
    assert all(torch.equal(weight, theirs[name]) for name, weight in weights_of(half).items())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["galore", "apollo", "adam-mini", "muon", "muon lora"])
def test_two_ranks_are_one(keys: Keys, tmp_path: Path, name: str) -> None:
    given = keys(**(ROWS | SLOW)[name], max_steps=3)
    one = train(given | {"output_dir": str(tmp_path / "one")})
    result = train_elsewhere(given | {"per_device_train_batch_size": 2}, ranks=2)
    assert result.returncode == 0, result.stderr[-2000:]
    theirs = weights_of(Path(given["output_dir"]))
    apart = 2e-4 if "muon" in name else 2e-5  # torch's Muon rounds gradients to bfloat16
    for key, weight in weights_of(one).items():
        torch.testing.assert_close(weight, theirs[key], rtol=1e-3, atol=apart, msg=key)


@pytest.mark.slow
@pytest.mark.parametrize(
    "more", [{**GALORE, "galore_layerwise": True}, BADAM, {**BADAM, "badam_mode": "ratio"}], ids=str
)
def test_what_takes_one_process_says_so(keys: Keys, more: dict[str, Any]) -> None:
    result = train_elsewhere(keys(**more, max_steps=1), ranks=2)
    assert result.returncode and "only with one process, not with 2" in result.stderr
