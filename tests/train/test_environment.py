# SPDX-License-Identifier: Apache-2.0
"""Environments: who speaks when, what is paid, which tokens are trained; a class and a service are the same."""

from __future__ import annotations

import importlib.util
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from llamafactory.data.messages import Message, Sample
from llamafactory.data.template_loader import get_template
from llamafactory.extras.errors import ConfigError
from llamafactory.hparams.data_args import DataArguments
from llamafactory.train.rl.rollouts.environment import REWARD, Replies, load_environment
from llamafactory.train.rl.rollouts.rollout import Drawn, Rollout, roll_out

from .conftest import Keys
from .rollouts import GRPO, PPO, prompt_set, records
from .running import train

EXAMPLE = Path(__file__).parents[2] / "examples/rewards/calculator.py"
ECHO = """
class Echo:
    def reset(self, letter, seed, prompt):
        self.turns = 0
        return f"Use {letter}."

    def step(self, action):
        self.turns += 1
        return "again", 0.5 * self.turns, self.turns == 3

class Broken:
    def reset(self):
        pass

    def step(self, action):
        return {}["nothing"]

class Text:
    def reset(self):
        pass

    def step(self, action):
        return "text"
"""


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    """The calculator of the examples behind HTTP."""
    spec = importlib.util.spec_from_file_location("calculator", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    episodes: dict[str, Any] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/reset":
                episodes[body["episode_id"]] = module.Calculator()
                episodes[body["episode_id"]].reset(body["output"])
                reply = {"observation": None, "reward": None, "done": False}
            else:
                text, reward, done = episodes[body["episode_id"]].step(body["action"]["text"])
                reply = {"observation": {"text": text}, "reward": reward, "done": done}
            data = json.dumps(reply).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


class _Script:
    def __init__(self, rounds: list[list[list[int]]]) -> None:
        self.rounds, self.asked = rounds, 0

    def sync(self) -> None: ...

    def generate(self, requests: Any, greedy: bool) -> list[Drawn]:
        self.asked += 1
        return [Drawn(ids, [-1.0 - place for place in range(len(ids))]) for ids in self.rounds[self.asked - 1]]


@pytest.mark.parametrize("kind", ["class", "service"])
def test_a_calculator_is_asked_answers_and_pays(tiny_llama: Path, service: str, kind: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    template = get_template(tokenizer, DataArguments(template="chatml"))
    spec = f"{EXAMPLE}:Calculator" if kind == "class" else service
    replies = Replies(None, load_environment(spec), spec)

    def said(text: str, stop: bool = True) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False) + template.stop_token_ids[:1] * stop

    first = [said("[12*30]"), said("[12*30]"), said("It is 360"), said("[12*30]", stop=False)]
    second = [said("So 360"), said("361")]
    prompt = [Message.of("user", "What is 12 times 30?")]
    rollouts = [Rollout(list(prompt), template.encode_prompt(prompt), n, columns={"output": "360"}) for n in range(4)]
    for rollout in rollouts:
        assert replies.begin(rollout) == ""
    engine = _Script([first, second])
    roll_out(engine, rollouts, template, 400, reply=replies, rounds=3)
    assert [rollout.columns[REWARD] for rollout in rollouts] == [1.2, 0.2, 0.0, 0.0]
    assert [len(rollout.turns) for rollout in rollouts] == [3, 3, 1, 1] and engine.asked == 2
    one = rollouts[0]
    assert [turn.role for turn in one.turns] == ["assistant", "user", "assistant"] and one.turns[1].text == "360"
    (segments,) = template.encode_batch([Sample((*prompt, *one.turns))])
    ids = [token for segment in segments for token in segment.ids]
    weights = [segment.weight for segment in segments for _ in segment.ids]
    ours = one.prompt + one.ids
    assert ids[: len(ours)] == ours
    assert one.written == [weight > 0 for weight in weights[len(one.prompt) : len(ours)]]
    assert [token for token, own in zip(one.ids, one.written, strict=True) if own] == first[0] + second[0]
    assert len(one.log_probs) == sum(one.written)


def test_rounds_bound_the_turns_and_the_last_is_paid(tiny_llama: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    template = get_template(tokenizer, DataArguments(template="chatml"))
    (tmp_path / "echo.py").write_text(ECHO)
    turn = tokenizer.encode("star", add_special_tokens=False) + template.stop_token_ids[:1]
    for rounds, turns, paid in ((1, 3, 1.5), (5, 5, 3.0)):
        replies = Replies(None, load_environment(f"{tmp_path / 'echo.py'}:Echo"), "Echo")
        rollout = Rollout([Message.of("user", "go")], [1, 2], 0, columns={"letter": "a"})
        assert replies.begin(rollout) == "Use a."
        roll_out(_Script([[turn]] * 4), [rollout], template, 400, reply=replies, rounds=rounds)
        assert (len(rollout.turns), rollout.columns[REWARD]) == (turns, paid)


@pytest.mark.parametrize(
    ("spec", "message"),
    [("Broken", r"Broken failed: line 16: KeyError"), ("Text", r"step: expected \(observation, reward, done\), got")],
)
def test_mistakes_are_one_line(tiny_llama: Path, tmp_path: Path, spec: str, message: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    template = get_template(tokenizer, DataArguments(template="chatml"))
    (tmp_path / "echo.py").write_text(ECHO)
    replies = Replies(None, load_environment(f"{tmp_path / 'echo.py'}:{spec}"), spec)
    rollout = Rollout([Message.of("user", "go")], [1, 2], 0)
    replies.begin(rollout)
    with pytest.raises(ConfigError, match=message):
        roll_out(_Script([[template.stop_token_ids[:1]]]), [rollout], template, 40, reply=replies, rounds=1)
    with pytest.raises(ConfigError, match=r"no function 'Other'; its functions: Echo, Broken, Text"):
        load_environment(f"{tmp_path / 'echo.py'}:Other")


@pytest.mark.parametrize("given", [GRPO, pytest.param(PPO, marks=pytest.mark.slow)], ids=["grpo", "ppo"])
def test_a_run_in_an_environment_resumes_bit_for_bit(keys: Keys, tmp_path: Path, given: dict[str, Any]) -> None:
    (tmp_path / "echo.py").write_text(ECHO)
    asked = prompt_set(tmp_path)
    del asked["reward_funcs"]
    settings = keys(**asked, **given) | {
        "rollout_environment": f"{tmp_path / 'echo.py'}:Echo", "max_new_tokens": 80, "max_tool_rounds": 3,
        "save_strategy": "steps", "save_steps": 2, "max_steps": 3,
    }  # fmt: skip
    whole = train(settings | {"output_dir": str(tmp_path / "whole")})
    train(settings | {"max_steps": 2})
    run = train(settings | {"resume_changed": True})
    assert records(run) == records(whole)
    assert {name for row in records(run) for name in row["rewards"]} == {"environment"}
    assert all("Use " in row["prompt"] for row in records(run))
    assert torch.isfinite(torch.tensor([row["reward"] for row in records(run)])).all()
