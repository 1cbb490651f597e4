"""The smallest regions that carry the evidence of a tag: labels for objects of any size (not in the paper).

A class activation map shows where a network looks, and as large as its field of view: a pore of ten pixels and a
stain of half the picture get the same spot. The exponent of the background score says how much of the spot the dense
CRF gives to the object, and no one exponent suits both. What tells them apart is the network itself: erase a region
that holds the whole object, and the tag is gone; erase a part of a large object, and it stays (the smallest deletion of
Fong & Vedaldi 2017, arXiv 1704.03296, with regions of the CRF in place of a learned mask).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tag2mask.batch import Outputs
from tag2mask.config import BACKGROUND, IGNORE, CRFParams
from tag2mask.crf import dense_crf
from tag2mask.models.network import Network
from tag2mask.reliable import background_score

__all__ = ["EXPONENTS", "LARGE", "Evidence", "class_exponents", "erased", "evidence_labels", "tag_evidence"]

EXPONENTS = (1.0, 1.5, 2.0, 3.0, 4.0, 8.0, 16.0, 32.0)
"""Exponents of the background score, from the smallest regions to the largest; the published votes are 4 and 32."""
LARGE = EXPONENTS.index(4.0)
"""From this place on, that of the published vote for objects, an object is as large as the field of view or larger."""
_REACH = -1
"""Place of the published vote for background."""
_MARGIN = 10
"""Pixels around a region that are erased with it: the edge of an object tells of it too."""
_TEXTURE = 17
"""Side in pixels of the window whose mean is the smooth part of a picture; what is left is its texture."""
_GONE = 0.5
"""A region is the evidence of a tag if without it the tag is less than this times as likely."""
_ENOUGH = 0.6
"""Share of what the best exponent removes of the evidence, over all pictures of a class, that a smaller one may do
with."""


class Evidence(NamedTuple):
    """What each exponent gives to each tag of one picture, and what is left of the tag without it."""

    tags: tuple[int, ...]
    """T classes, as numbers 0..C-1."""
    regions: Tensor
    """bool [T, E, H, W]."""
    left: Tensor
    """float [T, E]: probability of the tag with the region erased, as a share of that of the whole picture, in 0..1; 1
    where the region is empty."""


@torch.no_grad()
def tag_evidence(
    network: Network, rgb: Tensor, cams: Tensor, tags: Sequence[int], crf: CRFParams | None = None
) -> Evidence:
    """The regions that the dense CRF gives to the tags of one picture, and how much of the tags' evidence each holds.

    Args:
        network: In evaluation mode.
        rgb: uint8 [3, H, W].
        cams: float [C, H, W] in [0, 1] (`multi_scale_cam`).
        tags: The classes of the picture, as numbers 0..C-1.
        crf: Parameters; `CRFParams.mining()` by default.
    """
    count, size = len(EXPONENTS), rgb.shape[-2:]
    if not tags:
        return Evidence((), torch.zeros(0, count, *size, dtype=torch.bool), torch.zeros(0, count))
    own = cams[list(tags)][None]
    scores = torch.stack([torch.cat([background_score(own, power), own], dim=1) for power in EXPONENTS], dim=1)
    labels = dense_crf(rgb[None], scores, params=crf)[0].argmax(dim=1)
    regions = torch.stack([labels == label for label in range(1, len(tags) + 1)])

    probs = _tag_probs(network, rgb[None])[0].clamp_min(1e-12)
    left = torch.ones(len(tags), count)
    for row, tag in enumerate(tags):
        for place, region in enumerate(regions[row]):
            if place and torch.equal(region, regions[row, place - 1]):
                left[row, place] = left[row, place - 1]
            elif bool(region.any()):
                without = _tag_probs(network, erased(rgb[None], region[None]))[0]
                left[row, place] = (without[tag] / probs[tag]).clamp(max=1)
    return Evidence(tuple(tags), regions.cpu(), left)


def erased(rgb: Tensor, regions: Tensor) -> Tensor:
    """Pictures whose regions, with a margin of 10 pixels, are filled from what surrounds them.

    Coarser and coarser means of the known pixels are taken until they reach everywhere, and filled in from coarse
    to fine (pull-push, Gortler et al. 1996); on top comes the texture of what lies half a picture away, since a smooth
    spot in a rough surface is a sight of its own.

    Args:
        rgb: uint8 [B, 3, H, W].
        regions: bool [B, H, W].

    Returns:
        uint8 [B, 3, H, W]; a picture whose region is all of it becomes black.
    """
    values = rgb.float()
    known = 1 - F.max_pool2d(regions[:, None].float(), 2 * _MARGIN + 1, stride=1, padding=_MARGIN)
    pad = _TEXTURE // 2
    smooth = F.avg_pool2d(values, _TEXTURE, stride=1, padding=pad, count_include_pad=False)
    texture = ((values - smooth) * known).roll((values.shape[-2] // 2, values.shape[-1] // 2), (-2, -1))
    return torch.where(known > 0, values, _filled(values, known) + texture).clamp(0, 255).round().to(torch.uint8)


def _filled(values: Tensor, known: Tensor) -> Tensor:
    """Values [B, D, H, W] where known [B, 1, H, W] is above 0, else drawn from coarser means; 0 if none is known."""
    if max(values.shape[-2:]) == 1 or bool((known > 0).all()):
        return values * (known > 0)
    weight = F.avg_pool2d(known, 2, ceil_mode=True)
    mean = F.avg_pool2d(values * known, 2, ceil_mode=True) / weight.clamp_min(1e-12)
    coarse = _filled(mean, (weight > 0).to(values.dtype))
    smooth = F.interpolate(coarse, values.shape[-2:], mode="bilinear", align_corners=False)
    return torch.where(known > 0, values, smooth)


def _tag_probs(network: Network, rgb: Tensor) -> Tensor:
    """Probability of every class, float [B, C]."""
    outputs: Outputs = network(network.normalize(rgb), segment=False)
    return outputs.tag_logits.float().sigmoid()


def class_exponents(left: Mapping[int, Sequence[Tensor]]) -> dict[int, int]:
    """Per class the place in `EXPONENTS` of the smallest exponent that holds most of its evidence.

    Args:
        left: `Evidence.left` [E] of the class in each of its pictures.

    Returns:
        Of each class with a picture the first exponent that removes at least 60 % of what the best one does, on the
        mean over the pictures. One picture may deceive; an object's size is much the same in all pictures of a class.
    """
    places = {}
    for label, each in left.items():
        if each:
            removed = 1 - torch.stack(list(each)).mean(dim=0)
            places[label] = int((removed >= _ENOUGH * removed.max()).nonzero()[0])
    return places


def evidence_labels(
    evidence: Evidence, places: Mapping[int, int], *, others_teach: bool = False
) -> tuple[Tensor, tuple[int, ...]]:
    """Labels of one picture: of each tag the region of its class's exponent, if that is evidence; background elsewhere.

    An object whose evidence lies in a region smaller than the published vote for objects gives is smaller than the
    field of view, and all beyond the region is background. Of a larger one the map shows only a part, and what lies
    beyond may belong to it: that is 255, up to where the published vote for background begins, or everywhere.

    Args:
        evidence: Of the picture.
        places: The place in `EXPONENTS` by class, see `class_exponents`.
        others_teach: Whether enough other pictures teach what background is, so that one with a large object need not.

    Returns:
        int64 [H, W] in {0..C, 255}, and the tags without evidence. Where such a tag may be, which is the region of the
        largest exponent, is 255; if that is empty so is all that would be background, for nobody knows where the tag
        is. A smaller region lies on top of a larger one.
    """
    labels = torch.full(evidence.regions.shape[-2:], BACKGROUND)
    found, unknown = [], []
    for row, tag in enumerate(evidence.tags):
        place, reach = places[tag], evidence.regions[row, _REACH]
        if evidence.left[row, place] < _GONE:
            found.append((evidence.regions[row, place], tag + 1))
            if place >= LARGE:
                labels[reach] = IGNORE
        else:
            unknown.append(tag)
            labels[reach if bool(reach.any()) else labels == BACKGROUND] = IGNORE
    if others_teach and any(places[tag] >= LARGE for tag in evidence.tags):
        labels[:] = IGNORE
    for region, label in sorted(found, key=lambda each: int(each[0].sum()), reverse=True):
        labels[region] = label
    return labels, tuple(unknown)
