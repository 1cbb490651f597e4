"""check.html: the report of a check as one file, with the pictures that it names. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from tag2mask.base import html
from tag2mask.base.charts import histogram
from tag2mask.base.files import check_file
from tag2mask.data.findings import SEVERITIES
from tag2mask.data.storage.pictures import PictureError, read_picture
from tag2mask.jobs.checking.results import CheckReport, cell, class_rows, summary_rows, suspicious_summary, tag_words
from tag2mask.jobs.checking.wrong_tags import LIST

_THUMBNAIL = 160
"""Longer side in pixels."""
_MOST_CARDS = 60
"""So many suspicious tags are shown with their picture."""


def write_page(report: CheckReport, path: Path) -> Path:
    """Write the page as a whole; it needs no other file, and the pictures on it are thumbnails."""
    reason = f" {report.reason}" if report.reason else ""
    return html.write_page(
        path,
        "jobs/checking/check.html",
        title="Is this data set fit to train on?",
        summary=f"{report.data} ({report.data_format}) is {report.verdict}.{reason} {report.size_advice}".rstrip(),
        numbers={
            "pictures": sum(each.num_images for each in report.splits.values()),
            "splits": len(report.splits),
            "classes": len(report.classes),
            **{f"{severity}s": report.num_findings(severity) for severity in SEVERITIES},
        },
        findings=[(each, list(zip(each.names, each.files, strict=False))) for each in report.findings],
        thumbnail=_thumbnail,
        suspicious=None if report.suspicious is None else suspicious_summary(report.suspicious),
        cards=[(each, tag_words(each)) for each in (report.suspicious.tags if report.suspicious else ())[:_MOST_CARDS]],
        list_name=LIST,
        splits=list(report.splits),
        rows=summary_rows(report),
        classes=_classes(report),
        histogram=histogram(report.side_histogram) if report.side_histogram else "",
        histogram_label="Number of pictures by longer side in pixels",
    )


def check_page_path(path: Path) -> None:
    """Refuse a page that cannot be written, before any work.

    Raises:
        ValueError: `path` is a folder or does not end in .html.
    """
    if path.suffix.lower() not in (".html", ".htm") or path.is_dir():
        raise ValueError(f"--out takes the name of a page to write, such as check.html, got {path}.")
    check_file(path)


def _thumbnail(path: Path) -> Image.Image | None:
    try:
        image = Image.fromarray(read_picture(path))
    except (PictureError, OSError):
        return None
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    return image


def _classes(report: CheckReport) -> list[tuple[str, float, str]]:
    """Name of each class, its pictures in the first split as a share of the most, and the numbers of all splits."""
    rows = [(name, counts) for name, counts in class_rows(report) if any(count is not None for count in counts)]
    rows.sort(key=lambda row: -(row[1][0] or 0))
    most = max((1, *(counts[0] or 0 for _, counts in rows)))
    return [(name, (counts[0] or 0) / most, " / ".join(map(cell, counts))) for name, counts in rows]
