# SPDX-License-Identifier: Apache-2.0
"""Operations, multiply-additions and parameters of a model's forward pass; no weights are read.

python scripts/stat_utils/cal_flops.py --model_name_or_path MODEL --batch_size 1 --seq_length 512
"""

from __future__ import annotations

from llamafactory.hparams import get_train_args
from llamafactory.train.statistics.flags import read_flags, run_script
from llamafactory.train.statistics.operations import count_operations

SILENCE = {"stage": "pt", "do_train": True, "dataset": "pt_demo", "output_dir": "dummy_dir", "finetuning_type": "full"}


def main() -> None:
    """Count and print."""
    flags, keys = read_flags({"batch_size": 1, "seq_length": 512}, SILENCE, needed=("model_name_or_path",))
    operations, parameters = count_operations(get_train_args(keys), flags["batch_size"], flags["seq_length"])
    print(f"FLOPs: {operations:,}\nMACs: {operations // 2:,}\nParams: {parameters:,}")


if __name__ == "__main__":
    run_script(main)
