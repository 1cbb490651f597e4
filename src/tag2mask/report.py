"""`report.html` of a run: one file with everything in it, readable on a telephone and on paper."""

from __future__ import annotations

import base64
import csv
import html
import io
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

_STYLE = """
:root { --ink: #1c2028; --faint: #616875; --line: #e2e5ea; --tint: #f6f7f9; --accent: #1f5fbf; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: #fff; line-height: 1.5;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; font-size: 16px; }
main { max-width: 1120px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 8px; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 40px 0 10px; padding-top: 14px; border-top: 1px solid var(--line); }
p { margin: 0 0 12px; max-width: 72ch; } .faint { color: var(--faint); font-size: .9rem; }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; margin: 20px 0 0; }
.tile { flex: 1 1 150px; background: var(--tint); border-radius: 10px; padding: 12px 16px; }
.tile b { display: block; font-size: 1.6rem; line-height: 1.25; } .tile span { color: var(--faint); font-size: .9rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 6px 10px; border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--faint); font-size: .9rem; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; } tr.total td { font-weight: 700; border-top: 2px solid var(--ink); }
td.best { color: var(--accent); font-weight: 700; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 20px; }
.charts svg { width: 100%; height: auto; display: block; }
figure { margin: 0 0 24px; } figcaption { color: var(--faint); font-size: .9rem; margin-bottom: 6px; }
figure img { display: block; width: 100%; min-width: 760px; border: 1px solid var(--line); border-radius: 6px; }
details { border: 1px solid var(--line); border-radius: 8px; padding: 8px 14px; margin: 10px 0; }
summary { cursor: pointer; font-weight: 600; }
details td { text-align: left; font-size: .85rem; font-family: ui-monospace, Menlo, Consolas, monospace;
  overflow-wrap: anywhere; }
@media (max-width: 480px) { main { padding: 20px 14px 40px; } h1 { font-size: 1.4rem; }
  th, td { padding: 6px; font-size: .9rem; } }
@media print { main { padding: 0; max-width: none; } figure img { min-width: 0; } .wide { overflow: visible; }
  h2, figure, .charts svg, tr { break-inside: avoid; } .tile, body { print-color-adjust: exact; } }
"""


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
        cells = "".join(f'<div class="tile"><b>{_text(v)}</b><span>{_text(k)}</span></div>' for k, v in tiles.items())
        sections.append(f'<div class="tiles">{cells}</div>')
    if scores:
        sections.append(_scores(scores))
    if figures:
        sections.append("<h2>Results</h2>" + "".join(map(_figure, figures)))
    sections += [_curves(run / "metrics.csv"), _samples(run / "samples"), _settings(run)]
    title = title or f"tag2mask: {run.resolve().name}"
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{_text(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><main><h1>{_text(title)}</h1>"
        + (f"<p>{_text(summary)}</p>" if summary else "")
        + "\n".join(filter(None, sections))
        + "</main></body></html>\n"
    )
    return write_text(out or run / "report.html", page)


def _text(value: object) -> str:
    return html.escape(str(value))


def percent(value: float | None) -> str:
    """A share as a percentage with one decimal, a dash for None."""
    return "–" if value is None else f"{100 * value:.1f} %"


def _scores(scores: Mapping[str, Report]) -> str:
    """IoU per label and mean, one column per evaluation, the best of each row marked."""
    reports = list(scores.values())
    labels = list(dict.fromkeys(name for report in reports for name in report.iou))
    rows = [_score_row(label, [report.iou.get(label) for report in reports]) for label in labels]
    rows.append(_score_row("mean IoU", [report.miou for report in reports], total=True))
    head = "".join(f"<th>{_text(name)}</th>" for name in ("IoU", *scores))
    protocols = "".join(
        f'<details><summary>Protocol: {_text(name)}</summary><p class="faint">{_text(report.protocol_line)}</p>'
        f"{_table(_flat(report.protocol))}</details>"
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
    return f"<tr{' class=total' if total else ''}><td>{_text(label)}</td>{cells}</tr>"


def _figure(figure: Figure) -> str:
    image = figure.image
    if isinstance(image, Path):
        data = image.read_bytes()
    else:
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, format="JPEG", quality=85)
        data = buffer.getvalue()
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    caption = _text(figure.caption)
    image_tag = f'<div class="wide"><img alt="{caption}" src="{source}"></div>'
    return f"<figure><figcaption>{caption}</figcaption>{image_tag}</figure>"


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
    parts.append(f"<details><summary>config.json</summary>{_table(_flat(config))}</details>")
    path = run / "environment.json"
    if path.is_file():
        values = _flat(json.loads(path.read_text(encoding="utf-8")))
        parts.append(f"<details><summary>environment.json</summary>{_table(values)}</details>")
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


def _table(values: Mapping[str, str]) -> str:
    rows = "".join(f"<tr><td>{_text(key)}</td><td>{_text(value)}</td></tr>" for key, value in values.items())
    return f"<table><tbody>{rows}</tbody></table>"
