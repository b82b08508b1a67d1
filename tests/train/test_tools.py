# SPDX-License-Identifier: Apache-2.0
"""Tools: described as OpenAI tool objects, called as the model writes, and no mistake ends the run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llamafactory.data.messages import Message, ToolCall
from llamafactory.extras.errors import ConfigError
from llamafactory.train.rl.rollouts.tools import ToolBox, load_tools

_TOOLS = '''
import time
from typing import Literal

_secret = 3

def add(a: int, b: int = 1) -> int:
    """Add two numbers.

    Args:
        a: The first.
        b: The second.
    """
    return a + b

def weather(city: str, unit: Literal["C", "F"] = "C") -> dict:
    """Say what the weather is.

    Args:
        city: Where.
        unit: Of the temperature.
    """
    return {"city": city, "grad": 21, "note": "schön"}

def fail(text: str) -> str:
    """Fail.

    Args:
        text: Why.
    """
    raise ValueError(f"no {text}")

def sleep(seconds: float) -> str:
    """Sleep.

    Args:
        seconds: How long.
    """
    time.sleep(seconds)
    return "awake"

def _helper() -> None: ...
'''


@pytest.fixture
def box(tmp_path: Path) -> ToolBox:
    (tmp_path / "tools.py").write_text(_TOOLS, encoding="utf-8")
    return load_tools(str(tmp_path / "tools.py"), time_limit=0.3)


def _said(box: ToolBox, name: str, arguments: object) -> str:
    return box.call(ToolCall(name, arguments)).text  # type: ignore[arg-type]


def test_descriptions_are_openai_tool_objects(box: ToolBox) -> None:
    assert [tool["function"]["name"] for tool in box.descriptions] == ["add", "weather", "fail", "sleep"]
    assert box.descriptions[0] == {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Add two numbers.",
            "parameters": {
                "type": "object",
                "properties": {
                    "a": {"type": "integer", "description": "The first."},
                    "b": {"type": "integer", "description": "The second."},
                },
                "required": ["a"],
            },
        },
    }
    json.dumps(box.descriptions)


def test_a_call_answers_with_a_tool_turn(box: ToolBox) -> None:
    answer = box.call(ToolCall("add", {"a": 2, "b": 3}, id="call_7"))
    assert answer == Message.of("tool", "5", name="add", tool_call_id="call_7")
    assert _said(box, "add", '{"a": 2}') == "3"
    assert _said(box, "weather", {"city": "Köln"}) == '{"city": "Köln", "grad": 21, "note": "schön"}'
    assert _said(box, "sleep", {"seconds": 0}) == "awake"


@pytest.mark.parametrize(
    ("name", "arguments", "answer"),
    [
        ("subtract", {}, "Error: there is no tool 'subtract'; there are add, weather, fail, sleep"),
        ("_helper", {}, "Error: there is no tool '_helper'; there are add, weather, fail, sleep"),
        ("add", {"x": 1}, "Error: add: missing a required argument: 'a'"),
        ("add", {"a": 1, "c": 2}, "Error: add: got an unexpected keyword argument 'c'"),
        ("add", "{'a': 1}", "Error: the arguments are not JSON: Expecting property name enclosed in double quotes"),
        ("add", "[1, 2]", "Error: the arguments are not a JSON object"),
        ("add", {"a": "1"}, "Error: TypeError: can only concatenate str"),
        ("fail", {"text": "way"}, "Error: ValueError: no way"),
        ("sleep", {"seconds": 1.5}, "Error: sleep took longer than 0.3 s"),
    ],
)
def test_mistakes_are_the_text_of_the_answer(box: ToolBox, name: str, arguments: object, answer: str) -> None:
    said = _said(box, name, arguments)
    assert said.startswith(answer) and "\n" not in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", r"rollout_tools: .*/tools.py has no functions"),
        ("def f(a: int):\n    '''Do.'''\n", r"tools.py, function f: .*no description for the argument 'a'"),
        (
            "def f(a):\n    '''Do.\n\n    Args:\n        a: It.\n    '''\n",
            r"function f: Argument a is missing a type hint",
        ),
        ("def f(a: int): ...\n", r"function f: .*no docstring"),
        ("def f(:\n", r"rollout_tools: .*/tools.py cannot be used: line 1: SyntaxError"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "tools.py").write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_tools(str(tmp_path / "tools.py"))
    assert "\n" not in str(caught.value)
