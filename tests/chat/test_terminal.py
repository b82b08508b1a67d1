# SPDX-License-Identifier: Apache-2.0
"""The terminal chat as a user meets it: through a pipe, and through a terminal with Ctrl-C."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from llamafactory.chat import terminal
from llamafactory.chat.chat_model import ChatModel
from llamafactory.hparams import get_infer_args

PROGRAM = "import json, sys; from llamafactory.chat.terminal import run_chat; run_chat(json.loads(sys.argv[1]))"


def command(folder: Path, **keys: Any) -> list[str]:
    import json

    defaults = {"model_name_or_path": str(folder), "template": "chatml", "infer_dtype": "float32", "do_sample": False}
    return [sys.executable, "-c", PROGRAM, json.dumps({**defaults, **keys})]


def test_questions_through_a_pipe(tiny_llama: Path) -> None:
    lines = "Who are you?\n\n   \nAnd the stars?\nclear\nWho are you?\nexit\nnever asked\n"
    result = subprocess.run(
        command(tiny_llama, max_new_tokens=8), input=lines, capture_output=True, text=True, timeout=120, check=True
    )
    turns = result.stdout.split("User: ")
    assert str(tiny_llama) in turns[0] and "`exit`" in turns[0]
    echoed = ["Who are you?", "And the stars?", "clear", "Who are you?", "exit"]
    assert [turn.partition("\n")[0] for turn in turns[1:]] == echoed
    first, second, cleared, after_clear, left = (turn.partition("\n")[2] for turn in turns[1:])
    first, second, after_clear = (text.removeprefix("Assistant: ") for text in (first, second, after_clear))
    assert "The conversation is forgotten." in cleared and left == ""
    assert first == after_clear  # the history was really gone
    args = get_infer_args(
        {"model_name_or_path": str(tiny_llama), "template": "chatml", "infer_dtype": "float32", "max_new_tokens": 8}
    )
    model = ChatModel(args)
    answer = model.chat([{"role": "user", "content": "Who are you?"}], do_sample=False)[0].text
    history = [
        {"role": "user", "content": "Who are you?"},
        {"role": "assistant", "content": answer},
        {"role": "user", "content": "And the stars?"},
    ]
    assert first.strip() == answer.strip()
    assert second.startswith(model.chat(history, do_sample=False)[0].text)  # the second turn saw the first


class Screen:
    """The far end of a pseudo terminal."""

    def __init__(self, words: list[str]) -> None:
        self.process, self.handle = self._start(words)
        self.text = ""

    @staticmethod
    def _start(words: list[str]) -> tuple[subprocess.Popen[bytes], int]:
        ours, theirs = pty.openpty()
        environment = {**os.environ, "TERM": "dumb", "LLAMAFACTORY_VERBOSITY": "ERROR"}
        # setsid + controlling terminal: Ctrl-C typed there becomes SIGINT for the program alone.
        process = subprocess.Popen(
            [sys.executable, "-c", _LOGIN, *words], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
        )
        os.close(theirs)
        return process, ours

    def type(self, text: str) -> None:
        os.write(self.handle, text.encode())

    def wait_for(self, text: str, seconds: float = 60) -> str:
        """Read until the text stands on the screen; return all that came since the last wait."""
        end = time.monotonic() + seconds
        while text not in self.text:
            left = end - time.monotonic()
            assert left > 0, f"no {text!r} within {seconds} s; the screen shows {self.text[-500:]!r}"
            if select.select([self.handle], [], [], left)[0]:
                self.text += os.read(self.handle, 65536).decode("utf-8", errors="replace")
        seen, _, self.text = self.text.partition(text)
        return seen

    def press(self, key: str, text: str) -> None:
        """Type a key until the text answers it: readline prints its prompt a moment before it listens."""
        for last in (False, False, True):
            time.sleep(0.5)
            self.type(key)
            try:
                self.wait_for(text, 60)
                return
            except AssertionError:
                if last:
                    raise

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.handle)


_LOGIN = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture
def screen(make_tiny_model: Any) -> Any:
    endless = make_tiny_model(max_position_embeddings=200_000)
    opened = Screen(command(endless, max_new_tokens=100_000))
    yield opened
    opened.close()


def test_ctrl_c_stops_the_answer_and_not_the_program(screen: Screen) -> None:
    screen.wait_for("User: ")
    screen.type("Who are you?\n")
    screen.wait_for("Assistant: ")
    time.sleep(0.5)
    screen.type("\x03")
    assert len(screen.wait_for("[stopped]", 15)) > 10  # some of the answer had come
    screen.wait_for("User: ")
    screen.press("\x03", "once more")
    screen.wait_for("User: ")
    screen.type("And you?\n")
    screen.wait_for("Assistant: ")
    time.sleep(0.3)
    screen.type("\x03\x03\x03")  # impatience is no reason to leave
    screen.wait_for("[stopped]", 15)
    screen.wait_for("User: ")
    screen.type("exit\n")
    assert screen.process.wait(timeout=20) == 0


def test_ctrl_c_twice_or_ctrl_d_leaves(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def session(*events: Any) -> None:
        queue = iter(events)

        def fake_input(prompt: str = "") -> str:
            event = next(queue)
            if isinstance(event, str):
                return event
            raise event

        monkeypatch.setattr("builtins.input", fake_input)
        dialogue = terminal.Terminal(model=None)  # type: ignore[arg-type]
        dialogue._interactive = True
        dialogue.run()

    session(KeyboardInterrupt, KeyboardInterrupt)
    session(KeyboardInterrupt, "", KeyboardInterrupt, KeyboardInterrupt)
    session("clear", EOFError)
    session("  exit ")
    assert capsys.readouterr().out.count("once more") == 3


def test_a_failed_question_leaves_the_history_as_it_was(tiny_llama: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = get_infer_args(
        {"model_name_or_path": str(tiny_llama), "template": "chatml", "infer_dtype": "float32", "max_new_tokens": 4}
    )
    dialogue = terminal.Terminal(ChatModel(args))
    dialogue._answer("Hello")
    before = list(dialogue._history)
    dialogue._answer("rain " * 600)
    assert "the model takes fewer than 512" in capsys.readouterr().out
    assert dialogue._history == before and len(before) == 2
    dialogue._answer("Hello again")
    assert len(dialogue._history) == 4
