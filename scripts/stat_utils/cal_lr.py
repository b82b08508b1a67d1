# SPDX-License-Identifier: Apache-2.0
"""A learning rate to begin with, from how many tokens of a step are trained; or found by trying rates that grow.

python scripts/stat_utils/cal_lr.py --model_name_or_path MODEL --dataset alpaca_en_demo --template qwen --batch_size 16
python scripts/stat_utils/cal_lr.py ... --find true [--first_rate 1e-7 --last_rate 1 --num_steps 100]
"""

from __future__ import annotations

from llamafactory.hparams import get_train_args
from llamafactory.train.statistics.flags import read_flags, run_script
from llamafactory.train.statistics.operations import rate_to_begin_with
from llamafactory.train.statistics.rate_finder import find_rate
from llamafactory.train.statistics.rows import trained_tokens

SILENCE = {
    "stage": "sft", "do_train": True, "dataset": "alpaca_en_demo", "dataset_dir": "data", "template": "default",
    "cutoff_len": 2048, "output_dir": "dummy_dir", "finetuning_type": "full", "overwrite_cache": True,
    "train_on_prompt": False, "packing": False,
}  # fmt: skip

OWN = {
    "batch_size": 1, "is_mistral_or_gemma": False, "find": False, "first_rate": 1e-7, "last_rate": 1.0,
    "num_steps": 100,
}  # fmt: skip


def main() -> None:
    """Count trained tokens, print the rate."""
    flags, keys = read_flags(OWN, SILENCE, needed=("model_name_or_path", "batch_size"))
    if flags["find"]:
        tried = find_rate(
            {"per_device_train_batch_size": flags["batch_size"], **keys},
            flags["first_rate"], flags["last_rate"], flags["num_steps"],
        )  # fmt: skip
        print("\n".join(f"{rate:.2e} {loss:.4f}" for rate, loss in zip(tried.rates, tried.losses, strict=False)))
        print(f"learning_rate: {tried.suggestion():.2e}")
        return
    args = get_train_args(keys)
    rows, tokens, trained = trained_tokens(args)
    # A pack is full, but for what is not trained.
    a_row = args.data.cutoff_len * trained / tokens if args.data.packing else trained / rows
    step = flags["batch_size"] * a_row
    rate = rate_to_begin_with(step, flags["is_mistral_or_gemma"])
    print(f"trained: {trained / tokens:.2%} of the tokens, {step:,.0f} of a step\nlearning_rate: {rate:.2e}")


if __name__ == "__main__":
    run_script(main)
