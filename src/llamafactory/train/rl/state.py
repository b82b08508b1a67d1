# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint of an RL stage holds besides weights: the rollout that is not used up, and the stage's counters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from ...extras.errors import in_one_line
from .completions import Batch

_NAME = "rollout-{rank}.safetensors"


def save_state(folder: str, rank: int, buffer: list[list[Batch]] | None, state: dict[str, Any]) -> None:
    """Write this rank's rollout as safetensors, with everything that is not a tensor as JSON in its header."""
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    plain: list[list[dict[str, Any]]] = []
    for number, step in enumerate(buffer or []):
        plain.append([])
        for micro, batch in enumerate(step):
            found = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
            tensors |= {f"{number}.{micro}.{name}": value.cpu().contiguous() for name, value in found.items()}
            plain[-1].append({name: value for name, value in batch.items() if name not in found})
    Path(folder).mkdir(parents=True, exist_ok=True)
    header = {"state": json.dumps(state), "batches": json.dumps(plain)}
    save_file(tensors, str(Path(folder) / _NAME.format(rank=rank)), metadata=header)


def load_state(folder: str, rank: int) -> tuple[list[list[Batch]] | None, dict[str, Any]]:
    """Read what :func:`save_state` wrote: the rollout (None when there is none) and the stage's state."""
    path = Path(folder) / _NAME.format(rank=rank)
    if not path.exists():
        path = Path(folder) / _NAME.format(rank=0)  # more processes than before: the counters are the same for all
        return None, _read(path)[1] if path.exists() else {}
    return _read(path)


def _read(path: Path) -> tuple[list[list[Batch]] | None, dict[str, Any]]:
    from safetensors import safe_open

    with (
        in_one_line(f"resume_from_checkpoint: {path} is damaged"),
        safe_open(str(path), framework="pt", device="cpu") as file,
    ):
        header = file.metadata()
        buffer: list[list[Batch]] = json.loads(header["batches"])
        for name in file.keys():  # noqa: SIM118 - not a dict
            step, micro, key = name.split(".", 2)
            buffer[int(step)][int(micro)][key] = file.get_tensor(name)
    return buffer or None, json.loads(header["state"])
