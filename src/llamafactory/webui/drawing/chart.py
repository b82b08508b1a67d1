# SPDX-License-Identifier: Apache-2.0
"""Curves as SVG: a few kilobytes, drawn by the browser in the page's own colours, without a script."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from ...extras.plotting import smooth

# Told apart in light and dark, and by most who see few colours (Okabe and Ito's, the black one left out).
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#8a7a00", "#7f7f7f")
_WIDTH, _HEIGHT = 460, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 12, 12, 40
_MOST_MARKS = 60  # of one curve: more would be a line anyhow
_SMOOTHED = 30  # points from which a curve is drawn smoothed, with what was logged behind it


@dataclass(frozen=True)
class Series:
    """One curve.

    Attributes:
        name: For the legend.
        points: Pairs of step and value; those that are no numbers are left out.
        colour: Its place in :data:`COLOURS`.
        smoothed: Draw it smoothed where it is long.
    """

    name: str
    points: Sequence[tuple[float, float]]
    colour: int = 0
    smoothed: bool = False
    finite: list[tuple[float, float]] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        kept = [(x, y) for x, y in self.points if math.isfinite(x) and math.isfinite(y)]
        object.__setattr__(self, "finite", kept)


def chart(title: str, series: Sequence[Series], unit: str = "", along: str = "step") -> str:
    """Draw curves over one axis.

    Args:
        title: Above the picture.
        series: The curves; those without points are left out.
        unit: Of the values, beside the title.
        along: What the other axis counts.

    Returns:
        A ``figure`` of HTML in one line, every text escaped; nothing when no curve has a point.
    """
    drawn = [one for one in series if one.finite]
    if not drawn:
        return ""
    xs = [x for one in drawn for x, _ in one.finite]
    ys = [y for one in drawn for _, y in one.finite]
    across, up = _ticks(min(xs), max(xs), 6), _ticks(min(ys), max(ys), 5)
    scale = _Scale((min(xs), max(xs)), (min(up[0], min(ys)), max(up[-1], max(ys))))
    parts = [_axes(scale, across, up, along), *(_curve(one, scale) for one in drawn)]
    keys = "".join(
        f'<span class="key"><i style="background:{_colour(one)}"></i>{_safe(one.name)}</span>' for one in drawn
    )
    heading = _safe(title) + (f" <small>({_safe(unit)})</small>" if unit else "")
    svg = (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{_safe(title)}" '
        f'font-size="12" fill="none">{"".join(parts)}</svg>'
    )
    return f'<figure class="chart"><figcaption><b>{heading}</b>{keys}</figcaption>{svg}</figure>'


def _safe(text: str) -> str:
    """A text for HTML in one line, attributes too."""
    return escape(" ".join(text.split()), quote=True)


def charts(figures: Sequence[str]) -> str:
    """Set figures side by side, as many as fit."""
    return f'<div class="charts">{"".join(figures)}</div>' if any(figures) else ""


@dataclass(frozen=True)
class _Scale:
    """From values to places on the picture."""

    across: tuple[float, float]
    up: tuple[float, float]

    def x(self, value: float) -> float:
        return round(_LEFT + (_WIDTH - _LEFT - _RIGHT) * _share(value, self.across), 1)

    def y(self, value: float) -> float:
        return round(_HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * _share(value, self.up), 1)


def _share(value: float, ends: tuple[float, float]) -> float:
    low, high = ends
    return (value - low) / (high - low) if high > low else 0.5


def _colour(series: Series) -> str:
    return COLOURS[series.colour % len(COLOURS)]


def _ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers that span a range.

    >>> _ticks(0.0, 9.3, 5)
    [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    """
    if high <= low:
        return [low]
    raw = (high - low) / most
    size = 10.0 ** math.floor(math.log10(raw))
    step = next((size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw), raw)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [number * step for number in range(first, last + 1)]


def shown(value: float) -> str:
    """A number in few signs.

    >>> [shown(value) for value in (0.0, 1200.0, 0.25, 5e-05, 2500000.0)]
    ['0', '1,200', '0.25', '5e-05', '2.5e+06']
    """
    if value == 0:
        return "0"
    if abs(value) >= 1e6 or abs(value) < 1e-3:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _axes(scale: _Scale, across: Sequence[float], up: Sequence[float], along: str) -> str:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    found = []
    for value in up:
        y = scale.y(value)
        found.append(f'<line x1="{_LEFT}" x2="{right}" y1="{y}" y2="{y}" stroke="currentColor" stroke-opacity=".15"/>')
        found.append(f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end" fill="currentColor">{shown(value)}</text>')
    for value in across:
        if not scale.across[0] <= value <= scale.across[1]:
            continue
        x = scale.x(value)
        found.append(
            f'<line x1="{x}" x2="{x}" y1="{bottom}" y2="{bottom + 4}" stroke="currentColor" stroke-opacity=".5"/>'
        )
        found.append(f'<text x="{x}" y="{bottom + 17}" text-anchor="middle" fill="currentColor">{shown(value)}</text>')
    found.append(
        f'<path d="M{_LEFT} {_TOP}V{bottom}H{right}" stroke="currentColor" stroke-opacity=".5"/>'
        f'<text x="{(_LEFT + right) / 2}" y="{_HEIGHT - 5}" text-anchor="middle" fill="currentColor">'
        f"{_safe(along)}</text>"
    )
    return "".join(found)


def _curve(series: Series, scale: _Scale) -> str:
    colour, points = _colour(series), series.finite
    found = []
    if series.smoothed and len(points) >= _SMOOTHED:
        found.append(_line(points, scale, colour, 'stroke-width="1" stroke-opacity=".35"'))
        points = list(zip([x for x, _ in points], smooth([y for _, y in points]), strict=True))
    found.append(_line(points, scale, colour, 'stroke-width="2"'))
    if len(points) <= _MOST_MARKS:
        found += [
            f'<circle cx="{scale.x(x)}" cy="{scale.y(y)}" r="{3 if len(points) < 3 else 2}" fill="{colour}">'
            f"<title>{_safe(series.name)}: {shown(y)} at {shown(x)}</title></circle>"
            for x, y in points
        ]
    return "".join(found)


def _line(points: Sequence[tuple[float, float]], scale: _Scale, colour: str, more: str) -> str:
    places = " ".join(f"{scale.x(x)},{scale.y(y)}" for x, y in points)
    return f'<polyline points="{places}" stroke="{colour}" stroke-linejoin="round" {more}/>'
