"""Which pictures a person should look at first: a score per picture, and a table. Imports no torch."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tag2mask.base.arrays import label_counts
from tag2mask.base.files import whole_file
from tag2mask.inference.prediction import Prediction

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


def review(
    prediction: Prediction, given: Sequence[str] | None = None, cam_of: CamOf | None = None, margin: float | None = None
) -> Review:
    """Rate one prediction.

    Args:
        prediction: Of the picture.
        given: The classes known to be in it; None where nothing is known.
        cam_of: Gives class activation maps; None leaves that part out.
        margin: `Review.margin`, where it is known; None computes it from the probabilities.
    """
    if margin is None:
        margin = sum(unsure_pixels(probs) for _, _, probs in prediction.parts()) / prediction.mask.size
    tags, odd = _odd_class(prediction, given)
    scores = prediction.tag_scores
    present = [name for name in prediction.classes if (scores[name] > TAG_SCORE if given is None else name in given)]
    cams = None if cam_of is None or not present else cam_of(prediction.rgb, present)
    parts = [(margin, "the network is not sure of many pixels"), (tags, odd)]
    cam = None
    if cams is not None:
        ious = _overlaps(prediction, cams, present)
        cam = 1 - sum(ious.values()) / len(ious)
        parts.append((cam, f"mask and class activation map of {min(ious, key=lambda name: ious[name])} differ"))
    score = sum(part for part, _ in parts) / len(parts)
    return Review(min(1.0, score), margin, tags, cam, max(parts, key=lambda part: part[0])[1])


def unsure_pixels(probs: NDArray[np.float32]) -> float:
    """Sum over the pixels of 1 - (best probability - second best), of probabilities [K, h, w]."""
    best = np.partition(probs, -2, axis=0)[-2:]
    return float(np.sum(1 - (best[1] - best[0]), dtype=np.float64))


def _odd_class(prediction: Prediction, given: Sequence[str] | None) -> tuple[float, str]:
    """The largest disagreement of a class in 0..1, and what disagrees: mask and tags, or given tags and tag scores."""
    classes, scores = prediction.classes, prediction.tag_scores
    shares = label_counts(prediction.mask)[: len(classes) + 1] / prediction.mask.size
    seen = {name: bool(shares[i] >= SEEN_SHARE) for i, name in enumerate(classes, start=1)}
    expected = scores if given is None else {name: float(name in given) for name in classes}
    odd, amount = _largest_difference(expected, seen)
    if given is not None:
        other, score_amount = _largest_difference(expected, scores)
        if score_amount > amount:
            what = "a given tag" if other in given else "no given tag"
            return score_amount, f"{other} is {what}, its score is {scores[other]:.2f}"
    here, there = ("", "not ") if seen[odd] else ("not ", "")
    source = "its tag score says" if given is None else "known"
    return amount, f"{odd} is {here}in the mask, but {there}in the picture ({source})"


def _largest_difference(one: Mapping[str, float], two: Mapping[str, float]) -> tuple[str, float]:
    name = max(one, key=lambda name: abs(one[name] - two[name]))
    return name, min(1.0, abs(one[name] - two[name]))


def _overlaps(prediction: Prediction, cams: NDArray[np.float32], present: Sequence[str]) -> dict[str, float]:
    """IoU of each class's mask and map, at the size of the maps."""
    height, width = cams.shape[1:]
    small = np.asarray(Image.fromarray(prediction.mask).resize((width, height), Image.Resampling.NEAREST))
    ious = {}
    for name, cam in zip(present, cams, strict=True):
        in_mask, in_map = small == prediction.classes.index(name) + 1, cam > CAM_THRESHOLD
        union = (in_mask | in_map).sum()
        ious[name] = float((in_mask & in_map).sum() / union) if union else 1.0
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
