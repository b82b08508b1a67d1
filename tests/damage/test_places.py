# SPDX-License-Identifier: Apache-2.0
"""Places that cannot be written or do not exist: a full disk, a read-only one, names that no file can have."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from llamafactory.extras.errors import ConfigError, explain, writing

from .world import EVAL, EXPORT, INFER, SFT, World

NOT_ROOT = os.geteuid() != 0
SAVING = (*SFT, "save_strategy=steps", "save_steps=1")
# What is written, and where.
WRITERS = {
    "train": ((*SFT, "output_dir=place/run"), "place/run"),
    "checkpoint": ((*SAVING, "output_dir=place/run", "finetuning_type=full"), "place/run"),
    "export": ((*EXPORT, "export_dir=place/merged"), "place/merged"),
    "preprocess": (("preprocess", *SFT[1:], "tokenized_path=place/data"), "place/data"),
    "eval": ((*EVAL, "task=quiz_test", "save_dir=place/results"), "place/results"),
    "infer": ((*INFER, "save_name=place/answers.jsonl", "max_samples=12"), "place/answers.jsonl"),
}


@contextlib.contextmanager
def mounted(folder: Path, *options: str) -> Iterator[None]:
    """Put a small file system of memory there."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", folder], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("nothing can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A folder that can be read alone, for root too."""
    if NOT_ROOT:
        folder.mkdir()
        folder.chmod(0o555)
        yield
        folder.chmod(0o755)
        return
    with mounted(folder, "-o", "ro"):
        yield


@contextlib.contextmanager
def small_files(limit: int) -> Iterator[None]:
    """No file may grow beyond ``limit`` bytes; Python ignores the signal, so that the write fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def refused(world: World, words: tuple[str, ...], *says: str) -> None:
    """One clear line, whatever came before it."""
    from .world import run

    outcome = run(world.folder, words)
    assert outcome.code in (1, 2), outcome.errors[-3000:]
    assert "Traceback" not in outcome.errors and outcome.last.startswith("error: "), outcome.errors[-3000:]
    assert any(text in outcome.last for text in says), outcome.last


def looks_whole(place: Path) -> list[str]:
    """Files at their final place that a reader would take for whole, and what no rerun would remove."""
    if not place.exists():
        return []
    found = [path for path in place.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return [path.name for path in found if path.suffix in (".safetensors", ".pt") or path.name == "dataset_dict.json"]


@pytest.mark.parametrize("name", WRITERS)
def test_a_read_only_place(world: World, name: str) -> None:
    words, place = WRITERS[name]
    with read_only(world.folder / "place"):
        refused(world, words, "place")
        assert not (world.folder / place).exists()


@pytest.mark.skipif(NOT_ROOT, reason="only root mounts")
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk(world: World, name: str) -> None:
    words, place = WRITERS[name]
    with mounted(world.folder / "place", "-o", "size=16k" if name != "infer" else "size=4k"):
        refused(world, words, place)
        assert looks_whole(world.folder / place) == []


@pytest.mark.parametrize(
    ("name", "limit"), [*((name, 4096) for name in WRITERS if name != "infer"), ("train", 0), ("infer", 0)]
)
def test_files_that_may_not_grow(world: World, name: str, limit: int) -> None:
    """Every line names the file, or the folder that a library was writing into."""
    words, place = WRITERS[name]
    folder = str(Path(place).parent)
    with small_files(limit):
        refused(world, words, f"error: {folder}/", f"error: {world.folder}/")
    assert looks_whole(world.folder / place) == []


@pytest.mark.parametrize("library", ["safetensors", "torch", "numpy", "python"])
def test_errors_of_libraries_get_the_place(library: str, tmp_path: Path) -> None:
    """By themselves they say that something cannot be written, and not what."""
    file = tmp_path / "file"
    write: Callable[[], Any] = {
        "safetensors": lambda: save_file({"weight": torch.ones(999)}, file),
        "torch": lambda: torch.save(torch.ones(999), file),
        "numpy": lambda: np.save(file.open("wb"), np.ones(999)),
        "python": lambda: file.write_bytes(bytes(9999)),
    }[library]
    with small_files(100), pytest.raises(ConfigError, match=rf"^{file}: .*; [a-z ]+"), writing(file):
        write()


def test_no_place_for_temporary_files_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    with small_files(0), pytest.raises(FileNotFoundError) as caught:
        tempfile.gettempdir()
    line = explain(caught.value)
    assert line is not None and line.endswith("; free some space, or name another place by TMPDIR")


def test_a_full_disk_for_the_cache(world: World) -> None:
    with small_files(1024):
        refused(world, (*SFT, "dataset=data/rows.csv"), f"error: {world.folder}/cache/")


KEYS = {
    "train": ("model_name_or_path", "adapter_name_or_path", "dataset", "dataset_dir", "output_dir", "tokenized_path",
              "template", "resume_from_checkpoint", "new_special_tokens_config"),
    "export": ("export_dir",),
    "infer": ("save_name", "media_dir"),
    "eval": ("task_dir", "save_dir"),
}  # fmt: skip
BASES = {"train": SFT, "export": EXPORT, "infer": INFER, "eval": ("eval", "model_name_or_path=base", "task=quiz_test")}
NAMES = {"nul": "./a\0b", "long": "./" + "a" * 300, "ftp": "ftp://127.0.0.1:9/rows.json"}


@pytest.mark.parametrize(
    ("command", "key", "kind"),
    [(command, key, kind) for command, keys in KEYS.items() for key in keys for kind in NAMES]
)  # fmt: skip
def test_names_that_no_file_can_have(world: World, command: str, key: str, kind: str) -> None:
    name = NAMES[kind] + (".jinja" if key == "template" else "")
    given = dict(word.split("=", 1) for word in BASES[command][1:])
    given = {name: yaml.safe_load(value) for name, value in given.items()} | {key: name}
    if key == "dataset_dir":
        given["dataset"] = "listed"
    if (key, kind) in (("media_dir", "long"), ("media_dir", "ftp")):
        pytest.skip("rows without media do not look there")
    (world.folder / "named.yaml").write_text(yaml.safe_dump(given))
    refused(world, (command, "named.yaml"), key, "a" * 300, "ftp://")


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


RUN_AGAIN = (*SFT, "output_dir=run", "max_steps=2", "overwrite_output_dir=true")
OF_OTHERS = {
    "scores": ((*INFER, "save_name=new.jsonl", "matrix_save_name=own/table.json"), "own/table.json", '{"a": 1}'),
    "text": ((*INFER, "save_name=new.jsonl", "matrix_save_name=own/table.json"), "own/table.json", "thesis"),
    "checkpoint": (RUN_AGAIN, "run/checkpoint-99/thesis.md", "thesis"),
    "next": ((*SFT, "output_dir=run", "max_steps=3", "save_strategy=steps", "save_steps=3"), "run/checkpoint-3/a", "b"),
}


@pytest.mark.parametrize("name", OF_OTHERS)
def test_what_others_made_is_never_written_over(world: World, name: str) -> None:
    """Figures over a file that was there; a folder that is called like a checkpoint and is none."""
    words, place, text = OF_OTHERS[name]
    (world.folder / place).parent.mkdir(parents=True, exist_ok=True)
    (world.folder / place).write_text(text)
    before = files_of(world.folder)
    refused(world, words, Path(place).parent.name)
    assert files_of(world.folder) == before


def test_hidden_folders_of_others_are_no_leftovers(world: World) -> None:
    from .world import run

    for name in (".trash-mine", ".staging-model-old", ".staging-checkpoint-4"):
        (world.folder / "out" / name).mkdir(parents=True)
    assert run(world.folder, SFT).code == 0
    assert sorted(path.name for path in (world.folder / "out").glob(".[st]*-*")) == [
        ".staging-model-old",
        ".trash-mine",
    ]
