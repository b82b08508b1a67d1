# SPDX-License-Identifier: Apache-2.0
"""LoftQ (Li et al. 2023, arXiv:2310.08659): a LoRA that begins with what the quantization of its base loses.

Algorithm 1, for each layer: ``Q_t = q(W - B A)``, then ``B A`` = the first singular directions of ``W - Q_t``, for
``t = 1 … T``. With T = 1 the base is what ``quantization_bit`` makes of the model; with more it is another one, which
``W`` and the ``B A`` before the last rounding give again: they are in ``loftq_base.safetensors`` beside the adapter.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback

from ..extras.errors import ConfigError, in_one_line
from ..extras.logging import get_logger, is_rank0
from ..plugins import resolve
from .adapter_config import LOFTQ, read_adapter_values
from .config import has_talker, read_config
from .paths import resolve_model_path
from .quantizers.layers import Quantized, quantized_layers
from .tokenizer import hub_options
from .whole import quiet_report

if TYPE_CHECKING:
    from ..hparams import InferArgs, TrainArgs

logger = get_logger(__name__)
FILE = "loftq_base.safetensors"
_PREFIX = "base_model.model."


@torch.no_grad()
def begin(model: Any, args: TrainArgs, iterations: int) -> None:
    """Begin a fresh LoRA over a quantized base.

    ``model.loftq_base`` is what was taken out of the weights before the last rounding: ``B [out, r]``, ``A [r, in]`` by
    the names of the base's layers; nothing where they were rounded as they are.

    Raises:
        ConfigError: No layer that the adapter acts on is quantized.
    """
    layers = {
        name.removeprefix(_PREFIX): layer
        for name, layer in model.named_modules()
        if isinstance(layer, LoraLinear) and isinstance(layer.get_base_layer(), Quantized)
    }
    if not layers:
        raise ConfigError("lora_init: loftq: lora_target names no layer that is quantized")
    model.loftq_base = {}
    whole = _whole(model.get_base_model(), args)
    before = after = 0.0
    for name, layer in layers.items():
        base = layer.get_base_layer()
        weight = whole.get_submodule(name).weight.to(base.weight.device).float()
        lost = weight - base.dense_weight(torch.float32)
        before += float(lost.square().sum())
        up, down = _principal(lost, layer.r["default"])
        for _ in range(iterations - 1):
            model.loftq_base |= {f"{name}.B": up, f"{name}.A": down}
            _round_again(base, weight - up @ down, args)
            lost = weight - base.dense_weight(torch.float32)
            up, down = _principal(lost, layer.r["default"])
        after += float((lost - up @ down).square().sum())
        root = layer.scaling["default"] ** 0.5
        layer.lora_B["default"].weight.copy_(up / root)
        layer.lora_A["default"].weight.copy_(down / root)
    model.peft_config["default"].init_lora_weights = "loftq"  # so that no file of it passes for a LoRA of whole weights
    model.starts_as_base = False
    logger.info_rank0(
        "LoftQ: with the adapter %d layers are %.3f as far from the whole weights as without", len(layers),
        (after / before) ** 0.5,
    )  # fmt: skip


def _principal(error: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """``B = U sqrt(S)``, ``A = sqrt(S) V^T`` of the largest singular values."""
    u, s, v = torch.linalg.svd(error, full_matrices=False)
    root = s[:rank].sqrt()
    return u[:, :rank] * root, root[:, None] * v[:rank]


def _round_again(layer: Quantized, weight: Tensor, args: TrainArgs | InferArgs) -> None:
    """Quantize another weight ``[out, in]`` into a layer."""
    plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    plain.weight = nn.Parameter(weight.to(layer.weight_type), requires_grad=False)
    plain.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach(), requires_grad=False)
    quantize = resolve("quantizers", args.quantization.quantization_method).quantize
    assert quantize is not None, "the rules allow no other method"
    rounded = quantize(plain, args.quantization, layer.weight_type).train(layer.training)
    rounded.weight_type = layer.weight_type
    layer.__dict__ = rounded.__dict__


def _whole(model: Any, args: TrainArgs | InferArgs) -> Any:
    """The same model with the weights of its file, in the main memory; those of a mapped file take none."""
    config = read_config(args.model)
    config = config.thinker_config if has_talker(config) else config
    if hasattr(model, "score"):
        config.num_labels = 1
    path = resolve_model_path(str(args.model.model_name_or_path), args.model)
    with quiet_report():
        return type(model).from_pretrained(path, config=config, dtype=model.dtype, **hub_options(args.model))


def save_base(model: Any, folder: Path) -> None:
    """Write :data:`FILE`."""
    save_file({name: value.cpu().contiguous() for name, value in model.loftq_base.items()}, folder / FILE)


def restore_base(model: Any, folder: str | Path, args: TrainArgs | InferArgs) -> None:
    """Quantize the base again as it was below the adapter in a folder, if that began by LoftQ.

    Args:
        model: Quantized as the adapter's run did, without adapters.
        folder: Of the adapter.
        args: Of now.

    Raises:
        ConfigError: :data:`FILE` is missing or cannot be read.
    """
    if read_adapter_values(folder).get("init_lora_weights") != LOFTQ:
        return
    with in_one_line(f"adapter_name_or_path: {Path(folder) / FILE}, which says what LoftQ rounded, cannot be read"):
        taken = load_file(Path(folder) / FILE)
    _take_out(model, taken, args)


def require_common_base(folder: str | Path, key: str) -> None:
    """Refuse an adapter whose base was rounded around it, where others stand on the same base.

    Raises:
        ConfigError: It is one, or :data:`FILE` cannot be read.
    """
    if read_adapter_values(folder, key).get("init_lora_weights") != LOFTQ:
        return
    with in_one_line(f"{key}: {Path(folder) / FILE}, which says what LoftQ rounded, cannot be read"):
        taken = load_file(Path(folder) / FILE)
    if taken:
        raise ConfigError(
            f"{key}: '{folder}' has a base of its own (loftq_iter above 1), which others cannot share; name it in "
            "adapter_name_or_path"
        )


@torch.no_grad()
def _take_out(model: Any, taken: dict[str, Tensor], args: TrainArgs | InferArgs) -> None:
    if not taken:
        return
    whole = _whole(model, args)
    for name, layer in quantized_layers(model):
        name = name.removesuffix(".base_layer")
        if f"{name}.B" in taken:
            weight = whole.get_submodule(name).weight.to(layer.weight.device).float()
            up, down = (taken[f"{name}.{factor}"].to(weight.device) for factor in "BA")
            _round_again(layer, weight - up @ down, args)


class LoftqBase(TrainerCallback):
    """Keeps with a run's checkpoints what its base is made of."""

    def __init__(self, model: Any, args: TrainArgs) -> None:
        self._model, self._args = model, args

    def save_progress(self, folder: Path) -> None:
        """Write what was taken out of the weights."""
        if is_rank0():
            save_base(self._model, folder)

    def load_progress(self, folder: Path) -> None:
        """Round the base as the checkpoint's was, should this machine have found other singular vectors."""
        with in_one_line(f"resume_from_checkpoint: {folder / FILE} cannot be read"):
            taken, now = load_file(folder / FILE), self._model.loftq_base
        if taken.keys() != now.keys() or any(not torch.equal(taken[name], now[name].cpu()) for name in taken):
            _take_out(self._model.get_base_model(), taken, self._args)
            self._model.loftq_base = taken
