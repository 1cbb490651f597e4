"""Scores of the tag classifier: average precision of a class, and its mean."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from tag2mask.base.team import ALONE, Team
from tag2mask.data import PictureSet, read_picture
from tag2mask.inference.segmenter import Segmenter
from tag2mask.scoring.report import Progress, readable


def average_precision(scores: Tensor, positive: Tensor) -> float:
    """The mean of the precision over the steps of recall, in 0..1: sum of (R[n] - R[n-1]) P[n], as scikit-learn has it.

    Args:
        scores: float [N]; equal ones are one step.
        positive: bool [N], at least one of them True.
    """
    scores, order = scores.sort(descending=True)
    last = torch.cat([scores.diff().nonzero().flatten(), torch.tensor([len(scores) - 1])])
    hits = positive[order].cumsum(0)[last]
    precision, recall = hits / (last + 1), hits / hits[-1]
    return float((recall.diff(prepend=torch.zeros(1)) * precision).flip(0).sum())


def tag_map(scores: Tensor, tags: Tensor) -> float:
    """Mean average precision of tag scores float [N, C] against tags bool [N, C], in 0..1, over the classes that occur.

    NaN if none does.
    """
    occurring = tags.any(0).nonzero().flatten().tolist()
    return float(np.mean([average_precision(scores[:, i], tags[:, i]) for i in occurring])) if occurring else math.nan


def score_tags(
    segmenter: Segmenter,
    pictures: PictureSet,
    *,
    limit: int = 0,
    broken: dict[str, str] | None = None,
    progress: Progress | None = None,
    team: Team = ALONE,
) -> float:
    """The mAP (`tag_map`) of the tag classifier on tagged pictures, masks or not; the rest as in `score_pictures`."""
    scores, tags = [torch.zeros(0, len(segmenter.classes))], []
    chosen = pictures.pictures[: limit or None]
    read = readable(chosen, lambda each: read_picture(each.path), broken=broken, progress=progress, team=team)
    for picture, rgb in read:
        scores.append(torch.as_tensor(segmenter.score_maps([rgb])[0][1])[None])
        names = {pictures.classes[i] for i in picture.tags}
        tags.append([name in names for name in segmenter.classes])
    truth = torch.tensor(tags, dtype=torch.bool).reshape(-1, len(segmenter.classes))
    shares = team.gather((torch.cat(scores), truth))  # in the order of the pictures, each once
    every_score, every_tag = (torch.cat(parts) for parts in zip(*shares, strict=True))
    return tag_map(every_score, every_tag)
