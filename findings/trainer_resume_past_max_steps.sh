#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# transformers 5.23.0 (torch 2.13.0, accelerate 1.15.0): a Trainer that is resumed from the checkpoint of its last step takes one
# optimizer step more when `max_steps` ends inside an epoch, each time it is started again; when `max_steps` ends with an epoch it takes
# none. The loop looks at `max_steps` only behind a step, and a finished run still has batches of its epoch before it.
# Seen on 2026-11-28: inside an epoch 4 -> 5 -> 6 steps with other weights each time, at the end of one 4 -> 4.
# Fails when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 accelerate==1.15.0
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PYTHON'
import glob
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments


def steps_of_a_start(folder, rows):
    """Start the same run; resume from its newest checkpoint if there is one. Returns its steps and a sum of its weights."""
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    data = [{"input_ids": [1, 2, 3, n % 30], "labels": [1, 2, 3, n % 30]} for n in range(rows)]
    arguments = TrainingArguments(
        folder, max_steps=4, save_steps=1, per_device_train_batch_size=1, learning_rate=0.1, lr_scheduler_type="constant",
        use_cpu=True, report_to="none", disable_tqdm=True,
    )
    trainer = Trainer(LlamaForCausalLM(config), arguments, train_dataset=data)
    trainer.train(resume_from_checkpoint=bool(glob.glob(f"{folder}/checkpoint-*")))
    return trainer.state.global_step, float(sum(weight.abs().sum() for weight in trainer.model.parameters()))


inside = [steps_of_a_start("inside", rows=10) for _ in range(3)]
at_end = [steps_of_a_start("at_end", rows=4) for _ in range(3)]
print("max_steps=4 inside an epoch of 10 steps:", inside)
print("max_steps=4 at the end of an epoch of 4 steps:", at_end)
assert [steps for steps, _ in inside] == [4, 5, 6], "changed"
assert len({weights for _, weights in inside}) == 3, "changed"
assert [steps for steps, _ in at_end] == [4, 4, 4], "changed"
PYTHON
echo "as stated"
