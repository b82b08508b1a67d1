# SPDX-License-Identifier: Apache-2.0
"""The commands that are printed as the next step mean in a shell what they say, whatever the names hold."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llamafactory.export import export
from llamafactory.hparams import get_infer_args, get_train_args
from llamafactory.hparams.next_command import next_command
from llamafactory.hparams.next_command import words_of as typed_words
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


@pytest.mark.parametrize("folder", [".", "./", "..", "a/..", "a/.", "a/b/", "{here}", "{here}/"])
def test_the_export_stands_beside_the_run(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the folder is called: the name is one that export takes, and nothing is written into the run."""
    here = tmp_path / "home" / "run"
    (here / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(here)
    folder = folder.format(here=here)
    args = get_train_args({"model_name_or_path": "m", "dataset": "x", "output_dir": folder, "bf16": False})
    monkeypatch.setattr(sys, "argv", ["llamafactory-cli", "train", "model_name_or_path=m", f"output_dir={folder}"])
    command = shlex.split(outputs.next_commands(args).splitlines()[-1])
    read = get_infer_args(command[2:])
    final, run = Path(os.path.realpath(str(read.export.export_dir))), Path(os.path.realpath(folder))
    assert final == run.with_name(f"{run.name}-merged")
    assert os.path.samefile(str(read.model.adapter_name_or_path), folder)


@pytest.mark.parametrize("value", HOSTILE)
def test_after_a_stop_and_an_evaluation(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["my.yaml", f"dataset={value}", "hub_token=hf_private"]
    masked = [*given[:2], "hub_token=***"]
    monkeypatch.setattr(sys, "argv", ["llamafactory-cli", "train", *given])
    text = outputs.same_command(overwrites=False) + "\n" + outputs.same_command(overwrites=True) + "\n"
    text += next_command("chat", [*given, "task=basics_test", "--save_dir", "x", "n_shot=0"])
    again = ["train", *masked]
    assert words_of(text, tmp_path) == [again, [*again, "overwrite_output_dir=false"], ["chat", *masked[:2]]]


@pytest.mark.parametrize("value", HOSTILE)
def test_after_a_preview_and_an_export(value: str, tmp_path: Path) -> None:
    (tmp_path / value).mkdir()
    (tmp_path / value / "Modelfile").touch()
    shown = next_command("train", ["my.yaml", f"dataset={value}", "--preview_samples", "3"])
    text = f"{shown}\n" + export.next_commands(tmp_path / value).removeprefix("Next:\n")
    final = str(tmp_path / value)
    assert words_of(text, tmp_path) == [
        ["train", "my.yaml", f"dataset={value}"],
        ["chat", "--model_name_or_path", final],
        ["create", value, "-f", f"{final}/Modelfile"],
    ]


TYPED = {
    "model_name_or_path": "m", "template": "chatml", "dataset": "a b.json", "output_dir": "out", "stage": "sft",
    "finetuning_type": "lora", "lora_rank": "4", "max_steps": "5", "overwrite_output_dir": "true",
    "learning_rate": "1e-4", "val_size": "0.1", "do_eval": "true", "preview_samples": "2", "report_format": "json",
}  # fmt: skip
INFERENCE = {
    "model_name_or_path": "m", "template": "chatml", "dataset": "a b.json", "task": "mmlu_test", "save_dir": "x y",
    "n_shot": "0", "batch_size": "2", "save_name": "z.jsonl", "max_new_tokens": "9", "export_dir": "e",
}  # fmt: skip
NOT_OF_CHAT = {"max_steps", "overwrite_output_dir", "learning_rate", "do_eval", "task", "save_dir", "export_dir"}


@pytest.mark.parametrize("form", ["{}={}", "--{}={}", "--{} {}"])
@pytest.mark.parametrize(("typed", "following"), [(TYPED, "train preview chat export"), (INFERENCE, "chat")])
def test_what_comes_next_is_read_by_it(typed: dict[str, str], following: str, form: str) -> None:
    """Pasted, each is taken by the parser of the command that it names, and holds no key of another command alone."""
    words = [word for key, value in typed.items() for word in _words(form, key, value)]
    for command in following.split():
        again = shlex.split(next_command(command, words, template="qwen"))
        assert again[:2] == ["llamafactory-cli", command]
        read = (get_train_args if command in ("train", "preview") else get_infer_args)(again[2:]).keys
        assert read["dataset"] == "a b.json" and read["template"] == "qwen"
        if command == "train":
            assert read.keys() == typed.keys() - {"preview_samples", "report_format"} and read["max_steps"] == 5
        elif command == "chat":
            assert not read.keys() & NOT_OF_CHAT


def _words(form: str, key: str, value: str) -> list[str]:
    """One word, or a flag and its value."""
    name, *rest = form.split()
    return [name.format(key, value), *(value for _ in rest)]


def test_what_comes_next_for_python_code() -> None:
    args = get_infer_args({"model_name_or_path": "m x", "task": "mmlu_test", "template": "chatml", "temperature": 0.5})
    words = shlex.split(next_command("chat", typed_words(args)))
    assert words[2:] == ["model_name_or_path=m x", "template=chatml", "temperature=0.5"]
