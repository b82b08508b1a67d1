# SPDX-License-Identifier: Apache-2.0
"""How much memory is free: asked of the system and of NVIDIA's driver, without torch, which would take some itself."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .device import host_memory

_ASK_SECONDS = 5
_QUERY = "--query-gpu=index,name,memory.free,memory.total"


@dataclass(frozen=True)
class Memory:
    """Memory of one device.

    Attributes:
        name: Of the device; empty for the machine itself.
        free: Bytes.
        total: Bytes.
    """

    name: str
    free: int
    total: int

    def __str__(self) -> str:
        """For people, in GiB."""
        return f"{self.free / 2**30:.1f} of {self.total / 2**30:.1f} GiB free" + f" ({self.name})" * bool(self.name)


def memories() -> list[Memory]:
    """Return the memory of the machine, or of its container where that has less, then of each NVIDIA GPU."""
    return [_host(), *gpus()]


def _host() -> Memory:
    import psutil

    total = host_memory()
    free = psutil.virtual_memory().available
    current = Path("/sys/fs/cgroup/memory.current")
    if total < psutil.virtual_memory().total and current.is_file():  # a container with a limit of its own
        free = min(free, max(0, total - int(current.read_text("ascii"))))
    return Memory("", free, total)


def gpus() -> list[Memory]:
    """Return the memory of each NVIDIA GPU; none where there is none, or its driver does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, _QUERY, "--format=csv,noheader,nounits"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=_ASK_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):  # a driver that does not answer is no reason to know nothing
        return []
    return read_table(asked.stdout)


def read_table(table: str) -> list[Memory]:
    """Read what ``nvidia-smi`` prints; a device that does not tell its memory (unified with the machine's) is left out.

    Args:
        table: Lines ``number, name, MiB free, MiB in all``.
    """
    found = []
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == 4 and cells[2].isdecimal() and cells[3].isdecimal():
            number, name, free, total = cells
            found.append(Memory(f"GPU {number}: {name}", int(free) * 2**20, int(total) * 2**20))
    return found
