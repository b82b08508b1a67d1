# SPDX-License-Identifier: Apache-2.0
"""What a decoder may cost, and the files it reads: bounded in pixels, seconds of content and seconds of work."""

from __future__ import annotations

import base64
import binascii
import io
import os
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

from ...extras.errors import ConfigError
from ...hparams.inference_args import ProcessorArguments

# Files that are decoded at the same time: a small one may take some hundred megabytes meanwhile.
_AT_ONCE = threading.BoundedSemaphore(4)


class MediaError(ConfigError):
    """An image, a video or a sound that cannot be read, or not within the bounds. One line."""


@dataclass(frozen=True)
class MediaLimits:
    """What the model is given, and what a file may cost before it is refused.

    Attributes:
        image_max_pixels: Larger images are scaled down.
        image_min_pixels: Smaller images are scaled up.
        video_max_pixels: Larger frames are scaled down.
        video_min_pixels: Smaller frames are scaled up.
        video_fps: Most frames taken of a second.
        video_maxlen: Most frames taken of a video.
        use_audio_in_video: Read the sound of videos too.
        audio_sampling_rate: Samples per second of the sound that the model is given.
        image_do_pan_and_scan: The processor of Gemma 3 also cuts details out of images.
        crop_to_patches: The processor of InternVL cuts images into tiles.
        source_pixels: Most pixels of an image or a frame as its file's header tells them.
        source_seconds: Longest video or sound.
        source_frames: Most frames of an animated image.
        decode_seconds: Longest time that the decoding of one file may take.
    """

    image_max_pixels: int = 768 * 768
    image_min_pixels: int = 32 * 32
    video_max_pixels: int = 256 * 256
    video_min_pixels: int = 16 * 16
    video_fps: float = 2.0
    video_maxlen: int = 128
    use_audio_in_video: bool = False
    audio_sampling_rate: int = 16000
    image_do_pan_and_scan: bool = False
    crop_to_patches: bool = False
    source_pixels: int = 2**26
    source_seconds: float = 3600.0
    source_frames: int = 10_000
    decode_seconds: float = 60.0

    @classmethod
    def of(cls, args: ProcessorArguments) -> MediaLimits:
        """Take the keys of the section; the bounds of the files keep their defaults."""
        return cls(
            image_max_pixels=args.image_max_pixels,
            image_min_pixels=args.image_min_pixels,
            video_max_pixels=args.video_max_pixels,
            video_min_pixels=args.video_min_pixels,
            video_fps=args.video_fps,
            video_maxlen=args.video_maxlen,
            use_audio_in_video=args.use_audio_in_video,
            audio_sampling_rate=args.audio_sampling_rate,
            image_do_pan_and_scan=args.image_do_pan_and_scan,
            crop_to_patches=args.crop_to_patches,
        )


class Source:
    """A binary file whose every read looks at the clock.

    Decoders of other libraries cannot be stopped from outside, but all of them come back for more bytes.

    Args:
        stream: The open file.
        name: What error messages call it.
        seconds: How long it may be read from now on.
    """

    def __init__(self, stream: BinaryIO, name: str, seconds: float) -> None:
        self._stream = stream
        self.name = name
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds

    def check_time(self) -> None:
        """Raise when the time is over.

        Raises:
            MediaError: It is.
        """
        if time.monotonic() > self._deadline:
            raise self.error(f"takes more than {self._seconds:g} seconds to decode")

    def error(self, why: str) -> MediaError:
        """The error that names this file."""
        return MediaError(f"{self.name}: {why}")

    def read(self, size: int = -1) -> bytes:
        """Read as any file does."""
        self.check_time()
        return self._stream.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Seek as any file does."""
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        """Tell as any file does."""
        return self._stream.tell()


@contextmanager
def open_source(value: bytes | str | os.PathLike[str], kind: str, limits: MediaLimits) -> Iterator[Source]:
    """Open bytes or a local file.

    Args:
        value: The content, or the path of a regular file. A URL is a path that does not exist.
        kind: What it should be, for error messages: ``"image"``, ``"video"`` or ``"audio"``.
        limits: ``decode_seconds`` begin now.

    Raises:
        MediaError: There is no such file.
    """
    if isinstance(value, bytes | bytearray | memoryview):
        with _AT_ONCE:
            yield Source(io.BytesIO(value), kind, limits.decode_seconds)
        return
    name = f"{kind} {os.fspath(value)!r}"
    try:
        if not stat.S_ISREG(os.stat(value).st_mode):  # opening a pipe would wait for its writer
            raise OSError(0, "not a file")
        stream = open(value, "rb")  # noqa: SIM115  (what goes wrong while it is read is not an error of opening it)
    except (OSError, ValueError) as error:
        raise MediaError(f"{name}: {getattr(error, 'strerror', 'not a path')}") from None
    with stream, _AT_ONCE:
        yield Source(stream, name, limits.decode_seconds)


def read_data_url(url: str) -> bytes:
    """The content of ``data:TYPE;base64,...``.

    Raises:
        MediaError: It is no such address.
    """
    head, comma, data = url.partition(",")
    try:
        if comma and head.endswith(";base64"):
            return base64.b64decode(data, validate=True)
    except binascii.Error:
        pass
    raise MediaError("a data URL must hold base64")


def unpack(value: Any) -> Any:
    """Return what an object of Hugging Face ``datasets`` (``{"bytes", "path"}``) holds; all else as it is."""
    if isinstance(value, dict) and "array" not in value:
        return value["bytes"] if value.get("bytes") is not None else value.get("path")
    return value


def is_file(value: Any) -> bool:
    """Whether a value is what :func:`open_source` takes."""
    return isinstance(value, bytes | bytearray | memoryview | str | os.PathLike)


def check_pixels(size: tuple[int, int], source: Source, limits: MediaLimits) -> None:
    """Refuse a size before anything of it is decoded.

    Raises:
        MediaError: Too large, or empty.
    """
    width, height = size
    if not 0 < width * height <= limits.source_pixels:
        raise source.error(f"{width} x {height} pixels, at most {limits.source_pixels} pixels are read")


def check_seconds(seconds: float, source: Source, limits: MediaLimits) -> None:
    """Refuse what lasts too long.

    Raises:
        MediaError: It does.
    """
    if seconds > limits.source_seconds:
        raise source.error(f"lasts more than {limits.source_seconds:g} seconds")
