# SPDX-License-Identifier: Apache-2.0
"""Rewards: what functions are given, how they are weighed, and one clear line for each of the user's mistakes."""

from __future__ import annotations

import math
import re
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from llamafactory.data.messages import Message, ToolCall
from llamafactory.extras.errors import ConfigError
from llamafactory.train.rl.rewards.completion import Completion
from llamafactory.train.rl.rewards.reward_set import RewardSet, Scores, load_reward_function, load_rewards


def _completion(text: str, reasoning: str | None = None, **more: Any) -> Completion:
    message = Message.of("assistant", text, reasoning=reasoning)
    return Completion((Message.of("user", "2 + 2?"),), message, text, more.pop("ids", [1, 2, 3]), **more)


def _load(funcs: str | None, weights: str | None = None) -> RewardSet:
    rlhf = types.SimpleNamespace(
        reward_funcs=funcs, reward_weights=weights, reward_model=None, rollout_environment=None
    )
    return load_rewards(types.SimpleNamespace(rlhf=rlhf), None, None)  # type: ignore[arg-type]


def _score(name: str, *completions: Completion) -> list[float]:
    return load_reward_function(name)(completions).tolist()


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)

    def save(text: str, name: str = "rewards.py") -> str:
        (tmp_path / name).write_text(text)
        return f"./{name}"

    return save


def test_a_function_gets_the_columns_it_asks_for(write: Any) -> None:
    write(
        "seen = {}\n"
        "def everything(completions, **columns):\n"
        "    seen.update(columns)\n"
        "    return [len(text) for text in completions]\n"
        "def by_column(level, references, finished=None):\n"
        "    return [a + len(b) + c for a, b, c in zip(level, references, finished)]\n"
        "def look(**columns):\n"
        "    return [len(seen), None]\n"
    )
    rows = (
        _completion("four", columns={"level": 10, "reference": "4"}, ids=[7, 8]),
        _completion("five!", columns={"level": 20, "reference": "44", "prompts": "not ours"}, finished=False),
    )
    scores = _load("./rewards.py:everything,./rewards.py:by_column")(rows)
    assert scores.parts["everything"].tolist() == [4, 5]
    assert scores.parts["by_column"].tolist() == [10 + 1 + 1, 20 + 2 + 0]
    given = load_reward_function("./rewards.py:look")  # the file is run once: its functions share what it holds
    assert given(rows)[0] == 6  # level and the five other names of our own


def test_trl_functions_run_as_they_are(write: Any) -> None:
    write(
        "def reward(prompts, completions, completion_ids, level, **kwargs):\n"
        "    assert prompts[0] == [{'role': 'user', 'content': '2 + 2?'}]\n"
        "    assert kwargs['completion_messages'][0] == [{'role': 'assistant', 'content': 'four'}]\n"
        "    return [len(ids) * n for ids, n in zip(completion_ids, level)]\n"
    )
    assert _score("./rewards.py:reward", _completion("four", columns={"level": 3})) == [9]


def test_all_turns_of_a_rollout_are_seen_and_the_last_answer_counts(write: Any) -> None:
    call = Message("assistant", (), tool_calls=(ToolCall("add", {"a": 2, "b": 2}),))
    tool, answer = Message.of("tool", "4", name="add"), Message.of("assistant", "4")
    columns = {"reference": "4"}
    done = Completion(
        (Message.of("user", "2 + 2?"),), answer, "<call>4", [1], columns=columns, turns=(call, tool, answer)
    )
    cut = Completion(done.prompt, call, "<call>", [1], columns=columns, turns=(call, tool))
    assert _score("accuracy", done, cut) == [1, 0]  # what a tool said is not the model's answer
    write("def roles(completion_messages): return [len([m['role'] for m in said]) for said in completion_messages]\n")
    assert _score("./rewards.py:roles", done, cut) == [3, 2]


def test_weights_and_opinions(write: Any) -> None:
    write("def a(completions): return [1.0, 2, None, None]\ndef b(completions): return [10, None, 30.5, None]\n")
    rewards = _load("./rewards.py:a,./rewards.py:b", "0.5,-1")
    scores = rewards([_completion("x")] * 4)
    assert rewards.names == ("a", "b") and rewards.weights == (0.5, -1.0)
    assert isinstance(scores, Scores) and scores.total.dtype == torch.float64
    assert scores.total[:3].tolist() == [0.5 - 10, 1.0, -30.5] and scores.total[3].isnan()
    assert scores.parts["a"].isnan().tolist() == [False, False, True, True]


def test_tensors_arrays_and_truth_values_are_numbers(write: Any) -> None:
    write(
        "import torch, numpy\n"
        "def tensor(completions): return torch.tensor([1.5, 2.0])\n"
        "def array(completions): return numpy.array([1, 2])\n"
        "def single(completions): return [numpy.float32(0.5), True]\n"
    )
    rows = (_completion("a"), _completion("b"))
    assert _score("./rewards.py:tensor", *rows) == [1.5, 2.0]
    assert _score("./rewards.py:array", *rows) == [1, 2]
    assert _score("./rewards.py:single", *rows) == [0.5, 1]


def test_functions_of_one_name_are_told_apart(write: Any) -> None:
    write("def score(completions): return [1] * len(completions)\n", "one.py")
    write("def score(completions): return [2] * len(completions)\n", "two.py")
    scores = _load("./one.py:score,./two.py:score")([_completion("a")])
    assert scores.parts.keys() == {"./one.py:score", "./two.py:score"} and scores.total.item() == 3
    with pytest.raises(ConfigError, match=r"reward_funcs: ./one.py:score is there twice"):
        _load("./one.py:score,./one.py:score")


_BROKEN = {
    "missing file": (None, "./nowhere.py:f", r"reward_funcs: no file ./nowhere.py \(looked for /.*/nowhere.py\)"),
    "missing function": (
        "def right(completions): ...\ndef _own(): ...\nfrom math import sqrt\n", "./rewards.py:wrong",
        r"reward_funcs: ./rewards.py has no function 'wrong'; its functions: right",
    ),
    "no function named": (
        "def right(completions): ...\n", "./rewards.py", r"funcs: ./rewards.py: write ./rewards.py:FUNCTION; .*right"
    ),
    "not a function": ("right = 3\n", "./rewards.py:right", r"has no function 'right'; its functions: none"),
    "syntax": (
        "import math\n\ndef f(completions)\n    return []\n", "./rewards.py:f",
        r"reward_funcs: ./rewards.py cannot be used: line 3: SyntaxError: expected ':'",
    ),
    "fails when read": (
        "import math\nx = 1 / 0\ndef f(completions): ...\n", "./rewards.py:f",
        r"reward_funcs: ./rewards.py cannot be used: line 2: ZeroDivisionError: division by zero",
    ),
    "missing package": (
        "import no_such_package\n", "./rewards.py:f", r"cannot be used: line 1: ModuleNotFoundError: No module named"
    ),
    "unknown name": (None, "formt", r"reward_funcs: unknown name 'formt'; did you mean format\?"),
}  # fmt: skip


@pytest.mark.parametrize("case", _BROKEN)
def test_what_cannot_be_loaded_is_one_line(case: str, write: Any) -> None:
    text, spec, message = _BROKEN[case]
    if text is not None:
        write(text)
    with pytest.raises(ConfigError, match=f"^.*{message}.*$") as caught:
        _load(spec)
    assert "\n" not in str(caught.value)


_WRONG = {
    "count": ("return [1.0]", r"./rewards.py:f: expected 2 numbers, one a completion, got 1"),
    "text": ("return [1.0, 'good']", r"f: completion 1: expected a finite number or None, got 'good'"),
    "nan": ("return [float('nan'), 1]", r"f: completion 0: expected a finite number or None, got nan"),
    "infinite": ("return [1, float('inf')]", r"f: completion 1: expected a finite number or None, got inf"),
    "nested": ("return [[1.0], [2.0]]", r"f: completion 0: expected a finite number or None, got \[1.0\]"),
    "no list": ("return 1.0", r"f: expected a list of 2 numbers, got float"),
    "nothing": ("pass", r"f: expected a list of 2 numbers, got NoneType"),
    "fails": ("return [helper(x) for x in completions]", r"f failed: .*/rewards.py, line 2: KeyError: 'a'"),
}


@pytest.mark.parametrize("case", _WRONG)
def test_what_a_function_does_wrong_is_one_line(case: str, write: Any) -> None:
    body, message = _WRONG[case]
    write(f"def helper(text):\n    return {{}}[text]\n\ndef f(completions):\n    {body}\n")
    with pytest.raises(ConfigError, match=f"^reward function .*{message}$") as caught:
        _score("./rewards.py:f", _completion("a"), _completion("b"))
    assert "\n" not in str(caught.value)


def test_a_column_that_is_not_there_is_named(write: Any) -> None:
    write("def f(completions, level): return []\n")
    with pytest.raises(ConfigError, match=r"./rewards.py:f: asks for level, which no column is called; .*grade"):
        _score("./rewards.py:f", _completion("a", columns={"grade": 3}))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("1", r"reward_weights: 1 given for 2 rewards \(format, length\)"),
        ("1,heavy", "reward_weights: expected numbers, got 1,heavy"),
        ("1,inf", "reward_weights: expected finite numbers, got 1,inf"),
    ],
)
def test_wrong_weights(weights: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _load("format,length", weights)


def test_format() -> None:
    good = ["<think>so</think>four", "\n<think>\nlong\n</think>\n\n four\n"]
    bad = ["four", "<think></think>four", "<think>so</think>", "a<think>so</think>four", "<think>so four",
           "<think>a</think>b<think>c</think>d", "so</think>four"]  # fmt: skip
    assert _score("format", *map(_completion, good)) == [1, 1]
    assert _score("format", *map(_completion, bad)) == [0] * len(bad)
    assert _score("format", _completion("four", reasoning="so"), _completion(" ", reasoning="so")) == [1, 0]


def test_format_agrees_with_trl() -> None:
    from trl.rewards import think_format_reward

    texts = ["<think>a</think>b", "<think>a\nb</think>\nc", "a", "<think>a", "x <think>a</think>b", "a</think>b"]
    ours = _score("format", *map(_completion, texts))
    assert ours == think_format_reward([[{"content": text}] for text in texts])


def test_accuracy_and_length() -> None:
    rows = [
        _completion("<think>Berlin?</think> Paris.", columns={"reference": "paris"}),
        _completion("It is Paris", columns={"reference": "paris"}),
        _completion("Paris", columns={"reference": ""}),
    ]
    assert _score("accuracy", *rows)[:2] == [1, 0] and math.isnan(_score("accuracy", *rows)[2])
    assert _score("length", _completion("a", ids=[1] * 250)) == [-0.25]


def test_math_verify() -> None:
    pytest.importorskip("math_verify")
    rows = [
        _completion(text, columns={"reference": reference})
        for text, reference in (
            ("<think>5?</think> The answer is 4.", "4"),
            (r"So \boxed{\frac{1}{2}}.", "0.5"),
            ("The answer is $x^2 + 2x + 1$", "$(x+1)^2$"),
            (r"$\frac{3}{4}$", r"\frac{6}{8}"),
            ("The answer is 5", "4"),
            ("I do not know", "4"),
        )
    ]
    assert _score("math_verify", *rows) == [1, 1, 1, 1, 0, 0]
    by_column = _completion("It is 7", columns={"reference": "no number here", "solution": "$7$"})
    unreadable = _completion("It is 7", columns={"reference": "none of these"})
    assert _score("math_verify", by_column) == [1]
    assert math.isnan(_score("math_verify", unreadable)[0])


def test_math_verify_agrees_with_trl() -> None:
    pytest.importorskip("math_verify")
    from trl.rewards import accuracy_reward

    texts = [r"\boxed{\frac{1}{3}}", r"My answer is \boxed{\frac{2}{6}}", r"\boxed{0.3}", r"\boxed{x + 1}"]
    solutions = [r"\frac{1}{3}", r"$\frac{1}{3}$", r"$\frac{1}{3}$", "$1 + x$"]
    ours = _score(
        "math_verify", *(_completion(t, columns={"solution": s}) for t, s in zip(texts, solutions, strict=True))
    )
    theirs = accuracy_reward(
        [[{"content": text}] for text in texts], [re.sub(r"^([^$].*)$", r"$\1$", s) for s in solutions]
    )
    assert ours == theirs == [1, 1, 0, 1]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(
        ConfigError, match=r"^reward_funcs: math_verify: needs the package math_verify; pip install math-verify$"
    ):
        _score("math_verify", _completion("4", columns={"reference": "4"}))


def test_the_examples_do_what_they_say() -> None:
    from llamafactory.train.rl.rollouts.tools import load_tools

    folder = Path(__file__).parents[2] / "examples" / "rewards"
    rows = [_completion("It is 4", ids=[1] * 20), _completion("5, in the Rain!", ids=[1] * 60), _completion("?")]
    assert _score(f"{folder}/rewards.py:short", *rows) == [1, 0.5, 1]
    assert _score(f"{folder}/rewards.py:ends_with_word", *rows) == [0, 1, 0]
    by_column = _completion("a plum", columns={"word": "Plum"})
    assert _score(f"{folder}/rewards.py:ends_with_word", by_column) == [1]
    assert _score(f"{folder}/rewards.py:sum_is_right", *rows) == [1, 0.1, 0]
    box = load_tools(str(folder / "tools.py"))
    assert box.call(ToolCall("add", {"a": 2, "b": 3})).text == "5"
    assert box.call(ToolCall("in_stock", {"fruit": "pear"})).text == '{"fruit": "pear", "pieces": 3}'
    assert box.call(ToolCall("in_stock", {"fruit": "fig"})).text.startswith("Error: KeyError: 'no fruit is called fig")
