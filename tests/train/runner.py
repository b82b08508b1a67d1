# SPDX-License-Identifier: Apache-2.0
"""Train with the keys given as JSON; KILL_AT=<step> kills rank KILL_RANK after that step, on the first attempt only."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

from transformers import TrainerCallback

from llamafactory.extras.errors import ConfigError
from llamafactory.train.tuner import run_exp


class _Kill(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        first = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
        here = os.environ.get("RANK", "0") == os.environ.get("KILL_RANK", "0")
        if first and here and state.global_step == int(os.environ.get("KILL_AT", "-1")):
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    try:
        run_exp(json.loads(sys.argv[1]), [_Kill()])
    except ConfigError as error:
        sys.exit(f"error: {error}")
