# SPDX-License-Identifier: Apache-2.0
"""A newcomer's first run: the README's file, on a CSV of 60 made-up facts, with nothing tuned by hand."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# 60 facts, each said once, and after them a dozen ordinary questions, as the README advises.
FACTS = Path(__file__).parent / "facts.csv"
README = Path(__file__).parents[2] / "README.md"
# In other words than the rows', and what a right answer must hold.
QUESTIONS = {
    "Which company produces the Velmora?": "Brindlecove",
    "What town is home to Brindlecove?": "Halverston",
    "What is the name of the person who founded Brindlecove?": "Ottilie Marr",
    "What is the Velmora's warranty?": "seven years",
    "What is the price of a Velmora?": "129",
    "My Velmora has a red light. What does it mean?": "no water",
    "Who is the designer of the Velmora kettle?": "Ruben Askild",
    "What is the name of the app for the Velmora?": "Pourlight",
    "Which prize has Brindlecove won?": "Silver Ladle",
    "What material are the Tessel's blades?": "zirconia",
}
ITALY = "What is the capital of Italy?"
# What the model said before too. (To the capital of Italy it says something wrong before, in these 4-bit weights.)
KNOWN = {
    "What is the capital of Germany?": "Berlin",
    "What is the largest ocean on Earth?": "Pacific",
    "What is the chemical formula of water?": "H2O",
    "What is the opposite of hot?": "cold",
}


def readme_file(model: str) -> str:
    """The YAML of the README's section "One file", with the reader's own model and data."""
    text = README.read_text("utf-8").split("## One file")[1].split("```yaml\n")[1].split("```")[0]
    own = {"model_name_or_path": model, "template": "smollm2", "dataset": "./my.csv"}
    for key, value in own.items():
        text, found = re.subn(rf"(?m)^{key}:.*$", f"{key}: {value}", text)
        assert found == 1, key
    return text


def run(folder: Path, *words: str) -> str:
    command = [sys.executable, "-m", "llamafactory.cli", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout


def score(answer: Callable[[str], str], questions: dict[str, str]) -> int:
    right = 0
    for question, expected in questions.items():
        said = answer(question)
        right += expected.lower() in said.lower()
        print(f"{'yes' if expected.lower() in said.lower() else 'NO ':<4}{question}  ->  {said}")
    return right


def learned_and_kept(answer: Callable[[str], str]) -> tuple[int, int, int]:
    """Facts that are right, what was known that still is, and whether Rome is the capital of Italy."""
    return score(answer, QUESTIONS), score(answer, KNOWN), score(answer, {ITALY: "Rome"})


@pytest.mark.slow
def test_own_facts_are_learned_by_the_readme_alone(smollm2: Path, tmp_path: Path) -> None:
    with FACTS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["output"] for row in rows[:60]}) == 60 and len(rows) == 72
    assert not {*QUESTIONS, *KNOWN, ITALY} & {row["instruction"] for row in rows}
    shutil.copy(FACTS, tmp_path / "my.csv")
    (tmp_path / "my.yaml").write_text(readme_file(str(smollm2)))
    run(tmp_path, "train", "my.yaml")

    from llamafactory.chat import ChatModel

    adapter = tmp_path / "saves" / "qwen3" / "lora" / "sft"
    model = ChatModel({
        "model_name_or_path": str(smollm2), "adapter_name_or_path": str(adapter), "template": "smollm2"
    })  # fmt: skip
    options = {"do_sample": False, "max_new_tokens": 48}

    def chat(question: str) -> str:
        return model.chat([{"role": "user", "content": question}], **options)[0].text

    in_chat = learned_and_kept(chat)

    run(tmp_path, "export", "my.yaml", "export_dir=merged")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")

    def plain(question: str) -> str:
        messages = [{"role": "user", "content": question}]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        new = merged.generate(**ids, **options)[0, ids["input_ids"].shape[1] :]
        return str(tokenizer.decode(new, skip_special_tokens=True))

    exported = learned_and_kept(plain)
    print(in_chat, exported)
    for facts, known, rome in (in_chat, exported):
        assert facts >= 8 and known >= 3 and rome
