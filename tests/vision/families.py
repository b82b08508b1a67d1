# SPDX-License-Identifier: Apache-2.0
"""Tiny random models of families whose processors need torchvision, or of which it shows more kinds of media."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from data.media import processors, proofs
from media_models import QWEN, TEXT, TOWER
from transformers import AutoConfig, AutoModelForMultimodalLM, AutoTokenizer

Ids = Callable[[str], int]


@dataclass(frozen=True)
class Tiny:
    """A family.

    Attributes:
        config: From the keys of a language model and the number of each token, the configuration.
        processor: From a tokenizer and a chat template.
        text: What the template writes for each kind of medium that is tried.
        tokens: Special tokens beside those in ``named``.
        named: Those that the tokenizer gives as attributes.
        start: What the template writes first.
    """

    config: Callable[[dict[str, Any], Ids], dict[str, Any]]
    processor: Callable[[Any, str], Any]
    text: dict[str, str]
    tokens: tuple[str, ...] = ()
    named: dict[str, str] = field(default_factory=dict)
    start: str = ""


def build(family: str, folder: Path, tokenizer_folder: Path) -> Path:
    """Write a model, its tokenizer and its processor."""
    row = FAMILIES[family]
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    tokens = list(dict.fromkeys((*row.tokens, *row.named.values())))
    tokenizer.add_special_tokens({"extra_special_tokens": tokens}, replace_extra_special_tokens=False)
    for name, token in row.named.items():
        setattr(tokenizer, name, token)
        tokenizer.init_kwargs[name] = token
        setattr(tokenizer, f"{name}_id", tokenizer.convert_tokens_to_ids(token))
    jinja = row.start + template(row.text)
    tokenizer.chat_template = jinja
    processor = row.processor(tokenizer, jinja)  # some add tokens
    text = TEXT | {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    text |= {"pad_token_id": tokenizer.pad_token_id}
    config = AutoConfig.for_model(family, **row.config(text, tokenizer.convert_tokens_to_ids))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForMultimodalLM.from_config(config, dtype=torch.float32)
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.1 if "norm" not in name else 1.0)
            elif "gate" in name or "class_embedding" in name or "newline" in name:  # zeros would hide what they open
                torch.nn.init.normal_(weight, std=0.5)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def template(text: dict[str, str]) -> str:
    """ChatML with what a family writes for its media."""
    parts = "".join(
        f"{{% {'elif' if number else 'if'} p.type == '{kind}' %}}{mark}"
        for number, (kind, mark) in enumerate(text.items())
    )
    start, end = QWEN.index("{% if p.type == 'image' %}"), QWEN.index("{% else %}{{ p.text }}")
    return QWEN[:start] + parts + QWEN[end:]


def _rope(text: dict[str, Any], **more: Any) -> dict[str, Any]:
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    return text | {"rope_parameters": rope | more}


def _qwen_eyes(**more: Any) -> dict[str, Any]:
    tower = {"depth": 2, "hidden_size": 32, "out_hidden_size": 32, "num_heads": 2, "intermediate_size": 64}
    return tower | {"patch_size": 8} | more


def _qwen2_5_omni(text: dict[str, Any], id_of: Ids) -> dict[str, Any]:
    ears = {"d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 64}
    return {
        "text_config": _rope(text),
        "vision_config": _qwen_eyes(window_size=32, fullatt_block_indexes=[1]),
        "audio_config": ears | {"num_mel_bins": 8, "output_dim": 32, "n_window": 20},
        **_omni_tokens(proofs.OMNI2, id_of),
    }


def _omni_tokens(named: dict[str, str], id_of: Ids) -> dict[str, Any]:
    kinds = {f"{kind}_token_id": id_of(named[f"{kind}_token"]) for kind in ("image", "video", "audio")}
    ends = {"vision_start": "vision_bos", "vision_end": "vision_eos", "audio_start": "audio_bos"}
    ends |= {"audio_end": "audio_eos"}
    return kinds | {f"{name}_token_id": id_of(named[f"{token}_token"]) for name, token in ends.items()}


def _qwen3_omni(text: dict[str, Any], id_of: Ids) -> dict[str, Any]:
    ears = {"d_model": 32, "encoder_layers": 1, "num_hidden_layers": 1, "encoder_attention_heads": 2}
    ears |= {"encoder_ffn_dim": 64, "num_mel_bins": 8, "output_dim": 32, "downsample_hidden_size": 8}
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "decoder_sparse_step": 1}
    return {
        "text_config": _rope(text | experts | {"head_dim": 8}, mrope_interleaved=True),
        "vision_config": _qwen_eyes(num_position_embeddings=64, deepstack_visual_indexes=[0, 1]),
        "audio_config": ears | {"n_window": 50, "n_window_infer": 400},
        **_omni_tokens(proofs.OMNI3, id_of),
    }


def _moe(text: dict[str, Any]) -> dict[str, Any]:
    return text | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 8}


def _vision_tokens(id_of: Ids) -> dict[str, Any]:
    names = {"image": "<|image_pad|>", "video": "<|video_pad|>"}
    names |= {"vision_start": "<|vision_start|>", "vision_end": "<|vision_end|>"}
    return {f"{name}_token_id": id_of(token) for name, token in names.items()} | {"tie_word_embeddings": False}


def _qwen3_vl_moe(text: dict[str, Any], id_of: Ids) -> dict[str, Any]:
    return {
        "text_config": _rope(_moe(text), mrope_interleaved=True),
        "vision_config": _qwen_eyes(num_position_embeddings=64, deepstack_visual_indexes=[0, 1]),
        **_vision_tokens(id_of),
    }


def _qwen3_5_moe(text: dict[str, Any], id_of: Ids) -> dict[str, Any]:
    linear = {"linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2}
    linear |= {"linear_num_value_heads": 4, "layer_types": ["linear_attention", "full_attention"]}
    linear |= {"shared_expert_intermediate_size": 32}
    return {
        "text_config": _rope(_moe(text) | linear, mrope_interleaved=True, partial_rotary_factor=1.0),
        "vision_config": _qwen_eyes(num_position_embeddings=64),
        **_vision_tokens(id_of),
    }


def _glm_tokens(id_of: Ids) -> dict[str, Any]:
    found = {kind: f"<|{kind}|>" for kind in ("image", "video")}
    found |= {f"{kind}_start": f"<|begin_of_{kind}|>" for kind in ("image", "video")}
    found |= {f"{kind}_end": f"<|end_of_{kind}|>" for kind in ("image", "video")}
    return {f"{name}_token_id": id_of(token) for name, token in found.items()} | {"tie_word_embeddings": False}


def _glm46v(text: dict[str, Any], id_of: Ids) -> dict[str, Any]:
    return {
        "text_config": _rope(text, partial_rotary_factor=1.0) | {"model_type": "glm4v_text"},
        "vision_config": _qwen_eyes(image_size=32) | {"model_type": "glm4v_vision"},
        **_glm_tokens(id_of),
    }


def _glm_ocr(text: dict[str, Any], id_of: Ids) -> dict[str, Any]:
    return {
        "text_config": _rope(text, partial_rotary_factor=1.0) | {"head_dim": 8},
        "vision_config": _qwen_eyes(image_size=32),
        **_glm_tokens(id_of),
    }


def _glm4v_moe(text: dict[str, Any], id_of: Ids) -> dict[str, Any]:
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_shared_experts": 1}
    experts |= {"first_k_dense_replace": 1, "n_group": 1, "topk_group": 1, "head_dim": 8}
    return {
        "text_config": _rope(text | experts, partial_rotary_factor=1.0),
        "vision_config": _qwen_eyes(image_size=32),
        **_glm_tokens(id_of),
    }


def _ernie(text: dict[str, Any], id_of: Ids) -> dict[str, Any]:
    experts = {"moe_intermediate_size": [32, 32], "moe_k": 2, "moe_num_experts": 4, "moe_num_shared_experts": 1}
    names = {"image": "<|image@placeholder|>", "image_start": "<|IMAGE_START|>", "image_end": "<|IMAGE_END|>"}
    names |= {"video": "<|video@placeholder|>", "video_start": "<|VIDEO_START|>", "video_end": "<|VIDEO_END|>"}
    vision = {"depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 64, "patch_size": 8}
    return {
        "text_config": _rope(text | experts) | {"mlp_layer_types": ["dense", "sparse"]},
        "vision_config": vision,
        **{f"{name}_token_id": id_of(token) for name, token in names.items()},
    }


def _lfm2_vl(text: dict[str, Any], id_of: Ids) -> dict[str, Any]:
    layers = {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False}
    return {
        "text_config": text | layers | {"model_type": "lfm2", "tie_word_embeddings": True},
        "vision_config": TOWER | {"model_type": "siglip2_vision_model", "patch_size": 4, "num_patches": 16},
        "image_token_id": id_of("<image>"),
        "projector_hidden_size": 32,
        "downsample_factor": 2,
    }


def _llama4(text: dict[str, Any], id_of: Ids) -> dict[str, Any]:
    own = {"intermediate_size": 32, "intermediate_size_mlp": 32, "head_dim": 8, "num_local_experts": 2}
    vision = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4}
    vision |= {"vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32}
    return {
        "text_config": text | own | {"bos_token_id": None},
        "vision_config": vision | {"image_size": 16, "patch_size": 4},
        "boi_token_index": id_of("<|image_start|>"),
        "eoi_token_index": id_of("<|image_end|>"),
        "image_token_index": id_of("<|patch|>"),
    }


def _mllama(text: dict[str, Any], id_of: Ids) -> dict[str, Any]:
    vision = {"hidden_size": 32, "num_hidden_layers": 2, "num_global_layers": 1, "attention_heads": 2}
    vision |= {"intermediate_size": 64, "image_size": 16, "patch_size": 8, "intermediate_layers_indices": [0]}
    return {
        "text_config": text | {"num_hidden_layers": 3, "cross_attention_layers": [1], "bos_token_id": 1},
        "vision_config": vision | {"vision_output_dim": 64, "max_num_tiles": 4},
        "image_token_index": id_of("<|image|>"),
    }


def _minicpm(text: dict[str, Any], id_of: Ids) -> dict[str, Any]:
    return {
        "text_config": text | {"model_type": "qwen3", "head_dim": 8},
        "vision_config": TOWER | {"image_size": 32, "patch_size": 4, "insert_layer_id": 0},
        "insert_layer_id": 0,
        "image_token_id": id_of("<|image_pad|>"),
        "video_token_id": id_of("<|video_pad|>"),
    }


def _clip(text: dict[str, Any], side: int) -> dict[str, Any]:
    vision = TOWER | {"model_type": "clip_vision_model", "image_size": side, "patch_size": 8}
    return {"text_config": text | {"model_type": "llama"}, "vision_config": vision, "vision_feature_layer": -1}


_GRID = [[16, 32], [32, 16], [32, 32]]


def _llava_next_video(text: dict[str, Any], id_of: Ids) -> dict[str, Any]:
    places = {"image_token_index": id_of("<image>"), "video_token_index": id_of("<video>")}
    return _clip(text, 16) | places | {"image_grid_pinpoints": _GRID}


def _video_llava(text: dict[str, Any], id_of: Ids) -> dict[str, Any]:
    places = {"image_token_index": id_of("<image>"), "video_token_index": id_of("<video>")}
    return _clip(text, 16) | places


def _llava_onevision(text: dict[str, Any], id_of: Ids) -> dict[str, Any]:
    vision = TOWER | {"model_type": "siglip_vision_model", "image_size": 16, "patch_size": 8}
    vision |= {"vision_use_head": False}
    places = {"image_token_index": id_of("<image>"), "video_token_index": id_of("<video>")}
    return {
        "text_config": text | {"model_type": "qwen2"},
        "vision_config": vision,
        **places,
        "image_grid_pinpoints": _GRID,
        "vision_aspect_ratio": "anyres_max_4",
    }


def _llava_onevision_processor(tokenizer: Any, jinja: str) -> Any:
    import transformers

    side = {"height": 16, "width": 16}
    return transformers.LlavaOnevisionProcessor(
        image_processor=transformers.LlavaOnevisionImageProcessorPil(size=side, image_grid_pinpoints=_GRID),
        tokenizer=tokenizer,
        video_processor=transformers.LlavaOnevisionVideoProcessor(size=side),
        num_image_tokens=4,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_4",
        chat_template=jinja,
    )


def _paligemma(text: dict[str, Any], id_of: Ids) -> dict[str, Any]:
    vision = TOWER | {"image_size": 16, "patch_size": 8, "vision_use_head": False, "projection_dim": 32}
    return {
        "text_config": text | {"model_type": "gemma", "head_dim": 8},
        "vision_config": vision | {"model_type": "siglip_vision_model"},
        "image_token_index": id_of("<image>"),
        "projection_dim": 32,
    }


def _gemma4(text: dict[str, Any], id_of: Ids) -> dict[str, Any]:
    own = {"head_dim": 8, "global_head_dim": 8, "sliding_window": 16, "num_kv_shared_layers": 0}
    own |= {"layer_types": ["sliding_attention", "full_attention"], "hidden_size_per_layer_input": 4}
    own |= {"vocab_size_per_layer_input": text["vocab_size"], "use_bidirectional_attention": "vision"}
    vision = TOWER | {"head_dim": 16, "patch_size": 4, "pooling_kernel_size": 2, "position_embedding_size": 64}
    ears = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "output_proj_dims": 32}
    ears |= {"subsampling_conv_channels": [128, 4]}
    return {
        "text_config": text | own,
        "vision_config": vision | {"num_key_value_heads": 2},
        "audio_config": ears,
        **{f"{kind}_token_id": id_of(f"<|{kind}|>") for kind in ("image", "video", "audio")},
    }


_VISION = {
    "image": "<|vision_start|><|image_pad|><|vision_end|>",
    "video": "<|vision_start|><|video_pad|><|vision_end|>",
}
_GLM = {kind: f"<|begin_of_{kind}|><|{kind}|><|end_of_{kind}|>" for kind in ("image", "video")}
_LLAVA = {"image": "<image>\n", "video": "<video>\n"}
_OMNI2 = {
    "image": "<|vision_bos|><|IMAGE|><|vision_eos|>",
    "video": "<|vision_bos|><|VIDEO|><|vision_eos|>",
    "audio": "<|audio_bos|><|AUDIO|><|audio_eos|>",
}
_OMNI3 = _VISION | {"audio": "<|audio_start|><|audio_pad|><|audio_end|>"}

FAMILIES = {
    "qwen2_5_omni_thinker": Tiny(_qwen2_5_omni, processors.omni("Qwen2_5OmniProcessor"), _OMNI2, named=proofs.OMNI2),
    "qwen3_omni_moe_thinker": Tiny(_qwen3_omni, processors.omni("Qwen3OmniMoeProcessor"), _OMNI3, named=proofs.OMNI3),
    "qwen3_vl_moe": Tiny(
        _qwen3_vl_moe, processors.qwen("Qwen3VLProcessor", "Qwen3VLVideoProcessor"), _VISION, proofs.VISION
    ),
    "qwen3_5_moe": Tiny(
        _qwen3_5_moe, processors.qwen("Qwen3VLProcessor", "Qwen3VLVideoProcessor"), _VISION, proofs.VISION
    ),
    "glm46v": Tiny(_glm46v, processors.qwen("Glm46VProcessor", "Glm46VVideoProcessor"), _GLM, proofs.GLM),
    "glm_ocr": Tiny(_glm_ocr, processors.qwen("Glm46VProcessor", "Glm46VVideoProcessor"), _GLM, proofs.GLM),
    "glm4v_moe": Tiny(_glm4v_moe, processors.qwen("Glm4vProcessor", "Glm4vVideoProcessor"), _GLM, proofs.GLM),
    "ernie4_5_vl_moe": Tiny(
        _ernie,
        processors.ernie,
        {
            "image": "Picture 1:<|IMAGE_START|><|image@placeholder|><|IMAGE_END|>",
            "video": "Video 1:<|VIDEO_START|><|video@placeholder|><|VIDEO_END|>",
        },
        named=proofs.ERNIE,
    ),
    "lfm2_vl": Tiny(_lfm2_vl, processors.lfm2_vl, {"image": "<image>"}, proofs.LFM),
    "llama4": Tiny(_llama4, processors.llama4, {"image": "<|image|>"}, proofs.LLAMA4),
    "mllama": Tiny(_mllama, processors.mllama, {"image": "<|image|>"}, proofs.LLAMA, {"bos_token": "<bos>"}, "<bos>"),
    "minicpmv4_6": Tiny(
        _minicpm,
        processors.minicpm,
        {"image": "<|image_pad|>\n", "video": "<|video_pad|>\n"},
        named=proofs.MINICPM,
    ),
    "llava_next_video": Tiny(_llava_next_video, processors.llava_next_video, _LLAVA, ("<image>", "<video>")),
    "video_llava": Tiny(_video_llava, processors.video_llava, _LLAVA, ("<image>", "<video>")),
    "llava_onevision": Tiny(_llava_onevision, _llava_onevision_processor, _LLAVA, ("<image>", "<video>")),
    "paligemma": Tiny(_paligemma, processors.paligemma, {"image": "<image>"}, ("<image>",), {"bos_token": "<bos>"}),
    "gemma4": Tiny(
        _gemma4,
        processors.gemma4,
        {"image": "<|image|>", "video": "<|video|>", "audio": "<|audio|>"},
        named=proofs.GEMMA4 | {"video_token": "<|video|>"},
    ),
}
