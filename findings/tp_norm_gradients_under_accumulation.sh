#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# transformers 5.23.0, torch 2.13.0, two processes on the CPU by gloo; the library's own tensor parallelism (DistributedConfig(tp_size=2)).
# Norms of single heads (q_norm and k_norm of Qwen 3 and its kin) hold a part of their gradient on each process. The plan's style for them adds
# the parts up after every backward pass, in place, in the gradient that the weight has gathered so far. With gradient accumulation what the
# first micro-batches gave was added up already, and is added up again: of two it counts once more for each further process, of n it grows
# with every pass. The gradients of all other weights are right, and so is this one with a single micro-batch a step, which hides it.
# Seen on 2026-11-30: gradient of the norms against one process: one micro-batch 1.00 times, the same micro-batch twice 1.50, four times 3.75;
# of the other weights 1.00 each time. Fails when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 accelerate==1.15.0 "numpy<3"
cd "$folder"
cat > run.py <<'PYTHON'
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.distributed import DistributedConfig

dist.init_process_group("gloo")
shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
torch.manual_seed(0)
if dist.get_rank() == 0:
    Qwen3ForCausalLM(Qwen3Config(vocab_size=50, **shape)).save_pretrained("model")
dist.barrier()
ids = torch.randint(0, 50, (1, 12), generator=torch.Generator().manual_seed(1))


def gradients(passes, **options):
    model = Qwen3ForCausalLM.from_pretrained("model", dtype=torch.float32, **options)
    for _ in range(passes):
        model(input_ids=ids, labels=ids).loss.backward()
    found = {name: weight.grad for name, weight in model.named_parameters()}
    return {name: grad.full_tensor() if isinstance(grad, DTensor) else grad for name, grad in found.items()}


for passes in (1, 2, 4):
    alone, both = gradients(passes), gradients(passes, distributed_config=DistributedConfig(tp_size=2))
    times = {name: float((both[name] * grad).sum() / (grad * grad).sum()) for name, grad in alone.items()}
    norms = {round(value, 2) for name, value in times.items() if "q_norm" in name or "k_norm" in name}
    others = {round(value, 2) for name, value in times.items() if "q_norm" not in name and "k_norm" not in name}
    if dist.get_rank() == 0:
        print(f"passes {passes}: norms of heads {sorted(norms)}, all others {sorted(others)}")
dist.destroy_process_group()
PYTHON
OMP_NUM_THREADS=1 venv/bin/torchrun --nproc-per-node 2 run.py 2> errors.txt | tee seen || { cat errors.txt; exit 1; }
diff seen - <<'SEEN'
passes 1: norms of heads [1.0], all others [1.0]
passes 2: norms of heads [1.5], all others [1.0]
passes 4: norms of heads [3.75], all others [1.0]
SEEN
echo "as described"
