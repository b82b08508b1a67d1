#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# transformers 5.23.0 with schedulefree 1.4.1: `warmup_steps: 0.1`, which means a tenth of the run since warmup_ratio is gone, is handed to the
# schedule-free optimizers as it stands. They count steps: the first one takes 1 / 0.1 = 10 times the learning rate, and there is no warm-up.
# The trainer's own schedule makes 20 steps of it for a run of 200. A warm-up given in whole steps is right.
# Seen on 2026-11-29: rate of the first step 10 x learning_rate. Fails when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 accelerate==1.15.0 schedulefree==1.4.1
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from transformers import Trainer, TrainingArguments

def first_rate(warmup):
    arguments = TrainingArguments(
        "out", optim="schedule_free_adamw", learning_rate=1e-3, warmup_steps=warmup, max_steps=200, use_cpu=True
    )
    kind, options = Trainer.get_optimizer_cls_and_kwargs(arguments)
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = kind([weight], **options)
    optimizer.train()
    weight.sum().backward()
    optimizer.step()
    return arguments.get_warmup_steps(200), optimizer.param_groups[0]["scheduled_lr"]

share, whole = first_rate(0.1), first_rate(20)
print("warmup_steps 0.1:", share, "warmup_steps 20:", whole)
assert share[0] == whole[0] == 20 and abs(share[1] - 1e-2) < 1e-9 and abs(whole[1] - 1e-3 / 20) < 1e-9, "changed"
PYTHON
echo "as stated"
