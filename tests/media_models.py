# SPDX-License-Identifier: Apache-2.0
"""Tiny random models that take images or sound, with the processors of their families, made on the spot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from transformers import AutoConfig, AutoModelForMultimodalLM, AutoTokenizer

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "bos_token_id": None,
}
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}

# As the families' official chat templates write parts and turns.
QWEN = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}"
    "{% if p.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif p.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif p.type == 'audio' %}Audio 1: <|audio_bos|><|AUDIO|><|audio_eos|>\n"
    "{% else %}{{ p.text }}{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def other(image: str, video: str = "") -> str:
    """The same with other placeholders."""
    plain = QWEN.replace("<|vision_start|><|image_pad|><|vision_end|>", image)
    return plain.replace("<|vision_start|><|video_pad|><|vision_end|>", video)


def picture(number: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """One of many pictures that differ."""
    image = Image.new("RGB", size, ((number * 97) % 256, (number * 41 + 80) % 256, (number * 13 + 160) % 256))
    ImageDraw.Draw(image).ellipse((number % 20, 5, size[0] // 2, size[1] - 5), fill=(255, 255 - number % 255, 0))
    return image


def tone(hertz: float, seconds: float = 0.5) -> np.ndarray:
    """A sound, float32 at 16 kHz."""
    return np.sin(2 * np.pi * hertz * np.arange(int(16000 * seconds)) / 16000).astype(np.float32)


def build(family: str, folder: Path, tokenizer_folder: Path, **shape: Any) -> Path:
    """Write a model, its tokenizer and its processor.

    Args:
        family: A row of :data:`FAMILIES`.
        folder: To write to.
        tokenizer_folder: Has the ChatML tokenizer of the other tiny models.
        shape: Keys of the language model's configuration, over :data:`TEXT`.
    """
    template, tokens, named, make_config, make_processor = (FAMILIES | MORE_FAMILIES)[family]
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    tokenizer.add_special_tokens({"extra_special_tokens": list(tokens)}, replace_extra_special_tokens=False)
    for name, token in named.items():
        setattr(tokenizer, name, token)
        tokenizer.init_kwargs[name] = token
        setattr(tokenizer, f"{name}_id", tokenizer.convert_tokens_to_ids(token))
    tokenizer.chat_template = template
    id_of = tokenizer.convert_tokens_to_ids
    text = TEXT | shape | {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    text |= {"pad_token_id": tokenizer.pad_token_id}
    config = AutoConfig.for_model(family, **make_config(text, id_of))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForMultimodalLM.from_config(config, dtype=torch.float32)
        for name, weight in model.named_parameters():  # else a medium hardly moves what is said
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.1 if "norm" not in name else 1.0)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    make_processor(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def config_of(family: str) -> Any:
    """The configuration of a tiny model whose tokens are numbered somehow; ``None``: the family is no row here."""
    if family not in FAMILIES | MORE_FAMILIES:
        return None
    text = TEXT | {"vocab_size": 128, "eos_token_id": 1, "pad_token_id": 0}
    return AutoConfig.for_model(
        family, **(FAMILIES | MORE_FAMILIES)[family][3](text, lambda token: 2 + hash(token) % 100)
    )


def _qwen2_vl(text: dict, id_of: Callable[[str], int]) -> dict:
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 14}
    return {
        "text_config": text | {"rope_parameters": rope},
        "vision_config": vision,
        "image_token_id": id_of("<|image_pad|>"),
        "video_token_id": id_of("<|video_pad|>"),
        "vision_start_token_id": id_of("<|vision_start|>"),
        "vision_end_token_id": id_of("<|vision_end|>"),
        "tie_word_embeddings": False,
    }


def _qwen2_vl_processor(tokenizer: Any) -> Any:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    return Qwen2VLImageProcessorPil()  # as checkpoints of this family come: preprocessor_config.json alone


def _qwen2_5_vl(text: dict, id_of: Callable[[str], int]) -> dict:
    vision = {"depth": 2, "hidden_size": 32, "out_hidden_size": 32, "num_heads": 2, "intermediate_size": 64}
    vision |= {"patch_size": 14, "window_size": 56, "fullatt_block_indexes": [1]}
    return _qwen2_vl(text, id_of) | {"vision_config": vision}


def _qwen3_vl(text: dict, id_of: Callable[[str], int]) -> dict:
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "mrope_interleaved": True, "rope_theta": 10000.0}
    vision = {"depth": 2, "hidden_size": 32, "out_hidden_size": 32, "num_heads": 2, "intermediate_size": 64}
    vision |= {"patch_size": 16, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
    config = _qwen2_vl(text, id_of)
    return config | {"text_config": text | {"head_dim": 8, "rope_parameters": rope}, "vision_config": vision}


def _qwen3_vl_processor(tokenizer: Any) -> Any:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    return Qwen2VLImageProcessorPil(patch_size=16)


def _llava_next(text: dict, id_of: Callable[[str], int]) -> dict:
    return _llava(text, id_of) | {"image_grid_pinpoints": [[28, 56], [56, 28], [56, 56]]}


def _llava_next_processor(tokenizer: Any) -> Any:
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
    from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor

    size, grid = {"height": 28, "width": 28}, [[28, 56], [56, 28], [56, 56]]
    images = LlavaNextImageProcessorPil(size={"shortest_edge": 28}, crop_size=size, image_grid_pinpoints=grid)
    return LlavaNextProcessor(
        images, tokenizer, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )


def _internvl(text: dict, id_of: Callable[[str], int]) -> dict:
    vision = TOWER | {"image_size": [28, 28], "patch_size": [7, 7]}
    return {
        "text_config": text | {"model_type": "qwen2"},
        "vision_config": vision,
        "image_token_id": id_of("<IMG_CONTEXT>"),
        "image_seq_length": 4,
        "tie_word_embeddings": False,
    }


def _internvl_processor(tokenizer: Any) -> Any:
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    images = GotOcr2ImageProcessorPil(size={"height": 28, "width": 28}, min_patches=1, max_patches=4)
    return _Files(images, {"processor_class": "InternVLProcessor", "image_seq_length": 4})


class _Files:
    """The files of a processor that cannot be made here, for want of torchvision: as a checkpoint has them."""

    def __init__(self, images: Any, settings: dict[str, Any]) -> None:
        self._images, self._settings = images, settings

    def save_pretrained(self, folder: Path) -> None:
        """Write ``preprocessor_config.json`` and ``processor_config.json``."""
        self._images.save_pretrained(folder)
        (folder / "processor_config.json").write_text(json.dumps(self._settings))


def _llava(text: dict, id_of: Callable[[str], int]) -> dict:
    return {
        "text_config": text | {"model_type": "llama"},
        "vision_config": TOWER | {"model_type": "clip_vision_model", "image_size": 28, "patch_size": 14},
        "image_token_index": id_of("<image>"),
        "vision_feature_layer": -1,
    }


def _llava_processor(tokenizer: Any) -> Any:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.llava.processing_llava import LlavaProcessor

    size = {"height": 28, "width": 28}
    images = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=size)
    return LlavaProcessor(
        images, tokenizer, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )


def _gemma3(text: dict, id_of: Callable[[str], int]) -> dict:
    return {
        "text_config": text
        | {"head_dim": 8, "sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]},
        "vision_config": TOWER | {"image_size": 56, "patch_size": 14},
        "mm_tokens_per_image": 4,
        "boi_token_index": id_of("<start_of_image>"),
        "eoi_token_index": id_of("<end_of_image>"),
        "image_token_index": id_of("<image_soft_token>"),
    }


def _gemma3_processor(tokenizer: Any) -> Any:
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
    from transformers.models.gemma3.processing_gemma3 import Gemma3Processor

    images = Gemma3ImageProcessorPil(size={"height": 56, "width": 56})
    return Gemma3Processor(images, tokenizer, image_seq_length=4)


def _idefics3(text: dict, id_of: Callable[[str], int]) -> dict:
    return {
        "text_config": text | {"model_type": "llama"},
        "vision_config": TOWER | {"image_size": 56, "patch_size": 14},
        "image_token_id": id_of("<image>"),
        "scale_factor": 2,
        "tie_word_embeddings": False,
        "pad_token_id": text["pad_token_id"],
    }


def _idefics3_processor(tokenizer: Any) -> Any:
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
    from transformers.models.idefics3.processing_idefics3 import Idefics3Processor

    images = Idefics3ImageProcessorPil(size={"longest_edge": 112}, max_image_size={"longest_edge": 56})
    return Idefics3Processor(images, tokenizer, image_seq_len=4)


def _smolvlm_processor(tokenizer: Any) -> Any:
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    images = SmolVLMImageProcessorPil(size={"longest_edge": 112}, max_image_size={"longest_edge": 56})
    return _Files(images, {"processor_class": "SmolVLMProcessor", "image_seq_len": 4})


def _qwen2_audio(text: dict, id_of: Callable[[str], int]) -> dict:
    tower = {
        "d_model": 32,
        "encoder_layers": 1,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 64,
        "num_mel_bins": 16,
    }
    return {
        "text_config": text | {"model_type": "qwen2"},
        "audio_config": tower | {"max_source_positions": 1500},
        "audio_token_index": id_of("<|AUDIO|>"),
    }


def _qwen2_audio_processor(tokenizer: Any) -> Any:
    from transformers import WhisperFeatureExtractor
    from transformers.models.qwen2_audio.processing_qwen2_audio import Qwen2AudioProcessor

    sound = WhisperFeatureExtractor(feature_size=16)  # 30 seconds, as vLLM expects
    return Qwen2AudioProcessor(sound, tokenizer)


def _mistral3(text: dict, id_of: Callable[[str], int]) -> dict:
    vision = TOWER | {"model_type": "pixtral", "image_size": 56, "patch_size": 7, "head_dim": 16}
    return {
        "text_config": text | {"model_type": "mistral", "head_dim": 8, "sliding_window": None},
        "vision_config": vision,
        "image_token_index": id_of("[IMG]"),
        "spatial_merge_size": 2,
        "tie_word_embeddings": False,
    }


def _mistral3_processor(tokenizer: Any) -> Any:
    from transformers import PixtralImageProcessorPil

    images = PixtralImageProcessorPil(size={"longest_edge": 56}, patch_size={"height": 7, "width": 7})
    return _Files(images, {"processor_class": "PixtralProcessor", "patch_size": 7, "spatial_merge_size": 2})


def _glm4v(text: dict, id_of: Callable[[str], int]) -> dict:
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0, "partial_rotary_factor": 1.0}
    vision = {"depth": 2, "hidden_size": 32, "out_hidden_size": 32, "num_heads": 2, "intermediate_size": 64}
    names = ("image", "video", "image_start", "image_end", "video_start", "video_end")
    tokens = (
        "<|image|>",
        "<|video|>",
        *(f"<|{way}_of_{kind}|>" for kind in ("image", "video") for way in ("begin", "end")),
    )
    return {
        "text_config": text | {"rope_parameters": rope},
        "vision_config": vision | {"patch_size": 14, "image_size": 56},
        "tie_word_embeddings": False,
        **{f"{name}_token_id": id_of(token) for name, token in zip(names, tokens, strict=True)},
    }


def _glm4v_processor(tokenizer: Any) -> Any:
    from transformers import Glm4vImageProcessorPil

    return _Files(
        Glm4vImageProcessorPil(size={"shortest_edge": 28 * 28 * 2, "longest_edge": 28 * 28 * 40}),
        {"processor_class": "Glm4vProcessor"},
    )


def _qwen3_5(text: dict, id_of: Callable[[str], int]) -> dict:
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "mrope_interleaved": True, "rope_theta": 10000.0}
    linear = {
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
    }
    layers = {"layer_types": ["linear_attention", "full_attention"], "head_dim": 8, "partial_rotary_factor": 1.0}
    config = _qwen3_vl(text, id_of)
    vision = {key: value for key, value in config["vision_config"].items() if key != "deepstack_visual_indexes"}
    return config | {
        "text_config": text | linear | layers | {"rope_parameters": rope | {"partial_rotary_factor": 1.0}},
        "vision_config": vision,
    }


def _gemma4(text: dict, id_of: Callable[[str], int]) -> dict:
    layers = ["sliding_attention", "full_attention"]
    own = {"head_dim": 8, "global_head_dim": 8, "sliding_window": 16, "layer_types": layers, "num_kv_shared_layers": 0}
    own |= {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": text["vocab_size"]}
    own |= {"use_bidirectional_attention": "vision"}
    vision = TOWER | {"head_dim": 16, "patch_size": 4, "pooling_kernel_size": 2, "position_embedding_size": 64}
    tokens = {"image": "<|image|>", "video": "<|video|>", "audio": "<|audio|>"}
    return {
        "text_config": text | own,
        "vision_config": vision | {"num_key_value_heads": 2},
        "audio_config": None,
        **{f"{kind}_token_id": id_of(token) for kind, token in tokens.items()},
    }


def _gemma4_processor(tokenizer: Any) -> Any:
    from transformers import Gemma4ImageProcessorPil

    images = Gemma4ImageProcessorPil(patch_size=4, max_soft_tokens=70, pooling_kernel_size=2)
    return _Files(images, {"processor_class": "Gemma4Processor", "image_seq_length": 70})


_GEMMA_TOKENS = {
    "boi_token": "<start_of_image>",
    "eoi_token": "<end_of_image>",
    "image_token": "<image_soft_token>",
}
_QWEN_TOKENS = ("<|vision_start|>", "<|image_pad|>", "<|video_pad|>", "<|vision_end|>")
_IDEFICS_TOKENS = (
    "<fake_token_around_image>",
    "<image>",
    "<end_of_utterance>",
    "<global-img>",
    *(f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)),
)

# family: chat template, tokens, tokens that the tokenizer knows by name, its configuration, its processor
FAMILIES: dict[str, tuple[str, tuple[str, ...], dict[str, str], Any, Any]] = {
    "qwen2_vl": (QWEN, _QWEN_TOKENS, {}, _qwen2_vl, _qwen2_vl_processor),
    "qwen2_5_vl": (QWEN, _QWEN_TOKENS, {}, _qwen2_5_vl, _qwen2_vl_processor),
    "qwen3_vl": (QWEN, _QWEN_TOKENS, {}, _qwen3_vl, _qwen3_vl_processor),
    "internvl": (
        other("<IMG_CONTEXT>\n", "<video>\n"),
        ("<img>", "<IMG_CONTEXT>", "</img>", "<video>"),
        {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
        | {"video_token": "<video>"},
        _internvl,
        _internvl_processor,
    ),
    "llava_next": (other("<image>\n"), ("<image>",), {}, _llava_next, _llava_next_processor),
    "llava": (other("<image>\n"), ("<image>",), {}, _llava, _llava_processor),
    "gemma3": (
        other("<start_of_image>"),
        tuple(_GEMMA_TOKENS.values()),
        _GEMMA_TOKENS,
        _gemma3,
        _gemma3_processor,
    ),
    "idefics3": (other("<image>"), _IDEFICS_TOKENS, {}, _idefics3, _idefics3_processor),
    "smolvlm": (other("<image>", "<video>"), _IDEFICS_TOKENS, {}, _idefics3, _smolvlm_processor),
    "qwen2_audio": (
        QWEN,
        ("<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"),
        {},
        _qwen2_audio,
        _qwen2_audio_processor,
    ),
}


_GLM_TOKENS = (
    *("<|image|>", "<|video|>", "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"),
)
_GEMMA4_TOKENS = {
    **{"image_token": "<|image|>", "video_token": "<|video|>", "audio_token": "<|audio|>"},
    **{"boi_token": "<|image>", "eoi_token": "<image|>", "boa_token": "<|audio>", "eoa_token": "<audio|>"},
}
_GLM = other("<|begin_of_image|><|image|><|end_of_image|>", "<|begin_of_video|><|video|><|end_of_video|>")

# Further families, for tests that are about training on media alone.
MORE_FAMILIES: dict[str, tuple[str, tuple[str, ...], dict[str, str], Any, Any]] = {
    "mistral3": (
        other("[IMG]"),
        ("[IMG]", "[IMG_BREAK]", "[IMG_END]"),
        {},
        _mistral3,
        _mistral3_processor,
    ),
    "glm4v": (_GLM, _GLM_TOKENS, {}, _glm4v, _glm4v_processor),
    "qwen3_5": (QWEN, _QWEN_TOKENS, {}, _qwen3_5, _qwen3_vl_processor),
    "gemma4": (
        other("<|image|>", "<|video|>"),
        tuple(_GEMMA4_TOKENS.values()),
        _GEMMA4_TOKENS,
        _gemma4,
        _gemma4_processor,
    ),
}
