# SPDX-License-Identifier: Apache-2.0
"""Whole runs with pictures or sound: packed, resumed, on two ranks, in every stage, evaluated, exported, served."""

from __future__ import annotations

import json
import math
import wave
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from media_models import build, picture, tone

from llamafactory.chat.chat_model import ChatModel
from llamafactory.data.messages import Message, Part
from llamafactory.hparams import get_infer_args
from llamafactory.train.tuner import export_model

from .running import assert_bit_equal, curve, first_half, train, train_elsewhere, weights_of

TEMPLATES = {"qwen2_vl": "qwen2_vl", "gemma3": None, "llava": None, "qwen2_audio": "qwen2_audio"}
SIZES = [(64, 48), (90, 60), (40, 84), (56, 56)]


@pytest.fixture(scope="module")
def folder_of(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return cache(lambda family: build(family, tmp_path_factory.mktemp(family), tiny_llama))


def write_media(folder: Path, kind: str) -> list[str]:
    """Four small files."""
    names = []
    for number, size in enumerate(SIZES):
        if kind == "image":
            names.append(f"{number}.png")
            picture(number, size).save(folder / names[-1])
        else:
            names.append(f"{number}.wav")
            write_wave(folder / names[-1], tone(200 + 150 * number, 0.3))
    return names


def write_wave(path: Path, sound: np.ndarray) -> None:
    """Samples in -1 to 1 at 16 kHz."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes((sound * 30000).astype(np.int16).tobytes())


def media_set(folder: Path, kind: str = "image", stage: str = "sft") -> dict[str, str]:
    """Eight rows: two with a medium, two of text, two with two media in two turns, and so on, in that order."""
    names, column, mark = write_media(folder, kind), f"{kind}s", f"<{kind}>"
    rows: list[dict[str, Any]] = []
    for number in range(2):
        a, b = names[2 * number], names[2 * number + 1]
        rows += [_row(f"{mark}What is it?", "A round thing.", [a]), _row(f"Look {mark} there", "It is a star", [b])]
        rows += [_row("Who are you?", "I am a small model.", []), _row("Count", "0 1 2 3 4 5 6", [])]
    info: dict[str, Any] = {"file_name": "rows.json", "formatting": "sharegpt"}
    columns = {"messages": "conversations", column: "media"}
    if stage in ("rm", "dpo"):
        columns |= {"chosen": "chosen", "rejected": "rejected"}
        info["ranking"] = True
        for row in rows:
            answer = row["conversations"].pop()
            row |= {"chosen": answer, "rejected": {"from": "gpt", "value": "No idea"}}
    if stage == "kto":
        columns["kto_tag"] = "good"
        for number, row in enumerate(rows):
            row["good"] = number % 3 != 0
    (folder / "rows.json").write_text(json.dumps(rows))
    (folder / "dataset_info.json").write_text(json.dumps({"rows": info | {"columns": columns}}))
    return {"dataset": "rows", "dataset_dir": str(folder)}


def _row(question: str, answer: str, media: list[str]) -> dict[str, Any]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"conversations": turns, "media": media}


def run_keys(model: Path, family: str, out: Path, **more: Any) -> dict[str, Any]:
    named = {} if TEMPLATES[family] is None else {"template": TEMPLATES[family]}
    return {
        "model_name_or_path": str(model),
        **named,
        "output_dir": str(out),
        "bf16": False,
        "cutoff_len": 512,
        "max_steps": 3,
        "logging_steps": 1,
        "save_strategy": "no",
        "learning_rate": 1e-3,
        "per_device_train_batch_size": 8,
        "disable_tqdm": True,
        "finetuning_type": "full",
        "freeze_vision_tower": False,
        "freeze_multi_modal_projector": False,
        "disable_shuffling": True,
        **more,
    }


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("family", ["qwen2_vl", pytest.param("gemma3", marks=pytest.mark.slow)])
def test_packed_rows_train_as_padded_ones(family: str, folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    """All rows are one step, in two packed lines or eight padded ones."""
    data = media_set(tmp_path)
    runs = {}
    for name, keys in {"packed": {"packing": True}, "padded": {"packing": False, "padding_free": False}}.items():
        runs[name] = train(run_keys(folder_of(family), family, tmp_path / name, **data, **keys))
    one, other = curve(runs["packed"]), curve(runs["padded"])
    assert len(one) == 3 and one[0][1] > one[-1][1]
    for (_, *ours), (_, *theirs) in zip(one, other, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    theirs = weights_of(runs["padded"])
    for name, weight in weights_of(runs["packed"]).items():
        torch.testing.assert_close(weight, theirs[name], rtol=0, atol=2e-5, msg=name)


@pytest.mark.slow
def test_a_stream_is_trained_as_rows_that_are_prepared(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    """All rows are one step, whichever way; the stream goes on bit for bit where it was stopped."""
    data = media_set(tmp_path)
    keys = run_keys(folder_of("qwen2_vl"), "qwen2_vl", tmp_path / "prepared", **data)
    prepared, streamed = curve(train(keys)), tmp_path / "streamed"
    found = curve(train(keys | {"streaming": True, "output_dir": str(streamed)}))
    assert len(found) == 3
    for (_, *ours), (_, *theirs) in zip(found, prepared, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    more = {"streaming": True, "max_steps": 6, "save_strategy": "steps", "save_steps": 3, "disable_shuffling": False}
    more |= {"per_device_train_batch_size": 2, "output_dir": str(tmp_path / "whole")}
    whole = train(keys | more)
    first_half(whole, tmp_path / "half", 6)
    again = {"output_dir": str(tmp_path / "half"), "resume_from_checkpoint": str(tmp_path / "half" / "checkpoint-3")}
    assert_bit_equal(whole, train(keys | more | again))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_audio"])
def test_a_resumed_run_is_bit_equal(family: str, folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    data = media_set(tmp_path, "audio" if family == "qwen2_audio" else "image")
    more = {**data, "max_steps": 6, "save_strategy": "steps", "save_steps": 3, "per_device_train_batch_size": 2}
    keys = run_keys(folder_of(family), family, tmp_path / "whole", **more, finetuning_type="lora", lora_dropout=0.1)
    whole = train(keys)
    first_half(whole, tmp_path / "half", 6)
    resumed = train(
        keys | {"output_dir": str(tmp_path / "half"), "resume_from_checkpoint": str(tmp_path / "half" / "checkpoint-3")}
    )
    assert_bit_equal(whole, resumed)


@pytest.mark.slow
def test_a_rank_without_media_is_not_waited_for(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    """Rank 0 has pictures in each of 20 steps, rank 1 text alone; the weights are those of one process."""
    data = media_set(tmp_path)
    keys = run_keys(folder_of("qwen2_vl"), "qwen2_vl", tmp_path / "one", **data, max_steps=20, packing=False)
    one = train(keys | {"per_device_train_batch_size": 4})
    for name, more in {"ddp": {}, "fsdp": {"fsdp": "full_shard auto_wrap"}}.items():
        out = tmp_path / name
        result = train_elsewhere(keys | more | {"output_dir": str(out), "per_device_train_batch_size": 2}, ranks=2)
        assert result.returncode == 0, result.stderr[-3000:]
        for (_, *ours), (_, *theirs) in zip(curve(out), curve(one), strict=True):
            assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5)
        theirs = weights_of(one)
        for weight_name, weight in weights_of(out).items():
            torch.testing.assert_close(weight, theirs[weight_name], rtol=0, atol=1e-4, msg=weight_name)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["pt", "dpo", "kto", "rm"])
def test_every_stage_takes_media(stage: str, folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    family = "gemma3" if stage == "rm" else "qwen2_vl"  # transformers has a reward head for few families
    keys = run_keys(folder_of(family), family, tmp_path / "out", **media_set(tmp_path, stage=stage), stage=stage)
    found = curve(train(keys | {"per_device_train_batch_size": 4}))
    assert len(found) == 3 and all(math.isfinite(loss) and norm > 0 for _, loss, norm in found)
    if stage == "dpo":
        assert found[0][1] == pytest.approx(math.log(2), abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_audio"])
def test_what_was_trained_is_evaluated_exported_and_served(
    family: str, folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    kind = "audio" if family == "qwen2_audio" else "image"
    data = media_set(tmp_path, kind)
    evaluated = {"eval_dataset": "rows", "do_eval": True}
    keys = run_keys(folder_of(family), family, tmp_path / "out", **data, max_steps=30, learning_rate=1e-2)
    keys |= {"finetuning_type": "lora", "per_device_train_batch_size": 4, "do_train": True, "max_new_tokens": 12}
    out = train(keys | evaluated | {"per_device_eval_batch_size": 4, "do_sample": False})
    results = json.loads((out / "all_results.json").read_text())
    assert 0 < results["eval_loss"] < 0.6 * curve(out)[0][1]
    base = {"model_name_or_path": str(folder_of(family)), "template": TEMPLATES[family]}
    export_model({**base, "adapter_name_or_path": str(out), "export_dir": str(tmp_path / "export")})
    file = str(tmp_path / ("0.wav" if kind == "audio" else "0.png"))
    question = [Message("user", (Part(kind, file), Part("text", "What is it?")))]
    greedy = {"infer_dtype": "float32", "do_sample": False, "max_new_tokens": 12, "template": TEMPLATES[family]}
    answers = []
    tuned = {**base, "adapter_name_or_path": str(out)}
    for keys in (tuned, {"model_name_or_path": str(tmp_path / "export")}, base):
        chat = ChatModel(get_infer_args(keys | greedy))
        answers.append(chat.chat(question)[0].text)
        chat.engine.close()
    assert answers[0] == answers[1] != answers[2]
