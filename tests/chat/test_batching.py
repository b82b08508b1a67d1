# SPDX-License-Identifier: Apache-2.0
"""Requests that share forward passes get the answers they would get alone; what they hold is given back."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from llamafactory.chat.base_engine import Delta
from llamafactory.chat.hf_engine import HuggingfaceEngine
from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_infer_args

SAMPLED = {"do_sample": True, "temperature": 1.3, "top_p": 0.9, "top_k": 40}


def make(folder: Path, **keys: Any) -> HuggingfaceEngine:
    defaults = {"template": "chatml", "infer_dtype": "float32", "do_sample": False, "max_new_tokens": 24}
    return HuggingfaceEngine(get_infer_args({"model_name_or_path": str(folder), **defaults, **keys}))


@pytest.fixture(scope="module")
def engine(tiny_llama: Path) -> Iterator[HuggingfaceEngine]:
    made = make(tiny_llama)
    yield made
    made.close()


def prompts(count: int, longest: int = 90) -> list[list[int]]:
    draw = random.Random(0)
    return [[draw.randrange(5, 400) for _ in range(draw.randrange(1, longest))] for _ in range(count)]


async def answer(engine: HuggingfaceEngine, prompt: Any, **overrides: Any) -> list[Delta]:
    return [delta async for delta in engine.stream(prompt, **overrides)]


def text(deltas: list[Delta], index: int = 0) -> str:
    return "".join(delta.text for delta in deltas if delta.index == index)


def ids(deltas: list[Delta]) -> list[int]:
    return [item.id for delta in deltas for item in delta.log_probs]


def generate(folder: Path, prompt: list[int], tokens: int, **config: Any) -> list[int]:
    """The oracle: transformers' own generation, one prompt at a time."""
    net = AutoModelForCausalLM.from_pretrained(folder).eval()
    net.generation_config = GenerationConfig()
    config = {"do_sample": False, "max_new_tokens": tokens, "eos_token_id": 2, "pad_token_id": 0} | config
    given = torch.tensor([prompt])
    made = net.generate(given, attention_mask=torch.ones_like(given), generation_config=GenerationConfig(**config))
    return made[0, len(prompt) :].tolist()


async def staggered(engine: HuggingfaceEngine, asked: list[list[int]], **overrides: Any) -> list[list[Delta]]:
    """Ask one after the other while the earlier ones are being answered."""
    tasks = []
    for prompt in asked:
        tasks.append(asyncio.create_task(answer(engine, prompt, **overrides)))
        await asyncio.sleep(0.01)
    return await asyncio.gather(*tasks)


WINDOW = {"sliding_window": 16}
KINDS = {
    "llama": ("llama", {}),
    "qwen3": ("qwen3", {}),
    "mistral with a window": ("mistral", WINDOW),
    "gemma2: soft cap and windows": ("gemma2", {**WINDOW, "query_pre_attn_scalar": 16}),
    "gemma3: two kinds of layers": ("gemma3_text", {**WINDOW, "layer_types": ["sliding_attention", "full_attention"]}),
    "gpt_oss: sinks and experts": ("gpt_oss", {**WINDOW, "num_local_experts": 4, "num_experts_per_tok": 2}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_answers_equal_generate_while_requests_join(make_tiny_model: Any, kind: str) -> None:
    name, config = KINDS[kind]
    folder = make_tiny_model(name, **config)
    engine = make(folder)
    assert engine._batches
    asked = prompts(6)
    asked[2] = prompts(1, 400)[0] * 2  # outgrows the smallest pool
    found = asyncio.run(staggered(engine, asked, log_probs=0))
    assert engine.load == (0, 0)
    engine.close()
    assert [ids(deltas) for deltas in found] == [generate(folder, prompt, 24) for prompt in asked]


def test_models_that_cannot_share_a_pass_are_answered_one_by_one(make_tiny_model: Any) -> None:
    scaled = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    folder = make_tiny_model(rope_parameters=scaled)
    engine = make(folder)
    assert not engine._batches
    asked = prompts(3)
    found = asyncio.run(staggered(engine, asked, log_probs=0))
    assert [ids(deltas) for deltas in found] == [generate(folder, prompt, 24) for prompt in asked]
    drawn = asyncio.run(answer(engine, asked[0], num_return_sequences=2, seed=3, log_probs=0, **SAMPLED))
    engine.close()
    assert text(drawn, 0) != text(drawn, 1)


def test_a_long_prompt_is_read_in_parts(make_tiny_model: Any) -> None:
    folder = make_tiny_model(max_position_embeddings=4096)
    engine = make(folder)
    asked = [prompts(1, 90)[0] * 60, *prompts(2)]
    assert len(asked[0]) > 2000
    found = asyncio.run(staggered(engine, asked, log_probs=0))
    engine.close()
    assert [ids(deltas) for deltas in found] == [generate(folder, prompt, 24) for prompt in asked]


def test_repetition_penalty_is_that_of_generate(engine: HuggingfaceEngine, tiny_llama: Path) -> None:
    asked = prompts(3)
    found = asyncio.run(staggered(engine, asked, log_probs=0, repetition_penalty=1.7))
    assert [ids(deltas) for deltas in found] == [
        generate(tiny_llama, prompt, 24, repetition_penalty=1.7) for prompt in asked
    ]


def test_an_answer_in_bfloat16_does_not_depend_on_its_neighbours(tiny_llama: Path) -> None:
    engine = make(tiny_llama, infer_dtype="bfloat16")
    asked = prompts(8)
    alone = [ids(asyncio.run(answer(engine, prompt, log_probs=0))) for prompt in asked]
    together = asyncio.run(staggered(engine, asked, log_probs=0))
    engine.close()
    assert [ids(deltas) for deltas in together] == alone


def test_a_seed_gives_the_same_answer_whatever_else_runs(engine: HuggingfaceEngine) -> None:
    asked = prompts(5)

    async def crowd() -> list[list[Delta]]:
        others = [answer(engine, prompt, **SAMPLED) for prompt in asked[1:]]
        mine = answer(engine, asked[0], seed=7, **SAMPLED)
        greedy = answer(engine, asked[1], temperature=0.0)
        return await asyncio.gather(mine, greedy, *others)

    alone = text(asyncio.run(answer(engine, asked[0], seed=7, **SAMPLED)))
    first, second = asyncio.run(crowd()), asyncio.run(crowd())
    assert text(first[0]) == text(second[0]) == alone
    assert text(first[0]) != text(asyncio.run(answer(engine, asked[0], seed=8, **SAMPLED)))
    assert text(first[1]) == text(asyncio.run(answer(engine, asked[1])))


def test_draws_follow_the_distribution_that_transformers_keeps(engine: HuggingfaceEngine, tiny_llama: Path) -> None:
    """Frequencies of the first token against softmax after transformers' own filters, four settings in one batch."""
    from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    prompt = prompts(1)[0]
    net = AutoModelForCausalLM.from_pretrained(tiny_llama).eval()
    with torch.inference_mode():
        logits = net(torch.tensor([prompt])).logits[:, -1]
    settings = [(0.5, 0.6, 0), (0.5, 1.0, 5), (0.5, 0.8, 12), (0.3, 1.0, 0)]

    async def draw() -> list[list[list[Delta]]]:
        return await asyncio.gather(
            *(
                asyncio.gather(
                    *(
                        answer(engine, prompt, seed=n, do_sample=True, temperature=t, top_p=p, top_k=k,
                               num_return_sequences=30, max_new_tokens=1, log_probs=0)
                        for n in range(20)
                    )
                )
                for t, p, k in settings
            )
        )  # fmt: skip

    for (t, p, k), groups in zip(settings, asyncio.run(draw()), strict=True):
        filters = LogitsProcessorList([TemperatureLogitsWarper(t)])
        filters += [TopKLogitsWarper(k)] if k else []
        filters += [TopPLogitsWarper(p)] if p < 1 else []
        expected = filters(torch.tensor([prompt]), logits.clone()).softmax(-1)[0]
        counts = torch.bincount(torch.tensor([i for group in groups for i in ids(group)]), minlength=len(expected))
        assert not counts[expected == 0].any()
        total = int(counts.sum())
        assert total == 600
        often = expected * total > 10  # where the normal approximation holds
        assert often.any()
        error = (counts / total - expected).abs() / (expected * (1 - expected) / total).sqrt()
        assert float(error[often].max()) < 4.5  # standard deviations


def test_log_probabilities_are_those_of_a_plain_forward(engine: HuggingfaceEngine, tiny_llama: Path) -> None:
    asked = prompts(3)
    found = asyncio.run(staggered(engine, asked, log_probs=3, seed=1, **SAMPLED))
    net = AutoModelForCausalLM.from_pretrained(tiny_llama).eval()
    for prompt, deltas in zip(asked, found, strict=True):
        told = [item for delta in deltas for item in delta.log_probs]
        with torch.inference_mode():
            logits = net(torch.tensor([prompt + [item.id for item in told]])).logits[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(-1)
        values, best = expected.topk(3)
        for row, item in enumerate(told):
            assert item.log_prob == pytest.approx(float(expected[row, item.id]), abs=1e-5)
            assert [token for token, _, _ in item.top] == best[row].tolist()
            assert [value for _, _, value in item.top] == pytest.approx(values[row].tolist(), abs=1e-5)
            assert item.token == engine.tokenizer.decode([item.id])


def test_several_answers_and_stop_words_in_a_crowd(engine: HuggingfaceEngine) -> None:
    asked = prompts(4)
    whole = text(asyncio.run(answer(engine, asked[0])))
    word = whole[5:8]

    async def crowd() -> list[list[Delta]]:
        return await asyncio.gather(
            answer(engine, asked[0], stop=word),
            answer(engine, asked[1], num_return_sequences=4, seed=1, **SAMPLED),
            *(answer(engine, prompt) for prompt in asked),
        )

    stopped, several, *_ = asyncio.run(crowd())
    assert text(stopped) == whole[: whole.find(word)] and stopped[-1].finish_reason == "stop"
    assert len({text(several, index) for index in range(4)}) == 4
    ends = [delta.index for delta in several if delta.finish_reason is not None]
    assert sorted(ends) == [0, 1, 2, 3]
    assert engine.load == (0, 0)


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"type": "integer"}, "ok": {"type": "boolean"}},
    "required": ["name", "age", "ok"],
    "additionalProperties": False,
}


def test_json_schema_is_obeyed_beside_free_answers(engine: HuggingfaceEngine) -> None:
    pytest.importorskip("llguidance")

    async def crowd() -> list[list[Delta]]:
        bound = {"json_schema": SCHEMA, "max_new_tokens": 400, "do_sample": True, "temperature": 1.0}
        asked = prompts(4)
        return await asyncio.gather(
            *(answer(engine, prompt, seed=n, **bound) for n, prompt in enumerate(asked)), answer(engine, asked[0])
        )

    *bound, free = asyncio.run(crowd())
    for deltas in bound:
        if deltas[-1].finish_reason == "length":  # a random model may count digits for ever
            continue
        value = json.loads(text(deltas))
        assert list(value) == ["name", "age", "ok"]
        assert isinstance(value["name"], str) and len(value["name"]) <= 5
        assert type(value["age"]) is int and type(value["ok"]) is bool
    assert sum(deltas[-1].finish_reason == "stop" for deltas in bound) >= 2
    assert text(free) == text(asyncio.run(answer(engine, prompts(4)[0])))
    with pytest.raises(ConfigError, match="json_schema"):
        asyncio.run(answer(engine, [5], json_schema={"type": "no such type"}))


def adapter(folder: Path, base: Path, seed: int) -> Path:
    """A random LoRA adapter that changes the answers."""
    from peft import LoraConfig, get_peft_model

    net = AutoModelForCausalLM.from_pretrained(base)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tuned = get_peft_model(net, LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
        for name, value in tuned.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(value, std=0.2)
    tuned.save_pretrained(folder)
    return folder


def test_adapters_by_name_answer_as_their_own_models(tiny_llama: Path, tmp_path: Path) -> None:
    folders = {name: adapter(tmp_path / name, tiny_llama, seed) for seed, name in enumerate(("red", "blue"))}
    engine = make(tiny_llama, lora_modules=",".join(f"{name}={folder}" for name, folder in folders.items()))
    assert engine.adapters == ("red", "blue")
    asked = prompts(4)

    async def crowd() -> dict[str | None, list[list[Delta]]]:
        names = [None, "red", "blue"]
        jobs = [[answer(engine, prompt, adapter=name, log_probs=0) for prompt in asked] for name in names]
        rows = await asyncio.gather(*(asyncio.gather(*row) for row in jobs))
        return dict(zip(names, rows, strict=True))

    found = asyncio.run(crowd())
    with pytest.raises(ConfigError, match="adapter: unknown name 'green'; known: red, blue"):
        asyncio.run(answer(engine, asked[0], adapter="green"))
    beams = asyncio.run(answer(engine, asked[0], adapter="red", num_beams=2, max_new_tokens=5))
    plain_beams = asyncio.run(answer(engine, asked[0], num_beams=2, max_new_tokens=5))
    engine.close()
    assert text(beams) != text(plain_beams)
    assert [ids(deltas) for deltas in found[None]] == [generate(tiny_llama, prompt, 24) for prompt in asked]
    for name, folder in folders.items():
        oracle = AutoModelForCausalLM.from_pretrained(folder).eval()  # transformers loads base and adapter
        for prompt, deltas in zip(asked, found[name], strict=True):
            sequence = torch.tensor([prompt + ids(deltas)])
            with torch.inference_mode():
                best = oracle(sequence).logits[0].argmax(-1).tolist()
            assert ids(deltas) == best[len(prompt) - 1 : -1]
        assert [text(d) for d in found[name]] != [text(d) for d in found[None]]


def test_a_thousand_requests_with_cancels_leave_nothing_behind(make_tiny_model: Any) -> None:
    engine = make(make_tiny_model(max_position_embeddings=100_000), max_batch_size=8, max_new_tokens=12)
    process, draw = psutil.Process(), random.Random(1)
    asked = prompts(50, 40)

    async def one(number: int) -> None:
        stop_after = draw.choice([0, 1, 3, 100])
        options = draw.choice([{}, SAMPLED, {**SAMPLED, "num_return_sequences": 3}, {"log_probs": 2}])
        async with aclosing(engine.stream(asked[number % 50], **options)) as deltas:
            async for _ in deltas:
                stop_after -= 1
                if stop_after < 0:
                    return

    async def many(count: int) -> None:
        tasks = []
        for number in range(count):
            tasks.append(asyncio.create_task(one(number)))
            if number % 25 == 24:
                tasks[draw.randrange(len(tasks))].cancel()
                await asyncio.sleep(0.02)
        await asyncio.gather(*tasks, return_exceptions=True)

    async def empty() -> None:
        for _ in range(500):
            if engine.load == (0, 0):
                return
            await asyncio.sleep(0.01)

    asyncio.run(many(100))
    asyncio.run(empty())
    gc.collect()
    before = process.memory_info().rss
    asyncio.run(many(1000))
    asyncio.run(empty())
    gc.collect()
    assert engine.load == (0, 0)
    assert not any(pool.layers for pools in engine._scheduler._runner._pools.values() for pool in pools._pools.values())
    assert process.memory_info().rss - before < 32 * 2**20
    engine.close()


def test_a_cancelled_request_frees_its_slot_for_the_next(make_tiny_model: Any) -> None:
    engine = make(make_tiny_model(max_position_embeddings=100_000), max_batch_size=1, max_new_tokens=90_000)

    async def run() -> list[Delta]:
        first = engine.stream([5, 6, 7])
        await anext(first)
        waiting = asyncio.create_task(answer(engine, [8, 9], max_new_tokens=3))
        await asyncio.sleep(0.05)
        assert not waiting.done() and engine.load == (1, 1)
        await first.aclose()
        return await asyncio.wait_for(waiting, 5)

    assert sum(delta.tokens for delta in asyncio.run(run())) == 3
    engine.close()


def test_closing_the_engine_fails_what_runs(make_tiny_model: Any) -> None:
    engine = make(make_tiny_model(max_position_embeddings=100_000), max_new_tokens=90_000)

    async def run() -> None:
        stream = engine.stream([5, 6, 7])
        await anext(stream)
        await asyncio.to_thread(engine.close)
        async for _ in stream:
            pass

    with pytest.raises(RuntimeError, match="closed"):
        asyncio.run(run())
    with pytest.raises(RuntimeError, match="closed"):
        asyncio.run(answer(engine, [5]))


LEAVING = """
import sys
from llamafactory.chat.chat_model import ChatModel
from llamafactory.hparams import get_infer_args
model = ChatModel(get_infer_args({"model_name_or_path": sys.argv[1], "template": "chatml", "max_new_tokens": 150_000}))
question = [{"role": "user", "content": "Who are you?"}]
if sys.argv[2] == "stream":
    next(model.stream_chat(question))
else:
    import threading, time
    threading.Thread(target=model.chat, args=[question], kwargs={"num_beams": 2}, daemon=True).start()
    while model.engine._scheduler._alone is None:
        time.sleep(0.01)
print("leaves")
"""


@pytest.mark.parametrize("way", ["stream", "beams"])
def test_a_program_may_leave_while_an_answer_grows(make_tiny_model: Any, way: str) -> None:
    folder = make_tiny_model(max_position_embeddings=200_000)
    left = subprocess.run(
        [sys.executable, "-c", LEAVING, str(folder), way], capture_output=True, text=True, timeout=120
    )
    assert (left.returncode, left.stdout) == (0, "leaves\n"), left.stderr
    assert "terminate" not in left.stderr and "Error" not in left.stderr, left.stderr


def test_embeddings_are_the_mean_of_the_last_hidden_states(engine: HuggingfaceEngine, tiny_llama: Path) -> None:
    texts = ["rain", "the quick brown fox", "who are you? " * 12]
    vectors = asyncio.run(engine.embed(texts))
    net = AutoModelForCausalLM.from_pretrained(tiny_llama).eval()
    for given, vector in zip(texts, vectors, strict=True):
        with torch.inference_mode():
            tokens = torch.tensor([engine.tokenizer(given)["input_ids"]])
            mean = net(tokens, output_hidden_states=True).hidden_states[-1][0].mean(0)
        assert vector == pytest.approx((mean / mean.norm()).tolist(), abs=1e-5)
    with pytest.raises(ConfigError, match="text 1 is empty"):
        asyncio.run(engine.embed([""]))


def test_scores_are_those_of_the_reward_model(tiny_llama: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    net = AutoModelForSequenceClassification.from_pretrained(tiny_llama, num_labels=1, pad_token_id=0).eval()
    net.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    tokenizer.save_pretrained(tmp_path)
    engine = make(tmp_path, stage="rm", finetuning_type="full")
    texts = ["rain", "the quick brown fox", "who are you? " * 9]
    found = asyncio.run(engine.get_scores(texts))
    with torch.inference_mode():
        expected = [float(net(torch.tensor([tokenizer(given)["input_ids"]])).logits) for given in texts]
    assert found == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ConfigError, match="does not answer"):
        asyncio.run(answer(engine, [5]))
    engine.close()
