# SPDX-License-Identifier: Apache-2.0
"""The commands that are printed as the next step mean in a shell what they say, whatever the names hold."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llamafactory.eval import evaluator
from llamafactory.export import export
from llamafactory.hparams import get_train_args
from llamafactory.train.commands import preview
from llamafactory.train.saving import outputs

HOSTILE = ["a b", "$(touch ran)", "`touch ran`", "x;touch ran", "x&&touch ran", "x\ntouch ran", "'\"; touch ran #", "*"]


def words_of(text: str, folder: Path) -> list[list[str]]:
    """Paste text into bash, where our command and ollama only tell their arguments."""
    binaries = folder / "bin"
    binaries.mkdir()
    tell = f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n"
    for name in ("llamafactory-cli", "ollama"):
        (binaries / name).write_text(tell)
        (binaries / name).chmod(0o755)
    empty = folder / "empty"
    empty.mkdir()
    path = f"{binaries}{os.pathsep}{os.environ['PATH']}"
    bash = shutil.which("bash") or pytest.skip("no bash")
    done = subprocess.run(
        [bash, "-s"], input=text, cwd=empty, env={"PATH": path}, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == "" and list(empty.iterdir()) == []
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("value", HOSTILE)
def test_after_training(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    keys = {"model_name_or_path": value, "dataset": "x", "template": "chatml", "output_dir": f"out/{value}"}
    args = get_train_args({**keys, "bf16": False})
    monkeypatch.setattr(sys, "argv", ["llamafactory-cli", "train", *(f"{k}={v}" for k, v in keys.items())])
    given = [f"model_name_or_path={value}", f"adapter_name_or_path=out/{value}", "template=chatml"]
    told = words_of(outputs.next_commands(args).removeprefix("Next:\n"), tmp_path)
    assert told == [["chat", *given], ["export", *given, f"export_dir=out/{value}-merged"]]


@pytest.mark.parametrize("value", HOSTILE)
def test_after_a_stop_and_an_evaluation(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["my.yaml", f"dataset={value}", "hub_token=hf_private"]
    masked = [*given[:2], "hub_token=***"]
    monkeypatch.setattr(sys, "argv", ["llamafactory-cli", "train", *given])
    text = outputs.same_command(overwrites=False) + "\n" + outputs.same_command(overwrites=True) + "\n"
    monkeypatch.setattr(sys, "argv", ["llamafactory-cli", "eval", *given])
    text += evaluator.next_command().removeprefix("Next:\n")
    again = ["train", *masked]
    assert words_of(text, tmp_path) == [again, [*again, "overwrite_output_dir=false"], ["chat", *masked]]


@pytest.mark.parametrize("value", HOSTILE)
def test_after_a_preview_and_an_export(value: str, tmp_path: Path) -> None:
    (tmp_path / value).mkdir()
    (tmp_path / value / "Modelfile").touch()
    shown = preview.next_command(["my.yaml", f"dataset={value}", "preview_rows=3"])
    text = f"{shown}\n" + export.next_commands(tmp_path / value).removeprefix("Next:\n")
    final = str(tmp_path / value)
    assert words_of(text, tmp_path) == [
        ["train", "my.yaml", f"dataset={value}"],
        ["chat", "--model_name_or_path", final],
        ["create", value, "-f", f"{final}/Modelfile"],
    ]
