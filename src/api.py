# SPDX-License-Identifier: Apache-2.0
"""``python src/api.py ...`` is ``llamafactory-cli api ...``: it serves a model. For those who start files, not commands."""

import sys

from llamafactory.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "api")
    sys.exit(main())
