# SPDX-License-Identifier: Apache-2.0
"""Two columns: the base and an adapter, or two adapters, answer the same message."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from scripted_engine import ScriptedEngine
from transformers import AutoModelForCausalLM

from llamafactory.chat.base_engine import Delta
from llamafactory.chat.hf_engine import HuggingfaceEngine
from llamafactory.data.messages import Message
from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import InferArgs, get_infer_args
from llamafactory.webui.chatting.chatter import Chatter, Loaded
from llamafactory.webui.chatting.columns import merged
from llamafactory.webui.chatting.handler import BASE, ChatHandler
from llamafactory.webui.components.infer import beside_each_other

from .conftest import running
from .test_page import connect, texts, values

pytest.importorskip("gradio_client")

SETTINGS = ("", "", 24, 0.7, 0.0, True, True, -1, True, "en")


def make_adapter(folder: Path, base: Path, seed: int) -> Path:
    """A random LoRA adapter that changes the answers."""
    net = AutoModelForCausalLM.from_pretrained(base)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tuned = get_peft_model(net, LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
        for name, value in tuned.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(value, std=0.2)
    tuned.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def two(
    make_tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[HuggingfaceEngine, InferArgs]]:
    """A real engine with two adapters beside its base."""
    folder = tmp_path_factory.mktemp("adapters")
    base = make_tiny_model(tie_word_embeddings=False)  # a head of its own: it does not repeat the last token
    named = {name: make_adapter(folder / name, base, seed) for seed, name in enumerate(("law", "poems"))}
    keys = {"template": "qwen", "infer_dtype": "float32", "do_sample": False, "max_new_tokens": 24}
    modules = ",".join(f"{name}={path}" for name, path in named.items())
    args = get_infer_args({"model_name_or_path": str(base), "lora_modules": modules, **keys})
    engine = HuggingfaceEngine(args)
    yield engine, args
    engine.close()


def test_both_columns_are_the_engine_s_own_answers_and_go_on_for_themselves(two: Any) -> None:
    engine, args = two

    def answer(adapter: str | None, *said: Message) -> str:
        return asyncio.run(engine.chat(list(said), adapter=adapter, skip_special_tokens=False))[0].text

    question, more = Message.of("user", "Tell me of rivers"), Message.of("user", "And of stars?")
    with running(engine, args) as url:
        client = connect(url)

        def ask(text: str, *who: Any) -> tuple[list[str], list[str]]:
            first, left, error, second = client.predict(
                *values(text, skip_special_tokens=False), *who, api_name="/chat"
            )
            assert (left, error) == ("", "")
            return [text for _, text in texts(first) if text], [text for _, text in texts(second) if text]

        for names in ((None, "law"), ("poems", "law")):
            client.predict(api_name="/clear")
            who = (names[0] or BASE, True, names[1])
            columns = ask(question.text, *who)
            firsts = [answer(name, question) for name in names]
            assert firsts[0] != firsts[1] and all(firsts)
            for name, first, column in zip(names, firsts, columns, strict=True):
                assert column == [question.text, first.strip().replace("<", "&lt;")], name
            columns = ask(more.text, *who)
            for name, first, column in zip(names, firsts, columns, strict=True):
                expected = answer(name, question, engine.template.parse(first), more)
                assert column[2:] == [more.text, expected.strip().replace("<", "&lt;")], name
        alone, nothing = ask("New", BASE, False, "law")
        assert len(alone) == 6 and nothing == []


@pytest.fixture
def pair(make_template: Any, page_args: InferArgs) -> tuple[ScriptedEngine, ChatHandler]:
    """An engine that says what the test wrote, for two adapters, and the handler of its page."""
    engine = ScriptedEngine(make_template("qwen"), ["One", " two"], adapters=("law", "poems"))
    return engine, ChatHandler(Chatter(Loaded(engine, page_args)), (), pairs=True)


def run(states: AsyncGenerator[tuple[Any, ...], None]) -> list[tuple[Any, ...]]:
    async def collect() -> list[tuple[Any, ...]]:
        return [state async for state in states]

    return asyncio.run(collect())


def contents(bubbles: list[dict[str, Any]]) -> list[str]:
    return [bubble["content"] for bubble in bubbles]


def test_both_grow_at_once_and_stop_together(pair: Any) -> None:
    engine, handler = pair
    engine.gate = threading.Semaphore(2)

    async def ask() -> tuple[Any, ...]:
        states = handler.respond([[]], "Count", "user", *SETTINGS, "law", True, "poems")
        async with aclosing(states):
            async for state in states:
                if contents(state[0])[1:] == contents(state[4])[1:] == ["One"]:
                    assert engine.open == 2
                    return state
        raise AssertionError("the columns never grew together")

    *_, talk, _ = asyncio.run(ask())
    assert engine.open == 0 and [one[-1].text for one in talk] == ["One", "One"]
    assert [overrides["adapter"] for _, _, overrides in engine.asked] == ["law", "poems"]


def test_another_answer_and_another_question_are_for_both(pair: Any) -> None:
    engine, handler = pair
    who = (BASE, True, "poems")
    talk = run(handler.respond([[]], "Count", "user", *SETTINGS, *who))[-1][3]
    talk = run(handler.respond(talk, "More", "user", *SETTINGS, *who))[-1][3]
    engine.pieces = ["Three"]
    first, left, error, talk, second = run(handler.regenerate(talk, "draft", *SETTINGS, *who))[-1]
    assert contents(first) == contents(second) == ["Count", "One two", "More", "Three"] and (left, error) == (
        "draft",
        "",
    )
    assert [overrides.get("adapter") for _, _, overrides in engine.asked[-2:]] == [None, "poems"]
    engine.pieces = ["Four"]
    event = SimpleNamespace(index=0, value="Count again")
    first, _, _, talk, second = run(handler.edit(event, talk, "", *SETTINGS, *who))[-1]
    assert contents(first) == contents(second) == ["Count again", "Four"] and len(talk) == 2


def test_a_second_column_begins_where_the_first_one_is(pair: Any) -> None:
    engine, handler = pair
    talk = run(handler.respond([[]], "Count", "user", *SETTINGS, BASE, False, "law"))[-1][3]
    assert len(talk) == 1
    *_, talk, second = run(handler.respond(talk, "More", "user", *SETTINGS, BASE, True, "law"))[-1]
    assert contents(second) == ["Count", "One two", "More", "One two"]
    assert [message.text for message in engine.asked[-1][0]] == ["Count", "One two", "More"]


class HalfBroken(ScriptedEngine):
    """Refuses one adapter."""

    async def stream(self, prompt: Any, tools: Any = (), **overrides: Any) -> AsyncGenerator[Delta, None]:
        if overrides.get("adapter") == "law":
            raise ConfigError("adapter: law is out of order")
        async with aclosing(super().stream(prompt, tools, **overrides)) as deltas:
            async for delta in deltas:
                yield delta


def test_one_column_that_fails_leaves_the_other_alone(make_template: Any, page_args: InferArgs) -> None:
    engine = HalfBroken(make_template("qwen"), ["One"], adapters=("law",))
    handler = ChatHandler(Chatter(Loaded(engine, page_args)), (), pairs=True)
    first, left, error, talk, second = run(handler.respond([[]], "Hi", "user", *SETTINGS, BASE, True, "law"))[-1]
    assert (contents(first), contents(second), left) == (["Hi", "One"], [], "")
    assert error == "**Error:** law: adapter: law is out of order" and [len(one) for one in talk] == [2, 0]
    first, left, error, talk, _ = run(handler.respond([[]], "Hi", "user", *SETTINGS, "law", True, "law"))[-1]
    assert (first, left, error) == ([], "Hi", "**Error:** adapter: law is out of order") and talk == [[], []]
    settings = ("", "{", *SETTINGS[2:])
    _, left, error, *_ = run(handler.respond([[]], "Hi", "user", *settings, BASE, True, "law"))[-1]
    assert left == "Hi" and error.startswith("**Error:** tools: not JSON")


def test_streams_are_merged_as_they_come_and_closed_together() -> None:
    closed: list[str] = []

    async def say(name: str, pauses: list[float], error: Exception | None = None) -> AsyncGenerator[str, None]:
        try:
            for number, pause in enumerate(pauses):
                await asyncio.sleep(pause)
                yield f"{name}{number}"
            if error is not None:
                raise error
        finally:
            closed.append(name)

    async def collect(streams: list[AsyncGenerator[str, None]], most: int = 100) -> list[str]:
        found = []
        async with aclosing(merged(streams)) as items:
            async for item in items:
                found.append(item)
                if len(found) == most:
                    break
        return found

    assert sorted(asyncio.run(collect([say("a", [0, 0]), say("b", [0])]))) == ["a0", "a1", "b0"]
    assert asyncio.run(collect([say("a", [0.2]), say("b", [0, 0])])) == ["b0", "b1", "a0"]
    closed.clear()
    assert asyncio.run(collect([say("a", [3600]), say("b", [0, 3600])], most=1)) == ["b0"]
    assert sorted(closed) == ["a", "b"]
    closed.clear()
    with pytest.raises(RuntimeError, match="broken"):
        asyncio.run(collect([say("a", [3600]), say("b", [0], RuntimeError("broken"))]))
    assert sorted(closed) == ["a", "b"]


@pytest.mark.parametrize(
    ("paths", "named"),
    [
        ("saves/m/lora/train_1", "train_1=saves/m/lora/train_1"),
        (
            "saves/m/lora/a/checkpoint-3,saves/m/lora/b/checkpoint-3",
            "a-checkpoint-3=saves/m/lora/a/checkpoint-3,b-checkpoint-3=saves/m/lora/b/checkpoint-3",
        ),
        ("x/v1.5 new", "v1-5-new=x/v1.5 new"),
        ("/...", "adapter=/..."),
    ],
)
def test_adapters_get_names_that_tell_them_apart(paths: str, named: str) -> None:
    assert beside_each_other({"adapter_name_or_path": paths, "template": "qwen"}) == {
        "lora_modules": named,
        "template": "qwen",
    }


def test_a_whole_model_stands_beside_nothing() -> None:
    with pytest.raises(ConfigError, match=r"^side by side: one base is held in memory"):
        beside_each_other({"model_name_or_path": "saves/m/full/train_1"})
    with pytest.raises(ConfigError, match="a is chosen twice"):
        beside_each_other({"adapter_name_or_path": "a,a"})
    own = {"lora_modules": "x=y"}
    assert beside_each_other(own) == own
