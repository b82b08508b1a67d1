# SPDX-License-Identifier: Apache-2.0
"""Which modules of a model see or hear (towers), which hand that on (projector); all else is the language model.

Names are those below the decoder's own prefix (``model.``); the longest name that fits decides, so that a projector may
stand inside a tower. Parameters that lie beside modules (``image_newline``) are named like them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, get_args

Part = Literal["vision tower", "projector", "language model"]
PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True)
class Layout:
    """Names of the modules that are towers, and of those that are the projector."""

    towers: tuple[str, ...]
    projector: tuple[str, ...]


_LLAVA = Layout(("vision_tower",), ("multi_modal_projector", "image_newline", "view_separator"))
_QWEN = Layout(("visual",), ("visual.merger", "visual.deepstack_merger_list"))
_GLM = Layout(("visual",), ("visual.merger", "visual.downsample", "visual.post_layernorm"))
_IDEFICS = Layout(("vision_model",), ("connector",))
_SOUND = Layout(("audio_tower",), ("multi_modal_projector",))
_GEMMA = Layout(("vision_tower", "audio_tower"), ("embed_vision", "embed_audio"))
_SPEECH = Layout(("encoder",), ("projector",))
_MINICPM = Layout(("vision_tower",), ("vision_tower.vit_merger", "merger"))

_LAYOUTS: dict[str, Layout] = {
    **dict.fromkeys(
        (
            "aria",
            "aya_vision",
            "cohere2_vision",
            "gemma3",
            "got_ocr2",
            "internvl",
            "lfm2_vl",
            "lfm3_vl",
            "llava",
            "llava_next",
            "llava_next_video",
            "llava_onevision",
            "minimax_m3_vl",
            "mistral3",
            "mistral_large4",
            "molmo2",
            "paligemma",
            "pp_chart2table",
            "qianfan_ocr",
            "shieldgemma2",
            "unlimited_ocr",
            "vipllava",
        ),
        _LLAVA,
    ),
    **dict.fromkeys(
        ("cosmos3_omni", "exaone4_5", "qwen2_5_vl", "qwen2_vl", "qwen3_5", "qwen3_5_moe", "qwen3_vl", "qwen3_vl_moe"),
        _QWEN,
    ),
    **dict.fromkeys(("glm46v", "glm4v", "glm4v_moe", "glm5_next", "glm_ocr", "glmga"), _GLM),
    **dict.fromkeys(("idefics2", "idefics3", "smolvlm"), _IDEFICS),
    **dict.fromkeys(("glmasr", "qwen2_audio", "qwen3_asr", "voxtral", "voxtral_realtime"), _SOUND),
    **dict.fromkeys(("gemma3n", "gemma4"), _GEMMA),
    **dict.fromkeys(("granite_speech", "granite_speech_plus"), _SPEECH),
    **dict.fromkeys(("minicpmv4_6", "minicpmv4_7"), _MINICPM),
    "deepseek_vl": Layout(("vision_model",), ("aligner",)),
    "ernie4_5_vl_moe": Layout(("vision_tower",), ("resampler_model",)),
    "kimi_k25": Layout(("vision_tower",), ("mm_projector",)),
    "lighton_ocr": Layout(("vision_encoder",), ("vision_projection",)),
    "llama4": Layout(("vision_model",), ("multi_modal_projector",)),
    "mllama": Layout(("vision_model",), ("multi_modal_projector",)),
    "ovis2": Layout(("vision_tower",), ("visual_embeddings_table",)),
    "paddleocr_vl": Layout(("visual",), ("projector",)),
    "phi4_multimodal": Layout(
        ("embed_tokens_extend",),
        tuple(
            f"embed_tokens_extend.{name}"
            for name in (
                "image_embed.img_projection_up",
                "image_embed.img_projection_down",
                *tuple(
                    f"audio_embed.{way}_proj_for_{what}"
                    for way in ("up", "down")
                    for what in ("speech", "vision_speech")
                ),
            )
        ),
    ),
    "qwen2_5_omni_thinker": Layout(("visual", "audio_tower"), ("visual.merger", "audio_tower.proj")),
    "qwen3_omni_moe_thinker": Layout(
        ("visual", "audio_tower"), ("visual.merger", "visual.merger_list", "audio_tower.proj1", "audio_tower.proj2")
    ),
    "step3p7": Layout(
        ("vision_model",), ("vision_model.downsampler1", "vision_model.downsampler2", "multi_modal_projector")
    ),
    "video_llama_3": Layout(("vision_model",), ("projector",)),
    "video_llava": Layout(("video_tower", "image_tower"), ("multi_modal_projector",)),
}


def known_layout(config: Any) -> Layout | None:
    """The layout of a whole configuration's model; ``None``: only its language model can be told from the rest."""
    return _LAYOUTS.get(config.model_type)


def pattern_of(layout: Layout, part: Part, prefix: str) -> str:
    """A regular expression of the full names of a part's modules and parameters.

    Args:
        layout: Of the model.
        part: Which one.
        prefix: Of the decoder within the model (``model``).
    """
    start = rf"({re.escape(prefix)}\.)?" if prefix else ""
    towers, projector = (
        start + "(" + "|".join(map(re.escape, names)) + ")" for names in (layout.towers, layout.projector)
    )
    if part == "projector":
        return rf"{projector}(\..*)?"
    if part == "vision tower":
        return rf"(?!{projector}(\.|$)){towers}(\..*)?"
    return rf"(?!({towers}|{projector})(\.|$)).*"
