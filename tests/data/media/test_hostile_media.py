# SPDX-License-Identifier: Apache-2.0
"""Files that are made to cost much or to open others: each is refused in one line, early."""

from __future__ import annotations

import io
import os
import resource
import socket
import struct
import time
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


def flac_bytes(seconds: int) -> bytes:
    """Silence, packed well."""
    data = io.BytesIO()
    with av.open(data, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000 * seconds), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return data.getvalue()


def refused(read: Callable[..., object], value: object, limits: MediaLimits = LIMITS) -> str:
    """The one line that a file is refused with; nothing is printed, and memory and time are bounded."""
    peak, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with warnings.catch_warnings(record=True) as said, pytest.raises(MediaError) as caught:
        warnings.simplefilter("always")
        read(value, limits)
    assert not said
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 2**20  # KiB
    assert time.monotonic() - begin < limits.decode_seconds + 10
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("side", [9000, 12_000, 50_000])  # Pillow is silent, warns, raises
@pytest.mark.parametrize("read", [read_image, read_video])
def test_a_huge_header_is_refused_before_decoding(read: Callable[..., object], side: int) -> None:
    assert "pixels" in refused(read, png_bomb(side, side))


def test_a_huge_canvas_of_a_gif_is_refused() -> None:
    for read in (read_image, read_video):
        assert "pixels" in refused(read, gif(65_535, 65_535, 1))


def test_endless_frames_are_refused() -> None:
    data = gif(64, 64, 100_000)
    assert "frames" in refused(read_video, data)
    assert read_image(data, LIMITS).size == (64, 64)
    assert "seconds" in refused(read_video, gif(64, 64, 9_000), replace(LIMITS, source_seconds=60))


def test_frames_of_a_large_canvas_cost_no_more_than_the_seconds_allowed() -> None:
    moving = io.BytesIO()
    Image.new("P", (6000, 6000)).save(moving, "GIF")
    content = moving.getvalue()
    start = content.index(b"\x2c")  # the image, said again and again
    bombs = [content[:start] + content[start:-1] * 300 + b"\x3b"]
    moving = io.BytesIO()
    frames = [Image.new("RGB", (3000, 3000), (shade,) * 3) for shade in (0, 99)]
    frames[0].save(moving, "WEBP", save_all=True, append_images=frames[1:], lossless=True, method=0)
    content = moving.getvalue()
    start = content.index(b"ANMF")
    content = content[:start] + content[start:] * 500
    bombs.append(content[:4] + struct.pack("<I", len(content) - 8) + content[8:])
    for bomb in bombs:
        assert len(bomb) < 10 * 2**20
        assert "to decode" in refused(read_video, bomb, replace(LIMITS, decode_seconds=1))


def test_a_jpeg_of_thousands_of_scans_costs_no_more_than_the_seconds_allowed() -> None:
    data = io.BytesIO()
    Image.new("L", (8000, 8000), 90).save(data, "JPEG", progressive=True)
    content = data.getvalue()
    scan = content.rindex(b"\xff\xda")  # the last of the scans, said again and again
    bomb = content[:scan] + content[scan:-2] * 2000 + content[-2:]
    assert len(bomb) < 10 * 2**20
    assert "to decode" in refused(read_image, bomb, replace(LIMITS, decode_seconds=1))


def test_a_video_of_hours_is_refused() -> None:
    slow = io.BytesIO()
    with av.open(slow, "w", format="matroska") as container:
        stream = container.add_stream("mpeg4", rate=1)
        stream.width, stream.height = 64, 48
        for second in range(3):
            frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
            frame.pts = second
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    data = slow.getvalue()
    at = data.index(b"\x44\x89\x88") + 3  # the element Duration, 8 bytes of a float, in milliseconds
    claims = {hours: data[:at] + struct.pack(">d", hours * 3.6e6) + data[at + 8 :] for hours in (0.5, 20)}
    assert "lasts more than" in refused(read_video, claims[20])
    assert "cut off" in refused(read_video, claims[0.5])
    read_video(data, LIMITS)


def test_sound_of_hours_is_refused() -> None:
    silence = flac_bytes(seconds=70)
    assert len(silence) < 2**15
    assert "lasts more than" in refused(read_audio, silence, replace(LIMITS, source_seconds=60))
    slow = wave_bytes(np.zeros((10_000, 1), "<i2"), 1)  # one sample a second
    assert "lasts more than" in refused(read_audio, slow)
    refused(read_audio, wave_bytes(np.zeros((900, 100), "<i2"), 16000))  # of 100 channels
    assert "samples a second" in refused(read_audio, wave_bytes(np.zeros((1000, 1), "<i2"), 2_000_000))


def test_frames_that_grow_midway_are_refused() -> None:
    data = io.BytesIO()
    with av.open(data, "w", format="avi") as container:
        stream = container.add_stream("mjpeg", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for _ in range(10):
            frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuvj420p")))
        container.mux(stream.encode(None))
    content = data.getvalue()
    size = struct.pack(">HH", 48, 64)
    at = content.rindex(b"\xff\xc0\x00\x11\x08" + size) + 5
    refused(read_video, content[:at] + struct.pack(">HH", 15_000, 15_000) + content[at + 4 :])


FILES = {
    "png": (read_image, image_bytes(gradient(90, 80))),
    "jpeg": (read_image, image_bytes(gradient(90, 80), "JPEG")),
    "webp": (read_image, image_bytes(gradient(90, 80), "WEBP")),
    "tiff": (read_image, image_bytes(gradient(90, 80), "TIFF")),
    "bmp": (read_image, image_bytes(gradient(90, 80), "BMP")),
    "gif": (read_image, image_bytes(gradient(90, 80), "GIF")),
    "mp4": (read_video, movie_bytes(frames=30, rate=10, tone=440.0)),
    "mkv": (read_video, movie_bytes(frames=30, rate=10, form="matroska")),
    "avi": (read_video, movie_bytes(frames=30, rate=10, form="avi")),
    "flac": (read_audio, flac_bytes(seconds=2)),
    "wav": (read_audio, wave_bytes(np.zeros((30_000, 1), "<i2"), 16000)),
}


@pytest.mark.parametrize("kind", sorted(FILES.keys() - {"wav"}))  # a cut WAV is a shorter sound
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7])
def test_a_file_that_is_cut_off_is_refused(kind: str, share: float) -> None:
    read, data = FILES[kind]
    read(data, LIMITS)
    refused(read, data[: int(len(data) * share)])


@pytest.mark.parametrize("kind", FILES)
def test_damage_of_any_kind_is_an_error_of_ours_or_none(kind: str) -> None:
    read, data = FILES[kind]
    read(data, LIMITS)
    random = np.random.default_rng(sum(kind.encode()))
    for _ in range(60):
        content = bytearray(data)
        # Headers stand at the begin (or, of mp4, at the end), and are where readers go wrong.
        for at in random.integers(0, min(len(content), 600), random.integers(1, 12)):
            content[at if random.random() < 0.5 else -int(at) - 1] = random.integers(0, 256)
        try:
            read(bytes(content), replace(LIMITS, decode_seconds=5))
        except MediaError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("read", READERS)
def test_what_is_neither_image_nor_recording(read: Callable[..., object], tmp_path: Path) -> None:
    eps = io.BytesIO()
    gradient(8, 8).save(eps, "EPS")
    for data in (b"", b"hello", b"<svg xmlns='http://www.w3.org/2000/svg'/>", eps.getvalue(), b"8BPS" + bytes(99)):
        refused(read, data)
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/zero", tmp_path, tmp_path / "pipe", tmp_path / "none", "", "a\0b", "http://127.0.0.1/a.png"):
        assert repr(str(path)) in refused(read, path)


@pytest.mark.parametrize("read", READERS)
def test_playlists_are_not_followed(
    read: Callable[..., object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "canary.wav").write_bytes(FILES["wav"][1])
    (tmp_path / "canary.mp4").write_bytes(FILES["mp4"][1])
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(0.1)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/canary"
        for target in ("canary.wav", "canary.mp4", f"file://{tmp_path}/canary.mp4", address):
            lists = {
                "list.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{target}\n#EXT-X-ENDLIST\n",
                "list.ffconcat": f"ffconcat version 1.0\nfile {target}\n",
                "list.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n",
                "list.mpd": f"<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011'><Period><AdaptationSet>"
                f"<Representation id='1'><BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period></MPD>",
            }
            for name, text in lists.items():
                (tmp_path / name).write_text(text)
                refused(read, tmp_path / name)
                refused(read, text.encode())
        with pytest.raises(TimeoutError):
            listener.accept()


def test_a_playlist_would_be_followed_without_our_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # so the test above can fail
    (tmp_path / "canary.wav").write_bytes(FILES["wav"][1])
    (tmp_path / "list.ffconcat").write_text("ffconcat version 1.0\nfile canary.wav\n")
    with av.open("list.ffconcat") as container:
        assert container.format.name == "concat" and len(container.streams.audio) == 1
