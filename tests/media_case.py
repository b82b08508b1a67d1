# SPDX-License-Identifier: Apache-2.0
"""Rows with media on disk, encoded as a run encodes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llamafactory.data.collators import PaddedCollator
from llamafactory.data.loader import get_dataset
from llamafactory.data.processor import SupervisedProcessor
from llamafactory.data.template_loader import get_template, take_media
from llamafactory.hparams import get_train_args
from llamafactory.model import load_processor, load_tokenizer


class Case:
    """A model's folder and rows on disk, encoded as a run would."""

    def __init__(
        self, model: Path, folder: Path, rows: list[dict[str, Any]], processor: Any = None, **keys: Any
    ) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "rows.json").write_text(json.dumps(rows))
        names = [name for name in ("images", "videos", "audios") if any(name in row for row in rows)]
        entry = {"file_name": "rows.json", "formatting": "openai", "columns": {"messages": "messages"}}
        entry["columns"] |= {name: name for name in names}
        entry |= keys.pop("entry", {})
        (folder / "dataset_info.json").write_text(json.dumps({"rows": entry}))
        base = {
            "model_name_or_path": str(model), "dataset": "rows", "dataset_dir": str(folder),
            "media_dir": str(folder.parent), "output_dir": str(folder / "out"), "stage": "sft", "packing": False,
        }  # fmt: skip
        args = get_train_args(base | keys)
        self.tokenizer = load_tokenizer(args.model)
        self.processor: Any = load_processor(args.model, self.tokenizer)
        self.template = get_template(self.tokenizer, args.data)
        take_media(self.template, self.processor, args.media)
        self.data = get_dataset(processor or SupervisedProcessor(), self.template, self.tokenizer, args)
        self.rows = [dict(row) for row in self.data.train]

    def batch(self, **options: Any) -> dict[str, Any]:
        return PaddedCollator(self.tokenizer, media=self.template.batch_media(), **options)(self.rows)


def talk(*texts: str) -> list[dict[str, Any]]:
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]
