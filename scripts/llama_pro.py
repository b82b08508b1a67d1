# SPDX-License-Identifier: Apache-2.0
"""Expand a model for LLaMA-Pro: blocks without effect in between, which ``use_llama_pro: true`` then trains.

python scripts/llama_pro.py --model_name_or_path MODEL --output_dir FOLDER --num_expand 8 [--shard_size 5GB]
"""

from __future__ import annotations

from llamafactory.model.block_expansion import expand_folder
from llamafactory.train.statistics.flags import own_flags, refuse_pickles, run_script


def main() -> None:
    """Expand, say what to write into the YAML file."""
    own = {"num_expand": 8, "shard_size": "5GB", "save_safetensors": True}
    flags = own_flags(own, needed=("model_name_or_path", "output_dir"))
    refuse_pickles(flags["save_safetensors"])
    found = expand_folder(flags["model_name_or_path"], flags["output_dir"], flags["num_expand"], flags["shard_size"])
    print(f"Inserted blocks: {', '.join(map(str, found))}. Train them with:")
    print(f"model_name_or_path: {flags['output_dir']}\nfinetuning_type: freeze\nuse_llama_pro: true")
    print(f"freeze_trainable_layers: {flags['num_expand']}")


if __name__ == "__main__":
    run_script(main)
