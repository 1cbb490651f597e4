"""What a check finds, and the table that shows it on a terminal. Imports no torch."""

from __future__ import annotations

import textwrap
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tag2mask.base.tables import text_table
from tag2mask.config import TrainConfig
from tag2mask.data.findings import SEVERITIES, Finding, Severity, some
from tag2mask.jobs.checking.wrong_tags import LIST, SuspiciousTag, SuspiciousTags

MOST_CLASSES = 40
"""So many classes are shown on the terminal, the rarest; the others are in --json and on the page."""
MOST_TAGS = 20
"""So many suspicious tags are shown on the terminal, the most doubtful."""
_WIDTH = 100
_ROWS = {
    "pictures": "num_images",
    "broken": "num_broken",
    "negatives": "num_negatives",
    "masks": "num_masks",
    "height": "heights",
    "width": "widths",
}
"""Rows above the classes, and the fields of a `SplitSummary` that they show."""


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
    by_hash: bool
    """Whether `train` and `val` are made by the hash of the names."""
    classes: tuple[str, ...]
    splits: dict[str, SplitSummary]
    """By name, the one to train on first."""
    findings: tuple[Finding, ...]
    """Errors first, then warnings, then notes."""
    side_histogram: tuple[tuple[int, int], ...]
    """Readable pictures by longer side: (lower bound in pixels, number of pictures); bounds grow by sqrt(2)."""
    suspicious: SuspiciousTags | None = None
    """Tags that a run contradicts, where one was given."""
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

    @property
    def size_advice(self) -> str:
        """Which preset fits the size of what the pictures show; empty where none can be read."""
        sizes = next(iter(self.splits.values()), None)
        if sizes is None or sizes.heights is None or sizes.widths is None:
            return ""
        side = max(sizes.heights[1], sizes.widths[1])
        small, fine = (TrainConfig.preset(name).cell_side(side) for name in ("small", "fine"))
        return (
            f"In a picture with {side} pixels on its longer side, the median, `train small` draws masks from cells of "
            f"{small:.0f} x {small:.0f} pixels, `train fine` of {fine:.0f} x {fine:.0f}. Take fine where what the tags "
            f"name is often narrower than {2 * small:.0f} pixels."
        )

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
            "by_hash": self.by_hash,
            "fit": self.fit,
            "reason": self.reason,
            "classes": list(self.classes),
            "splits": splits,
            "size_advice": self.size_advice,
            "side_histogram": [list(each) for each in self.side_histogram],
            "findings": [finding.as_dict() for finding in self.findings],
            "suspicious": None if self.suspicious is None else self.suspicious.as_dict(),
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
    if report.suspicious is not None:
        lines += ["", *_suspicious_lines(report.suspicious, report.out)]
    if advice := report.size_advice:
        lines += ["", *textwrap.wrap(advice, _WIDTH)]
    lines += ["", report.verdict]
    if report.reason is not None:
        lines += textwrap.wrap(f"because: {report.reason}", _WIDTH)
    return lines


def summary_rows(report: CheckReport) -> list[tuple[str, list[str]]]:
    """Rows above the classes: a heading and a cell per split."""
    return [(row, [cell(getattr(each, name)) for each in report.splits.values()]) for row, name in _ROWS.items()]


def class_rows(report: CheckReport) -> list[tuple[str, list[int | None]]]:
    """Classes in their order with their number of pictures per split; None where the tags are not known."""
    return [(name, [(each.class_counts or {}).get(name) for each in report.splits.values()]) for name in report.classes]


def cell(value: int | tuple[int, int, int] | None) -> str:
    """A count, or smallest, median and largest size; a dash for what is not known."""
    if isinstance(value, tuple):
        return str(value[1]) if value[0] == value[2] else f"{value[0]}-{value[1]}-{value[2]}"
    return "-" if value is None else str(value)


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


def suspicious_summary(suspicious: SuspiciousTags) -> str:
    """How many tags are probably wrong, by which model, and what could not be judged."""
    found = some(len(suspicious.tags), "tag") if suspicious.tags else "no tag"
    text = f"Probably wrong: {found} of {some(suspicious.num_images, 'picture')}, by {suspicious.run}."
    reasons: dict[str, list[str]] = {}
    for name, reason in suspicious.not_judged.items():
        reasons.setdefault(reason, []).append(name)
    return " ".join([text, *(f"Not judged: {', '.join(names)} ({reason})." for reason, names in reasons.items())])


def tag_words(each: SuspiciousTag) -> str:
    """What the picture is told to show, and what the model says."""
    tag = "given" if each.given else "not given"
    return f"{each.class_name} is {tag}, its score is {each.score:.2f}, usual is {each.usual:.2f}"


def _suspicious_lines(suspicious: SuspiciousTags, page: Path | None) -> list[str]:
    lines = textwrap.wrap(suspicious_summary(suspicious), _WIDTH)
    shown = suspicious.tags[:MOST_TAGS]
    if not shown:
        return lines
    rows = [(each.file_name, each.class_name, "yes" if each.given else "no", each.score, each.usual) for each in shown]
    cells = [[*words, f"{score:.2f}", f"{usual:.2f}"] for *words, score, usual in rows]
    lines += text_table([["picture", "class", "given", "score", "usual"], *cells], right=False)
    if more := len(suspicious.tags) - len(shown):
        where = f"--out FILE.html writes all into {LIST}, --json shows them" if page is None else page.with_name(LIST)
        lines.append(f"and {more} more: {where}")
    return [*lines, "Look at each of them, as a model errs too; correct the tags, then train again."]


def _finding_lines(finding: Finding) -> list[str]:
    """Message, cure and names: one after the other where they are short, else one per line; the rest as a number."""
    indent = " " * 9
    lines = textwrap.wrap(finding.message, _WIDTH, initial_indent=finding.severity.ljust(9), subsequent_indent=indent)
    lines += textwrap.wrap(f"cure: {finding.cure}", _WIDTH, initial_indent=indent, subsequent_indent=" " * 15)
    more = finding.count - len(finding.names)
    names = [*finding.names, *([f"and {more} more"] if finding.names and more > 0 else [])]
    if all(len(name) <= 24 for name in finding.names):
        return lines + textwrap.wrap(", ".join(names), _WIDTH, initial_indent=indent, subsequent_indent=indent)
    return lines + [indent + name for name in names]
