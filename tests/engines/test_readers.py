# SPDX-License-Identifier: Apache-2.0
"""Folders that we write, read by other programs: the same ids, the same numbers. `make test-engines`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from export.families import FAMILIES, tiny
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from llamafactory.export.export import run_export
from llamafactory.train.tuner import run_exp

pytestmark = pytest.mark.engines

READERS = Path(__file__).resolve().parents[2] / ".cache" / "readers"
TEXT = "Who are you? I am a small model that answers questions. " * 6


def read(program: str, folder: Path, *texts: str) -> dict[str, Any]:
    """What another program makes of the folder."""
    packages = READERS / {"transformers": "transformers4"}.get(program, "sentence-transformers")
    assert packages.is_dir(), "make test-engines installs it"
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("reader.py")), program, str(folder), *texts],
        env={**os.environ, "PYTHONPATH": str(packages), "HF_HUB_OFFLINE": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def assert_read_alike(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = tokenizer(TEXT).input_ids
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, -1]
    theirs = read("transformers", folder, TEXT)
    assert theirs["version"].startswith("4.")
    assert theirs["ids"] == ids and theirs["special"] == sorted(tokenizer.all_special_ids)
    torch.testing.assert_close(torch.tensor(theirs["logits"]), logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_4_reads_an_export(family: str, tiny_llama: Path, tmp_path: Path) -> None:
    config = type(FAMILIES[family]).from_dict(FAMILIES[family].to_dict())
    parameters = config.rope_parameters
    if "rope_theta" in parameters:  # a base that is nobody's default, so that a reader that misses it shows
        config.rope_parameters = {**parameters, "rope_theta": 777.0}
    base = tiny(config, AutoTokenizer.from_pretrained(tiny_llama), tmp_path / "base")
    run_export({"model_name_or_path": str(base), "template": "chatml", "export_dir": str(tmp_path / "out")})
    assert_read_alike(tmp_path / "out")


@pytest.mark.parametrize("method", ["linear", "dynamic", "yarn", "llama3"])
def test_transformers_4_reads_a_trained_folder_and_its_checkpoint(
    method: str, make_tiny_model: Any, tmp_path: Path
) -> None:
    """Scaled while training, all weights trained, tokens added: the run's folder and the checkpoint in it."""
    (tmp_path / "rows.json").write_text(json.dumps([{"instruction": f"fox {n}", "output": "a star"} for n in range(8)]))
    base = make_tiny_model(max_position_embeddings=64)
    run_exp(
        {
            "model_name_or_path": str(base), "stage": "sft", "template": "chatml", "finetuning_type": "full",
            "dataset": str(tmp_path / "rows.json"), "output_dir": str(tmp_path / "run"), "bf16": False,
            "rope_scaling": method, "cutoff_len": 128, "max_steps": 2, "save_steps": 1, "disable_tqdm": True,
            "add_tokens": "<mine>", "add_special_tokens": "<|new|>",
        }
    )  # fmt: skip
    assert_read_alike(tmp_path / "run")
    assert_read_alike(tmp_path / "run" / "checkpoint-1")


def test_a_cross_encoder_gives_the_reward(tiny_llama: Path, tmp_path: Path) -> None:
    pairs = [{"instruction": f"fox {n}", "chosen": "a star", "rejected": f"{n} rain"} for n in range(8)]
    (tmp_path / "pairs.json").write_text(json.dumps(pairs))
    columns = {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}
    info = {"pairs": {"file_name": "pairs.json", "ranking": True, "columns": columns}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    shared = {"model_name_or_path": str(tiny_llama), "stage": "rm", "template": "chatml", "finetuning_type": "lora"}
    run_exp(
        {
            **shared, "dataset": "pairs", "dataset_dir": str(tmp_path), "output_dir": str(tmp_path / "run"),
            "bf16": False, "max_steps": 4, "learning_rate": 5e-3, "save_strategy": "no", "disable_tqdm": True,
        }
    )  # fmt: skip
    out = tmp_path / "out"
    run_export({**shared, "adapter_name_or_path": str(tmp_path / "run"), "export_dir": str(out)})
    tokenizer = AutoTokenizer.from_pretrained(out)
    model = AutoModelForSequenceClassification.from_pretrained(out, dtype=torch.float32).eval()
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": row["instruction"]}, {"role": "assistant", "content": row[side]}],
            tokenize=False,
        )
        for row in pairs
        for side in ("chosen", "rejected")
    ]
    with torch.no_grad():
        rewards = [model(**tokenizer(text, return_tensors="pt")).logits.item() for text in texts]
    assert read("cross-encoder", out, *texts)["scores"] == pytest.approx(rewards, abs=1e-5)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_sentence_transformers_makes_the_vectors_that_were_trained(kind: str, tiny_llama: Path, tmp_path: Path) -> None:
    """The run's folder (weights or adapter) and the merged export, with prompts; texts alone, no chat template."""
    from llamafactory.hparams import get_infer_args
    from llamafactory.model import load_model, load_tokenizer
    from llamafactory.model.heads import VECTORS
    from llamafactory.model.vectors import encode_texts, vector_settings

    rows = [{"query": f"fox {n}", "positive": f"a star {n}", "negative": "rain"} for n in range(8)]
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    keys = {
        "model_name_or_path": str(tiny_llama), "stage": "embedding", "dataset": str(tmp_path / "rows.json"),
        "finetuning_type": kind, "output_dir": str(tmp_path / "run"), "max_steps": 3, "learning_rate": 1e-2,
        "query_prompt": "query: ", "document_prompt": "passage: ", "bf16": False, "template": "chatml",
    }  # fmt: skip
    run_exp(keys)
    named = (
        {"adapter_name_or_path": str(tmp_path / "run")}
        if kind == "lora"
        else {"model_name_or_path": str(tmp_path / "run")}
    )
    args = get_infer_args({**keys, **named, "infer_dtype": "float32"})
    tokenizer = load_tokenizer(args.model)
    ours, settings = load_model(tokenizer, args, trainable=False, head=VECTORS), vector_settings(args)
    texts = [settings.prompt(of) + "who are you?" for of in ("text", "query", "document")]
    wanted = encode_texts(ours, tokenizer, texts, settings.pooling)
    run_export({**keys, **named, "export_dir": str(tmp_path / "merged")})
    for folder in (tmp_path / "run", tmp_path / "merged"):
        theirs = read("vectors", folder, "who are you?")
        found = torch.tensor([theirs[of] for of in ("text", "query", "document")])
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_sentence_transformers_scores_the_pairs_that_were_trained(kind: str, tiny_llama: Path, tmp_path: Path) -> None:
    """All weights: the run's folder; and the export. A chat template that lies there is not used for pairs."""
    rows = [{"query": f"fox {n}", "positive": f"a star {n}", "negative": "rain"} for n in range(8)]
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    keys = {
        "model_name_or_path": str(tiny_llama), "stage": "reranker", "dataset": str(tmp_path / "rows.json"),
        "finetuning_type": kind, "output_dir": str(tmp_path / "run"), "max_steps": 3, "learning_rate": 1e-2,
        "bf16": False, "template": "chatml",
    }  # fmt: skip
    run_exp(keys)
    named = {"adapter_name_or_path" if kind == "lora" else "model_name_or_path": str(tmp_path / "run")}
    run_export({**keys, **named, "export_dir": str(tmp_path / "merged")})
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    documents = ["a river", " a story of rain", "who?"]
    with torch.no_grad():
        wanted = [float(model(**tokenizer("who are you", text, return_tensors="pt")).logits) for text in documents]
    for folder in (tmp_path / "merged", *([tmp_path / "run"] if kind == "full" else [])):
        assert read("pairs", folder, "who are you", *documents)["scores"] == pytest.approx(wanted, abs=1e-5)
