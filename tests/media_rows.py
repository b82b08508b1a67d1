# SPDX-License-Identifier: Apache-2.0
"""Conversations with media as transformers' own processors encode them, and its own models' losses of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from media_models import picture, tone
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForMultimodalLM

from llamafactory.hparams import get_train_args
from llamafactory.model import load_processor, load_tokenizer

Row = list[dict[str, Any]]  # messages of a conversation


def rows_of(kind: str) -> list[Row]:
    """A picture in front; text alone; two pictures of other sizes at other places, with text before and behind."""
    if kind == "audio":
        media = [tone(300, 0.4), tone(500, 0.7), tone(800, 0.3)]
    else:
        media = [picture(1, (64, 48)), picture(2, (90, 60)), picture(3, (40, 84))]
    first, second, third = ({"type": kind, kind: one} for one in media)
    text = [{"type": "text", "text": words} for words in ("What is it?", "Look here", "and there, please", "Hello you")]
    return [
        [_turn("user", first, text[0]), _turn("assistant", {"type": "text", "text": "A round thing."})],
        [_turn("user", text[3]), _turn("assistant", {"type": "text", "text": "Hello, I am a small model."})],
        [
            _turn("user", text[1], second, text[2]),
            _turn("assistant", {"type": "text", "text": "I see."}),
            _turn("user", {"type": "text", "text": "Now this"}, third),
            _turn("assistant", {"type": "text", "text": "It is another one."}),
        ],
    ]


def _turn(role: str, *parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": role, "content": list(parts)}


class Official:
    """A family's processor and model, as transformers loads them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        args = get_train_args({"model_name_or_path": str(folder), "dataset": "none", "output_dir": "none"})
        self.tokenizer = load_tokenizer(args.model)
        self.tokenizer.padding_side = "right"
        self.processor: Any = load_processor(args.model, self.tokenizer)

    def model(self) -> Any:
        """All weights trained, attention as transformers has it."""
        return AutoModelForMultimodalLM.from_pretrained(self.folder, dtype=torch.float32).train()

    def batch(self, rows: list[Row]) -> dict[str, Tensor]:
        """What the processor makes of conversations, padded on the right, with labels on some of the text."""
        texts = [self.tokenizer.apply_chat_template(row, tokenize=False) for row in rows]
        media = {
            kind: [[part[kind] for turn in row for part in turn["content"] if part["type"] == kind] for row in rows]
            for kind in ("image", "audio")
        }
        given: dict[str, Any] = {}
        if any(media["image"]):
            given["images"] = media["image"]
        if any(media["audio"]):
            given |= {"audio": [sound for row in media["audio"] for sound in row], "sampling_rate": 16000}
        batch = dict(self.processor(text=texts, padding=True, return_tensors="pt", **given))
        generator = torch.Generator().manual_seed(sum(map(len, texts)))
        drawn = torch.rand(batch["input_ids"].shape, generator=generator) < 0.6
        trained = drawn & batch["attention_mask"].bool() & ~self._is_media(batch["input_ids"])
        trained[:, 0] = False
        return {**batch, "labels": batch["input_ids"].masked_fill(~trained, -100)}

    def _is_media(self, ids: Tensor) -> Tensor:
        names = ("image_token_id", "video_token_id", "audio_token_id")
        known = [one for name in names if isinstance(one := getattr(self.processor, name, None), int)]
        return torch.isin(ids, torch.tensor(known))


def loss_sum(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """The sum of the losses of the labels, by the model's own logits."""
    labels = batch["labels"]
    logits = model(**{name: value for name, value in batch.items() if name != "labels"}, use_cache=False).logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum")


def in_one_line(batch: dict[str, Tensor]) -> dict[str, Any]:
    """A padded batch without its padding: all sequences in one line, media as they are."""
    mask = batch["attention_mask"].bool()
    lengths = mask.sum(1)
    line = {
        name: value[mask][None]
        for name, value in batch.items()
        if value.shape[:2] == mask.shape and name != "attention_mask"
    }
    media = {name: value for name, value in batch.items() if name not in line and name != "attention_mask"}
    return {
        **line,
        **media,
        "position_ids": torch.cat([torch.arange(length) for length in lengths.tolist()])[None],
        "cu_seqlens": torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]).to(torch.int32),
        "max_seqlen": int(lengths.max()),
    }
