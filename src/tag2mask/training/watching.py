"""What a run looks at while it trains: scores on the validation split, and sample sheets of a batch."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from tag2mask.base.choosing import some_of_each
from tag2mask.base.files import write_text
from tag2mask.base.team import ALONE, Team
from tag2mask.batch import IGNORE, Batch
from tag2mask.config import RunConfig, TrainConfig
from tag2mask.config.formats import DataOptions
from tag2mask.data import PictureSet, SplitError, open_data, read_mask, read_picture
from tag2mask.data.masks.survey import with_measuring_masks
from tag2mask.inference.segmenter import Segmenter
from tag2mask.method import Moment, taught
from tag2mask.models.base import SegmentationNetwork
from tag2mask.models.network import Network
from tag2mask.outputs.render import SampleRow, sample_sheet, save_picture
from tag2mask.scoring.evaluation import score_pictures
from tag2mask.scoring.report import Progress, Report, model_codes, report_from_confusion

log = logging.getLogger("tag2mask")
FOLDER = "validation"
"""Folder in a run for what the last validation found: scores.json, best.jpg and worst.jpg."""
_SHOWN = 4


def validate(
    config: RunConfig,
    network: SegmentationNetwork,
    pictures: PictureSet | None,
    *,
    details: Path | None = None,
    team: Team = ALONE,
    progress: Progress | None = None,
) -> dict[str, float]:
    """The `miou` of the masks on the validation split; empty where there is no such split, or no mask in it.

    `config.validate_pictures` limits the work; pictures that cannot be read are named and left out. With `details`, a
    run folder, its `validation/` gets scores.json (the report, and each picture's mIoU) and the best and worst pictures
    of each class as best.jpg and worst.jpg. The processes of `team` share the pictures and get the same. `progress` is
    called with (done, all).
    """
    if pictures is None or not pictures.has_masks:
        return {}
    segmenter, broken = Segmenter(network, config), dict[str, str]()
    each: dict[str, _Scores] = {}
    report = score_pictures(
        segmenter,
        pictures,
        limit=config.validate_pictures,
        broken=broken,
        each=lambda p, own: each.update({p.name: _Scores.of(own, segmenter.classes)}),
        progress=progress,
        team=team,
    )
    if details is not None:
        every = {name: scores for part in team.gather(each) for name, scores in part.items()}
        if team.is_main:
            _write_details(details / FOLDER, segmenter, pictures, report, every)
    for message in broken.values():
        log.warning("left out of the validation: %s", message)
    return {} if math.isnan(report.miou) else {"miou": report.miou}


class _Scores(NamedTuple):
    """How well one picture is masked."""

    miou: float
    iou: dict[str, float]
    """Of each class that is in it."""

    @classmethod
    def of(cls, confusion: NDArray[np.int64], classes: Sequence[str]) -> _Scores:
        """From its own confusion matrix [K, K]."""
        report = report_from_confusion(confusion, classes, 1, {})
        there = [name for name, count in zip(classes, confusion.sum(1)[1:], strict=True) if count]
        return cls(report.miou, {name: report.iou[name] or 0.0 for name in there})


def _write_details(
    folder: Path, segmenter: Segmenter, pictures: PictureSet, report: Report, each: dict[str, _Scores]
) -> None:
    scored = {name: scores for name, scores in each.items() if not math.isnan(scores.miou)}
    mious = {name: scores.miou for name, scores in scored.items()}
    write_text(folder / "scores.json", json.dumps(report.as_dict() | {"pictures": mious}, indent=2) + "\n")
    shown, worst = min(_SHOWN, len(scored) // 2), extremes(scored, min(_SHOWN, len(scored) // 2))
    rest = {name: scores for name, scores in scored.items() if name not in worst}
    for file, captions in (("worst.jpg", worst), ("best.jpg", extremes(rest, shown, best=True))):
        if captions:
            save_picture(folder / file, _scored_sheet(segmenter, pictures, captions))


def extremes(scores: Mapping[str, _Scores], most: int, *, best: bool = False) -> dict[str, str]:
    """The worst, or the best, pictures of each class in turn, at most `most`: name and caption of each.

    A picture stands for the class in it of which its mask is worst, or best, and is as good as the mask of that class;
    few without any class are among them (`some_of_each`).
    """
    sign, stands = -1 if best else 1, dict[str, tuple[str, float]]()
    for name, (miou, iou) in scores.items():
        stands[name] = min(iou.items(), key=lambda item: (sign * item[1], item[0])) if iou else ("mIoU", miou)
    order = sorted(stands, key=lambda name: (sign * stands[name][1], name))
    kinds = [[stands[name][0]] if scores[name].iou else [] for name in order]
    chosen = [order[i] for i in some_of_each(kinds, most)] if order and most else []
    return {name: f"{name}: {stands[name][0]} {stands[name][1]:.2f}" for name in chosen}


def _scored_sheet(segmenter: Segmenter, pictures: PictureSet, captions: Mapping[str, str]) -> Image.Image:
    found, rows = {picture.name: picture for picture in pictures.pictures}, []
    codes = model_codes(segmenter.classes, pictures)
    for name, caption in captions.items():
        rgb = read_picture(found[name].path)
        mask = found[name].mask
        truth = None if mask is None else read_mask(mask, codes, (rgb.shape[0], rgb.shape[1]))
        prediction = segmenter.predict(rgb).mask
        tags = () if truth is None else classes_in(truth, segmenter.classes)
        rows.append(SampleRow(name=caption, rgb=rgb, tags=tags, prediction=prediction, truth=truth))
    return sample_sheet(rows, segmenter.classes)


def classes_in(mask: NDArray[Any], classes: Sequence[str]) -> tuple[str, ...]:
    """Names of the classes that a mask shows, in the order of the labels."""
    shown = set(np.unique(mask).tolist())
    return tuple(name for label, name in enumerate(classes, start=1) if label in shown)


def run_pictures(config: RunConfig, split: str | None, *, need_tags: bool = True) -> PictureSet:
    """A split of a run's data, opened as its config says; see `open_data`."""
    return open_data(config.data, split=split, options=DataOptions.of(config), need_tags=need_tags)


def validation_pictures(config: RunConfig, *, goes_on: bool = False) -> tuple[PictureSet | None, str]:
    """The validation split of a run, its masks looked at; or None, and why nothing is validated.

    Only the default may be absent, and what a run that `goes_on` may have begun without.

    Raises:
        SplitError: a split that was asked for does not exist or is empty.
        DataError: anything else that is wrong with it.
        ValueError: the best model is asked for, and there is no mask to choose it by.
    """
    pictures, why_none = None, "--val-split none"
    if config.held_out is not None:
        try:
            pictures = run_pictures(config, config.held_out, need_tags=False)
            pictures = with_measuring_masks(pictures, config.validate_pictures, strict=config.select == "miou")
        except SplitError as error:
            if config.held_out != type(config).val_split and not goes_on:
                raise SplitError(f"--val-split: {error} --val-split none validates nothing.") from error
            why_none = str(error)
    if config.select == "miou" and (pictures is None or not pictures.has_masks):
        raise ValueError(
            f"--select miou needs masks of split {config.val_split!r} of {config.data}; add masks or use --select last"
        )
    return pictures, why_none


@torch.no_grad()
def write_sample_sheet(run: Path, config: TrainConfig, at: Moment, batch: Batch, step: int, *, rows: int = 4) -> Path:
    """Write `samples/step-N.jpg`: a training batch with what it was taught at that moment, step by step.

    Picture, CAM, the teacher's map once it comes in, the two CRF votes, the labels, prediction. Of a step of the tag
    phase they are the labels that the joint phase would begin with. The random state is left as it was, so that
    looking at a run does not change it. Of the batch are shown some pictures of each class (`some_of_each`).
    """
    tags = [row.nonzero().flatten().tolist() for row in batch.tags]
    batch, joint = batch.rows(some_of_each(tags, rows)), at.phase == "joint"
    network, average = cast(Network, at.network), cast(Network | None, at.average)
    with torch.random.fork_rng():
        lesson = taught(
            network,
            network.normalize(batch.rgb, batch.valid),
            batch,
            config.method,
            average=average,
            progress=at.progress if joint else 0.0,
            with_masks=bool(config.masks_for_some),
        )
    predictions = predicted_labels(at.keeper, batch) if joint else None
    sheet = []
    for i, name in enumerate(batch.names):
        low, high = (None, None) if (votes := lesson.votes_of(i)) is None else (v.cpu().numpy() for v in votes)
        sheet.append(
            SampleRow(
                name=name,
                rgb=batch.rgb[i].permute(1, 2, 0).cpu().numpy(),
                tags=tuple(c for c, present in zip(network.classes, batch.tags[i].tolist(), strict=True) if present),
                cams=lesson.cams[i].cpu().numpy(),
                teacher=None if lesson.teacher is None else lesson.teacher[i].cpu().numpy(),
                foreground_vote=low,
                background_vote=high,
                reliable=lesson.labels[i].cpu().numpy(),
                prediction=None if predictions is None else predictions[i],
                truth=batch.mask[i].cpu().numpy() if bool((batch.mask[i] != IGNORE).any()) else None,
            )
        )
    return write_sample_rows(run, sheet, network.classes, step, config.steps)


@torch.no_grad()
def predicted_labels(network: SegmentationNetwork, batch: Batch) -> NDArray[np.int64]:
    """Labels int64 [B, H, W] of a batch in evaluation mode, IGNORE on padding; random state and mode stay."""
    was_training = network.training
    network.eval()
    outputs = network(network.normalize(batch.rgb, batch.valid))
    network.train(was_training)
    logits = torch.nn.functional.interpolate(outputs.seg_logits.float(), batch.rgb.shape[-2:], mode="bilinear")
    return np.asarray(logits.argmax(1).masked_fill(~batch.valid, IGNORE).cpu().numpy(), dtype=np.int64)


def write_sample_rows(run: Path, rows: Sequence[SampleRow], classes: Sequence[str], step: int, steps: int) -> Path:
    """Write `samples/step-N.jpg`."""
    sheet = sample_sheet(rows, classes, title=f"step {step} of {steps}")
    return save_picture(run / "samples" / f"step-{step:06d}.jpg", sheet)
