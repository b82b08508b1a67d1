# SPDX-License-Identifier: Apache-2.0
"""Completions in a column of their own, behind prompts that end with a turn of the assistant: nothing is lost.

The other side is the official template of the joined list.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llamafactory.data.processor import FeedbackProcessor, PairwiseProcessor, SupervisedProcessor
from llamafactory.data.sources.dataset_info import find_datasets
from llamafactory.data.sources.reading import open_set, to_samples
from llamafactory.data.template_loader import get_template
from llamafactory.hparams.data_args import DataArguments

from .conftest import write_jsonl
from .templates.comparison import load_official
from .templates.trained_tokenizers import build_tokenizer

Chat = list[dict[str, Any]]
U, A = ({"role": role, "content": text} for role, text in (("user", "The capital?"), ("assistant", "It is")))
U2, END = {"role": "user", "content": "Sure?"}, {"role": "assistant", "content": " Paris."}
WORSE = {"role": "assistant", "content": " Lyon."}
TOOL_TURNS = [
    {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "look", "arguments": {"x": 1}}}]},
    {"role": "tool", "content": "Paris"},
    END,
]
FAMILY = "qwen2_5"


def _encode(
    tmp_path: Path, processor: Any, row: dict[str, Any], entry: dict[str, Any] | None = None, **keys: Any
) -> tuple[list[str], list[str]]:
    """The texts of the first row's sequences, and what is trained of each."""
    file = write_jsonl(tmp_path / "rows.jsonl", [row])
    (attr,) = find_datasets(["x"], {"x": {"file_name": file, **entry}}) if entry else find_datasets([file], ".")
    attr, rows = open_set(attr, None, seed=0)
    (sample,) = to_samples(rows, attr)
    data = DataArguments(template=FAMILY, **keys)
    tokenizer = build_tokenizer(FAMILY)
    columns = processor.encode([sample], get_template(tokenizer, data), tokenizer, data).columns
    texts, trained, start = [], [], 0
    for size in columns["seq_lens"][0]:
        ids, labels = (columns[name][0][start : start + size] for name in ("input_ids", "labels"))
        texts.append(tokenizer.decode(ids))
        trained.append(tokenizer.decode([label for label in labels if label != -100]))
        start += size
    return texts, trained


def _official(chat: Chat) -> str:
    text: str = build_tokenizer(FAMILY).apply_chat_template(
        chat, chat_template=load_official(f"trl:{FAMILY}_training"), tokenize=False
    )
    return text


SHAREGPT = {
    "conversations": [{"from": "human", "value": U["content"]}, {"from": "gpt", "value": A["content"]}],
    "answer": END["content"],
}
ENTRY = {"formatting": "sharegpt", "columns": {"messages": "conversations", "response": "answer"}}


@pytest.mark.parametrize(
    ("row", "entry", "prompt", "completion"),
    [
        ({"prompt": [U, A], "completion": [END]}, None, [U, A], [END]),
        ({"prompt": [U, A], "completion": END["content"]}, None, [U, A], [END]),
        ({"prompt": [U, A, U2], "completion": [END]}, None, [U, A, U2], [END]),
        ({"prompt": [U, A, U2], "completion": TOOL_TURNS}, None, [U, A, U2], TOOL_TURNS),
        (SHAREGPT, ENTRY, [U, A], [END]),
    ],
)
def test_the_completion_alone_is_trained(
    row: dict[str, Any], entry: Any, prompt: Chat, completion: Chat, tmp_path: Path
) -> None:
    wanted = _official(prompt + completion)
    (text,), (trained,) = _encode(tmp_path, SupervisedProcessor(), row, entry)
    ends = [one["content"] + "<|im_end|>" for one in completion if one["role"] == "assistant" and one["content"]]
    calls = [f"<tool_call>{wanted.split('<tool_call>')[-1].split('</tool_call>')[0]}</tool_call><|im_end|>"]
    assert text == wanted
    assert trained == "".join((calls if len(completion) > 1 else []) + ends)
    if entry is None:
        (judged, _), (of_it, _) = _encode(tmp_path, FeedbackProcessor(), {**row, "label": True})
        assert (judged, of_it) == (wanted, trained)


def test_what_a_prompt_asks_itself_and_training_of_everything_hold(tmp_path: Path) -> None:
    row = {"prompt": [U, {**A, "train": True}, U2], "completion": [END]}
    assert _encode(tmp_path, SupervisedProcessor(), row)[1] == ["It is<|im_end|> Paris.<|im_end|>"]
    (text,), (trained,) = _encode(tmp_path, SupervisedProcessor(), {"prompt": [U, A], "completion": [END]},
                                  train_on_prompt=True)  # fmt: skip
    assert text.endswith(trained) and "It is" in trained


def test_a_column_that_says_the_last_answer_again_is_no_second_one(tmp_path: Path) -> None:
    row = {"prompt": [U, A], "completion": A["content"]}
    assert _encode(tmp_path, SupervisedProcessor(), row) == ([_official([U, A])], ["It is<|im_end|>"])


def test_pairs_behind_a_turn_of_the_assistant(tmp_path: Path) -> None:
    row = {"prompt": [U, A], "chosen": [END], "rejected": [WORSE]}
    assert _encode(tmp_path, PairwiseProcessor(), row) == (
        [_official([U, A, END]), _official([U, A, WORSE])], [" Paris.<|im_end|>", " Lyon.<|im_end|>"],
    )  # fmt: skip
