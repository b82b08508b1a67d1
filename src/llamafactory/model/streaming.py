# SPDX-License-Identifier: Apache-2.0
"""A quantized base that stays in a file: ``stream_layers: true`` trains adapters over a model larger than memory.

The linear layers of the decoder are quantized once, one after another, into a safetensors file. Training maps the file
and reads a layer when it computes with it: in the forward pass, when a layer is computed again, and in the backward
pass, which needs the weight for the gradient of its input (:mod:`.quantizers.layers` makes it dense there once more,
and keeps it nowhere). So one weight is in memory at a time, and the numbers are those of a base that is all there.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..extras.errors import ConfigError, in_one_line, writing
from ..extras.files import check_safetensors, whole_file
from ..extras.logging import get_logger
from .merging import cast_weights
from .quantizers.layers import leave_file, linear_to_quantize, settle_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..extras.device import Device
    from .quantizers.choice import Choice
    from .quantizers.quantizer import Packing

logger = get_logger(__name__)

_FORMAT = 1  # of the files here; another number is another file
_HEAD_OF_LAYER = 2048  # bytes of the file's head that a layer takes at most
_KINDS = {"U8": torch.uint8, "I8": torch.int8, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_NAMES = {kind: name for name, kind in _KINDS.items()}


class WeightFile:
    """Tensors of a safetensors file, by layer. Reading takes no memory of this process: it sees the file's pages.

    Args:
        path: Names of tensors are ``LAYER:PART``; those of a layer lie side by side.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            head: dict[str, Any] = json.loads(file.read(length))
            self._pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        self._begin = 8 + length
        self._layers: dict[str, dict[str, dict[str, Any]]] = {}
        for name, entry in head.items():
            layer, _, part = name.partition(":")
            self._layers.setdefault(layer, {})[part] = entry

    def read(self, layer: str) -> dict[str, Tensor]:
        """The tensors of a layer, in the pages of the file."""
        return {part: self._tensor(entry) for part, entry in self._layers[layer].items()}

    def let_go(self, layer: str) -> None:
        """Give the pages of a layer back; the next reading brings them again."""
        places = [place for entry in self._layers[layer].values() for place in entry["data_offsets"]]
        first = (self._begin + min(places)) // mmap.PAGESIZE * mmap.PAGESIZE
        self._pages.madvise(mmap.MADV_DONTNEED, first, self._begin + max(places) - first)

    def _tensor(self, entry: dict[str, Any]) -> Tensor:
        kind, (first, last) = _KINDS[entry["dtype"]], entry["data_offsets"]
        first, last = self._begin + first, self._begin + last
        if first % kind.itemsize:  # a small one behind one of single bytes
            return torch.frombuffer(bytearray(self._pages[first:last]), dtype=kind).view(entry["shape"])
        count = (last - first) // kind.itemsize
        return torch.frombuffer(self._pages, dtype=kind, count=count, offset=first).view(entry["shape"])


class StreamedLinear(nn.Linear):
    """A linear layer whose weight is in a :class:`WeightFile`; of ``layer`` it has the bias alone.

    ``weight`` has shape, type and device, takes no memory and is not a number anywhere: whoever reads it in the place
    of ``dense_weight`` finds out.
    """

    def __init__(self, layer: nn.Linear, name: str, file: WeightFile, packing: Packing, like: Tensor) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        nothing = like.new_full((1,), float("nan")).expand(layer.out_features, layer.in_features)
        self.weight = nn.Parameter(nothing, requires_grad=False)
        self.bias = layer.bias
        self.name, self.file, self.packing, self.device = name, file, packing, like.device

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Move, cast: the bias alone, for a weight that is moved would take its place in memory."""
        weight = self._parameters.pop("weight")
        super()._apply(fn, recurse)
        self._parameters["weight"] = weight
        return self


def _dense(layer: StreamedLinear, dtype: torch.dtype) -> Tensor:
    parts = layer.file.read(layer.name)
    weight = layer.packing.unpack({part: tensor.to(layer.device) for part, tensor in parts.items()}, dtype)
    layer.file.let_go(layer.name)
    return weight


def stream(
    model: PreTrainedModel, choice: Choice, source: str, folder: str, dtype: torch.dtype, device: Device
) -> None:
    """Put layers that read their weights from a file in the place of the decoder's linear ones.

    Args:
        model: As ``from_pretrained`` maps it: full weights, in the type of the checkpoint, on the CPU.
        choice: How they are quantized.
        source: Where the weights came from.
        folder: Where the file is, or is made.
        dtype: In which weights are rounded, and those that stay whole are kept.
        device: Where the model computes.

    Raises:
        ConfigError: No layer can be streamed, or the folder cannot be written.
    """
    assert choice.quantizer is not None and choice.quantizer.packing is not None, "refused by the rules of the model"
    packing, settings = choice.quantizer.packing, choice.settings
    where = "cpu" if device.type == "cpu" else f"{device.type}:{device.index}"
    layers = linear_to_quantize(model)
    if not layers:
        raise ConfigError(f"stream_layers: {model.config.model_type} models have no linear layers to stream")
    path = Path(folder) / f"{_fingerprint(model, choice, source, dtype, device)}.safetensors"
    if not path.is_file() or check_safetensors(path) is not None:
        logger.info_rank0("stream_layers: quantizing %d layers into %s (once)", len(layers), path)
        with writing(folder), whole_file(path) as file:
            _write(file, layers, lambda weight: packing.pack(weight.to(where, dtype), settings))
    with in_one_line(f"stream_layers: {path} cannot be read; delete it"):
        weights = WeightFile(path)
    like = torch.empty(0, dtype=dtype, device=where)
    for name, layer in layers:
        model.set_submodule(name, StreamedLinear(layer, name, weights, packing, like))
    cast_weights(model, dtype)
    leave_file(model)
    model.to(where)
    settle_layers(model, StreamedLinear, _dense)
    logger.info_rank0("stream_layers: the weights of %d linear layers stay in %s", len(layers), path)


def _write(file: Any, layers: Iterable[tuple[str, nn.Linear]], pack: Any) -> None:
    """Write the layers one after another; the head is filled in when all sizes are known, and padded with blanks."""
    names = list(layers)
    length = len(names) * _HEAD_OF_LAYER
    head: dict[str, Any] = {}
    file.seek(8 + length)
    end = 0
    for name, layer in names:
        parts = pack(layer.weight.detach())
        for part, tensor in sorted(parts.items(), key=lambda item: -item[1].element_size()):
            data = tensor.cpu().contiguous().flatten().view(torch.uint8).numpy()
            file.write(data.data)
            place = [end, end + data.nbytes]
            head[f"{name}:{part}"] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": place}
            end += data.nbytes
    text = json.dumps(head).encode()
    assert len(text) <= length, f"{len(text)} bytes of names"
    file.seek(0)
    file.write(length.to_bytes(8, "little") + text.ljust(length))


def _fingerprint(model: Any, choice: Choice, source: str, dtype: torch.dtype, device: Device) -> str:
    """Name of the file: the same for the same weights, quantized in the same way."""
    assert choice.quantizer is not None
    place, settings = Path(source), choice.settings
    files = [path for pattern in ("*.safetensors", "*.bin") for path in sorted(place.glob(pattern))]
    facts = [
        (_FORMAT, str(place.resolve()) if files else source, getattr(model.config, "_commit_hash", None)),
        [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files],
        (choice.quantizer.name, settings.quantization_bit, settings.quantization_type, settings.double_quantization),
        [version(pip) for _, pip in choice.quantizer.packages],
        (type(model).__name__, str(dtype), device.type),
    ]
    return f"{place.name}-{hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}"
