# SPDX-License-Identifier: Apache-2.0
"""Preference data for the tests, and the features a run makes of it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

_WORDS = "who are you what is the name of a river story star number fox rain world please write think answer".split()  # noqa: SIM905


def _text(draw: random.Random, most: int) -> str:
    return " ".join(draw.choices(_WORDS, k=draw.randint(1, most)))


def pair_set(folder: Path, rows: list[dict[str, Any]] | None = None, **more: str) -> dict[str, str]:
    """Write 40 pairs of ragged lengths (or the given rows, with more columns) and return the keys that name them."""
    draw = random.Random(0)
    made = [{"instruction": _text(draw, 12), "chosen": _text(draw, 15), "rejected": _text(draw, 8)} for _ in range(40)]
    (folder / "pairs.json").write_text(json.dumps(made if rows is None else rows))
    columns = {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected", **more}
    info = {"pairs": {"file_name": "pairs.json", "ranking": True, "columns": columns}}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return {"dataset": "pairs", "dataset_dir": str(folder)}


def judged_set(folder: Path, rows: list[dict[str, Any]] | None = None) -> dict[str, str]:
    """Write 40 judged answers (or the given rows) and return the keys that name them."""
    draw = random.Random(1)
    made = [{"instruction": _text(draw, 12), "output": _text(draw, 15), "good": draw.random() < 0.6} for _ in range(40)]
    (folder / "judged.json").write_text(json.dumps(made if rows is None else rows))
    columns = {"prompt": "instruction", "response": "output", "kto_tag": "good"}
    info = {"judged": {"file_name": "judged.json", "columns": columns}}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return {"dataset": "judged", "dataset_dir": str(folder)}


def features(given: dict[str, Any], processor: Any) -> Any:
    """Return the training rows that a run with these keys sees."""
    from llamafactory.data.loader import get_dataset
    from llamafactory.data.template_loader import get_template
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    args = get_train_args(given)
    tokenizer = load_tokenizer(args.model)
    return get_dataset(processor, get_template(tokenizer, args.data), tokenizer, args).train


def answers(row: dict[str, Any]) -> list[tuple[list[int], list[int]]]:
    """Return (prompt, trained answer) of each sequence of a row, without what follows the answer."""
    found, start = [], 0
    for length in row["seq_lens"]:
        ids, labels = row["input_ids"][start : start + length], row["labels"][start : start + length]
        trained = [place for place, label in enumerate(labels) if label != -100]
        assert trained == list(range(trained[0], trained[-1] + 1))
        found.append((ids[: trained[0]], ids[trained[0] : trained[-1] + 1]))
        start += length
    return found
