"""A look at a sample of the training pictures: whether a network has learned its tags (`runs.learned`)."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tag2mask.config import RetrainConfig
from tag2mask.data import PictureError, PictureSet, read_picture
from tag2mask.inference.first_step import tag_vector
from tag2mask.inference.segmenter import Segmenter
from tag2mask.inference.tiles import tile_side
from tag2mask.runs.learned import Learned

_MOST = 64
"""Pictures that are looked at."""


def look_at(segmenter: Segmenter, pictures: PictureSet, *, masks: bool = True) -> Learned:
    """Judge a network by a sample of its training pictures; the tags are all that is needed.

    Args:
        segmenter: The network.
        pictures: What it learned from; those that cannot be read are passed over.
        masks: Whether a step has taught its masks yet.
    """
    first_step = not isinstance(segmenter.config, RetrainConfig)
    scores, tags, empty, background = [], [], [], []
    # drawn, as every n-th picture may be of one class
    count = len(pictures.pictures)
    for i in sorted(random.Random(0).sample(range(count), min(_MOST, count))):
        picture = pictures.pictures[i]
        try:
            rgb = read_picture(picture.path)
        except (PictureError, OSError):
            continue
        names = [pictures.classes[i] for i in picture.tags]
        maps, score = segmenter.score_maps([rgb], allowed=[segmenter.allowed_labels(names)])[0]
        scores.append(score)
        tags.append([name in names for name in segmenter.classes])
        if names and masks:
            background.append(not maps.shows_objects())
        if names and first_step and tile_side((rgb.shape[0], rgb.shape[1]), None, segmenter.config.image_size) is None:
            empty += _empty_cams(segmenter, rgb, names)
    auc, chance = tag_auc(np.array(scores), np.array(tags)) if scores else (None, math.inf)
    return Learned(
        num_images=len(scores),
        tag_auc=auc,
        chance=chance,
        empty_cams=float(np.mean(empty)) if empty else None,
        background_only=float(np.mean(background)) if background else None,
    )


def _empty_cams(segmenter: Segmenter, rgb: NDArray[np.uint8], names: Sequence[str]) -> list[bool]:
    cams, _ = segmenter.network.cams(rgb, tag_vector(segmenter, names), (1.0,))
    # a map is divided by its maximum: its peak is 1 or, where it is empty, 0 or NaN
    return [not float(cams[0, segmenter.classes.index(name)].max()) >= 0.5 for name in names]


def tag_auc(scores: NDArray[Any], tags: NDArray[Any]) -> tuple[float | None, float]:
    """How well scores rank the pictures of a class before the others, and how far chance alone may move that.

    Args:
        scores: float [N, C].
        tags: bool [N, C].

    Returns:
        The mean over classes of the area under the ROC curve, equal scores counting half, and two standard deviations
        of that mean if scores were drawn at random; 0.5 and 0 where all pictures have the same scores. None and
        infinity where no class has pictures of both kinds.
    """
    areas, variances = [], []
    for score, tag in zip(scores.T, tags.T, strict=True):
        present, absent = score[tag][:, None], score[~tag][None]
        if present.size and absent.size:
            areas.append(float(np.mean((present > absent) + 0.5 * (present == absent))))
            variances.append((present.size + absent.size + 1) / (12 * present.size * absent.size))
    if not areas:
        return None, math.inf
    if (scores == scores[:1]).all():  # no chance about it
        return 0.5, 0.0
    return float(np.mean(areas)), 2 * math.sqrt(sum(variances)) / len(areas)
