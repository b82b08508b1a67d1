#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# deepspeed 0.19.8, torch 2.13.0, CPU, one process, gloo.
# ZeRO stages 1 and 2 tell which part of the optimizer's flat state belongs to which weight once, when the FIRST group
# of weights has made its first step. The state of further groups does not exist yet at that moment, and it is never
# looked for again: after any number of steps safe_get_full_optimizer_state works for weights of the first group and
# raises "exp_avg not found in optimizer state fragment" for those of the second. Two groups are what every trainer
# makes that keeps weight decay off biases and norms. Training itself is right.
# Seen: group 0: found, group 1: ValueError, for stages 1 and 2; a program that saves states by these functions must
# make the link again first.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/env"
"$place/env/bin/pip" install --quiet "torch==2.13.0" "deepspeed==0.19.8" "numpy<3"
cat > "$place/run.py" <<'PY'
import os
os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29631"}
import deepspeed, torch
from deepspeed.utils import safe_get_full_optimizer_state

deepspeed.init_distributed("gloo")
for stage in (1, 2):
    torch.manual_seed(0)
    model = torch.nn.Linear(8, 8)
    groups = [{"params": [model.weight], "weight_decay": 0.1}, {"params": [model.bias], "weight_decay": 0.0}]
    config = {
        "train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": stage}, "zero_allow_untested_optimizer": True,
    }
    engine, *_ = deepspeed.initialize(model=model, optimizer=torch.optim.AdamW(groups, lr=0.01), config=config)
    for _ in range(3):
        engine.backward(engine(torch.ones(1, 8)).square().sum())
        engine.step()
    said = []
    for weight in (model.weight, model.bias):
        try:
            said.append("found" if safe_get_full_optimizer_state(weight, "exp_avg").abs().sum() > 0 else "zeros")
        except ValueError as error:
            said.append(type(error).__name__)
    print(f"stage {stage}: group 0 {said[0]}, group 1 {said[1]}")
PY
DS_ACCELERATOR=cpu "$place/env/bin/python" "$place/run.py" 2>/dev/null | grep '^stage' | tee "$place/seen"
diff "$place/seen" <(printf 'stage 1: group 0 found, group 1 ValueError\nstage 2: group 0 found, group 1 ValueError\n')
echo "as described"
