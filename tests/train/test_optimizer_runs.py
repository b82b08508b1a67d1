# SPDX-License-Identifier: Apache-2.0
"""What an optimizer needs of the loop around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import TrainerCallback

from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_train_args
from llamafactory.model import load_model, load_tokenizer
from llamafactory.train.optim import create_optimizer
from llamafactory.train.training_arguments import transformers_arguments

from .conftest import Keys
from .running import log_of, train, weights_of


class _Watch(TrainerCallback):
    """Keeps what the weights are at the end of a step, and what an optimizer says they average to."""

    def __init__(self) -> None:
        self.trained: dict[str, torch.Tensor] = {}
        self.average: dict[str, torch.Tensor] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        optimizer, beta = kwargs["optimizer"].optimizer, 0.9
        for name, weight in kwargs["model"].named_parameters():
            if weight.requires_grad:
                key = name.replace(".default", "")
                y, z = weight.detach(), optimizer.state[weight]["z"]
                self.trained[key] = y.clone()
                self.average[key] = (y - (1 - beta) * z) / beta  # y = beta x + (1 - beta) z


def test_a_schedule_free_run_evaluates_and_saves_the_average(keys: Keys, tmp_path: Path) -> None:
    pytest.importorskip("schedulefree")
    watch = _Watch()
    given = keys(optim="schedule_free_adamw", learning_rate=1e-2, lr_scheduler_type="constant", val_size=6)
    run = train(
        given | {"max_steps": 4, "eval_strategy": "steps", "eval_steps": 4, "save_strategy": "steps", "save_steps": 4},
        [watch],
    )
    assert any(not torch.equal(watch.trained[name], average) for name, average in watch.average.items())
    for folder in (run / "checkpoint-4", run):
        for name, weight in weights_of(folder).items():
            torch.testing.assert_close(weight, watch.average[name], rtol=1e-4, atol=1e-6)
    inside = next(row["eval_loss"] for row in log_of(run) if "eval_loss" in row)
    apart = {"do_eval": True, "adapter_name_or_path": str(run), "output_dir": str(tmp_path / "apart")}
    evaluated = log_of(train(given | apart))
    assert evaluated[-1]["eval_loss"] == pytest.approx(inside, rel=1e-6)


class _Rates(TrainerCallback):
    def __init__(self) -> None:
        self.warmup: list[Any] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.warmup.append(kwargs["optimizer"].param_groups[0]["warmup_steps"])


def test_a_share_of_warm_up_is_steps_to_a_schedule_free_optimizer(keys: Keys) -> None:
    """It would divide by the share: the first step would be ten times too long at 0.1."""
    pytest.importorskip("schedulefree")
    rates = _Rates()
    train(keys(optim="schedule_free_adamw", warmup_steps=0.5, max_steps=4), [rates])
    assert rates.warmup == [2]


def _optimizer(given: dict[str, Any]) -> tuple[nn.Module, Any]:
    args = get_train_args(given)
    model = load_model(load_tokenizer(args.model), args)
    return model, create_optimizer(model, args, transformers_arguments(args))


FULL = {"finetuning_type": "full"}


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (
            {**FULL, "use_galore": True, "galore_target": "q_proj,nowhere"},
            "galore_target: no trained linear layer is called nowhere; there are down_proj, gate_proj, k_proj, o_proj, "
            "q_proj, up_proj, v_proj",
        ),
        (
            {**FULL, "optim": "apollo_adamw", "optim_target_modules": "nowhere"},
            "optim_target_modules: no trained linear layer is called nowhere; there are down_proj, gate_proj, k_proj, "
            "o_proj, q_proj, up_proj, v_proj",
        ),
        (
            {**FULL, "use_badam": True, "badam_start_block": 2},
            "badam_start_block: 2, but there are 2 blocks, 0 to 1",
        ),
    ],
)
def test_what_only_the_model_can_tell_is_one_line_too(keys: Keys, more: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _optimizer(keys(**more))
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"use_muon": True}, "use_muon: no trained weight is a matrix of a hidden layer"),
        ({"use_badam": True}, "use_badam: the trained weights belong to no numbered layers, so there are no blocks"),
    ],
)
def test_a_model_that_an_optimizer_cannot_train(keys: Keys, more: dict[str, Any], line: str) -> None:
    args = get_train_args(keys(**FULL, **more))
    model = nn.ModuleDict({"norm": nn.LayerNorm(4)})
    with pytest.raises(ConfigError) as caught:
        create_optimizer(model, args, transformers_arguments(args))
    assert str(caught.value) == line


def test_muon_takes_hidden_matrices_and_adamw_the_rest(keys: Keys) -> None:
    model, optimizer = _optimizer(keys(**FULL, use_muon=True, weight_decay=0.1, learning_rate=3e-3))
    names = {id(weight): name for name, weight in model.named_parameters()}
    muon, adamw = ({names[id(weight)] for weight in part.param_groups[0]["params"]} for part in optimizer.parts[:2])
    assert all("proj" in name for name in muon) and adamw == {"model.embed_tokens.weight"}
    norms = optimizer.parts[1].param_groups[1]
    assert all("norm" in names[id(weight)] for weight in norms["params"]) and norms["weight_decay"] == 0
    assert {group["lr"] for group in optimizer.param_groups} == {3e-3}
    assert optimizer.parts[0].param_groups[0]["adjust_lr_fn"] == "match_rms_adamw"


def test_muon_takes_both_matrices_of_a_lora_pair(keys: Keys) -> None:
    _, optimizer = _optimizer(keys(use_muon=True))
    assert len(optimizer.parts) == 1 and len(optimizer.parts[0].param_groups[0]["params"]) == 28


def test_galore_projects_every_linear_layer_but_the_head(keys: Keys) -> None:
    model, optimizer = _optimizer(keys(**FULL, use_galore=True, galore_rank=4))
    names = {id(weight): name for name, weight in model.named_parameters()}
    projected = {names[id(weight)] for weight in optimizer.standins}
    assert len(projected) == 14 and all(name.endswith("_proj.weight") for name in projected)
    sizes = sum(standin.numel() for standin in optimizer.standins.values())
    assert sizes == sum(4 * max(weight.shape) for weight in optimizer.standins)


def test_badam_trains_only_its_block(keys: Keys, tiny_llama: Path) -> None:
    from safetensors.torch import load_file

    more = {"badam_start_block": 1, "badam_switch_mode": "fixed"}
    run = train(keys(**FULL, use_badam=True, **more, max_steps=2))
    before = load_file(tiny_llama / "model.safetensors")
    changed = {name for name, weight in weights_of(run).items() if not torch.equal(weight, before[name])}
    assert changed and all(name.startswith("model.layers.1.") for name in changed)


def test_a_loss_that_is_no_number_stops_a_run_whose_gradients_are_used_up(keys: Keys, overflowing: Path) -> None:
    with pytest.raises(ConfigError, match=r"^step 1: loss is (nan|inf) on rank 0"):
        train(keys(**FULL, model_name_or_path=str(overflowing), use_galore=True, galore_layerwise=True))


def test_weights_alone_cannot_be_resumed(keys: Keys) -> None:
    settings = keys(**FULL, use_muon=True, save_strategy="steps", save_steps=2, save_only_model=True, max_steps=2)
    run = train(settings)
    with pytest.raises(ConfigError, match=r"checkpoint-2 has no optimizer.pt, so training cannot go on as it was"):
        train(settings | {"max_steps": 4})
    assert not (run / "checkpoint-4").exists()
