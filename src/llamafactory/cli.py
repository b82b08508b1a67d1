# SPDX-License-Identifier: Apache-2.0
"""The console scripts ``llamafactory-cli`` and ``lmf``, and ``python -m llamafactory``."""

from __future__ import annotations

import sys

from .launcher import launch


def main() -> int:
    """Run one command; a user's mistake is one line on stderr, any other exception keeps its traceback.

    Returns:
        Exit code: 0, 1 for bad input, 2 for bad usage, 130 after Ctrl-C, or the training processes' own.
    """
    try:
        return launch()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except ValueError as error:
        code = getattr(error, "exit_code", None)  # only ConfigError has one; importing it would cost `version` time
        if code is None:
            raise
        from .extras.secrets import mask

        print(f"error: {mask(str(error))}", file=sys.stderr)
        return code


if __name__ == "__main__":
    sys.exit(main())
