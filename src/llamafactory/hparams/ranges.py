# SPDX-License-Identifier: Apache-2.0
"""Which numbers a key takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# Beyond it libraries underneath fail in ways of their own; no count of rows, tokens or steps comes near.
MOST_WHOLE = 2**31 - 1


@dataclass(frozen=True)
class Range:
    """The numbers that a key takes; NaN and the infinities are never among them.

    Attributes:
        least: The smallest.
        most: The largest.
        above: Every number is larger than this.
        below: Every number is smaller than this.
        also: Single numbers outside of these borders.
        only: Nothing but these numbers.
        share: A number of 1 or more counts something and is whole; below 1 it is a share.
        hint: What to write instead, for the message.
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    also: tuple[int, ...] = ()
    only: tuple[int, ...] = ()
    share: bool = False
    hint: str = ""

    def __contains__(self, value: float) -> bool:
        """Whether a number is one of them."""
        if self.only or value in self.also:
            return value in self.only or value in self.also
        # Comparisons and not math.isfinite, which fails for whole numbers beyond a float.
        return (
            float("-inf") < value < float("inf")
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
            and not (self.share and value >= 1 and value != int(value))
            and abs(value) <= (MOST_WHOLE if isinstance(value, int) and self.most is None else abs(value))
        )

    def __str__(self) -> str:
        """The range in words, such as ``above 0 and at most 1``; nothing when every number is taken."""
        if self.only:
            return _or([f"{number}" for number in self.only])
        if self.share:
            first = "a share" if self.above is None else "a share above 0"
            least = "0 or more" if self.above is None else "1 or more"
            return f"{first} and below 1, or a whole number of {least}".replace("share and", "share")
        words = self._borders()
        return _or([*([words] if words else []), *(f"{number}" for number in self.also)])

    def _borders(self) -> str:
        if self.least is not None and self.most is not None:
            return f"a number from {self.least:.10g} to {self.most:.10g}"
        low = None if self.above is None else f"above {self.above:g}"
        high = None if self.below is None else f"below {self.below:g}"
        if self.most is not None:
            high = f"at most {self.most:.10g}"
        if self.least is not None:
            low = f"at least {self.least:g}" if high else f"{self.least:g} or more"
        return " and ".join(word for word in (low, high) if word)

    def refusal(self, key: str, value: float, written: Any) -> str:
        """The one line for a number that is not among them, with the number as it was written."""
        expected = str(self) or "a finite number"
        if isinstance(value, int) and self.most is None and not self.only and abs(value) > MOST_WHOLE:
            expected = f"at most {MOST_WHOLE}" if value > 0 else str(self) or f"at least -{MOST_WHOLE}"
        return f"{key}: expected {expected}, got {written}{self.hint and '; ' + self.hint}"


def _or(words: list[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


ANY = Range()
AT_LEAST_0 = Range(least=0)
AT_LEAST_1 = Range(least=1)
POSITIVE = Range(above=0)
SHARE = Range(least=0, most=1)
BELOW_1 = Range(least=0, below=1)
PART = Range(above=0, most=1)
SEED = Range(least=0, most=2**32 - 1)
BITS = Range(only=(4, 8))
