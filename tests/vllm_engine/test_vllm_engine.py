# SPDX-License-Identifier: Apache-2.0
"""The vLLM engine with the real vLLM on the CPU: run by `make test-vllm`, in an environment of its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from llamafactory.chat.base_engine import Delta
from llamafactory.chat.hf_engine import HuggingfaceEngine
from llamafactory.chat.vllm_engine import VllmEngine
from llamafactory.data.messages import Message
from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_infer_args

pytestmark = pytest.mark.vllm

QUESTIONS = (
    "What is the capital of France?",
    "Write two lines about rain.",
    "Who wrote Hamlet?",
    "List three animals.",
    "How do I boil an egg?",
    "What is gravity?",
    "Name a river in Europe.",
    "Why is the sky blue?",
    "What is 12 times 9?",
    "Describe a cat.",
    "What is machine learning?",
    "How far is the moon?",
    "What is a prime number?",
    "What do bees do?",
    "Translate 'good morning' to Spanish.",
    "What is the largest ocean?",
    "Who painted the Mona Lisa?",
    "What is photosynthesis?",
    "Tell me a joke.",
    "What colour is grass?",
)


def arguments(folder: Path, **keys: Any) -> Any:
    defaults = {"template": "smollm2", "infer_dtype": "float32", "do_sample": False, "max_new_tokens": 16}
    return get_infer_args({"model_name_or_path": str(folder), **defaults, **keys})


@pytest.fixture(scope="module")
def lora(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter trained for a few steps to answer everything with one word."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("lora")
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    tuned = get_peft_model(
        base, LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    )
    optimizer = torch.optim.AdamW(tuned.parameters(), lr=5e-3)
    for question in QUESTIONS[:8]:
        chat = [{"role": "user", "content": question}, {"role": "assistant", "content": "banana"}]
        ids = tokenizer.apply_chat_template(chat, return_tensors="pt", return_dict=False)
        labels = ids.clone()
        labels[:, :-4] = -100
        tuned(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    tuned.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def engine(smollm2: Path, lora: Path) -> Iterator[VllmEngine]:
    keys = {"infer_backend": "vllm", "vllm_maxlen": 512, "vllm_enforce_eager": True, "lora_modules": f"banana={lora}"}
    made = VllmEngine(arguments(smollm2, **keys))
    yield made
    made.close()


async def answer(engine: Any, prompt: Any, **overrides: Any) -> list[Delta]:
    return [delta async for delta in engine.stream(prompt, **overrides)]


def text(deltas: list[Delta], index: int = 0) -> str:
    return "".join(delta.text for delta in deltas if delta.index == index)


def ask(engine: Any, questions: tuple[str, ...], **overrides: Any) -> list[list[Delta]]:
    async def run() -> list[list[Delta]]:
        return await asyncio.gather(*(answer(engine, [Message.of("user", q)], **overrides) for q in questions))

    return asyncio.run(run())


def test_greedy_answers_equal_those_of_the_huggingface_engine(
    engine: VllmEngine, smollm2: Path, lora: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = HuggingfaceEngine(arguments(smollm2, lora_modules=f"banana={lora}"))
    for adapter in (None, "banana"):
        ours = [text(deltas) for deltas in ask(other, QUESTIONS, adapter=adapter)]
        theirs = [text(deltas) for deltas in ask(engine, QUESTIONS, adapter=adapter)]
        equal = sum(a == b for a, b in zip(ours, theirs, strict=True))
        with capsys.disabled():
            print(f"\nadapter {adapter}: {equal} of {len(QUESTIONS)} greedy answers equal")
        assert equal >= 18
    other.close()


def test_the_adapter_answers_otherwise(engine: VllmEngine) -> None:
    plain, tuned = (text(ask(engine, QUESTIONS[:1], adapter=name)[0]) for name in (None, "banana"))
    assert plain != tuned


def test_an_answer_is_streamed(engine: VllmEngine) -> None:
    (deltas,) = ask(engine, QUESTIONS[:1])
    assert len(deltas) > 3
    assert [delta.finish_reason is not None for delta in deltas] == [False] * (len(deltas) - 1) + [True]
    assert sum(delta.tokens for delta in deltas) <= 16 and deltas[0].prompt_tokens > 10


def test_settings_of_a_call(engine: VllmEngine) -> None:
    drawn = ask(engine, QUESTIONS[1:2], do_sample=True, temperature=1.5, num_return_sequences=3, seed=1)[0]
    assert len({text(drawn, index) for index in range(3)}) == 3
    (again,) = ask(engine, QUESTIONS[1:2], do_sample=True, temperature=1.5, num_return_sequences=3, seed=1)
    assert [text(again, index) for index in range(3)] == [text(drawn, index) for index in range(3)]
    whole = text(ask(engine, QUESTIONS[:1])[0])
    word = whole[4:8]
    assert text(ask(engine, QUESTIONS[:1], stop=[word])[0]) == whole[: whole.find(word)]
    (told,) = ask(engine, QUESTIONS[:1], log_probs=2)
    items = [item for delta in told for item in delta.log_probs]
    assert len(items) == sum(delta.tokens for delta in told)
    assert all(item.top[0][2] == pytest.approx(item.log_prob) and len(item.top) == 2 for item in items)
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    strict = {"json_schema": schema | {"additionalProperties": False}, "max_new_tokens": 64}
    value = json.loads(text(ask(engine, QUESTIONS[:1], **strict)[0]))
    assert type(value["ok"]) is bool
    beside = {
        "properties": {"ok": {"const": 7}},
        "required": ["ok"],
        "anyOf": [{"required": ["ok"]}, {"required": ["no"]}],
    }
    value = json.loads(text(ask(engine, QUESTIONS[:1], json_schema={"type": "object", **beside}, max_new_tokens=64)[0]))
    assert value["ok"] == 7  # xgrammar forgets it beside anyOf


def test_a_bias_is_added_to_the_logits(engine: VllmEngine) -> None:
    (token,) = engine.tokenizer("a", add_special_tokens=False)["input_ids"]
    (deltas,) = ask(engine, QUESTIONS[:1], logit_bias={str(token): 100}, max_new_tokens=4, log_probs=1)
    items = [item for delta in deltas for item in delta.log_probs]
    assert [item.id for item in items] == [token] * 4
    assert items[0].log_prob < -1  # still that of the model
    with pytest.raises(ConfigError, match="logit_bias: '-1'"):
        ask(engine, QUESTIONS[:1], logit_bias={"-1": 1})


def test_what_vllm_cannot_do_is_said(engine: VllmEngine) -> None:
    for overrides, message in (({"num_beams": 2}, "num_beams"), ({"adapter": "apple"}, "known: banana")):
        with pytest.raises(ConfigError, match=message):
            ask(engine, QUESTIONS[:1], **overrides)
    with pytest.raises(ConfigError, match="huggingface"):
        asyncio.run(engine.get_scores(["text"]))


def test_a_closed_stream_ends_the_request(engine: VllmEngine) -> None:
    async def run() -> None:
        stream = engine.stream([Message.of("user", "Count to a thousand.")], max_new_tokens=400)
        await anext(stream)
        await stream.aclose()
        for _ in range(100):
            await asyncio.sleep(0.05)
            if not engine._llm.get_num_unfinished_requests():
                return
        raise AssertionError("the request goes on")

    asyncio.run(run())
