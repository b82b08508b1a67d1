# SPDX-License-Identifier: Apache-2.0
"""What the machines of one launch say to each other: JSON texts, one a line, over the connections of their meeting."""

from __future__ import annotations

import errno
import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from enum import IntEnum
from types import TracebackType
from typing import Any

from .errors import ConfigError

ATTEMPT_SECONDS = 5.0  # for one connection and its greeting
_MOST_LINE = 1 << 24
_SILENCE = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 6))  # a machine is dead after two minutes


@dataclass(frozen=True)
class Place:
    """Where one machine stands in a launch.

    Attributes:
        rank: NODE_RANK.
        nodes: NNODES.
        address: MASTER_ADDR.
        port: MASTER_PORT.
        assumed: Variables that are not set, so that these are defaults.
    """

    rank: int
    nodes: int
    address: str
    port: int
    assumed: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """Address and port in words."""
        missing = " (MASTER_ADDR is not set)" if "MASTER_ADDR" in self.assumed else ""
        return f"{self.address}:{self.port}{missing}"


class Cause(IntEnum):
    """What a failure was; of several, the one that is least is named."""

    MISTAKE = 0  # the user can mend it
    KILLED = 1  # a process was ended from outside, which leaves errors at the others
    ERROR = 2
    STOPPED = 3  # because another machine failed


@dataclass(frozen=True)
class Outcome:
    """How a machine's part of the run ended.

    Attributes:
        code: Exit code; 0 = well.
        text: One line of what failed.
        time: When that was.
        cause: A value of :class:`Cause`.
    """

    code: int
    text: str = ""
    time: float = 0.0
    cause: int = Cause.ERROR


class Peer:
    """One connection: JSON texts, one a line."""

    def __init__(self, connection: socket.socket) -> None:
        """Take a connection that stands."""
        self.socket, self._rest, self._lock = connection, b"", threading.Lock()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _SILENCE:
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def send(self, message: Any) -> None:
        """Send a message.

        Raises:
            OSError: The other side is gone.
        """
        with self._lock:
            self.socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, deadline: float | None) -> Any:
        """Return the next message.

        Raises:
            OSError: The other side is gone, silent until the deadline, or no machine of ours.
        """
        while b"\n" not in self._rest:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError(errno.ETIMEDOUT, "no answer")
            self.socket.settimeout(left)
            more = self.socket.recv(1 << 16)
            if not more:
                raise ConnectionResetError(errno.ECONNRESET, "the connection was closed")
            self._rest += more
            if len(self._rest) > _MOST_LINE:
                raise OSError(errno.EPROTO, "another program answers")
        line, self._rest = self._rest.split(b"\n", 1)
        try:
            return json.loads(line)
        except ValueError:
            raise OSError(errno.EPROTO, "another program answers") from None


class Line:
    """The connections of one machine: of node 0 one to each other machine, of the others one to node 0."""

    def __init__(self, place: Place, peers: dict[int, Peer], hosts: list[str]) -> None:
        """Take what :func:`meet` has found."""
        self.place, self.hosts = place, hosts
        self._peers, self._outcomes, self._offset = peers, dict[int, Outcome](), 0.0
        self._changed = threading.Condition()
        self.stopped = False

    def name(self, rank: int) -> str:
        """A machine in words."""
        return f"node {rank} ({self.hosts[rank]})"

    def own_address(self) -> str:
        """The address of this machine that leads to the others."""
        return next((str(peer.socket.getsockname()[0]) for peer in self._peers.values()), "127.0.0.1")

    def gather(self, value: Any, seconds: float) -> list[Any]:
        """Return what every machine gives, in their order, once all have given it.

        Raises:
            ConfigError: A machine is gone, or has not answered in time.
        """
        deadline = time.monotonic() + seconds
        if self.place.rank:
            self._ask(0, lambda peer: peer.send({"value": value}))
            values = self._ask(0, lambda peer: peer.receive(deadline + ATTEMPT_SECONDS))
            if "fault" in values:
                raise ConfigError(values["fault"])
            return list(values["values"])
        try:
            others = {rank: self._ask(rank, lambda peer: peer.receive(deadline))["value"] for rank in self._peers}
        except ConfigError as error:
            self._tell_all({"fault": str(error)})
            raise
        values = [value, *(others[rank] for rank in sorted(others))]
        self._tell_all({"values": values})
        return values

    def offsets(self, seconds: float) -> list[float]:
        """Return by how many seconds each machine's clock is ahead of node 0's."""
        self.gather(None, seconds)  # so that nobody is asked while it is busy
        deadline, found = time.monotonic() + seconds, [0.0]
        if self.place.rank:
            self._ask(0, lambda peer: peer.receive(deadline))
            self._ask(0, lambda peer: peer.send(time.time()))
        else:
            for rank in sorted(self._peers):
                asked = time.time()
                self._ask(rank, lambda peer: peer.send("time"))
                told = self._ask(rank, lambda peer: peer.receive(deadline))
                found.append(told - (asked + time.time()) / 2)
        found = self.gather(found, seconds)[0]
        self._offset = found[self.place.rank]
        return found

    def watch(self, stop: Callable[[], None]) -> None:
        """From now on note how the other machines end; ``stop`` is called at each that fails, before this one ends."""
        for rank in self._peers:
            threading.Thread(target=self._listen, args=(rank, stop), name=f"node{rank}", daemon=True).start()

    def end(self, outcome: Outcome, seconds: float) -> tuple[int, Outcome]:
        """Tell the others how this machine ended; after a failure wait for how they did.

        Returns:
            The machine that failed first, and how; this one when none did.
        """
        rank = self.place.rank
        cause = Cause.STOPPED if self.stopped and outcome.cause != Cause.MISTAKE else outcome.cause
        self._note(rank, replace(outcome, time=outcome.time - self._offset, cause=cause))
        with self._changed:
            if any(one.code for one in self._outcomes.values()):
                self._changed.wait_for(lambda: len(self._outcomes) == self.place.nodes, seconds)
            failed = [(one.cause, one.time, number) for number, one in self._outcomes.items() if one.code]
        first = min(failed)[2] if failed else rank
        return first, self._outcomes[first]

    def close(self) -> None:
        """Leave the line."""
        for peer in self._peers.values():
            peer.socket.close()

    def __enter__(self) -> Line:
        """Return the line, which closes at the end of the block."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Leave the line."""
        self.close()

    def _ask(self, rank: int, what: Callable[[Peer], Any]) -> Any:
        try:
            return what(self._peers[rank])
        except OSError as error:
            raise ConfigError(f"{self.name(rank)} is gone: {error.strerror or error}") from None

    def _tell_all(self, message: Any, but: int = -1) -> None:
        for rank, peer in self._peers.items():
            if rank != but:
                try:
                    peer.send(message)
                except OSError:  # it is gone, which its listener notes
                    continue

    def _listen(self, source: int, stop: Callable[[], None]) -> None:
        while True:
            try:
                message = self._peers[source].receive(None)
                rank, outcome = message["rank"], Outcome(**message["outcome"])
            except (OSError, KeyError, TypeError):
                if source in self._outcomes:  # it had said that it ends
                    return
                gone = "it is gone: ended from outside, or cut off"
                rank, outcome = source, Outcome(1, gone, time.time() - self._offset, Cause.KILLED)
            self._note(rank, outcome, but=source)
            if outcome.code and self.place.rank not in self._outcomes:
                self.stopped = True
                stop()

    def _note(self, rank: int, outcome: Outcome, but: int = -1) -> None:
        with self._changed:
            if rank in self._outcomes:
                return
            self._outcomes[rank] = outcome
            self._changed.notify_all()
        if self.place.rank == 0 or rank == self.place.rank:
            self._tell_all({"rank": rank, "outcome": asdict(outcome)}, but)
