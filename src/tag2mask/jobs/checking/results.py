"""What a check finds, and the table that shows it on a terminal. Imports no torch."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tag2mask.base.tables import text_table
from tag2mask.data.findings import SEVERITIES, Finding, Severity

MOST_CLASSES = 40
"""So many classes are shown on the terminal, the rarest; the others are in --json and on the page."""
_WIDTH = 100


@dataclass(frozen=True, kw_only=True)
class SplitSummary:
    """Counts of one split. Classes, negatives and sizes are counted over the pictures that can be read."""

    num_images: int
    num_broken: int
    num_negatives: int | None
    """Pictures without a tag; None where the tags cannot be read."""
    num_masks: int
    class_counts: dict[str, int] | None
    """Pictures per class; None where the tags cannot be read."""
    heights: tuple[int, int, int] | None
    """Smallest, median and largest height in pixels; None where no picture can be read."""
    widths: tuple[int, int, int] | None


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """Result of `tag2mask.check`."""

    data: str
    data_format: str
    train_split: str
    """The split that training would use."""
    classes: tuple[str, ...]
    splits: dict[str, SplitSummary]
    """By name, the one to train on first."""
    findings: tuple[Finding, ...]
    """Errors first, then warnings, then notes."""
    side_histogram: tuple[tuple[int, int], ...]
    """Readable pictures by longer side: (lower bound in pixels, number of pictures); bounds grow by sqrt(2)."""
    out: Path | None = None
    """The page, where one was asked for."""

    @property
    def fit(self) -> bool:
        """Whether training makes sense: no finding is an error."""
        return not any(finding.severity == "error" for finding in self.findings)

    @property
    def reason(self) -> str | None:
        """Why training would be pointless: the first error."""
        return next((finding.message for finding in self.findings if finding.severity == "error"), None)

    def num_findings(self, severity: Severity) -> int:
        """How many findings have this severity."""
        return sum(finding.severity == severity for finding in self.findings)

    @property
    def verdict(self) -> str:
        """One line: fit or not, and how many findings of each severity."""
        counts = [(self.num_findings(severity), severity) for severity in SEVERITIES]
        found = ", ".join(f"{n} {severity}{'s' if n > 1 else ''}" for n, severity in counts if n) or "nothing found"
        return f"{'fit to train on' if self.fit else 'NOT fit to train on'}: {found}"

    def as_dict(self) -> dict[str, Any]:
        """JSON values: the object of --json."""
        splits = {
            name: {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(each).items()}
            for name, each in self.splits.items()
        }
        return {
            "data": self.data,
            "data_format": self.data_format,
            "train_split": self.train_split,
            "fit": self.fit,
            "reason": self.reason,
            "classes": list(self.classes),
            "splits": splits,
            "side_histogram": [list(each) for each in self.side_histogram],
            "findings": [finding.as_dict() for finding in self.findings],
            "out": None if self.out is None else str(self.out),
        }


def report_lines(report: CheckReport) -> list[str]:
    """The report for people: counts per split, findings with cure and names, verdict."""
    lines = [
        f"{report.data}: {report.data_format}, {len(report.classes)} classes, trains on {report.train_split!r}",
        "",
    ]
    lines += _table(report)
    for finding in report.findings:
        lines += ["", *_finding_lines(finding)]
    lines += ["", report.verdict]
    if report.reason is not None:
        lines += textwrap.wrap(f"because: {report.reason}", _WIDTH)
    return lines


def summary_rows(report: CheckReport) -> list[tuple[str, list[str]]]:
    """Rows above the classes: a heading and a cell per split."""
    splits = report.splits.values()
    return [
        ("pictures", [str(each.num_images) for each in splits]),
        ("broken", [str(each.num_broken) for each in splits]),
        ("negatives", [cell(each.num_negatives) for each in splits]),
        ("masks", [str(each.num_masks) for each in splits]),
        ("height", [size_range(each.heights) for each in splits]),
        ("width", [size_range(each.widths) for each in splits]),
    ]


def class_rows(report: CheckReport) -> list[tuple[str, list[int | None]]]:
    """Classes in their order with their number of pictures per split; None where the tags are not known."""
    return [(name, [(each.class_counts or {}).get(name) for each in report.splits.values()]) for name in report.classes]


def cell(count: int | None) -> str:
    """A count, or a dash for what is not known."""
    return "-" if count is None else str(count)


def size_range(sizes: tuple[int, int, int] | None) -> str:
    """Smallest, median and largest, or a dash."""
    return "-" if sizes is None else str(sizes[1]) if sizes[0] == sizes[2] else f"{sizes[0]}-{sizes[1]}-{sizes[2]}"


def _table(report: CheckReport) -> list[str]:
    classes = class_rows(report)
    hidden = len(classes) - MOST_CLASSES
    if hidden > 0:
        classes = sorted(classes, key=lambda row: row[1][0] or 0)[:MOST_CLASSES]
    rows = [*summary_rows(report), *((name, [cell(n) for n in counts]) for name, counts in classes)]
    lines = text_table([["", *report.splits], *([name, *cells] for name, cells in rows)])
    if hidden > 0:
        lines.append(f"and {hidden} classes with more pictures: --json or --out FILE.html shows all")
    return lines


def _finding_lines(finding: Finding) -> list[str]:
    label = finding.severity.ljust(9)
    lines = textwrap.wrap(finding.message, _WIDTH, initial_indent=label, subsequent_indent=" " * 9)
    lines += textwrap.wrap(f"cure: {finding.cure}", _WIDTH, initial_indent=" " * 9, subsequent_indent=" " * 15)
    if finding.names:
        lines += _name_lines(finding.names, finding.count)
    return lines


def _name_lines(names: Sequence[str], count: int) -> list[str]:
    """Names one after the other where they are short, else one per line; the rest as a number."""
    more = [f"and {count - len(names)} more"] if count > len(names) else []
    indent = " " * 9
    if max(map(len, names)) <= 24:
        return textwrap.wrap(", ".join([*names, *more]), _WIDTH, initial_indent=indent, subsequent_indent=indent)
    return [indent + name for name in (*names, *more)]
