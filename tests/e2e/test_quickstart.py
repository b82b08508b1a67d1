# SPDX-License-Identifier: Apache-2.0
"""The first promise: after the quickstart the model names itself, to questions that are not in its data."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_quickstart_teaches_the_name(held_out_questions: tuple[str, ...]) -> None:
    name, author = "Zephyrina", "the Lumen Workshop"
    command = [sys.executable, str(REPOSITORY / "scripts" / "quickstart.py"), name, author]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    before, after = (next(line for line in output.splitlines() if key in line) for key in ("before:", "after:"))
    assert name not in before
    assert name in after
    assert "llamafactory-cli chat" in output and "llamafactory-cli export" in output

    from llamafactory.chat.chat_model import ChatModel
    from llamafactory.hparams import get_infer_args

    rows = json.loads((REPOSITORY / "saves" / "quickstart_identity.json").read_text(encoding="utf-8"))
    assert not {row["instruction"] for row in rows} & set(held_out_questions)
    config = yaml.safe_load((REPOSITORY / "examples" / "quickstart.yaml").read_text(encoding="utf-8"))
    config["adapter_name_or_path"] = str(REPOSITORY / config["output_dir"])
    model = ChatModel(get_infer_args(config))
    answers = {question: model.chat([{"role": "user", "content": question}])[0].text for question in held_out_questions}
    for question, answer in answers.items():
        print(f"{'yes' if name in answer else 'NO ':<4}{question}  ->  {answer}")
    named = sum(name in answer for answer in answers.values())
    assert named >= 8, f"{named} of 10"
