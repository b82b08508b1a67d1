# SPDX-License-Identifier: Apache-2.0
"""Train with the keys given as JSON, or with those of each line of stdin in a process of its own.

KILL_AT=<step> kills rank KILL_RANK after that step, on the first attempt only.
KILL_PREPARED=1 kills each rank once it has its data, on the first attempt only.
FORKED_RANKS=<number> starts ranks without torchrun, out of one process that has imported everything.
STEP_SECONDS=<number> makes each step take longer.
PARTS=<file> writes, by rank, which share of the weights and of the optimizer's state the rank holds.
RECORD=<file> writes what is trained on, BLOCK_ROWS=<number> makes the blocks of a stream small.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from llamafactory.data.streaming import rows as streaming
from llamafactory.extras.errors import ConfigError
from llamafactory.train import workflow
from llamafactory.train.tuner import run_exp

sys.path.insert(0, str(Path(__file__).parent))
from running import record_batches

SECONDS = 180  # of a run that hangs


class _Kill(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        first = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
        here = os.environ.get("RANK", "0") == os.environ.get("KILL_RANK", "0")
        if first and here and state.global_step == int(os.environ.get("KILL_AT", "-1")):
            os.kill(os.getpid(), signal.SIGKILL)


class _Slow(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        time.sleep(float(os.environ["STEP_SECONDS"]))


class _Parts(TrainerCallback):
    """Looks, after the first step, at what this process holds."""

    def on_step_end(
        self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **kwargs: Any
    ) -> None:
        from torch.distributed.tensor import DTensor

        path = Path(os.environ["PARTS"]).with_suffix(f".{args.process_index}")
        if path.exists():
            return
        weights = list(model.parameters())
        moments = [one for state in optimizer.state.values() for one in state.values() if one.dim()]
        cut = all(isinstance(one, DTensor) for one in [*weights, *moments])
        held, whole = (
            [sum(size(one) for one in some) for some in (weights, moments)]
            for size in (lambda one: one.to_local().numel() if cut else one.numel(), lambda one: one.numel())
        )
        path.write_text(json.dumps({"cut": cut, "held": held, "whole": whole}))


def _kill_prepared() -> None:
    plain = workflow.get_dataset

    def killed(*args: Any) -> None:
        plain(*args)
        os.kill(os.getpid(), signal.SIGKILL)

    workflow.get_dataset = killed


def _fork(ranks: int) -> int | None:
    """Return None in each rank, and in the parent the highest exit code of them."""
    from torch.distributed import TCPStore

    # As torchrun's agent keeps one. It lives as long as its name, and the ranks must not share it.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    os.environ |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "GROUP_RANK": "0"}
    children = []
    for rank in range(ranks):
        child = os.fork()
        if child == 0:
            signal.alarm(SECONDS)
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            return None
        children.append(child)
    return max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)


def _import_all() -> None:
    """Import what a run needs and asks for late, so that whoever is forked off need not."""
    import datasets  # noqa: F401
    import peft  # noqa: F401
    import torch.distributed.fsdp  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401

    from llamafactory.train import trainer  # noqa: F401


def _serve() -> None:
    """Answer each line of stdin, a command of the tests, with the exit code of a process forked off to obey it.

    That process is as fresh as one started anew, except that everything is imported.
    """
    _import_all()
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            for number, name in enumerate((os.devnull, order["stdout"], order["stderr"])):
                os.dup2(os.open(name, os.O_RDWR if number == 0 else os.O_WRONLY), number)
            os.environ.clear()
            os.environ |= order["env"]
            os.chdir(order["cwd"])
            signal.alarm(SECONDS)
            try:
                code = main(order["keys"])
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1
                if isinstance(end.code, str):
                    print(end.code, file=sys.stderr)
            except BaseException:
                traceback.print_exc()
                code = 1
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def main(keys: str) -> int:
    if "FORKED_RANKS" in os.environ:
        code = _fork(int(os.environ.pop("FORKED_RANKS")))
        if code is not None:
            return code
    if "KILL_PREPARED" in os.environ and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        _kill_prepared()
    if "RECORD" in os.environ:
        record_batches(Path(os.environ["RECORD"]))
    if "BLOCK_ROWS" in os.environ:
        streaming.BLOCK_ROWS = streaming.PACKED_BLOCK_ROWS = int(os.environ["BLOCK_ROWS"])
    watching = [_Kill(), *[_Slow()] * ("STEP_SECONDS" in os.environ), *[_Parts()] * ("PARTS" in os.environ)]
    try:
        run_exp(json.loads(keys), watching)
    except ConfigError as error:
        sys.exit(f"error: {error}")
    return 0


if __name__ == "__main__":
    if len(sys.argv) == 1:
        _serve()
    else:
        sys.exit(main(sys.argv[1]))
