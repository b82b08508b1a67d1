# SPDX-License-Identifier: Apache-2.0
"""What models, adapters and data also come as: parts with an index, pickles, older tokenizers, other kinds of files.

Each is written with the library that others write it with.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
import wave
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from tests import media_models

QUESTIONS = [
    {"question": "Is rain wet?", "A": "yes", "B": "no", "C": "maybe", "D": "never", "answer": "A"},
    {"question": "Is fire cold?", "A": "yes", "B": "no", "C": "maybe", "D": "never", "answer": "B"},
]


def make(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write all of it beside ``base`` and ``adapter``.

    Args:
        folder: The world.
        rows: Of its data.
    """
    _models(folder)
    _tokenizers(folder)
    _tables(folder / "data", rows)
    _sound(folder)
    for kind in ("parquet", "jsonl", "json", "zip"):
        _benchmark(folder / "tasks" / kind, kind)


def _models(folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder / "base")
    for name in ("parts", "pickle", "pickles"):
        shutil.copytree(folder / "base", folder / name)
        (folder / name / "model.safetensors").unlink()
    model.save_pretrained(folder / "parts", max_shard_size="200KB")
    state = dict(model.state_dict())
    torch.save(state, folder / "pickle" / "pytorch_model.bin")
    halves: list[dict[str, Any]] = [{}, {}]
    for number, (name, tensor) in enumerate(state.items()):
        halves[number % 2][name] = tensor
    names = [f"pytorch_model-{number}-of-00002.bin" for number in ("00001", "00002")]
    for half, name in zip(halves, names, strict=True):
        torch.save(half, folder / "pickles" / name)
    where = {name: file for half, file in zip(halves, names, strict=True) for name in half}
    (folder / "pickles" / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    shutil.copytree(folder / "adapter", folder / "adapter-pickle")
    file = folder / "adapter-pickle" / "adapter_model.safetensors"
    torch.save(load_file(file), folder / "adapter-pickle" / "adapter_model.bin")
    file.unlink()


def _tokenizers(folder: Path) -> None:
    """The same vocabulary as older models carry it: in the files of GPT-2; and one of SentencePiece."""
    import sentencepiece

    text = json.loads((folder / "base" / "tokenizer.json").read_text())
    tokens = {token["content"]: token["id"] for token in text["added_tokens"]}
    ends = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    for name in ("gpt2", "pieces"):
        shutil.copytree(folder / "base", folder / name)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            (folder / name / file).unlink()
        (folder / name / "special_tokens_map.json").write_text(json.dumps(ends))
    merges = "".join(" ".join(pair) + "\n" for pair in text["model"]["merges"])
    (folder / "gpt2" / "merges.txt").write_text("#version: 0.2\n" + merges)
    vocabulary = {token: number for token, number in text["model"]["vocab"].items() if token not in tokens}
    (folder / "gpt2" / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "gpt2" / "added_tokens.json").write_text(json.dumps(tokens))
    settings = {"tokenizer_class": "GPT2Tokenizer", "model_max_length": 512, **ends, "bos_token": "<|endoftext|>"}
    (folder / "gpt2" / "tokenizer_config.json").write_text(json.dumps(settings))
    model = io.BytesIO()
    words = (f"who are you {number} a small model of rain and rivers" for number in range(200))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(words), model_writer=model, vocab_size=80, hard_vocab_limit=False, minloglevel=2,
        user_defined_symbols=["<|im_start|>", "<|im_end|>"],
    )  # fmt: skip
    (folder / "pieces" / "tokenizer.model").write_bytes(model.getvalue())
    settings = {"tokenizer_class": "LlamaTokenizer", "model_max_length": 512, "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "pieces" / "tokenizer_config.json").write_text(json.dumps(settings | {"pad_token": "<|im_end|>"}))
    (folder / "pieces" / "special_tokens_map.json").unlink()


def _tables(folder: Path, rows: list[dict[str, Any]]) -> None:
    import openpyxl
    import pyarrow as pa

    lines = "".join(json.dumps(row) + "\n" for row in rows)
    with pa.CompressedOutputStream(str(folder / "rows.jsonl.zst"), "zstd") as file:
        file.write(lines.encode())
    with (folder / "rows.tsv").open("w", newline="") as text:
        writer = csv.DictWriter(text, rows[0], delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    for values in ([*rows[0]], *([*row.values()] for row in rows)):
        sheet.append(values)
    book.save(folder / "rows.xlsx")
    table = pa.Table.from_pylist(rows)
    with pa.OSFile(str(folder / "feather.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as made:
        made.write_table(table)


def _sound(folder: Path) -> None:
    media_models.build("qwen2_audio", folder / "ears", folder / "base")
    samples = (media_models.tone(440.0) * 32767).astype(np.int16)
    with wave.open(str(folder / "data" / "tone.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(samples.tobytes())
    row = {"instruction": "<audio>what is this", "output": "a tone", "audios": ["tone.wav"]}
    (folder / "data" / "sounds.jsonl").write_text(json.dumps(row) + "\n")


def _benchmark(folder: Path, kind: str) -> None:
    """Questions in one of the kinds of files that a benchmark may consist of."""
    import pyarrow as pa
    import pyarrow.parquet

    folder.mkdir()
    (folder / "mapping.json").write_text(json.dumps({"water": {"name": "water", "category": "Nature"}}))
    lines = "".join(json.dumps(row) + "\n" for row in QUESTIONS)
    for split in ("dev", "test"):
        place = folder / split / f"water_{split}.{kind}"
        if kind == "zip":
            with zipfile.ZipFile(folder / "data.zip", "a") as archive:
                archive.writestr(f"{split}/water_{split}.jsonl", lines)
            continue
        place.parent.mkdir()
        if kind == "parquet":
            pyarrow.parquet.write_table(pa.Table.from_pylist(QUESTIONS), place)
        else:
            place.write_text(lines if kind == "jsonl" else json.dumps(QUESTIONS))
