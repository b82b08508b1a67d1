# SPDX-License-Identifier: Apache-2.0
"""What GaLore and APOLLO share: which matrices they project, and updates within the backward pass."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...extras.errors import ConfigError
from ...extras.logging import get_logger
from ...hparams.field import require

if TYPE_CHECKING:
    from torch import nn
    from transformers import TrainingArguments as TransformersArguments

    from ...hparams import TrainArgs
    from ...hparams.training_args import TrainingArguments
    from .algorithms.low_rank import LowRank

logger = get_logger(__name__)


@dataclass(frozen=True)
class Projected:
    """What is projected, and how.

    Attributes:
        key: Where the targets were written.
        targets: Names of linear layers.
        layerwise: The key that asks for updates within the backward pass, "" if none does.
        settings: Of the groups of matrices.
    """

    key: str
    targets: list[str]
    layerwise: str
    settings: dict[str, Any] = field(default_factory=dict)


def by_optim(training: TrainingArguments, settings: dict[str, Any]) -> Projected:
    """Return what ``optim: …`` and ``optim_target_modules`` ask for; the text of the latter is one pattern."""
    given = training.optim_target_modules
    targets = [given] if isinstance(given, str) else given or []
    layerwise = f"optim {training.optim}" if training.optim.endswith("_layerwise") else ""
    return Projected("optim_target_modules", targets, layerwise, settings)


def check_projected(args: TrainArgs, chosen: Projected) -> None:
    """Nothing is asked for together with updates in the backward pass that needs all gradients at once."""
    training, key = args.training, chosen.layerwise
    if not key:
        return
    steps = training.gradient_accumulation_steps
    why = f"{key} uses each gradient as soon as it is there"
    require(steps == 1, f"gradient_accumulation_steps: {steps} cannot be, {why}")
    clip = training.max_grad_norm
    require("max_grad_norm" not in args.keys or not clip, f"max_grad_norm: {clip} cannot be, {why}; write 0")
    require(not training.fp16, f"fp16: true cannot be, {why}")
    require(training.on_nonfinite != "skip", f"on_nonfinite: skip cannot be, {why}")


def create_projected(
    kind: type[LowRank],
    inner: Any,
    model: nn.Module,
    arguments: TransformersArguments,
    chosen: Projected,
    **rest_settings: Any,
) -> LowRank:
    """Return an optimizer of low rank for the trained weights of a model.

    Raises:
        ConfigError: A target is not there, or several processes train layer by layer.
    """
    from .groups import by_decay, linear_weights, trained

    weights = trained(model)
    matrices = linear_weights(model, chosen.key, chosen.targets)
    rest = {name: weight for name, weight in weights.items() if name not in matrices}
    common = {"lr": arguments.learning_rate, **rest_settings}
    optimizer = kind(
        by_decay(model, rest, arguments.weight_decay, **common)
        + by_decay(model, matrices, arguments.weight_decay, **common, **chosen.settings),
        inner,
        arguments.seed,
    )
    count, total = (sum(weight.numel() for weight in some.values()) for some in (matrices, weights))
    logger.info_rank0(
        "%s: %d matrices at rank %d, %.0f%% of the trained weights; the others as usual",
        *(kind.__name__, len(matrices), chosen.settings["rank"], 100 * count / total),
    )
    if chosen.layerwise:
        if arguments.world_size > 1:
            raise ConfigError(f"{chosen.layerwise}: only with one process, not with {arguments.world_size}")
        optimizer.step_in_backward()
    return optimizer
