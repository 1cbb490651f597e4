"""Which pictures a person should look at first: a score per picture, and a table. Imports no torch."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tag2mask.base.arrays import label_counts
from tag2mask.base.files import whole_file
from tag2mask.inference.segmenter import Prediction

SEEN_SHARE = 0.005
"""A class is in a mask when it covers this share of the pixels."""
TAG_SCORE = 0.5
"""A class is in a picture without given tags when the classifier gives it more than this."""
CAM_THRESHOLD = 0.3
"""The class activation map covers where it is above this."""
COLUMNS = ("rank", "file", "score", "reason", "margin", "tags", "cam")

CamOf = Callable[[NDArray[np.uint8], Sequence[str]], NDArray[np.float32] | None]
"""As `Segmenter.class_activation_maps`."""


class Review(NamedTuple):
    """How much a picture asks to be looked at. Every number lies in 0..1; 0 is nothing to see."""

    score: float
    """Mean of the parts that are known."""
    margin: float
    """Mean over the pixels of 1 - (best probability - second best)."""
    tags: float
    """Largest disagreement of a class: between 1 for a given tag (0 for an absent one, the tag score where no tags are
    given) and 1 where the mask shows the class (0 where it does not); with given tags also between those and the tag
    score, because a mask made with tags never shows another class."""
    cam: float | None
    """1 - IoU of mask and class activation map, mean over the classes of the picture; None without such maps."""
    reason: str
    """The part that says most, in words."""


class Ranked(NamedTuple):
    """One line of the list."""

    file: str
    path: Path
    mask: Path
    review: Review


def review(prediction: Prediction, given: Sequence[str] | None = None, cam_of: CamOf | None = None) -> Review:
    """Rate one prediction.

    Args:
        prediction: Of the picture.
        given: The classes known to be in it; None where nothing is known.
        cam_of: Gives class activation maps; None leaves that part out.
    """
    classes, mask = prediction.classes, prediction.mask
    shares = label_counts(mask)[: len(classes) + 1] / mask.size
    seen = {name: bool(shares[i] >= SEEN_SHARE) for i, name in enumerate(classes, start=1)}
    expected = {name: float(name in given) for name in classes} if given is not None else prediction.tag_scores
    odd = max(classes, key=lambda name: abs(expected[name] - seen[name]))
    tags, odd_text = abs(expected[odd] - seen[odd]), _odd_mask(odd, seen[odd], given is not None)
    if given is not None:
        scores = prediction.tag_scores
        odd = max(classes, key=lambda name: abs(expected[name] - scores[name]))
        if (other := min(1.0, abs(expected[odd] - scores[odd]))) > tags:
            tags, odd_text = (
                other,
                f"{odd} is {'a' if odd in given else 'no'} given tag, its score is {scores[odd]:.2f}",
            )
    unsure = 0.0
    for _, _, probs in prediction.parts():
        best = np.partition(probs, -2, axis=0)[-2:]
        unsure += float(np.sum(1 - (best[1] - best[0]), dtype=np.float64))
    margin = unsure / mask.size
    present = [name for name in classes if (name in given if given is not None else expected[name] > TAG_SCORE)]
    cam, worst = None, ""
    cams = None if cam_of is None or not present else cam_of(prediction.rgb, present)
    if cams is not None:
        ious = dict(zip(present, _overlaps(mask, cams, classes, present), strict=True))
        worst = min(ious, key=lambda name: ious[name])
        cam = 1 - sum(ious.values()) / len(ious)
    parts = {"margin": margin, "tags": tags} | ({} if cam is None else {"cam": cam})
    texts = {
        "margin": "the network is not sure of many pixels",
        "tags": odd_text,
        "cam": f"mask and class activation map of {worst} differ",
    }
    reason = texts[max(parts, key=lambda key: parts[key])]
    return Review(min(1.0, sum(parts.values()) / len(parts)), margin, tags, cam, reason)


def _odd_mask(name: str, seen: bool, known: bool) -> str:
    here, there = ("", "not ") if seen else ("not ", "")
    return f"{name} is {here}in the mask, but {there}in the picture ({'known' if known else 'its tag score says'})"


def _overlaps(
    mask: NDArray[np.uint8], cams: NDArray[np.float32], classes: Sequence[str], present: Sequence[str]
) -> list[float]:
    """IoU of each class's mask and map at the size of the maps."""
    height, width = cams.shape[1:]
    small = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
    ious = []
    for name, cam in zip(present, cams, strict=True):
        one, two = small == classes.index(name) + 1, cam > CAM_THRESHOLD
        union = (one | two).sum()
        ious.append(float((one & two).sum() / union) if union else 1.0)
    return ious


def ranked(pictures: Sequence[Ranked]) -> list[Ranked]:
    """The pictures, the one to look at first before the others; equal ones by name."""
    return sorted(pictures, key=lambda each: (-each.review.score, each.file))


def write_table(path: Path, order: Sequence[Ranked]) -> Path:
    """Write rank.csv: rank from 1, file, score, reason, and the parts of the score."""
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for number, each in enumerate(order, start=1):
            r = each.review
            cam = "" if r.cam is None else f"{r.cam:.4f}"
            writer.writerow([number, each.file, f"{r.score:.4f}", r.reason, f"{r.margin:.4f}", f"{r.tags:.4f}", cam])
    return path
