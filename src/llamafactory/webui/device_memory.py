# SPDX-License-Identifier: Apache-2.0
"""What memory this machine's NVIDIA devices have left, asked of their driver's own program, without torch."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time

from .drawing.reports import text as html

SECONDS = 5.0  # between two askings, of all pages together
_QUERY = ("--query-gpu=index,memory.used,memory.total", "--format=csv,noheader,nounits")
_lock = threading.Lock()
_last: tuple[float, str] = (float("-inf"), "")


def device_memory() -> str:
    """A bar for each device, as HTML; nothing where there is none."""
    global _last
    with _lock:
        if time.monotonic() - _last[0] > SECONDS:
            _last = (time.monotonic(), bars(_ask()))
        return _last[1]


def _ask() -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    try:
        return subprocess.run([program, *_QUERY], capture_output=True, text=True, timeout=3, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def bars(said: str) -> str:
    """Bars of what the program said: number, MiB used, MiB in all, a device a line.

    >>> "GPU 0: 1.0 / 4.0 GiB" in bars("0, 1024, 4096")
    True
    """
    found = []
    for line in said.splitlines():
        words = [word.strip() for word in line.split(",")]
        if len(words) != 3 or not all(word.isdecimal() for word in words) or not int(words[2]):
            continue  # a device that tells nothing
        used, total = int(words[1]), int(words[2])
        label = html(f"GPU {words[0]}: {used / 1024:.1f} / {total / 1024:.1f} GiB")
        found.append(f'<span>{label} <i class="track"><i style="width:{100 * used / total:.0f}%"></i></i></span>')
    return f'<p class="memory">{"".join(found)}</p>' if found else ""
