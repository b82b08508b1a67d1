# SPDX-License-Identifier: Apache-2.0
"""Model folders from strangers: weights that are programs, and code beside them, do not run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_infer_args
from llamafactory.hparams.model_args import ModelArguments
from llamafactory.model import load_model, load_tokenizer
from llamafactory.model.paths import resolve_model_path


class Canary:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.path),)


def load(**keys: Any) -> Any:
    args = get_infer_args({"template": "chatml", "infer_dtype": "float32", **keys})
    return load_model(load_tokenizer(args.model), args, trainable=False)


@pytest.fixture
def folder(tiny_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "model"))


def test_pickled_weights_run_nothing(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"model.embed_tokens.weight": Canary(tmp_path / "ran")}, folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"^model_name_or_path: .*pytorch_model.bin holds no plain weights"):
        load(model_name_or_path=str(folder))
    assert not (tmp_path / "ran").exists()


def test_a_pickled_adapter_runs_nothing(folder: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    torch.save({"base_model.model.x": Canary(tmp_path / "ran")}, adapter / "adapter_model.bin")
    with pytest.raises(ConfigError, match=r"^adapter_name_or_path: .*adapter_model.bin holds no plain weights: "):
        load(model_name_or_path=str(folder), adapter_name_or_path=str(adapter))
    assert not (tmp_path / "ran").exists()


def test_code_beside_a_model_runs_only_when_asked_for(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "strange", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\n")
    with pytest.raises(Exception):  # noqa: B017
        load(model_name_or_path=str(folder))
    assert not (tmp_path / "ran").exists()
    with pytest.raises(Exception):  # noqa: B017 - asked for, it runs, and has no such classes
        load(model_name_or_path=str(folder), trust_remote_code=True)
    assert (tmp_path / "ran").exists()  # so the test above can fail


_COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cached_hub_model(cache: Path, folder: Path, code: str) -> None:
    """Lay a model into the hub's cache as a download would, with a class of its own."""
    snapshot = cache / "models--some-owner--some-model" / "snapshots" / _COMMIT
    shutil.copytree(folder, snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(_COMMIT)
    config = json.loads((snapshot / "config.json").read_text())
    (snapshot / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoConfig": code}}))


@pytest.mark.parametrize(
    ("code", "revision", "why"),
    [
        ("evil.Config", "main", f"model_revision: {_COMMIT}"),
        ("evil.Config", "v1.0", "v1.0"),
        ("evil.Config", _COMMIT, None),
        ("other/repo--evil.Config", _COMMIT, "another repository"),
    ],
)
def test_code_of_the_hub_needs_a_commit(
    tiny_llama: Path, tmp_path: Path, code: str, revision: str, why: str | None
) -> None:
    cached_hub_model(tmp_path, tiny_llama, code)
    (tmp_path / "models--some-owner--some-model" / "refs" / "v1.0").write_text(_COMMIT)
    args = ModelArguments(cache_dir=str(tmp_path), model_revision=revision)
    assert resolve_model_path("some-owner/some-model", args) == "some-owner/some-model"  # its code is not run
    args = replace(args, trust_remote_code=True)
    if why is None:
        assert resolve_model_path("some-owner/some-model", args) == "some-owner/some-model"
    else:
        with pytest.raises(ConfigError, match=why):
            resolve_model_path("some-owner/some-model", args)
