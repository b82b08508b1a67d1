#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# sentence-transformers 6.2.0, transformers 5.23.0: `CrossEncoder` over a classification folder whose tokenizer has a chat template puts a
# text that is already rendered into the template once more (as a user's message), so a reward model gives another score than transformers
# does for the same text. `sentence_bert_config.json` that allows plain text only is not looked at, with `modules.json` beside it either,
# unless `config_sentence_transformers.json` says `"model_type": "CrossEncoder"` too. Seen on 2026-11-28.
# Fails when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 sentence-transformers==6.2.0
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PYTHON'
import json
from pathlib import Path

import torch
from sentence_transformers import CrossEncoder
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

torch.manual_seed(0)
raw = Tokenizer(models.BPE({token: number for number, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|end|>", pad_token="<|pad|>")
tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content if m.content is string else m.content[0].text }}<|end|>{% endfor %}"
config = LlamaConfig(
    vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
    num_labels=1, problem_type="regression", pad_token_id=tokenizer.pad_token_id,
    sentence_transformers={"activation_fn": "torch.nn.modules.linear.Identity"},
)
model = LlamaForSequenceClassification(config).eval()
model.save_pretrained("model")
tokenizer.save_pretrained("model")
text = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}], tokenize=False)
with torch.no_grad():
    reward = model(**tokenizer(text, return_tensors="pt")).logits.item()
    twice = model(**tokenizer(f"<user>{text}<|end|>", return_tensors="pt")).logits.item()


def score(**files):
    for name, content in files.items():
        Path(f"model/{name}.json").write_text(json.dumps(content))
    return float(CrossEncoder("model", device="cpu").predict(text))


plain = score()
module = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}
pinned = {"text": {"method": "forward", "method_output_name": "logits"}}
bert = {"transformer_task": "sequence-classification", "modality_config": pinned, "module_output_name": "scores"}
halfway = score(modules=[module], sentence_bert_config=bert)
whole = score(config_sentence_transformers={"model_type": "CrossEncoder", "__version__": {"sentence_transformers": "6.2.0"}})
print(f"transformers {reward:.5f}, rendered twice {twice:.5f}; CrossEncoder: {plain:.5f}, two files {halfway:.5f}, three files {whole:.5f}")
assert abs(reward - twice) > 1e-4 and abs(plain - twice) < 1e-5 and abs(halfway - twice) < 1e-5 and abs(whole - reward) < 1e-5, "changed"
PYTHON
echo "as stated"
