# SPDX-License-Identifier: Apache-2.0
"""A tiny tokenizer, a cache of the test's own, and one call from rows to features."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llamafactory.data.loader import DatasetModule


@pytest.fixture(scope="session")
def tokenizer(tiny_llama: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_llama)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import datasets.config

    cache = tmp_path / "hf-cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    return cache


Prepare = Callable[..., DatasetModule]


@pytest.fixture
def prepare(tokenizer: Any, tiny_llama: Path, tmp_path: Path) -> Prepare:
    """``prepare(dataset=..., processor=..., **keys)``: what a run with these keys would train on."""

    def run(processor: Any = None, **keys: Any) -> DatasetModule:
        from llamafactory.data.loader import get_dataset
        from llamafactory.data.processor import SupervisedProcessor
        from llamafactory.data.template_loader import get_template
        from llamafactory.hparams import get_train_args

        keys = {
            "model_name_or_path": str(tiny_llama),
            "template": "chatml",
            "output_dir": str(tmp_path / "out"),
            "dataset_dir": str(tmp_path),
            "do_train": True,
            **keys,
        }
        args = get_train_args(keys)
        return get_dataset(processor or SupervisedProcessor(), get_template(tokenizer, args.data), tokenizer, args)

    return run


def write_jsonl(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def alpaca_rows(number: int, words: int = 3) -> list[dict[str, str]]:
    return [{"instruction": f"count {i}", "input": "", "output": f"{i} " * (1 + i % words)} for i in range(number)]
