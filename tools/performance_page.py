"""What `tag2mask bench --json` wrote, with two curves, as Markdown, or put between the two marks of a page.

python tools/performance_page.py --curves docs/images > curves.json
python tools/performance_page.py bench.json [curves.json]
python tools/performance_page.py bench.json [curves.json] docs/performance.md

The curves are the cost of both CRF runs of a picture, in CPU time of one thread, against its pixels and against its
labels; they are measured and drawn by --curves FOLDER.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

from tag2mask.base.charts import save_figure
from tag2mask.base.files import check_folder, replace_between
from tag2mask.base.tables import markdown_table
from tag2mask.config import CRFParams
from tag2mask.filtering import Lattice
from tag2mask.jobs.benchmark.cases import Case
from tag2mask.jobs.benchmark.inputs import Size, pictures, score_maps, size_text
from tag2mask.jobs.benchmark.measuring import own_work
from tag2mask.jobs.benchmark.page import TITLE, cells, conditions, milliseconds, notes
from tag2mask.jobs.benchmark.peer import load_peer, peer_work
from tag2mask.jobs.benchmark.results import BenchReport, Row
from tag2mask.jobs.benchmark.timing import Timer, interleave, threads, timed

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
USAGE = """usage: python tools/performance_page.py BENCH.json [CURVES.json] [PAGE.md]
       python tools/performance_page.py --curves FOLDER > CURVES.json"""
ROUNDS = 3
GROWTH_BAR = 1.3
"""Most that a pixel at 2048 x 2048 may cost, as a multiple of one at 512 x 512."""
Problems = Sequence[tuple[Size, int]]
"""Sizes and label counts of a curve."""
PROBLEMS: dict[str, Problems] = {
    "pixels": [((side, side), 3) for side in (256, 512, 1024, 2048)],
    "labels": [((448, 448), labels) for labels in (2, 3, 5, 11, 21, 41, 81)],
}


@dataclass(frozen=True, kw_only=True)
class Point:
    """One point of a curve: both CRF runs of a picture, one thread, CPU time."""

    height: int
    width: int
    labels: int
    rounds: int
    own_ms: float
    peer_ms: float | None
    vertices_per_pixel: float
    """Vertices of the bilateral lattice: how hard the picture is."""


@dataclass(frozen=True, kw_only=True)
class Curves:
    """The two curves, and the files that they were drawn to."""

    pixels: Sequence[Point] = ()
    labels: Sequence[Point] = ()
    plots: Sequence[str] = ()


# Measuring


def measure_curve(problems: Problems, rounds: int, peer: ModuleType | None) -> list[Point]:
    """Both CRF runs of one picture for each problem; a round visits them all, so that drift meets every point."""
    params, density = CRFParams.mining(), []
    timers: dict[str, Timer] = {}
    for i, (size, labels) in enumerate(problems):
        case = Case(work="", bar=0.0, size=size, labels=labels)
        rgb, scores = pictures(1, size), score_maps(1, labels, size, 2)
        lattice = Lattice.bilateral(rgb[0], params.bilateral_sxy, params.bilateral_srgb)
        density.append(lattice.num_vertices / lattice.num_pixels)
        timers[f"own {i}"] = timed(own_work(case, rgb, scores), "cpu")
        if peer is not None:
            timers[f"peer {i}"] = timed(peer_work(peer, rgb, scores, params), "cpu")
    with threads(1):
        seconds = interleave(timers, rounds)
    return [
        Point(
            height=size[0],
            width=size[1],
            labels=labels,
            rounds=rounds,
            own_ms=1e3 * median(seconds[f"own {i}"]),
            peer_ms=1e3 * median(seconds[f"peer {i}"]) if peer is not None else None,
            vertices_per_pixel=density[i],
        )
        for i, (size, labels) in enumerate(problems)
    ]


def growth(points: Sequence[Point]) -> float | None:
    """Cost of a pixel of the largest picture over that of one at 512 x 512; None where that was not measured."""
    each = {p.height * p.width: p.own_ms / (p.height * p.width) for p in points}
    return each[max(each)] / each[512 * 512] if 512 * 512 in each and max(each) > 512 * 512 else None


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


def measure_curves(folder: Path, rounds: int = ROUNDS) -> Curves:
    """Both curves, drawn into `folder`."""
    check_folder(folder, "--curves")
    peer, curves = load_peer(), dict[str, list[Point]]()
    for name, problems in PROBLEMS.items():
        print(f"measuring the cost against {name}", file=sys.stderr, flush=True)
        curves[name] = measure_curve(problems, rounds, peer)
    return Curves(**curves, plots=[str(draw(folder, name, points)) for name, points in curves.items()])


# Writing


def report_of(values: Any) -> BenchReport:
    """The report that `--json` printed.

    Raises:
        ValueError: it is something else.
    """
    try:
        return BenchReport(**values | {"rows": [Row(**row) for row in values["rows"]]})
    except (TypeError, KeyError) as error:
        raise ValueError(f"this is no report of `tag2mask bench --json` of this version ({error})") from error


def curves_of(values: Any) -> Curves:
    """The curves that `--curves` printed.

    Raises:
        ValueError: they are something else.
    """
    try:
        return Curves(**values | {name: [Point(**point) for point in values[name]] for name in PROBLEMS})
    except (TypeError, KeyError) as error:
        raise ValueError(f"these are no curves of `--curves` of this version ({error})") from error


def point_cells(point: Point) -> list[str]:
    """A line of the table of a curve."""
    own = point.own_ms / (point.height * point.width / 1e6)
    ratio = "" if point.peer_ms is None else f"{point.peer_ms / point.own_ms:.1f} ×"
    what = f"{size_text((point.height, point.width))}, L = {point.labels}"
    times = milliseconds(point.own_ms), milliseconds(point.peer_ms)
    return [what, *times, ratio, milliseconds(own), f"{point.vertices_per_pixel:.3f}"]


def markdown(report: BenchReport, curves: Curves, folder: Path | None = None) -> str:
    """Report and curves as Markdown; plots are linked relative to `folder`, where the page lies."""
    head = ["", "tag2mask", "pydensecrf", "ratio", "tag2mask per megapixel", "lattice vertices per pixel"]
    tables = [(TITLE, cells(report))]
    for name, points in (("pixels", curves.pixels), ("labels", curves.labels)):
        title = f"Cost against {name} (both CRF runs of a picture, one thread)"
        tables.append((title, [head, *map(point_cells, points)]))
    parts = [conditions(report)]
    for title, rows in tables:
        parts += [f"### {title}", "\n".join(markdown_table(rows))] if len(rows) > 1 else []
    told, grown = notes(report), growth(curves.pixels)
    if grown is not None:
        met = "met" if grown <= GROWTH_BAR else "not met"
        told.append(f"A pixel at 2048×2048 costs {grown:.2f} × one at 512×512; at most {GROWTH_BAR} ×: {met}.")
    parts.append("\n".join(f"- {note}" for note in told))
    for plot in curves.plots:
        link = plot if folder is None else os.path.relpath(plot, folder)
        parts.append(f"![{Path(plot).stem.replace('-', ' ')}]({Path(link).as_posix()})")
    return "\n\n".join(part for part in parts if part) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Do what the command asks; returns the exit code."""
    if len(arguments) == 2 and arguments[0] == "--curves":
        print(json.dumps(asdict(measure_curves(Path(arguments[1])))))
        return 0
    page = Path(arguments[-1]) if len(arguments) > 1 and arguments[-1].endswith(".md") else None
    sources = [Path(each) for each in (arguments if page is None else arguments[:-1])]
    if not 1 <= len(sources) <= 2 or any(each.startswith("-") for each in arguments):
        print(USAGE, file=sys.stderr)
        return 2
    source = sources[0]
    try:
        report, curves = report_of(json.loads(source.read_text(encoding="utf-8"))), Curves()
        for source in sources[1:]:
            curves = curves_of(json.loads(source.read_text(encoding="utf-8")))
        if page is None:
            print(markdown(report, curves), end="")
        else:
            replace_between(page, BEGIN, END, markdown(report, curves, page.parent))
    except (OSError, ValueError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        print(f"error: {source}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
