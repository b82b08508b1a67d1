# SPDX-License-Identifier: Apache-2.0
"""What checkpointed layers keep for the backward pass, on a disk: a file without a name, gone with its process."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

_LEAST_BYTES = 1 << 16  # smaller ones cost more to move than they take


class DiskStore:
    """Tensors in a file, each until nobody needs it any more; the file is written anew once it is empty.

    Args:
        folder: Where the file is made.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - open for as long as the model lives
        self.end = self.live = self.written = 0

    def pack(self, tensor: Tensor) -> Any:
        """Write a tensor and return its place; weights, and what is small, stay where they are."""
        if isinstance(tensor, torch.nn.Parameter) or tensor.nbytes < _LEAST_BYTES or tensor.layout != torch.strided:
            return tensor
        return _Place(self, tensor)

    @staticmethod
    def unpack(kept: Any) -> Tensor:
        """Return the tensor that :meth:`pack` was given."""
        return kept.read() if isinstance(kept, _Place) else kept

    def checkpoint(self, function: Any, *args: Any, **options: Any) -> Any:
        """Call ``torch.utils.checkpoint.checkpoint`` with its inputs on the disk."""
        with torch.autograd.graph.saved_tensors_hooks(self.pack, self.unpack):
            return checkpoint(function, *args, **options)

    def write(self, data: memoryview) -> int:
        """Write at the end and return where that was."""
        start, done = self.end, 0
        while done < len(data):
            done += os.pwrite(self._file.fileno(), data[done:], start + done)
        self.end, self.live, self.written = start + len(data), self.live + 1, self.written + len(data)
        return start

    def read(self, data: memoryview, start: int) -> None:
        """Fill ``data`` with what was written there."""
        done = 0
        while done < len(data):
            done += os.preadv(self._file.fileno(), [data[done:]], start + done)

    def release(self) -> None:
        """One tensor less is needed."""
        self.live -= 1
        if not self.live:
            self.end = 0


class _Place:
    def __init__(self, store: DiskStore, tensor: Tensor) -> None:
        self.store, self.device, self.dtype, self.shape = store, tensor.device, tensor.dtype, tensor.shape
        self.start = store.write(_bytes_of(tensor.detach().cpu().contiguous()))

    def read(self) -> Tensor:
        tensor = torch.empty(self.shape, dtype=self.dtype)
        self.store.read(_bytes_of(tensor), self.start)
        return tensor.to(self.device)

    def __del__(self) -> None:
        if hasattr(self, "start"):  # else the disk was full
            self.store.release()


def _bytes_of(tensor: Tensor) -> memoryview:
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())
