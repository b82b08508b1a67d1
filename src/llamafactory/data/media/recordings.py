# SPDX-License-Identifier: Apache-2.0
"""Videos and sound through PyAV (FFmpeg), within bounds.

FFmpeg is given an open file, never a name, and only containers that hold their content themselves: a playlist
(HLS, DASH, concat) would make it open files and addresses of the author's choice.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ...extras.packages import require
from .pictures import evenly, fit, pillow
from .source import MediaError, MediaLimits, Source, check_pixels, check_seconds

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

_CONTAINERS = (
    "mov,mp4,matroska,webm,avi,flv,mpegts,mpeg,asf,ogg,wav,w64,aiff,au,flac,mp3,aac,amr,caf"  # FFmpeg's demuxer names
)
# Their headers tell the length; FFmpeg makes that of others from the size of the file, or guesses it.
_TELL_LENGTH = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "flac"}
_WHOLE = 0.9  # share of the length in the header that must be there; players round, and encoders are inexact

_FASTEST = 768_000  # samples per second; the filter that brings more of them down grows with them


@contextmanager
def open_recording(source: Source, limits: MediaLimits) -> Iterator[Any]:
    """Open a video or sound; the ``av`` container.

    Raises:
        MediaError: It is none, is longer than allowed by its header, or is damaged, which may show only when the
            caller decodes within the context.
    """
    av = require("av", "videos and audio", "llamafactory[media]")
    options = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "", "max_pixels": str(limits.source_pixels)}
    container = None
    try:
        _check_riff(source)
        container = av.open(source, mode="r", options=options)
        check_seconds((container.duration or 0) / av.time_base, source, limits)
        yield container
    except (av.FFmpegError, OSError, OverflowError, UnicodeDecodeError):
        why = "damaged or cut off" if container else f"not a video or sound that can be read ({_CONTAINERS})"
        raise source.error(why) from None
    finally:
        if container:
            container.close()


def _check_riff(source: Source) -> None:
    """Compare the size in the header of a WAV or AVI file, which FFmpeg overlooks; of a stream it is 0 or all ones."""
    size = source.seek(0, os.SEEK_END)
    source.seek(0)
    head = source.read(8)
    source.seek(0)
    wanted = int.from_bytes(head[4:], "little") if head[:4] == b"RIFF" else 0
    if wanted < 2**32 - 64 and size < _WHOLE * wanted:
        raise source.error(f"cut off: {size:,} of {wanted + 8:,} bytes are there")


def film(source: Source, limits: MediaLimits) -> tuple[list[Image], float, bool]:
    """Read evenly spaced frames of a video.

    Returns:
        The frames, the seconds that the video lasts, and whether it has sound.

    Raises:
        MediaError: As :func:`open_recording`; or it has no picture, or its frames are too large.
    """
    count, seconds, sound = _look_through(source, limits)
    wanted = evenly(count, seconds, limits)
    frames, found = _take(source, wanted, limits)
    if len(frames) < len(wanted) and found:  # some packets, such as those of VP8's reference frames, show nothing
        frames, _ = _take(source, evenly(found, seconds, limits), limits)
    if not frames:
        raise source.error("damaged or cut off")
    return frames, seconds, sound


def measure_film(source: Source, limits: MediaLimits) -> tuple[tuple[int, int], int, float, bool]:
    """Count and measure the frames that :func:`film` reads, of which only what tells their size is decoded.

    Returns:
        Width and height of a frame, the number of frames, the seconds that the video lasts, and whether it has sound.

    Raises:
        MediaError: As :func:`film`.
    """
    count, seconds, sound = _look_through(source, limits)
    wanted = evenly(count, seconds, limits)
    if len(wanted) < count // 2:  # frames that show nothing are few: there are as many others
        frames, _ = _take(source, wanted[:1], limits)
        if frames:
            return frames[0].size, len(wanted), seconds, sound
    frames, seconds, sound = film(source, limits)
    return frames[0].size, len(frames), seconds, sound


def _look_through(source: Source, limits: MediaLimits) -> tuple[int, float, bool]:
    """Frames and seconds of a video, and whether it has sound, without decoding."""
    with open_recording(source, limits) as container:
        if not _decodable(container.streams.video):
            raise source.error("has no picture that can be read")
        count, seconds = _survey(container, source, limits)
        return count, seconds, _decodable(container.streams.audio)


def _decodable(streams: Any) -> bool:
    """Whether there is a stream, and the first, which is the one taken, is of a codec that FFmpeg knows."""
    return bool(streams) and streams[0].codec_context is not None


def _survey(container: Any, source: Source, limits: MediaLimits) -> tuple[int, float]:
    """Count the packets of the picture and measure its seconds, without decoding."""
    stream = container.streams.video[0]
    check_pixels((stream.codec_context.width, stream.codec_context.height), source, limits)
    count, begin, latest, end, last = 0, None, 0.0, 0.0, 0.0
    for packet in container.demux():
        if packet.pts is None or not packet.size:
            continue
        start = float(packet.pts * packet.time_base)
        stop = start + float((packet.duration or 0) * packet.time_base)
        last = max(last, stop)
        if packet.stream is stream and not packet.is_discard:
            begin = start if begin is None else min(begin, start)
            count, latest, end = count + 1, max(latest, start), max(end, stop)
            check_seconds(end - begin, source, limits)
    _check_whole(container, last, source)
    if not count:
        raise source.error("damaged or cut off")
    if (
        end == latest and begin is not None and count > 1
    ):  # a container that does not tell how long the last frame stays
        end += (latest - begin) / (count - 1)
    return count, end - (begin or 0.0)


def _take(source: Source, wanted: list[int], limits: MediaLimits) -> tuple[list[Image], int]:
    """Decode up to the last wanted frame; the wanted frames, and how many frames there were so far."""
    frames: list[Image] = []
    found = 0
    with open_recording(source, limits) as container:
        stream = container.streams.video[0]
        stream.codec_context.options = {"max_pixels": str(limits.source_pixels)}
        for packet in container.demux(stream):
            source.check_time()
            for frame in packet.decode():
                if found == wanted[len(frames)]:
                    frames.append(_upright(frame, limits))
                    if len(frames) == len(wanted):
                        return frames, found + 1
                found += 1
    return frames, found


def _upright(frame: Any, limits: MediaLimits) -> Image:
    """The frame as it is shown: phones write how they were held beside the picture."""
    turns = pillow().Transpose
    turn = {90: turns.ROTATE_90, 180: turns.ROTATE_180, 270: turns.ROTATE_270}.get(round(frame.rotation) % 360)
    picture = fit(frame.to_image(), limits.video_max_pixels, limits.video_min_pixels)
    return picture if turn is None else picture.transpose(turn)


def sound(source: Source, limits: MediaLimits) -> np.ndarray:
    """Read the first sound of a file.

    Returns:
        float32 [samples] at ``audio_sampling_rate``, the mean of the channels.

    Raises:
        MediaError: As :func:`open_recording`; or it has no sound.
    """
    with open_recording(source, limits) as container:
        if not _decodable(container.streams.audio):
            raise source.error("has no sound that can be read")
        samples = resample(_sounding(container, source), source, limits)
        if not container.streams.video:
            _check_whole(container, len(samples) / limits.audio_sampling_rate, source)
        return samples


def _sounding(container: Any, source: Source) -> Iterator[Any]:
    for packet in container.demux(container.streams.audio[0]):
        source.check_time()
        yield from packet.decode()


def resample(frames: Iterator[Any], source: Source, limits: MediaLimits) -> np.ndarray:
    """Bring frames of sound to one channel and to ``audio_sampling_rate``; float32 [samples].

    Raises:
        MediaError: There is none, too much, or it changes its form midway.
    """
    import av
    import numpy as np

    # Not "fltp": of more than 8 channels PyAV reads the planes beyond their end.
    resampler = av.AudioResampler(format="flt", rate=limits.audio_sampling_rate)
    pieces: list[np.ndarray] = []
    seconds = 0.0
    try:
        for frame in itertools.chain(frames, [None]):
            if frame is not None:
                if not 0 < frame.sample_rate <= _FASTEST:
                    raise source.error(f"{frame.sample_rate} samples a second, at most {_FASTEST} are read")
                seconds += frame.samples / frame.sample_rate
                check_seconds(seconds, source, limits)
            for piece in resampler.resample(frame):
                pieces.append(piece.to_ndarray().reshape(piece.samples, -1).mean(axis=1))
    except MediaError:
        raise
    except ValueError:
        raise source.error("damaged or cut off") from None
    if not pieces:
        raise source.error("has no sound")
    return np.concatenate(pieces)


def _check_whole(container: Any, end: float, source: Source) -> None:
    """Compare what was found with the length in the header."""
    import av

    length = (container.duration or 0) / av.time_base
    if container.format.name in _TELL_LENGTH and end - (container.start_time or 0) / av.time_base < _WHOLE * length:
        raise source.error(f"cut off: {end:.1f} of {length:.1f} seconds are there")
