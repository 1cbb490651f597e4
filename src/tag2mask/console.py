"""What the command line shows: progress on stderr and tables of scores. Imports no torch."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress

    from tag2mask.evaluation import Report

SECONDS_PER_LINE = 5.0


class Bar:
    """Progress over pictures: a rich bar on a terminal, a line every few seconds elsewhere; always on stderr."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.began = self.last = time.monotonic()
        self.rich: Progress | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn(self.name), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.rich = Progress(*columns, console=Console(stderr=True))
            self.task = self.rich.add_task(self.name, total=None)
            self.rich.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.rich is not None:
            self.rich.stop()

    def update(self, done: int, total: int) -> None:
        """Show that `done` of `total` pictures are done."""
        if self.rich is not None:
            self.rich.update(self.task, completed=done, total=total)
            return
        now = time.monotonic()
        if done == total or now - self.last >= SECONDS_PER_LINE:
            self.last = now
            left = (now - self.began) / done * (total - done)
            print(f"{self.name} {done}/{total}, {left:.0f} s left", file=sys.stderr, flush=True)


def score_lines(scores: Mapping[str, Report]) -> list[str]:
    """A table of IoU per label, one column per report, with the mean below."""
    labels = list(dict.fromkeys(name for report in scores.values() for name in report.iou))
    width = max(map(len, [*labels, "mIoU"]))
    rows = [(label, [report.iou.get(label) for report in scores.values()]) for label in labels]
    rows.append(("mIoU", [report.miou for report in scores.values()]))
    lines = ["  ".join([" " * width, *(name.rjust(max(8, len(name))) for name in scores)])]
    for label, values in rows:
        cells = (
            ("-" if value is None else f"{value:.4f}").rjust(max(8, len(name)))
            for name, value in zip(scores, values, strict=True)
        )
        lines.append("  ".join([label.ljust(width), *cells]))
    return lines
