# SPDX-License-Identifier: Apache-2.0
"""Files that are made to cost much or to open others: each is refused in one line, early."""

from __future__ import annotations

import io
import os
import struct
import time
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from llamafactory.data.media.decode import MediaError, MediaLimits, read_audio, read_image, read_video

from .files import gradient, image_bytes, movie_bytes, wave_bytes

LIMITS = MediaLimits()
READERS = [read_image, read_video, read_audio]


def chunk(kind: bytes, data: bytes) -> bytes:
    """A piece of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header tells of many pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(10**6), 9)) + chunk(b"IEND", b"")


def gif(width: int, height: int, frames: int) -> bytes:
    """A GIF of a huge canvas or of very many small frames."""
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes([0, 0, 0, 255, 255, 255])
    # One pixel each: code size 2, clear, 0, end.
    frame = b"\x21\xf9\x04\x00\x0a\x00\x00\x00\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return head + frame * frames + b"\x3b"


def refused(read: Callable[..., object], value: object, limits: MediaLimits = LIMITS) -> str:
    """The one line that a file is refused with; nothing is printed, and little memory and time is used."""
    tracemalloc.start()
    begin = time.monotonic()
    try:
        with warnings.catch_warnings(record=True) as said, pytest.raises(MediaError) as caught:
            warnings.simplefilter("always")
            read(value, limits)
        assert not said
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()
    assert time.monotonic() - begin < limits.decode_seconds + 10
    assert "\n" not in str(caught.value) and "Traceback" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("side", [9000, 12_000, 50_000])  # Pillow is silent, warns, raises
@pytest.mark.parametrize("read", [read_image, read_video])
def test_a_huge_header_is_refused_before_decoding(read: Callable[..., object], side: int) -> None:
    assert "pixels" in refused(read, png_bomb(side, side))


def test_a_huge_canvas_of_a_gif_is_refused() -> None:
    for read in (read_image, read_video):
        assert "pixels" in refused(read, gif(65_535, 65_535, 1))
