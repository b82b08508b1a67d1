#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# transformers 5.23.0: an Olmo 3 configuration in the older form (one `rope_theta` for all layers, as transformers 4.57 writes and reads
# it) gets that base for its full-attention layers only; the sliding-attention layers take the class's default of 500000, without a word.
# transformers 4.57.6 uses the one base in every layer. Other families with two kinds of layers (Gemma 3) have a name for each and are right.
# Seen on 2026-11-28 with rope_theta 10000: full 10000, sliding 500000. A folder saved by 5.23 itself (`rope_parameters`) is right.
# Fails when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 requests==2.32.5
"$folder/venv/bin/pip" install --quiet --no-deps --target "$folder/older" transformers==4.57.6 huggingface-hub==0.36.0 tokenizers==0.22.1
cd "$folder"
mkdir model
echo '{"model_type": "olmo3", "rope_theta": 10000.0, "num_hidden_layers": 4}' > model/config.json
"$folder/venv/bin/python" - <<'PYTHON'
from transformers import AutoConfig

found = AutoConfig.from_pretrained("model").rope_parameters
print("5.23.0 reads rope_theta 10000 as", {kind: values["rope_theta"] for kind, values in found.items()})
assert found["full_attention"]["rope_theta"] == 10000 and found["sliding_attention"]["rope_theta"] == 500000, "changed"
PYTHON
PYTHONPATH="$folder/older" "$folder/venv/bin/python" - <<'PYTHON'
import transformers
from transformers import AutoConfig
from transformers.models.olmo3.modeling_olmo3 import Olmo3RotaryEmbedding

config = AutoConfig.from_pretrained("model")
fastest_but_one = [float(Olmo3RotaryEmbedding(config, rope_type=kind).inv_freq[1]) for kind in (None, "default")]
expected = 10000 ** (-2 / (config.hidden_size // config.num_attention_heads))
print(transformers.__version__, "uses", fastest_but_one, "expected of base 10000:", expected)
assert all(abs(value - expected) < 1e-6 for value in fastest_but_one), "changed"
PYTHON
echo "as stated"
