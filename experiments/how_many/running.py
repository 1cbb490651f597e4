"""Running the rows: each in its own folder, done rows are kept, a row that was interrupted goes on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from experiments.how_many.pictures import changed, part, planted, write_folder
from experiments.how_many.rows import ROWS, Plan, Row, row_config
from experiments.resuming import kept, minutes_of, once, timed, trained
from tag2mask.base.files import write_lines
from tag2mask.data import PictureSet, open_data
from tag2mask.inference.segmenter import Segmenter
from tag2mask.jobs.checking.wrong_tags import scored_tags, suspicious_tags
from tag2mask.scoring.evaluation import evaluate
from tag2mask.scoring.tags import average_precision
from tag2mask.training.first_step import TrainingStopped, train

log = logging.getLogger("tag2mask")
FIRST = 100
"""So many suspicious tags are compared with the planted ones."""


@dataclass(frozen=True, kw_only=True)
class RowResult:
    """Scores of one row and one seed."""

    name: str
    group: str
    title: str
    seed: int
    pictures: int
    """Pictures that it was trained on."""
    minutes: float
    """Wall time of the training, its validation included."""
    stopped: str = ""
    """Why the training stopped before its end, as nothing was learned; there are no scores then."""
    miou: float | None = None
    """On the validation split at original size: one scale, no CRF, no tags."""
    iou: dict[str, float | None] = field(default_factory=dict)
    tag_map: float | None = None
    """Mean average precision of the tag scores there."""
    planted: int | None = None
    """Pictures with a wrong tag; None where no tag was made wrong."""
    listed: int | None = None
    """Tags that the run calls probably wrong."""
    first: int | None = None
    """Those that are compared with the planted ones: the `FIRST`, or all where fewer are listed."""
    right: int | None = None
    """Of these the planted ones."""

    @property
    def precision(self) -> float | None:
        """Share of the first suspicious tags that were planted."""
        return self.right / self.first if self.first and self.right is not None else None


@dataclass(frozen=True, kw_only=True)
class Study:
    """Where the rows run."""

    data: str
    out: Path
    plan: Plan = field(default_factory=Plan)
    rows: Mapping[str, Row] = field(default_factory=lambda: ROWS)

    def stored(self, name: str, seed: int) -> RowResult | None:
        """The result of a row that is done."""
        return kept(self._folder(name, seed), RowResult)

    def done(self) -> list[RowResult]:
        """The results in the folder, in the order of the rows; another process may be adding to them."""
        found = [self.stored(name, seed) for seed in range(self.plan.seeds) for name in self.rows]
        return [result for result in found if result is not None]

    def row(self, row: Row, seed: int) -> RowResult:
        """The result of a row, from its folder or by running it.

        Raises:
            Busy: another process has locked it.
        """
        folder = self._folder(row.name, seed)

        def result() -> RowResult:
            log.info("== %s, seed %d", row.title, seed)
            return self._run(row, seed, folder)

        return once(folder, RowResult, result)

    def _folder(self, name: str, seed: int) -> Path:
        return self.out / f"{name}-seed{seed}"

    def _run(self, row: Row, seed: int, folder: Path) -> RowResult:
        pictures, val = open_data(self.data), open_data(self.data, split="val")
        chosen = list(pictures.pictures) if row.pictures is None else part(pictures, row.pictures, seed)
        wrong = planted(chosen, pictures.num_classes, row.wrong, seed)
        data, split = self.data, None
        if wrong:
            data = str(write_folder(folder.with_name(f"data-{folder.name}"), changed(chosen, wrong), val))
        elif row.pictures is not None:
            split = str(write_lines(folder.with_name(f"{folder.name}.txt"), [each.name for each in chosen]))
        config = row_config(row, self.plan, data=data, split=split, seed=seed)
        told: dict[str, Any] = {
            "name": row.name,
            "group": row.group,
            "title": row.title,
            "seed": seed,
            "pictures": len(chosen),
        }
        try:
            told["minutes"] = timed(folder, lambda: trained(config, folder, train))
        except TrainingStopped as stop:
            log.warning("%s, seed %d: %s", row.name, seed, stop)
            return RowResult(**told, minutes=minutes_of(folder), stopped=str(stop))
        segmenter = Segmenter.load(folder)
        report = evaluate(folder, data=self.data)
        told |= {"miou": report.miou, "iou": report.iou, "tag_map": tag_map(segmenter, val)}
        if wrong:
            told |= _compared(segmenter, open_data(data), wrong)
        log.info("%s, seed %d: mIoU %.3f, tag mAP %.3f", row.name, seed, report.miou, told["tag_map"])
        return RowResult(**told)


def tag_map(segmenter: Segmenter, pictures: PictureSet) -> float:
    """Mean average precision of the tag scores over the classes that occur, in 0..1."""
    _, scores, tags = scored_tags(segmenter, {pictures.split: pictures}, pictures.classes)
    columns = zip(torch.from_numpy(scores).T, torch.from_numpy(tags).T, strict=True)
    return mean(average_precision(score, tag) for score, tag in columns if tag.any())


def _compared(segmenter: Segmenter, pictures: PictureSet, wrong: Mapping[str, int]) -> dict[str, int]:
    """How many of the first suspicious tags are planted ones."""
    suspicious = suspicious_tags(segmenter, {pictures.split: pictures}).tags
    planted_tags = {(name, pictures.classes[index]) for name, index in wrong.items()}
    right = sum((each.file_name, each.class_name) in planted_tags for each in suspicious[:FIRST])
    return {"planted": len(wrong), "listed": len(suspicious), "first": min(FIRST, len(suspicious)), "right": right}
