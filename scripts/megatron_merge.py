# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of Megatron-core as a folder that transformers reads, or the other way round.

python scripts/megatron_merge.py --checkpoint_path CHECKPOINT --output_path FOLDER --config_path MODEL
"""

from __future__ import annotations

from llamafactory.extras.errors import UsageError
from llamafactory.model.conversion.megatron_checkpoint import convert_megatron
from llamafactory.train.statistics.flags import own_flags, run_script

# Flags of other writers' checkpoints, which are of a number of devices -> the value that asks for nothing.
OF_SIZES = {
    "tensor_model_parallel_size": 1, "pipeline_model_parallel_size": 1, "expert_model_parallel_size": 1,
    "virtual_pipeline_model_parallel_size": 1, "moe_grouped_gemm": False, "convert_model_max_length": 0,
}  # fmt: skip


def main() -> None:
    """Convert."""
    own = {"bf16": False, "fp16": False, "config_path": "", **OF_SIZES}
    flags = own_flags(own, needed=("checkpoint_path", "output_path"))
    for name, nothing in OF_SIZES.items():
        if flags.pop(name) != nothing:
            raise UsageError(f"--{name}: checkpoints of Megatron Bridge are of no sizes; leave it out")
    print(convert_megatron(**flags))


if __name__ == "__main__":
    run_script(main)
