# SPDX-License-Identifier: Apache-2.0
"""From the media of a conversation to the inputs of a model, by the processor of transformers that belongs to it.

The processor gets the whole text in one call and does all that it does officially; only its tokenizer is replaced, by
one that keeps what data spells apart from what the template means.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ...extras.errors import ConfigError, in_one_line
from .families import KINDS, MediaFamily

if TYPE_CHECKING:
    from transformers import BatchEncoding

    from ..messages import Message, Part
    from .decode import MediaLimits, Video

# Sub-processors of each kind, by the names that transformers gives them.
_READERS = {
    "image": ("image_processor",),
    "video": ("video_processor",),
    "audio": ("feature_extractor", "audio_processor"),
}
# Keywords of an image processor that keys of ours set: class of the processor, keyword, key.
_IMAGE_OPTIONS = (
    ("Gemma3Processor", "do_pan_and_scan", "image_do_pan_and_scan"),
    ("InternVLProcessor", "crop_to_patches", "crop_to_patches"),
)
# Processors that take only videos of as many frames in one call; they lay the media of all rows end to end.
_ROW_BY_ROW = ("InternVLProcessor",)
# Models or processors that mix up images and videos of one batch: the tokens of both, or the names of their tensors.
_APART = ("Glm4vProcessor", "Glm46VProcessor", "SmolVLMProcessor")
# Models whose tensor of videos has one number of frames for all videos of a batch.
_AS_MANY_FRAMES = ("LlavaNextVideoProcessor", "LlavaOnevisionProcessor", "VideoLlavaProcessor")
# Processors that count an image's tokens as they write them, whatever stands beside it (tested).
_COUNT_IMAGES = (
    *("Qwen2VLProcessor", "Qwen2_5_VLProcessor", "Qwen3VLProcessor", "Qwen2_5OmniProcessor", "Qwen3OmniMoeProcessor"),
    *("Glm4vProcessor", "Glm46VProcessor", "Ernie4_5_VLMoeProcessor", "Gemma4Processor"),
    *("LlavaProcessor", "LlavaNextProcessor"),
)
_SAYS = "media: the processor of this model (preprocessor_config.json) says"
NO_INPUTS = ("input_ids", "attention_mask", "labels")


class MediaPrompt(NamedTuple):
    """A prompt with media.

    Attributes:
        ids: Its tokens, each medium expanded to as many as it takes.
        inputs: What the model needs besides ``input_ids`` and ``attention_mask``: tensors of the media, and those as
            long as the prompt, such as ``mm_token_type_ids`` ``[1, len(ids)]``.
        short_ids: The same prompt with one placeholder for each medium.
        objects: The decoded media by kind, in order, for engines that expand themselves.
    """

    ids: list[int]
    inputs: dict[str, Any]
    short_ids: list[int]
    objects: dict[str, list[Any]]


class MediaEncoder:
    """Turns media into model inputs.

    Args:
        processor: The model's processor.
        family: Where media stand in its text.
        limits: Bounds of what is read.
        store: Folder of the media of training rows that hold bytes in place of a path; ``None`` = these are refused.

    Attributes:
        kinds: The kinds of media that both the family and the processor, as installed, take.
        tokens: What the processor expands, by kind.
    """

    def __init__(self, processor: Any, family: MediaFamily, limits: MediaLimits, store: Path | None = None) -> None:
        found = {kind: getattr(processor, f"{kind}_token", None) for kind in KINDS}
        self.tokens = {kind: token for kind, token in found.items() if isinstance(token, str)}
        self.processor, self.family, self.limits, self.store = processor, family, limits, store
        self.kinds = tuple(kind for kind in KINDS if getattr(family, kind) is not None and _reads(processor, kind))

    @property
    def token_ids(self) -> list[int]:
        """Tokens that stand for media; a model that wrote one would be asked for its picture."""
        found = (getattr(self.processor, f"{kind}_token_id", None) for kind in KINDS)
        return sorted({one for one in found if isinstance(one, int)})

    @property
    def image_options(self) -> dict[str, Any]:
        """Keywords of the image processor that keys of ours set."""
        return {word: getattr(self.limits, key) for name, word, key in _IMAGE_OPTIONS if self._is((name,))}

    @property
    def row_by_row(self) -> bool:
        """Whether rows with videos are given to the processor one at a time; its tensors have no entry for rows."""
        return self._is(_ROW_BY_ROW)

    def _is(self, names: Sequence[str]) -> bool:
        """Whether the processor is one of these classes."""
        return any(kind.__name__ in names for kind in type(self.processor).__mro__)

    def check_kinds(self, kinds: Collection[str]) -> None:
        """Refuse media that the model does not take in one batch.

        Raises:
            ConfigError: There are images and videos.
        """
        if {"image", "video"} <= set(kinds) and self._is(_APART):
            raise ConfigError(
                "images and videos stand in one batch, which models of this family do not take; train them in runs "
                "apart, or one row at a time (per_device_train_batch_size: 1, packing: false)"
            )

    def collect(self, messages: Sequence[Message]) -> list[Part]:
        """The media of a conversation, in order.

        Raises:
            ConfigError: One is of a kind that the model does not take.
        """
        parts = [part for message in messages for part in message.parts if part.type != "text"]
        for part in parts:
            if part.type not in self.kinds:
                why = f"this model takes {', '.join(self.kinds)}" if self.kinds else "this model is for text"
                if _reads(self.processor, part.type):
                    why = "nothing tells where it stands in this model's text; choose another template"
                raise ConfigError(f"messages: a message holds {part.type}, but {why}")
        return parts

    def encode(self, text: str, parts: Sequence[Part], tokenize: Callable[[str], list[int]]) -> MediaPrompt:
        """Read media and expand their placeholders.

        Args:
            text: The prompt; holds one placeholder for each medium, in order.
            parts: The media.
            tokenize: Gives the tokens of such a text, expanded or not.

        Raises:
            ConfigError: A medium cannot be read, or its placeholder is missing.
        """
        for kind, token in self.tokens.items():
            given, written = sum(part.type == kind for part in parts), text.count(token)
            if given != written:
                raise ConfigError(f"template: {written} placeholders {token} for {given} parts of type {kind}")
        short_ids = tokenize(text)
        if not parts:
            return MediaPrompt(short_ids, {}, short_ids, {})
        if self.family.bare:
            text = text.removeprefix(self.processor.tokenizer.bos_token).removesuffix("\n")
        media = self.read(parts)
        out = self.process([text], [media], _Tokenizer(self.processor.tokenizer, tokenize))
        inputs = {key: value for key, value in out.items() if key not in NO_INPUTS}
        if any(kind == "video" and one.sound is not None for kind, one in media):
            inputs["use_audio_in_video"] = True  # Omni models count positions otherwise
        return MediaPrompt(out["input_ids"][0].tolist(), inputs, short_ids, _by_kind(media))

    def process(self, texts: list[str], media: Sequence[Sequence[tuple[str, Any]]], tokenizer: Any) -> Any:
        """What the processor makes of texts with placeholders and the decoded media of each.

        Args:
            texts: One for each row.
            media: Kind and decoded medium, in the order of the row's placeholders.
            tokenizer: Stands in for the processor's own.
        """
        processor = copy.copy(self.processor)
        processor.tokenizer = tokenizer
        arguments = self._arguments(media)
        with in_one_line(_SAYS):
            return processor(text=texts, return_tensors="pt", **arguments)

    def count_images(self, sizes: Sequence[tuple[int, int]]) -> list[int]:
        """The tokens of images of these widths and heights; empty: this processor must be asked with images.

        Raises:
            ConfigError: The processor refuses a size.
        """
        if not self._is(_COUNT_IMAGES):
            return []
        with in_one_line(_SAYS):
            given = [(height, width) for width, height in sizes]
            counts: list[int] = self.processor._get_num_multimodal_tokens(image_sizes=given)["num_image_tokens"]
        return counts

    def read(self, parts: Sequence[Part]) -> list[tuple[str, Any]]:
        """Decode the media of a conversation: kind and what the processor takes.

        Raises:
            MediaError: One cannot be read within the limits.
        """
        from .decode import MediaError, read_audio, read_image, read_video

        read: dict[str, Callable[[Any, MediaLimits], Any]]
        read = {"image": read_image, "video": read_video, "audio": read_audio}
        media: list[tuple[str, Any]] = []
        end = time.monotonic() + self.limits.decode_seconds  # of one file, and about that of all
        for part in parts:
            if time.monotonic() > end:
                raise MediaError(f"media: they take more than {self.limits.decode_seconds:g} seconds to decode")
            media.append((part.type, read[part.type](part.value, self.limits)))
        return media

    def _arguments(self, rows: Sequence[Sequence[tuple[str, Any]]]) -> dict[str, Any]:
        """The media of rows as keywords of the processor."""
        media = [one for row in rows for one in row]
        objects = _by_kind(media)
        out: dict[str, Any] = {}
        if "image" in objects:  # nested, for some processors refuse a flat list where a row has none
            out["images"] = [_by_kind(row).get("image", []) for row in rows]
            out |= {"images_kwargs": self.image_options} if self.image_options else {}
        if videos := objects.get("video"):
            counts = sorted({len(video.frames) for video in videos})
            if len(counts) > 1 and self._is(_AS_MANY_FRAMES):
                raise ConfigError(
                    f"videos of {' and '.join(map(str, counts))} frames stand in one batch, which models of this "
                    "family do not take; set video_maxlen so that all have as many, or per_device_train_batch_size: 1"
                )
            out |= _video_arguments([_by_kind(row).get("video", []) for row in rows])
        if any(video.sound is not None for video in videos or ()):
            if not hasattr(self.processor, "load_audio_from_video"):
                raise ConfigError("use_audio_in_video: True: this model does not take the sound of a video")
            out |= _sound_of_videos(media)
        elif audios := objects.get("audio"):
            out["audio"] = audios
        if "audio" in out:
            out["sampling_rate"] = self.limits.audio_sampling_rate
        return out


def _by_kind(media: Sequence[tuple[str, Any]]) -> dict[str, list[Any]]:
    objects: dict[str, list[Any]] = {}
    for kind, one in media:
        objects.setdefault(kind, []).append(one)
    return objects


def _video_arguments(rows: Sequence[Sequence[Video]]) -> dict[str, Any]:
    """Frames that are chosen already, with the times at which they are shown."""
    import numpy as np
    from transformers.video_utils import VideoMetadata

    rows = [videos for videos in rows if videos]
    metadata = [
        [
            VideoMetadata(
                total_num_frames=len(video.frames),
                fps=video.fps,
                duration=len(video.frames) / video.fps,
                frames_indices=list(range(len(video.frames))),
            )
            for video in videos
        ]
        for videos in rows
    ]
    frames = [[np.stack([np.asarray(frame) for frame in video.frames]) for video in videos] for videos in rows]
    # Omni models know one rate for all videos, the others one of each.
    return {"videos": frames, "video_metadata": metadata, "fps": rows[0][0].fps, "do_sample_frames": False}


def _sound_of_videos(media: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """All sounds in order, and for each the number of the video that it belongs to."""
    sounds: list[Any] = []
    owners: list[int | None] = []
    number = 0
    for kind, one in media:
        if kind == "audio":
            sounds.append(one)
            owners.append(None)
        elif kind == "video":
            if one.sound is not None:
                sounds.append(one.sound)
                owners.append(number)
            number += 1
    return {"audio": sounds, "audio_from_video_indices": owners, "load_audio_from_video": True}


class _Tokenizer:
    """The tokenizer of a processor, but texts are encoded by a function of ours."""

    def __init__(self, tokenizer: Any, tokenize: Callable[[str], list[int]]) -> None:
        self._tokenizer, self._tokenize = tokenizer, tokenize

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, text: str | list[str], **options: Any) -> BatchEncoding:
        from transformers import BatchEncoding

        (text,) = [text] if isinstance(text, str) else text
        ids = self._tokenize(text)
        data = {"input_ids": [ids], "attention_mask": [[1] * len(ids)]}
        if options.get("return_token_type_ids"):
            data["token_type_ids"] = [[0] * len(ids)]
        # Idefics asks where characters stand in the tokens, to count those of an image.
        fast = self._tokenizer.is_fast
        places = self._tokenizer.backend_tokenizer.encode(text, add_special_tokens=False) if fast else None
        return BatchEncoding(data, encoding=places, tensor_type=options.get("return_tensors"))


def _reads(processor: Any, kind: str) -> bool:
    return any(getattr(processor, name, None) is not None for name in _READERS[kind])
