#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# transformers 5.23.0, torch 2.13.0, CPU; the library's own Trainer.
# Models whose files keep the layout that they have on the hub (Qwen2-VL and its kin: visual.* and model.* in the file,
# model.visual.* and model.language_model.* as modules) are saved in that layout by save_pretrained, checkpoints of
# Trainer included. Trainer's resume_from_checkpoint loads a checkpoint by the names of the modules, finds next to none,
# warns about missing keys, and trains on from the weights that the process began with; optimizer, schedule, order of
# the data and step go on from the checkpoint, so that the log looks like a resumed run. from_pretrained on the same
# folder is right. Full fine-tuning only: an adapter's names are the same in both layouts.
# Seen, before the first step of the resumed run: of Qwen2-VL's tensors the head alone is the checkpoint's, of Llama's all.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/env"
"$place/env/bin/pip" install --quiet "torch==2.13.0" "transformers==5.23.0" "accelerate==1.15.0" "numpy<3"
cat > "$place/run.py" <<'PY'
import sys, torch
from transformers import (
    LlamaConfig, LlamaForCausalLM, Qwen2VLConfig, Qwen2VLForConditionalGeneration, Trainer, TrainerCallback, TrainingArguments,
)

small = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)

def qwen2_vl():
    config = Qwen2VLConfig(
        text_config=small | {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}},
        vision_config=dict(depth=1, embed_dim=32, hidden_size=32, num_heads=2),
        image_token_id=60, video_token_id=61, vision_start_token_id=62, vision_end_token_id=63,
    )
    return Qwen2VLForConditionalGeneration(config)

def llama():
    return LlamaForCausalLM(LlamaConfig(**small))

class Look(TrainerCallback):  # after a checkpoint was loaded, before the first step
    def on_train_begin(self, args, state, control, model=None, **_):
        self.seen = {key: value.clone() for key, value in model.state_dict().items()}

ids = torch.arange(1, 17)
for name, make in (("qwen2_vl", qwen2_vl), ("llama", llama)):
    more = {"mm_token_type_ids": torch.zeros(16, dtype=torch.long)} if name == "qwen2_vl" else {}
    rows = [{"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids), **more}] * 4
    look = Look()
    def trainer(model, steps):
        return Trainer(model=model, train_dataset=rows, callbacks=[look], args=TrainingArguments(
            output_dir=f"{sys.argv[1]}/{name}", max_steps=steps, learning_rate=0.01, save_steps=2, use_cpu=True, report_to="none",
            disable_tqdm=True, per_device_train_batch_size=1, lr_scheduler_type="constant", weight_decay=0.0))
    torch.manual_seed(0)
    first = make()
    trainer(first, 2).train()
    torch.manual_seed(1)
    second = make()
    start = {key: value.clone() for key, value in second.state_dict().items()}
    trainer(second, 3).train(resume_from_checkpoint=f"{sys.argv[1]}/{name}/checkpoint-2")
    told = [key for key, value in first.state_dict().items() if not torch.equal(value, start[key])]
    back = [key for key in told if torch.equal(look.seen[key], first.state_dict()[key])]
    kept = [key for key in told if torch.equal(look.seen[key], start[key])]
    fresh = type(first).from_pretrained(f"{sys.argv[1]}/{name}/checkpoint-2").state_dict()
    right = all(torch.equal(fresh[key], value) for key, value in first.state_dict().items())
    parts = f"{len(back)} of {len(told)} tensors from the checkpoint, {len(kept)} from the start"
    print(f"{name}: from_pretrained right: {right}; resumed: {parts}")
PY
"$place/env/bin/python" "$place/run.py" "$place" 2>/dev/null | grep -E '^(qwen2_vl|llama)' | tee "$place/seen"
diff "$place/seen" - <<'SEEN'
qwen2_vl: from_pretrained right: True; resumed: 1 of 34 tensors from the checkpoint, 33 from the start
llama: from_pretrained right: True; resumed: 21 of 21 tensors from the checkpoint, 0 from the start
SEEN
echo "as described"
