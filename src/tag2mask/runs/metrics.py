"""`metrics.csv` of a run: one row per logged step. Imports no torch."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tag2mask.base.files import whole_file

SCORES = {"miou": "mIoU", "tag_map": "tag mAP"}
"""Columns of the scores of a validation, and their names for people."""
COLUMNS = (
    "step",
    "phase",
    "lr",
    "tag_loss",
    "segmentation_loss",
    "energy_loss",
    "class_distance_loss",
    "total_loss",
    "reliable_share",
    "background_share",
    "images_per_second",
    "mining_share",
    "skipped_steps",
    *SCORES,
    "tag_map_chance",
    "empty_cams",
)
"""What every run's file has, empty where it does not apply. Other losses get their columns when they first come."""


def loss_columns(columns: Iterable[str]) -> list[str]:
    """The losses among the columns, their sum first."""
    return sorted((name for name in columns if name.endswith("_loss")), key=lambda name: name != "total_loss")


def read_metrics(run: Path) -> list[dict[str | Any, str | Any]]:
    """The rows of a run's `metrics.csv`; none where there is no such file."""
    path = run / "metrics.csv"
    if not path.is_file():
        return []
    # a kill may have cut the last line, which then lies behind the saved step and is dropped with the others
    whole, _, _ = path.read_text(encoding="utf-8", errors="replace").rpartition("\n")
    return list(csv.DictReader(whole.splitlines()))


class MetricsFile:
    """`metrics.csv`; a run that goes on from a step drops the rows behind it, and keeps columns of older versions."""

    def __init__(self, run: Path, resume_step: int = 0) -> None:
        self.path, self.columns = run / "metrics.csv", list(COLUMNS)
        rows = [row for row in read_metrics(run) if self._step_of(row) <= resume_step]
        self._rewrite(rows)

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one row; columns that are absent stay empty, and new ones are added to the rows before."""
        if not row.keys() <= set(self.columns):
            self._rewrite(read_metrics(self.path.parent), row)
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns).writerow(
                {key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()}
            )

    def _rewrite(self, rows: list[dict[str | Any, str | Any]], new: Iterable[str] = ()) -> None:
        """Write all rows; columns of `rows` and `new` that are new stand before the sum of the losses."""
        seen, at = dict.fromkeys((*(rows[0] if rows else ()), *new)), self.columns.index("total_loss")
        self.columns[at:at] = [name for name in seen if name not in self.columns]
        with whole_file(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)

    def _step_of(self, row: Mapping[str | Any, str | Any]) -> int:
        """The step of a row.

        Raises:
            ValueError: the row is not as `write` writes it.
        """
        step = row.get("step") or ""
        if None in row or None in row.values() or not step.isdecimal() or len(step) > 12:
            raise ValueError(
                f"{self.path} is damaged: a row has the step {step[:40]!r}. Remove the file to go on without it"
            )
        return int(step)
