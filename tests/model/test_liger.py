# SPDX-License-Identifier: Apache-2.0
"""Liger's kernels: which are chosen, what is said where they cannot run, and that another model is never trained."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import Gemma2Config, LlamaConfig
from transformers.integrations import liger as integration

from llamafactory.extras import logging, packages
from llamafactory.extras.device import probe
from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_train_args
from llamafactory.hparams.model_args import LIGER_KERNELS, LIGER_LOSSES
from llamafactory.model import liger, load_model, load_tokenizer

GPU = replace(probe(use_cpu=True), type="cuda")


def arguments(model: Path, **more: Any) -> Any:
    keys = {"model_name_or_path": str(model), "dataset": "identity", "template": "chatml", "bf16": False}
    return get_train_args({**keys, "enable_liger_kernel": True, **more})


def test_kernels_that_fit_the_activation_and_no_loss() -> None:
    none = dict.fromkeys(LIGER_LOSSES, False)
    norms = {"rope": True, "rms_norm": True}
    assert liger.choose_kernels(LlamaConfig(), None) == {**norms, "swiglu": True, "geglu": False, **none}
    assert liger.choose_kernels(Gemma2Config(), None) == {**norms, "swiglu": False, "geglu": True, **none}
    relu = LlamaConfig(hidden_act="relu")
    expected = {"rope": False, "rms_norm": True, "swiglu": False, "geglu": False, **none}
    assert liger.choose_kernels(relu, {"rope": False, "swiglu": True}) == expected


def test_transformers_takes_our_choice_as_keywords_of_liger() -> None:
    """Its integration is what calls the package; the fields of the key are those of the package's functions."""
    assert [*inspect.signature(integration.apply_liger_kernel).parameters] == ["model", "kernel_config"]
    assert "_apply_liger_kernel_to_instance(model=base_model, **kernel_config)" in inspect.getsource(integration)


def test_a_cpu_trains_without_and_says_so(
    tiny_llama: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "_said", set())
    args = arguments(tiny_llama)
    model: Any = load_model(load_tokenizer(args.model), args)
    assert "enable_liger_kernel: left out, Liger's kernels need a GPU" in capsys.readouterr().err
    assert not any("iger" in type(module).__name__ for module in model.modules())


def test_a_missing_package_is_named(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "liger_kernel", raising=False)
    with pytest.raises(ConfigError, match=r"^enable_liger_kernel: true: .* pip install liger-kernel$"):
        liger.use_liger(torch.nn.Module(), arguments(tiny_llama), GPU)  # type: ignore[arg-type]


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Any], None]], list[dict[str, bool]]]:
    """``package(change)``: as if the package were there; ``change`` is what its kernels do to a model."""

    def install(change: Callable[[Any], None]) -> list[dict[str, bool]]:
        given: list[dict[str, bool]] = []
        parts = ("liger_kernel", "liger_kernel.transformers", "liger_kernel.transformers.monkey_patch")
        for name in parts:
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        sys.modules[parts[-1]].MODEL_TYPE_TO_APPLY_LIGER_FN = {"llama": None}  # type: ignore[attr-defined]

        def apply(model: Any, config: dict[str, bool]) -> None:
            given.append(config)
            change(model)

        monkeypatch.setattr(integration, "apply_liger_kernel", apply)
        return given

    return install


def test_kernels_that_compute_another_model_are_refused(tiny_llama: Path, package: Any) -> None:
    args = arguments(tiny_llama, liger_kernel_config={"rope": False})
    args_without = arguments(tiny_llama, enable_liger_kernel=False)
    model: Any = load_model(load_tokenizer(args.model), args_without).get_base_model()
    given = package(lambda model: model.model.norm.weight.data.mul_(1 + 1e-5))
    liger.use_liger(model, args, GPU)
    assert given == [
        {"rope": False, "rms_norm": True, "swiglu": True, "geglu": False, **dict.fromkeys(LIGER_LOSSES, False)}
    ]
    package(lambda model: model.model.layers[0].mlp.down_proj.weight.data.mul_(1.5))
    with pytest.raises(ConfigError, match=r"^enable_liger_kernel: with Liger's kernels the logits .*% off"):
        liger.use_liger(model, args, GPU)
    model.config.model_type = "mine"
    with pytest.raises(ConfigError, match=r"^enable_liger_kernel: Liger has no kernels for mine models"):
        liger.use_liger(model, args, GPU)


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ({"fused_linear_cross_entropy": True}, "fused_linear_cross_entropy: expected one of rope, rms_norm,"),
        ({"rmsnorm": True}, "rmsnorm: expected one of rope, rms_norm, swiglu, geglu; the loss is computed here"),
    ],
)
def test_wrong_kernels(tiny_llama: Path, config: dict[str, bool], line: str) -> None:
    with pytest.raises(ConfigError, match=f"^liger_kernel_config: {line}"):
        arguments(tiny_llama, liger_kernel_config=config)


if find_spec("liger_kernel"):  # not among the packages of development: Triton

    def test_the_package_has_these_kernels() -> None:
        from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

        assert {"llama", "qwen2", "qwen3", "gemma2", "mistral", "phi3"} <= MODEL_TYPE_TO_APPLY_LIGER_FN.keys()
        for function in MODEL_TYPE_TO_APPLY_LIGER_FN.values():
            names = set(inspect.signature(function).parameters)
            assert "model" in names and names & {*LIGER_KERNELS, "kwargs"}
