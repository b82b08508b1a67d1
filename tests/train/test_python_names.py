# SPDX-License-Identifier: Apache-2.0
"""Names that LLaMA-Factory's users import do, here, what they do there."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_train_args

from .conftest import Keys
from .running import curve, train

STAGES = ("pt", "sft", "rm", "ppo", "dpo", "kto", "grpo")


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_runs_by_name_and_only_that_stage(stage: str, keys: Keys) -> None:
    run = getattr(importlib.import_module(f"llamafactory.train.{stage}"), f"run_{stage}")
    other = get_train_args(keys(stage="pt" if stage == "sft" else "sft"))
    with pytest.raises(ConfigError, match=rf"stage: run_{stage} trains stage {stage}, not (sft|pt)"):
        run(other)


def test_packages_of_stages_are_light() -> None:
    names = [f"llamafactory.train.{stage}" for stage in STAGES] + ["llamafactory.train.callbacks"]
    code = f"import sys, {', '.join(names)}; print([name for name in ('torch', 'transformers') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
    with pytest.raises(ImportError):
        from llamafactory.train.sft import run_dpo  # type: ignore[attr-defined]  # noqa: F401


def test_run_sft_is_the_run_of_the_command(keys: Keys, tmp_path: Path) -> None:
    from llamafactory.train.sft import run_sft
    from llamafactory.train.tuner import _training_function

    by_command = curve(train(keys(max_steps=3)))
    run_sft(get_train_args(keys(max_steps=3, output_dir=str(tmp_path / "by stage"))))
    assert curve(tmp_path / "by stage") == by_command

    from llamafactory.train.callbacks import LogCallback

    class Steps(LogCallback):
        seen = 0

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            Steps.seen = state.global_step
            return super().on_step_end(args, state, control, **kwargs)

    config = {"args": keys(max_steps=3, output_dir=str(tmp_path / "by config")), "callbacks": [Steps()]}
    _training_function(config)
    assert Steps.seen == 3


def test_the_trainer_of_sft(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever changes the class that stage sft names changes the run."""
    from llamafactory.plugins import resolve
    from llamafactory.train.sft.trainer import CustomSeq2SeqTrainer

    assert resolve("stages", "sft").trainer is CustomSeq2SeqTrainer
    used: list[int] = []
    plain = CustomSeq2SeqTrainer.compute_loss
    monkeypatch.setattr(CustomSeq2SeqTrainer, "compute_loss", lambda *a, **k: used.append(1) or plain(*a, **k))
    train(keys(max_steps=1))
    assert used == [1]


def test_a_pissa_adapter_ends_as_an_ordinary_one(keys: Keys, tiny_llama: Path, tmp_path: Path) -> None:
    """The callback leaves what the key ``pissa_convert`` leaves; a checkpoint on the way is still PiSSA's."""
    from safetensors.torch import load_file

    from llamafactory.train.callbacks import PissaConvertCallback

    pissa = {"pissa_init": True, "lora_rank": 2, "save_strategy": "steps", "save_steps": 5}
    by_key = train(keys(pissa_convert=True, output_dir=str(tmp_path / "key"), **pissa))
    by_callback = train(keys(output_dir=str(tmp_path / "callback"), **pissa), [PissaConvertCallback()])
    for name in ("adapter_config.json", "checkpoint-5/adapter_config.json"):
        assert json.loads((by_callback / name).read_text()) == json.loads((by_key / name).read_text())
    assert json.loads((by_callback / "adapter_config.json").read_text())["r"] == 4
    assert json.loads((by_callback / "checkpoint-5" / "adapter_config.json").read_text())["r"] == 2
    wanted, got = (load_file(run / "adapter_model.safetensors") for run in (by_key, by_callback))
    assert wanted.keys() == got.keys() and all(torch.equal(got[name], wanted[name]) for name in wanted)


def test_the_pissa_callback_needs_pissa(keys: Keys) -> None:
    from llamafactory.train.callbacks import PissaConvertCallback

    with pytest.raises(ConfigError, match="no PiSSA adapter; set pissa_init: true"):
        train(keys(max_steps=1), [PissaConvertCallback()])


def test_the_reporter_sends_all_arguments(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    from llamafactory.train.callbacks import ReporterCallback

    sent: dict[str, Any] = {}
    fake = SimpleNamespace(config=SimpleNamespace(update=lambda values, **_: sent.update(values)))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    reporter = ReporterCallback(get_train_args(keys(lora_rank=3, hf_hub_token="hf_hidden")))
    reporter.on_train_begin(SimpleNamespace(report_to=["wandb"]), SimpleNamespace(is_world_process_zero=True), None)
    assert "'lora_rank': 3" in str(sent) and "hf_hidden" not in str(sent)


def test_the_callback_of_swanlab(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    from llamafactory.train.trainer_utils import get_swanlab_callback

    args = get_train_args(keys(use_swanlab=True, swanlab_project="mine", swanlab_mode="local"))
    with pytest.raises(ConfigError, match="use_swanlab: needs the package swanlab"):
        get_swanlab_callback(args)

    made: dict[str, Any] = {}
    fake = SimpleNamespace(SwanLabCallback=lambda **options: made.update(options) or "callback")
    for name in ("swanlab", "swanlab.integration"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(__spec__=SimpleNamespace(name=name), __path__=[]))
    monkeypatch.setitem(sys.modules, "swanlab.integration.transformers", fake)
    assert get_swanlab_callback(args) == "callback"
    assert (made["project"], made["mode"]) == ("mine", "local")


def test_model_card(keys: Keys, tmp_path: Path) -> None:
    """Uploads have their tests in test_hub.py."""
    from llamafactory.train.trainer_utils import create_modelcard_and_push

    trainer = SimpleNamespace(
        args=SimpleNamespace(output_dir=str(tmp_path), push_to_hub=False),
        run_args=get_train_args(keys()),
        model=SimpleNamespace(peft_config={}),
        is_world_process_zero=lambda: True,
    )
    create_modelcard_and_push(trainer, {"train_loss": 1.25})
    card = (tmp_path / "README.md").read_text()
    assert "library_name: peft" in card and "| train_loss | 1.25 |" in card
