"""Scores of the tag classifier: average precision of a class, and whether that is better than chance."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tag2mask.runs.health import LEAST, LEVEL, ClassHealth

_ORDERS = 1000
"""Random orders that scores are compared with."""
_ROUNDING = 1e-6


def average_precision(scores: Tensor, positive: Tensor) -> float:
    """The mean of the precision over the steps of recall, in 0..1: sum of (R[n] - R[n-1]) P[n], as scikit-learn has it.

    Args:
        scores: float [N]; equal ones are one step.
        positive: bool [N], at least one of them True.
    """
    return float(_average_precisions(scores, positive))


def _average_precisions(scores: Tensor, positive: Tensor) -> Tensor:
    """Average precision float [...] of scores [N] against each of bool [..., N]."""
    scores, order = scores.sort(descending=True)
    last = torch.cat([scores.diff().nonzero().flatten(), torch.tensor([len(scores) - 1])])
    hits = positive[..., order].cumsum(-1)[..., last]
    precision, recall = hits / (last + 1), hits / hits[..., -1:]
    return (recall.diff(prepend=torch.zeros_like(recall[..., :1])) * precision).flip(-1).sum(-1)


def judge_tags(classes: Sequence[str], scores: Tensor, tags: Tensor) -> tuple[tuple[ClassHealth, ...], float | None]:
    """Average precision of each class, and how often a random order of the pictures gives as much.

    The test is a permutation test: the tags are dealt out to the pictures anew, always in the same 1000 ways. A class
    is judged by three pictures or more, and where a perfect order could be told from a random one.

    Args:
        classes: C names.
        scores: float [N, C].
        tags: bool [N, C].

    Returns:
        Each class; and for the mean over the classes that occur the share of the random orders that reach it: None
        where no class can be judged, 1.0 where all pictures have the same scores.
    """
    count = len(scores)
    scores = scores.nan_to_num()
    orders = torch.rand(_ORDERS, count, generator=torch.Generator().manual_seed(0)).argsort(dim=1)
    found, total, dealt = [], 0.0, torch.zeros(_ORDERS)
    for name, score, tag in zip(classes, scores.T, tags.T, strict=True):
        positive = int(tag.sum())
        if not positive:
            found.append(ClassHealth(name=name, num_images=0))
            continue
        ap, random = average_precision(score, tag), _average_precisions(score, tag[orders])
        total, dealt = total + ap, dealt + random
        known = positive >= LEAST and math.comb(count, positive) >= 2 / LEVEL
        by_chance = _reached(random, ap) if known else None
        found.append(ClassHealth(name=name, num_images=positive, ap=ap, chance=positive / count, by_chance=by_chance))
    if any(each.by_chance is not None for each in found):
        return tuple(found), _reached(dealt, total)
    told_apart = any(0 < each.num_images < count for each in found)
    return tuple(found), 1.0 if told_apart and bool((scores == scores[:1]).all()) else None


def _reached(random: Tensor, value: float) -> float:
    """Share of the random values that are as high, the value itself among them."""
    return (1 + int((random >= value - _ROUNDING).sum())) / (1 + len(random))
