"""What a run looks at while it trains: scores on the validation split, and sample sheets of a batch."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tag2mask.batch import IGNORE, Batch
from tag2mask.config import RunConfig, TrainConfig
from tag2mask.data import PictureSet, SplitError, open_data
from tag2mask.evaluation import score_pictures, score_tags
from tag2mask.method import class_activation_maps
from tag2mask.models.base import SegmentationNetwork
from tag2mask.models.network import Network
from tag2mask.reliable import crf_votes, labels_from_votes
from tag2mask.render import SampleRow, sample_sheet, save_picture
from tag2mask.segmenter import Segmenter

log = logging.getLogger("tag2mask")


def validate(
    config: RunConfig, network: SegmentationNetwork, pictures: PictureSet | None, *, masks: bool
) -> dict[str, float]:
    """Scores on the validation split: `miou` where it has masks and `masks` asks for it, else `tag_map`.

    Empty without such a split. `config.validate_pictures` limits the work; pictures that cannot be read are named and
    left out.
    """
    if pictures is None:
        return {}
    segmenter, limit = Segmenter(network, config), config.validate_pictures
    broken: dict[str, str] = {}
    if pictures.has_masks and masks:
        name, score = "miou", score_pictures(segmenter, pictures, limit=limit, broken=broken).miou
    else:
        name, score = "tag_map", score_tags(segmenter, pictures, limit=limit, broken=broken).map
    for message in broken.values():
        log.warning("left out of the validation: %s", message)
    return {} if math.isnan(score) else {name: score}


def run_pictures(config: RunConfig, split: str | None, *, need_tags: bool = True) -> PictureSet:
    """A split of a run's data, opened as its config says; see `open_data`."""
    return open_data(
        config.data,
        split=split,
        data_format=config.data_format,
        tags_from=config.tags_from,
        others=config.others,
        need_tags=need_tags,
    )


def validation_pictures(config: RunConfig) -> PictureSet | None:
    """The validation split of a run, or None where there is none.

    Raises:
        DataError: anything else that is wrong with it.
    """
    try:
        return run_pictures(config, config.val_split, need_tags=False)
    except SplitError:
        return None


@torch.no_grad()
def write_sample_sheet(
    run: Path, config: TrainConfig, network: Network, batch: Batch, step: int, *, joint: bool, rows: int = 4
) -> Path:
    """Write `samples/step-N.jpg`: picture, CAM, the two CRF votes, reliable labels, prediction of a training batch.

    The random state is left as it was, so that looking at a run does not change it.
    """
    batch = batch.first(rows)
    with torch.random.fork_rng():
        images = network.normalize(batch.rgb, batch.valid)
        cams = class_activation_maps(network, images, batch, config.method)
        votes = crf_votes(batch.rgb, cams, batch.tags, config.method.reliable, batch.valid)
        labels = labels_from_votes(cams, votes, batch.tags, config.method.reliable, batch.valid)
    if config.masks_for_some:
        taught = (batch.mask != IGNORE).flatten(1).any(dim=1)
        labels[taught] = batch.mask[taught]
    predictions = predicted_labels(network, batch) if joint else None
    sheet = []
    for i, name in enumerate(batch.names):
        sheet.append(
            SampleRow(
                name=name,
                rgb=batch.rgb[i].permute(1, 2, 0).cpu().numpy(),
                tags=tuple(c for c, present in zip(network.classes, batch.tags[i].tolist(), strict=True) if present),
                cams=cams[i].cpu().numpy(),
                foreground_vote=votes.low[i].argmax(0).cpu().numpy(),
                background_vote=votes.high[i].argmax(0).cpu().numpy(),
                reliable=labels[i].cpu().numpy(),
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
