"""The command evaluate: scores of a run, or of masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from tag2mask.base.console import Bar
from tag2mask.cli.advice import after_scoring, after_scoring_masks
from tag2mask.cli.common import Command, Device, Json, Misuse, Result
from tag2mask.cli.inference import DataInferenceOptions
from tag2mask.config.formats import DataOptions


class Evaluate(Command):
    """Score a run, or a folder of masks (--masks), against true masks: mIoU, IoU per class, protocol."""

    run: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="RUN")] = None
    """Run folder or .safetensors file; left out with --masks."""
    data: Path
    """Data set with masks."""
    masks: Path | None = None
    """Folder of masks NAME.png, with their classes.txt."""
    split: str = "val"
    """Name of a split, or a file with one picture per line."""
    inference: DataInferenceOptions = DataInferenceOptions()
    boundary: bool = False
    """Also the boundary F-score per class."""
    cam: bool = False
    """Also the mIoU of the CAM against its background threshold."""
    cam_scales: tuple[str, ...] | None = None
    """A curve per word, commas between averaged scales: 1 1,0.5,1.5,2; implies --cam."""
    cam_thresholds: tuple[float, ...] | None = None
    """Background thresholds in [0, 1]; implies --cam."""
    cam_tags: tuple[Literal["true", "predicted"], ...] = ("true",)
    """Classes of the CAM: from the data's tags, or predicted."""
    reliable: bool = False
    """Also coverage, precision, recall of the reliable labels."""
    with_tags: bool = False
    """Tell the network which classes are in each picture, from the tags of the data set."""
    limit: int = 0
    """Score only the first so many pictures; 0 for all."""
    out: Path | None = None
    """Folder for evaluation.json and the curves of --cam; else RUN."""
    data_options: DataOptions = DataOptions()
    device: Device = "auto"
    json: Json = False

    def _run(self) -> Result:
        if (self.run is None) == (self.masks is None):
            raise Misuse("evaluate needs either RUN or --masks DIR.")
        given = self.arguments() | {"cam_scales": _scale_sets(self.cam_scales)}
        given["cam"] = self.cam or self.cam_scales is not None or self.cam_thresholds is not None
        if self.cam_thresholds is None:
            del given["cam_thresholds"]
        from tag2mask.scoring.evaluation import evaluate, evaluation_folder
        from tag2mask.scoring.report import report_lines

        with Bar("evaluate") as bar:
            report = evaluate(**given, progress=bar.update)
        place = evaluation_folder(self.run, self.out)
        nowhere = "no file was written, as there is no run folder; --out DIR writes evaluation.json"
        written = nowhere if place is None else f"scores: {place / 'evaluation.json'}"
        if self.masks is not None:
            line = after_scoring_masks(self.masks, self.data, self.data_options, self.split)
        else:
            line = after_scoring(str(self.run), self.data, self.data_options)
        return report, [*report_lines(report), written, line], 0


def _scale_sets(words: Sequence[str] | None) -> list[list[float]] | None:
    """The scales of each curve of --cam-scales."""
    if words is None:
        return None
    try:
        return [[float(scale) for scale in word.split(",")] for word in words]
    except ValueError as error:
        raise Misuse(f"--cam-scales takes words like 1 or 1,0.5,1.5, got {' '.join(words)!r}.") from error
