# SPDX-License-Identifier: Apache-2.0
"""``python -m llamafactory.jobs runner WORKSPACE`` and ``… keeper WORKSPACE NUMBER``: processes on their own."""

import sys
from pathlib import Path

from .keeper import keep
from .processes import detach
from .runner import run
from .store import JobStore

if __name__ == "__main__":
    detach()
    if sys.argv[1] == "keeper":
        keep(JobStore(Path(sys.argv[2])), int(sys.argv[3]))
    else:
        run(JobStore(Path(sys.argv[2])))
