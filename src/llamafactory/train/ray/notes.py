# SPDX-License-Identifier: Apache-2.0
"""What workers of one run say of their ends, kept outside of them: an actor of Ray, reached from anywhere."""

from __future__ import annotations

from typing import Any


class Notes:
    """Attempts are counted by how often each rank has begun."""

    def __init__(self) -> None:
        """Begin without notes."""
        self._begun: dict[int, int] = {}
        self._failures: list[dict[str, Any]] = []

    def begin(self, rank: int) -> tuple[int, bool]:
        """Return the number of this rank's attempt, and whether the run is over because of a user's mistake."""
        self._begun[rank] = self._begun.get(rank, -1) + 1
        return self._begun[rank], self.mistake() is not None

    def fail(self, rank: int, text: str, user: bool) -> None:
        """Note why a rank ended."""
        self._failures.append({"rank": rank, "attempt": self._begun[rank], "text": text, "user": user})

    def mistake(self) -> dict[str, Any] | None:
        """Return the first mistake that the user can mend: a further attempt would meet it again."""
        return next((failure for failure in self._failures if failure["user"]), None)

    def first(self) -> dict[str, Any] | None:
        """Return the first failure of the last attempt."""
        last = max(self._begun.values(), default=0)
        return self.mistake() or next((failure for failure in self._failures if failure["attempt"] == last), None)
