# SPDX-License-Identifier: Apache-2.0
"""torchrun, which leaves it to its parent to say what failed: no table of its own, no traceback of its waiting."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from .errors import first_line
from .files import write_json
from .launching import ERROR_DIR, EXITS


def main() -> int:
    """Run torchrun with this process's arguments; note how its workers ended.

    Returns:
        Exit code.
    """
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.run import main as run

    if os.environ.get("LLAMAFACTORY_VERBOSITY", "INFO").upper() not in ("DEBUG", "NOTSET"):
        logging.disable(logging.CRITICAL)
    try:
        run(sys.argv[1:])
    except ChildFailedError as error:
        exits = {str(rank): failure.exitcode for rank, failure in error.failures.items()}
        write_json(Path(os.environ[ERROR_DIR]) / EXITS, exits)
        return 1
    except SignalException as error:
        return 128 + int(error.sigval)
    except (DistError, RendezvousError) as error:
        print(f"error: the machines of this run did not come together: {first_line(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
