"""`report.html` of a run: one file with everything in it, readable on a telephone and on paper."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from tag2mask.base import html
from tag2mask.base.charts import Series, line_chart
from tag2mask.config import load_config
from tag2mask.runs.health import SUMMARY, nothing_learned
from tag2mask.runs.metrics import SCORES, loss_columns, read_metrics
from tag2mask.scoring.report import Report

_SHOWN_NAMES = 5
_SHOWN_SAMPLES = 3
_MOST_CELLS = 21
"""Largest confusion matrix that is shown, in labels."""

_CHARTS = (
    ("Mask scores on the validation split", ("miou",)),
    ("Mean average precision of the tags", ("tag_map", "tag_map_chance")),
    ("Share of reliable pixels", ("reliable_share",)),
    ("Empty CAMs, and background among the labels", ("empty_cams", "background_share")),
    ("Learning rate of old weights", ("lr",)),
    ("Pictures per second", ("images_per_second",)),
)
_NAMES = SCORES | {"tag_map_chance": "by chance", "empty_cams": "empty CAMs"}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One picture of the report."""

    caption: str
    image: Image.Image | Path


def write_report(
    run: str | Path,
    *,
    title: str | None = None,
    summary: str = "",
    tiles: Mapping[str, str] | None = None,
    scores: Mapping[str, Report] | None = None,
    figures: Sequence[Figure] = (),
    out: Path | None = None,
) -> Path:
    """Write RUN/report.html from the run folder; whatever it does not hold is left out.

    Args:
        run: Run folder with config.json.
        title: Heading; default the name of the folder.
        summary: A sentence or two below the heading.
        tiles: Numbers to see first, by caption.
        scores: Evaluations to compare side by side, by column heading.
        figures: Pictures shown before the sample sheets of training.
        out: File to write instead of RUN/report.html; it is returned.
    """
    run = Path(run)
    rows = read_metrics(run)
    joint = next((float(row["step"]) for row in rows if row.get("phase") == "joint"), None)
    environment, found = _json(run / "environment.json"), _json(run / SUMMARY)
    data = environment.pop("data", {}).values()
    settings = {"config.json": json.loads(load_config(run).to_json()), "environment.json": environment}
    return html.write_page(
        out or run / "report.html",
        "training/report.html",
        title=title or f"tag2mask: {run.resolve().name}",
        summary=summary,
        warnings=nothing_learned(run),
        numbers=tiles,
        scores=scores,
        score_rows=_score_rows((scores or {}).values()),
        figures=figures,
        validation=_json(run / "validation" / "scores.json"),
        sheets=_sheets(run / "validation"),
        joint=joint,
        charts=_charts(rows, joint),
        cost=_cost(found, rows),
        health=found.get("health"),
        samples=_samples(run / "samples"),
        findings=list({each["message"]: each for split in data for each in split["findings"]}.values()),
        settings={name: _flat(values) for name, values in settings.items() if values},
        flat=_flat,
        percent=percent,
        most_names=_SHOWN_NAMES,
        most_cells=_MOST_CELLS,
    )


def percent(value: float | None) -> str:
    """A share as a percentage with one decimal, a dash for None."""
    return "–" if value is None else f"{100 * value:.1f} %"


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _score_rows(reports: Collection[Report]) -> dict[str, list[float | None]]:
    """The IoU of each report by label, and its mean last."""
    labels = dict.fromkeys(name for report in reports for name in report.iou)
    return {name: [each.iou.get(name) for each in reports] for name in labels} | {
        "mean IoU": [each.miou for each in reports]
    }


def _sheets(folder: Path) -> list[Figure]:
    """Best and worst pictures of the last validation."""
    worst, best = "Worst pictures of each class, with its IoU there", "Best pictures of each class"
    captions = {"worst.jpg": worst, "best.jpg": best}
    return [Figure(caption=text, image=folder / file) for file, text in captions.items() if (folder / file).is_file()]


def _cost(summary: Mapping[str, Any], rows: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Time and memory, by caption."""
    if not summary:
        return {}
    tiles = {"steps": f"{summary['steps']}", "minutes in steps": f"{summary['minutes_of_steps']:.1f}"}
    for key, caption in (("peak_memory_mib", "most memory"), ("peak_gpu_memory_mib", "most memory on the GPU")):
        if key in summary:
            tiles[caption] = f"{summary[key] / 1024:.1f} GiB"
    if shares := [share for _, share in _points(rows, "mining_share")]:
        tiles["share of a joint step for CRF and labels"] = percent(sum(shares) / len(shares))
    return tiles


def _points(rows: Sequence[Mapping[str, str]], column: str) -> tuple[tuple[float, float], ...]:
    """Step and value of each row that has one."""
    return tuple((float(row["step"]), float(row[column])) for row in rows if row.get(column))


def _charts(rows: Sequence[Mapping[str, str]], joint: float | None) -> dict[str, str]:
    """An SVG per group of columns of metrics.csv, by title."""
    charts = {}
    for title, columns in (("Losses", loss_columns(rows[0] if rows else ())), *_CHARTS):
        series = [
            Series(name=_NAMES.get(column, column.replace("_", " ")), points=_points(rows, column))
            for column in columns
        ]
        if lines := [each for each in series if each.points]:
            charts[title] = line_chart(title, lines, mark=joint)
    return charts


def _samples(folder: Path) -> list[Figure]:
    """Sample sheets of training: first, last and one between; `step-000060` is called "step 60"."""
    files = sorted(folder.glob("*.jpg"))
    if len(files) > _SHOWN_SAMPLES:
        files = [files[round(i * (len(files) - 1) / (_SHOWN_SAMPLES - 1))] for i in range(_SHOWN_SAMPLES)]
    captions = (" ".join(word.lstrip("0") or "0" for word in file.stem.split("-")) for file in files)
    return [Figure(caption=caption, image=file) for caption, file in zip(captions, files, strict=True)]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested mappings as dotted names; lists on one line."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return flat
