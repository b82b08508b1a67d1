# SPDX-License-Identifier: Apache-2.0
"""Batches against tensors written by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from llamafactory.data.collators import PaddedCollator, PaddingFreeCollator, PromptCollator

TOKENIZER = SimpleNamespace(pad_token_id=9)
ONE = {"input_ids": [1, 2, 3], "labels": [-100, 2, 3], "seq_lens": [3]}
PACK = {"input_ids": [4, 5, 6, 7, 8], "labels": [-100, 5, -100, -100, 8], "seq_lens": [2, 3]}


def test_padding_free_joins_rows_and_restarts_positions() -> None:
    batch = PaddingFreeCollator(TOKENIZER)([ONE, PACK])
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5, 6, 7, 8]]
    assert batch["labels"].tolist() == [[-100, 2, 3, -100, 5, -100, -100, 8]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0, 1, 2]]
    assert batch["cu_seqlens"].tolist() == [0, 3, 5, 8]
    assert (batch["cu_seqlens"].dtype, batch["max_seqlen"]) == (torch.int32, 3)
    assert {batch[name].dtype for name in ("input_ids", "labels", "position_ids")} == {torch.int64}
    assert "weights" not in batch


def test_weights_travel_with_the_tokens() -> None:
    weighted = [{**ONE, "weights": [0.0, 0.5, 2.0]}, {**PACK, "weights": [0.0, 1.0, 0.0, 0.0, 1.0]}]
    batch = PaddingFreeCollator(TOKENIZER)(weighted)
    assert batch["weights"].tolist() == [[0.0, 0.5, 2.0, 0.0, 1.0, 0.0, 0.0, 1.0]]
    assert PaddedCollator(TOKENIZER)(weighted[:1])["weights"].dtype == torch.float32


@pytest.mark.parametrize(
    ("side", "ids", "mask", "labels"),
    [
        ("right", [[1, 2, 3], [4, 9, 9]], [[1, 1, 1], [1, 0, 0]], [[-100, 2, 3], [-100, -100, -100]]),
        ("left", [[1, 2, 3], [9, 9, 4]], [[1, 1, 1], [0, 0, 1]], [[-100, 2, 3], [-100, -100, -100]]),
    ],
)
def test_padded_rows(side: str, ids: list, mask: list, labels: list) -> None:
    batch = PaddedCollator(TOKENIZER, padding_side=side)([ONE, {"input_ids": [4], "labels": [-100], "seq_lens": [1]}])
    assert {name: value.tolist() for name, value in batch.items()} == {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": labels,
    }


def test_packed_rows_are_never_padded() -> None:
    with pytest.raises(ValueError, match="packed row"):
        PaddedCollator(TOKENIZER)([ONE, PACK])


def test_prompts_end_in_the_last_column() -> None:
    batch = PromptCollator(TOKENIZER)([{"input_ids": [1, 2]}, {"input_ids": [3, 4, 5]}])
    assert batch["input_ids"].tolist() == [[9, 1, 2], [3, 4, 5]]
    assert batch["attention_mask"].tolist() == [[0, 1, 1], [1, 1, 1]]
