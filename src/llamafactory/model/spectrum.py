# SPDX-License-Identifier: Apache-2.0
"""Spectrum (Hartford et al. 2024, arXiv:2406.06623): the linear layers whose weights hold the most signal are trained.

A random matrix has no singular value beyond the edge of the Marchenko-Pastur law, so what lies beyond it is signal.
Layers of one kind (all ``self_attn.q_proj``, …) are ranked among themselves.
"""

from __future__ import annotations

import hashlib
import math
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..extras.errors import ConfigError
from ..extras.files import read_json, write_json
from ..extras.logging import get_logger, is_rank0
from .paths import resolve_model_path

if TYPE_CHECKING:
    from ..hparams.model_args import ModelArguments

logger = get_logger(__name__)

_BLOCK = re.compile(r"\.(?:layers|h|blocks)\.(\d+)\.(.+)\.weight$")
_LAYOUT = "1"  # raise when the ratio is computed otherwise


def signal_to_noise(weight: Tensor) -> float:
    """Ratio of the singular values beyond the Marchenko-Pastur edge to the others, over the largest one.

    With singular values S of a matrix of n rows and m columns, beta = min(n, m) / max(n, m), and the spread of the
    noise estimated by the quartiles of S, sigma = (Q3 - Q1) / 1.349 (a normal distribution's), the edge is
    ``sigma (1 + sqrt(beta))``, and the ratio ``sum(S beyond it) / sum(the other S) / max(S)`` (section 3.2).

    Args:
        weight: ``[n, m]``.

    Returns:
        0 for a matrix of zeros, the largest number where all is signal.
    """
    values = torch.linalg.svdvals(weight.detach().float())
    largest = float(values[0])
    if largest == 0:
        return 0.0
    low, high = torch.quantile(values, torch.tensor([0.25, 0.75], device=values.device)).tolist()
    beta = min(weight.shape) / max(weight.shape)
    edge = (high - low) / 1.349 * (1 + math.sqrt(beta))
    signal, noise = float(values[values > edge].sum()), float(values[values <= edge].sum())
    return signal / noise / largest if noise else sys.float_info.max


def highest_layers(model: nn.Module, fraction: float, args: ModelArguments) -> set[str]:
    """Names of the weights and biases of the layers to train: of each kind the best share, rounded down, at least one.

    Args:
        model: The base model; its blocks' matrices are looked at, once a model (the ratios are kept in the cache).
        fraction: Share of the layers of a kind.
        args: Say where the model came from.

    Raises:
        ConfigError: The blocks have no matrices.
    """
    kinds: dict[str, list[str]] = {}
    weights = {name: weight for name, weight in model.named_parameters() if weight.ndim == 2 and _BLOCK.search(name)}
    for name in weights:
        kinds.setdefault(_BLOCK.sub(r".N.\2", name), []).append(name)
    if not kinds:
        raise ConfigError("spectrum_top_fraction: this model has no numbered blocks with linear layers")
    if any(weight.is_meta for weight in weights.values()):
        ratios = dict.fromkeys(weights, 1.0)  # a plan of memory: layers of a kind have one size
    else:
        ratios = _ratios(weights, args)
    chosen: set[str] = set()
    for kind, names in kinds.items():
        best = sorted(names, key=lambda name: -ratios[name])[: max(1, int(fraction * len(names) + 1e-9))]
        chosen.update(best)
        numbers = ", ".join(sorted((_BLOCK.search(name)[1] for name in best), key=int))  # type: ignore[index]
        span = f"{max(ratios[name] for name in names):.4g} to {min(ratios[name] for name in names):.4g}"
        logger.info_rank0(
            "Spectrum: %s of blocks %s (%d of %d); signal to noise %s", kind, numbers, len(best), len(names), span
        )
    layers = tuple(name.removesuffix("weight") for name in chosen)
    return {name for name, _ in model.named_parameters() if name.startswith(layers)}


def _ratios(weights: dict[str, nn.Parameter], args: ModelArguments) -> dict[str, float]:
    """Ratio of each weight, computed by the first process for all, so that all choose the same layers."""
    found = _cached_scan(weights, args) if is_rank0() else [0.0] * len(weights)
    if dist.is_initialized():
        shared = torch.tensor(found, dtype=torch.float64, device=next(iter(weights.values())).device)
        dist.broadcast(shared, 0)
        found = shared.tolist()
    return dict(zip(weights, found, strict=True))


def _cached_scan(weights: dict[str, nn.Parameter], args: ModelArguments) -> list[float]:
    root = Path(args.cache_dir).expanduser() if args.cache_dir else Path.home() / ".cache" / "llamafactory"
    file = root / "spectrum" / f"{_fingerprint(Path(resolve_model_path(str(args.model_name_or_path), args)))}.json"
    known = _read(file)
    if known.keys() != weights.keys():
        logger.info_rank0("Spectrum: looking at the singular values of %d weights (once a model)", len(weights))
        known = {name: signal_to_noise(weight) for name, weight in weights.items()}
        write_json(file, known)
    logger.info_rank0("Spectrum: signal to noise of each weight: %s", file)
    return [known[name] for name in weights]


def _read(file: Path) -> dict[str, float]:
    if not file.is_file():
        return {}
    try:
        found: dict[str, Any] = read_json(file, dict, "spectrum_top_fraction")
    except ConfigError:
        return {}  # damaged: made again
    return {name: value for name, value in found.items() if isinstance(value, float)}


def _fingerprint(folder: Path) -> str:
    """Which weights these are: the names, sizes and times of their files."""
    files = [path for path in sorted(folder.iterdir()) if path.suffix in (".safetensors", ".bin")]
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(f"{_LAYOUT} {folder} {stats}".encode()).hexdigest()[:16]
