"""How a run shows itself: a rich bar on a terminal, a line every few seconds elsewhere, TensorBoard when installed."""

from __future__ import annotations

import importlib.util
import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

log = logging.getLogger("tag2mask")

SECONDS_PER_LINE = 5.0


class Progress:
    """A context that shows steps, losses, share of reliable pixels, images per second and the time left, on stderr."""

    def __init__(self, total: int, start: int = 0) -> None:
        self.total, self.start = total, start
        self.began = self.last_line = time.monotonic()
        console = Console(stderr=True)
        self.bar = None
        if console.is_terminal:
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
            self.bar = Bar(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)
            self.task = self.bar.add_task("", total=total, completed=start)

    def __enter__(self) -> Self:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def update(self, step: int, row: Mapping[str, Any]) -> None:
        """Show step `step` with its row of metrics."""
        text = describe(row)
        if self.bar is not None:
            self.bar.update(self.task, completed=step, description=text)
            return
        now = time.monotonic()
        if now - self.last_line < SECONDS_PER_LINE and step != self.total and "miou" not in row:
            return
        self.last_line = now
        left = (now - self.began) / max(1, step - self.start) * (self.total - step)
        print(f"step {step}/{self.total}  {text}  {_clock(left)} left", file=sys.stderr, flush=True)


def describe(row: Mapping[str, Any]) -> str:
    """One line of a row of metrics."""
    parts = [f"{row['phase']}", f"loss {row['total_loss']:.3f}", f"tag {row['tag_loss']:.3f}"]
    if "segmentation_loss" in row:
        parts += [f"seg {row['segmentation_loss']:.3f}", f"energy {row['energy_loss']:.4f}"]
        parts += [f"reliable {row['reliable_share']:.0%}"]
    parts += [f"{row['images_per_second']:.1f} images/s"]
    parts += [f"{name} {row[key]:.3f}" for key, name in (("miou", "mIoU"), ("tag_map", "tag mAP")) if key in row]
    return "  ".join(parts)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02d}"


class Tracker:
    """Scalars to TensorBoard (`RUN/tensorboard`) where the package is installed; else does nothing."""

    def __init__(self, run: Path, step: int = 0) -> None:
        self.writer = None
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1 if step else None)  # type: ignore[no-untyped-call]

    def write(self, row: Mapping[str, Any]) -> None:
        """Write the numbers of one row of metrics."""
        if self.writer is None:
            return
        for key, value in row.items():
            if key != "step" and isinstance(value, (int, float)):
                self.writer.add_scalar(key, value, row["step"])  # type: ignore[no-untyped-call]
        self.writer.flush()  # type: ignore[no-untyped-call]
