# SPDX-License-Identifier: Apache-2.0
"""LoftQ: an adapter of what rounding to few bits loses of a model, and the rounded model, to be trained as a LoRA.

python scripts/loftq_init.py --model_name_or_path MODEL --output_dir FOLDER [--loftq_bits 4 --loftq_iter 4]
"""

from __future__ import annotations

from llamafactory.hparams import get_train_args
from llamafactory.model.conversion.residual_base import write_residual
from llamafactory.train.statistics.flags import read_flags, refuse_pickles, run_script

SILENCE = {
    "stage": "pt", "dataset": "pt_demo", "finetuning_type": "lora", "lora_init": "loftq", "lora_rank": 16,
    "loftq_iter": 4, "double_quantization": False,
}  # fmt: skip


def main() -> None:
    """Round, begin the adapter, write both, say what to write into the YAML file."""
    own = {"output_dir": "", "loftq_bits": 4, "shard_size": "5GB", "save_safetensors": True}
    flags, keys = read_flags(own, SILENCE, needed=("model_name_or_path", "output_dir"))
    refuse_pickles(flags["save_safetensors"])
    args = get_train_args({**keys, "quantization_bit": flags["loftq_bits"]})
    adapter = write_residual(args, flags["output_dir"], "loftq_init", flags["shard_size"])
    print(f"Train with:\nmodel_name_or_path: {adapter.parent}\nadapter_name_or_path: {adapter}\nfinetuning_type: lora")
    print(f"quantization_bit: {flags['loftq_bits']}\ndouble_quantization: {str(keys['double_quantization']).lower()}")


if __name__ == "__main__":
    run_script(main)
