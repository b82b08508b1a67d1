# SPDX-License-Identifier: Apache-2.0
"""Counts and times of the server, in the text format that Prometheus reads."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Histogram:
    """How many observations lie below each bound, their sum and count."""

    def __init__(self, name: str, help: str) -> None:
        self.name, self.help = name, help
        self._counts = [0] * (len(_SECONDS) + 1)
        self.sum = 0.0
        self.count = 0

    def observe(self, seconds: float) -> None:
        """Add one observation."""
        self._counts[bisect_left(_SECONDS, seconds)] += 1
        self.sum += seconds
        self.count += 1

    def lines(self) -> list[str]:
        """The histogram as text."""
        lines = [f"# HELP {self.name} {self.help}", f"# TYPE {self.name} histogram"]
        below = 0
        for bound, count in zip((*map(str, _SECONDS), "+Inf"), self._counts, strict=True):
            below += count
            lines.append(f'{self.name}_bucket{{le="{bound}"}} {below}')
        return [*lines, f"{self.name}_sum {self.sum}", f"{self.name}_count {self.count}"]


class Metrics:
    """What ``/metrics`` tells."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()  # (route, status)
        self.prompt_tokens = 0
        self.generated_tokens = 0
        self.abandoned = 0
        self.first_token = Histogram("llamafactory_time_to_first_token_seconds", "From the request to its first token.")
        self.duration = Histogram("llamafactory_request_seconds", "From the request to the end of its answer.")

    def text(self, running: int, waiting: int) -> str:
        """All metrics; ``running`` and ``waiting`` are the requests at this moment."""
        lines = [
            "# HELP llamafactory_requests_total Requests answered.",
            "# TYPE llamafactory_requests_total counter",
        ]
        lines += [
            f'llamafactory_requests_total{{route="{route}",status="{status}"}} {count}'
            for (route, status), count in sorted(self.requests.items())
        ]
        for name, kind, help, value in (
            ("prompt_tokens_total", "counter", "Tokens of prompts.", self.prompt_tokens),
            ("generated_tokens_total", "counter", "Tokens generated.", self.generated_tokens),
            ("abandoned_total", "counter", "Requests whose client went away.", self.abandoned),
            ("running_requests", "gauge", "Requests that hold a slot.", running),
            ("waiting_requests", "gauge", "Requests that wait for a slot.", waiting),
        ):
            name = f"llamafactory_{name}"
            lines += [f"# HELP {name} {help}", f"# TYPE {name} {kind}", f"{name} {value}"]
        return "\n".join([*lines, *self.first_token.lines(), *self.duration.lines(), ""])
