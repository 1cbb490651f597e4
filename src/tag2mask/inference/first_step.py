"""What training teaches a network of the first step of one picture, and the picture's tags."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tag2mask.batch import Batch
from tag2mask.cam import multi_scale_cam
from tag2mask.config import IGNORE
from tag2mask.inference.score_maps import Floats, ScoreMaps
from tag2mask.inference.segmenter import Segmenter
from tag2mask.method import Taught, taught

TAG_SCORE = 0.5


def picture_taught(segmenter: Segmenter, rgb: NDArray[np.uint8], tags: Tensor) -> Taught:
    """What the end of the training teaches of one picture at the network's size, tags bool [C] given; see `taught`.

    The network that was kept is the running average, where the run has one, so it is the teacher. CAMs are drawn
    without dropout. A run without joint phase has taught nothing: these are the labels that one would begin with.

    Raises:
        ValueError: a network of the second step.
    """
    network, method = segmenter.network.first_step()
    config = segmenter.config
    small = segmenter.network.resized(rgb)[None]
    valid = torch.ones_like(small[:, 0], dtype=torch.bool)
    mask = torch.full_like(small[:, 0], IGNORE, dtype=torch.int64)
    batch = Batch(small, valid, tags[None].to(small.device), mask, ("",))
    with segmenter.network.inference():
        return taught(
            network,
            network.normalize(small),
            batch,
            dataclasses.replace(method, cam_mode="eval"),
            average=network if config.average_decay > 0 else None,
            progress=float(config.phases[-1].name == "joint"),
        )


def one_look(segmenter: Segmenter, rgb: NDArray[np.uint8], names: Sequence[str]) -> tuple[ScoreMaps, Floats, Floats]:
    """One pass of a picture [H, W, 3], the named classes being its tags.

    Returns:
        Score maps of those classes and background; tag scores [C]; the peak of each named class's map at scale 1.

    Raises:
        ValueError: a network of the second step.
    """
    network, _ = segmenter.network.first_step()
    small = segmenter.network.resized(rgb)[None]
    with segmenter.network.inference():
        images = network.normalize(small)
        outputs = network(images)
        cams = multi_scale_cam(
            network, images, tag_vector(segmenter, names)[None].to(small.device), (1.0,), features=outputs.features
        )
        peaks = cams[0].amax((1, 2))[[segmenter.classes.index(name) for name in names]]
        maps = ScoreMaps(
            logits=(outputs.seg_logits.float()[0].cpu().numpy(),),
            size=(rgb.shape[0], rgb.shape[1]),
            allowed=segmenter.allowed_labels(names),
            arithmetic=segmenter.network.arithmetic,
        )
        return maps, outputs.tag_logits.float().sigmoid()[0].cpu().numpy(), peaks.cpu().numpy()


def tag_vector(segmenter: Segmenter, names: Sequence[str]) -> Tensor:
    """The tags, bool [C], of the named classes; names that the network does not know are left out."""
    return torch.tensor([name in names for name in segmenter.classes])


def likely_classes(scores: dict[str, float]) -> list[str]:
    """The classes with a tag score above `TAG_SCORE`, else the one with the best."""
    return [name for name, score in scores.items() if score > TAG_SCORE] or [max(scores, key=lambda name: scores[name])]


def maps_by_name(maps: Tensor | None, names: Sequence[str], classes: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """The maps [h, w] of some classes by name, of maps [1, C, h, w]; none of None."""
    if maps is None:
        return {}
    return {name: maps[0, classes.index(name)].cpu().numpy() for name in names}


def predicted_tags(segmenter: Segmenter, rgb: NDArray[np.uint8]) -> Tensor:
    """The tags, bool [C], that the network itself gives more than `TAG_SCORE`; none if there are none."""
    return torch.from_numpy(segmenter.score_maps([rgb])[0][1] > TAG_SCORE)
