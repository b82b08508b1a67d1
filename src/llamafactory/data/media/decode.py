# SPDX-License-Identifier: Apache-2.0
"""Images, videos and sound as the model's processor takes them, read from files nobody vouches for.

What a file may cost is bounded (:class:`MediaLimits`): its header is read before its content, and whatever is wrong
with it is a :class:`MediaError` of one line.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ...extras.packages import require
from .pictures import UnknownFormatError, animation, fit, open_picture, pillow, spread
from .recordings import film, resample, sound
from .source import MediaError, MediaLimits, Source, is_file, open_source, unpack

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

__all__ = ["MediaError", "MediaLimits", "Video", "read_audio", "read_image", "read_video"]


@dataclass(frozen=True)
class Video:
    """A video as the model is given it.

    Attributes:
        frames: RGB, evenly spaced over its length.
        fps: How many of these frames make a second.
        sound: float32 [samples] at ``audio_sampling_rate``; ``None`` = not asked for, or there is none.
    """

    frames: list[Image]
    fps: float
    sound: np.ndarray | None = None


def read_image(value: Any, limits: MediaLimits) -> Image:
    """Read an image; of an animated one the first frame.

    Args:
        value: Bytes, the path of a local file, a PIL image, or ``{"bytes", "path"}``.
        limits: ``image_max_pixels`` and ``image_min_pixels`` are the bounds of the result.

    Returns:
        RGB, turned as its EXIF data say.

    Raises:
        MediaError: It cannot be read, or not within the limits.
    """
    value = unpack(value)
    if isinstance(value, pillow().Image):
        return fit(value, limits.image_max_pixels, limits.image_min_pixels)
    _expect_file(value, "image")
    with open_source(value, "image", limits) as source, open_picture(source, limits) as picture:
        picture.load()
    return fit(picture, limits.image_max_pixels, limits.image_min_pixels)


def read_video(value: Any, limits: MediaLimits) -> Video:
    """Read a video: min(frames, ``video_maxlen``, seconds x ``video_fps``) frames, at least one.

    Args:
        value: Bytes, the path of a local file (a video, or an animated GIF, WebP or PNG), ``{"bytes", "path"}``, or
            a list of images, each a frame; these are taken as they are, at most ``video_maxlen``, evenly spaced.
        limits: ``video_max_pixels`` and ``video_min_pixels`` are the bounds of each frame.

    Raises:
        MediaError: It cannot be read, or not within the limits.
    """
    value = unpack(value)
    if isinstance(value, Sequence) and not is_file(value):
        if not value:
            raise MediaError("video: the list of frames is empty")
        each = replace(limits, image_max_pixels=limits.video_max_pixels, image_min_pixels=limits.video_min_pixels)
        frames = [read_image(value[index], each) for index in spread(len(value), limits.video_maxlen)]
        return Video(frames, limits.video_fps)
    _expect_file(value, "video")
    with open_source(value, "video", limits) as source:
        try:
            frames, seconds = animation(source, limits)
            has_sound = False
        except UnknownFormatError:
            frames, seconds, has_sound = film(source, limits)
        samples = sound(source, limits) if has_sound and limits.use_audio_in_video else None
    return Video(frames, len(frames) / seconds if seconds else limits.video_fps, samples)


def read_audio(value: Any, limits: MediaLimits) -> np.ndarray:
    """Read sound.

    Args:
        value: Bytes, the path of a local file (a video's sound is read too), ``{"bytes", "path"}``, or
            ``{"array", "sampling_rate"}`` with samples [n] or [channels, n].
        limits: ``audio_sampling_rate`` is the rate of the result.

    Returns:
        float32 [samples], the mean of the channels.

    Raises:
        MediaError: It cannot be read, or not within the limits.
    """
    value = unpack(value)
    if isinstance(value, dict):
        return _samples(value, limits)
    _expect_file(value, "audio")
    with open_source(value, "audio", limits) as source:
        return sound(source, limits)


def _samples(value: dict[str, Any], limits: MediaLimits) -> np.ndarray:
    """Sound that is decoded already, at the rate that is wanted."""
    import numpy as np

    samples = np.asarray(value["array"], dtype=np.float32)
    rate = value.get("sampling_rate")
    if samples.ndim == 2:
        samples = samples.mean(axis=0)
    if samples.ndim != 1 or not isinstance(rate, int) or rate < 1:
        raise MediaError(f"audio: samples of shape {samples.shape} at rate {rate!r}, expected [n] or [channels, n]")
    if rate == limits.audio_sampling_rate:
        return samples
    av = require("av", "audio", "llamafactory[media]")
    frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
    frame.sample_rate = rate
    return resample(iter([frame]), Source(io.BytesIO(), "audio", limits.decode_seconds), limits)


def _expect_file(value: Any, kind: str) -> None:
    if not is_file(value):
        raise MediaError(f"{kind}: expected bytes, a path or a decoded {kind}, got {type(value).__name__}")
