"""What a run writes down while it trains: metrics.csv, log lines, and TensorBoard, W&B or trackio."""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tag2mask.config import RunConfig
from tag2mask.runs.metrics import SCORES, MetricsFile, loss_columns
from tag2mask.training.watching import FOLDER as VALIDATION

log = logging.getLogger("tag2mask")
_SHORT = {"segmentation": "seg", "class_distance": "distance"}


def describe(row: Mapping[str, Any]) -> str:
    """One line of a row of metrics."""
    total, *losses = loss_columns(row)
    names = {key: key.removesuffix("_loss") for key in losses}
    parts = [f"{row['phase']}", f"loss {row[total]:.3f}"]
    parts += [f"{_SHORT.get(name, name)} {row[key]:.3f}" for key, name in names.items()]
    if "reliable_share" in row:
        parts += [f"reliable {row['reliable_share']:.0%}"]
    if "background_share" in row:
        parts += [f"background {row['background_share']:.0%}"]
    parts += [f"{row['images_per_second']:.1f} images/s"]
    parts += [f"{name} {row[key]:.3f}" for key, name in SCORES.items() if key in row]
    return "  ".join(parts)


def check_trackers(config: RunConfig) -> None:
    """Refuse trackers whose package is not installed; TensorBoard, the default, is left out silently then.

    Raises:
        ValueError: with the command that installs it.
    """
    for name in config.trackers:
        if name != "tensorboard" and importlib.util.find_spec(name) is None:
            raise ValueError(f"--trackers {name} needs the package {name}: pip install {name}")


class Records:
    """What a run writes down while it trains: metrics.csv, log.txt, and numbers and pictures for the trackers.

    TensorBoard writes to RUN/tensorboard. W&B and trackio are asked through accelerate and know the run by the name of
    its folder, in a project called tag2mask; where they send it is their own setting (WANDB_MODE=offline). Of several
    processes that train together only one writes.
    """

    def __init__(self, config: RunConfig, run: Path, step: int, *, writes: bool) -> None:
        """Open them; `step` is that of a run that goes on. Nothing is written where `writes` is False."""
        self.run, self.steps, self.writes = run, config.steps, writes
        self.board: Any = None
        self.others: list[Any] = []
        if not writes:
            return
        self.metrics = MetricsFile(run, step)
        if "tensorboard" in config.trackers and importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1 if step else None)
        if "wandb" in config.trackers:
            from accelerate.tracking import WandBTracker

            self.others.append(WandBTracker("tag2mask", name=run.name, dir=str(run)))
        if "trackio" in config.trackers:
            from accelerate.tracking import TrackioTracker

            self.others.append(TrackioTracker("tag2mask", name=run.name))
        for other in self.others:
            other.start()
            other.store_init_configuration(json.loads(config.to_json()))

    def write(self, row: Mapping[str, Any]) -> None:
        """Write one row of metrics."""
        if not self.writes:
            return
        self.metrics.write(row)
        step = row["step"]
        values = {key: value for key, value in row.items() if key != "step" and isinstance(value, (int, float))}
        if self.board is not None:
            for key, value in values.items():
                self.board.add_scalar(key, value, step)
            self.board.flush()
        for other in self.others:
            other.log(values, step=step)
        log.debug("step %d/%d  %s", step, self.steps, describe(row))

    def write_picture(self, name: str, path: Path, step: int) -> None:
        """Show a picture file to the trackers, under a name."""
        if self.board is None and not self.others:
            return
        with Image.open(path) as image:
            picture = image.convert("RGB")
        if self.board is not None:
            self.board.add_image(name, np.asarray(picture), step, dataformats="HWC")
            self.board.flush()
        for other in self.others:
            if other.name == "wandb":
                other.log_images({name: [picture]}, step=step)
            else:
                from trackio import Image as TrackioImage

                other.log({name: TrackioImage(picture)}, step=step)

    def close(self, step: int) -> None:
        """Show the pictures of the last validation, and finish."""
        for path in sorted((self.run / VALIDATION).glob("*.jpg")):
            self.write_picture(path.stem, path, step)
        if self.board is not None:
            self.board.close()
        for other in self.others:
            other.finish()
