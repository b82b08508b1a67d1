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
import threading
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import psutil

from .environment import MOST_PORT, MOST_PROCESSES, Environment, is_env_enabled, rank_number
from .errors import ConfigError, shown
from .files import write_json
from .line import Cause, Line, Outcome, Place
from .logging import end_bars
from .meeting import refused_port
from .parents import end_with_parent
from .secrets import mask
from .threads import SHARED, usable_cores

ERROR_DIR = "LLAMAFACTORY_ERROR_DIR"
PACE_SECONDS = 60.0  # by which machines may be apart once they have met; looking for accelerators takes a while
EXITS = "exits.json"  # what torchrun saw, beside the notes of the workers
_OTHERS_SECONDS = 45.0  # to hear how the others ended: torchrun gives its workers 30
_STOP_SECONDS = 8.0
_DEFAULT_PORT = 29500  # several nodes cannot agree on a free port, so they share torchrun's usual one


def read_place(env: Mapping[str, str]) -> Place:
    """Return where NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT put this machine.

    Raises:
        ConfigError: A variable that shall be a number is not one, or NODE_RANK is too high.
    """
    nodes = _number(env, "NNODES", 1, least=1)
    rank = _number(env, "NODE_RANK", 0, least=0)
    if rank >= nodes:
        raise ConfigError(f"NODE_RANK: expected less than NNODES ({nodes}), got {rank}")
    assumed = tuple(name for name in ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT") if not env.get(name))
    return Place(rank, nodes, env.get("MASTER_ADDR") or "127.0.0.1", _port(env, nodes), assumed)


def torchrun_argv(words: list[str], env: Mapping[str, str], place: Place | None = None) -> list[str]:
    """Return the argument list that starts ``words`` under torchrun, as the environment variables ask.

    Read are NNODES, NODE_RANK, NPROC_PER_NODE, MASTER_ADDR, MASTER_PORT; with RDZV_ID the launch is elastic and
    MIN_NNODES, MAX_NNODES and MAX_RESTARTS count too.

    Args:
        words: The command and its arguments.
        env: The variables.
        place: What :func:`read_place` made of them, if that was asked before: a free port is chosen once.

    Raises:
        ConfigError: A variable that shall be a number is not one.
    """
    argv = [sys.executable, "-m", "llamafactory.extras.torchrun", "--nproc-per-node", str(processes_per_node(env))]
    if env.get("RDZV_ID"):
        nodes = _number(env, "NNODES", 1, least=1)
        least = _number(env, "MIN_NNODES", nodes, least=1)
        most = _number(env, "MAX_NNODES", max(nodes, least), least=least)
        argv += ["--nnodes", f"{least}:{most}", "--rdzv-id", env["RDZV_ID"], "--rdzv-backend", "c10d"]
        argv += ["--rdzv-endpoint", f"{env.get('MASTER_ADDR') or '127.0.0.1'}:{_port(env, most)}"]
        argv += ["--max-restarts", str(_number(env, "MAX_RESTARTS", 0, least=0))]
    else:
        place = place or read_place(env)
        argv += ["--nnodes", str(place.nodes), "--node-rank", str(place.rank)]
        argv += ["--master-addr", place.address, "--master-port", str(place.port)]
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


def ways_to_others(env: Mapping[str, str], address: str) -> dict[str, str]:
    """Return variables that make gloo and NCCL use the network device with one of this machine's addresses.

    gloo looks its own host name up, which many an /etc/hosts gives as 127.0.0.1; then it would listen to nobody else.
    """
    if address.startswith(("127.", "::1", "::ffff:127.")):
        return {}
    address = address.removeprefix("::ffff:")
    devices = [name for name, its in psutil.net_if_addrs().items() if any(one.address == address for one in its)]
    names = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    return {name: devices[0] for name in names if devices and name not in env}


def require_free_port(place: Place) -> None:
    """Raises:
    ConfigError: Another program listens where the processes of this machine, the only one, shall meet.
    """
    if "MASTER_PORT" in place.assumed:
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", place.port))
            probe.listen()
        except OSError as error:
            raise refused_port(place.port, error) from None


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


def stop(child: subprocess.Popen[Any]) -> None:
    """End torchrun because another machine failed: its workers, which may wait for that one, get little time."""
    child.terminate()
    timer = threading.Timer(_STOP_SECONDS, _kill, [child])
    timer.daemon = True
    timer.start()


def _kill(child: subprocess.Popen[Any]) -> None:
    """Kill torchrun and its workers, which would otherwise write their last words below ours."""
    with suppress(psutil.Error):
        for process in psutil.Process(child.pid).children(recursive=True):
            process.kill()
    child.kill()


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


def report_end(folder: str, code: int, received: int | None, line: Line | None) -> int:
    """Print, as the last thing, why the workers failed: those of this machine, or of the one that failed first.

    Args:
        folder: Where the workers and torchrun left their notes.
        code: torchrun's exit code.
        received: The signal that ended this machine's part.
        line: To the other machines.

    Returns:
        The exit code to end with.
    """
    text, mine = read_failure(folder, code) if code else ("", Outcome(0))
    if received is not None:
        text, mine = "interrupted", Outcome(128 + received, "interrupted", time.time())
    sys.stdout.flush()
    if line is not None:
        first, outcome = line.end(mine, _OTHERS_SECONDS)
        if first != line.place.rank:
            text, mine = f"error: {line.name(first)}: {outcome.text}", outcome
    if text:
        print(text, file=sys.stderr)
    return mine.code


def read_failure(folder: str, code: int) -> tuple[str, Outcome]:
    """Find out why the workers of this machine failed: the earliest error of the last attempt.

    Args:
        folder: Where the workers and torchrun left their notes.
        code: torchrun's exit code.

    Returns:
        All that is to be said, and it in one line.
    """
    notes = [json.loads(path.read_text("utf-8")) for path in Path(folder).glob("attempt*.json")]
    last = max((note["attempt"] for note in notes), default=0)
    notes = sorted((note for note in notes if note["attempt"] == last), key=lambda note: note["time"])
    exits = _exits(Path(folder))
    failed = [note for note in notes if "text" in note]
    if failed and failed[0]["user"]:
        text = failed[0]["text"]
        return text, Outcome(failed[0]["code"], text.removeprefix("error: "), failed[0]["time"], Cause.MISTAKE)
    silent = [note["rank"] for note in notes if not note["ended"]]
    said = [f"\nrank {failed[0]['rank']} failed first:\n{failed[0]['text'].rstrip()}"] if failed else []
    said += [_silence(rank, exits.get(str(rank))) for rank in silent]
    if failed:
        line = f"rank {failed[0]['rank']}: {failed[0]['text'].rstrip().splitlines()[-1]}"
        return "\n".join(said), Outcome(code, line, failed[0]["time"])
    if silent:
        return "\n".join(said), Outcome(code, said[0], time.time(), Cause.KILLED)
    names = ", ".join(f"rank {rank} (exit code {exit})" for rank, exit in exits.items())
    line = f"{names} ended before it could say why; what it said itself stands above" if names else ""
    return line, Outcome(code, line or f"torchrun ended with exit code {code}", time.time())


def _exits(folder: Path) -> dict[str, int]:
    path = folder / EXITS
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def _silence(rank: int, code: int | None) -> str:
    if code is not None and code >= 0:
        return f"rank {rank} ended with exit code {code} and without a Python error: something in it left on its own"
    by = "" if code is None else f" ({signal.Signals(-code).name})"
    return (
        f"rank {rank} ended without a Python error: killed from outside{by}. SIGKILL mostly means that the host ran "
        "out of memory (see dmesg): use fewer processes or a smaller model."
    )


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
