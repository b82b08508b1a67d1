#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TRL 1.16.0, transformers 5.23.0: `assistant_only_loss` swaps a model's chat template for a training one of 31 that TRL brings, whose
# generation marks say what is trained. On a conversation without thoughts 13 of them put the mark before the generation prompt's end:
# Qwen2.5 trains the line break behind "assistant", gpt-oss and Muse Glimmer "<|start|>assistant", DeepSeek V3 and the R1 distillates
# "<|Assistant|>", the others an empty thought that the prompt opens itself. With six (the DeepSeek ones, Nemotron 3) the prompt that is asked
# never stands in the training text: it ends with an open thought, while the trained answer follows the role or a closed empty thought.
# Seen on 2026-11-29. Fails when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet transformers==5.23.0 jinja2==3.1.6
"$folder/venv/bin/pip" install --quiet --no-deps trl==1.16.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import importlib.util
from pathlib import Path

from transformers.utils.chat_template_utils import render_jinja_template

templates = Path(importlib.util.find_spec("trl").origin).parent / "chat_templates"
chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
words = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}


def look(file):
    source = file.read_text("utf-8")
    (text,), (spans,) = render_jinja_template([chat], chat_template=source, return_assistant_tokens_mask=True, **words)
    (prompt,), _ = render_jinja_template([chat[:1]], chat_template=source, add_generation_prompt=True, **words)
    return text, spans[0][0], prompt


early, never, read = [], [], 0
for file in sorted(templates.glob("*_training.jinja")):
    name = file.name.removesuffix("_training.jinja")
    try:
        text, start, prompt = look(file)
    except Exception as error:
        print(f"{name}: not rendered: {str(error)[:50]}")
        continue
    read += 1
    if start < len(prompt) or not text.startswith(prompt):
        early.append(name)
        print(f"{name}: prompt ends {prompt[-24:]!r}, trained {text[start:]!r}")
    if not text.startswith(prompt):
        never.append(name)
print(f"{read} read; {len(early)} train from before the prompt's end; in {len(never)} the prompt does not occur: {never}")
assert never == ["deepseek_r1_distill", "deepseekv3", *(f"nemotron_3_{size}" for size in ("5_lightning", "nano", "super", "ultra"))], "changed"
assert len(early) == 13 and "qwen2_5" in early and "gptoss" in early, "changed"
PYTHON
echo "as stated"
