# SPDX-License-Identifier: Apache-2.0
"""Tiny processors of the real classes, each of a tokenizer and a Jinja; without torchvision they take no videos."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

TORCHVISION = find_spec("torchvision") is not None


def qwen(kind: str, films: str = "Qwen2VLVideoProcessor") -> Callable[[Any, str], Any]:
    """Processors whose pictures are those of Qwen2-VL."""

    def build(tokenizer: Any, jinja: str) -> Any:
        import transformers

        pictures = transformers.Qwen2VLImageProcessorPil(patch_size=8, min_pixels=16 * 16, max_pixels=64 * 64)
        small = _films(films, patch_size=8, size={"shortest_edge": 16 * 16 * 4, "longest_edge": 64 * 64 * 4})
        return _make(getattr(transformers, kind), jinja, small, image_processor=pictures, tokenizer=tokenizer)

    return build


def _make(kind: Any, jinja: str, films: Any = None, **parts: Any) -> Any:
    """A processor; without a part for videos where torchvision is missing."""
    processor = kind.__new__(kind)
    check = processor.check_argument_for_proper_class
    processor.check_argument_for_proper_class = lambda name, value: None if value is None else check(name, value)
    if "video_processor" in kind.get_attributes():
        parts["video_processor"] = films() if films and TORCHVISION else None
    processor.__init__(**parts, chat_template=jinja)
    del processor.check_argument_for_proper_class
    return processor


def _films(kind: str, **sizes: Any) -> Callable[[], Any]:
    def build() -> Any:
        import transformers

        return getattr(transformers, kind)(**sizes)

    return build


def llava(tokenizer: Any, jinja: str) -> Any:
    from transformers import CLIPImageProcessorPil, LlavaProcessor

    side = {"height": 32, "width": 32}
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=side)
    settings: dict[str, Any] = {"patch_size": 8, "vision_feature_select_strategy": "default"}
    return LlavaProcessor(pictures, tokenizer, chat_template=jinja, num_additional_image_tokens=1, **settings)


def llava_next(tokenizer: Any, jinja: str) -> Any:
    from transformers import LlavaNextImageProcessorPil, LlavaNextProcessor

    side = {"height": 16, "width": 16}
    grid = [[16, 32], [32, 16], [32, 32]]
    pictures = LlavaNextImageProcessorPil(size={"shortest_edge": 16}, crop_size=side, image_grid_pinpoints=grid)
    settings: dict[str, Any] = {"patch_size": 8, "vision_feature_select_strategy": "default"}
    return LlavaNextProcessor(pictures, tokenizer, chat_template=jinja, num_additional_image_tokens=1, **settings)


def gemma3(tokenizer: Any, jinja: str) -> Any:
    from transformers import Gemma3ImageProcessorPil, Gemma3Processor

    pictures = Gemma3ImageProcessorPil(size={"height": 16, "width": 16})
    return Gemma3Processor(pictures, tokenizer, chat_template=jinja, image_seq_length=4)


def idefics3(tokenizer: Any, jinja: str) -> Any:
    from transformers import Idefics3ImageProcessorPil, Idefics3Processor

    pictures = Idefics3ImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    return Idefics3Processor(pictures, tokenizer, chat_template=jinja, image_seq_len=4)


def pixtral(tokenizer: Any, jinja: str) -> Any:
    from transformers import PixtralImageProcessorPil
    from transformers.models.pixtral.processing_pixtral import PixtralProcessor

    pictures = PixtralImageProcessorPil(size={"longest_edge": 64}, patch_size={"height": 8, "width": 8})
    return PixtralProcessor(pictures, tokenizer, patch_size=8, chat_template=jinja)


def internvl(tokenizer: Any, jinja: str) -> Any:
    from transformers import GotOcr2ImageProcessorPil, InternVLProcessor

    side = {"height": 16, "width": 16}
    pictures = GotOcr2ImageProcessorPil(size=side, min_patches=1, max_patches=4)
    return _make(
        InternVLProcessor,
        jinja,
        _films("InternVLVideoProcessor", size=side),
        image_processor=pictures,
        tokenizer=tokenizer,
        image_seq_length=4,
    )


def qwen2_audio(tokenizer: Any, jinja: str) -> Any:
    from transformers import Qwen2AudioProcessor, WhisperFeatureExtractor

    return Qwen2AudioProcessor(WhisperFeatureExtractor(feature_size=8, chunk_length=2), tokenizer)


def omni(kind: str) -> Callable[[Any, str], Any]:
    def build(tokenizer: Any, jinja: str) -> Any:
        import transformers

        pictures = transformers.Qwen2VLImageProcessorPil(patch_size=8, min_pixels=16 * 16, max_pixels=64 * 64)
        ears = transformers.WhisperFeatureExtractor(feature_size=8, chunk_length=2)
        kinds = {"image_processor": pictures, "feature_extractor": ears}
        small = _films(
            "Qwen2VLVideoProcessor", patch_size=8, size={"shortest_edge": 16 * 16 * 4, "longest_edge": 64 * 64 * 4}
        )
        return _make(getattr(transformers, kind), jinja, small, **kinds, tokenizer=tokenizer)

    return build


def gemma3n(tokenizer: Any, jinja: str) -> Any:
    from transformers import Gemma3nAudioFeatureExtractor, Gemma3nProcessor, SiglipImageProcessorPil

    pictures, ears = SiglipImageProcessorPil(size={"height": 16, "width": 16}), Gemma3nAudioFeatureExtractor()
    lengths = {"audio_seq_length": 3, "image_seq_length": 4}
    return Gemma3nProcessor(ears, pictures, tokenizer, chat_template=jinja, **lengths)


def gemma4(tokenizer: Any, jinja: str) -> Any:
    from transformers import Gemma4AudioFeatureExtractor, Gemma4ImageProcessorPil, Gemma4Processor

    pictures = Gemma4ImageProcessorPil(patch_size=4, max_soft_tokens=70, pooling_kernel_size=2)
    parts = {"image_processor": pictures, "feature_extractor": Gemma4AudioFeatureExtractor(), "tokenizer": tokenizer}
    small = _films("Gemma4VideoProcessor", patch_size=4, max_soft_tokens=70, pooling_kernel_size=2)
    return _make(Gemma4Processor, jinja, small, **parts)


def mllama(tokenizer: Any, jinja: str) -> Any:
    from transformers import MllamaImageProcessorPil, MllamaProcessor

    return MllamaProcessor(MllamaImageProcessorPil(size={"height": 16, "width": 16}), tokenizer, chat_template=jinja)


def ernie(tokenizer: Any, jinja: str) -> Any:
    from transformers import Ernie4_5_VLMoeImageProcessorPil, Ernie4_5_VLMoeProcessor

    size = {"shortest_edge": 16 * 16, "longest_edge": 64 * 64}
    pictures = Ernie4_5_VLMoeImageProcessorPil(patch_size=8, size=size)
    small = _films("Ernie4_5_VLMoeVideoProcessor", patch_size=8, size=size, draw_on_frames=False)
    return _make(Ernie4_5_VLMoeProcessor, jinja, small, image_processor=pictures, tokenizer=tokenizer)


def lfm2_vl(tokenizer: Any, jinja: str) -> Any:
    from transformers import Lfm2VlImageProcessor, Lfm2VlProcessor

    sizes = {"encoder_patch_size": 4, "tile_size": 16, "min_image_tokens": 4, "max_image_tokens": 16}
    return Lfm2VlProcessor(Lfm2VlImageProcessor(max_num_patches=64, **sizes), tokenizer, chat_template=jinja)


def llama4(tokenizer: Any, jinja: str) -> Any:
    from transformers import Llama4ImageProcessor, Llama4Processor

    pictures = Llama4ImageProcessor(size={"height": 16, "width": 16}, max_patches=4)
    return Llama4Processor(pictures, tokenizer, patch_size=4, chat_template=jinja)


def minicpm(tokenizer: Any, jinja: str) -> Any:
    from transformers import MiniCPMV4_6ImageProcessor, MiniCPMV4_6Processor, MiniCPMV4_6VideoProcessor

    sizes = {"scale_resolution": 32, "patch_size": 4}
    pictures, films = MiniCPMV4_6ImageProcessor(**sizes), MiniCPMV4_6VideoProcessor(**sizes)
    return MiniCPMV4_6Processor(pictures, films, tokenizer, chat_template=jinja)


def paligemma(tokenizer: Any, jinja: str) -> Any:
    from transformers import PaliGemmaProcessor, SiglipImageProcessorPil

    pictures = SiglipImageProcessorPil(size={"height": 16, "width": 16})
    pictures.image_seq_length = 4
    return PaliGemmaProcessor(pictures, tokenizer, chat_template=jinja)


def llava_next_video(tokenizer: Any, jinja: str) -> Any:
    from transformers import LlavaNextImageProcessorPil, LlavaNextVideoProcessor

    side, settings = {"height": 16, "width": 16}, {"patch_size": 8, "num_additional_image_tokens": 1}
    grid = [[16, 32], [32, 16], [32, 32]]
    pictures = LlavaNextImageProcessorPil(size={"shortest_edge": 16}, crop_size=side, image_grid_pinpoints=grid)
    small = _films("LlavaNextVideoVideoProcessor", size={"shortest_edge": 16}, crop_size=side)
    parts: dict[str, Any] = {"image_processor": pictures, "tokenizer": tokenizer, **settings}
    return _make(LlavaNextVideoProcessor, jinja, small, **parts, vision_feature_select_strategy="default")


def video_llava(tokenizer: Any, jinja: str) -> Any:
    from transformers import VideoLlavaImageProcessor, VideoLlavaProcessor, VideoLlavaVideoProcessor

    side = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    pictures, films = VideoLlavaImageProcessor(**side), VideoLlavaVideoProcessor(**side)
    return VideoLlavaProcessor(pictures, films, tokenizer, patch_size=8, chat_template=jinja)
