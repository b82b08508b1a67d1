# SPDX-License-Identifier: Apache-2.0
"""Batch inference: each row answered once, whatever happens on the way, and as a chat would answer it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from media_models import build, picture

from llamafactory.chat.batch_inference import run_infer
from llamafactory.chat.chat_model import ChatModel
from llamafactory.data.messages import Message, Part
from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_infer_args

ROWS = 24


@pytest.fixture
def keys(tiny_llama: Path, tmp_path: Path) -> dict[str, Any]:
    """A set of questions; every third row has no answer to compare with."""
    rows = [
        {"instruction": f"Say {number} and a word", "output": "" if number % 3 == 0 else f"{number} rain"}
        for number in range(ROWS)
    ]
    (tmp_path / "questions.json").write_text(json.dumps(rows))
    return {
        "model_name_or_path": str(tiny_llama),
        "template": "chatml",
        "dataset": str(tmp_path / "questions.json"),
        "max_new_tokens": 6,
        "do_sample": False,
        "save_name": str(tmp_path / "out" / "answers.jsonl"),
    }


def read(keys: dict[str, Any]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(keys["save_name"]).read_text().splitlines()]


def test_answers_are_those_of_a_chat(keys: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_infer({**keys, "matrix_save_name": str(tmp_path / "scores.json")})
    rows = read(keys)
    assert [row["row"] for row in rows] == list(range(1, ROWS + 1))
    model = ChatModel(get_infer_args(keys))
    for row in rows[:4]:
        question = [{"role": "user", "content": f"Say {row['row'] - 1} and a word"}]
        assert row["predict"] == model.chat(question)[0].text
        assert row["prompt"] == model.engine.template.render(
            [Message.of("user", question[0]["content"])], add_generation_prompt=True
        )
        number = row["row"] - 1
        assert row["label"] == ("" if number % 3 == 0 else f"{number} rain")
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["rows"] == ROWS - ROWS // 3
    assert f"{ROWS} answers" in capsys.readouterr().out


def test_killed_and_started_again_each_row_comes_once(keys: dict[str, Any]) -> None:
    keys = {**keys, "do_sample": True, "temperature": 1.0, "infer_concurrency": 2, "max_new_tokens": 40}
    whole = {**keys, "save_name": keys["save_name"] + ".whole"}
    run_infer(whole)
    words = [f"{key}={value}" for key, value in keys.items()]
    command = [sys.executable, "-m", "llamafactory.cli", "infer", *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))
    path, until = Path(keys["save_name"]), time.monotonic() + 120
    while (not path.exists() or path.read_bytes().count(b"\n") < ROWS // 2) and time.monotonic() < until:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = path.read_bytes()
    assert ROWS // 2 <= before.count(b"\n") < ROWS
    with path.open("ab") as file:
        file.write(b'{"prompt": "cut o')
    run_infer(keys)
    assert read(keys) == read(whole)
    for line in before.splitlines()[: ROWS // 2]:
        assert line in path.read_bytes().splitlines()


def test_a_folder_is_no_file_of_answers(keys: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^save_name: .* is a folder; name a file$"):
        run_infer({**keys, "save_name": str(tmp_path)})


def test_other_settings_are_refused(keys: dict[str, Any]) -> None:
    run_infer({**keys, "max_samples": 2})
    with pytest.raises(ConfigError, match=r"max_new_tokens: 7, but the answers in .*answers.jsonl were made with 6"):
        run_infer({**keys, "max_samples": 2, "max_new_tokens": 7})
    Path(keys["save_name"] + "x").write_text("notes")
    with pytest.raises(ConfigError, match="not by a run of infer"):
        run_infer({**keys, "save_name": keys["save_name"] + "x"})
    assert Path(keys["save_name"] + "x").read_text() == "notes"


def test_a_row_that_cannot_be_answered_is_named(keys: dict[str, Any], tmp_path: Path) -> None:
    rows = [{"instruction": "short", "output": ""}, {"instruction": "long " * 5000, "output": ""}]
    (tmp_path / "questions.json").write_text(json.dumps(rows))
    with pytest.raises(ConfigError, match=r"questions.json, row 2: .*tokens"):
        run_infer(keys)


def test_rows_with_images_are_answered_as_a_chat_answers_them(
    tiny_llama: Path, tmp_path: Path, keys: dict[str, Any]
) -> None:
    model = build("qwen2_vl", tmp_path / "model", tiny_llama)
    pictures = [picture(1), picture(150, (160, 120))]
    for number, image in enumerate(pictures):
        image.save(tmp_path / f"{number}.png")
    rows = [{"instruction": "<image>What?", "output": "cat", "images": [f"{number}.png"]} for number in (0, 1, 0)]
    rows.append({"instruction": "Who?", "output": "me", "images": []})
    (tmp_path / "questions.json").write_text(json.dumps(rows))
    keys = {**keys, "model_name_or_path": str(model), "template": "qwen2_vl", "infer_dtype": "float32"}
    keys["max_new_tokens"] = 24
    run_infer(keys)
    found = read(keys)
    assert [row["label"] for row in found] == ["cat", "cat", "cat", "me"]
    assert "<image>What?" in found[0]["prompt"]
    chat = ChatModel(get_infer_args(keys))
    for row, number in zip(found, (0, 1, 0), strict=False):
        message = Message("user", (Part("image", pictures[number]), Part("text", "What?")))
        assert row["predict"] == chat.chat([message])[0].text
    assert found[0]["predict"] == found[2]["predict"] != found[1]["predict"]
    (tmp_path / "1.png").write_bytes(b"no picture")
    with pytest.raises(ConfigError, match=r"questions\.json, row 2: image '.*1\.png': not an image"):
        run_infer({**keys, "save_name": str(tmp_path / "again.jsonl")})


def test_a_model_that_computes_no_numbers_writes_no_answers(keys: dict[str, Any], overflowing: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"questions\.json, row \d+: infer_dtype: the model's logits are NaN"
    ) as caught:
        run_infer({**keys, "model_name_or_path": str(overflowing)})
    assert "\n" not in str(caught.value)
    assert read(keys) == []
