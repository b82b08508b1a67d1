# SPDX-License-Identifier: Apache-2.0
"""Scripts under their known names: each number is compared with one that is computed otherwise."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

Run = Any


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


def test_a_missing_flag_is_one_line(refused: Run) -> None:
    line = refused("stat_utils/cal_ppl.py")
    assert line.startswith("--model_name_or_path is needed; this script takes --save_name")
    assert refused("eval_bleu_rouge.py", "missing.jsonl") == "missing.jsonl does not exist"
    assert refused("dcp2hf.py", "a", "b", "c", "--d", "1") == (
        "--d: this script takes --dcp_path, --hf_path, --config_path, --shard_size"
    )
    assert "pickles" in refused("llama_pro.py", "a", "b", "--save_safetensors", "false")


@pytest.mark.parametrize("script", ["stat_utils/cal_mfu.py", pytest.param("bench.py", marks=pytest.mark.slow)])
def test_a_share_is_of_what_the_products_of_a_step_take(
    script: str, run: Run, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock stands for the test: each step takes two seconds of a device of 10^9 operations a second."""
    from llamafactory.train.planning import devices

    monkeypatch.setattr(devices, "measured_speed", lambda: devices.Speed(1e9, 1e9, 1e9))
    ticks = iter(range(0, 1000, 2))
    monkeypatch.setattr("llamafactory.train.statistics.speed.clock", lambda: next(ticks))
    out = run(script, tiny_llama, "--batch_size", 2, "--seq_length", 16, "--num_steps", 2, "--finetuning_type", "full")
    found = dict(line.split(": ") for line in out.strip().splitlines()[-4:])
    assert float(found["seconds a step"]) == 2 and float(found["tokens a second"]) == 16
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    head = model.config.vocab_size * model.config.hidden_size
    weights = sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, torch.nn.Linear))
    assert weights > head
    width = model.config.num_attention_heads * model.config.head_dim
    scores = 2 * 2 * 16 * width * model.config.num_hidden_layers  # both products of a token with all tokens
    wanted = 3 * 2 * 16 * (2 * weights + scores) / 2  # a step, by the second
    assert float(found["FLOP/s"]) == pytest.approx(wanted, rel=2e-3)
    assert float(found["MFU"].rstrip("%")) == pytest.approx(100 * wanted / 1e9, rel=0.01)


@pytest.mark.slow
def test_rates_grow_until_the_loss_has_gone_up(run: Run, tiny_llama: Path, texts: list[str], tmp_path: Path) -> None:
    words = (tiny_llama, 4, "--stage", "pt", "--dataset", tmp_path / "texts.jsonl", "--cutoff_len", 64)
    out = run("stat_utils/cal_lr.py", *words, "--find", "true", "--num_steps", 24, "--first_rate", 1e-6)
    *_, last = out.strip().splitlines()
    rows = [line.split() for line in out.splitlines() if len(line.split()) == 2 and "e-" in line.split()[0]]
    rates, losses = ([float(row[column]) for row in rows] for column in (0, 1))
    ratios = [after / before for before, after in pairwise(rates)]
    assert all(ratio == pytest.approx((1 / 1e-6) ** (1 / 23), rel=0.02) for ratio in ratios)
    found = float(last.removeprefix("learning_rate: "))
    assert found == pytest.approx(rates[losses.index(min(losses))] / 10, rel=0.02)
    assert min(losses) < losses[0] - 0.1 and 1e-5 < found < 1e-1
