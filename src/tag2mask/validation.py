"""What a run looks at while it trains: scores on the validation split, and sample sheets of a batch."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import torch

from tag2mask.batch import IGNORE, Batch
from tag2mask.config import TrainConfig
from tag2mask.data import PictureSet, SplitError, open_data
from tag2mask.evaluation import score_pictures, score_tags
from tag2mask.method import class_activation_maps
from tag2mask.models.network import Network
from tag2mask.reliable import crf_votes, labels_from_votes
from tag2mask.render import SampleRow, sample_sheet, save_picture
from tag2mask.segmenter import Segmenter

log = logging.getLogger("tag2mask")


def validate(config: TrainConfig, network: Network, *, joint: bool) -> dict[str, float]:
    """Scores on the validation split: `miou` where it has masks and the segmentation trains, else `tag_map`.

    Empty without such a split. `config.validate_pictures` limits the work; pictures that cannot be read are named and
    left out.
    """
    pictures = validation_pictures(config)
    if pictures is None:
        return {}
    segmenter, limit = Segmenter(network, config), config.validate_pictures
    broken: dict[str, str] = {}
    if pictures.has_masks and joint:
        name, score = "miou", score_pictures(segmenter, pictures, limit=limit, broken=broken).miou
    else:
        name, score = "tag_map", score_tags(segmenter, pictures, limit=limit, broken=broken).map
    for message in broken.values():
        log.warning("left out of the validation: %s", message)
    return {} if math.isnan(score) else {name: score}


def validation_pictures(config: TrainConfig) -> PictureSet | None:
    """The validation split of a run, or None where there is none.

    Raises:
        DataError: anything else that is wrong with it.
    """
    try:
        return open_data(
            config.data,
            split=config.val_split,
            data_format=config.data_format,
            tags_from=config.tags_from,
            others=config.others,
            need_tags=False,
        )
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
    was_training = network.training
    with torch.random.fork_rng():
        images = network.normalize(batch.rgb, batch.valid)
        cams = class_activation_maps(network, images, batch, config.method)
        votes = crf_votes(batch.rgb, cams, batch.tags, config.method.reliable, batch.valid)
        labels = labels_from_votes(cams, votes, batch.tags, config.method.reliable, batch.valid)
        network.eval()
        outputs = network(images)
        network.train(was_training)
    predictions = None
    if joint and outputs.seg_logits is not None:
        logits = torch.nn.functional.interpolate(outputs.seg_logits.float(), labels.shape[-2:], mode="bilinear")
        predictions = logits.argmax(1).masked_fill(~batch.valid, IGNORE).cpu().numpy()
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
    title = f"step {step} of {config.steps}"
    return save_picture(run / "samples" / f"step-{step:06d}.jpg", sample_sheet(sheet, network.classes, title=title))
