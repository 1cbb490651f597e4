"""Line charts: inline SVG, so that a report needs no other file and no library, and plots as files of their own."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tag2mask.base.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLORS = ("#1f5fbf", "#d1495b", "#2e933c", "#9a5fb5")
_WIDTH, _HEIGHT = 420, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 72, 28


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line: its name and its points (x, y)."""

    name: str
    points: tuple[tuple[float, float], ...]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten apart) within [low, high]."""
    if not low < high:
        return [low]
    raw = (high - low) / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def line_chart(title: str, series: Sequence[Series], *, mark: float | None = None) -> str:
    """An SVG element with one line per series; points that are not finite are left out.

    Args:
        title: Heading.
        series: At least one, with points in the order of x, which counts steps.
        mark: x of a dashed vertical line.
    """
    lines = [[(x, y) for x, y in each.points if math.isfinite(y)] for each in series]
    points = [point for line in lines for point in line] or [(0.0, 0.0)]
    x_low, x_high = _span([x for x, _ in points])
    y_low, y_high = _span([*(y for _, y in points), 0.0])

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low)
        up = (y - y_low) / (y_high - y_low)
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)

    parts = [f'<text x="8" y="20" font-size="16" font-weight="600">{html.escape(title)}</text>']
    for y in ticks(y_low, y_high):
        _, py = place(x_low, y)
        parts.append(f'<path d="M{_LEFT} {py:.1f}H{_WIDTH - _RIGHT}" stroke="#e2e5ea"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{py + 4:.1f}" text-anchor="end" fill="#616875">{y:g}</text>')
    for x in (tick for tick in ticks(x_low, x_high) if tick == int(tick)):
        px, _ = place(x, y_low)
        parts.append(f'<text x="{px:.1f}" y="{_HEIGHT - 10}" text-anchor="middle" fill="#616875">{x:g}</text>')
    if mark is not None and x_low <= mark <= x_high:
        px, _ = place(mark, y_low)
        parts.append(f'<path d="M{px:.1f} {_TOP}V{_HEIGHT - _BOTTOM}" stroke="#616875" stroke-dasharray="4 4"/>')
    x, row = 8.0, 0
    for color, each, line in zip(_cycle(len(series)), series, lines, strict=True):
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in (place(*point) for point in line))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        if len(line) == 1:
            px, py = place(*line[0])
            parts.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="4" fill="{color}"/>')
        last = f" {line[-1][1]:.3g}" if line else ""
        name = html.escape(each.name + last)
        if x > 8 and x + 17 + 6.6 * len(name) > _WIDTH:
            x, row = 8.0, row + 1
        parts.append(f'<rect x="{x:.0f}" y="{33 + 17 * row}" width="12" height="4" fill="{color}"/>')
        parts.append(f'<text x="{x + 17:.0f}" y="{40 + 17 * row}">{name}</text>')
        x += 34 + 6.6 * len(name)
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(title)}" font-size="12" '
        f'font-family="system-ui, sans-serif" fill="#1c2028">{"".join(parts)}</svg>'
    )


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if low < high else (low, low + 1)


def _cycle(count: int) -> list[str]:
    return [_COLORS[i % len(_COLORS)] for i in range(count)]


def save_plot(path: Path, series: Sequence[Series], *, title: str, x_label: str, y_label: str) -> Path:
    """Write a plot as SVG or PNG, by the suffix of `path`: a line per series, a dot at its highest point, a legend."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for each in series:
        points = [(x, y) for x, y in each.points if math.isfinite(y)]
        top = max(points, key=lambda point: point[1], default=(math.nan, math.nan))
        label = f"{each.name}: {top[1]:.3f} at {top[0]:g}"
        (line,) = axes.plot([x for x, _ in points], [y for _, y in points], label=label)
        axes.plot(*top, marker="o", color=line.get_color())
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.set_title(title, fontsize="medium")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return save_figure(path, figure)


def save_bars(path: Path, values: Mapping[str, float], *, x_label: str) -> Path:
    """Write a horizontal bar per value with its number, as SVG or PNG by the suffix of `path`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 0.8 + 0.3 * len(values)), layout="constrained")
    axes = figure.add_subplot()
    names = list(values)[::-1]
    bars = axes.barh(names, [values[name] for name in names], color=_COLORS[0], height=0.7)
    axes.bar_label(bars, fmt="%.3f", padding=3, fontsize="small")
    axes.set(xlabel=x_label, xlim=(0, max(values.values()) * 1.15))
    axes.tick_params(labelsize="small")
    axes.spines[["top", "right"]].set_visible(False)
    return save_figure(path, figure)


def save_figure(path: Path, figure: Figure) -> Path:
    """Write a matplotlib figure as SVG or PNG by the suffix of `path`.

    Text stays text and nothing depends on the day: a file that changes only with the numbers.
    """
    import matplotlib as mpl

    metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "tag2mask"}):
        return write_atomically(path, lambda p: figure.savefig(p, dpi=160, metadata=metadata))
