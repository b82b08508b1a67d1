# SPDX-License-Identifier: Apache-2.0
"""How each family of models writes an image, a video or a sound into its text; rows of ``plugins.MEDIA``.

The processor of a model expands the one token in a placeholder to as many as the medium takes; only what the family's
chat template writes around it, and where, is known here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from ...extras.errors import ConfigError

Leading = Literal["never", "always", "pair"]
KINDS = ("image", "video", "audio")


@dataclass(frozen=True)
class MediaFamily:
    """What stands for a medium in the text.

    Attributes:
        name: Row of ``plugins.MEDIA``.
        image: Text for one image, as the official template writes it; ``{{number}}`` counts the images of the
            conversation from 1. ``None``: the family has no place for images.
        video: The same for a video.
        audio: The same for a sound.
        leading: When the media of a turn stand before its text, whatever their order in the message: never, always, or
            where there is one medium and one text.
        join: What stands between the parts of a message.
        strip_parts: In roles whose text loses white space at both ends, each part of it does.
        bare: The processor itself writes BOS and the line break at the end of a prompt.
        no_system: A conversation with media has no system text, not even the template's own.
    """

    name: str
    image: str | None = None
    video: str | None = None
    audio: str | None = None
    leading: Leading = "never"
    join: str = ""
    strip_parts: bool = False
    no_system: bool = False
    bare: bool = False

    def placeholder(self, kind: str, number: int) -> str:
        """The text for the ``number``-th medium of a kind, from 1; the kind must be one that the family has."""
        text: str = getattr(self, kind)
        return text.replace("{{number}}", str(number))


def probe_family(processor: Any, source: str, **flags: Any) -> MediaFamily:
    """Find the placeholders that a Jinja template writes, by a medium between two texts.

    Args:
        processor: Its ``image_token``, ``video_token`` and ``audio_token`` are looked for.
        source: The Jinja.
        flags: Variables of the Jinja (special tokens).

    Returns:
        A family with the kinds whose placeholder stands in the rendered text; perhaps none.
    """
    found: dict[str, str] = {}
    leading: Leading = "never"
    first, second = {"type": "text", "text": "A7q"}, {"type": "text", "text": "B7q"}
    bare = _rendered(source, [first, second], flags)
    for kind in KINDS:
        token = getattr(processor, f"{kind}_token", None)
        text = _rendered(source, [first, {"type": kind, kind: "medium"}, second], flags)
        if not isinstance(token, str) or text.count(token) != 1:
            continue
        start = next((i for i, (a, b) in enumerate(zip(text, bare, strict=False)) if a != b), len(bare))
        inserted = text[start : start + len(text) - len(bare)]
        if token in (between := text.partition("A7q")[2].partition("B7q")[0]):
            found[kind] = between
        elif token in inserted and text.find(token) < text.find("A7q"):
            found[kind], leading = inserted, "always"
        else:
            found[kind] = token
    return MediaFamily("jinja", found.get("image"), found.get("video"), found.get("audio"), leading)


def _rendered(source: str, content: list[dict[str, str]], flags: dict[str, Any]) -> str:
    """A user's message; empty where the Jinja refuses it."""
    import jinja2

    from ..template.jinja_sandbox import render

    try:
        return render(source, [{"role": "user", "content": content}], add_generation_prompt=False, **flags)[0]
    except (jinja2.TemplateError, TypeError):
        return ""


def jinja_of(processor: Any, tokenizer: Any) -> str:
    """The Jinja of a processor, or else of its tokenizer.

    Raises:
        ConfigError: Neither has one.
    """
    source = getattr(processor, "chat_template", None) or tokenizer.chat_template
    if isinstance(source, dict):
        source = source.get("default")
    if not source:
        raise ConfigError("template: neither it nor the processor tells where media stand in this model's text")
    return str(source)


qwen2_vl = MediaFamily(
    "qwen2_vl",
    image="<|vision_start|><|image_pad|><|vision_end|>",
    video="<|vision_start|><|video_pad|><|vision_end|>",
)

qwen3_vl = replace(qwen2_vl, name="qwen3_vl")

qwen2_omni = MediaFamily(
    "qwen2_omni",
    image="<|vision_bos|><|IMAGE|><|vision_eos|>",
    video="<|vision_bos|><|VIDEO|><|vision_eos|>",
    audio="<|audio_bos|><|AUDIO|><|audio_eos|>",
)

qwen3_omni = MediaFamily(
    "qwen3_omni",
    image=qwen2_vl.image,
    video=qwen2_vl.video,
    audio="<|audio_start|><|audio_pad|><|audio_end|>",
)

qwen2_audio = MediaFamily("qwen2_audio", audio="Audio {{number}}: <|audio_bos|><|AUDIO|><|audio_eos|>\n")

glm4v = MediaFamily(
    "glm4v",
    image="<|begin_of_image|><|image|><|end_of_image|>",
    video="<|begin_of_video|><|video|><|end_of_video|>",
)

llava = MediaFamily("llava", image="<image>\n", leading="always")

llava_next = replace(llava, name="llava_next")

granite3_vision = MediaFamily("granite3_vision", image="<image>", leading="always", join="\n")

llava_next_video = replace(llava, name="llava_next_video", video="<video>\n")

video_llava = replace(llava_next_video, name="video_llava")

paligemma = MediaFamily("paligemma", image="<image>", leading="always", bare=True)

gemma3 = MediaFamily("gemma3", image="<start_of_image>", strip_parts=True)

gemma3n = replace(gemma3, name="gemma3n", image="<image_soft_token>", audio="<audio_soft_token>")

gemma4 = MediaFamily("gemma4", image="<|image|>", video="<|video|>", audio="<|audio|>", strip_parts=True)

pixtral = MediaFamily("pixtral", image="[IMG]")

ministral3 = replace(pixtral, name="ministral3", leading="pair")

intern_vl = MediaFamily("intern_vl", image="<IMG_CONTEXT>\n", video="<video>\n")

intern_s1 = MediaFamily("intern_s1", image="<IMG_CONTEXT>", video="<video>", join="\n")

lfm2_vl = MediaFamily("lfm2_vl", image="<image>")

llama4 = MediaFamily("llama4", image="<|image|>")

mllama = replace(llama4, name="mllama", no_system=True)

minicpm_v_4_6 = MediaFamily("minicpm_v_4_6", image="<|image_pad|>", video="<|video_pad|>", join="\n")

ernie_vl = MediaFamily(
    "ernie_vl",
    image="Picture {{number}}:<|IMAGE_START|><|image@placeholder|><|IMAGE_END|>",
    video="Video {{number}}:<|VIDEO_START|><|video@placeholder|><|VIDEO_END|>",
)
