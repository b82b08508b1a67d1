# SPDX-License-Identifier: Apache-2.0
"""Tasks of lm-eval give the numbers that lm-eval gives by itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from llamafactory.eval.evaluator import run_eval
from llamafactory.extras.errors import ConfigError

WORDS = ["Paris", "Rome", "Berlin", "Madrid"]
CITIES = {"France": 0, "Italy": 1, "Germany": 2, "Spain": 3}


@pytest.fixture
def task_dir(tmp_path: Path) -> Path:
    """A task of the user's own, its data beside it."""
    rows = [{"q": f"The capital of {land} is", "words": WORDS, "gold": gold} for land, gold in CITIES.items()]
    rows += [
        {"q": f"In {land} people say: our capital is", "words": WORDS, "gold": gold} for land, gold in CITIES.items()
    ]
    (tmp_path / "cities.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "cities.yaml").write_text(
        f"""
task: cities
dataset_path: json
dataset_kwargs:
  data_files: {{test: {tmp_path / "cities.jsonl"}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{q}}}}"
doc_to_choice: "{{{{words}}}}"
doc_to_target: gold
metric_list:
  - metric: acc
  - metric: acc_norm
"""
    )
    return tmp_path


def own_numbers(model: Path, task_dir: Path) -> dict[str, Any]:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    found = simple_evaluate(
        model="hf",
        model_args={"pretrained": str(model), "dtype": "float32", "device": "cpu"},
        tasks=["cities"],
        task_manager=TaskManager(include_path=str(task_dir), include_defaults=False),
        bootstrap_iters=0,
    )
    return found["results"]["cities"]


@pytest.mark.slow
def test_smollm2_on_a_local_task(smollm2: Path, task_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = {"model_name_or_path": str(smollm2), "infer_dtype": "float32", "task": "cities", "batch_size": 1}
    run_eval({**keys, "task_dir": str(task_dir), "save_dir": str(task_dir / "out")})
    ours = json.loads((task_dir / "out" / "results.json").read_text())["lm-eval"]["results"]["cities"]
    theirs = own_numbers(smollm2, task_dir)
    for metric in ("acc,none", "acc_norm,none"):
        assert ours[metric] == theirs[metric]
    assert 0 < ours["acc,none"] <= 1
    assert f"{100 * ours['acc,none']:6.2f}" in capsys.readouterr().out


def test_an_unknown_task_is_named_before_the_model_is_looked_for(task_dir: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"task: 'citys' is neither a folder of .* nor a task of lm-eval; did you mean"
    ):
        run_eval({"model_name_or_path": str(task_dir / "none"), "task": "citys", "task_dir": str(task_dir)})


@pytest.mark.parametrize("task", ["mmluu", "basics_tset"])
def test_a_misspelt_task_costs_no_import_of_torch(task: str) -> None:
    program = f"""
import sys
from llamafactory.eval.evaluator import run_eval
try:
    run_eval(dict(model_name_or_path="none", task="{task}"))
except ValueError as error:
    print(error, {{"torch", "lm_eval"}} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert task.rpartition("_")[2] in done.stdout and done.stdout.endswith(" set()\n"), done.stdout


def test_an_adapter_over_a_padded_vocabulary_scores_as_merged(make_tiny_model: Any, task_dir: Path) -> None:
    """lm-eval by itself cuts the rows of a model that it puts an adapter on; ours must not."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from llamafactory.export.export import run_export

    base = make_tiny_model(vocab_size=512, tie_word_embeddings=False)
    torch.manual_seed(0)
    settings = LoraConfig(target_modules=["q_proj", "up_proj", "lm_head"], init_lora_weights=False)
    tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings)
    tuned.save_pretrained(task_dir / "adapter", save_embedding_layers=False)
    named = {"model_name_or_path": str(base), "adapter_name_or_path": str(task_dir / "adapter")}
    run_export({**named, "template": "chatml", "export_dir": str(task_dir / "merged")})
    run_eval({**named, "infer_dtype": "float32", "task": "cities", "task_dir": str(task_dir),
              "save_dir": str(task_dir / "out")})  # fmt: skip
    ours = json.loads((task_dir / "out" / "results.json").read_text())["lm-eval"]["results"]["cities"]
    theirs, plain = own_numbers(task_dir / "merged", task_dir), own_numbers(base, task_dir)
    for metric in ("acc,none", "acc_norm,none"):
        assert ours[metric] == theirs[metric]
    assert any(plain[metric] != theirs[metric] for metric in ("acc,none", "acc_norm,none"))  # the adapter matters
