# SPDX-License-Identifier: Apache-2.0
"""Qwen (the first) in LLaMA's layout, which transformers reads without code from the hub.

python scripts/convert_ckpt/llamafy_qwen.py --input_dir MODEL --output_dir FOLDER [--shard_size 2GB]
"""

from __future__ import annotations

from llamafactory.model.conversion.llama_layout import llamafy_qwen
from llamafactory.train.statistics.flags import own_flags, refuse_pickles, run_script


def main() -> None:
    """Convert."""
    flags = own_flags({"shard_size": "2GB", "save_safetensors": True}, needed=("input_dir", "output_dir"))
    refuse_pickles(flags.pop("save_safetensors"))
    llamafy_qwen(**flags)
    print(f"written to {flags['output_dir']}")


if __name__ == "__main__":
    run_script(main)
