# SPDX-License-Identifier: Apache-2.0
"""Liger kernels (liger-kernel 0.8, Triton) by key: norms, rotary positions and gated MLPs, each in one kernel.

Its cross-entropies are left out: the loss here is computed in pieces already, over the trained tokens of the whole
step, and a forward of theirs would take its place. Attention stays what keeps packed sequences apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..extras.errors import ConfigError
from ..extras.logging import get_logger
from ..extras.packages import require_installed
from ..hparams.model_args import LIGER_KERNELS, LIGER_LOSSES

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..extras.device import Device
    from ..hparams import TrainArgs

logger = get_logger(__name__)

_SWIGLU, _GEGLU = ("silu", "swish"), ("gelu_pytorch_tanh", "gelu_new")  # what these two kernels compute


def wants_liger(args: TrainArgs) -> bool:
    """Whether one of the keys asks for Liger."""
    return bool(args.model.enable_liger_kernel or args.training.use_liger_kernel)


def use_liger(model: PreTrainedModel, args: TrainArgs, device: Device) -> None:
    """Put Liger's kernels into a loaded model, and look whether it computes what it did.

    Args:
        model: Without adapters yet.
        args: ``liger_kernel_config`` says which kernels, default all that fit.
        device: A CPU has no Triton: it is said, and nothing changes.

    Raises:
        ConfigError: The package is missing, has no kernels for the model, or they compute something else.
    """
    if device.type == "cpu":
        logger.warning_once("enable_liger_kernel: left out, Liger's kernels need a GPU (they are written in Triton)")
        return
    require_installed("liger_kernel", "enable_liger_kernel: true", "liger-kernel")
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN
    from transformers.integrations.liger import apply_liger_kernel

    kind = model.config.model_type
    if kind not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise ConfigError(f"enable_liger_kernel: Liger has no kernels for {kind} models; leave the key out")
    before = _logits(model)
    chosen = choose_kernels(model.config, args.training.liger_kernel_config)
    apply_liger_kernel(model, chosen)
    apart = float((_logits(model) - before).norm() / before.norm())
    allowed = 4 * torch.finfo(model.dtype).eps if model.dtype.itemsize == 2 else 1e-3  # TF32
    if not apart <= allowed:
        raise ConfigError(
            f"enable_liger_kernel: with Liger's kernels the logits of this {kind} model are {apart:.1%} off; leave the "
            "key out"
        )
    taken = ", ".join(name for name, on in chosen.items() if on)
    logger.info_rank0("Liger kernels: %s; logits within %.2g of the model's own", taken, apart)


def choose_kernels(config: Any, given: dict[str, bool] | None) -> dict[str, bool]:
    """Return the keywords of Liger's functions: those of our list that fit the activation, and never a loss.

    Liger puts its gated MLPs into a model without looking at the model's activation.
    """
    text = config.get_text_config()
    activation = getattr(text, "hidden_act", None) or getattr(text, "hidden_activation", None)
    fits = {"swiglu": activation in _SWIGLU, "geglu": activation in _GEGLU}
    chosen = {name: fits.get(name, True) and (given or {}).get(name, True) for name in LIGER_KERNELS}
    return chosen | dict.fromkeys(LIGER_LOSSES, False)


@torch.no_grad()
def _logits(model: Any) -> Tensor:
    ids = torch.arange(1, 65, device=model.device)[None] % model.config.get_text_config().vocab_size
    logits: Tensor = model(input_ids=ids, use_cache=False).logits
    return logits.float()
