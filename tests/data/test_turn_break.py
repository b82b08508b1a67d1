# SPDX-License-Identifier: Apache-2.0
"""``train_on_turn_break`` decides on the line break behind an answer's end mark, however the rows are prepared."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from llamafactory.data.processor import FeedbackProcessor, PairwiseProcessor
from llamafactory.data.streaming.rows import rows_of

from .conftest import Prepare, write_jsonl

END = "<|im_end|>"


def _trained(row: dict[str, Any], tokenizer: Any) -> list[str]:
    """The trained stretches of a row as text."""
    pairs = zip(row["input_ids"], row["labels"], strict=True)
    stretches = [(trained, list(group)) for trained, group in groupby(pairs, key=lambda pair: pair[1] != -100)]
    return [tokenizer.decode([token for token, _ in group]) for trained, group in stretches if trained]


def _turn(role: str, text: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": text, **more}


@pytest.mark.parametrize("on", [False, True])
@pytest.mark.parametrize(
    "way", [{}, {"packing": True, "neat_packing": True}, {"streaming": True, "max_steps": 1}], ids=str
)
def test_of_conversations(prepare: Prepare, tokenizer: Any, tmp_path: Path, way: dict[str, Any], on: bool) -> None:
    turns = [_turn("user", "one"), _turn("assistant", "first"), _turn("user", "two"), _turn("assistant", "second")]
    masked = [turns[0], _turn("assistant", "first", train=False), *turns[2:]]
    file = write_jsonl(tmp_path / "a.jsonl", [{"messages": turns}, {"messages": masked}])
    rows = prepare(dataset=file, train_on_turn_break=on, disable_shuffling=True, **way).train
    if "streaming" in way:
        rows = [row for block in rows.blocks(rows.order(0, None), 0, 1) for row in rows_of(rows.encode(block).table)]
    mark = END + "\n" * on
    said = [text for row in rows for text in _trained(row, tokenizer)]
    assert sorted(said) == sorted(["first" + mark, "second" + mark, "second" + mark])


@pytest.mark.parametrize("on", [False, True])
def test_of_pairs_and_feedback(prepare: Prepare, tokenizer: Any, tmp_path: Path, on: bool) -> None:
    asked = [_turn("user", "one"), _turn("assistant", "first"), _turn("user", "two")]
    pair = {"messages": asked, "chosen": _turn("assistant", "good"), "rejected": _turn("assistant", "bad")}
    info = {"file_name": write_jsonl(tmp_path / "pairs.jsonl", [pair]), "formatting": "openai", "ranking": True}
    mark = END + "\n" * on
    keys = {"train_on_turn_break": on, "dataset_dir": {"pairs": info}}
    pairs = prepare(PairwiseProcessor(), stage="dpo", dataset="pairs", **keys).train
    assert _trained(pairs[0], tokenizer) == ["good" + mark, "bad" + mark]
    rows = [{"messages": [*asked, _turn("assistant", text)], "label": text == "good"} for text in ("good", "bad")]
    info = {"file_name": write_jsonl(tmp_path / "feedback.jsonl", rows), "formatting": "openai"}
    info["columns"] = {"messages": "messages", "kto_tag": "label"}
    keys["dataset_dir"] = {"feedback": info}
    feedback = prepare(FeedbackProcessor(), stage="kto", dataset="feedback", **keys).train
    assert [_trained(row, tokenizer)[0] for row in feedback] == ["good" + mark, "bad" + mark]
