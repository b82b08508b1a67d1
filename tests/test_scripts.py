# SPDX-License-Identifier: Apache-2.0
"""Scripts under their known names: each number is compared with one that is computed otherwise."""

from __future__ import annotations

import json
import math
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

SCRIPTS = Path(__file__).parents[1] / "scripts"
Run = Any


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """``run(script, *words)`` -> what it printed; it works in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))

    def start(script: str, *words: object) -> str:
        monkeypatch.setattr(sys, "argv", [script, *map(str, words)])
        runpy.run_path(str(SCRIPTS / script), run_name="__main__")
        return capsys.readouterr().out

    return start


@pytest.fixture
def texts(tmp_path: Path) -> list[str]:
    found = [f"The {n}. text " + "has words " * n for n in range(1, 8)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in found))
    return found


def test_perplexity_is_that_of_transformers_loss(run: Run, tiny_llama: Path, texts: list[str], tmp_path: Path) -> None:
    words = ("--model_name_or_path", tiny_llama, "--stage", "pt", "--dataset", tmp_path / "texts.jsonl")
    run("stat_utils/cal_ppl.py", *words, "--save_name", "found.json", "--batch_size", "3", "--disable_tqdm", "true")
    found = json.loads((tmp_path / "found.json").read_text())
    tokenizer, model = AutoTokenizer.from_pretrained(tiny_llama), AutoModelForCausalLM.from_pretrained(tiny_llama)
    assert len(found) == len(texts)
    for text, value in zip(texts, found, strict=True):
        ids = torch.tensor([[*tokenizer(text)["input_ids"], tokenizer.eos_token_id]])
        assert value == pytest.approx(math.exp(model(ids, labels=ids).loss), rel=1e-3)


def test_lengths_are_those_of_the_tokenizer(run: Run, tiny_llama: Path, texts: list[str], tmp_path: Path) -> None:
    words = ("--model_name_or_path", tiny_llama, "--stage", "pt", "--dataset", tmp_path / "texts.jsonl")
    out = run("stat_utils/length_cdf.py", *words, "--interval", "10")
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    lengths = [len(tokenizer(text)["input_ids"]) + 1 for text in texts]
    for line in out.strip().splitlines():
        rows, border = int(line.split()[0].replace(",", "")), int(line.split()[-1].replace(",", ""))
        assert rows == sum(length < border for length in lengths)
    assert out.strip().splitlines()[-1].split()[0] == str(len(texts))


def test_operations_are_those_that_hooks_count(run: Run, tiny_llama: Path) -> None:
    out = run("stat_utils/cal_flops.py", tiny_llama, "--batch_size", "2", "--seq_length", "16")
    found = {line.split(": ")[0]: int(line.split(": ")[1].replace(",", "")) for line in out.strip().splitlines()}
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    counted = 0

    def count(layer: torch.nn.Linear, inputs: tuple[torch.Tensor], _: torch.Tensor) -> None:
        nonlocal counted
        counted += 2 * inputs[0].numel() * layer.out_features

    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(count)
    model(torch.ones(2, 16, dtype=torch.long))
    config = model.config
    width = config.num_attention_heads * getattr(config, "head_dim", config.hidden_size // config.num_attention_heads)
    scores = config.num_hidden_layers * 2 * (2 * 2 * 16 * 16 * width)  # both products of each layer, two rows
    positions = 2 * 16 * config.head_dim // 2 * 2  # one product of positions and frequencies
    assert found["FLOPs"] - (counted + scores) in (0, positions, positions // 2)
    assert found["MACs"] == found["FLOPs"] // 2
    assert found["Params"] == sum(weight.numel() for weight in model.parameters())


def test_scores_are_those_of_the_libraries(run: Run, tmp_path: Path) -> None:
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    rows = [("the cat sat on the mat", "the cat sat on a mat"), ("yes indeed it is so", "no it is not so")]
    lines = [json.dumps({"predict": answer, "label": wanted}) for answer, wanted in rows]
    (tmp_path / "answers.jsonl").write_text("\n".join(lines) + "\n")
    run("eval_bleu_rouge.py", "answers.jsonl")
    found = json.loads((tmp_path / "predictions_score.json").read_text())
    smooth = SmoothingFunction().method3
    wanted = [sentence_bleu([b.split()], a.split(), smoothing_function=smooth) for a, b in rows]
    assert found["bleu-4"] == pytest.approx(100 * sum(wanted) / 2, abs=1e-3)
    assert found["rouge-1"] == pytest.approx(100 * (5 / 6 + 3 / 5) / 2, abs=1e-3)


def test_a_rate_goes_with_the_square_root_of_trained_tokens(
    run: Run, tiny_llama: Path, texts: list[str], tmp_path: Path
) -> None:
    words = (tiny_llama, "--stage", "pt", "--dataset", tmp_path / "texts.jsonl", "--batch_size")
    one, four = (float(run("stat_utils/cal_lr.py", *words, size).split()[-1]) for size in (1, 4))
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    tokens = sum(len(tokenizer(text)["input_ids"]) for text in texts) / len(texts)  # nothing predicts the first
    assert one == pytest.approx(3e-4 * math.sqrt(tokens / 4e6), rel=1e-2) and four == pytest.approx(2 * one, rel=1e-2)


@pytest.mark.parametrize("name", ["qwen3", "llama4"])
def test_a_tiny_model_loads(name: str, run: Run, tiny_llama: Path, tmp_path: Path) -> None:
    run(f"convert_ckpt/tiny_{name}.py", "--tokenizer", tiny_llama, "--output_dir", tmp_path / name)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / name)
    assert (
        model.config.model_type.startswith(name) and model(torch.ones(1, 4, dtype=torch.long)).logits.isfinite().all()
    )


def test_a_missing_flag_is_one_line(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run("stat_utils/cal_ppl.py")
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: --model_name_or_path is needed; this script takes --save_name")
    with pytest.raises(SystemExit) as ended:
        run("eval_bleu_rouge.py", "missing.jsonl")
    assert ended.value.code == 1 and capsys.readouterr().err == "error: missing.jsonl does not exist\n"
