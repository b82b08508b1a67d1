# SPDX-License-Identifier: Apache-2.0
"""LISA: a few blocks at a time, the same on every rank and after a resume, with the optimizer that the paper runs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import TrainerCallback

from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_train_args
from llamafactory.model.layer_sampling import LayerSampling

from .conftest import Keys
from .running import assert_bit_equal, curve, first_half, train, train_elsewhere, weights_of

LISA: dict[str, Any] = {"finetuning_type": "full", "lisa_activated_layers": 1, "lisa_interval_steps": 2}


class Stack(nn.Module):
    """Four blocks between what stands for embedding and head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 6)
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(4))
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        return self.head(x)


def stack() -> Stack:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Stack()


def test_twenty_steps_are_the_papers_algorithm() -> None:
    """Against AdamW made anew for each block that comes in; one optimizer for what is trained always."""
    ours, theirs = stack(), stack()
    lisa, optimizer = LayerSampling(ours, 2, 3), torch.optim.AdamW(ours.parameters(), lr=1e-2)
    always = torch.optim.AdamW([*theirs.embed.parameters(), *theirs.head.parameters()], lr=1e-2)
    own: dict[int, torch.optim.Optimizer] = {}
    drawn: list[list[int]] = []
    draw = torch.Generator().manual_seed(1)
    for step in range(21):
        lisa.on_step_begin(SimpleNamespace(seed=42), SimpleNamespace(global_step=step), None, optimizer=optimizer)
        x, y = torch.randn(8, 6, generator=draw), torch.randn(8, 3, generator=draw)
        (ours(x) - y).square().mean().backward()
        active = [number for number, layer in enumerate(ours.layers) if layer.weight.grad is not None]
        optimizer.step()
        optimizer.zero_grad()

        if step % 3 == 0:
            drawn.append(active)
            own = {
                number: own.get(number) or torch.optim.AdamW(theirs.layers[number].parameters(), lr=1e-2)
                for number in active
            }
        assert active == drawn[-1] and len(active) == 2
        (theirs(x) - y).square().mean().backward()
        for part in (always, *own.values()):
            part.step()
        theirs.zero_grad()
        assert len(optimizer.state) == 4 + 2 * 2  # embedding and head, and the blocks of the moment
    assert {number for some in drawn for number in some} == {0, 1, 2, 3} and len(set(map(tuple, drawn))) > 1
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-7)


class Trained(TrainerCallback):
    """Notes which blocks had a gradient in each step."""

    def __init__(self) -> None:
        self.steps: list[set[str]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        names = [name.split("layers.") for name, weight in model.named_parameters() if weight.grad is not None]
        self.steps.append({parts[1].split(".")[0] if len(parts) > 1 else parts[0] for parts in names})


def test_a_run_trains_one_block_at_a_time_and_the_ends_always(keys: Keys) -> None:
    seen = Trained()
    run = train(keys(**LISA, max_steps=8, learning_rate=3e-3), [seen])
    assert [len(some & {"0", "1"}) for some in seen.steps] == [1] * 8
    assert all(seen.steps[step] == seen.steps[step + 1] for step in (0, 2, 4, 6))
    assert len({frozenset(some) for some in seen.steps}) == 2
    assert all({"model.embed_tokens.weight", "model.norm.weight"} <= some for some in seen.steps)
    losses = [loss for _, loss, _ in curve(run)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("kind", [{}, pytest.param({"pure_bf16": True, "bf16": None}, marks=pytest.mark.slow)], ids=str)
def test_a_killed_run_goes_on_in_the_middle_of_a_period(keys: Keys, tmp_path: Path, kind: dict[str, Any]) -> None:
    steps = {"max_steps": 10, "save_strategy": "steps", "save_steps": 5, "lisa_interval_steps": 3}  # 5 is inside 3..5
    settings = keys(**{**LISA, **steps, **kind})
    whole = train(settings)
    state = torch.load(whole / "checkpoint-5" / "optimizer.pt", weights_only=True)
    assert len(state["state"]) == 2 + 9  # embedding, norm; the nine weights of one block
    half = tmp_path / "half"
    first_half(whole, half, 10)
    train(settings | {"output_dir": str(half)})
    assert_bit_equal(whole, half)


@pytest.mark.slow
def test_two_ranks_train_the_same_blocks_as_one(keys: Keys, tmp_path: Path) -> None:
    given = keys(**LISA, max_steps=6)
    one = train(given | {"output_dir": str(tmp_path / "one")})
    result = train_elsewhere(given | {"per_device_train_batch_size": 2}, ranks=2)
    assert result.returncode == 0, result.stderr[-2000:]
    theirs = weights_of(Path(given["output_dir"]))
    for key, weight in weights_of(one).items():
        torch.testing.assert_close(weight, theirs[key], rtol=1e-3, atol=2e-5, msg=key)


def test_what_does_not_go_together_is_one_line(keys: Keys) -> None:
    wrong = [
        ({"optim": "adafactor"}, "lisa_activated_layers: not with optim adafactor; expected one of adamw_torch, "),
        ({"use_galore": True}, "lisa_activated_layers: LISA runs AdamW on the blocks it draws, not galore"),
        ({"finetuning_type": "lora"}, "lisa_activated_layers: only for finetuning_type full, not lora"),
        ({"lisa_activated_layers": 0}, "lisa_activated_layers: expected 1 or more, got 0"),
        ({"lisa_activated_layers": None}, "lisa_interval_steps: needs lisa_activated_layers, which is not given"),
        ({"use_reentrant_gc": True}, "lisa_activated_layers: not with use_reentrant_gc: true"),
    ]
    assert get_train_args(keys(finetuning_type="full", lisa_interval_steps=20))  # its default asks for nothing
    for more, line in wrong:
        with pytest.raises(ConfigError) as caught:
            get_train_args(keys(**{**LISA, **more}))
        assert str(caught.value).startswith(line) and "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"^lisa_activated_layers: 3 asked, the model has 2 blocks$"):
        train(keys(**LISA | {"lisa_activated_layers": 3}))
