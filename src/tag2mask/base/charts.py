"""Charts by matplotlib: files of their own, and SVG that stands inside a page. Imports no torch."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tag2mask.base.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLORS = ("#1f5fbf", "#d1495b", "#2e933c", "#9a5fb5")
_INK, _FAINT, _LINE = "#1c2028", "#616875", "#e2e5ea"
_STEADY: Any = {"svg.fonttype": "none", "svg.hashsalt": "tag2mask"}
"""Text stays text, and equal charts are equal files."""
_NOT_IN_PAGES = re.compile(r' (?:id="[a-z0-9.]+_\d+"|xmlns(?::xlink)?="[^"]*")|(?<= )xlink:(?=href)')
"""Names of groups, which would occur once per chart of a page, and name spaces, which HTML has by itself."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line: its name and its points (x, y)."""

    name: str
    points: tuple[tuple[float, float], ...]

    @property
    def finite(self) -> list[tuple[float, float]]:
        """The points whose y is a finite number."""
        return [(x, y) for x, y in self.points if math.isfinite(y)]


def line_chart(title: str, series: Sequence[Series], *, mark: float | None = None) -> str:
    """An SVG element with one line per series, at least one; points that are not finite are left out.

    Points are in the order of x, which counts steps; `mark` is the x of a dashed vertical line.
    """
    from matplotlib.ticker import MaxNLocator

    figure, axes = _page_chart(280)
    axes.grid(axis="y", color=_LINE)
    for i, each in enumerate(series):
        points = each.finite
        last = f" {points[-1][1]:.3g}" if points else ""
        axes.plot(
            *([point[axis] for point in points] for axis in (0, 1)),
            color=_COLORS[i % len(_COLORS)],
            linewidth=2,
            marker="o" if len(points) == 1 else None,
            label=each.name + last,
        )
    steps = [x for each in series for x, _ in each.finite] or [0.0, 1.0]
    axes.update_datalim([(min(steps), 0)])
    axes.margins(x=0.01, y=0.03)
    if mark is not None and min(steps) <= mark <= max(steps):
        axes.axvline(mark, color=_FAINT, linewidth=1, linestyle="--")
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.spines[:].set_visible(False)
    legend = axes.legend(
        title=title,
        title_fontproperties={"size": 16, "weight": "bold"},
        alignment="left",
        loc="lower left",
        bbox_to_anchor=(-0.02, 1),
        ncols=2,
        fontsize=12,
        frameon=False,
        handlelength=1,
        labelcolor=_INK,
        borderaxespad=0.2,
    )
    legend.get_title().set_color(_INK)
    return _inline(figure)


def histogram(bins: Sequence[tuple[int, int]]) -> str:
    """An SVG element with a bar per bin (lower bound, count), at least one.

    Its count stands above it (of 16 bins at most) and its lower bound at its left.
    """
    figure, axes = _page_chart(190)
    bars = axes.bar(range(len(bins)), [count for _, count in bins], width=0.96, align="edge", color=_COLORS[0])
    if len(bins) <= 16:
        axes.bar_label(bars, [str(count) if count else "" for _, count in bins], padding=3, fontsize=12, color=_INK)
    shown = range(0, len(bins), -(-len(bins) // 9))
    axes.set_xticks(shown, [str(bins[i][0]) for i in shown], ha="left")
    axes.set_yticks([])
    axes.spines[["left", "right", "top"]].set_visible(False)
    axes.spines["bottom"].set_color(_FAINT)
    axes.margins(x=0.01, y=0.15)
    return _inline(figure)


def _page_chart(height: int) -> tuple[Figure, Axes]:
    """An empty chart for a page, 420 points wide: its letters can be read where a telephone shrinks it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(420 / 72, height / 72), layout="constrained")
    axes = figure.add_subplot()
    axes.tick_params(length=0, pad=6, labelsize=12, labelcolor=_FAINT)
    return figure, axes


def _inline(figure: Figure) -> str:
    import matplotlib as mpl

    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context(_STEADY | {"font.sans-serif": ["DejaVu Sans"]}):  # the page has a type of its own
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    return _NOT_IN_PAGES.sub("", svg[svg.index("<svg") :])


def save_plot(path: Path, series: Sequence[Series], *, title: str, x_label: str, y_label: str) -> Path:
    """Write a plot as SVG or PNG, by the suffix of `path`: a line per series, a dot at its highest point, a legend."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for each in series:
        points = each.finite
        top = max(points, key=lambda point: point[1], default=(math.nan, math.nan))
        label = f"{each.name}: {top[1]:.3f} at {top[0]:g}"
        (line,) = axes.plot([x for x, _ in points], [y for _, y in points], label=label)
        axes.plot(*top, marker="o", color=line.get_color())
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.set_title(title, fontsize="medium")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return save_figure(path, figure)


def save_figure(path: Path, figure: Figure) -> Path:
    """Write a matplotlib figure as SVG or PNG by the suffix of `path`; the file changes only with the numbers."""
    import matplotlib as mpl

    metadata: dict[str, Any] = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    with mpl.rc_context(_STEADY):
        return write_atomically(path, lambda p: figure.savefig(p, dpi=160, metadata=metadata))
