# SPDX-License-Identifier: Apache-2.0
"""``python src/train.py ...`` is ``llamafactory-cli train ...``: it fine-tunes a model. For those who start files, not commands."""

import sys

from llamafactory.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "train")
    sys.exit(main())
