# SPDX-License-Identifier: Apache-2.0
"""An environment for stages ppo and grpo: a calculator. In a training file:

    rollout_environment: examples/rewards/calculator.py:Calculator

There is one object a completion. ``reset`` gets the row's columns by name, as reward functions do; ``step`` gets what
the model wrote and returns what it is told, its reward, and whether the conversation is over. See docs/rl.md.
"""

from __future__ import annotations

import re

_PRODUCT = re.compile(r"\[\s*(\d{1,9})\s*[*x×]\s*(\d{1,9})\s*\]")
_NUMBER = re.compile(r"\d+")


class Calculator:
    """Computes what stands in brackets, ``[12*30]``; whatever else is written is the answer, and ends it."""

    def reset(self, output: str) -> None:
        """Remember the row's answer."""
        self.wanted = output
        self.asked = False

    def step(self, action: str) -> tuple[str, float, bool]:
        """Pay 0.2 for a first computation, 1 for the right answer after it."""
        product = _PRODUCT.search(action)
        if product and not self.asked:
            self.asked = True
            return f"{int(product[1]) * int(product[2])}", 0.2, False
        return "", float(self.asked and _NUMBER.findall(action)[-1:] == [self.wanted]), True
