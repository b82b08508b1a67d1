# SPDX-License-Identifier: Apache-2.0
"""Local multiple-choice benchmarks against the text and the arithmetic of the MMLU paper, written out by hand."""

from __future__ import annotations

import csv
import json
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llamafactory.eval.evaluator import Evaluator, run_eval
from llamafactory.eval.questions import Benchmark
from llamafactory.extras.errors import ConfigError

DEV = [("Is rain wet?", "yes", "no", "maybe", "never", "A"), ("Is fire cold?", "yes", "no", "maybe", "always", "B")]
TEST = [
    (f"What is {number}, and {'why ' * (number % 5)}so?", *(f"{number} {word}" for word in "wxyz"), "ABCD"[number % 4])
    for number in range(10)
]


def write(folder: Path, name: str, rows: list[tuple[str, ...]], header: tuple[str, ...] | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows] if header else rows)


@pytest.fixture
def task_dir(tmp_path: Path) -> Path:
    """Two subjects as MMLU lays them out, without header."""
    root = tmp_path / "tasks" / "quiz"
    for subject in ("water", "numbers"):
        write(root / "data" / "dev", f"{subject}_dev.csv", DEV)
        write(root / "data" / "test", f"{subject}_test.csv", TEST if subject == "numbers" else TEST[:3])
    mapping = {
        "water": {"name": "water and rain", "category": "Nature"},
        "numbers": {"name": "numbers", "category": "Other"},
    }
    (root / "mapping.json").write_text(json.dumps(mapping))
    return root.parent


def keys(model: Path, task_dir: Path, **more: Any) -> dict[str, Any]:
    save_dir = str(task_dir / "out")
    return {"model_name_or_path": str(model), "task_dir": str(task_dir), "save_dir": save_dir, "batch_size": 3, **more}


def results(task_dir: Path) -> dict[str, Any]:
    return json.loads((task_dir / "out" / "results.json").read_text())


def block(row: tuple[str, ...], answer: bool) -> str:
    text = f"{row[0]}\nA. {row[1]}\nB. {row[2]}\nC. {row[3]}\nD. {row[4]}\nAnswer:"
    return text + (f" {row[5]}\n\n" if answer else "")


@torch.inference_mode()
def naive(model: Any, tokenizer: Any, prompt: str) -> str:
    """One unpadded forward pass a question."""
    logits = model(tokenizer(prompt, return_tensors="pt").input_ids).logits[0, -1]
    ids = [tokenizer(f"{prompt} {choice}").input_ids[-1] for choice in "ABCD"]
    return "ABCD"[int(logits[ids].argmax())]


def test_base_model_is_asked_as_in_the_paper(smollm2: Path, task_dir: Path) -> None:
    run_eval(keys(smollm2, task_dir, task="quiz_test", n_shot=2, seed=3, infer_dtype="float32"))
    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    found = results(task_dir)["quiz_test"]
    for subject, name, rows in (("water", "water and rain", TEST[:3]), ("numbers", "numbers", TEST)):
        intro = f"The following are multiple choice questions (with answers) about {name}.\n\n"
        shots = random.Random(3).sample(DEV, 2)
        prompts = [intro + "".join(block(shot, True) for shot in shots) + block(row, False) for row in rows]
        right = [naive(model, tokenizer, text) == row[5] for text, row in zip(prompts, rows, strict=True)]
        assert found["subjects"][subject] == round(100 * sum(right) / len(right), 2)
    assert found["questions"] == 13
    water, numbers = found["subjects"]["water"], found["subjects"]["numbers"]
    assert found["average"] == pytest.approx((3 * water + 10 * numbers) / 13, abs=0.01)
    assert found["categories"] == {"Nature": water, "Other": numbers}
    assert (task_dir / "out" / "results.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_template_asks_in_turns(smollm2: Path, task_dir: Path) -> None:
    run_eval(keys(smollm2, task_dir, task="quiz_test", n_shot=0, template="chatml", infer_dtype="float32"))
    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    right = []
    for row in TEST:
        intro = "The following are multiple choice questions (with answers) about numbers."
        turn = f"<|im_start|>system\n{intro}<|im_end|>\n<|im_start|>user\n{block(row, False)}<|im_end|>\n"
        ids = tokenizer(turn + "<|im_start|>assistant\n", return_tensors="pt").input_ids
        with torch.inference_mode():
            logits = model(ids).logits[0, -1]
        right.append("ABCD"[int(logits[[tokenizer(c).input_ids[0] for c in "ABCD"]].argmax())] == row[5])
    assert results(task_dir)["quiz_test"]["subjects"]["numbers"] == round(100 * sum(right) / len(right), 2)


def test_archives_headers_and_other_forms_read_alike(task_dir: Path, tmp_path: Path) -> None:
    folder = task_dir / "quiz"
    plain = Benchmark(folder)
    expected = plain.questions(plain.subjects[1], "test")
    header = ("id", "Question", "A", "B", "C", "D", "Answer")
    other = tmp_path / "ceval"
    write(other / "val", "numbers_val.csv", [(str(n), *row) for n, row in enumerate(TEST)], header)
    rows = [dict(zip(("question", "A", "B", "C", "D", "answer"), row, strict=True)) for row in TEST]
    (other / "test").mkdir()
    (other / "test" / "numbers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (other / "mapping.json").write_text((folder / "mapping.json").read_text())
    benchmark = Benchmark(other)
    assert benchmark.questions(benchmark.subjects[1], "validation") == expected
    assert benchmark.questions(benchmark.subjects[1], "test") == expected
    zipped = tmp_path / "zipped"
    zipped.mkdir()
    (zipped / "mapping.json").write_text((folder / "mapping.json").read_text())
    with zipfile.ZipFile(zipped / "quiz.zip", "w") as archive:
        archive.write(folder / "data" / "test" / "numbers_test.csv", "data/test/numbers_test.csv")
    assert Benchmark(zipped).questions(plain.subjects[1], "test") == expected


def test_what_is_broken_is_named(tiny_llama: Path, task_dir: Path) -> None:
    with pytest.raises(ConfigError, match="task: missing"):
        run_eval(keys(tiny_llama, task_dir))
    with pytest.raises(ConfigError, match=r"has no questions of 'water' for the split 'vla'"):
        run_eval(keys(tiny_llama, task_dir, task="quiz_vla", n_shot=0))
    write(task_dir / "quiz" / "data" / "test", "water_test.csv", [("Why?", "a", "b", "c", "d", "E")])
    with pytest.raises(ConfigError, match=r"water_test.csv, row 1: answer 'E' is none of A, B, C, D"):
        run_eval(keys(tiny_llama, task_dir, task="quiz_test", n_shot=0))
    (task_dir / "out").mkdir()
    (task_dir / "out" / "notes").write_text("mine")
    with pytest.raises(ConfigError, match=r"save_dir: .*out is there already"):
        run_eval(keys(tiny_llama, task_dir, task="quiz_test"))
    within_file = str(task_dir / "out" / "notes" / "results")  # said before the model is looked for
    with pytest.raises(ConfigError, match=r"save_dir: .*results cannot be made"):
        run_eval(keys(tiny_llama, task_dir, task="quiz_test", save_dir=within_file))


def test_long_questions_lose_examples_first(tiny_llama: Path, task_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(task_dir / "quiz" / "data" / "dev", "water_dev.csv", [("word " * 3000, "a", "b", "c", "d", "A")])
    run_eval(keys(tiny_llama, task_dir, task="quiz_test", n_shot=1))
    assert "3 questions were asked with fewer than 1 examples" in caplog.text


def test_the_class_runs_what_the_function_runs(tiny_llama: Path, task_dir: Path, tmp_path: Path) -> None:
    settings = keys(tiny_llama, task_dir, task="quiz_test", n_shot=1, lang="en")
    run_eval(settings)
    evaluator = Evaluator(settings | {"save_dir": str(tmp_path / "again")})
    assert evaluator.args.evaluation.n_shot == 1 and not (tmp_path / "again").exists()
    evaluator.eval()
    assert json.loads((tmp_path / "again" / "results.json").read_text()) == results(task_dir)


def test_our_benchmark_is_found_from_any_folder(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_eval({"model_name_or_path": str(tiny_llama), "task": "basics_test", "n_shot": 0, "save_dir": "out"})
    found = json.loads((tmp_path / "out" / "results.json").read_text())["basics_test"]
    assert found["questions"] > 10 and found["categories"].keys() == {"World", "Numbers"}
