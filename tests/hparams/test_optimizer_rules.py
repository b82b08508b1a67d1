# SPDX-License-Identifier: Apache-2.0
"""Optimizers that do not go with each other, the tuner or the loop: one line each, before anything is loaded."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

from llamafactory.extras import logging
from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_train_args
from llamafactory.hparams.derive import chosen_optimizer

BASE = {"model_name_or_path": "org/tiny", "dataset": "identity", "finetuning_type": "full"}
LORA = {"finetuning_type": "lora"}
ONE_BY_ONE = "galore_layerwise uses each gradient as soon as it is there"
WRONG: list[tuple[dict[str, Any], str]] = [
    ({**LORA, "use_galore": True}, "use_galore: not with finetuning_type lora; use full or freeze"),
    ({**LORA, "use_apollo": True}, "use_apollo: not with finetuning_type lora; use full or freeze"),
    ({**LORA, "use_badam": True}, "use_badam: not with finetuning_type lora; use full or freeze"),
    ({"use_galore": True, "use_badam": True}, "use_galore and use_badam: choose one"),
    ({"use_muon": True, "use_adam_mini": True}, "use_adam_mini and use_muon: choose one"),
    ({**LORA, "use_muon": True, "loraplus_lr_ratio": 16.0}, "use_muon and loraplus_lr_ratio: choose one"),
    (
        {"use_muon": True, "optim": "adafactor"},
        "use_muon: not with optim adafactor; expected one of adamw_torch, adamw_torch_fused",
    ),
    (
        {"use_adam_mini": True, "optim": "sgd"},
        "use_adam_mini: not with optim sgd; expected one of adamw_torch, adamw_torch_fused",
    ),
    (
        {"use_galore": True, "optim": "sgd"},
        "use_galore: not with optim sgd; expected one of adamw_torch, adamw_torch_fused, adamw_8bit, adamw_bnb_8bit, "
        "adafactor",
    ),
    (
        {"use_apollo": True, "optim": "adafactor"},
        "use_apollo: not with optim adafactor; expected one of adamw_torch, adamw_torch_fused",
    ),
    (
        {"use_badam": True, "optim": "lion_8bit"},
        "use_badam: not with optim lion_8bit; expected one of adamw_torch, adamw_torch_fused",
    ),
    ({"use_galore": True, "galore_rank": 0}, "galore_rank: expected 1 or more, got 0"),
    (
        {"use_galore": True, "galore_layerwise": True, "gradient_accumulation_steps": 4},
        f"gradient_accumulation_steps: 4 cannot be, {ONE_BY_ONE}",
    ),
    (
        {"use_galore": True, "galore_layerwise": True, "max_grad_norm": 1.0},
        f"max_grad_norm: 1.0 cannot be, {ONE_BY_ONE}; write 0",
    ),
    ({"use_galore": True, "galore_layerwise": True, "fp16": True}, f"fp16: true cannot be, {ONE_BY_ONE}"),
    (
        {"use_galore": True, "galore_layerwise": True, "on_nonfinite": "skip"},
        f"on_nonfinite: skip cannot be, {ONE_BY_ONE}",
    ),
    (
        {"optim": "apollo_adamw_layerwise", "optim_target_modules": "all-linear", "gradient_accumulation_steps": 2},
        "gradient_accumulation_steps: 2 cannot be, optim apollo_adamw_layerwise uses each gradient as soon as it is "
        "there",
    ),
    ({"galore_layerwise": True}, "galore_layerwise: needs use_galore: true, which is not given"),
    (
        {"use_badam": True, "badam_switch_mode": "fixed"},
        "badam_start_block: missing, badam_switch_mode fixed needs it",
    ),
    ({"use_badam": True, "badam_switch_interval": 1}, "badam_switch_interval: expected 2 or more, or -1, got 1"),
    (
        {"use_badam": True, "badam_mode": "ratio", "weight_decay": 0.1},
        "weight_decay: 0.1 has no place in badam_mode ratio",
    ),
    ({"use_badam": True, "fp16": True}, "fp16: true cannot be with use_badam; use bf16"),
    (
        {"optim": "lion", "optim_args": "rank=2"},
        "optim_args: rank is no setting of optim lion; it has none there",
    ),
]


@pytest.mark.parametrize(("keys", "line"), WRONG, ids=lambda part: str(part)[:60])
def test_wrong_combinations(keys: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        get_train_args({**BASE, **keys})
    assert str(caught.value) == line


def test_numbers_of_an_optimizer_that_is_not_chosen_are_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging, "_said", set())
    assert get_train_args({**BASE, "galore_rank": 64, "badam_mode": "ratio"})
    err = capsys.readouterr().err
    assert "galore_rank: no effect in this run; needs use_galore: true, which is not given" in err
    assert "badam_mode: no effect in this run; needs use_badam: true, which is not given" in err


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        ({}, None),
        ({"optim": "adafactor"}, None),
        ({"use_galore": True}, "galore"),
        ({"use_galore": True, "optim": "adamw_8bit"}, "galore"),
        ({"optim": "galore_adafactor", "optim_target_modules": "q_proj"}, "galore"),
        ({"optim": "apollo_adamw", "optim_target_modules": ["q_proj"]}, "apollo"),
        ({"use_muon": True, "optim": "adamw_torch"}, "muon"),
        ({**LORA, "loraplus_lr_ratio": 4.0, "optim": "adamw_8bit"}, "loraplus"),
        ({"optim": "soap"}, "soap"),
    ],
    ids=str,
)
def test_which_optimizer_is_chosen(keys: dict[str, Any], name: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("bitsandbytes", "pytorch_optimizer"):
        monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
    assert chosen_optimizer(get_train_args({**BASE, **keys})) == name


@pytest.mark.parametrize(
    ("name", "package", "pip"),
    [
        ("prodigy", "prodigyopt", "prodigyopt"),
        ("soap", "pytorch_optimizer", "pytorch-optimizer"),
        ("lion", "lion_pytorch", "lion-pytorch"),
        ("galore_adamw_8bit", "bitsandbytes", "bitsandbytes"),
    ],
)
def test_a_missing_package_is_said_with_its_command(
    name: str, package: str, pip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llamafactory.extras.packages.find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, package, raising=False)
    modules = {"optim_target_modules": "all-linear"} if name.startswith("galore") else {}
    with pytest.raises(ConfigError) as caught:
        get_train_args({**BASE, "optim": name, **modules})
    assert str(caught.value) == f"optim: {name}: needs the package {package}; pip install {pip}"
