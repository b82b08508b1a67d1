# SPDX-License-Identifier: Apache-2.0
"""The environment report that a bug report should carry; needs neither torch nor transformers unless asked."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from shutil import which

from .device import cpu_flags, cpu_name
from .manifest import PACKAGES
from .packages import version_of

_CPU_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16", "sve")


def print_env(args: list[str] | None = None) -> None:
    """Print the report; ``--torch`` also imports torch and asks it about the device."""
    words = sys.argv[2:] if args is None else args
    lines = report()
    if "--torch" in words:
        lines |= _torch_lines()
    width = max(len(name) for name in lines)
    for name, value in lines.items():
        print(f"- {name + ':':<{width + 1}} {value}")


def report() -> dict[str, str]:
    """Return name and value of each line of the report."""
    lines = {"platform": platform.platform(), "python": f"{platform.python_version()} ({sys.executable})"}
    lines |= {name: version for name in PACKAGES if (version := version_of(name))}
    flags = cpu_flags()
    features = ", ".join(feature for feature in _CPU_FEATURES if feature in flags)
    lines["cpu"] = f"{cpu_name()}, {os.cpu_count()} cores" + (f", {features}" if features else "")
    for number, gpu in enumerate(_nvidia_gpus()):
        lines[f"gpu {number}"] = gpu
    return lines


def _nvidia_gpus() -> list[str]:
    program = which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    return done.stdout.strip().splitlines() if done.returncode == 0 else []


def _torch_lines() -> dict[str, str]:
    from .device import probe

    device = probe()
    memory = f"{device.memory_bytes / 2**30:.1f} GiB"
    formats = " ".join(name for name in ("bf16", "fp16") if getattr(device, name)) or "float32 only"
    return {"torch device": f"{device.count} x {device.name} ({device.type}), {memory}, {formats}"}
