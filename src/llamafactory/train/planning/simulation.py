# SPDX-License-Identifier: Apache-2.0
"""One optimizer step of a run, computed on tensors without values, and what it holds at its fullest moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils._python_dispatch import _disable_current_modes
from transformers import Trainer as TransformersTrainer

from ...extras.errors import ConfigError
from ...extras.logging import get_logger
from ...hparams import resolve_dtypes
from ...hparams.derive import chosen_optimizer
from ...hparams.rules.optimizer import PACKAGES
from ...model.checkpointing import keeping
from ...model.empty import empty_model, planned_config, with_layers
from ...model.reference import lies_below
from ...model.wrapping import beneath_adapters
from ...plugins import resolve
from ..losses.linear_log_probs import Anchor, LogitTransform
from ..optim import create_optimizer
from ..token_scores import attach, chunk_rows
from ..training_arguments import transformers_arguments
from .step_meter import StepMeter

if TYPE_CHECKING:
    from ...hparams import Dtypes, TrainArgs
    from .devices import Planned

logger = get_logger(__name__)

# Layers of a model that repeat are computed up to these numbers only; the rest follows from the difference.
_FEW, _MORE = 4, 8
_SEQUENCES = {"rm": 2, "dpo": 2}  # of a row
_LOGS_ENTROPY = ("dpo", "kto", "ppo", "grpo")  # of the policy, from the same logits


@dataclass(frozen=True)
class Step:
    """What one process needs for an optimizer step.

    Attributes:
        frozen: Bytes of weights that are not trained.
        trained: Bytes of weights that are.
        gradients: Bytes.
        optimizer: Bytes of its state.
        activations: Bytes kept for the backward pass.
        logits: Bytes of one chunk of logits and what is made of it.
        peak: Bytes at the fullest moment of the passes forward and backward, everything included.
        update: The same of the optimizer's own step, gradients and what is made on the way included.
        seconds: Least time of the arithmetic and the memory's traffic.
        flops: Operations.
        parameters: Trained numbers.
        copied: Bytes of the trained weights that a reference keeps as they were; 0 where it lies below the adapter.
    """

    frozen: float
    trained: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    peak: float
    update: float
    seconds: float
    flops: float
    parameters: float
    copied: float

    def at(self, more: Step, share: float) -> Step:
        """Return the straight line through this step and ``more``, at ``share`` of their distance."""
        pairs = ((getattr(self, item.name), getattr(more, item.name)) for item in fields(Step))
        return Step(*(low + (high - low) * share for low, high in pairs))


def simulate(args: TrainArgs, planned: Planned, checkpointing: bool) -> Step:
    """Compute a step of full batches: ``per_device_train_batch_size`` sequences of ``cutoff_len`` tokens.

    Args:
        args: The whole resolved configuration.
        planned: Where it shall run.
        checkpointing: Whether activations are computed again in the backward pass.
    """
    config, dtypes = planned_config(args), resolve_dtypes(args, planned.device)
    step = partial(_simulate, args, dtypes=dtypes, planned=planned, checkpointing=checkpointing)
    layers = config.get_text_config().num_hidden_layers
    period = _period(config)
    few, more = (-(-number // period) * period for number in (_FEW, _MORE))
    some = args.finetuning.finetuning_type == "freeze" or getattr(args.tuner, "lisa_activated_layers", None)
    if some or layers <= 2 * more:  # only some layers are trained: they are not alike
        return step(config)
    low, high = step(with_layers(config, few)), step(with_layers(config, more))
    return low.at(high, (layers - few) / (more - few))


def _period(config: Any) -> int:
    """After how many layers their kinds come again."""
    kinds = getattr(config.get_text_config(), "layer_types", None) or ["the same"]
    lengths = range(1, len(kinds) + 1)
    return next(size for size in lengths if all(kinds[place] == kinds[place % size] for place in range(len(kinds))))


def _simulate(args: TrainArgs, config: Any, dtypes: Dtypes, planned: Planned, checkpointing: bool) -> Step:
    reward = resolve("stages", args.finetuning.stage).head == "reward"
    with _named(_method(args)):
        model = empty_model(args, config, dtypes, reward)
    if checkpointing:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False, **keeping(args)})
    with FakeTensorMode(allow_non_fake_inputs=True):
        _without_values(model)
        meter = StepMeter(planned.speed, planned.device.type == "cpu")
        everything = [*model.parameters(), *model.buffers()]
        meter.watch(everything)
        with meter, _named(_method(args)):
            step = _run(model, args, dtypes, meter, reward)
            return step if reward else _with_logits(step, model, args, planned.device.type)


def _method(args: TrainArgs) -> str:
    return f"finetuning_type: plan cannot compute a step of {args.finetuning.finetuning_type}"


@contextmanager
def _named(line: str) -> Iterator[None]:
    """Say of what a step cannot be computed without values."""
    try:
        yield
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise ConfigError(f"{line}, which looks at values") from error
    except ConfigError as error:
        if str(error).startswith("finetuning_type: PEFT") and "meta" in str(error).lower():  # with such weights
            raise ConfigError(f"{line}, which looks at values") from error
        raise


def _with_logits(step: Step, model: nn.Module, args: TrainArgs, device: str) -> Step:
    """An accelerator takes larger chunks of logits than the CPU that the step was computed as for."""
    here, there = (_logits(model, args, kind) for kind in ("cpu", device))
    return replace(step, logits=there, peak=step.peak + there - here)


def _run(model: nn.Module, args: TrainArgs, dtypes: Dtypes, meter: StepMeter, reward: bool) -> Step:
    optimizer = _optimizer(model, args)
    trained = [weight for weight in model.parameters() if weight.requires_grad]  # BAdam's are those of a block
    one_by_one = getattr(optimizer, "in_backward", False)
    gradients = weights = sum(map(_bytes, trained))
    frozen = meter.alive - weights
    for weight in trained:
        weight.grad = torch.empty_like(weight)
    _first_step(optimizer, chosen_optimizer(args) or args.training.optim)
    state, first = meter.alive - frozen - weights - gradients, meter.peak
    times = args.training.gradient_accumulation_steps
    if times == 1:
        optimizer.zero_grad()
    if one_by_one:
        gradients, first = 0, 0
    before = meter.peak = meter.alive
    meter.seconds = meter.flops = 0.0
    with torch.autocast("cpu", torch.bfloat16, enabled=dtypes.autocast):
        loss = _loss(model, args, reward)
    kept = meter.alive - before
    loss.backward()
    seconds, flops = times * meter.seconds, times * meter.flops
    passes, meter.peak, meter.seconds = meter.peak, meter.alive, 0.0
    if args.training.max_grad_norm:
        nn.utils.clip_grad_norm_(trained, args.training.max_grad_norm)
    optimizer.step()
    return Step(
        frozen=frozen,
        trained=weights,
        gradients=gradients,
        optimizer=state,
        activations=kept,
        logits=0,
        peak=passes,
        update=max(first, meter.peak),
        seconds=seconds + meter.seconds,
        flops=flops,
        parameters=sum(weight.numel() for weight in trained),
        copied=0 if lies_below(model, args) else weights,
    )


def _first_step(optimizer: Any, name: str) -> None:
    """Take the step that makes the state, and more on its way than those after it."""
    line = f"optim: plan cannot compute a step of {name}"
    with _named(line):
        try:
            optimizer.step()
        except RuntimeError as error:
            if "torch.compile" in str(error):  # those of torchao
                raise ConfigError(f"{line}, which compiles itself") from error
            raise


def _optimizer(model: nn.Module, args: TrainArgs) -> Any:
    """Return the run's optimizer, ready for its first step."""
    arguments = transformers_arguments(args)
    with _tables_with_values(args.training.optim):
        optimizer: Any = create_optimizer(model, args, arguments)
        if optimizer is None:
            trained = [weight for weight in model.parameters() if weight.requires_grad]
            kind, options = TransformersTrainer.get_optimizer_cls_and_kwargs(arguments, model)
            optimizer = kind(trained, **options)
    if hasattr(optimizer, "train"):  # schedule-free ones ask for it
        optimizer.train()
    if hasattr(optimizer, "begin_below"):
        optimizer.begin_below()
    return optimizer


@contextmanager
def _tables_with_values(optim: str) -> Iterator[None]:
    """Let the optimizers of bitsandbytes make their tables of codes, which takes values."""
    if optim not in PACKAGES["bitsandbytes", "bitsandbytes"] and "adamw_8bit" not in optim:
        yield
        return
    from bitsandbytes.optim.optimizer import Optimizer8bit

    plain = Optimizer8bit.fill_qmap

    def with_values(self: Any) -> None:
        with _disable_current_modes():
            plain(self)

    Optimizer8bit.fill_qmap = with_values  # type: ignore[method-assign]
    try:
        yield
    finally:
        Optimizer8bit.fill_qmap = plain  # type: ignore[method-assign]


def _loss(model: nn.Module, args: TrainArgs, reward: bool) -> Tensor:
    rows = args.training.per_device_train_batch_size * _SEQUENCES.get(args.finetuning.stage, 1)
    ids = torch.zeros(rows, _length(args), dtype=torch.long)
    if reward:
        loss: Tensor = model(input_ids=ids).logits.sum()
        return loss
    attach(model, LogitTransform())
    positions = torch.arange(1, ids.numel())
    entropy = args.finetuning.stage in _LOGS_ENTROPY
    options: dict[str, Any] = {"labels": ids, "positions": positions, "score": True, "entropy": entropy}
    if args.finetuning.stage == "gkd":
        size = beneath_adapters(model).get_output_embeddings().weight.shape[0]
        anchor = Anchor(torch.zeros(len(positions)), lambda some: some.new_zeros(len(some), size), args.rlhf.gkd_beta)
        distances: Tensor = model(input_ids=ids, anchor=anchor, **options).divergence
        return distances.sum()
    loss = model(input_ids=ids, **options).log_probs.sum()
    return loss


def _length(args: TrainArgs) -> int:
    more = args.generating.max_new_tokens if resolve("stages", args.finetuning.stage).generates(args) else 0
    return args.data.cutoff_len + more


def _logits(model: nn.Module, args: TrainArgs, device: str) -> int:
    """Bytes of a chunk of logits as the head makes them, in float32, and of their log-probabilities."""
    head = beneath_adapters(model).get_output_embeddings()
    vocabulary = head.weight.shape[0]
    rows = min(chunk_rows(vocabulary, torch.device(device)), args.training.per_device_train_batch_size * _length(args))
    of_teacher = 24 if args.finetuning.stage == "gkd" else 0  # its logits, both distributions, their gradient
    return rows * vocabulary * (head.weight.element_size() + 8 + of_teacher)


def _without_values(model: nn.Module) -> None:
    """Put tensors that take no memory, but behave as a CPU's, in the place of those on the meta device."""
    made: dict[int, Any] = {}

    def of(tensor: Tensor) -> Any:
        if id(tensor) not in made:
            empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
            is_weight = isinstance(tensor, nn.Parameter)
            made[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if is_weight else empty
        return made[id(tensor)]

    for module in model.modules():
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is not None:
                    table[name] = of(tensor)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
