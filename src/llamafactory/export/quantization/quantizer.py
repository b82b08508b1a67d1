# SPDX-License-Identifier: Apache-2.0
"""Quantized export: a proven folder of full weights becomes one of 4 or 8 bits, block by block, and is proven again."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from ...extras.device import probe
from ...extras.errors import ConfigError
from ...extras.logging import get_logger
from ...extras.packages import require
from ...model.grid import Float8Grid, Grid, IntGrid, Quantized
from ..proof import ExportFailure
from . import awq, gptq, nearest
from .blocks import Block, find_blocks, in_float32, observe, run, start
from .calibration import write_own_text
from .checkpoint import perplexity, prove_checkpoint, write_checkpoint
from .tuning import tune

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ...hparams import InferArgs
    from ...hparams.inference_args import ExportArguments
    from .calibration import Calibration

logger = get_logger(__name__)


@dataclass(frozen=True)
class Method:
    """A way to quantize: ``prepare`` changes a block but not what it computes, ``quantize`` rounds a weight."""

    quantize: Callable[[Tensor, Tensor, Grid, torch.dtype], Quantized]
    prepare: Callable[[Block, Grid, torch.dtype], None] | None = None


METHODS: dict[str, Method] = {
    "gptq": Method(gptq.quantize),
    "awq": Method(nearest.quantize, awq.fold),
    "rtn": Method(nearest.quantize),
    "fp8": Method(nearest.quantize),
}
# How far the perplexity of the rows held back may grow, as a factor, by bits. What works stays below, even on models as
# small as SmolLM2-135M, which suffer most (docs/export.md has figures); what is broken goes far beyond.
LARGEST_GROWTH = {4: 2.0, 8: 1.1}
SMALLEST_GROUP = 32
EPOCHS = 4


@dataclass(frozen=True)
class QuantizationReport:
    """Figures of a quantization that held."""

    method: str
    bits: int
    group_size: int | None  # None: one scale a row
    layers: int
    mean_error: float  # of a layer's output on the calibration rows, relative to the output (root mean square)
    worst_error: float
    worst_layer: str
    calibration_rows: int
    held_back_rows: int
    perplexity_before: float
    perplexity_after: float
    own_rows: int  # of the calibration rows, written by the model itself
    own_perplexity_before: float | None  # of such rows held back; None: there are none
    own_perplexity_after: float | None
    symmetric: bool
    epochs: int  # in which the scales were tuned

    def rows(self) -> list[tuple[str, str]]:
        """Lines of the summary."""
        group = "one scale a row" if self.group_size is None else f"one scale for {self.group_size} weights"
        group += "" if self.symmetric else " and a zero"
        tuned = f", scales tuned in {self.epochs} passes" if self.epochs else ""
        judged = f"{self.held_back_rows} rows held back ({self.calibration_rows} calibrated)"
        own = []
        if self.own_perplexity_before is not None:
            figures = f"{self.own_perplexity_before:.4g} before, {self.own_perplexity_after:.4g} after"
            own = [("", f"{figures}, on text of the model's own ({self.own_rows} rows of it calibrated)")]
        return [
            ("quantized", f"{self.layers} layers by {self.method} to {self.bits} bits, {group}{tuned}"),
            (
                "layer error",
                f"{self.mean_error:.2%} of the output on average, {self.worst_error:.2%} in {self.worst_layer}",
            ),
            ("perplexity", f"{self.perplexity_before:.4g} before, {self.perplexity_after:.4g} after, on {judged}"),
            *own,
        ]


def check_packages(args: InferArgs) -> None:
    """Refuse early when the format's package is missing."""
    require(
        "compressed_tensors", f"export_quantization_bit: {args.export.export_quantization_bit}", "compressed-tensors"
    )


def quantize_folder(
    folder: Path, args: InferArgs, tokenizer: PreTrainedTokenizerBase, calibration: Calibration
) -> QuantizationReport:
    """Quantize the linear layers of the blocks of an exported model; embeddings and output stay as they are.

    In memory at once: the model in its stored type, one block of it in float32 with the moments of its inputs, and the
    hidden states of the calibration rows; for the proof two models, one of them unpacked.

    Args:
        folder: Full weights, already proven; they are replaced.
        args: The ``export`` section is read.
        tokenizer: Of the model.
        calibration: Rows to calibrate with and rows held back.

    Raises:
        ConfigError: The model cannot be quantized in this way.
        ExportFailure: The folder does not read back as quantized, or a perplexity grew beyond ``LARGEST_GROWTH``.
    """
    from transformers import AutoModelForCausalLM

    export = args.export
    method, bits = export.export_quantization_method, int(export.export_quantization_bit or 0)
    placement = _placement(args)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto", device_map=placement, trust_remote_code=args.model.trust_remote_code
    ).eval()
    own = write_own_text(model, tokenizer, calibration, export.export_quantization_own_text)
    kinds = [calibration.held_back, *([own.held_back] if own.rows else [])]
    before = [perplexity(model, rows) for rows in kinds]
    group = None if method == "fp8" else fitting_group(model, export.export_quantization_group_size)
    grid: Grid = Float8Grid()
    if group is not None:
        grid = IntGrid(bits, group, _symmetric(export), export.export_quantization_search)
    epochs = _epochs(export)
    layers, errors = quantize_model(model, [*calibration.rows, *own.rows], METHODS[method], grid, epochs)
    write_checkpoint(folder, model, layers, grid, max(1, int(export.export_size * 10**9)))
    count = len(layers)
    del layers
    gc.collect()
    after = prove_checkpoint(folder, model, kinds, placement, args.model.trust_remote_code)
    for was, now, text in zip(before, after, ("the rows held back", "text of the model's own"), strict=False):
        if not now <= LARGEST_GROWTH[bits] * was:
            raise ExportFailure(
                f"export: perplexity grew from {was:.4g} to {now:.4g} on {text} (allowed: {LARGEST_GROWTH[bits]:g} "
                "times); try another export_quantization_method or more bits"
            )
    worst = max(errors, key=lambda name: errors[name])
    return QuantizationReport(
        method=method,
        bits=bits,
        group_size=group,
        layers=count,
        mean_error=sum(errors.values()) / len(errors),
        worst_error=errors[worst],
        worst_layer=worst,
        calibration_rows=len(calibration.rows) + len(own.rows),
        held_back_rows=len(calibration.held_back),
        perplexity_before=before[0],
        perplexity_after=after[0],
        own_rows=len(own.rows),
        own_perplexity_before=before[1] if own.rows else None,
        own_perplexity_after=after[1] if own.rows else None,
        symmetric=method == "fp8" or _symmetric(export),
        epochs=epochs,
    )


def _symmetric(export: ExportArguments) -> bool:
    asked = export.export_quantization_symmetric
    return export.export_quantization_bit != 4 if asked is None else asked


def _epochs(export: ExportArguments) -> int:
    """Passes asked for; by default the methods of 4 bits that use the calibration rows anyway use them for this too."""
    asked = export.export_quantization_epochs
    if asked is not None:
        return asked
    return EPOCHS if export.export_quantization_bit == 4 and export.export_quantization_method != "rtn" else 0


@torch.no_grad()
def quantize_model(
    model: PreTrainedModel, rows: list[list[int]], method: Method, grid: Grid, epochs: int = 0
) -> tuple[dict[str, Quantized], dict[str, float]]:
    """Put quantized values into the model's blocks, each calibrated on what the quantized blocks before it give.

    Args:
        model: In its stored type; changed in place.
        rows: Token ids.
        method: How.
        grid: To which values.
        epochs: Passes over the rows in which the scales of all layers are tuned at the end.

    Returns:
        Quantized weights and relative output errors by the name of the layer.
    """
    prefix, blocks = find_blocks(model)
    on_the_way = start(model, blocks, rows)
    layers: dict[str, Quantized] = {}
    errors: dict[str, float] = {}
    for number, module in enumerate(tqdm(blocks, desc="quantizing", unit=" blocks", disable=None)):
        types = {name: weight.dtype for name, weight in module.named_parameters()}
        with in_float32(module):
            if epochs:
                for row in on_the_way:
                    row.whole = run(module, replace(row, hidden=row.whole), number)
            block = observe(module, on_the_way, number)
            if method.prepare is not None and block.layers:
                method.prepare(block, grid, types[f"{next(iter(block.layers))}.weight"])
            for shared in block.inputs:
                for name in shared.names:
                    weight = block.layers[name].weight
                    quantized = method.quantize(weight, shared.moments, grid, types[f"{name}.weight"])
                    values = quantized.values().float()
                    full = f"{prefix}.{number}.{name}"
                    output = shared.energy(weight)
                    errors[full] = (shared.energy(weight - values) / output) ** 0.5 if output else 0.0
                    layers[full] = quantized.to("cpu")
                    weight.copy_(values)
            for row in on_the_way:
                row.hidden = run(module, row, number)
    if not layers:
        raise ConfigError(f"export_quantization_bit: {model.config.model_type} has no linear layers in its blocks")
    if epochs:
        layers = tune(model, blocks, on_the_way, layers, epochs)
    return layers, errors


def fitting_group(model: PreTrainedModel, group_size: int) -> int:
    """Return the group size asked for, halved until it divides the inputs of every layer.

    Raises:
        ConfigError: Not even groups of ``SMALLEST_GROUP`` fit.
    """
    _, blocks = find_blocks(model)
    widths = sorted({module.in_features for module in blocks.modules() if isinstance(module, torch.nn.Linear)})
    group = group_size
    while any(width % group for width in widths):
        group //= 2
        if group < SMALLEST_GROUP:
            raise ConfigError(
                f"export_quantization_group_size: the layers have {', '.join(map(str, widths))} inputs, which groups "
                f"of {SMALLEST_GROUP} or more do not divide; export_quantization_method: fp8 needs no groups"
            )
    if group != group_size:
        logger.warning(
            "export_quantization_group_size: %d does not divide %s inputs; groups of %d are used",
            group_size,
            next(width for width in widths if width % group_size),
            group,
        )
    return group


def _placement(args: InferArgs) -> Any:
    device = probe(use_cpu=args.export.export_device == "cpu")
    if device.type == "cpu":
        return None
    return "auto" if device.count > 1 else {"": f"{device.type}:{device.index}"}
