# SPDX-License-Identifier: Apache-2.0
"""Starting several processes: torchrun's arguments, signals handed on, and failures brought home."""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from .environment import MOST_PORT, MOST_PROCESSES, Environment, is_env_enabled, rank_number
from .errors import ConfigError, shown
from .files import write_json
from .logging import end_bars
from .parents import end_with_parent
from .secrets import mask
from .threads import SHARED, usable_cores

_DEFAULT_PORT = 29500  # several nodes cannot agree on a free port, so they share torchrun's usual one


def torchrun_argv(words: list[str], env: Mapping[str, str]) -> list[str]:
    """Return the argument list that starts ``words`` under torchrun, as the environment variables ask.

    Read are NNODES, NODE_RANK, NPROC_PER_NODE, MASTER_ADDR, MASTER_PORT; with RDZV_ID the launch is elastic and
    MIN_NNODES, MAX_NNODES and MAX_RESTARTS count too.

    Raises:
        ConfigError: A variable that shall be a number is not one.
    """
    nodes = _number(env, "NNODES", 1, least=1)
    workers = processes_per_node(env)
    address = env.get("MASTER_ADDR") or "127.0.0.1"
    argv = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(workers)]
    if env.get("RDZV_ID"):
        least = _number(env, "MIN_NNODES", nodes, least=1)
        most = _number(env, "MAX_NNODES", max(nodes, least), least=least)
        argv += ["--nnodes", f"{least}:{most}", "--rdzv-id", env["RDZV_ID"], "--rdzv-backend", "c10d"]
        argv += ["--rdzv-endpoint", f"{address}:{_port(env, most)}"]
        argv += ["--max-restarts", str(_number(env, "MAX_RESTARTS", 0, least=0))]
    else:
        rank = _number(env, "NODE_RANK", 0, least=0)
        if rank >= nodes:
            raise ConfigError(f"NODE_RANK: expected less than NNODES ({nodes}), got {rank}")
        argv += ["--nnodes", str(nodes), "--node-rank", str(rank)]
        argv += ["--master-addr", address, "--master-port", str(_port(env, nodes))]
    return [*argv, "--module", "llamafactory.launcher", *words]


def processes_per_node(env: Mapping[str, str]) -> int:
    """Return NPROC_PER_NODE, or one process for each accelerator."""
    if env.get("NPROC_PER_NODE"):
        return _number(env, "NPROC_PER_NODE", 1, least=1)
    from .device import count_accelerators

    return max(1, count_accelerators())


def worker_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Return variables to add for the workers; what the user has set stays.

    ``OPTIM_TORCH`` (on unless 0) lets CUDA's allocator grow its segments and frees NCCL's buffers early. The cores are
    shared among the workers of a node.
    """
    added = {}
    if not env.get("OMP_NUM_THREADS"):
        added = {"OMP_NUM_THREADS": str(max(1, len(usable_cores()) // processes_per_node(env))), SHARED: "1"}
    if is_env_enabled("OPTIM_TORCH", "1", env):
        added |= {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True", "TORCH_NCCL_AVOID_RECORD_STREAMS": "1"}
    return {name: value for name, value in added.items() if name not in env}


def ending_signals() -> list[int]:
    """Return the signals that ask a run to end: Ctrl-C, SIGTERM and, unless nohup has it ignored, a closed terminal."""
    signals: list[int] = [signal.SIGINT, signal.SIGTERM]
    hangup = getattr(signal, "SIGHUP", None)  # not on Windows
    return signals if hangup is None or signal.getsignal(hangup) == signal.SIG_IGN else [*signals, hangup]


def wait_passing_signals(child: subprocess.Popen[Any]) -> int | None:
    """Wait for a child; signals that end a run are handed on (a closed terminal as SIGTERM) and the child waited for.

    Returns:
        The first signal that was handed on, or None.
    """
    received: list[int] = []

    def hand_on(number: int, _: FrameType | None) -> None:
        received.append(number)
        child.send_signal(number if number in (signal.SIGINT, signal.SIGTERM) else signal.SIGTERM)

    before = {number: signal.signal(number, hand_on) for number in ending_signals()}
    try:
        child.wait()
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
    return received[0] if received else None


def record_failures(folder: str) -> None:
    """In a worker: note that this rank started, and how it ended, in a file of ``folder``.

    A rank whose note does not say that it ended was killed from outside.
    """
    note: dict[str, Any] = {
        "rank": rank_number("RANK"),
        "attempt": rank_number("TORCHELASTIC_RESTART_COUNT"),
        "ended": False,
    }

    def write(**more: Any) -> None:
        note.update(more, time=time.time())
        write_json(Path(folder) / f"attempt{note['attempt']}-rank{note['rank']}.json", note)

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        end_bars()
        line = shown(error)
        if line is not None:
            write(ended=True, user=True, text=line[0], code=line[1])
        else:
            write(ended=True, user=False, text=mask("".join(traceback.format_exception(kind, error, trace))), code=1)

    def terminate(number: int, _: FrameType | None) -> None:
        # torchrun ends the other ranks this way when one has failed: that is no failure of their own.
        end_bars()
        write(ended=True)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    end_with_parent()
    write()
    sys.excepthook = hook
    signal.signal(signal.SIGTERM, terminate)
    atexit.register(lambda: None if note["ended"] else write(ended=True))


def report_failure(folder: str, code: int) -> int:
    """Print why the workers failed, as the last thing: the earliest traceback of the last attempt, and a hint.

    Args:
        folder: Where the workers left their notes.
        code: torchrun's exit code.

    Returns:
        The exit code to end with.
    """
    notes = [json.loads(path.read_text("utf-8")) for path in Path(folder).glob("attempt*.json")]
    last = max((note["attempt"] for note in notes), default=0)
    notes = sorted((note for note in notes if note["attempt"] == last), key=lambda note: note["time"])
    failed = [note for note in notes if "text" in note]
    silent = [str(note["rank"]) for note in notes if not note["ended"]]
    sys.stdout.flush()
    if failed and failed[0]["user"]:
        print(failed[0]["text"], file=sys.stderr)
        return failed[0]["code"]
    if failed:
        print(f"\nrank {failed[0]['rank']} failed first:\n{failed[0]['text'].rstrip()}", file=sys.stderr)
    if silent:
        print(
            f"rank {', '.join(silent)} ended without a Python error: killed from outside. Exit code -9 "
            "mostly means that the host ran out of memory (see dmesg): use fewer processes or a smaller model.",
            file=sys.stderr,
        )
    return code


def _number(env: Mapping[str, str], name: str, default: int, *, least: int, most: int = MOST_PROCESSES) -> int:
    return Environment(env).number(name, default, least, most)


def _port(env: Mapping[str, str], nodes: int) -> int:
    if env.get("MASTER_PORT"):
        return _number(env, "MASTER_PORT", 0, least=1, most=MOST_PORT)
    if nodes > 1:
        return _DEFAULT_PORT
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
