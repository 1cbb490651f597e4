"""What a network of the first step says of one picture: class activation maps, tags, what training teaches of it."""

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
from tag2mask.inference.torch_backend import Segmenter
from tag2mask.method import Taught, taught

TAG_SCORE = 0.5


def picture_cams(
    segmenter: Segmenter, rgb: NDArray[np.uint8], tags: Tensor, scales: Sequence[float] | None = None
) -> tuple[Tensor, Tensor]:
    """CAMs float [1, C, h, w] of one picture and that picture uint8 [1, 3, h, w], both at the network's size.

    `tags` is bool [C]; `scales` defaults to those of the run's training. On the network's device.
    """
    small = segmenter.resized(rgb)[None]
    network, method = segmenter.first_step()
    with segmenter.inference():
        images = network.normalize(small)
        cams = multi_scale_cam(network, images, tags[None].to(small.device), scales or method.cam_scales)
    return cams, small


def picture_taught(segmenter: Segmenter, rgb: NDArray[np.uint8], tags: Tensor) -> Taught:
    """What the end of the training teaches of one picture at the network's size, tags bool [C] given; see `taught`.

    The network that was kept is the running average, where the run has one, so it is the teacher. CAMs are drawn
    without dropout. A run without joint phase has taught nothing: these are the labels that one would begin with.

    Raises:
        ValueError: a network of the second step.
    """
    network, method = segmenter.first_step()
    config = segmenter.config
    small = segmenter.resized(rgb)[None]
    valid = torch.ones_like(small[:, 0], dtype=torch.bool)
    mask = torch.full_like(small[:, 0], IGNORE, dtype=torch.int64)
    batch = Batch(small, valid, tags[None].to(small.device), mask, ("",))
    with segmenter.inference():
        return taught(
            network,
            network.normalize(small),
            batch,
            dataclasses.replace(method, cam_mode="eval"),
            average=network if config.average_decay > 0 else None,
            progress=float(config.phases[-1].name == "joint"),
        )


def tag_vector(segmenter: Segmenter, names: Sequence[str]) -> Tensor:
    """The tags, bool [C], of the named classes; names that the network does not know are left out."""
    return torch.tensor([name in names for name in segmenter.classes])


def predicted_tags(segmenter: Segmenter, rgb: NDArray[np.uint8]) -> Tensor:
    """The tags, bool [C], that the network itself gives more than `TAG_SCORE`; none if there are none."""
    return segmenter.score_maps([rgb])[0][1] > TAG_SCORE
