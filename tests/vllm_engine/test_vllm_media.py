# SPDX-License-Identifier: Apache-2.0
"""Images and sound through the real vLLM on the CPU, for families whose code in vLLM needs no torchvision."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from media_models import build, picture, tone
from safetensors.torch import load_file, save_file

from llamafactory.chat.base_engine import Delta
from llamafactory.chat.hf_engine import HuggingfaceEngine
from llamafactory.chat.vllm_engine import VllmEngine
from llamafactory.data.messages import Message, Part
from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_infer_args

pytestmark = pytest.mark.vllm

SHAPE = {"hidden_size": 128, "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 128}


def as_published(folder: Path) -> None:
    """Name Qwen2-Audio's weights as its checkpoints do; transformers before 5.20 repeats a word when it saves."""
    file = folder / "model.safetensors"
    weights = load_file(file)
    twice, once = "language_model.model.model.", "language_model.model."
    save_file({name.replace(twice, once): value for name, value in weights.items()}, file, {"format": "pt"})


async def answer(engine: Any, question: list[Message]) -> list[Delta]:
    return [delta async for delta in engine.stream(question, log_probs=0)]


def ask(engine: Any, questions: list[list[Message]]) -> list[list[int]]:
    """The tokens of each answer, all asked at once."""

    async def run() -> list[list[Delta]]:
        return await asyncio.gather(*(answer(engine, question) for question in questions))

    return [[token.id for delta in deltas for token in delta.log_probs] for deltas in asyncio.run(run())]


@pytest.mark.parametrize("family", ["idefics3", "qwen2_audio"])
def test_greedy_answers_equal_those_of_the_huggingface_engine(family: str, tiny_llama: Path, tmp_path: Path) -> None:
    folder = build(family, tmp_path, tiny_llama, **SHAPE)
    as_published(folder)
    keys = {"model_name_or_path": str(folder), "infer_dtype": "float32", "do_sample": False, "max_new_tokens": 12}
    kind = "audio" if family == "qwen2_audio" else "image"
    media = [
        Part("audio", {"array": tone(150.0 * number), "sampling_rate": 16000})
        if kind == "audio"
        else Part("image", picture(number))
        for number in (1, 2, 3)
    ]
    text = Part("text", "What is it?")
    questions = [[Message("user", (medium, text))] for medium in media]
    if kind == "image":
        questions.append([Message("user", (media[0], Part("text", "and"), media[1], text))])
    questions.append([Message.of("user", "Who are you?")])

    other = HuggingfaceEngine(get_infer_args(keys))
    expected = ask(other, questions)
    other.close()
    assert expected[0] != expected[1] != expected[2]
    engine = VllmEngine(
        get_infer_args(keys | {"infer_backend": "vllm", "vllm_maxlen": 512, "vllm_enforce_eager": True})
    )
    try:
        assert engine.media == (kind,)
        assert ask(engine, questions) == expected
        with pytest.raises(ConfigError):
            ask(engine, [[Message("user", (Part(kind, b"nothing"), text))]])  # type: ignore[arg-type]
    finally:
        engine.close()
