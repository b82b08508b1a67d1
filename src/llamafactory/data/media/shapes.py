# SPDX-License-Identifier: Apache-2.0
"""How large a medium is when the model is given it, read from as little of its file as tells it for certain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from .decode import Video, read_audio, read_image, read_video
from .pictures import UnknownFormatError, fitted_size, is_animated, measure, pillow
from .recordings import measure_film
from .source import MediaError, MediaLimits, is_file, open_source, unpack

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image


class Shape(NamedTuple):
    """What of a medium decides how many tokens it takes.

    Attributes:
        kind: ``"image"``, ``"video"`` or ``"audio"``.
        size: Width and height of the image, or of each frame.
        frames: Of a video.
        fps: How many of these frames make a second.
        samples: Of the sound, at ``audio_sampling_rate``; -1 = a video without one.
    """

    kind: str
    size: tuple[int, int] = (0, 0)
    frames: int = 0
    fps: float = 0.0
    samples: int = -1


def shape_of(kind: str, value: Any, limits: MediaLimits) -> Shape:
    """Measure a medium.

    Args:
        kind: What it should be.
        value: As ``decode.read_image``, ``read_video`` and ``read_audio`` take it.
        limits: What it would be read within.

    Raises:
        MediaError: It cannot be read, or not within the limits.
    """
    value = unpack(value)
    if kind == "image":
        return Shape(kind, _image_size(value, limits))
    if kind == "audio":  # headers tell the length of a sound by and large, and a token too many or too few is an error
        return Shape(kind, samples=len(read_audio(value, limits)))
    if isinstance(value, Sequence) and not is_file(value):
        return _of_frames(value, limits)
    return _of_video(value, limits)


def blank(shape: Shape) -> Image | Video | np.ndarray:
    """A medium of a shape that shows nothing and is silent: it takes as many tokens as any other."""
    import numpy as np

    if shape.kind == "audio":
        return np.zeros(shape.samples, dtype=np.float32)
    picture = pillow().new("RGB", shape.size)
    if shape.kind == "image":
        return picture
    sound = np.zeros(shape.samples, dtype=np.float32) if shape.samples >= 0 else None
    return Video([picture] * shape.frames, shape.fps, sound)


def _image_size(value: Any, limits: MediaLimits) -> tuple[int, int]:
    if not is_file(value):
        return read_image(value, limits).size
    with open_source(value, "image", limits) as source:
        return fitted_size(measure(source, limits), limits.image_max_pixels, limits.image_min_pixels)


def _of_frames(frames: Sequence[Any], limits: MediaLimits) -> Shape:
    each = replace(limits, image_max_pixels=limits.video_max_pixels, image_min_pixels=limits.video_min_pixels)
    sizes = {_image_size(unpack(frame), each) for frame in frames}
    if len(sizes) > 1:
        raise MediaError(f"video: its frames differ in size: {sorted(sizes)}")
    count = min(len(frames), limits.video_maxlen)
    if not count:
        raise MediaError("video: the list of frames is empty")
    return Shape("video", sizes.pop(), count, limits.video_fps)


def _of_video(value: Any, limits: MediaLimits) -> Shape:
    if not is_file(value):
        raise MediaError(f"video: expected bytes, a path or frames, got {type(value).__name__}")
    with open_source(value, "video", limits) as source:
        try:
            animated = is_animated(source, limits)
        except UnknownFormatError:
            animated = False
        if not animated:
            size, frames, seconds, has_sound = measure_film(source, limits)
            if not (has_sound and limits.use_audio_in_video):
                return Shape("video", size, frames, frames / seconds if seconds else limits.video_fps)
    video = read_video(value, limits)
    samples = -1 if video.sound is None else len(video.sound)
    return Shape("video", video.frames[0].size, len(video.frames), video.fps, samples)
