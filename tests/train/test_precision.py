# SPDX-License-Identifier: Apache-2.0
"""Number formats of training: rounding at random, and products in float8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import TrainerCallback

from llamafactory.extras.device import Device
from llamafactory.extras.errors import ConfigError, UsageError
from llamafactory.hparams import get_train_args, resolve_dtypes
from llamafactory.model import load_model, load_tokenizer
from llamafactory.train.optim.algorithms.rounding import RoundedAdamW, round_stochastically

from .conftest import Keys
from .running import assert_bit_equal, curve, train, weights_of

ADAM = {"lr": 1e-4, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}
FULL_BF16 = {"finetuning_type": "full", "pure_bf16": True, "bf16": None}


def test_rounding_is_to_a_neighbour_and_right_on_average() -> None:
    torch.manual_seed(0)
    values = torch.cat([torch.randn(40) * scale for scale in (1e-6, 1e-2, 1.0, 1e4)])
    draws = torch.stack([round_stochastically(values) for _ in range(4000)]).double()
    below = (values.view(torch.int32) & -(1 << 16)).view(torch.float32)  # towards 0
    above = ((values.view(torch.int32) & -(1 << 16)) + (1 << 16)).view(torch.float32)
    assert ((draws == below.double()) | (draws == above.double())).all()
    step = (above - below).double().abs()
    error = (draws.mean(0) - values.double()) / step
    assert float(error.abs().max()) < 4.5 * 0.5 / 4000**0.5  # of a coin's mean, over 160 numbers
    assert float(error.mean().abs()) < 4 * 0.5 / (4000 * 160) ** 0.5


def test_rounding_leaves_what_fits_and_what_is_no_number() -> None:
    exact = torch.tensor([0.0, -0.0, 1.0, -2.5, 3.38e38, torch.inf, -torch.inf]).bfloat16()
    assert torch.equal(round_stochastically(exact.float()), exact)
    odd = torch.tensor([0x7FFFFFFF, 0x7F800001], dtype=torch.int32).view(torch.float32)
    assert round_stochastically(odd).isnan().all()


def test_updates_below_half_a_step_are_not_lost() -> None:
    """300 updates of 1e-4 each from 1: rounded to the nearest bfloat16 the weights stay, at random they follow."""

    def after(make: Any) -> torch.Tensor:
        torch.manual_seed(0)
        weight = nn.Parameter(torch.ones(512, dtype=torch.bfloat16))
        optimizer = make([{"params": [weight], **ADAM}])
        for _ in range(300):
            weight.grad = torch.ones_like(weight)
            optimizer.step()
        return weight.detach().float()

    assert torch.equal(after(torch.optim.AdamW), torch.ones(512))
    assert float(after(RoundedAdamW).mean()) == pytest.approx(0.97, abs=0.002)


def test_rounding_does_not_hang_on_what_a_process_has_drawn_before(keys: Keys, tmp_path: Path) -> None:
    """Dropout draws as many numbers as a process has tokens; weights of two processes must stay the same."""

    class Draws(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            torch.rand(3)

    settings = keys(**FULL_BF16, stochastic_rounding=True, max_steps=2)
    other = train(settings | {"output_dir": str(tmp_path / "other")}, [Draws()])
    assert_bit_equal(train(settings), other)


def test_float8_trains_nearly_as_float32_and_leaves_plain_weights(keys: Keys, tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    given = {"finetuning_type": "full", "max_steps": 3}
    run = train(keys(**given, fp8=True))
    plain = train(keys(**given, output_dir=str(tmp_path / "plain")))
    for (_, loss, norm), (_, other, other_norm) in zip(curve(run), curve(plain), strict=True):
        assert loss == pytest.approx(other, rel=5e-3) and norm == pytest.approx(other_norm, rel=0.1)
        assert loss != other
    names = weights_of(run)
    assert names.keys() == weights_of(plain).keys() and {one.dtype for one in names.values()} == {torch.float32}


def test_float8_takes_all_linear_layers_but_the_head(keys: Keys) -> None:
    float8_linear = pytest.importorskip("torchao.float8.float8_linear")
    args = get_train_args(keys(finetuning_type="full", fp8=True))
    model: Any = load_model(load_tokenizer(args.model), args)
    taken = {name for name, module in model.named_modules() if isinstance(module, float8_linear.Float8Linear)}
    assert len(taken) == 14 and not any("lm_head" in name for name in taken)
    layer = model.model.layers[0].mlp.up_proj
    x = torch.randn(32, 64)
    exact = torch.nn.functional.linear(x, layer.weight)
    torch.testing.assert_close(layer(x), exact, rtol=0, atol=float(exact.detach().abs().max()) * 0.05)
    assert not torch.equal(layer(x), exact)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_the_loss_is_scaled_wherever_gradients_pass_through_float16(
    keys: Keys, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A gradient of 1e-8 is 0 in float16, and what torch's scaler is for; the weights are float32 in both cases."""
    from llamafactory.train import training_arguments

    assert float(torch.tensor(1e-8).half()) == 0 != float(torch.tensor(1e-8 * 2**16).half())
    gpu = Device("cuda", 0, 1, bf16=False, fp16=True, memory_bytes=1 << 34, name="V100")
    monkeypatch.setattr(training_arguments, "probe", lambda use_cpu: gpu)
    args = get_train_args(keys(finetuning_type=kind, bf16=False, fp16=True))
    decided = training_arguments._decided_here(args)
    assert decided["fp16"] and not decided["bf16"]
    assert resolve_dtypes(args, gpu).trainable == "float32"


BASE = {"model_name_or_path": "org/tiny", "dataset": "identity"}


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"fp8": True}, "fp8: not with finetuning_type lora; use full or freeze"),
        ({"fp8": True, "finetuning_type": "full", "fp16": True}, "fp8: not with fp16; use bf16"),
        (
            {"stochastic_rounding": True, "finetuning_type": "full"},
            "stochastic_rounding: needs pure_bf16: true, else trained weights are float32",
        ),
        (
            {"stochastic_rounding": True, "pure_bf16": True, "optim": "adafactor"},
            "stochastic_rounding: not with optim adafactor; expected one of adamw_torch, adamw_torch_fused, "
            "adamw_torch_8bit, adamw_torch_4bit",
        ),
        (
            {"stochastic_rounding": True, "pure_bf16": True, "use_muon": True},
            "use_muon and stochastic_rounding: choose one",
        ),
    ],
)
def test_wrong_combinations(keys: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        get_train_args({**BASE, **keys})
    assert str(caught.value) == line


@pytest.mark.parametrize("backend", ["te", "msamp"])
def test_other_libraries_of_float8_are_not_built(backend: str) -> None:
    with pytest.raises(UsageError, match=f"^fp8_backend: {backend} asks for FP8 by .*, which is not built yet"):
        get_train_args({**BASE, "finetuning_type": "full", "fp8": True, "fp8_backend": backend})


def test_torchao_is_told_to_round_at_random(keys: Keys) -> None:
    from llamafactory.train.training_arguments import transformers_arguments

    pytest.importorskip("torchao")
    args = get_train_args(keys(**FULL_BF16, stochastic_rounding=True, optim="adamw_torch_8bit"))
    assert transformers_arguments(args).optim_args == "bf16_stochastic_round=True"
