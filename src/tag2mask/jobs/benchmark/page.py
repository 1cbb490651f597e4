"""A report as a table for a terminal, and its curves as plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tag2mask.base.charts import save_figure
from tag2mask.jobs.benchmark.inputs import size_text
from tag2mask.jobs.benchmark.results import BenchReport, Point, Row

GROWTH_BAR = 1.3
"""Most that a pixel at 2048 x 2048 may cost, as a multiple of one at 512 x 512."""


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} ms" if value < 1000 else f"{value / 1000:.2f} s"


def _value(row: Row) -> str:
    if row.value is None:
        return ""
    return f"{row.value:.1f} ×" if row.measure == "speedup" else f"{100 * row.value:.2f} %"


def _verdict(row: Row) -> str:
    return "" if row.met is None else "met" if row.met else "not met"


def _row_cells(row: Row) -> list[str]:
    sign = "≥" if row.measure == "speedup" else "≤"
    bar = "" if row.bar is None else f"{sign} {row.bar:g} ×" if row.measure == "speedup" else f"≤ {100 * row.bar:g} %"
    return [row.work, _ms(row.own_ms), row.against, _ms(row.peer_ms), _value(row), bar, _verdict(row)]


_ROW_HEAD = ["work", "tag2mask", "against", "pydensecrf", "ratio", "asked", ""]
_POINT_HEAD = ["", "tag2mask", "pydensecrf", "ratio", "tag2mask per megapixel", "lattice vertices per pixel"]


def _point_cells(point: Point) -> list[str]:
    own = point.own_ms / (point.height * point.width / 1e6)
    ratio = "" if point.peer_ms is None else f"{point.peer_ms / point.own_ms:.1f} ×"
    what = f"{size_text((point.height, point.width))}, L = {point.labels}"
    return [what, _ms(point.own_ms), _ms(point.peer_ms), ratio, _ms(own), f"{point.vertices_per_pixel:.3f}"]


def conditions(report: BenchReport) -> str:
    """Command, date, machine and versions of a report, in one line."""
    machine = report.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    load = "" if machine["load"] is None else f" Load average at the start: {machine['load']:.2f}."
    return (
        f"`{report.command}`, {report.date}. {machine['core']}; {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['gpu'] or 'no GPU'}, {machine['system']}; {versions}.{load}"
    ).replace("pydensecrf pydensecrf", "pydensecrf")


def notes(report: BenchReport) -> list[str]:
    """What the numbers of the tables leave out, a sentence each."""
    told = []
    for row in report.rows:
        if row.crf_share is not None:
            theirs = "" if row.peer_crf_share is None else f" ({100 * row.peer_crf_share:.0f} % with pydensecrf)"
            told.append(f"CRF votes and reliable labels take {100 * row.crf_share:.0f} % of the training step{theirs}.")
    differences = [row.max_difference for row in report.rows if row.max_difference is not None]
    if differences:
        told.append(f"Both give the same marginals: the largest difference in this run is {max(differences):.1e}.")
    if report.growth is not None:
        met = "met" if report.growth <= GROWTH_BAR else "not met"
        told.append(f"A pixel at 2048×2048 costs {report.growth:.2f} × one at 512×512; at most {GROWTH_BAR} ×: {met}.")
    if report.quick:
        told.append("A quick look at small sizes; the bars hold at full size only and are not judged.")
    return told + [f"Not measured: {name}: {reason}" for name, reason in report.skipped.items()]


def blocks(report: BenchReport) -> list[tuple[str, list[list[str]]]]:
    """Title and cells, head first, of every table that holds something."""
    found = [("Kernels and training step", [_ROW_HEAD, *map(_row_cells, report.rows)])]
    for title, points in (("pixels", report.pixels), ("labels", report.labels)):
        heading = f"Cost against {title} (both CRF runs of a picture, one thread)"
        found.append((heading, [_POINT_HEAD, *map(_point_cells, points)]))
    return [(title, cells) for title, cells in found if len(cells) > 1]


def table_lines(report: BenchReport) -> list[str]:
    """The report for a terminal: aligned columns."""
    lines = [conditions(report)]
    for title, cells in blocks(report):
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines += ["", title]
        lines += ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in cells]
    return [*lines, "", *notes(report)]


def draw(folder: Path, name: str, points: Sequence[Point]) -> Path:
    """Write performance-NAME.svg: milliseconds against megapixels or labels, both logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    x = [p.height * p.width / 1e6 if name == "pixels" else p.labels for p in points]
    for label, values in (("tag2mask", [p.own_ms for p in points]), ("pydensecrf", [p.peer_ms for p in points])):
        if None not in values:
            axes.loglog(x, [float(v) for v in values if v is not None], marker="o", label=label)
    axes.set_xticks(x, [f"{v:.2g}" for v in x], minor=False)
    axes.minorticks_off()
    axes.set_xlabel(
        "megapixels (L = 3)" if name == "pixels" else f"labels ({size_text((points[0].height, points[0].width))})"
    )
    axes.set_ylabel("ms")
    axes.set_title("both CRF runs of a picture, one thread", fontsize="medium")
    axes.grid(alpha=0.3)
    axes.legend()
    return save_figure(folder / f"performance-{name}.svg", figure)
