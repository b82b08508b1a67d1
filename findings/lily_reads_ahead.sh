#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# PEFT 0.21.2: a LILY adapter lets a token depend on the tokens behind it, and on the other rows of its batch: its router takes one mean over
# all tokens of the batch and mixes the experts for all of them by it. So a causal model is trained with a view of its own answers, packed or
# batched rows change each other, and generating token by token computes something else than training did. The base model does neither.
# Seen on 2026-11-29 with a random Llama of two layers: the last token changed, the first position's logits move by 0.03; another row beside,
# by 0.07; without the adapter by 0. Fails when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 peft==0.21.2
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from peft import LilyConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 50}
model = get_peft_model(LlamaForCausalLM(LlamaConfig(**shape)), LilyConfig(r=4, target_modules=["q_proj", "v_proj"])).eval()
for name, weight in model.named_parameters():
    if "lily" in name:
        torch.nn.init.normal_(weight)
one = torch.randint(0, 50, (1, 8))
other = one.clone()
other[0, -1] = (one[0, -1] + 1) % 50
with torch.no_grad():
    alone, changed = model(one).logits, model(other).logits
    beside = model(torch.cat([one, other.flip(1)])).logits[:1]
print("first token, last one changed:", float((alone - changed)[0, 0].abs().max()))
print("first row, another row beside:", float((alone - beside).abs().max()))
with torch.no_grad(), model.disable_adapter():
    print("the base:", float((model(one).logits - model(other).logits)[0, 0].abs().max()))
    assert torch.equal(model(one).logits[0, 0], model(other).logits[0, 0])
assert (alone - changed)[0, 0].abs().max() > 1e-3 and (alone - beside).abs().max() > 1e-3, "changed"
PYTHON
echo "as stated"
