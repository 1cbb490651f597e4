"""A report as a table for a terminal, as Markdown, and its curves as plots."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tag2mask.base.charts import save_figure
from tag2mask.base.files import write_text
from tag2mask.jobs.benchmark.inputs import size_text
from tag2mask.jobs.benchmark.results import BenchReport, Point, Row

GROWTH_BAR = 1.3
"""Most that a pixel at 2048 x 2048 may cost, as a multiple of one at 512 x 512."""
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


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


def _conditions(report: BenchReport) -> str:
    machine = report.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    load = "" if machine["load"] is None else f" Load average at the start: {machine['load']:.2f}."
    return (
        f"`{report.command}`, {report.date}. {machine['core']}; {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['gpu'] or 'no GPU'}, {machine['system']}; {versions}.{load}"
    ).replace("pydensecrf pydensecrf", "pydensecrf")


def _notes(report: BenchReport) -> list[str]:
    """What the numbers of the tables leave out, a sentence each."""
    notes = []
    for row in report.rows:
        if row.crf_share is not None:
            theirs = "" if row.peer_crf_share is None else f" ({100 * row.peer_crf_share:.0f} % with pydensecrf)"
            notes.append(
                f"CRF votes and reliable labels take {100 * row.crf_share:.0f} % of the training step{theirs}."
            )
    differences = [row.max_difference for row in report.rows if row.max_difference is not None]
    if differences:
        notes.append(f"Both give the same marginals: the largest difference in this run is {max(differences):.1e}.")
    if report.growth is not None:
        met = "met" if report.growth <= GROWTH_BAR else "not met"
        notes.append(f"A pixel at 2048×2048 costs {report.growth:.2f} × one at 512×512; at most {GROWTH_BAR} ×: {met}.")
    if report.quick:
        notes.append("A quick look at small sizes; the bars hold at full size only and are not judged.")
    return notes + [f"Not measured: {name}: {reason}" for name, reason in report.skipped.items()]


def _blocks(report: BenchReport) -> list[tuple[str, list[list[str]]]]:
    """Title and cells, head first, of every table that holds something."""
    blocks = [("Kernels and training step", [_ROW_HEAD, *map(_row_cells, report.rows)])]
    for title, points in (("pixels", report.pixels), ("labels", report.labels)):
        heading = f"Cost against {title} (both CRF runs of a picture, one thread)"
        blocks.append((heading, [_POINT_HEAD, *map(_point_cells, points)]))
    return [(title, cells) for title, cells in blocks if len(cells) > 1]


def table_lines(report: BenchReport) -> list[str]:
    """The report for a terminal: aligned columns."""
    lines = [_conditions(report)]
    for title, cells in _blocks(report):
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines += ["", title]
        lines += ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in cells]
    return [*lines, "", *_notes(report)]


def markdown(report: BenchReport, folder: Path | None = None) -> str:
    """The report as Markdown; plots are linked relative to `folder`, where the page lies."""
    parts = [_conditions(report)]
    for title, cells in _blocks(report):
        head, *rows = [f"| {' | '.join(row)} |" for row in cells]
        parts += [f"### {title}", "\n".join([head, "|---" * len(cells[0]) + "|", *rows])]
    parts += ["\n".join(f"- {note}" for note in _notes(report))]
    for plot in report.plots:
        link = plot if folder is None else os.path.relpath(plot, folder)
        parts.append(f"![{Path(plot).stem.replace('-', ' ')}]({Path(link).as_posix()})")
    return "\n\n".join(part for part in parts if part) + "\n"


def fill_page(page: Path, report: BenchReport) -> None:
    """Replace what stands between the two marks of a page.

    Raises:
        ValueError: the page has not exactly one of each mark, in order.
    """
    text = page.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"{page} must hold the line {BEGIN} once and {END} once below it")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    write_text(page, f"{before}{BEGIN}\n\n{markdown(report, page.parent)}\n{END}{after}")


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


def main(arguments: Sequence[str]) -> int:
    """`python -m tag2mask.jobs.benchmark FILE.json [PAGE.md]`; returns the exit code."""
    if not 1 <= len(arguments) <= 2 or arguments[0].startswith("-"):
        print("usage: python -m tag2mask.jobs.benchmark FILE.json [PAGE.md]", file=sys.stderr)
        return 2
    source = Path(arguments[0])
    try:
        report = BenchReport.from_dict(json.loads(source.read_text(encoding="utf-8")))
        if len(arguments) == 1:
            print(markdown(report), end="")
        else:
            fill_page(Path(arguments[1]), report)
    except (OSError, ValueError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        print(f"tag2mask.jobs.benchmark: error: {source}: {error}", file=sys.stderr)
        return 1
    return 0
