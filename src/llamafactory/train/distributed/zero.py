# SPDX-License-Identifier: Apache-2.0
"""DeepSpeed's ZeRO as the trainer uses it: the engine, its step as an optimizer, its state in checkpoints.

The trainer keeps its loop, its schedule and its scale of the loss; the engine reduces gradients and takes the step. A
checkpoint holds whole weights, and the optimizer's state by the names of weights in the layout of ``parts.py``: nothing
is pickled, and any number of processes reads it.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ...extras.errors import ConfigError
from ...model.families.parts import known_layout
from .parts import OPTIMIZER, read_groups, read_tensors, room_for, write_groups, write_tensors

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from ...hparams.deepspeed import Zero

_MASTER = "master"  # float32 weights of an engine that trains bfloat16


def start_engine(model: Any, optimizer: Any, zero: Zero, arguments: TrainingArguments, bf16: bool) -> Any:
    """Give a model that is ready to train, and the optimizer of its weights, to an engine.

    Raises:
        ConfigError: The model cannot be cut by stage 3.
    """
    import deepspeed

    text_config = model.config.get_text_config()
    config = zero.config(
        arguments.per_device_train_batch_size,
        arguments.world_size,
        arguments.max_grad_norm,
        text_config.hidden_size,
        bf16,
    )
    deepspeed.comm.init_distributed(dist.get_backend())
    if zero.stage == 3 and known_layout(model.config) is not None:
        raise ConfigError(
            "deepspeed: in ZeRO stage 3 a process without media would not take part in gathering towers; use stage 2"
        )
    if zero.stage == 3:  # part by part from where the weights are; the engine would move all of them first
        if config["bf16"]["enabled"]:
            model.to(torch.bfloat16)
        deepspeed.zero.Init(module=model, config_dict_or_path=config)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    engine.no_sync = nullcontext  # accumulation is told micro-batch by micro-batch
    return engine


class EngineOptimizer(torch.optim.Optimizer):
    """The engine's step under the name by which the loop and the schedule know it."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.defaults: dict[str, Any] = {}

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The optimizer's own, whose rates the schedule sets."""
        groups: list[dict[str, Any]] = self.engine.optimizer.param_groups
        return groups

    @property
    def state(self) -> dict[Any, Any]:
        """By flat buffers, not by weights."""
        state: dict[Any, Any] = self.engine.optimizer.state
        return state

    def step(self, closure: Any = None) -> None:
        """Take the step, clipped by the engine."""
        self.engine.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """The engine's step does it."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: see :func:`save_state`."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing: see :func:`load_state`."""


def whole(weight: Tensor) -> Tensor | None:
    """Return a weight of stage 3 on the CPU of the first process; all call this together."""
    import deepspeed

    with deepspeed.zero.GatheredParameters([weight]) if hasattr(weight, "ds_id") else nullcontext():
        return weight.detach().cpu().clone() if dist.get_rank() == 0 else None


def save_state(model: nn.Module, engine: Any, folder: Path) -> None:
    """Write the optimizer's state, whole tensors shared out over the processes; all call this together."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    _link(engine.optimizer)
    moments, step = _moments(engine.optimizer)
    ours: dict[str, Tensor] = {}
    for number, (name, weight) in enumerate(_trained(model)):
        for key in moments:
            ours |= _mine(number, f"{name}.{key}", safe_get_full_optimizer_state(weight, key))
        if weight.dtype != torch.float32:
            ours |= _mine(number, f"{name}.{_MASTER}", safe_get_full_fp32_param(weight))
    write_tensors(ours, folder / OPTIMIZER)
    write_groups(engine.optimizer, folder / OPTIMIZER, step=step, engine="deepspeed")


def load_state(model: nn.Module, engine: Any, folder: Path) -> None:
    """Read what :func:`save_state` wrote, with any number of processes; all call this together.

    Raises:
        ConfigError: It cannot be read, or is of another optimizer.
    """
    optimizer, place = engine.optimizer, folder / OPTIMIZER
    weights = dict(_trained(model))
    room = room_for(weights, place)
    step = read_groups(optimizer, place).get("step")
    _make_room(optimizer, {name.rpartition(".")[2] for name in room} - {_MASTER}, step)
    for name, value in room.items():  # one at a time: whole states of all weights might not fit
        read_tensors({name: value}, place)
        weight, _, key = name.rpartition(".")
        _put(weights[weight], value, None if key == _MASTER else key)


def _trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]


def _mine(number: int, name: str, value: Tensor) -> dict[str, Tensor]:
    """A tensor that every process has is written by one of them."""
    return {name: value.cpu()} if number % dist.get_world_size() == dist.get_rank() else {}


def _buffers(optimizer: Any) -> list[Tensor]:
    """The flat float32 weights of this process, which are what the optimizer trains."""
    stage_3: list[Tensor] | None = getattr(optimizer, "fp32_partitioned_groups_flat", None)
    flat: list[Tensor] = optimizer.single_partition_of_fp32_groups if stage_3 is None else stage_3
    return flat


def _moments(optimizer: Any) -> tuple[list[str], float | None]:
    """Names of the states that are as large as the weights, and the steps that the optimizer has counted."""
    flat = _buffers(optimizer)[0]
    state = optimizer.state[flat]
    step = state.get("step")
    return (
        [key for key, value in state.items() if isinstance(value, Tensor) and value.shape == flat.shape],
        None if step is None else float(step),
    )


def _make_room(optimizer: Any, moments: set[str], step: float | None) -> None:
    """Give the optimizer the state that it makes at its first step."""
    for flat in _buffers(optimizer):
        state = optimizer.state[flat]
        state.update({key: torch.zeros_like(flat) for key in sorted(moments)})
        if step is not None:
            state["step"] = torch.tensor(step)
    _link(optimizer)


def _link(optimizer: Any) -> None:
    """Let stages 1 and 2 know which part of a buffer's state is whose.

    They do so once, when the first group of weights has made its first step (0.19.8), and find no state of the others.
    """
    if hasattr(optimizer, "_lazy_init_hp_params_optimizer_state"):
        optimizer._hp_optimizer_states_linked = False
        optimizer._lazy_init_hp_params_optimizer_state()


def _put(weight: nn.Parameter, value: Tensor, key: str | None) -> None:
    """Put a whole state, or without a key the float32 weight itself, where its parts are."""
    from deepspeed import utils

    value = value.to(weight.device)
    if not hasattr(weight, "ds_id"):
        if key is None:
            utils.safe_set_full_fp32_param(weight, value)
        else:
            utils.safe_set_full_optimizer_state(weight, value, key)
        return
    # Of stage 3 the function for whole values reads past the end of a weight that does not divide evenly.
    held = utils.safe_get_local_fp32_param(weight)
    padded = torch.zeros(held.numel() * dist.get_world_size(), dtype=value.dtype, device=value.device)
    padded[: value.numel()] = value.flatten()
    part = padded.view(dist.get_world_size(), -1)[dist.get_rank()]
    if key is None:
        utils.safe_set_local_fp32_param(weight, part)
    else:
        utils.safe_set_local_optimizer_state(weight, part, key)
