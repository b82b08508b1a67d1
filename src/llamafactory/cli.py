# SPDX-License-Identifier: Apache-2.0
"""The console scripts ``llamafactory-cli`` and ``lmf``, and ``python -m llamafactory``."""

from __future__ import annotations

import atexit
import signal
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
        _end_bars()
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        _end_bars()
        from .extras.errors import shown  # not above: `version` is quick

        line = shown(error)
        if line is None:
            raise
        print(line[0], file=sys.stderr)
        return line[1]
    finally:  # all is said: a further Ctrl-C while the interpreter ends would be a traceback below the last line
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)


def _end_bars() -> None:
    """What comes last on the screen begins a line of its own, not behind a progress bar."""
    if "tqdm" in sys.modules:  # else there is no bar, and logging need not be imported for `version`
        from .extras.logging import end_bars

        end_bars()


if __name__ == "__main__":
    sys.exit(main())
