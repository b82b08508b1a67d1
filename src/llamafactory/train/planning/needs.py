# SPDX-License-Identifier: Apache-2.0
"""What one process of a run needs, part by part, whether it fits, and the nearest changes with which it would."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from ...extras.heap import LARGEST, WORTH_IT
from ...extras.logging import get_logger
from ...hparams import get_train_args, resolve_dtypes
from ...model.checkpointing import wanted_checkpointing
from ...model.config import attention_width, read_config
from ...model.empty import planned_config, weight_bytes
from ...model.heads import REWARD, Head
from ...model.reference import names_reference, reference_args
from ...plugins import resolve
from ..gkd.teachers import teacher_args
from ..rl.rewards.reward_model import reward_args
from .simulation import Step, simulate

if TYPE_CHECKING:
    from ...hparams import TrainArgs
    from .devices import Planned

logger = get_logger(__name__)

_SPARE = 0.05  # of an accelerator's memory, which its allocator cannot use up
_SHORTEST = 512
# Of what layers keep and make on their way: by so much a CPU's heap grows beyond it, since freed pieces stay between
# those in use and the next do not fit into them. Chosen by the rows `seen` of benchmarks/plan.py.
_ROOM = 0.21


@dataclass(frozen=True)
class Needs:
    """What one process needs.

    Attributes:
        parts: Bytes by part; what they add up to is :attr:`peak`.
        peak: Bytes at the fullest moment.
        available: Bytes of the device.
        checkpointing: Whether activations are computed again in the backward pass.
        tokens: Of an optimizer step, of one process.
        seconds: Least time of a step; 0 if the device's speed is not known.
        parameters: Trained numbers.
    """

    parts: dict[str, int]
    available: int
    checkpointing: bool
    tokens: int
    seconds: float
    parameters: int

    @property
    def peak(self) -> int:
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        return self.peak <= self.available

    @property
    def tokens_per_second(self) -> float | None:
        """The most that the device's arithmetic and memory allow; real runs reach a part of it."""
        return self.tokens / self.seconds if self.seconds else None


def find_needs(args: TrainArgs, planned: Planned) -> Needs:
    """Return what a run needs on a device; checkpointing is turned on as the run itself would if the user left it open.

    Args:
        args: The whole resolved configuration.
        planned: Where it shall run.
    """
    wanted = wanted_checkpointing(args)
    needs = _needs(args, planned, bool(wanted))
    return _needs(args, planned, True) if wanted is None and not needs.fits else needs


def _needs(args: TrainArgs, planned: Planned, checkpointing: bool) -> Needs:
    step = simulate(args, planned, checkpointing)
    parts = {
        "weights": step.frozen,
        "trained weights": step.trained,
        "gradients": step.gradients,
        "optimizer": step.optimizer,
        "activations": step.activations,
    }
    work = max(0.0, step.peak - sum(parts.values()))
    parts |= {"logits": min(work, step.logits), "work space": max(0.0, work - step.logits)}
    parts["optimizer step"] = max(0.0, step.update - sum(parts.values()))  # activations have gone by then
    parts |= _beside(args, planned, step)
    parts["runtime"] = planned.runtime_bytes
    if planned.device.type == "cpu":
        # Less than WORTH_IT is not given back, and one piece of the largest that the heap holds may find no room.
        parts["gaps"] = WORTH_IT + LARGEST + _ROOM * (parts["activations"] + parts["work space"])
        stays, loading = _of_file(args, planned, step)
        parts["file beside experts"] = stays
        parts["file while loading"] = max(0.0, loading + planned.runtime_bytes - sum(parts.values()))
    training = args.training
    tokens = training.per_device_train_batch_size * training.gradient_accumulation_steps * args.data.cutoff_len
    on_cpu = planned.device.type == "cpu"
    available = planned.device.memory_bytes * (1 if on_cpu else 1 - _SPARE)
    rounded = {name: round(size) for name, size in parts.items() if size >= 1}
    return Needs(rounded, int(available), checkpointing, tokens, step.seconds, int(step.parameters))


def _of_file(args: TrainArgs, planned: Planned, step: Step) -> tuple[float, float]:
    """Return bytes that a file of weights takes in memory beside them, while a CPU trains and while it loads.

    Weights that stay what is mapped of their file take nothing more. Experts that are fused while they load are copies,
    and the file stays for the sake of the others. Where all are made anew, or packed, it goes with the last of them.
    """
    dtypes, of_file = resolve_dtypes(args, planned.device), planned_config(args).dtype
    full, quantized = args.finetuning.finetuning_type == "full", args.quantization.quantization_bit is not None
    if of_file is None or args.model.train_from_scratch:
        return 0, 0
    if str(of_file) == f"torch.{dtypes.trainable if full else dtypes.frozen}" and not quantized:
        return weight_bytes(args, of_file, fused=True), 0
    whole = replace(args, quantization=replace(args.quantization, quantization_bit=None))
    return 0, weight_bytes(whole, of_file) + step.frozen + (step.trained if full else 0)


def _beside(args: TrainArgs, planned: Planned, step: Step) -> dict[str, float]:
    """Return what stands beside the step itself: copies of gradients for other processes, other models, answers in the
    making."""
    found: dict[str, float] = {}
    if planned.count > 1:
        found["gradient exchange"] = step.gradients
    if compares(args):
        named = names_reference(args)
        found["reference"] = _beside_bytes(reference_args(args), planned) if named else step.copied
    rlhf = args.rlhf
    if args.finetuning.stage == "gkd":
        found["teachers"] = sum(_beside_bytes(own, planned) for own in teacher_args(args).values())
    if not resolve("stages", args.finetuning.stage).generates(args):
        return found
    if rlhf.reward_model and rlhf.reward_model_type == "full":
        found["reward model"] = _beside_bytes(reward_args(args), planned, REWARD)
    text = read_config(args.model).get_text_config()
    _, keys = attention_width(text)
    length = args.data.cutoff_len + args.generating.max_new_tokens
    found["rollouts"] = 2 * 2 * keys * text.num_hidden_layers * length * rlhf.rollout_batch_size
    return found


def _beside_bytes(own: TrainArgs, planned: Planned, head: Head | None = None) -> int:
    """Return what a frozen model takes that is loaded by arguments of its own."""
    return weight_bytes(own, getattr(torch, resolve_dtypes(own, planned.device).frozen), head)


def compares(args: TrainArgs) -> bool:
    """Whether a run holds a reference while it trains; scores that are computed before leave nothing behind."""
    stage, rlhf, training = args.finetuning.stage, args.rlhf, args.training
    if stage == "ppo" or (stage == "grpo" and rlhf.beta > 0):
        return True
    if stage == "dpo":
        loss = resolve("losses", rlhf.pref_loss)
        if getattr(loss, "reference_free", False) and not rlhf.pref_bco_weight:
            return False
    elif stage != "kto":
        return False
    before = rlhf.cache_ref_log_probs
    if before is None:  # of a number of steps only the rows tell whether it is an epoch
        before = not args.data.streaming and training.max_steps <= 0 and training.num_train_epochs >= 1
    return not before


@dataclass(frozen=True)
class Alternative:
    """A change of the configuration, and what the run needs with it."""

    change: dict[str, Any]
    needs: Needs


def nearest_that_fit(args: TrainArgs, planned: Planned, most: int = 3) -> list[Alternative]:
    """Return the smallest changes with which a run fits: those that leave the result as it is come first.

    Args:
        args: The whole resolved configuration, which does not fit.
        planned: Where it shall run.
        most: How many to find.
    """
    found: list[Alternative] = []
    for change in _changes(args):
        needs = find_needs(with_keys(args, change), planned)
        if needs.fits:
            found.append(Alternative(change, needs))
        if len(found) == most:
            break
    return found


def _changes(args: TrainArgs) -> Iterator[dict[str, Any]]:
    """Yield changes, each with all that came before it where one alone may not be enough."""
    training = args.training
    kept: dict[str, Any] = {}
    if wanted_checkpointing(args) is False:
        kept |= {"activation_checkpointing": True, "disable_gradient_checkpointing": False}
        yield dict(kept)
    batch = training.per_device_train_batch_size
    if batch > 1:
        kept |= {
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": training.gradient_accumulation_steps * batch,
        }
        yield dict(kept)
    if args.finetuning.finetuning_type == "full":
        yield kept | {"pure_bf16": True}
        yield kept | {"finetuning_type": "lora"}
        return
    if args.finetuning.finetuning_type == "lora" and args.quantization.quantization_bit is None:
        yield kept | {"quantization_bit": 4}
    length = args.data.cutoff_len // 2
    while length >= _SHORTEST:
        yield kept | {"cutoff_len": length}
        length //= 2


def with_keys(args: TrainArgs, keys: dict[str, Any]) -> TrainArgs:
    """Return the arguments of the same configuration with some keys changed."""
    plain = {key: value for key, value in args.keys.items() if value is not None}
    return get_train_args({**plain, **keys})
