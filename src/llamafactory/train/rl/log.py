# SPDX-License-Identifier: Apache-2.0
"""``rollouts.jsonl``: every completion with its rewards; and a small table of the newest ones for the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...extras.errors import writing
from ...extras.files import write_atomic

FILE_NAME = "rollouts.jsonl"
_SHOWN = 4
_MOST_CHARACTERS = 160


class RolloutLog:
    """The completions of one run; used on the first rank only.

    Args:
        folder: ``output_dir``.
    """

    def __init__(self, folder: str) -> None:
        self.path = Path(folder) / FILE_NAME
        self.newest: list[dict[str, Any]] = []

    def start(self, step: int) -> None:
        """Begin at ``step`` steps done: what an interrupted run wrote of later steps is made again."""
        if not self.path.exists():
            return
        lines = [line for line in self.path.read_text("utf-8").splitlines() if line.endswith("}")] if step else []
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        write_atomic(self.path, "".join(line + "\n" for line in kept))

    def write(self, step: int, records: list[dict[str, Any]]) -> None:
        """Append records of a rollout that is trained from ``step`` (from 1) on."""
        self.newest = records
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            for record in records:
                file.write(json.dumps({"step": step, **record}, ensure_ascii=False) + "\n")

    def show(self, step: int) -> None:
        """Print some completions that were not shown yet to stderr: the best, the worst and some between."""
        if not self.newest:
            return
        newest, self.newest = self.newest, []
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table

        title = f"Answers at step {step}"
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for name in ("prompt", "answer"):
            table.add_column(name, overflow="fold")
        names = list(newest[0]["rewards"])
        for name in [*(names if len(names) > 1 else ()), "reward", "advantage"]:
            table.add_column(name, justify="right", no_wrap=True)
        ranked = sorted(newest, key=lambda record: -_known(record["reward"]))
        places = sorted({round(number * (len(ranked) - 1) / (_SHOWN - 1)) for number in range(_SHOWN)})
        for record in (ranked[place] for place in places):
            parts = [_number(record["rewards"][name]) for name in names] if len(names) > 1 else []
            texts = (_plain(record["prompt"], tail=True), _plain(record["completion"]))
            table.add_row(*texts, *parts, _number(record["reward"]), _number(record["advantage"]))
        console = Console(stderr=True)
        if not console.is_terminal:
            console.width = 120
        console.print(table, markup=False)


def _known(value: float | None) -> float:
    return -1e30 if value is None or value != value else value


def _number(value: float | None) -> str:
    return "" if value is None or value != value else f"{value:.3g}"


def _plain(text: str, tail: bool = False) -> Any:
    from rich.text import Text

    text = " ".join(text.split())
    if len(text) > _MOST_CHARACTERS:
        text = "…" + text[-_MOST_CHARACTERS:] if tail else text[:_MOST_CHARACTERS] + "…"
    return Text(text)
