# SPDX-License-Identifier: Apache-2.0
"""Keys of another tuner, stage or switch than the chosen ones: refused where they ask for something, else said."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import pytest
import yaml

from llamafactory import plugins
from llamafactory.extras import logging
from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_infer_args, get_train_args
from llamafactory.hparams.rlhf_args import RLHFArguments
from llamafactory.hparams.rules import unread
from llamafactory.hparams.schema import keys_of, known_keys, tuner_arguments

ROOT = Path(__file__).parents[2]
BASE = {"model_name_or_path": "org/tiny", "dataset": "identity"}
FULL, FREEZE = {"finetuning_type": "full"}, {"finetuning_type": "freeze"}
LORA_ONLY = "only for finetuning_type lora, not"
ADAPTERS_ONLY = "only for finetuning_type lora or another method of PEFT, not"

# Beside what -> keys that ask for something -> the whole line.
REFUSED = [
    ({}, {"quantization_method": "gptq"}, "quantization_method: needs quantization_bit, which is not given"),
    ({}, {"quantization_type": "fp4"}, "quantization_type: needs quantization_bit, which is not given"),
    (FULL, {"use_rslora": True}, f"use_rslora: {LORA_ONLY} full"),
    (FULL, {"use_dora": "true"}, f"use_dora: {LORA_ONLY} full"),
    (FREEZE, {"pissa_init": True}, f"pissa_init: {LORA_ONLY} freeze"),
    (FREEZE, {"pissa_convert": True}, f"pissa_convert: {LORA_ONLY} freeze"),
    (FULL, {"loraplus_lr_ratio": 16}, f"loraplus_lr_ratio: {LORA_ONLY} full"),
    (FULL, {"additional_target": ["embed_tokens"]}, f"additional_target: {ADAPTERS_ONLY} full"),
    (FULL, {"create_new_adapter": True}, f"create_new_adapter: {ADAPTERS_ONLY} full"),
    ({}, {"freeze_trainable_layers": 3}, "freeze_trainable_layers: only for finetuning_type freeze, not lora"),
    (FULL, {"freeze_trainable_modules": "mlp"}, "freeze_trainable_modules: only for finetuning_type freeze, not full"),
    (FULL, {"freeze_extra_modules": "norm"}, "freeze_extra_modules: only for finetuning_type freeze, not full"),
    ({}, {"pref_loss": "orpo"}, "pref_loss: only for stage dpo, not sft"),
    ({"stage": "kto"}, {"pref_loss": "simpo"}, "pref_loss: only for stage dpo, not kto"),
    ({"stage": "rm"}, {"pref_ftx": 0.1}, "pref_ftx: only for stage dpo or kto, not rm"),
    ({}, {"dpo_ftx": 0.1}, "pref_ftx: only for stage dpo or kto, not sft"),
    ({"stage": "pt"}, {"pref_bco_weight": 0.5}, "pref_bco_weight: only for stage dpo, not pt"),
    ({}, {"ld_alpha": 0.5}, "ld_alpha: only for stage dpo, not sft"),
    ({"stage": "dpo"}, {"center_rewards_coefficient": 0.1}, "center_rewards_coefficient: only for stage rm, not dpo"),
    ({"stage": "rm"}, {"ref_model": "m"}, "ref_model: only for stage sft or dpo or kto or ppo or grpo, not rm"),
    ({}, {"ref_model_adapters": "a"}, "ref_model_adapters: in stage sft only with use_asft_loss: true"),
    ({"stage": "dpo"}, {"reward_model": "m"}, "reward_model: only for stage ppo or grpo, not dpo"),
    ({}, {"reward_funcs": "length"}, "reward_funcs: only for stage ppo or grpo, not sft"),
    ({}, {"rollout_tools": "t.py"}, "rollout_tools: only for stage ppo or grpo, not sft"),
    ({}, {"ppo_score_norm": True}, "ppo_score_norm: only for stage ppo, not sft"),
    ({}, {"ppo_whiten_rewards": True}, "ppo_whiten_rewards: only for stage ppo, not sft"),
    ({"stage": "ppo", "reward_funcs": "length"}, {"beta": 0.1}, "beta: only for stage grpo, not ppo"),
    ({"stage": "ppo", "reward_funcs": "length"}, {"loss_type": "gspo"}, "loss_type: only for stage grpo, not ppo"),
    ({}, {"problem_type": "regression"}, "problem_type: only for stage classification, not sft"),
    ({}, {"pooling": "mean"}, "pooling: only for stage embedding, not sft"),
    ({"stage": "rm"}, {"embedding_loss": "cosent"}, "embedding_loss: only for stage embedding, not rm"),
    ({}, {"query_prompt": "q: "}, "query_prompt: only for stage embedding, not sft"),
    ({}, {"reranker_loss": "listwise"}, "reranker_loss: only for stage reranker, not sft"),
    ({}, {"class_names": "a,b"}, "class_names: only for stage classification, not sft"),
    ({}, {"dynamic_sampling": True}, "dynamic_sampling: only for stage grpo, not sft"),
    ({}, {"scale_rewards": "none"}, "scale_rewards: only for stage grpo, not sft"),
    ({}, {"mask_truncated_completions": True}, "mask_truncated_completions: only for stage grpo, not sft"),
]

# Beside what -> keys that tune something else -> the warning.
SAID = [
    ({}, {"pissa_iter": 4}, "pissa_iter: no effect in this run; needs pissa_init: true, which is not given"),
    (
        {**FULL, "use_badam": True, "badam_mode": "ratio"},
        {"badam_start_block": 1},
        "badam_start_block: no effect in this run; only for badam_mode layer",
    ),
    ({"optim": "sgd"}, {"adam_beta1": 0.8}, "adam_beta1: no effect in this run; optim: sgd has no such number"),
    ({}, {"quantization_method": "bnb"}, "quantization_method: no effect in this run; needs quantization_bit"),
    (
        FULL,
        {"lora_rank": 16, "lora_alpha": 32, "lora_dropout": 0.1},
        f"lora_rank, lora_alpha, lora_dropout: no effect in this run; {LORA_ONLY} full",
    ),
    (FULL, {"lora_target": "all"}, f"lora_target: no effect in this run; {ADAPTERS_ONLY} full"),
    ({}, {"oft_rank": 4}, "oft_rank: no effect in this run; only for finetuning_type oft, not lora"),
    (
        {},
        {"pref_beta": 0.2, "simpo_gamma": 0.4},
        "pref_beta: no effect in this run; only for stage dpo or kto",
    ),
    ({"stage": "dpo"}, {"kto_chosen_weight": 2}, "kto_chosen_weight: no effect in this run; only for stage kto"),
    ({"stage": "pt"}, {"ppo_epochs": 2, "ppo_target": 3}, "ppo_epochs, ppo_target: no effect in this run; only for"),
    ({}, {"asft_alpha": 0.2}, "asft_alpha: no effect in this run; needs use_asft_loss: true, which is not given"),
    ({}, {"num_generations": 4}, "num_generations: no effect in this run; only for stage grpo, not sft"),
]


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "_said", set())


@pytest.mark.parametrize(("beside", "keys", "line"), REFUSED, ids=lambda part: str(part)[:40])
def test_a_key_that_asks_for_a_feature_of_another_part_is_refused(beside, keys, line):
    with pytest.raises(ConfigError) as caught:
        get_train_args({**BASE, **beside, **keys})
    assert str(caught.value) == line


@pytest.mark.parametrize(("beside", "keys", "line"), SAID, ids=lambda part: str(part)[:40])
def test_a_key_that_tunes_another_part_is_said(beside, keys, line, capsys):
    assert get_train_args({**BASE, **beside, **keys})
    assert line in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["pt", "sft", "rm", "dpo", "kto"])
@pytest.mark.parametrize("kind", ["lora", "freeze", "full"])
def test_a_key_that_is_off_or_at_its_default_is_never_refused(stage, kind):
    sections = (RLHFArguments, *(tuner_arguments(name) for name in plugins.TUNERS))
    defaults = {name: key.default for section in sections for name, key in keys_of(section).items()}
    off = {"additional_target": "", "use_dora": "false", "freeze_extra_modules": None, "share_prompt": False}
    for keys in (defaults, defaults | off):
        assert get_train_args({**BASE, **keys, "stage": stage, "finetuning_type": kind})


@pytest.mark.parametrize("keys", [{**beside, **keys} for beside, keys, _ in REFUSED], ids=str)
def test_inference_takes_the_same_file(keys, capsys):
    assert get_infer_args({**BASE, **keys})
    assert "no effect" not in capsys.readouterr().err


def test_a_stage_of_another_package_may_read_everything(monkeypatch):
    monkeypatch.setitem(plugins.TABLES, "stages", {**plugins.STAGES, "mine": "mine:stage"})
    assert get_train_args({**BASE, "stage": "mine", "pref_loss": "orpo", "reward_model": "m"})


def test_a_choice_that_is_called_none_is_not_null():
    keys = {**BASE, "stage": "grpo", "reward_funcs": "length"}
    assert get_train_args({**keys, "scale_rewards": "none"}).rlhf.scale_rewards == "none"
    assert get_train_args({**keys, "scale_rewards": None}).rlhf.scale_rewards is None


def test_every_key_of_the_stages_has_a_row():
    rows = list(chain(*unread.STAGES.values()))
    assert len(rows) == len(set(rows)) and set(rows) >= set(keys_of(RLHFArguments))
    assert set(chain(*unread.STAGES)) <= set(plugins.STAGES)
    assert known_keys() >= unread.TUNING


def test_no_example_carries_a_key_without_effect(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    for path in sorted((ROOT / "examples").rglob("*.yaml")):
        if path.parent.name == "clusters":  # of Slurm, Kubernetes, Ray, SkyPilot
            continue
        if "dataset" in yaml.safe_load(path.read_text("utf-8")):
            get_train_args([str(path), "overwrite_output_dir=true"])
    assert "no effect" not in capsys.readouterr().err
