"""A run in words and in TensorBoard."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def describe(row: Mapping[str, Any]) -> str:
    """One line of a row of metrics."""
    parts = [f"{row['phase']}", f"loss {row['total_loss']:.3f}"]
    losses = {"tag_loss": "tag", "segmentation_loss": "seg", "energy_loss": "energy", "class_distance_loss": "distance"}
    parts += [f"{name} {row[key]:.3f}" for key, name in losses.items() if key in row]
    if "reliable_share" in row:
        parts += [f"reliable {row['reliable_share']:.0%}"]
    parts += [f"{row['images_per_second']:.1f} images/s"]
    parts += [f"{name} {row[key]:.3f}" for key, name in (("miou", "mIoU"), ("tag_map", "tag mAP")) if key in row]
    return "  ".join(parts)


class Tracker:
    """Scalars to TensorBoard (`RUN/tensorboard`) where the package is installed; else does nothing."""

    def __init__(self, run: Path, step: int = 0) -> None:
        self.writer = None
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1 if step else None)

    def write(self, row: Mapping[str, Any]) -> None:
        """Write the numbers of one row of metrics."""
        if self.writer is None:
            return
        for key, value in row.items():
            if key != "step" and isinstance(value, (int, float)):
                self.writer.add_scalar(key, value, row["step"])
        self.writer.flush()
