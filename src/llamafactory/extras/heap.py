# SPDX-License-Identifier: Apache-2.0
"""Memory that goes back to the system when it is freed.

glibc up to 2.37 cannot put an aligned piece, which each of torch's tensors is, where one of the same size was freed: it
looks for room that is larger by the alignment. So a step leaves gaps between what the backward pass needs, and the next
use of memory takes new pages: a third of all activations was seen. The gaps' pages are given back at the few places
where memory turns from one use to another; small gaps, and the speed of the heap, are left alone.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h
_WHILE = 1 << 20  # bytes
LARGEST = 32 << 20  # bytes of a piece that the heap holds, where glibc's own adjustment ends; larger ones are mapped
WORTH_IT = 16 << 20  # bytes; less is not looked for, so that steps of small models cost nothing


class _Figures(ctypes.Structure):
    """``struct mallinfo2`` of malloc.h."""

    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks")),
        *((name, ctypes.c_size_t) for name in ("uordblks", "fordblks", "keepcost")),
    ]


@functools.cache
def _glibc() -> Any:
    """The C library, or None where it is another, which has no such switches and needs none."""
    library: Any = ctypes.CDLL(None)
    if not all(hasattr(library, name) for name in ("mallopt", "malloc_trim", "mallinfo2")):
        return None
    library.mallinfo2.restype = _Figures
    return library


def give_back_gaps() -> None:
    """Give free pages between pieces in use back to the system, if they are many."""
    library = _glibc()
    if library is not None and library.mallinfo2().fordblks >= WORTH_IT:
        library.malloc_trim(0)


@contextmanager
def returning_memory() -> Iterator[None]:
    """Inside the block large pieces of memory go back when they are freed; at its end what is free goes back too.

    glibc keeps freed pieces of up to 32 MiB, for each thread apart: weights that pass through memory to be quantized
    would leave as much behind as the whole model takes.
    """
    library = _glibc()
    if library is None:
        yield
        return
    library.mallopt(_MMAP_THRESHOLD, _WHILE)
    try:
        yield
    finally:
        library.mallopt(_MMAP_THRESHOLD, LARGEST)
        library.malloc_trim(0)
