# SPDX-License-Identifier: Apache-2.0
"""``python -m llamafactory`` is the console script ``llamafactory-cli``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
