# SPDX-License-Identifier: Apache-2.0
"""A model's weights as a checkpoint of torch.distributed.checkpoint.

python scripts/hf2dcp.py --hf_path MODEL --dcp_path FOLDER
"""

from __future__ import annotations

from llamafactory.model.conversion.distributed_checkpoint import hf_to_dcp
from llamafactory.train.statistics.flags import own_flags, run_script


def main() -> None:
    """Convert."""
    flags = own_flags({}, needed=("hf_path", "dcp_path"))
    print(f"{hf_to_dcp(**flags)} tensors in {flags['dcp_path']}")


if __name__ == "__main__":
    run_script(main)
