# SPDX-License-Identifier: Apache-2.0
"""From the media of a conversation to the inputs of a model, by the processor of transformers that belongs to it.

The processor gets the whole text in one call and does all that it does officially; only its tokenizer is replaced, by
one that keeps what data spells apart from what the template means.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ...extras.errors import ConfigError
from .families import KINDS, MediaFamily

if TYPE_CHECKING:
    from transformers import BatchEncoding

    from ..messages import Message, Part
    from .decode import MediaLimits

# Sub-processors of each kind, by the names that transformers gives them.
_READERS = {
    "image": ("image_processor",),
    "video": ("video_processor",),
    "audio": ("feature_extractor", "audio_processor"),
}
_NO_INPUTS = ("input_ids", "attention_mask", "labels")


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

    Attributes:
        kinds: The kinds of media that both the family and the processor, as installed, take.
        tokens: What the processor expands, by kind.
    """

    def __init__(self, processor: Any, family: MediaFamily, limits: MediaLimits) -> None:
        found = {kind: getattr(processor, f"{kind}_token", None) for kind in KINDS}
        self.tokens = {kind: token for kind, token in found.items() if isinstance(token, str)}
        self.processor, self.limits = processor, limits
        self.family = family.with_tokens(self.tokens)
        self.kinds = tuple(kind for kind in KINDS if getattr(family, kind) is not None and _reads(processor, kind))

    def collect(self, messages: Sequence[Message]) -> list[Part]:
        """The media of a conversation, in order.

        Raises:
            ConfigError: One is of a kind that the model does not take.
        """
        parts = [part for message in messages for part in message.parts if part.type != "text"]
        for part in parts:
            if part.type not in self.kinds:
                takes = f"takes {', '.join(self.kinds)}" if self.kinds else "is for text"
                raise ConfigError(f"messages: a message holds {part.type}, but this model {takes}")
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
        objects = self._read(parts)
        if not parts:
            ids = tokenize(text)
            return MediaPrompt(ids, {}, ids, objects)
        processor = copy.copy(self.processor)
        processor.tokenizer = _Tokenizer(self.processor.tokenizer, tokenize)
        try:
            out = processor(text=[text], return_tensors="pt", **self._arguments(objects))
        except ValueError as error:
            raise ConfigError(f"media: the processor of this model says: {' '.join(str(error).split())}") from None
        inputs = {key: value for key, value in out.items() if key not in _NO_INPUTS}
        return MediaPrompt(out["input_ids"][0].tolist(), inputs, tokenize(text), objects)

    def _read(self, parts: Sequence[Part]) -> dict[str, list[Any]]:
        from .decode import read_audio, read_image, read_video

        read: dict[str, Callable[[Any, MediaLimits], Any]]
        read = {"image": read_image, "video": read_video, "audio": read_audio}
        objects: dict[str, list[Any]] = {}
        for part in parts:
            objects.setdefault(part.type, []).append(read[part.type](part.value, self.limits))
        return objects

    def _arguments(self, objects: dict[str, list[Any]]) -> dict[str, Any]:
        """The media as keywords of the processor."""
        out: dict[str, Any] = {}
        if images := objects.get("image"):
            out["images"] = [images]
        if audios := objects.get("audio"):
            out["audio"] = audios
            out["sampling_rate"] = self.limits.audio_sampling_rate
        if videos := objects.get("video"):
            import numpy
            from transformers.video_utils import VideoMetadata

            out["videos"] = [[numpy.stack([numpy.asarray(frame) for frame in video.frames]) for video in videos]]
            out["video_metadata"] = [
                [
                    VideoMetadata(
                        total_num_frames=len(video.frames),
                        fps=video.fps,
                        frames_indices=list(range(len(video.frames))),
                        duration=len(video.frames) / video.fps,
                    )
                    for video in videos
                ]
            ]
            out["do_sample_frames"] = False
        return out


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
        places = self._tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
        return BatchEncoding(data, encoding=places, tensor_type=options.get("return_tensors"))


def _reads(processor: Any, kind: str) -> bool:
    return any(getattr(processor, name, None) is not None for name in _READERS[kind])
