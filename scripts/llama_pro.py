# SPDX-License-Identifier: Apache-2.0
"""Expand a model for LLaMA-Pro: blocks without effect in between, which ``use_llama_pro: true`` then trains.

python scripts/llama_pro.py --model_name_or_path MODEL --output_dir FOLDER --num_expand 8 [--shard_size 5GB]
"""

from __future__ import annotations

import argparse
import sys

from llamafactory.extras.errors import ConfigError
from llamafactory.model.block_expansion import expand_folder


def main() -> int:
    """Read the flags, expand, say what to write into the YAML file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True)
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--num_expand", type=int, required=True)
    parser.add_argument("--shard_size", default="5GB")
    given = parser.parse_args()
    try:
        found = expand_folder(given.model_name_or_path, given.output_dir, given.num_expand, given.shard_size)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"Inserted blocks: {', '.join(map(str, found))}. Train them with:")
    print(f"model_name_or_path: {given.output_dir}\nfinetuning_type: freeze\nuse_llama_pro: true")
    print(f"freeze_trainable_layers: {given.num_expand}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
