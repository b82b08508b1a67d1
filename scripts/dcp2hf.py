# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of torch.distributed.checkpoint as a folder that transformers reads.

python scripts/dcp2hf.py --dcp_path CHECKPOINT --hf_path FOLDER --config_path MODEL
"""

from __future__ import annotations

from llamafactory.model.conversion.distributed_checkpoint import dcp_to_hf
from llamafactory.train.statistics.flags import own_flags, run_script


def main() -> None:
    """Convert."""
    flags = own_flags({"shard_size": "5GB"}, needed=("dcp_path", "hf_path", "config_path"))
    print(f"{dcp_to_hf(**flags)} tensors in {flags['hf_path']}")


if __name__ == "__main__":
    run_script(main)
