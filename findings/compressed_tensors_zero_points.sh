#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# compressed-tensors 0.20.1, transformers 5.23.0: a `pack-quantized` checkpoint with zero points (`symmetric: false`), as compressed-tensors'
# own compressor writes it, cannot be loaded: the model is laid out on the meta device, where the compressor packs weights but not zero
# points, so their shapes differ ("ignore_mismatched_sizes"). With `"dequantize": true` beside the scheme in config.json it loads, exactly.
# Seen on 2026-11-29. Fails when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 compressed-tensors==0.20.1
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PYTHON'
import json
from pathlib import Path

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
model = LlamaForCausalLM(
    LlamaConfig(vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2)
)
arguments = QuantizationArgs(num_bits=4, type="int", symmetric=False, strategy="group", group_size=32)
scheme = QuantizationScheme(targets=["Linear"], weights=arguments)
compressor = BaseCompressor.get_value_from_registry("pack-quantized")
stored, dense = {}, {}
for name, tensor in model.state_dict().items():
    if "_proj." not in name:
        stored[name] = tensor
        continue
    zeros = torch.randint(-8, 8, (tensor.shape[0], 2), dtype=torch.int8)
    parts = compressor.compress({"weight": tensor, "weight_scale": torch.full((tensor.shape[0], 2), 0.01), "weight_zero_point": zeros}, scheme)
    stored.update({name.removesuffix("weight") + part: value.contiguous() for part, value in parts.items()})
    dense[name] = compressor.decompress(parts, scheme)["weight"]
config = model.config.to_dict() | {"architectures": ["LlamaForCausalLM"]}
config["quantization_config"] = {
    "quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed", "ignore": ["lm_head"],
    "config_groups": {"group_0": {"targets": ["Linear"], "weights": arguments.model_dump(mode="json", exclude_none=True)}},
}
Path("model").mkdir()
save_file(stored, "model/model.safetensors", metadata={"format": "pt"})


def load(**keys):
    written = config | {"quantization_config": config["quantization_config"] | keys}
    Path("model/config.json").write_text(json.dumps(written))
    return LlamaForCausalLM.from_pretrained("model", dtype=torch.float32)


try:
    load()
    as_it_is = "loads"
except RuntimeError as error:
    as_it_is = str(error)
state = load(dequantize=True).state_dict()
equal = all(torch.equal(state[name], values) for name, values in dense.items())
print(f"as it is: {as_it_is}; with dequantize: equal {equal}")
assert "ignore_mismatched_sizes" in as_it_is and equal, "changed"
PYTHON
echo "as stated"
