# SPDX-License-Identifier: Apache-2.0
"""Qwen Omni: what was trained of its thinker, put back into the model that also speaks.

python scripts/qwen_omni_merge.py merge_lora --model_path MODEL --lora_path ADAPTER --save_path FOLDER
python scripts/qwen_omni_merge.py save_full --model_path MODEL --thinker_path THINKER --save_path FOLDER
"""

from __future__ import annotations

import sys

from llamafactory.extras.errors import UsageError
from llamafactory.model.conversion.talking_models import merge_talking_adapter, put_part_back
from llamafactory.train.statistics.flags import own_flags, run_script

OWN = {"extra_file": "spk_dict.pt", "submodule_name": "thinker"}


def main() -> None:
    """Do what the first word says."""
    word = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if word == "merge_lora":
        flags = own_flags(OWN, needed=("model_path", "lora_path", "save_path"))
        merge_talking_adapter(**flags)
    elif word == "save_full":
        flags = own_flags(OWN, needed=("model_path", "thinker_path", "save_path"))
        put_part_back(**flags)
    else:
        raise UsageError(f"expected merge_lora or save_full as the first word, got {word!r}")
    print(f"written to {flags['save_path']}")


if __name__ == "__main__":
    run_script(main)
