# SPDX-License-Identifier: Apache-2.0
"""The launcher of the v1 engine: the one there is, told that files are in that engine's form."""

from __future__ import annotations

import os

from .. import launcher


def launch() -> int:
    """Run the command that ``sys.argv`` names as with ``USE_V1=1``.

    Returns:
        The exit code of the process.
    """
    os.environ["USE_V1"] = "1"
    return launcher.launch()
