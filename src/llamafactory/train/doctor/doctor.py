# SPDX-License-Identifier: Apache-2.0
"""``llamafactory-cli doctor``: what would stop or slow a run, said in a minute and before its weights are loaded."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from ...extras.errors import ConfigError
from ...extras.launching import (
    PACE_SECONDS,
    processes_per_node,
    read_place,
    require_free_port,
    ways_to_others,
    worker_environment,
)
from ...extras.meeting import meet
from ...extras.packages import version_of
from ...hparams import get_train_args
from ...hparams.roll_call import card, config_hash, differences
from .bandwidth import SLOW, measure
from .machine import look_at_machine
from .storage import look_at_storage

if TYPE_CHECKING:
    from ...extras.line import Line, Place
    from ...hparams import TrainArgs

ALL_SECONDS = 57.0
MEETING_SECONDS = 20.0
MOST_SKEW = 2.0  # seconds


class Report:
    """Lines as they come: what was found, and at once what is wrong."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self._started = time.monotonic()

    def seconds_left(self) -> float:
        """Return how long looking may go on."""
        return max(1.0, self._started + ALL_SECONDS - time.monotonic())

    def found(self, what: str, text: str) -> None:
        """Print what was found."""
        print(f"{what:<12} {text}", flush=True)

    def fault(self, text: str) -> None:
        """Print what is wrong, once."""
        if text and text not in self.faults:
            self.faults.append(text)
            print(f"fault: {text}", flush=True)


def run_doctor(args: Mapping[str, Any] | Sequence[str] | None = None) -> None:
    """Look at this machine, and with NNODES above 1 at all of them together; each runs this command.

    Args:
        args: As for training.

    Raises:
        ConfigError: Something is wrong; each fault was printed in a line of its own.
    """
    train_args, place, report = get_train_args(args), read_place(os.environ), Report()
    report.found("machine", f"node {place.rank} of {place.nodes} ({socket.gethostname()}), meeting at {place.where}")
    for what, text, fault in look_at_machine(train_args):
        report.fault(fault)
        if text:
            report.found(what, text)
    try:
        _look_around(train_args, place, report)
    except ConfigError as error:
        report.fault(str(error))
    if report.faults:
        number = len(report.faults)
        raise ConfigError(f"{number} fault{'s' if number > 1 else ''}; the first: {report.faults[0]}")
    print("nothing is wrong", flush=True)


def _look_around(args: TrainArgs, place: Place, report: Report) -> None:
    """Look at what needs the port, the other machines, and torch."""
    if place.nodes == 1:
        require_free_port(place)
        _look_at_network(args, place, None, [_workers(report)], report)
        return
    with meet(place, MEETING_SECONDS) as line:
        workers = _compare(args, line, report)
        text, fault = look_at_storage(args, line)
        report.fault(fault)
        if text:
            report.found("storage", text)
        _look_at_network(args, place, line, workers, report)


def _workers(report: Report) -> int:
    if version_of("torch") is None and not os.environ.get("NPROC_PER_NODE"):
        return 1  # that it is missing is said already
    return processes_per_node(os.environ)


def _compare(args: TrainArgs, line: Line, report: Report) -> list[int]:
    """Compare what machines say of themselves; returns the number of processes of each."""
    cards = line.gather(card(args, _workers(report), report.faults), PACE_SECONDS)
    names = [line.name(rank) for rank in range(line.place.nodes)]
    for rank, (name, other) in enumerate(zip(names, cards, strict=True)):
        for fault in other["faults"] if rank != line.place.rank else ():
            report.fault(f"{name}: {fault}")
    wrong = differences(cards, names)
    for fault in wrong:
        report.fault(fault)
    if not wrong:
        report.found("agreement", f"configuration {config_hash(cards[0]['config'])} and versions are the same on all")
    workers = [int(one["workers"]) for one in cards]
    ends = list(accumulate(workers))
    ranks = (f"{name}: {end - number} to {end - 1}" for name, number, end in zip(names, workers, ends, strict=True))
    report.found("ranks", "; ".join(ranks))
    offsets = line.offsets(MEETING_SECONDS)
    worst = max(range(len(offsets)), key=lambda rank: abs(offsets[rank]))
    if abs(offsets[worst]) > MOST_SKEW:
        side = "ahead of" if offsets[worst] > 0 else "behind"
        report.fault(f"clocks: {names[worst]} is {abs(offsets[worst]):.1f} s {side} {names[0]}; set them by NTP")
    else:
        report.found("clocks", f"at most {abs(offsets[worst]):.3f} s apart")
    return workers


def _look_at_network(args: TrainArgs, place: Place, line: Line | None, workers: list[int], report: Report) -> None:
    """Let all processes of the run add up a tensor; machines that lack torch are said already."""
    seconds = report.seconds_left() if version_of("torch") is not None else 0.0
    if line is not None:
        seconds = min(line.gather(seconds, PACE_SECONDS))
    if sum(workers) == 1 or not seconds:
        return
    environment = {**os.environ, **worker_environment(os.environ)}
    if line is not None:
        environment |= ways_to_others(os.environ, line.own_address())
    fault, found = "", {}
    try:
        found = measure(place, workers, args.training.use_cpu, environment, seconds)
    except ConfigError as error:
        fault = str(error)
    faults = line.gather(fault, PACE_SECONDS) if line is not None else [fault]
    for rank, text in enumerate(faults):
        if text:
            report.fault(text if line is None else f"{line.name(rank)}: {text}")
    if found:
        rate = float(found["rate"])
        slow = ": slow, which is an Ethernet of 1 Gbit/s or less" if line is not None and rate < SLOW else ""
        report.found("all-reduce", f"{found['backend']}, {sum(workers)} processes: {rate / 1e9:.2f} GB/s{slow}")
