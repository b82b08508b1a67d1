# SPDX-License-Identifier: Apache-2.0
"""Fine-tune a model: ``python src/train.py ...`` is ``llamafactory-cli train ...``, for those who start files."""

import sys

from llamafactory.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "train")
    sys.exit(main())
