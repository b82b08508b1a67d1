# SPDX-License-Identifier: Apache-2.0
"""Images, videos and sound: read as PIL, NumPy and the standard library read them."""

from __future__ import annotations

import io
import math
import wave
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageOps
from transformers.image_transforms import convert_to_rgb

from llamafactory.data.media.decode import MediaError, MediaLimits, read_audio, read_image, read_video
from llamafactory.hparams import get_infer_args

from .files import gradient, image_bytes, movie_bytes, wave_bytes

LIMITS = MediaLimits()


def difference(left: Image.Image, right: Image.Image) -> float:
    """Mean absolute difference of two pictures of one size."""
    assert left.size == right.size
    return float(np.abs(np.asarray(left, dtype=float) - np.asarray(right, dtype=float)).mean())


def test_limits_are_the_keys_of_the_section() -> None:
    args = get_infer_args({"model_name_or_path": "x", "image_max_pixels": 5000, "video_fps": 3.5, "video_maxlen": 7})
    limits = MediaLimits.of(args.media)
    assert (limits.image_max_pixels, limits.video_fps, limits.video_maxlen) == (5000, 3.5, 7)
    assert MediaLimits.of(get_infer_args({"model_name_or_path": "x"}).media) == MediaLimits()


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "GIF", "JPEG", "WEBP"])
def test_every_form_gives_the_pixels_that_pillow_gives(form: str) -> None:
    data = image_bytes(gradient(60, 40), form)
    expected = Image.open(io.BytesIO(data)).convert("RGB")
    assert np.array_equal(np.asarray(read_image(data, LIMITS)), np.asarray(expected))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_shines_through_lies_on_white(mode: str) -> None:
    """The oracle is what transformers' own processors do with it."""
    picture = gradient(40, 30).convert("RGBA")
    picture.putalpha(Image.linear_gradient("L").resize((40, 30)))
    if mode == "P":
        picture = gradient(40, 30).quantize(8)
        picture.info["transparency"] = 3
    picture = picture if mode == "P" else picture.convert(mode)
    data = image_bytes(picture, "PNG")
    expected = convert_to_rgb(Image.open(io.BytesIO(data)))
    found = read_image(data, LIMITS)
    assert np.array_equal(np.asarray(found), np.asarray(expected))
    assert not np.array_equal(np.asarray(found), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize(("width", "height"), [(100, 40), (7, 300), (31, 32), (10, 10), (32, 32), (64, 36)])
def test_sizes_stay_within_the_bounds_and_keep_their_shape(width: int, height: int) -> None:
    limits = replace(LIMITS, image_max_pixels=48 * 48, image_min_pixels=32 * 32)
    picture = gradient(width, height)
    found = read_image(image_bytes(picture), limits)
    pixels = width * height
    bound = min(max(pixels, limits.image_min_pixels), limits.image_max_pixels)
    factor = math.sqrt(bound / pixels)
    size = (width, height) if bound == pixels else (int(width * factor), int(height * factor))
    assert found.size == size and found.mode == "RGB"
    assert difference(found, picture.resize(size)) == 0


def test_a_line_of_pixels_stays_within_the_bound() -> None:
    assert read_image(
        image_bytes(gradient(40_000, 1)), replace(LIMITS, image_max_pixels=1000, image_min_pixels=16)
    ).size == (1000, 1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_stand_upright(orientation: int) -> None:
    picture = gradient(48, 40)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = io.BytesIO()
    picture.save(data, "PNG", exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data.getvalue())))
    assert np.array_equal(np.asarray(read_image(data.getvalue(), LIMITS)), np.asarray(expected))


def test_sixteen_bits_of_grey_are_scaled() -> None:
    values = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    found = np.asarray(read_image(image_bytes(Image.fromarray(values)), LIMITS))
    assert np.abs(found[..., 0] - (values >> 8).astype(int)).max() <= 1


def test_an_image_may_be_given_in_every_way(tmp_path: Path) -> None:
    picture = gradient(50, 40)
    data = image_bytes(picture)
    path = tmp_path / "a b.png"
    path.write_bytes(data)
    ways = [data, path, str(path), picture, picture.convert("RGBA"), {"bytes": data, "path": None}]
    for value in [*ways, {"bytes": None, "path": str(path)}]:
        assert difference(read_image(value, LIMITS), picture) == 0


def test_a_video_gives_evenly_spaced_frames() -> None:
    # 30 frames at 10 a second, frame k of brightness 8 k: which frames were taken shows in the pixels.
    data = movie_bytes(frames=30, rate=10)
    video = read_video(data, replace(LIMITS, video_fps=2.0))
    taken = np.linspace(0, 29, 6).astype(int)
    brightness = [np.asarray(frame).mean() for frame in video.frames]
    assert np.abs(np.array(brightness) - taken * 8).max() < 3
    assert video.fps == pytest.approx(2.0) and video.sound is None


@pytest.mark.parametrize(
    ("limits", "count"), [({"video_maxlen": 4}, 4), ({"video_fps": 50}, 30), ({"video_fps": 0.1}, 1)]
)
def test_the_number_of_frames_is_the_least_of_three(limits: dict[str, float], count: int) -> None:
    assert len(read_video(movie_bytes(frames=30, rate=10), replace(LIMITS, **limits)).frames) == count


@pytest.mark.parametrize(
    ("form", "codec"),
    [
        ("matroska", "mpeg4"),
        ("avi", "mpeg4"),
        ("flv", "flv1"),
        ("mpegts", "mpeg2video"),
        ("webm", "libvpx"),
        ("webm", "libvpx-vp9"),
        ("mp4", "libx264"),
    ],
)
def test_containers_and_codecs(form: str, codec: str) -> None:
    video = read_video(movie_bytes(frames=30, rate=10, form=form, codec=codec), replace(LIMITS, video_fps=1.0))
    brightness = [np.asarray(frame).mean() for frame in video.frames]
    assert np.abs(np.array(brightness) - np.array([0, 14, 29]) * 8).max() < 3


@pytest.mark.parametrize(
    ("form", "codec"),
    [("mp3", "libmp3lame"), ("ogg", "libopus"), ("ipod", "aac"), ("flac", "flac"), ("caf", "pcm_s16le")],
)
def test_forms_of_sound(form: str, codec: str) -> None:
    data, tone = io.BytesIO(), np.sin(2 * np.pi * 440 * np.arange(96_000) / 48_000).astype(np.float32) / 2
    with av.open(data, "w", format=form) as container:
        stream = container.add_stream(codec, rate=48_000)
        frame = av.AudioFrame.from_ndarray(np.stack([tone, tone]), format="fltp", layout="stereo")
        frame.sample_rate = 48_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    found = read_audio(data.getvalue(), LIMITS)
    assert abs(len(found) - 32_000) < 1600
    assert (
        np.abs(np.fft.rfft(found[8_000:24_000])).argmax() == 440 and abs(np.abs(found[8_000:24_000]).max() - 0.5) < 0.1
    )


def test_frames_stay_within_their_bounds() -> None:
    video = read_video(movie_bytes(frames=4, rate=2, size=(96, 64)), replace(LIMITS, video_max_pixels=30 * 20))
    assert {frame.size for frame in video.frames} == {(30, 20)}


def test_the_sound_of_a_video_is_read_when_asked_for() -> None:
    data = movie_bytes(frames=20, rate=10, tone=440.0)
    assert read_video(data, LIMITS).sound is None
    sound = read_video(data, replace(LIMITS, use_audio_in_video=True)).sound
    assert sound is not None and abs(len(sound) - 2 * 16000) < 2000
    spectrum = np.abs(np.fft.rfft(sound[:16000]))
    assert abs(int(spectrum.argmax()) - 440) <= 1
    assert read_video(movie_bytes(frames=4, rate=2), replace(LIMITS, use_audio_in_video=True)).sound is None


def test_a_film_held_upright_by_a_phone_is_turned() -> None:
    straight = movie_bytes(frames=2, rate=1, size=(96, 64), corner=True)
    identity, quarter = (
        bytes.fromhex("00010000" + "00" * 12 + "00010000"),
        bytes.fromhex("00000000" + "00010000" + "00" * 4 + "ffff0000" + "00000000"),
    )
    assert straight.count(identity) >= 2  # of the film and of its track; players turn by the track's
    at = straight.rindex(identity)
    turned = straight[:at] + quarter + straight[at + 20 :]
    before, after = read_video(straight, LIMITS).frames[0], read_video(turned, LIMITS).frames[0]
    assert before.size == (96, 64) and after.size == (64, 96)
    # That matrix turns by 90 degrees clockwise: the bright corner goes from the upper left to the upper right.
    assert difference(after, before.transpose(Image.Transpose.ROTATE_270)) < 1


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_animated_images_are_videos(form: str) -> None:
    frames = [Image.new("RGB", (40, 30), (step * 10,) * 3) for step in range(20)]
    data = io.BytesIO()
    options = {"lossless": True} if form == "WEBP" else {}
    frames[0].save(data, form, save_all=True, append_images=frames[1:], duration=200, **options)
    video = read_video(data.getvalue(), replace(LIMITS, video_fps=1.5))  # 4 seconds
    brightness = [int(np.asarray(frame).mean()) for frame in video.frames]
    assert brightness == [int(index) * 10 for index in np.linspace(0, 19, 6)]
    assert video.fps == pytest.approx(1.5)
    assert read_image(data.getvalue(), LIMITS).getpixel((0, 0)) == (0, 0, 0)


def test_a_list_of_frames_is_a_video(tmp_path: Path) -> None:
    frames: list[object] = [Image.new("RGB", (40, 30), (step,) * 3) for step in range(9)]
    (tmp_path / "f.png").write_bytes(image_bytes(gradient(40, 30)))
    video = read_video([*frames, str(tmp_path / "f.png")], replace(LIMITS, video_maxlen=4))
    assert [np.asarray(frame).max() for frame in video.frames[:3]] == [0, 3, 6]
    assert difference(video.frames[3], gradient(40, 30)) == 0


def test_sound_at_the_wanted_rate_is_the_samples_themselves() -> None:
    samples = np.random.default_rng(0).integers(-30000, 30000, (5000, 2)).astype("<i2")
    data = wave_bytes(samples, 16000)
    with wave.open(io.BytesIO(data)) as file:
        raw = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2)
    found = read_audio(data, LIMITS)
    assert found.dtype == np.float32
    assert np.allclose(found, raw.astype(float).mean(axis=1) / 32768, atol=1e-6)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_sound_is_resampled(rate: int) -> None:
    seconds, pitch = 1.5, 300.0
    at = np.arange(int(seconds * rate)) / rate
    tone = np.sin(2 * np.pi * pitch * at)
    expected = np.sin(2 * np.pi * pitch * np.arange(int(seconds * 16000)) / 16000)
    data = wave_bytes((tone * 20000).astype("<i2")[:, None], rate)
    for found in (
        read_audio(data, LIMITS) * 32768 / 20000,
        read_audio({"array": tone, "sampling_rate": rate}, LIMITS),
        read_audio({"array": np.stack([tone, tone]), "sampling_rate": rate}, LIMITS),
    ):
        assert abs(len(found) - len(expected)) <= 2
        middle = slice(1000, len(expected) - 1000)  # the filter fades at both ends
        assert np.abs(found[middle] - expected[middle]).max() < 0.01


def test_the_sound_of_a_video_file_is_sound() -> None:
    assert np.abs(read_audio(movie_bytes(frames=10, rate=10, tone=440.0), LIMITS)).max() > 0.1


@pytest.mark.parametrize("value", [None, 3, [], {"array": [[[1.0]]], "sampling_rate": 16000}, {"bytes": None}])
@pytest.mark.parametrize("read", [read_image, read_video, read_audio])
def test_what_is_no_medium_at_all(read: object, value: object) -> None:
    with pytest.raises(MediaError, match=r"^(image|video|audio): .+$"):
        read(value, LIMITS)  # type: ignore[operator]
