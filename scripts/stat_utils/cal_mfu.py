# SPDX-License-Identifier: Apache-2.0
"""Seconds of a training step, and the share of the device's arithmetic that the model's products are (MFU).

python scripts/stat_utils/cal_mfu.py --model_name_or_path MODEL --batch_size 1 --seq_length 1024 --num_steps 100
"""

from __future__ import annotations

from llamafactory.train.statistics.flags import read_flags, run_script, speed_keys
from llamafactory.train.statistics.speed import measure_steps, report

OWN = {
    "batch_size": 1, "seq_length": 1024, "num_steps": 100, "deepspeed_stage": 0, "disable_gc": False,
    "liger_kernel": False, "unsloth_gc": False,
}  # fmt: skip
SILENCE = {"finetuning_type": "lora", "flash_attn": "auto"}


def main() -> None:
    """Train, measure, print."""
    flags, keys = read_flags(OWN, SILENCE, needed=("model_name_or_path",))
    numbers = [flags.pop(name) for name in ("batch_size", "seq_length", "num_steps")]
    print(report(measure_steps(keys | speed_keys(**flags), *numbers)))


if __name__ == "__main__":
    run_script(main)
