"""Running the rows: each in its own folder, done rows are kept, a row that was interrupted goes on."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

from experiments.ablation.rows import ROWS, Plan, Row, one_step_config, second_step_config, tag_phase_config
from experiments.resuming import alone, kept, once, timed, trained
from tag2mask.data import open_data
from tag2mask.inference.segmenter import Segmenter
from tag2mask.jobs.pseudo_labels import pseudo_label
from tag2mask.scoring.evaluation import evaluate
from tag2mask.scoring.label_quality import score_cams
from tag2mask.training.first_step import train
from tag2mask.training.second_step import retrain

log = logging.getLogger("tag2mask")


@dataclass(frozen=True, kw_only=True)
class RowResult:
    """Scores of one row and one seed."""

    name: str
    group: str
    title: str
    kind: str
    seed: int
    miou: float
    """On the validation split at original size: one scale, no CRF, no tags."""
    iou: dict[str, float | None]
    minutes: float
    """Wall time of the row's own training, and of its pseudo labels; without the scoring."""
    shared_minutes: float
    """Wall time of the tag phase that it shares with other rows."""
    steps: int
    pseudo_miou: float | None = None
    """Of the masks that the second step learned from."""


@dataclass(frozen=True, kw_only=True)
class TagPhaseResult:
    """A tag phase: what its CAMs are worth."""

    name: str
    seed: int
    cam_miou: float
    """CAM on the validation split, true tags given, best threshold."""
    minutes: float


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """Where an ablation runs."""

    data: str
    out: Path
    plan: Plan = field(default_factory=Plan)
    second_split: str | None = None
    """Split that the second step learns from; None is the split to train on."""

    def tag_phase(self, row: Row, seed: int) -> Path:
        """The folder of the row's tag phase, trained if it is not there.

        Raises:
            Busy: another process has locked it.
        """
        config = tag_phase_config(one_step_config(row, self.plan, data=self.data, seed=seed))
        name = "official" if row.profile in ("official", "paper") else "clean"
        folder = self.out / f"tags-{name}-seed{seed}"

        def result() -> TagPhaseResult:
            minutes = timed(folder, lambda: trained(config, folder, train))
            cam = score_cams(Segmenter.load(folder), open_data(self.data, split="val", need_tags=False))
            return TagPhaseResult(name=name, seed=seed, cam_miou=cam.miou, minutes=minutes)

        once(folder, TagPhaseResult, result)
        return folder

    def stored(self, name: str, seed: int) -> RowResult | None:
        """The result of a row that is done."""
        return kept(self._folder(name, seed), RowResult)

    def row(self, row: Row, seed: int) -> RowResult:
        """The result of a row, from its folder or by running it.

        Raises:
            Busy: another process has locked it, or something that it needs.
        """
        folder = self._folder(row.name, seed)

        def result() -> RowResult:
            log.info("== %s, seed %d", row.title, seed)
            work = self._one_step if row.kind == "one step" else self._second_step
            return work(row, seed, folder)

        return once(folder, RowResult, result)

    def done(self) -> list[RowResult]:
        """The results in the folder, in the order of the rows; another process may be adding to them."""
        found = [self.stored(name, seed) for seed in (0, 1) for name in ROWS]
        return [result for result in found if result is not None]

    def _folder(self, name: str, seed: int) -> Path:
        return self.out / f"{name}-seed{seed}"

    def _one_step(self, row: Row, seed: int, folder: Path) -> RowResult:
        phase = self.tag_phase(row, seed)
        config = one_step_config(row, self.plan, data=self.data, seed=seed).replace(tag_phase=str(phase))
        minutes = timed(folder, lambda: trained(config, folder, train))
        shared = kept(phase, TagPhaseResult)
        return self._scored(row, seed, folder, minutes, shared.minutes if shared else 0.0, config.steps)

    def _second_step(self, row: Row, seed: int, folder: Path) -> RowResult:
        first = self._folder(row.against, seed)
        masks = first.with_name(f"masks-{first.name}")
        pseudo_miou, minutes = None, 0.0
        if row.kind == "two steps":
            self.row(ROWS[row.against], seed)
            with alone(masks):
                minutes += timed(masks, lambda: self._write_masks(first, masks))
            split = self.second_split or open_data(self.data).split
            pseudo_miou = evaluate(masks=masks, data=self.data, split=split).miou
        config = second_step_config(
            row, self.plan, data=self.data, split=self.second_split, masks=str(masks), seed=seed
        )
        if row.warm:
            config = config.replace(weights=str(first))
        minutes += timed(folder / "run", lambda: trained(config, folder / "run", retrain))
        return self._scored(row, seed, folder / "run", minutes, 0.0, config.steps, pseudo_miou)

    def _write_masks(self, run: Path, masks: Path) -> None:
        if not (masks / "pseudo_labels.json").is_file():
            pseudo_label(run, data=self.data, out=masks, split=self.second_split, crf=True, scales=(1.5,))

    def _scored(
        self,
        row: Row,
        seed: int,
        run: Path,
        minutes: float,
        shared: float,
        steps: int,
        pseudo_miou: float | None = None,
    ) -> RowResult:
        report = evaluate(run, data=self.data)
        log.info("%s, seed %d: mIoU %.3f, %.1f min", row.name, seed, report.miou, minutes)
        return RowResult(
            name=row.name,
            group=row.group,
            title=row.title,
            kind=row.kind,
            seed=seed,
            miou=report.miou,
            iou=report.iou,
            minutes=minutes,
            shared_minutes=shared,
            steps=steps,
            pseudo_miou=pseudo_miou,
        )
