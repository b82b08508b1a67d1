# SPDX-License-Identifier: Apache-2.0
"""Media as prepared rows name them: by path; what has no file yet, such as bytes within a row, is put into one."""

from __future__ import annotations

import hashlib
import io
import json
import os
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...extras.files import write_atomic
from .pictures import pillow
from .source import MediaError, unpack


def refer_to(value: Any, kind: str, store: Path | None) -> str:
    """Return what a prepared row holds of a medium: an absolute path, of frames JSON of a list of them.

    Args:
        value: A path, bytes, frames, a PIL image, ``{"bytes", "path"}`` or ``{"array", "sampling_rate"}``.
        kind: ``"image"``, ``"video"`` or ``"audio"``.
        store: Folder for files that are named by what they hold; the same bytes are there once.

    Raises:
        MediaError: It is none of these.
    """
    value = unpack(value)
    if isinstance(value, str | os.PathLike):
        return os.path.abspath(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return _kept(bytes(value), store)
    if isinstance(value, dict) and "array" in value:
        return _kept(_as_wave(value), store)
    if isinstance(value, pillow().Image):
        content = io.BytesIO()
        value.save(content, "PNG")
        return _kept(content.getvalue(), store)
    if isinstance(value, Sequence):
        return json.dumps([refer_to(frame, "image", store) for frame in value])
    raise MediaError(f"{kind}: expected bytes, a path or a decoded {kind}, got {type(value).__name__}")


def referred(source: str) -> str | list[str]:
    """The path or the frames that :func:`refer_to` wrote down; a path is absolute, so it does not begin as a list."""
    if source.startswith("["):
        frames: list[str] = json.loads(source)
        return frames
    return source


def _kept(content: bytes, store: Path | None) -> str:
    if store is None:
        raise MediaError("media in a row must have files here")
    name = hashlib.blake2b(content, digest_size=20).hexdigest()
    path = store / name[:2] / name
    if not path.is_file() or path.stat().st_size != len(content):
        write_atomic(path, content)
    return str(path.absolute())


def _as_wave(sound: dict[str, Any]) -> bytes:
    """Samples in -1 to 1 as a file of 32-bit numbers at their own rate."""
    import numpy as np

    samples, rate = np.asarray(sound["array"], dtype=np.float64), sound.get("sampling_rate")
    samples = samples.mean(axis=0) if samples.ndim == 2 else samples
    if samples.ndim != 1 or not isinstance(rate, int) or rate < 1:
        raise MediaError(f"audio: samples of shape {samples.shape} at rate {rate!r}, expected [n] or [channels, n]")
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(4)
        file.setframerate(rate)
        file.writeframes(np.round(np.clip(samples, -1, 1) * (2**31 - 1)).astype("<i4").tobytes())
    return content.getvalue()
