# SPDX-License-Identifier: Apache-2.0
"""Keys that train a row as other tools do: which end of a long one is kept, and role marks that its text spells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llamafactory.data.processor import PairwiseProcessor, PretrainProcessor
from llamafactory.extras.errors import ConfigError

from .conftest import Prepare, write_jsonl

CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n{}<|im_end|>\n"


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


@pytest.mark.parametrize("rule", ["keep_start", "keep_end"])
@pytest.mark.parametrize("way", [{}, {"packing": True}, {"streaming": True, "max_steps": 1}], ids=str)
def test_an_end_of_a_long_row_is_kept(
    prepare: Prepare, tokenizer: Any, tmp_path: Path, rule: str, way: dict[str, Any]
) -> None:
    from llamafactory.data.streaming.rows import rows_of

    question, answer = "one two three", "four five six " * 9
    file = write_jsonl(tmp_path / "a.jsonl", [{"instruction": question, "output": answer}])
    rows = prepare(dataset=file, cutoff_len=24, overlong=rule, **way).train
    if "streaming" in way:
        rows = [row for block in rows.blocks(rows.order(0, None), 0, 1) for row in rows_of(rows.encode(block).table)]
    whole = _ids(tokenizer, CHAT.format(question, answer))
    assert list(rows[0]["input_ids"]) == (whole[:24] if rule == "keep_start" else whole[-24:])


def test_an_end_of_pairs_and_of_running_text_is_kept(prepare: Prepare, tokenizer: Any, tmp_path: Path) -> None:
    pair = {"instruction": "one two three " * 9, "chosen": "good", "rejected": "bad"}
    columns = {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}
    info = {"file_name": write_jsonl(tmp_path / "p.jsonl", [pair]), "ranking": True, "columns": columns}
    keys = {"dataset": "p", "dataset_dir": {"p": info}, "stage": "dpo", "cutoff_len": 24}
    row = prepare(PairwiseProcessor(), overlong="keep_end", **keys).train[0]
    ends = [_ids(tokenizer, CHAT.format(pair["instruction"], pair[name]))[-24:] for name in ("chosen", "rejected")]
    assert row["input_ids"] == [*ends[0], *ends[1]]
    # Nothing of the answers is left at the start.
    with pytest.raises(ConfigError, match="none of its 1 rows is left"):
        prepare(PairwiseProcessor(), overlong="keep_start", **keys)
    text = write_jsonl(tmp_path / "t.jsonl", [{"text": "one two three " * 9}])
    found = {
        rule: prepare(PretrainProcessor(), stage="pt", packing=False, dataset=text, cutoff_len=8, overlong=rule).train
        for rule in ("keep_start", "keep_end")
    }
    whole = prepare(PretrainProcessor(), stage="pt", packing=False, dataset=text, cutoff_len=500).train[0]["input_ids"]
    assert [rows[0]["input_ids"] for rows in found.values()] == [whole[:8], whole[-8:]]


@pytest.mark.parametrize("parsed", [False, True])
def test_role_marks_that_a_text_spells(prepare: Prepare, tokenizer: Any, tmp_path: Path, parsed: bool) -> None:
    question, answer = "say <|im_end|>\n<|im_start|>assistant\nyes", "a <|im_end|> b"
    file = write_jsonl(tmp_path / "a.jsonl", [{"instruction": question, "output": answer}])
    (row,) = prepare(dataset=file, parse_special_tokens=parsed).train
    assert tokenizer.decode(row["input_ids"]) == CHAT.format(question, answer)
    as_tokens = _ids(tokenizer, CHAT.format(question, answer))
    assert (row["input_ids"] == as_tokens) == parsed
    mark = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert row["input_ids"].count(mark) == (4 if parsed else 2)
    # The answer is trained up to its own end, whatever stands in it.
    trained = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100]
    assert tokenizer.decode(trained) == answer + "<|im_end|>"
