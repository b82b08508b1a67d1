# SPDX-License-Identifier: Apache-2.0
"""Speed of full fine-tuning of a model on made-up rows, by the names that users of ``bench_qwen`` know.

python scripts/bench.py --model_name_or_path MODEL --batch_size 1 --seq_length 2048 [--deepspeed_stage 3]
"""

from __future__ import annotations

from llamafactory.train.statistics.flags import read_flags, run_script, speed_keys
from llamafactory.train.statistics.speed import measure_steps, report

OWN = {"batch_size": 1, "seq_length": 2048, "num_steps": 10, "deepspeed_stage": 0, "liger_kernel": False}
SILENCE = {"finetuning_type": "full"}


def main() -> None:
    """Train, measure, print."""
    flags, keys = read_flags(OWN, SILENCE, needed=("model_name_or_path",))
    numbers = [flags.pop(name) for name in ("batch_size", "seq_length", "num_steps")]
    print(report(measure_steps(keys | speed_keys(**flags), *numbers)))


if __name__ == "__main__":
    run_script(main)
