"""The rows as JSON, as a Markdown table and as a plot; in a page of the docs between two marks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from experiments.how_many.rows import ALL
from experiments.how_many.running import FIRST, RowResult, Study
from experiments.resuming import refuse_other_settings
from experiments.scores import by_row, difference
from tag2mask.base.charts import save_figure
from tag2mask.base.files import replace_between, write_text
from tag2mask.base.tables import markdown_table
from tag2mask.runs.folder import environment

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TABLE, PLOT = "how-many.md", "how-many.svg"
BEGIN, END = "<!-- how many: begin -->", "<!-- how many: end -->"
Points = Sequence[tuple[float, RowResult]]
"""Results by where they stand on an axis."""


def check_plan(study: Study) -> None:
    """Refuse to mix rows of different lengths or data sets in one table.

    Raises:
        ValueError: the folder's `how-many.json` is of others.
    """
    now = asdict(study.plan) | _data(study)
    del now["seeds"]  # more may be added
    refuse_other_settings(study.out / "how-many.json", now)


def _data(study: Study) -> dict[str, str]:
    return {"data": str(Path(study.data).expanduser().resolve())}


def write_page(study: Study) -> Path:
    """Write `how-many.json`, the table and the plot of all rows in the folder; returns the table's file."""
    results = study.done()
    rows = [asdict(each) | {"precision": each.precision} for each in results]
    page = {"plan": asdict(study.plan), **_data(study), "environment": environment(), "rows": rows}
    write_text(study.out / "how-many.json", json.dumps(page, indent=2) + "\n")
    write_plot(study.out / PLOT, results)
    return write_text(study.out / TABLE, "\n".join(table_lines(results, study)) + "\n")


def fill_page(page: Path, study: Study) -> None:
    """Put table and plot between the marks of a page of the docs, the plot as a file in `images` beside it.

    Raises:
        ValueError: the page has no such marks.
    """
    results = study.done()
    lines = [*table_lines(results, study), "", "![mIoU and tag mAP by pictures and by wrong tags](images/how-many.svg)"]
    replace_between(page, BEGIN, END, "\n".join(lines) + "\n")
    write_plot(page.parent / "images" / PLOT, results)


def table_lines(results: Sequence[RowResult], study: Study) -> list[str]:
    """A Markdown table: per seed mIoU, tag mAP and the planted mistakes found; differences of the mean mIoU."""
    seeds = sorted({each.seed for each in results})
    scores = by_row((each.name, each.seed, each.miou) for each in results if each.miou is not None)
    of = {(each.name, each.seed): each for each in results}
    head = [f"{what}, seed {seed}" for what in ("mIoU", "tag mAP", f"planted of the first {FIRST}") for seed in seeds]
    table, group = [["", "row", *head, "difference", "to", "minutes"]], None
    for name in dict.fromkeys(each.name for each in results):
        every = [of.get((name, seed)) for seed in seeds]
        row = next(each for each in every if each is not None)
        cells = [cell(each) for cell in (_miou, _tag_map, _found) for each in every]
        compared = difference(scores, name, study.rows[name].against) if name in scores else ("", "")
        minutes = mean(each.minutes for each in every if each is not None)
        table.append([row.group if row.group != group else "", row.title, *cells, *compared, f"{minutes:.1f}"])
        group = row.group
    return markdown_table(table)


def _miou(each: RowResult | None) -> str:
    if each is None or (each.miou is None and not each.stopped):
        return ""
    return "stopped" if each.miou is None else f"{each.miou:.3f}"


def _tag_map(each: RowResult | None) -> str:
    return "" if each is None or each.tag_map is None else f"{each.tag_map:.3f}"


def _found(each: RowResult | None) -> str:
    """`63 of 100 (157 planted)`."""
    return "" if each is None or each.planted is None else f"{each.right} of {each.first} ({each.planted} planted)"


def write_plot(path: Path, results: Sequence[RowResult]) -> Path:
    """Write mIoU and tag mAP against the number of pictures, and against the share of wrong tags."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    scored = [each for each in results if each.miou is not None]
    by_count = [(float(each.pictures), each) for each in scored if each.group == "pictures"]
    by_share = [(0.0, each) for each in scored if each.name == ALL]
    by_share += [(100 * each.planted / each.pictures, each) for each in scored if each.planted]
    _draw(left, by_count, "pictures to train on")
    _draw(right, by_share, "% of the pictures with a wrong tag")
    if by_count:
        left.set_xscale("log")
        ticks = sorted({x for x, _ in by_count})
        left.set_xticks(ticks, [f"{x:g}" for x in ticks])
        left.minorticks_off()
    left.set(ylim=(0, 1), ylabel="score on val")
    return save_figure(path, figure)


def _draw(axes: Axes, points: Points, label: str) -> None:
    """A line through the means of the seeds, and a dot for each."""
    places = sorted({x for x, _ in points})
    for name in ("miou", "tag_map"):
        title = {"miou": "mIoU", "tag_map": "tag mAP"}[name]
        line = [mean(getattr(each, name) for x, each in points if x == place) for place in places]
        (drawn,) = axes.plot(places, line, label=title)
        dots = [(x, getattr(each, name)) for x, each in points]
        axes.plot(*zip(*dots, strict=True) if dots else ([], []), "o", markersize=4, color=drawn.get_color())
    axes.set(xlabel=label)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="lower right")
