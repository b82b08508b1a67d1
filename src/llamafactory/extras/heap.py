# SPDX-License-Identifier: Apache-2.0
"""Memory that goes back to the system when it is freed."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h
_WHILE, _AFTER = 1 << 20, 32 << 20  # bytes; the latter is where glibc's own adjustment ends


@contextmanager
def returning_memory() -> Iterator[None]:
    """Inside the block large pieces of memory go back when they are freed; at its end what is free goes back too.

    glibc keeps freed pieces of up to 32 MiB, for each thread apart: weights that pass through memory to be quantized
    would leave as much behind as the whole model takes. Other C libraries have no such switch and need none.
    """
    library: Any = ctypes.CDLL(None)
    if not (hasattr(library, "mallopt") and hasattr(library, "malloc_trim")):
        yield
        return
    library.mallopt(_MMAP_THRESHOLD, _WHILE)
    try:
        yield
    finally:
        library.mallopt(_MMAP_THRESHOLD, _AFTER)
        library.malloc_trim(0)
