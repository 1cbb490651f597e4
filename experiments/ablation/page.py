"""The ablation as JSON, as a Markdown table and as plots."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean

from experiments.ablation.rows import PARTS_BASE, ROWS
from experiments.ablation.running import Ablation, RowResult
from experiments.resuming import refuse_other_settings
from experiments.scores import Scores, by_row, difference
from tag2mask.base.charts import Series, save_figure, save_plot
from tag2mask.base.files import write_text
from tag2mask.base.tables import markdown_table
from tag2mask.config import ReliableConfig
from tag2mask.runs.folder import environment


def check_plan(ablation: Ablation) -> None:
    """Refuse to mix rows of different lengths in one table.

    Raises:
        ValueError: the folder's `ablation.json` is of other steps, another data set or second split.
    """
    now = asdict(ablation.plan) | _pictures(ablation)
    del now["second_seed_within"]  # more seeds may be added
    refuse_other_settings(ablation.out / "ablation.json", now)


def _pictures(ablation: Ablation) -> dict[str, str | None]:
    """What the rows learn from, as `ablation.json` tells it."""
    return {"data": str(Path(ablation.data).expanduser().resolve()), "second_split": ablation.second_split}


def write_page(ablation: Ablation) -> Path:
    """Write `ablation.json`, `ablation.md` and the plots of all rows in the folder; returns the Markdown file."""
    results = ablation.done()
    tag_phases = [json.loads(p.read_text(encoding="utf-8")) for p in sorted(ablation.out.glob("tags-*/result.json"))]
    page = {
        "plan": asdict(ablation.plan),
        **_pictures(ablation),
        "environment": environment(),
        "tag_phases": tag_phases,
        "rows": [asdict(result) for result in results],
    }
    write_text(ablation.out / "ablation.json", json.dumps(page, indent=2) + "\n")
    _plots(ablation.out, results)
    return write_text(ablation.out / "ablation.md", "\n".join(table_lines(results)) + "\n")


def table_lines(results: Sequence[RowResult]) -> list[str]:
    """A Markdown table: mIoU per seed, the difference of the means to the row it is compared with, minutes."""
    seeds = sorted({result.seed for result in results})
    scores = _scores(results)
    head = ["", "row", *(f"mIoU, seed {seed}" for seed in seeds), "difference", "to", "minutes"]
    table = [head]
    group = None
    for name, by_seed in scores.items():
        row = next(result for result in results if result.name == name)
        cells = [f"{by_seed[seed]:.3f}" if seed in by_seed else "" for seed in seeds]
        shared = f" + {row.shared_minutes:.1f}" if row.shared_minutes else ""
        title = row.title + ("" if row.pseudo_miou is None else f" (masks: mIoU {row.pseudo_miou:.3f})")
        first = row.group if row.group != group else ""
        table.append(
            [first, title, *cells, *difference(scores, name, ROWS[name].against), f"{row.minutes:.1f}{shared}"]
        )
        group = row.group
    return markdown_table(table)


def _scores(results: Sequence[RowResult]) -> Scores:
    return by_row((result.name, result.seed, result.miou) for result in results)


def _plots(out: Path, results: Sequence[RowResult]) -> None:
    scores = {name: mean(by_seed.values()) for name, by_seed in _scores(results).items()}
    kept = {
        float(name.removeprefix("keep-")) / 100: value for name, value in scores.items() if name.startswith("keep-")
    }
    if PARTS_BASE in scores:
        kept[ReliableConfig.clean().keep] = scores[PARTS_BASE]
    if len(kept) > 1:
        line = Series(name="mIoU", points=tuple(sorted(kept.items())))
        save_plot(
            out / "ablation-kept.svg",
            [line],
            title="Share of each class's CAM pixels that is trusted",
            x_label="share kept",
            y_label="mIoU on val",
        )
    if len(scores) > 1:
        titles = {result.name: result.title.replace("`", "") for result in results}
        _save_bars(
            out / "ablation-rows.svg", {titles[name]: value for name, value in scores.items()}, x_label="mIoU on val"
        )


def _save_bars(path: Path, values: Mapping[str, float], *, x_label: str) -> Path:
    """Write a horizontal bar per value with its number, as SVG or PNG by the suffix of `path`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 0.8 + 0.3 * len(values)), layout="constrained")
    axes = figure.add_subplot()
    names = list(values)[::-1]
    bars = axes.barh(names, [values[name] for name in names], color="#1f5fbf", height=0.7)
    axes.bar_label(bars, fmt="%.3f", padding=3, fontsize="small")
    axes.set(xlabel=x_label, xlim=(0, max(values.values()) * 1.15))
    axes.tick_params(labelsize="small")
    axes.spines[["top", "right"]].set_visible(False)
    return save_figure(path, figure)
