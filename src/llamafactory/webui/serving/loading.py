# SPDX-License-Identifier: Apache-2.0
"""What a browser sees while the model is loading: a page that asks again until the real one answers."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from contextlib import suppress

PATIENCE = 0.2  # seconds, between two looks at whether the real page takes over
SLOW = 1.0  # seconds that a request may take to arrive
_PAGE = b"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="2">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>llamafactory</title>
<style>body { font-family: system-ui, sans-serif; margin: 20vh auto; max-width: 30em; padding: 0 1em; }</style></head>
<body><h1>llamafactory</h1><p id="loading">The model is loading. This page becomes the chat as soon as it is ready.</p>
</body></html>
"""
_ANSWER = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/html; charset=utf-8\r\nRetry-After: 2\r\n"
    b"Cache-Control: no-store\r\nContent-Security-Policy: default-src 'none'; style-src 'unsafe-inline'\r\n"
    b"X-Content-Type-Options: nosniff\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(_PAGE)
)


class LoadingPage:
    """Answers whoever comes to a bound listener; afterwards the listener is as it was, and is served by another.

    Whoever comes in between waits in the listener's queue.
    """

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="loading", daemon=True)

    def __enter__(self) -> LoadingPage:
        self._listener.listen(128)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        with selectors.DefaultSelector() as ready:
            ready.register(self._listener, selectors.EVENT_READ)
            while not self._over.is_set():
                if ready.select(PATIENCE):
                    with suppress(OSError):  # whoever it was has gone
                        self._answer()

    def _answer(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            connection.settimeout(SLOW)
            asked = connection.recv(65536)
            connection.sendall(_ANSWER + (b"" if asked.startswith(b"HEAD ") else _PAGE))
            connection.shutdown(socket.SHUT_WR)
            until = time.monotonic() + SLOW  # of all that still comes, however slowly
            # What is not read would make the other side lose the answer.
            while not self._over.is_set() and time.monotonic() < until and connection.recv(65536):
                pass
