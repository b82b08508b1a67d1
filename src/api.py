# SPDX-License-Identifier: Apache-2.0
"""Serve a model: ``python src/api.py ...`` is ``llamafactory-cli api ...``, for those who start files."""

import sys

from llamafactory.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "api")
    sys.exit(main())
