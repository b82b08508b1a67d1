# SPDX-License-Identifier: Apache-2.0
"""What keeps a model from being saved is mended or said before the first step."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import GenerationConfig

from llamafactory.extras.errors import ConfigError
from llamafactory.train.saving.weights_first import keeping_weights

from .conftest import Keys
from .running import train, weights_of


def base_with(tiny_llama: Path, folder: Path, **advice: Any) -> str:
    base = shutil.copytree(tiny_llama, folder / "base")
    file = base / "generation_config.json"
    file.write_text(json.dumps({"eos_token_id": 1} | advice))
    return str(base)


@pytest.mark.parametrize("method", ["full", "freeze"])
@pytest.mark.parametrize("advice", [{"temperature": 0.6, "top_p": 0.9}, {"length_penalty": 2.0}], ids=str)
def test_sampling_advice_does_not_cost_the_weights(keys: Keys, tiny_llama, tmp_path, method, advice) -> None:
    base = base_with(tiny_llama, tmp_path, **advice)
    layers = {"freeze_trainable_layers": 1} if method == "freeze" else {}
    run = train(keys(model_name_or_path=base, finetuning_type=method, max_steps=1, **layers))
    assert (run / "model.safetensors").is_file()
    assert GenerationConfig.from_pretrained(run).temperature == advice.get("temperature")
    assert not [path for path in run.iterdir() if path.name.startswith(".rehearsal")]


def test_what_cannot_be_saved_is_said_before_the_first_step(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    from llamafactory.train.trainer import Trainer

    def refuse(*_: Any, **__: Any) -> None:
        raise ValueError("no\nshell")

    monkeypatch.setattr(GenerationConfig, "save_pretrained", refuse)
    monkeypatch.setattr(Trainer, "train", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(ConfigError, match=r"could not be saved: no$"):
        train(keys(finetuning_type="full"))


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("broken", ["configuration", "tokenizer"])
def test_what_fails_after_the_last_step_does_not_cost_the_weights(
    keys: Keys, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch, method: str, broken: str
) -> None:
    """The rehearsal went well, then the disk gets full: the weights are there first, under the name that is told."""
    import peft
    import transformers

    owner, name = {
        ("full", "configuration"): (GenerationConfig, "save_pretrained"),
        ("lora", "configuration"): (peft.PeftModel, "create_or_update_model_card"),
        ("full", "tokenizer"): (transformers.PreTrainedTokenizerBase, "save_pretrained"),
        ("lora", "tokenizer"): (transformers.PreTrainedTokenizerBase, "save_pretrained"),
    }[method, broken]
    plain, steps = getattr(owner, name), transformers.Trainer.training_step
    trained: list[int] = []

    def step(*words: Any, **more: Any) -> Any:
        trained.append(1)
        return steps(*words, **more)

    def write(*words: Any, **more: Any) -> Any:
        if trained:
            raise OSError(28, "No space left on device")
        return plain(*words, **more)

    monkeypatch.setattr(owner, name, write)
    monkeypatch.setattr(transformers.Trainer, "training_step", step)
    given = keys(finetuning_type=method, max_steps=1)
    kept = Path(given["output_dir"]) / "unfinished-model"
    with pytest.raises(ConfigError, match=rf"^output_dir: the trained weights are in {kept}, but .*No space left"):
        train(given)
    weights = weights_of(kept)
    assert weights and all(weight.isfinite().all() for weight in weights.values())
    if method == "full":
        assert any((weights[key] != value).any() for key, value in weights_of(tiny_llama).items())
    else:
        assert any(weight.any() for key, weight in weights.items() if "lora_B" in key)


def test_half_written_weights_are_not_called_the_trained_ones(tmp_path: Path) -> None:
    staging = tmp_path / ".staging-model"
    staging.mkdir()
    ends: list[tuple[int | None, type[Exception]]] = [(None, ConfigError), (40, OSError)]
    for size, said in ends:
        file = staging / "model.safetensors"
        save_file({"weight": torch.ones(8)}, file)
        file.write_bytes(file.read_bytes()[:size])
        with pytest.raises(said), keeping_weights(staging):
            raise OSError(28, "No space left on device")
        staging.mkdir(exist_ok=True)
    assert [path.name for path in tmp_path.iterdir() if path.name != ".staging-model"] == ["unfinished-model"]
