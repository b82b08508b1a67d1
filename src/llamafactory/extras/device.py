# SPDX-License-Identifier: Apache-2.0
"""Which device there is and what it can compute: asked of the device, not guessed from its name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .environment import rank_number

# CPU flags under which bfloat16 matrix products run in hardware; elsewhere torch emulates them slowly.
_CPU_BF16_FLAGS = frozenset(("amx_bf16", "avx512_bf16"))


@dataclass(frozen=True)
class Device:
    """One process's device.

    Attributes:
        type: ``cuda``, ``xpu``, ``npu``, ``mps`` or ``cpu``.
        index: Number of this process's device among those of its type.
        count: Devices of this type on the machine; 1 for the CPU.
        bf16: bfloat16 is computed in hardware.
        fp16: float16 training is supported.
        memory_bytes: Memory of the device, or of the machine for ``cpu`` and ``mps``.
        name: What the device calls itself.
    """

    type: str
    index: int
    count: int
    bf16: bool
    fp16: bool
    memory_bytes: int
    name: str


def probe(use_cpu: bool = False) -> Device:
    """Look at the device that this process would compute on (imports torch).

    Args:
        use_cpu: Look at the CPU even when there is an accelerator.
    """
    import torch

    accelerator = None if use_cpu else torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return _cpu()
    kind = accelerator.type
    if kind == "mps":
        return Device("mps", 0, 1, bf16=True, fp16=True, memory_bytes=host_memory(), name="Apple GPU")
    backend = getattr(torch, kind)
    index = rank_number("LOCAL_RANK") % backend.device_count()
    properties = backend.get_device_properties(index)
    # Turing and older pretend to have bfloat16 and compute it in software.
    bf16 = properties.major >= 8 if kind == "cuda" and torch.version.hip is None else backend.is_bf16_supported()
    memory = int(properties.total_memory)
    return Device(kind, index, backend.device_count(), bf16=bf16, fp16=True, memory_bytes=memory, name=properties.name)


def count_accelerators() -> int:
    """Return how many accelerators this machine offers; 0 when there is only the CPU (imports torch)."""
    import torch

    return torch.accelerator.device_count() if torch.accelerator.is_available() else 0


def cpu_flags() -> frozenset[str]:
    """Return the CPU's feature flags as the kernel names them; empty where it does not say."""
    for line in _lines("/proc/cpuinfo"):
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def cpu_name() -> str:
    """Return the CPU's model name."""
    import platform

    for line in _lines("/proc/cpuinfo"):
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def host_memory() -> int:
    """Return the bytes of memory this machine has, or the limit of its container when that is lower."""
    import psutil

    total = psutil.virtual_memory().total
    limit = next(iter(_lines("/sys/fs/cgroup/memory.max")), "max").strip()
    return min(total, int(limit)) if limit.isdigit() else total


def _cpu() -> Device:
    bf16 = bool(_CPU_BF16_FLAGS & cpu_flags())
    return Device("cpu", 0, 1, bf16=bf16, fp16=False, memory_bytes=host_memory(), name=cpu_name())


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text("utf-8", errors="replace").splitlines() if file.is_file() else []
