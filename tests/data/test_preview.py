# SPDX-License-Identifier: Apache-2.0
"""What preview prints: machine-readable rows, and rows for eyes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llamafactory.data.prepare.report import length_steps
from llamafactory.data.preview import CONTEXT, TRAINED, row_as_text
from llamafactory.train.commands.preview import next_command, run_preview

from .conftest import alpaca_rows, write_jsonl


@pytest.fixture
def keys(tiny_llama: Path, tmp_path: Path) -> dict[str, Any]:
    path = write_jsonl(tmp_path / "a.jsonl", [*alpaca_rows(9), {"instruction": "open", "output": ""}])
    return {
        "model_name_or_path": str(tiny_llama),
        "template": "chatml",
        "dataset": path,
        "output_dir": str(tmp_path / "o"),
    }


def test_json_is_all_that_stands_on_stdout(
    keys: dict[str, Any], tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run_preview({**keys, "preview_format": "json", "preview_samples": 4})
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 4
    for number, row in enumerate(rows):
        question, answer = f"count {number}", f"{number} " * (1 + number % 3)
        assert row["text"] == (f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n")
        assert row["input_ids"] == tokenizer(row["text"])["input_ids"]
        assert tokenizer.decode([label for label in row["labels"] if label != -100]) == f"{answer}<|im_end|>"
        before, after = row["text"].split(f"{answer}<|im_end|>")
        assert row["stretches"] == [[[before, False], [f"{answer}<|im_end|>", True], [after, False]]]


def test_text_shows_rows_counts_lengths_and_what_was_dropped(
    keys: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"{key}={value}" for key, value in keys.items()]
    run_preview([*words, "preview_samples=2", "packing=true", "cutoff_len=128"])
    shown = capsys.readouterr()
    assert "count 0" in shown.out
    assert "sequence 2" in shown.out
    assert "next: llamafactory-cli train model_name_or_path=" in shown.out
    assert "preview_samples" not in shown.out
    assert "1 no answer" in shown.err


def test_trained_and_context_tokens_differ_in_colour(tokenizer: Any) -> None:
    ids = tokenizer("ab cd", add_special_tokens=False)["input_ids"]
    labels = [-100] * 2 + ids[2:]
    text = row_as_text({"input_ids": ids, "labels": labels, "seq_lens": [len(ids)]}, tokenizer)
    assert text.plain == "ab cd"
    assert [span.style for span in text.spans] == [CONTEXT, TRAINED]


@pytest.mark.parametrize(
    "words", [["a.yaml", "preview_samples=2"], ["a.yaml", "--preview_samples", "2", "--seed", "1"]]
)
def test_the_next_command_leaves_nothing_of_the_preview_behind(words: list[str]) -> None:
    kept = ["--seed", "1"] if "--seed" in words else []
    assert next_command("train", words).split() == ["llamafactory-cli", "train", "a.yaml", *kept]


@pytest.mark.parametrize(
    ("longest", "cutoff"), [(45, 2048), (400, 64), (1, 8), (2048, 2048), (100_000, 4096), (7, 4096)]
)
def test_the_steps_of_lengths_fit_the_data(longest: int, cutoff: int) -> None:
    steps = length_steps(longest, cutoff)
    top = min(longest, cutoff)
    assert len(steps) <= 7 and steps == sorted(set(steps)) and steps[-1] >= top and steps[-1] <= cutoff
    assert steps[-1] < 2 * top + 1
