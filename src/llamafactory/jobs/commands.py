# SPDX-License-Identifier: Apache-2.0
"""``llamafactory-cli jobs``: the queue from a terminal, on the same store as the page."""

from __future__ import annotations

import logging
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..extras.errors import ConfigError, UsageError, short
from .database import FILE_NAME as STORE_NAME
from .follow import follow
from .job import CACHE, COMMANDS, STOPPING, UNFINISHED, Job
from .keeper import GRACE
from .progress import clock, difference, moment, progress, tail
from .runner import ensure_runner
from .store import JobStore

HELP = """\
llamafactory-cli jobs [WHAT ...]: runs that go on when the terminal or the page is closed, one after another

  list [--all]                    the newest jobs (all of them)
  show ID                         one job: state, progress, settings, where its results are
  log ID [-f]                     the end of its output (-f: and what follows, until it ends)
  submit [--name NAME] [--devices 0,1] [COMMAND] FILE.yaml [key=value ...]
                                  put a run into the queue; COMMAND: train (default), export, eval, infer, preprocess
  cancel ID                       ask its run to save a checkpoint and end (again: end it at once), or leave the queue
  resume ID                       go on with a failed or cancelled one from its last checkpoint
  copy ID [key=value ...]         run it again with other values, in a folder of its own
  move ID up|down                 change places in the queue
  diff ID ID                      the keys in which two jobs differ
  remove ID                       forget a job and its output; its results stay

Jobs belong to the folder the command is run in (llamaboard_cache/). Those that need the same devices wait for each
other; without --devices a job takes all.
"""
_SHOWN = 20


def run_jobs(words: Sequence[str] | None = None) -> None:
    """Do what ``llamafactory-cli jobs`` is asked to.

    Args:
        words: What stands behind ``jobs``; None = of this process.

    Raises:
        UsageError: It is none of the ways to use it.
        ConfigError: A job, a key or the store is wrong.
    """
    what, *rest = list(sys.argv[2:] if words is None else words) or ["list"]
    if what not in _ACTIONS:
        raise UsageError(f"jobs: unknown word {short(what)}; expected one of {', '.join(_ACTIONS)}")
    try:
        _ACTIONS[what](rest)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader (`| head`) has seen enough; Python must not write the rest at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _store() -> JobStore:
    """The store of this folder, with what has ended noted and the runner at work; asking makes no store."""
    workspace = Path.cwd()
    if not (workspace / CACHE / STORE_NAME).exists():
        raise ConfigError(f"jobs: there are none in {workspace}; `llamafactory-cli jobs submit FILE.yaml` makes one")
    ensure_runner(workspace)
    return JobStore(workspace)


def _number(words: Sequence[str], usage: str, more: int = 0) -> int:
    """Read the number that a line begins with.

    Args:
        words: The line; ``more`` words may follow, -1 = any.
        usage: What it should look like.
        more: How many.
    """
    if not words or (more >= 0 and len(words) != 1 + more):
        raise UsageError(f"jobs: expected `jobs {usage}`")
    return _as_number(words[0])


def _as_number(word: str) -> int:
    if not (word.isascii() and word.isdecimal() and len(word) < 19):
        raise UsageError(f"jobs: expected the number of a job, got {short(word)}; `jobs list` shows them")
    return int(word)


def _list(words: Sequence[str]) -> None:
    if [word for word in words if word != "--all"]:
        raise UsageError("jobs: expected `jobs list [--all]`")
    if not (Path.cwd() / CACHE / STORE_NAME).exists():
        print("no jobs")
        return
    store = _store()
    jobs = store.list(limit=None if words else _SHOWN + 1)
    places = {job.id: place for place, job in enumerate(store.queue(), 1)}
    rows: list[tuple[str, ...]] = [("id", "state", "progress", "took", "devices", "command", "name")]
    rows += [_row(job, places.get(job.id)) for job in (jobs if words else jobs[:_SHOWN])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    if not words and len(jobs) > _SHOWN:
        print("older ones: `llamafactory-cli jobs list --all`")


def _row(job: Job, place: int | None) -> tuple[str, ...]:
    seen = progress(job)
    state = f"{job.state} ({place}.)" if place else job.state
    done = "" if seen.step is None else f"{seen.step}/{seen.total}"
    took = "" if seen.seconds is None else clock(seen.seconds)
    return str(job.id), state, done, took, job.devices or "all", job.command, job.name


def _show(words: Sequence[str]) -> None:
    job = _store().get(_number(words, "show ID"))
    seen = progress(job)
    figures = {
        "step": None if seen.step is None else f"{seen.step}/{seen.total}",
        "time left": seen.remaining if job.state in UNFINISHED else None,
        "loss": seen.loss,
        "eval loss": seen.eval_loss,
        "tokens/s": seen.throughput,
        "memory": None if seen.memory is None else f"{seen.memory} GiB",
    }
    facts: dict[str, Any] = {
        "job": f"{job.id} ({job.name})",
        "state": job.state,
        "why": job.message or None,
        "exit code": job.exit_code,
        "command": shlex.join(["llamafactory-cli", job.command, str(job.config_path.relative_to(job.workspace))]),
        "devices": job.devices or "all",
        "submitted": moment(job.created),
        "started": moment(job.started),
        "ended": moment(job.ended),
        **figures,
        "results": job.output_dir,
        "output": job.folder / "output.log",
        "comes from": None if job.parent is None else f"job {job.parent}",
    }
    for name, value in facts.items():
        if value is not None:
            print(f"{name + ':':<12}{value}")
    print("\n" + yaml.safe_dump(job.config, allow_unicode=True, sort_keys=False), end="")


def _log(words: Sequence[str]) -> None:
    flags = [word for word in words if word in ("-f", "--follow")]
    store = _store()
    job = store.get(_number([word for word in words if word not in flags], "log ID [-f]"))
    if flags:
        job = follow(store, job, lambda text: print(text, end="", flush=True))
        _say(job)
        return
    text = tail(job)
    if text:
        print(text, end="" if text.endswith("\n") else "\n")
    else:
        _say(job, "it has said nothing yet")


def _submit(words: Sequence[str]) -> None:
    options, rest = _options(list(words))
    command = rest.pop(0) if rest and rest[0] in COMMANDS else "train"
    if not rest:
        raise UsageError(
            "jobs: expected `jobs submit [--name NAME] [--devices 0,1] [COMMAND] FILE.yaml [key=value ...]`"
        )
    config = _checked(command, rest)
    name = options.get("--name", None if "=" in rest[0] else Path(rest[0]).stem)
    store = JobStore(Path.cwd())
    job = store.submit(command, config, name=name, devices=options.get("--devices", ""))
    _queued(store, job)


def _options(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """Take the options of ``submit`` off the front; later ones are keys of the run."""
    options: dict[str, str] = {}
    while words and words[0].partition("=")[0] in ("--name", "--devices"):
        name, equals, value = words.pop(0).partition("=")
        if not equals:
            if not words:
                raise UsageError(f"jobs: {name} needs a value")
            value = words.pop(0)
        options[name] = value
    return options, words


def _checked(command: str, source: Sequence[str] | dict[str, Any]) -> dict[str, Any]:
    """Read a configuration as its command would: what is wrong with it is said now, not when its turn comes.

    Returns:
        The keys as they were given, those of a command line with their types.
    """
    from ..hparams import get_infer_args, get_train_args, read_args
    from ..hparams.schema import declared_keys

    place = {}
    if command in ("train", "preprocess"):
        args = get_train_args(source)
        place = {"output_dir": args.training.output_dir} if command == "train" else {}
    else:
        # It would say that nothing is trained yet, which a job before this one may be about to do.
        logging.getLogger("llamafactory.hparams.derive").setLevel(logging.ERROR)
        get_infer_args(source)
    known = declared_keys()
    given = read_args(source)
    texts = {key: value for key, value in given.items() if key in known and isinstance(value, str) and value}
    typed = {key: known[key].read(value) for key, value in texts.items()}
    return place | given | typed


def _queued(store: JobStore, job: Job) -> None:
    ensure_runner(store.workspace)
    before = [other for other in store.list(UNFINISHED) if other.id != job.id]
    waits = f", after {len(before)} other{'s' * (len(before) > 1)}" if before else ""
    print(f"job {job.id} ({job.name}) is submitted{waits}; `llamafactory-cli jobs log {job.id} -f` shows what it says")


def _cancel(words: Sequence[str]) -> None:
    store = _store()
    job = store.cancel(_number(words, "cancel ID"))
    if job.state == STOPPING:
        print(f"job {job.id}: asked to save and end; again = at once", flush=True)
        end = time.monotonic() + 30
        while job.state == STOPPING and time.monotonic() < end:
            time.sleep(0.2)
            ensure_runner(store.workspace)
            job = store.get(job.id)
    if job.state == STOPPING:
        print(f"job {job.id}: still writes its checkpoint; `jobs log {job.id} -f` waits for it ({GRACE}: docs/jobs.md)")
    else:
        _say(job)


def _say(job: Job, more: str = "") -> None:
    ending = job.message or more
    print(f"job {job.id}: {job.state}{': ' if ending else ''}{ending}", file=sys.stderr if more else sys.stdout)


def _resume(words: Sequence[str]) -> None:
    store = _store()
    _queued(store, store.resume(_number(words, "resume ID")))


def _copy(words: Sequence[str]) -> None:
    number = _number(words, "copy ID [key=value ...]", -1)
    store = _store()
    job = store.get(number)
    changes: dict[str, Any] = {}
    if words[1:]:
        if any("=" not in word for word in words[1:]):
            raise UsageError("jobs: expected `jobs copy ID [key=value ...]`")
        from ..hparams import read_args

        given = read_args(words[1:])
        typed = _checked(job.command, {**job.config, **given, "overwrite_output_dir": True})
        changes = {key: typed.get(key, given[key]) for key in given}
    _queued(store, store.copy(number, **changes))


def _move(words: Sequence[str]) -> None:
    number = _number(words, "move ID up|down", 1)
    if words[1] not in ("up", "down"):
        raise UsageError(f"jobs: expected up or down, got {short(words[1])}")
    store = _store()
    store.move(number, words[1] == "up")
    print("queue: " + ", ".join(f"{job.id} ({job.name})" for job in store.queue()))


def _diff(words: Sequence[str]) -> None:
    number = _number(words, "diff ID ID", 1)
    store = _store()
    one, other = store.get(number), store.get(_as_number(words[1]))
    for key, mine, theirs in difference(one, other):
        print(f"{key}: {_value(mine)} | {_value(theirs)}")


def _value(value: Any) -> str:
    return "-" if value is None else str(value)


def _remove(words: Sequence[str]) -> None:
    store = _store()
    number = _number(words, "remove ID")
    folder = store.get(number).output_dir
    store.remove(number)
    print(f"job {number} is forgotten" + (f"; its results stay in {folder}" if folder and folder.exists() else ""))


_ACTIONS: dict[str, Callable[[Sequence[str]], None]] = {
    "list": _list,
    "show": _show,
    "log": _log,
    "submit": _submit,
    "cancel": _cancel,
    "resume": _resume,
    "copy": _copy,
    "move": _move,
    "diff": _diff,
    "remove": _remove,
}
