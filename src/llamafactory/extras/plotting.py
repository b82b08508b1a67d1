# SPDX-License-Identifier: Apache-2.0
"""Curves of a run as pictures."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path

from .logging import get_logger

logger = get_logger(__name__)


def smooth(values: Sequence[float]) -> list[float]:
    """Smooth a curve by an exponential moving average whose window grows with the curve's length.

    The weight of the past is ``1.8 * (sigmoid(n / 20) - 0.5)`` for ``n`` points: short curves stay nearly as they are,
    long ones are averaged over about ten points.
    """
    weight = 1.8 * (1 / (1 + math.exp(-0.05 * len(values))) - 0.5)
    smoothed: list[float] = []
    for value in values:
        smoothed.append(value if not smoothed else weight * smoothed[-1] + (1 - weight) * value)
    return smoothed


def plot_loss(output_dir: str | os.PathLike[str], keys: Sequence[str] = ("loss",)) -> list[Path]:
    """Draw one picture for each key of ``trainer_state.json``'s log history.

    Args:
        output_dir: Folder of ``trainer_state.json``; the pictures go there too.
        keys: Logged values, such as ``loss`` or ``eval_loss``; the picture of ``loss`` is ``training_loss.png``, of
            ``eval_a/b`` ``training_eval_a_b.png``.

    Returns:
        The pictures written; a key with fewer than two finite points gets none.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    folder = Path(output_dir)
    history = json.loads((folder / "trainer_state.json").read_text("utf-8"))["log_history"]
    written = []
    for key in keys:
        points = [(row["step"], row[key]) for row in history if key in row and math.isfinite(row[key])]
        if len(points) < 2:
            logger.warning_rank0(f"no curve of {key}: fewer than two values were logged")
            continue
        steps, values = zip(*points, strict=True)
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.plot(steps, values, color="#1f77b4", alpha=0.4, label="as logged")
        axes.plot(steps, smooth(values), color="#1f77b4", label="smoothed")
        axes.set(xlabel="step", ylabel=key, title=f"{key} of {folder.resolve().name}")
        axes.legend()
        path = folder / f"training_{key.replace('/', '_')}.png"
        figure.savefig(path, dpi=100)
        written.append(path)
    return written
