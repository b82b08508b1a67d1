# SPDX-License-Identifier: Apache-2.0
"""How fast a run is: tokens over time, and how much of the time it waits for data."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class TokenMeter:
    """Counts tokens over all ranks without waiting for the device until a log is due.

    The clock runs from the first step after a log to the next log, so evaluation and saving are not counted. The share
    of it in which this process waited for its batches is ``data_wait``.
    """

    def __init__(self) -> None:
        self._pending: list[Tensor] = []
        self._start = self._seconds = self._waited = 0.0
        self._new = self.trained = self.real = 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time the taking of the batches of the optimizer step that begins now."""
        start = time.perf_counter()
        if not self._pending:
            self._start, self._waited = start, 0.0
        yield
        self._waited += time.perf_counter() - start

    def add(self, counts: Tensor) -> None:
        """Add [trained, real (padding left out)] of that step."""
        self._pending.append(counts)

    def rates(self) -> dict[str, float]:
        """Return tokens per second, and the share of waiting, since the last call."""
        if not self._pending:
            return {}
        trained, real = (int(value) for value in torch.stack(self._pending).sum(0).tolist())
        seconds = max(time.perf_counter() - self._start, 1e-9)
        self._pending, self._seconds = [], self._seconds + seconds
        self.trained, self.real, self._new = self.trained + trained, self.real + real, self._new + real
        return {
            "tokens_per_second": round(real / seconds, 1),
            "trained_tokens_per_second": round(trained / seconds, 1),
            "data_wait": round(self._waited / seconds, 4),
        }

    def speed(self, effective: bool) -> dict[str, float]:
        """Return the mean rates of this session; ``effective`` adds the rate of tokens without padding."""
        seconds = max(self._seconds, 1e-9)
        rates = {"trained_tokens_per_second": round(self.trained / seconds, 2)}
        return rates | ({"effective_tokens_per_sec": round(self.real / seconds, 2)} if effective else {})

    def total(self, before: int) -> int:
        """Return ``before`` plus the tokens counted since the last call."""
        new, self._new = self._new, 0
        return before + new
