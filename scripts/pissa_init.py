# SPDX-License-Identifier: Apache-2.0
"""PiSSA: an adapter of a model's principal singular vectors, and the model without them, to be trained as a LoRA.

python scripts/pissa_init.py --model_name_or_path MODEL --output_dir FOLDER [--lora_rank 16 --pissa_iter 16]
"""

from __future__ import annotations

from llamafactory.hparams import get_train_args
from llamafactory.model.conversion.residual_base import write_residual
from llamafactory.train.statistics.flags import read_flags, refuse_pickles, run_script

SILENCE = {"stage": "pt", "dataset": "pt_demo", "finetuning_type": "lora", "pissa_init": True, "lora_rank": 16}


def main() -> None:
    """Begin the adapter, write both, say what to write into the YAML file."""
    own = {"output_dir": "", "shard_size": "5GB", "save_safetensors": True}
    flags, keys = read_flags(own, SILENCE, needed=("model_name_or_path", "output_dir"))
    refuse_pickles(flags["save_safetensors"])
    adapter = write_residual(get_train_args(keys), flags["output_dir"], "pissa_init", flags["shard_size"])
    print(f"Train with:\nmodel_name_or_path: {adapter.parent}\nadapter_name_or_path: {adapter}\nfinetuning_type: lora")


if __name__ == "__main__":
    run_script(main)
