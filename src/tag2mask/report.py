"""`report.html` of a run: one file with everything in it, readable on a telephone and on paper."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from tag2mask.charts import Series, line_chart
from tag2mask.config import load_config
from tag2mask.evaluation import Report
from tag2mask.files import write_text
from tag2mask.html_page import escaped, html_page, html_table, html_tiles, image_tag


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
        out: File to write instead of RUN/report.html.

    Returns:
        The file.
    """
    run = Path(run)
    sections = []
    if tiles:
        sections.append(html_tiles(tiles))
    if scores:
        sections.append(_scores(scores))
    if figures:
        sections.append("<h2>Results</h2>" + "".join(map(_figure, figures)))
    sections += [_curves(run / "metrics.csv"), _samples(run / "samples"), _settings(run)]
    title = title or f"tag2mask: {run.resolve().name}"
    return write_text(out or run / "report.html", html_page(title, sections, summary=summary))


def percent(value: float | None) -> str:
    """A share as a percentage with one decimal, a dash for None."""
    return "–" if value is None else f"{100 * value:.1f} %"


def _scores(scores: Mapping[str, Report]) -> str:
    """IoU per label and mean, one column per evaluation, the best of each row marked."""
    reports = list(scores.values())
    labels = list(dict.fromkeys(name for report in reports for name in report.iou))
    rows = [_score_row(label, [report.iou.get(label) for report in reports]) for label in labels]
    rows.append(_score_row("mean IoU", [report.miou for report in reports], total=True))
    head = "".join(f"<th>{escaped(name)}</th>" for name in ("IoU", *scores))
    protocols = "".join(
        f'<details><summary>Protocol: {escaped(name)}</summary><p class="faint">{escaped(report.protocol_line)}</p>'
        f"{html_table(_flat(report.protocol))}</details>"
        for name, report in scores.items()
    )
    return (
        f'<h2>Scores</h2><div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
        f'</div><p class="faint">{reports[0].num_images} pictures. Labels that occur nowhere show a dash and are not '
        f"in the mean.</p>{protocols}"
    )


def _score_row(label: str, values: Sequence[float | None], *, total: bool = False) -> str:
    known = [value for value in values if value is not None]
    best = max(known) if len(known) > 1 else None
    cells = "".join(
        f"<td{' class=best' if value is not None and value == best else ''}>{percent(value)}</td>" for value in values
    )
    return f"<tr{' class=total' if total else ''}><td>{escaped(label)}</td>{cells}</tr>"


def _figure(figure: Figure) -> str:
    caption = escaped(figure.caption)
    image = f'<div class="wide">{image_tag(figure.image, figure.caption)}</div>'
    return f"<figure><figcaption>{caption}</figcaption>{image}</figure>"


_CHARTS = (
    ("Losses", ("total_loss", "tag_loss", "segmentation_loss", "energy_loss")),
    ("Scores on the validation split", ("miou", "tag_map")),
    ("Share of reliable pixels", ("reliable_share",)),
    ("Learning rate of old weights", ("lr",)),
    ("Pictures per second", ("images_per_second",)),
)
_NAMES = {"miou": "mIoU", "tag_map": "tag mAP"}


def _curves(path: Path) -> str:
    """One chart per group of columns of metrics.csv."""
    if not path.is_file():
        return ""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    joint = next((float(row["step"]) for row in rows if row.get("phase") == "joint"), None)
    charts = []
    for title, columns in _CHARTS:
        series = [
            Series(
                name=_NAMES.get(column, column.replace("_", " ")),
                points=tuple((float(row["step"]), float(row[column])) for row in rows if row.get(column)),
            )
            for column in columns
        ]
        if any(each.points for each in series):
            charts.append(line_chart(title, [each for each in series if each.points], mark=joint))
    if not charts:
        return ""
    note = '<p class="faint">By step; the dashed line is where the joint phase begins.</p>' if joint else ""
    return f'<h2>Training</h2>{note}<div class="charts">{"".join(charts)}</div>'


def _samples(folder: Path, most: int = 3) -> str:
    """Sample sheets of training: first, last and one between."""
    files = sorted(folder.glob("*.jpg"))
    if len(files) > most:
        files = [files[round(i * (len(files) - 1) / (most - 1))] for i in range(most)]
    if not files:
        return ""
    figures = "".join(_figure(Figure(caption=_caption(file.stem), image=file)) for file in files)
    return f"<h2>Sample sheets</h2>{figures}"


def _caption(stem: str) -> str:
    """`step-000060` as "step 60"."""
    return " ".join(word.lstrip("0") or "0" for word in stem.split("-"))


def _settings(run: Path) -> str:
    parts = ["<h2>Settings</h2>"]
    config = json.loads(load_config(run).to_json())
    parts.append(f"<details><summary>config.json</summary>{html_table(_flat(config))}</details>")
    path = run / "environment.json"
    if path.is_file():
        values = _flat(json.loads(path.read_text(encoding="utf-8")))
        parts.append(f"<details><summary>environment.json</summary>{html_table(values)}</details>")
    return "".join(parts)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested mappings as dotted names; lists on one line."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return flat
