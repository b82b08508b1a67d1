# SPDX-License-Identifier: Apache-2.0
"""Tools for stages ppo and grpo. In a training file: ``rollout_tools: examples/rewards/tools.py``.

Each public function is a tool. The model sees its name, its type hints and its docstring; what it returns is the tool's
answer (text as it is, all else as JSON). An error goes to the model as text. See docs/rl.md.
"""

from __future__ import annotations

_STOCK = {"apple": 12, "pear": 3, "plum": 40}


def add(a: float, b: float) -> float:
    """Add two numbers.

    Args:
        a: The first number.
        b: The second number.
    """
    return a + b


def in_stock(fruit: str) -> dict:
    """Look up how many pieces of a fruit are in stock.

    Args:
        fruit: Name of the fruit, in the singular.
    """
    if fruit not in _STOCK:
        raise KeyError(f"no fruit is called {fruit}; there are {', '.join(_STOCK)}")
    return {"fruit": fruit, "pieces": _STOCK[fruit]}
