# SPDX-License-Identifier: Apache-2.0
"""Open LLaMA Board: ``python src/webui.py ...`` is ``llamafactory-cli webui ...``, for those who start files."""

import sys

from llamafactory.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "webui")
    sys.exit(main())
