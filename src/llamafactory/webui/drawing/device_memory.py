# SPDX-License-Identifier: Apache-2.0
"""What memory this machine's NVIDIA devices have left, as the page shows it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from ...extras.memory import Memory, gpus
from .reports import GIB
from .reports import text as html

SECONDS = 5.0  # between two askings, of all pages together
_lock = threading.Lock()
_last: tuple[float, str] = (float("-inf"), "")


def device_memory() -> str:
    """A bar for each device, as HTML; nothing where there is none."""
    global _last
    with _lock:
        if time.monotonic() - _last[0] > SECONDS:
            _last = (time.monotonic(), bars(gpus()))
        return _last[1]


def bars(devices: Sequence[Memory]) -> str:
    """A bar for each device: what is used of it.

    >>> "GPU 0: 1.0 / 4.0 GiB" in bars([Memory("GPU 0: H200", 3 * 2**30, 4 * 2**30)])
    True
    """
    found = []
    for device in devices:
        if not device.total:
            continue  # a device that tells nothing
        used = device.total - device.free
        label = html(f"{device.name.partition(':')[0]}: {used / GIB:.1f} / {device.total / GIB:.1f} GiB")
        share = f"{100 * used / device.total:.0f}"
        found.append(f'<span>{label} <i class="track"><i style="width:{share}%"></i></i></span>')
    return f'<p class="memory">{"".join(found)}</p>' if found else ""
