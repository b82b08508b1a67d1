# SPDX-License-Identifier: Apache-2.0
"""The machines of one launch meet where their processes will, before anything is loaded.

Plain sockets: node 0 listens at MASTER_ADDR:MASTER_PORT, the others connect. A port that is taken, an address that
leads nowhere, a machine that never comes or two with one number show here. The listener closes when all have come; its
connections stay as a :class:`Line`, and torch's own store takes the port.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import psutil

from .errors import ConfigError
from .line import ATTEMPT_SECONDS, Line, Peer, Place
from .logging import get_logger

logger = get_logger(__name__)
T = TypeVar("T")

_GREETING = "llamafactory"
_SAY_SECONDS = 15.0  # between two lines about waiting
_FOUND_SECONDS = 30.0  # a name that no server knows, or an address of node 0's own, gets this long to work
_HEAR_SECONDS = 5.0
_NO_WAY = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT, errno.EHOSTDOWN)


def meet(place: Place, seconds: float) -> Line:
    """Wait until every machine of the launch has come.

    Args:
        place: This machine's.
        seconds: How long to wait.

    Raises:
        ConfigError: The port is taken, the address leads nowhere, a machine has not come, or two have one number; the
            same line on every machine that has come.
    """
    hello = {"hello": _GREETING, "rank": place.rank, "nodes": place.nodes, "host": socket.gethostname()}
    hello |= {"id": uuid.uuid4().hex, "unset": "NODE_RANK" in place.assumed}
    deadline = time.monotonic() + seconds
    return _Host(place, hello).meet(seconds, deadline) if place.rank == 0 else _come(place, hello, seconds, deadline)


def _come(place: Place, hello: dict[str, Any], seconds: float, deadline: float) -> Line:
    """Connect to node 0 as often as it takes, and wait for the others."""
    peer, _ = _find(place, hello, seconds, deadline)
    try:
        answer = peer.receive(deadline + ATTEMPT_SECONDS)
    except OSError as error:
        raise ConfigError(f"node 0 at {place.where} is gone: {error.strerror or error}") from None
    if "fault" in answer:
        raise ConfigError(answer["fault"])
    return Line(place, {0: peer}, answer["hosts"])


def _find(place: Place, hello: dict[str, Any], seconds: float, deadline: float) -> tuple[Peer, Any]:
    """Return the connection to node 0 and its welcome.

    Raises:
        ConfigError: It refused this machine, or was not found in time.
    """
    started = said = time.monotonic()
    while True:
        try:
            return _greet(place, hello)
        except OSError as error:
            reason, unknown = _reason(error, place), isinstance(error, socket.gaierror)
        now = time.monotonic()
        if now >= deadline or (unknown and now - started > _FOUND_SECONDS):
            raise ConfigError(
                f"node 0 was not found at {place.where} within {min(seconds, now - started):.0f} s: {reason}"
            )
        if now > said + _SAY_SECONDS:
            said = now
            logger.info("waiting for node 0 at %s: %s", place.where, reason)
        time.sleep(0.3)


def _greet(place: Place, hello: dict[str, Any]) -> tuple[Peer, Any]:
    """Connect once, say who comes, and return the connection and the welcome.

    Raises:
        OSError: Nobody listens, or not node 0.
        ConfigError: Node 0 refused this machine.
    """
    found = within(lambda: socket.getaddrinfo(place.address, place.port, type=socket.SOCK_STREAM), 2 * ATTEMPT_SECONDS)
    peer = Peer(socket.create_connection((str(found[0][4][0]), place.port), ATTEMPT_SECONDS))
    try:
        peer.send(hello)
        welcome = peer.receive(time.monotonic() + ATTEMPT_SECONDS)
        if not isinstance(welcome, dict) or welcome.get("welcome") != _GREETING:
            raise OSError(errno.EPROTO, "another program answers")
    except OSError as error:
        peer.socket.close()
        raise OSError(errno.EPROTO, "another program answers") from error
    if "fault" in welcome:
        raise ConfigError(welcome["fault"])
    return peer, welcome


def within(what: Callable[[], T], seconds: float) -> T:
    """Return what a call of the system gives that cannot be told how long it may take.

    Raises:
        TimeoutError: It took too long.
    """
    results: list[T | OSError] = []

    def call() -> None:
        try:
            results.append(what())
        except OSError as error:
            results.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    if not results:
        raise TimeoutError(errno.ETIMEDOUT, "no answer")
    if isinstance(results[0], OSError):
        raise results[0]
    return results[0]


def _reason(error: OSError, place: Place) -> str:
    if isinstance(error, socket.gaierror):
        return f"MASTER_ADDR: the name {place.address} is not known ({error.strerror})"
    if error.errno == errno.ECONNREFUSED:
        return "nobody listens there; is node 0 started, with the same MASTER_PORT?"
    if error.errno == errno.EPROTO:
        return "another program listens there"
    if isinstance(error, TimeoutError) or error.errno in _NO_WAY:
        return "there is no way to it; a wrong address, or a firewall"
    return error.strerror or str(error)


class _Host:
    """Node 0 while it waits: welcomes the others and looks whether it is found where they will look for it."""

    def __init__(self, place: Place, hello: dict[str, Any]) -> None:
        self.place, self.hello = place, hello
        self.peers: dict[int, Peer] = {}
        self.hosts = {0: str(hello["host"])}
        self.fault = ""
        self.seen = 0  # machines that have come, welcome or not
        self.found_itself = False
        self.changed = threading.Condition()

    def meet(self, seconds: float, deadline: float) -> Line:
        """Wait for all.

        Raises:
            ConfigError: They do not come together.
        """
        with self._listen() as listener:
            accepting = threading.Thread(target=self._accept, args=(listener,), daemon=True)
            accepting.start()
            threading.Thread(target=self._find_itself, args=(seconds, deadline), daemon=True).start()
            self._wait(deadline)
            # A thread that waits in accept() keeps the port open, whoever closes it.
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()
        missing = [str(rank) for rank in range(self.place.nodes) if rank not in self.hosts]
        if not self.fault and missing:
            names = ", ".join(missing)
            self.fault = f"node {names} of {self.place.nodes} did not come to {self.place.where} within {seconds:.0f} s"
        elif not self.fault and not self.found_itself:
            self.fault = f"node 0 does not reach itself at {self.place.where}: there is no way to it"
        hosts = [self.hosts.get(rank, "") for rank in range(self.place.nodes)]
        for peer in list(self.peers.values()):
            with suppress(OSError):
                peer.send({"fault": self.fault} if self.fault else {"hosts": hosts})
        if self.fault:
            raise ConfigError(self.fault)
        return Line(self.place, self.peers, hosts)

    def _listen(self) -> socket.socket:
        try:
            if socket.has_dualstack_ipv6():
                address = ("", self.place.port)
                return socket.create_server(address, family=socket.AF_INET6, dualstack_ipv6=True, backlog=128)
            return socket.create_server(("", self.place.port), backlog=128)
        except OSError as error:
            fault = refused_port(self.place.port, error)
            if error.errno != errno.EADDRINUSE:
                raise fault from None
        for _ in range(2):  # a refusal by another node 0 is the better line; it may be busy
            with suppress(OSError):
                _greet(self.place, self.hello)
        raise fault

    def _wait(self, deadline: float) -> None:
        """Wait for all, or after a fault for some seconds for those who should hear of it."""
        with self.changed:
            self._wait_for_all(deadline)
            if self.fault:
                self.changed.wait_for(lambda: self.seen >= self.place.nodes - 1, _HEAR_SECONDS)

    def _wait_for_all(self, deadline: float) -> None:
        with self.changed:
            while not self.fault and (len(self.hosts) < self.place.nodes or not self.found_itself):
                left = deadline - time.monotonic()
                if left <= 0:
                    return
                if not self.changed.wait(min(left, _SAY_SECONDS)):
                    waiting = sorted(set(range(self.place.nodes)) - set(self.hosts))
                    names = ", ".join(map(str, waiting)) or "itself"
                    logger.info("waiting at %s for node %s", self.place.where, names)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # closed: nobody is waited for any more
                return
            threading.Thread(target=self._welcome, args=(connection,), daemon=True).start()

    def _welcome(self, connection: socket.socket) -> None:
        peer = Peer(connection)
        try:
            hello = peer.receive(time.monotonic() + ATTEMPT_SECONDS)
            if not isinstance(hello, dict) or hello.get("hello") != _GREETING:
                raise OSError(errno.EPROTO, "another program asks")
            if hello["id"] == self.hello["id"]:
                peer.send({"welcome": _GREETING})
                return
            self._admit(peer, hello)
        except OSError:
            connection.close()

    def _admit(self, peer: Peer, hello: dict[str, Any]) -> None:
        """Take a machine in, or tell it why it cannot be."""
        rank, host, fault = hello["rank"], hello["host"], self.fault
        with self.changed:
            self.seen += 1
            if fault:
                pass  # of others, which end this meeting
            elif hello["nodes"] != self.place.nodes:
                fault = (
                    f"NNODES: {self.place.nodes} on node 0 ({self.hosts[0]}), {hello['nodes']} on node {rank} ({host})"
                )
            elif rank in self.hosts:
                unset = "; NODE_RANK is not set there" if hello["unset"] or self.hello["unset"] else ""
                fault = f"NODE_RANK: two machines are node {rank}: {self.hosts[rank]} and {host}{unset}"
            else:
                peer.send({"welcome": _GREETING})  # before the news that all have come
                self.peers[rank], self.hosts[rank] = peer, host
            if fault:  # told before this process may end
                peer.send({"welcome": _GREETING, "fault": fault})
            self.fault = self.fault or fault
            self.changed.notify_all()

    def _find_itself(self, seconds: float, deadline: float) -> None:
        try:
            _find(self.place, self.hello, seconds, min(deadline, time.monotonic() + _FOUND_SECONDS))[0].socket.close()
        except ConfigError as error:
            with self.changed:
                self.fault = self.fault or str(error)
        with self.changed:
            self.found_itself = not self.fault
            self.changed.notify_all()


def refused_port(port: int, error: OSError) -> ConfigError:
    """Return the line about a port of this machine where nothing of ours can listen."""
    if error.errno == errno.EADDRINUSE:
        return ConfigError(f"MASTER_PORT: {port} is taken on this machine{_holder(port)}")
    return ConfigError(f"MASTER_PORT: cannot listen at {port}: {error.strerror}")


def _holder(port: int) -> str:
    """Name the program that listens at a port of this machine, where the system tells."""
    with suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN:
                if connection.pid is None or connection.pid == os.getpid():
                    break
                return f" by {psutil.Process(connection.pid).name()} (process {connection.pid})"
    return ""
