# SPDX-License-Identifier: Apache-2.0
"""``python src/webui.py ...`` is ``llamafactory-cli webui ...``: it opens LLaMA Board. For those who start files, not commands."""

import sys

from llamafactory.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "webui")
    sys.exit(main())
