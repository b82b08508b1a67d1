# SPDX-License-Identifier: Apache-2.0
"""Functions that scripts for LLaMA-Factory import: what they read and return."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

import llamafactory
from llamafactory.extras import environment, misc, ploting, plotting
from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_eval_args, get_infer_args, get_ray_args, get_train_args, read_args

KEYS = {"stage": "sft", "evaluation_strategy": "no", "lora_rank": 16}


def test_read_args_gives_the_keys_as_they_were_written(tmp_path, monkeypatch):
    yaml, text = tmp_path / "c.yaml", tmp_path / "c.json"
    yaml.write_text("stage: sft\nevaluation_strategy: no\nlora_rank: 16\n".replace(": no", ": 'no'"))
    text.write_text(json.dumps(KEYS))
    assert read_args(KEYS) == read_args([str(yaml)]) == read_args([str(text)]) == KEYS
    assert read_args([str(yaml), "lora_rank=8", "--nobody_knows", "x"]) == KEYS | {
        "lora_rank": "8",
        "nobody_knows": "x",
    }
    monkeypatch.setattr("sys.argv", ["llamafactory-cli", "train", str(yaml), "stage=pt"])
    assert read_args() == KEYS | {"stage": "pt"}
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file"):
        read_args(["none.yaml"])


def test_get_eval_args_is_what_benchmarks_read():
    args = get_eval_args({"model_name_or_path": "m", "task": "mmlu_test", "n_shot": "3"})
    assert (args.evaluation.task, args.evaluation.n_shot) == ("mmlu_test", 3)
    assert args == get_infer_args({"model_name_or_path": "m", "task": "mmlu_test", "n_shot": "3"})


def test_arguments_are_unpacked_as_older_scripts_do():
    keys = {"model_name_or_path": "m", "dataset": "d", "cutoff_len": 77, "top_k": 7, "seed": 5, "stage": "pt"}
    model_args, data_args, training_args, finetuning_args, generating_args = get_train_args(keys)
    assert (model_args.model_name_or_path, data_args.cutoff_len, training_args.seed) == ("m", 77, 5)
    assert (finetuning_args.stage, generating_args.top_k) == ("pt", 7)
    model_args, data_args, finetuning_args, generating_args = get_infer_args(keys)
    assert (model_args.model_name_or_path, data_args.cutoff_len) == ("m", 77)
    assert (finetuning_args.stage, generating_args.top_k) == ("pt", 7)


def test_get_ray_args_is_the_section_of_ray():
    args = get_ray_args({"model_name_or_path": "m", "ray_num_workers": "4", "ray_init_kwargs": '{"num_cpus": 2}'})
    assert (args.ray_num_workers, args.ray_init_kwargs) == (4, {"num_cpus": 2})
    with pytest.raises(ConfigError, match=r"^ray_num_workers: expected int, got 'x'"):
        get_ray_args({"ray_num_workers": "x"})
    with pytest.raises(ConfigError, match=r"^unknown key ray_num_worker; did you mean ray_num_workers"):
        get_ray_args({"ray_num_worker": 1})


ON, OFF = ["1", "true", "Y", "on", " yes "], ["0", "False", "n", "off", ""]


@pytest.mark.parametrize(("text", "on"), [*((text, True) for text in ON), *((text, False) for text in OFF)])
def test_is_env_enabled(text, on, monkeypatch):
    monkeypatch.setenv("SOME_SWITCH", text)
    assert misc.is_env_enabled("SOME_SWITCH") is on
    assert misc.is_env_enabled("SOME_SWITCH", "1") is on


def test_is_env_enabled_where_the_variable_is_not_set_or_says_neither(monkeypatch):
    monkeypatch.delenv("SOME_SWITCH", raising=False)
    assert misc.is_env_enabled("SOME_SWITCH") is False
    assert misc.is_env_enabled("SOME_SWITCH", "1") is True
    monkeypatch.setenv("SOME_SWITCH", "maybe")
    with pytest.raises(ConfigError, match=r"^SOME_SWITCH: expected 1 or 0, got 'maybe'$"):
        misc.is_env_enabled("SOME_SWITCH")


def test_names_for_scripts_are_no_second_code():
    assert misc.is_env_enabled is environment.is_env_enabled
    assert ploting.plot_loss is plotting.plot_loss


def test_one_function_reads_the_switches_of_the_environment():
    """No other code holds words for on and off beside the reading of a variable."""
    found = []
    for path in Path(llamafactory.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Compare) and re.search(r"environ|getenv|env\.get", text := ast.unparse(node)):
                found += [f"{path.name}:{node.lineno}"] if "true" in text.lower() else []
    assert found == []
