# SPDX-License-Identifier: Apache-2.0
"""Small images, videos and sound, written by the test."""

from __future__ import annotations

import io
import wave

import av
import numpy as np
from PIL import Image


def gradient(width: int, height: int) -> Image.Image:
    """A picture whose every quarter looks different."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], axis=-1).astype(np.uint8))


def image_bytes(picture: Image.Image, form: str = "PNG") -> bytes:
    """The picture as a file."""
    data = io.BytesIO()
    picture.save(data, form)
    return data.getvalue()


def movie_bytes(
    frames: int,
    rate: int,
    size: tuple[int, int] = (64, 48),
    form: str = "mp4",
    tone: float | None = None,
    corner: bool = False,
    codec: str = "mpeg4",
) -> bytes:
    """A film whose frame k has brightness 8 k; with a bright upper left corner, or a tone of a pitch in Hz."""
    data = io.BytesIO()
    with av.open(data, "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height = size
        stream.bit_rate = 2_000_000
        sound = container.add_stream("aac" if form == "mp4" else "mp2", rate=16000) if tone else None
        for index in range(frames):
            pixels = np.full((size[1], size[0], 3), min(index * 8, 255), np.uint8)
            if corner:
                pixels[: size[1] // 2, : size[0] // 2] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
        if sound and tone:
            samples = np.sin(2 * np.pi * tone * np.arange(frames * 16000 // rate) / 16000).astype(np.float32) / 2
            frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
            frame.sample_rate = 16000
            container.mux(sound.encode(frame))
            container.mux(sound.encode(None))
    return data.getvalue()


def wave_bytes(samples: np.ndarray, rate: int) -> bytes:
    """A WAV file of int16 samples [n, channels]."""
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return data.getvalue()
