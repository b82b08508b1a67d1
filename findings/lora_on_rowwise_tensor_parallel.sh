#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# PEFT 0.21.2, transformers 5.23.0, torch 2.13.0, two processes on the CPU by gloo.
# PEFT takes a model that transformers loaded with DistributedConfig(tp_size=2) and cuts its adapters as the layers are cut. An adapter on a
# layer that is cut by columns (q_proj, gate_proj) runs. One on a layer that is cut by rows (o_proj, down_proj) is made with the width of this
# process's part, while the wrapper that transformers 5.23 puts round it takes that width for the whole one and halves it again: the first
# forward pass raises a RuntimeError about a shape. So "all-linear", the usual target, cannot be trained. Giving lora_A the width of the
# whole layer, or cutting whole adapters afterwards by transformers' own styles, works.
# Seen on 2026-11-30. Fails when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 peft==0.21.2 accelerate==1.15.0 "numpy<3"
cd "$folder"
cat > run.py <<'PYTHON'
import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.distributed import DistributedConfig

dist.init_process_group("gloo")
shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2}
if dist.get_rank() == 0:
    LlamaForCausalLM(LlamaConfig(vocab_size=50, **shape)).save_pretrained("model")
dist.barrier()
ids = torch.arange(12)[None]
for layer in ("q_proj", "gate_proj", "o_proj", "down_proj"):
    config = DistributedConfig(tp_size=2)
    model = LlamaForCausalLM.from_pretrained("model", dtype=torch.float32, distributed_config=config)
    model = get_peft_model(model, LoraConfig(r=4, target_modules=[layer]))
    try:
        model(input_ids=ids, labels=ids).loss.backward()
        said = "runs"
    except RuntimeError:
        width = next(part for name, part in model.named_modules() if name.endswith("lora_A.default")).in_features
        said = f"RuntimeError, made for {width} numbers of {getattr(model.config, 'hidden_size' if layer == 'o_proj' else 'intermediate_size')}"
    if dist.get_rank() == 0:
        print(f"{layer}: {said}", flush=True)
dist.destroy_process_group()
PYTHON
OMP_NUM_THREADS=1 venv/bin/torchrun --nproc-per-node 2 run.py 2> errors.txt | tee seen || { cat errors.txt; exit 1; }
diff seen - <<'SEEN'
q_proj: runs
gate_proj: runs
o_proj: RuntimeError, made for 16 numbers of 32
down_proj: RuntimeError, made for 32 numbers of 64
SEEN
echo "as described"
