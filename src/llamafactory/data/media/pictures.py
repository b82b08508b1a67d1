# SPDX-License-Identifier: Apache-2.0
"""Still and animated images through Pillow, within bounds."""

from __future__ import annotations

import itertools
import math
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ...extras.packages import require
from .source import MediaError, MediaLimits, Source, check_pixels, check_seconds

if TYPE_CHECKING:
    from PIL.Image import Image

# Plain pixels only: EPS runs Ghostscript, others are containers of whole programs' documents.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
# What Pillow's readers raise on bytes that are not what they should be.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    LookupError,
    TypeError,
    ArithmeticError,
    EOFError,
    struct.error,
    zlib.error,
)
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
_TRAILING = 64  # bytes that programs write behind the end
_SIDEWAYS = (2, 4, 5, 6)  # Pillow's numbers of the turns that swap width and height
_MOVING = ("GIF", "WEBP", "PNG", "AVIF")
_MOMENT = 100  # milliseconds a frame stands whose file says 0, as browsers have it
_ORIENTATION = 0x0112  # EXIF
_READ = 1024  # bytes between two looks at the clock: those of a progressive JPEG may hold a dozen passes over the image


class UnknownFormatError(MediaError):
    """The bytes do not begin as an image does."""


def pillow() -> Any:
    """Import ``PIL.Image``, without its advice on standard error: our bounds are below its own."""
    module = require("PIL.Image", "images", "llamafactory[media]")
    warnings.filterwarnings("ignore", module=r"PIL\.")
    return module


@contextmanager
def open_picture(source: Source, limits: MediaLimits) -> Iterator[Image]:
    """Read the header of an image; its pixels wait.

    Raises:
        MediaError: It is no image of the :data:`FORMATS`, has too many pixels, or is damaged, which may show only
            when the caller reads the pixels within the context.
    """
    image = pillow()
    from PIL import UnidentifiedImageError

    try:
        with image.open(source, formats=FORMATS) as picture:
            check_pixels(picture.size, source, limits)
            picture.decodermaxblock = _READ
            yield picture
    except UnidentifiedImageError:
        raise UnknownFormatError(f"{source.name}: not an image that can be read ({', '.join(FORMATS)})") from None
    except image.DecompressionBombError:
        raise source.error(f"more than {limits.source_pixels} pixels") from None
    except MediaError:
        raise
    except _DAMAGE:
        raise source.error("damaged or cut off") from None


def fit(picture: Image, most: int, least: int) -> Image:
    """Return the image as RGB on white, upright as its EXIF data say, and scaled so that its pixels are within bounds.

    Sides are scaled by sqrt(bound / pixels) and rounded down.
    """
    image = pillow()
    turn = _turn(picture)
    if picture.mode.startswith("I;16"):  # Pillow would cut 16 bits off at 255 instead of scaling them
        picture = picture.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    picture = _on_white(picture).convert("RGB")
    for size in _sizes(picture.size, most, least):
        picture = picture.resize(size)
    return picture if turn is None else picture.transpose(image.Transpose(turn))


def fitted_size(size: tuple[int, int], most: int, least: int) -> tuple[int, int]:
    """The size that :func:`fit` gives an image of a size."""
    return (size, *_sizes(size, most, least))[-1]


def _sizes(size: tuple[int, int], most: int, least: int) -> Iterator[tuple[int, int]]:
    """The sizes that an image goes through until its pixels are within bounds."""
    for wrong, bound in ((lambda pixels: pixels > most, most), (lambda pixels: pixels < least, least)):
        pixels = size[0] * size[1]
        if wrong(pixels):
            factor = math.sqrt(bound / pixels)
            width, height = (max(1, int(side * factor)) for side in size)
            height = min(height, bound // min(width, bound))  # a line of pixels keeps its one: only its length shrinks
            size = (min(width, bound // height), height)
            yield size


def measure(source: Source, limits: MediaLimits) -> tuple[int, int]:
    """Read how large an image is that stands upright; what cannot be seen to be whole is decoded.

    Raises:
        MediaError: As :func:`open_picture`.
    """
    with open_picture(source, limits) as picture:
        turn, size = _turn(picture), picture.size
        if not _ends_whole(source, picture.format):
            picture.load()
    swapped = turn in _SIDEWAYS
    return (size[1], size[0]) if swapped else size


def is_animated(source: Source, limits: MediaLimits) -> bool:
    """Whether the file is an image, moving or still, and no video; it is read from its start afterwards.

    Raises:
        UnknownFormatError: It is no image.
    """
    with open_picture(source, limits):
        pass
    source.seek(0)
    return True


def _ends_whole(source: Source, form: str | None) -> bool:
    """Whether the last bytes of a file are those that end one of its format, so that it is not cut off."""
    end = _ENDS.get(form or "")
    if end is None:
        return False
    place = source.tell()
    source.seek(-min(len(end) + _TRAILING, source.seek(0, os.SEEK_END)), os.SEEK_END)
    last = source.read()
    source.seek(place)
    return end in last


def _on_white(picture: Image) -> Image:
    """Lay what shines through on white, as every processor of transformers does; the hidden colours are not shown."""
    if "A" not in picture.getbands() and picture.info.get("transparency") is None:
        return picture
    seen = picture.convert("RGBA")
    image = pillow()
    return image.alpha_composite(image.new("RGBA", seen.size, (255, 255, 255, 255)), seen)


def _turn(picture: Image) -> int | None:
    """How the image must be turned to stand upright."""
    try:
        orientation = picture.getexif().get(_ORIENTATION)
    except _DAMAGE:  # a good picture may carry bad EXIF data
        return None
    turns = pillow().Transpose
    return {
        2: turns.FLIP_LEFT_RIGHT,
        3: turns.ROTATE_180,
        4: turns.FLIP_TOP_BOTTOM,
        5: turns.TRANSPOSE,
        6: turns.ROTATE_270,
        7: turns.TRANSVERSE,
        8: turns.ROTATE_90,
    }.get(orientation or 1)


def animation(source: Source, limits: MediaLimits) -> tuple[list[Image], float]:
    """Read evenly spaced frames of an animated image, or the one of an image that stands still.

    Returns:
        The frames, and the seconds that the animation lasts.

    Raises:
        MediaError: As :func:`open_picture`; or there are too many frames, or it lasts too long.
    """
    with open_picture(source, limits) as picture:
        count, seconds = 0, 0.0
        for frame in _walk(picture, source):
            count, seconds = count + 1, seconds + (frame.info.get("duration") or _MOMENT) / 1000
            if count > limits.source_frames:
                raise source.error(f"more than {limits.source_frames} frames")
            check_seconds(seconds, source, limits)
        chosen = set(evenly(count, seconds, limits))
        frames = [
            fit(frame, limits.video_max_pixels, limits.video_min_pixels)
            for index, frame in enumerate(_walk(picture, source, max(chosen) + 1))
            if index in chosen
        ]
        return frames, seconds


def _walk(picture: Image, source: Source, count: int | None = None) -> Iterator[Image]:
    """Decode frame after frame, in order: those between two chosen ones cost time as well."""
    moving = picture.format in _MOVING
    for index in itertools.count() if count is None else range(count):
        try:
            picture.seek(index)
        except EOFError:
            return
        picture.load()
        source.check_time()
        yield picture
        if not moving:
            return


def evenly(count: int, seconds: float, limits: MediaLimits) -> list[int]:
    """Which of ``count`` frames are taken: min(count, ``video_maxlen``, seconds x ``video_fps``), at least one."""
    return spread(count, min(limits.video_maxlen, int(seconds * limits.video_fps)))


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` of ``count`` indices and at least one, from the first to the last at even steps."""
    wanted = max(1, min(count, most))
    return [index * (count - 1) // max(1, wanted - 1) for index in range(wanted)]
