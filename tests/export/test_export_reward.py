# SPDX-License-Identifier: Apache-2.0
"""Reward models: exported, loaded by plain transformers and served, each with the scores that training saw."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, pipeline

from llamafactory.export.export import run_export
from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_infer_args
from llamafactory.model import load_model, load_tokenizer
from llamafactory.model.heads import REWARD
from llamafactory.model.reward import score_texts
from llamafactory.train.tuner import run_exp

PAIRS = [
    {"instruction": f"who is fox {number}", "chosen": "a small fox and a star", "rejected": f"{number} rain"}
    for number in range(12)
]


@pytest.fixture(scope="module", params=["lora", "full"])
def trained(request: Any, tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Keys that serve a trained reward model, and ``results`` of its evaluation on all pairs."""
    folder = tmp_path_factory.mktemp("reward")
    (folder / "pairs.json").write_text(json.dumps(PAIRS))
    columns = {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}
    info = {"pairs": {"file_name": "pairs.json", "ranking": True, "columns": columns}}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    run = folder / request.param
    run_exp(
        {
            "model_name_or_path": str(tiny_llama), "stage": "rm", "template": "chatml",
            "finetuning_type": request.param,
            "dataset": "pairs", "eval_dataset": "pairs", "dataset_dir": str(folder), "output_dir": str(run),
            "bf16": False, "max_steps": 8, "learning_rate": 5e-3, "do_train": True, "do_eval": True,
            "save_strategy": "no", "disable_tqdm": True, "logging_steps": 8,
        }
    )  # fmt: skip
    results = json.loads((run / "eval_results.json").read_text())
    lora = {"model_name_or_path": str(tiny_llama), "adapter_name_or_path": str(run)}
    keys = lora if request.param == "lora" else {"model_name_or_path": str(run)}
    return {"results": results, "keys": {**keys, "stage": "rm", "template": "chatml", "infer_dtype": "float32"}}


def _texts(tokenizer: Any) -> list[str]:
    """The training texts, rendered by transformers itself: chosen 0, rejected 0, chosen 1, …"""
    return [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": row["instruction"]}, {"role": "assistant", "content": row[side]}],
            tokenize=False,
        )
        for row in PAIRS
        for side in ("chosen", "rejected")
    ]


def _means(scores: list[float]) -> tuple[float, float]:
    return sum(scores[::2]) / len(PAIRS), sum(scores[1::2]) / len(PAIRS)


def test_the_export_scores_as_training_did(trained: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "merged"
    run_export({**trained["keys"], "export_dir": str(out)})
    assert not (out / "Modelfile").exists()
    tokenizer = AutoTokenizer.from_pretrained(out)
    model = AutoModelForSequenceClassification.from_pretrained(out, dtype="auto").eval()
    assert model.config.num_labels == 1 and model.dtype == torch.float32
    found = []
    for text in _texts(tokenizer):  # one by one: no padding, nothing of ours
        with torch.no_grad():
            found.append(model(**tokenizer(text, return_tensors="pt")).logits.item())
    results = trained["results"]
    wanted = (results["eval_rewards/chosen"], results["eval_rewards/rejected"])
    assert _means(found) == pytest.approx(wanted, abs=1e-5)
    assert wanted[0] - wanted[1] > 0.1
    classify = pipeline("text-classification", model=str(out), device="cpu", dtype=torch.float32)
    piped = [classify(text)[0]["score"] for text in _texts(tokenizer)]
    assert piped == pytest.approx(found, abs=1e-5)  # the reward itself, not its sigmoid
    served = get_infer_args({**trained["keys"], "model_name_or_path": str(out), "adapter_name_or_path": None})
    ours = load_model(load_tokenizer(served.model), served, trainable=False, head=REWARD)
    assert score_texts(ours, tokenizer, _texts(tokenizer)) == pytest.approx(found, abs=1e-5)


def test_served_scores_are_those_of_training(trained: dict[str, Any]) -> None:
    args = get_infer_args(trained["keys"])
    tokenizer = load_tokenizer(args.model)
    model = load_model(tokenizer, args, trainable=False, head=REWARD)
    scores = score_texts(model, tokenizer, _texts(tokenizer))
    results = trained["results"]
    wanted = (results["eval_rewards/chosen"], results["eval_rewards/rejected"])
    assert _means(scores) == pytest.approx(wanted, abs=1e-5)
    short = score_texts(model, tokenizer, _texts(tokenizer)[:2], max_length=5)
    assert short[0] == pytest.approx(short[1], abs=1e-6)  # the same prompt, and nothing of the answers


@pytest.mark.parametrize("trained", ["lora"], indirect=True)
def test_a_float32_export_of_a_half_base_keeps_the_score_layer(trained: dict[str, Any], tmp_path: Path) -> None:
    """The score layer was trained in float32; the base's type must not round it."""
    half, adapter = tmp_path / "half", Path(trained["keys"]["adapter_name_or_path"])
    AutoModelForCausalLM.from_pretrained(trained["keys"]["model_name_or_path"], dtype=torch.bfloat16).save_pretrained(
        half
    )
    AutoTokenizer.from_pretrained(trained["keys"]["model_name_or_path"]).save_pretrained(half)
    run_export({**trained["keys"], "model_name_or_path": str(half), "export_dir": str(tmp_path / "merged")})
    found = load_file(tmp_path / "merged" / "model.safetensors")["score.weight"]
    kept = next(value for name, value in load_file(adapter / "adapter_model.safetensors").items() if "score" in name)
    assert torch.equal(found, kept) and not torch.equal(kept, kept.bfloat16().float())


@pytest.mark.parametrize("trained", ["lora"], indirect=True)
def test_a_reward_adapter_is_not_taken_for_a_language_model(trained: dict[str, Any], tmp_path: Path) -> None:
    keys = {**trained["keys"], "stage": "sft", "export_dir": str(tmp_path / "merged")}
    with pytest.raises(ConfigError, match="is a reward model; add stage: rm"):
        run_export(keys)


def test_a_value_head_over_a_language_model_is_exported(tiny_llama: Path, tmp_path: Path) -> None:
    """LLaMA-Factory's: the base has no head, each load of it draws another; the bias has no place in the export."""
    base = tmp_path / "base"
    shutil.copytree(tiny_llama, base)
    weight = torch.randn(1, 64)
    head = {"v_head.summary.weight": weight, "v_head.summary.bias": torch.tensor([0.5])}
    save_file(head, base / "value_head.safetensors")
    keys = {"model_name_or_path": str(base), "stage": "rm", "template": "chatml", "infer_dtype": "float32"}
    run_export({**keys, "export_dir": str(tmp_path / "out")})
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", dtype="auto").eval()
    assert torch.equal(model.score.weight, weight) and model.score.bias is None
    served = get_infer_args(keys)
    tokenizer = load_tokenizer(served.model)
    ours = load_model(tokenizer, served, trainable=False, head=REWARD)
    ids = tokenizer("Tell me a story", return_tensors="pt").input_ids
    with torch.no_grad():
        alone = model(ids).logits.item()
    assert score_texts(ours, tokenizer, ["Tell me a story"])[0] == pytest.approx(alone + 0.5, abs=1e-5)
