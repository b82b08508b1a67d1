# SPDX-License-Identifier: Apache-2.0
"""Quantized layers on disk, in the compressed-tensors format; and the proof that plain transformers reads them back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import nn
from torch.nn import functional as F

from ...extras.errors import ConfigError
from ...extras.files import write_json
from ...model.grid import Grid, Quantized
from ..proof import ExportFailure

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def write_checkpoint(
    folder: Path, model: PreTrainedModel, layers: dict[str, Quantized], grid: Grid, max_bytes: int
) -> None:
    """Replace the weights of an exported folder by quantized ones.

    Args:
        folder: Holds the full weights of the same model.
        model: With the quantized values in place.
        layers: Quantized weights by the name of their layer.
        grid: Number format of all of them.
        max_bytes: Largest file.

    Raises:
        ConfigError: The model's weights have other names on disk than in memory.
    """
    from compressed_tensors import __version__ as version
    from huggingface_hub import save_torch_state_dict

    stored = [name for file in sorted(folder.glob("*.safetensors")) for name in _names(file)]
    missing = sorted(f"{layer}.weight" for layer in layers if f"{layer}.weight" not in stored)
    if missing:
        raise ConfigError(
            f"export_quantization_bit: {model.config.model_type} is stored under other names than it has in memory (no "
            f"{missing[0]}), which cannot be quantized yet"
        )
    tensors: dict[str, torch.Tensor] = {}
    state = model.state_dict()
    for name in stored:
        layer = name.removesuffix(".weight")
        if name.endswith(".weight") and layer in layers:
            tensors.update({f"{layer}.{part}": tensor for part, tensor in grid.store(layers[layer]).items()})
        else:
            tensors[name] = state[name].cpu()
    save_torch_state_dict(tensors, folder, max_shard_size=max_bytes, metadata={"format": "pt"})
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "version": version,
        "format": grid.format,
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], **grid.scheme(), "output_activations": None}},
        "ignore": [name for name in linear if name not in layers],
        "kv_cache_scheme": None,
        # Made dense while they are read: compressed-tensors 0.20 cannot receive zeros otherwise in transformers 5.23.
        **({} if grid.scheme()["weights"]["symmetric"] else {"dequantize": True}),
        "global_compression_ratio": None,
    }
    write_json(path, config)


def _names(file: Path) -> list[str]:
    with safe_open(file, framework="pt") as tensors:
        return list(tensors.keys())


def prove_checkpoint(
    folder: Path,
    ours: PreTrainedModel,
    kinds: Sequence[Sequence[Sequence[int]]],
    placement: Any,
    trust_remote_code: bool,
) -> list[float]:
    """Load the folder with plain transformers and compare every weight with the quantized one, exactly.

    Args:
        folder: The export.
        ours: The model with the quantized values in place.
        kinds: Token ids of the rows held back, of each kind of text.
        placement: ``device_map`` of the load.
        trust_remote_code: The model brings its own code.

    Returns:
        Perplexity of each kind as the loaded model gives it.

    Raises:
        ExportFailure: A weight differs; the message names it.
    """
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto", device_map=placement, trust_remote_code=trust_remote_code
    )
    result = [perplexity(loaded, rows) for rows in kinds]  # the first forward also unpacks the weights
    state = loaded.state_dict()
    for name, expected in ours.state_dict().items():
        found = state.get(name)
        if found is None or not torch.equal(found.to(expected.device), expected):
            raise ExportFailure(f"export: {name} is not what was quantized when transformers loads the folder")
    return result


@torch.inference_mode()
def perplexity(model: PreTrainedModel, rows: Sequence[Sequence[int]]) -> float:
    """Return ``exp`` of the mean loss over all tokens of the rows but the first of each."""
    model.eval()
    total, count = 0.0, 0
    for row in rows:
        ids = torch.tensor([list(row)], device=model.device)
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
        total += float(F.cross_entropy(logits, ids[0, 1:].to(logits.device), reduction="sum"))
        count += ids.shape[1] - 1
    return float(torch.tensor(total / count, dtype=torch.float64).exp())
