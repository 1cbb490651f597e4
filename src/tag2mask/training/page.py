"""`report.html` of a run: one file with everything in it, readable on a telephone and on paper."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from tag2mask.base.charts import Series, line_chart
from tag2mask.base.files import write_text
from tag2mask.base.html import escaped, html_page, html_table, html_tiles, image_tag
from tag2mask.config import load_config
from tag2mask.runs.learned import nothing_learned
from tag2mask.runs.metrics import loss_columns
from tag2mask.scoring.evaluation import Report

_SHOWN_NAMES = 5


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
    sections = [_listed("Warning", [each.as_dict() for each in nothing_learned(run)])]
    if tiles:
        sections.append(html_tiles(tiles))
    if scores:
        sections.append(_scores(scores))
    if figures:
        sections.append("<h2>Results</h2>" + "".join(map(_figure, figures)))
    sections += [
        _validation(run / "validation"),
        _curves(run / "metrics.csv"),
        _cost(run),
        _samples(run / "samples"),
        _listed("Data", [each for split in _environment(run).get("data", {}).values() for each in split["findings"]]),
        _settings(run),
    ]
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


def _validation(folder: Path) -> str:
    """Bars per class, confusion, best and worst pictures of the last validation."""
    path = folder / "scores.json"
    if not path.is_file():
        return ""
    scores = json.loads(path.read_text(encoding="utf-8"))
    iou: dict[str, float | None] = scores["iou"]
    bars = "".join(_bar(name, value) for name, value in iou.items()) + _bar("mean IoU", scores["miou"], total=True)
    sheets = "".join(
        _figure(Figure(caption=caption, image=folder / file), kind="narrow")
        for file, caption in (
            ("worst.jpg", "Worst pictures, with the mean IoU of the labels in each"),
            ("best.jpg", "Best pictures"),
        )
        if (folder / file).is_file()
    )
    return (
        f'<h2>Validation</h2><p class="faint">{escaped(scores["protocol_line"])}</p>'
        f'<h3>IoU per label</h3><div class="bars">{bars}</div>'
        f"{_confusion(list(iou), scores['confusion'])}{sheets}"
    )


def _bar(name: str, value: float | None, *, total: bool = False) -> str:
    width = 0.0 if value is None else 100 * value
    svg = (
        f'<svg viewBox="0 0 100 14" preserveAspectRatio="none" role="img" aria-label="{escaped(percent(value))}">'
        f'<rect width="100" height="14" fill="#eef0f4"/><rect width="{width:.2f}" height="14" '
        f'fill="{"#1c2028" if total else "#1f5fbf"}"/></svg>'
    )
    return f'<span class="name">{escaped(name)}</span>{svg}<span class="count">{escaped(percent(value))}</span>'


_MOST_CELLS = 21


def _confusion(labels: Sequence[str], confusion: Sequence[Sequence[int]]) -> str:
    """The confusion matrix, each row in percent of its true pixels, darker for more."""
    if len(labels) > _MOST_CELLS:
        return '<p class="faint">The confusion matrix of so many labels is in validation/scores.json.</p>'
    head = "".join(f"<th>{escaped(name)}</th>" for name in ("truth \\ mask", *labels))
    rows = "".join(
        f"<tr><td>{escaped(name)}</td>{_confusion_cells(row)}</tr>" for name, row in zip(labels, confusion, strict=True)
    )
    return (
        '<h3>Confusion</h3><p class="faint">Rows: the truth, in percent of its pixels. Columns: what the mask says.</p>'
        f'<div class="wide"><table class="confusion"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _confusion_cells(row: Sequence[int]) -> str:
    total = sum(row)
    if total == 0:
        return "".join('<td class="none">–</td>' for _ in row)
    cells = []
    for count in row:
        share = count / total
        ink = "#fff" if share > 0.55 else "#1c2028"
        color = f"rgba(31, 95, 191, {share:.3f})"
        cells.append(f'<td style="background:{color};color:{ink}">{100 * share:.0f}</td>')
    return "".join(cells)


def _cost(run: Path) -> str:
    """Time and memory."""
    path = run / "summary.json"
    if not path.is_file():
        return ""
    values = json.loads(path.read_text(encoding="utf-8"))
    tiles = {"steps": f"{values['steps']}", "minutes in steps": f"{values['minutes_of_steps']:.1f}"}
    if "peak_memory_mib" in values:
        tiles["most memory"] = f"{values['peak_memory_mib'] / 1024:.1f} GiB"
    if "peak_gpu_memory_mib" in values:
        tiles["most memory on the GPU"] = f"{values['peak_gpu_memory_mib'] / 1024:.1f} GiB"
    if share := _mean_column(run / "metrics.csv", "mining_share"):
        tiles["share of a joint step for CRF and labels"] = percent(share)
    return f"<h2>Time and memory</h2>{html_tiles(tiles)}"


def _mean_column(path: Path, column: str) -> float | None:
    if not path.is_file():
        return None
    with path.open(newline="", encoding="utf-8") as file:
        values = [float(row[column]) for row in csv.DictReader(file) if row.get(column)]
    return sum(values) / len(values) if values else None


def _figure(figure: Figure, kind: str = "") -> str:
    caption = escaped(figure.caption)
    image = f'<div class="wide">{image_tag(figure.image, figure.caption)}</div>'
    name = f' class="{kind}"' if kind else ""
    return f"<figure{name}><figcaption>{caption}</figcaption>{image}</figure>"


_CHARTS = (
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
    for title, columns in (("Losses", loss_columns(rows[0] if rows else ())), *_CHARTS):
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
    if _environment(run):
        values = _flat({key: value for key, value in _environment(run).items() if key != "data"})
        parts.append(f"<details><summary>environment.json</summary>{html_table(values)}</details>")
    return "".join(parts)


def _environment(run: Path) -> dict[str, Any]:
    path = run / "environment.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _listed(title: str, findings: Sequence[Mapping[str, Any]]) -> str:
    """Findings as in `Finding.as_dict`, each once."""
    lines = [
        f"<li>{escaped(each['message'])} {escaped(', '.join(each['names'][:_SHOWN_NAMES]))}"
        f"{' ...' if each['count'] > _SHOWN_NAMES else ''} {escaped(each['cure'])}</li>"
        for each in {each["message"]: each for each in findings}.values()
    ]
    return f"<h2>{title}</h2><ul>{''.join(lines)}</ul>" if lines else ""


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested mappings as dotted names; lists on one line."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return flat
