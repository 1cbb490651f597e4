"""check.html: the report of a check as one file, with the pictures that it names. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from tag2mask.base.files import check_file, write_text
from tag2mask.base.html import escaped, html_page, html_tiles, image_tag
from tag2mask.data.findings import SEVERITIES, Finding
from tag2mask.data.storage.pictures import PictureError, read_picture
from tag2mask.jobs.checking.results import CheckReport, cell, class_rows, summary_rows

_THUMBNAIL = 160
"""Longer side in pixels."""
_STYLE = """
p { overflow-wrap: anywhere; }
.finding { border: 1px solid var(--line); border-left: 5px solid #7a828f; border-radius: 8px; padding: 10px 16px;
  margin: 0 0 14px; break-inside: avoid; overflow-wrap: anywhere; }
.finding.error { border-left-color: #b3261e; } .finding.warning { border-left-color: #b26a00; }
.finding p { margin: 0 0 6px; } .finding .word { font-weight: 700; margin-right: 6px; }
.error .word { color: #b3261e; } .warning .word { color: #8a5200; } .note .word { color: var(--faint); }
.finding ul { margin: 6px 0 4px; padding-left: 20px; font-size: .9rem; } .finding details { margin: 8px 0 4px; }
.group { display: flex; flex-wrap: wrap; gap: 8px; margin: 10px 0 4px; }
.group img, .group .none { width: 104px; height: 78px; object-fit: contain; background: var(--tint);
  border: 1px solid var(--line); border-radius: 4px; }
.group .none { display: flex; align-items: center; justify-content: center; color: var(--faint); font-size: .8rem; }
.group .caption { flex-basis: 100%; font-size: .85rem; color: var(--faint); }
.histogram { max-width: 640px; } .histogram svg { width: 100%; height: auto; display: block; }
"""


def write_page(report: CheckReport, path: Path) -> Path:
    """Write the page as a whole; it needs no other file, and the pictures on it are thumbnails.

    Raises:
        ValueError: `path` is a folder or does not end in .html.
    """
    check_page_path(path)
    tiles = {
        "pictures": str(sum(each.num_images for each in report.splits.values())),
        "splits": str(len(report.splits)),
        "classes": str(len(report.classes)),
        **{f"{severity}s": str(report.num_findings(severity)) for severity in SEVERITIES},
    }
    sections = [
        html_tiles(tiles),
        f"<h2>Findings</h2>{''.join(map(_finding, report.findings)) or '<p>Nothing was found.</p>'}",
        _splits(report),
        _classes(report),
        _sizes(report),
    ]
    reason = f" {report.reason}" if report.reason else ""
    summary = f"{report.data} ({report.data_format}) is {report.verdict}.{reason}"
    return write_text(path, html_page("Is this data set fit to train on?", sections, summary=summary, style=_STYLE))


def check_page_path(path: Path) -> None:
    """Refuse a page that cannot be written, before any work.

    Raises:
        ValueError: `path` is a folder or does not end in .html.
    """
    if path.suffix.lower() not in (".html", ".htm") or path.is_dir():
        raise ValueError(f"--out takes the name of a page to write, such as check.html, got {path}.")
    check_file(path)


def _finding(finding: Finding) -> str:
    parts = [
        f'<p><span class="word">{finding.severity}</span>{escaped(finding.message)}</p>',
        f'<p class="faint">Cure: {escaped(finding.cure)}</p>',
    ]
    shown = len(finding.files)
    parts += [_group(name, files) for name, files in zip(finding.names, finding.files, strict=False)]
    others = finding.names[shown:]
    more = finding.count - len(finding.names)
    if others:
        items = "".join(f"<li>{escaped(name)}</li>" for name in others) + (f"<li>and {more} more</li>" if more else "")
        parts.append(f"<details><summary>{finding.count - shown} more</summary><ul>{items}</ul></details>")
        if not shown:
            parts[-1] = f"<ul>{items}</ul>"
    return f'<div class="finding {finding.severity}">{"".join(parts)}</div>'


def _group(name: str, files: Sequence[Path]) -> str:
    pictures = "".join(_thumbnail(path) for path in files)
    return f'<div class="group"><div class="caption">{escaped(name)}</div>{pictures}</div>'


def _thumbnail(path: Path) -> str:
    try:
        image = Image.fromarray(read_picture(path))
    except (PictureError, OSError):
        return '<div class="none">no picture</div>'
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    return image_tag(image, path.name)


def _splits(report: CheckReport) -> str:
    if not report.splits:
        return ""
    head = "".join(f"<th>{escaped(name)}</th>" for name in ("", *report.splits))
    rows = "".join(
        f"<tr><td>{escaped(name)}</td>{''.join(f'<td>{escaped(each)}</td>' for each in cells)}</tr>"
        for name, cells in summary_rows(report)
    )
    return (
        f'<h2>Splits</h2><div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
        '<p class="faint">Height and width in pixels: smallest, median, largest. Counted over the pictures that can '
        "be read.</p>"
    )


def _classes(report: CheckReport) -> str:
    """A bar per class: its pictures in the first split; the numbers of all splits beside it."""
    rows = [(name, counts) for name, counts in class_rows(report) if any(count is not None for count in counts)]
    if not rows:
        return ""
    rows.sort(key=lambda row: -(row[1][0] or 0))
    most = max(1, *(counts[0] or 0 for _, counts in rows))
    bars = "".join(
        f'<span class="name">{escaped(name)}</span>{_bar((counts[0] or 0) / most)}'
        f'<span class="count">{" / ".join(map(cell, counts))}</span>'
        for name, counts in rows
    )
    splits = " / ".join(report.splits)
    return (
        f'<h2>Pictures per class</h2><div class="bars">{bars}</div>'
        f'<p class="faint">Bars: {escaped(next(iter(report.splits)))}. Numbers: {escaped(splits)}.</p>'
    )


def _bar(share: float) -> str:
    return (
        '<svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true"><rect width="100" height="10" '
        f'fill="#f6f7f9"/><rect width="{100 * share:.2f}" height="10" fill="#1f5fbf"/></svg>'
    )


def _sizes(report: CheckReport) -> str:
    """Histogram of the longer side."""
    bins = report.side_histogram
    if not bins:
        return ""
    width, height, base = 420, 190, 160
    most = max(count for _, count in bins)
    step = (width - 16) / len(bins)
    parts = []
    every = -(-len(bins) // 9)
    for i, (low, count) in enumerate(bins):
        x, h = 8 + i * step, 120 * count / most
        parts.append(
            f'<rect x="{x + 1:.1f}" y="{base - h:.1f}" width="{step - 2:.1f}" height="{h:.1f}" fill="#1f5fbf"/>'
        )
        if count and len(bins) <= 16:
            parts.append(f'<text x="{x + step / 2:.1f}" y="{base - h - 5:.1f}" text-anchor="middle">{count}</text>')
        if i % every == 0:
            parts.append(f'<text x="{x + 1:.1f}" y="{base + 17}" fill="#616875">{low}</text>')
    label = "Number of pictures by longer side in pixels"
    svg = (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}" font-size="12" '
        f'font-family="system-ui, sans-serif" fill="#1c2028"><path d="M8 {base}H{width - 8}" stroke="#616875"/>'
        f"{''.join(parts)}</svg>"
    )
    return (
        f'<h2>Picture sizes</h2><div class="histogram">{svg}</div><p class="faint">{label}; each bar starts at the '
        "number below its left edge.</p>"
    )
