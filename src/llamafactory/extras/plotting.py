# SPDX-License-Identifier: Apache-2.0
"""Curves of a run as pictures."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import ConfigError, first_line
from .files import write_atomic
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

    Raises:
        ConfigError: The folder or its log is missing or broken.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    folder = Path(output_dir)
    history = _read_history(folder / "trainer_state.json")
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
        _write(figure, path, dpi=100)
        written.append(path)
    return written


def _read_history(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        what = f"{path.parent} has no {path.name}" if path.parent.is_dir() else f"no such folder: {path.parent}"
        raise ConfigError(f"output_dir: {what}; the curves of a run are drawn from the folder that it left")
    try:
        history = json.loads(path.read_text("utf-8"))["log_history"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"output_dir: {path} is no log of a run: {first_line(error)}") from error
    if not (isinstance(history, list) and all(isinstance(row, dict) for row in history)):
        raise ConfigError(f"output_dir: {path} is no log of a run: log_history is no list of entries")
    return history


def plot_histograms(
    path: str | os.PathLike[str],
    histograms: Mapping[str, tuple[Sequence[int], Sequence[int]]],
    limit: int,
    label: str,
) -> None:
    """Draw counts by size, one panel a name.

    Args:
        path: Picture to write; its folder is made when missing.
        histograms: For each name where its steps end, and the count of each, with one more for all beyond ``limit``.
        limit: The largest size that fits.
        label: Of the sizes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.6 * len(histograms)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(histograms), squeeze=False).flat
    for axes, (name, (ends, counts)) in zip(panels, histograms.items(), strict=True):
        low, beyond = 0, counts[len(ends)]
        for end, count in zip(ends, counts, strict=False):
            axes.bar((low + end) / 2, count, width=0.95 * (end - low), color="#1f77b4")
            low = end
        if beyond:
            axes.bar(1.1 * limit, beyond, width=0.19 * limit, color="#d62728")
            axes.axvline(limit, color="#d62728", linestyle="--", linewidth=1)
        axes.set(title=name, xlabel=label + (f" (red: over {limit})" if beyond else ""), ylabel="samples")
    _write(figure, path, dpi=120)


def plot_bars(path: str | os.PathLike[str], values: Mapping[str, float], unit: str, title: str) -> None:
    """Draw one horizontal bar for each value.

    Args:
        path: The picture (PNG).
        values: By label, drawn from top to bottom.
        unit: Of the values.
        title: Of the picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1 + 0.28 * len(values)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    bars = axes.barh(list(values), list(values.values()), color="#1f77b4")
    axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.invert_yaxis()
    axes.set(xlabel=unit, title=title)
    _write(figure, path, dpi=120)


def _write(figure: Any, path: str | os.PathLike[str], dpi: int) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    write_atomic(path, buffer.getvalue())
