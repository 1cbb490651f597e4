"""Boundary F-score of label maps: do the outlines lie where they should? Imports no torch.

The measure follows the practice of BSDS (Martin et al. 2004) and DAVIS (Perazzi et al. 2016) with labels in place of
one mask; docs/evaluation.md has the definition and what differs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tag2mask.config import IGNORE

TOLERANCE = 0.0075
"""Distance at which two boundaries agree, as a share of the picture's diagonal."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class BoundaryScore:
    """F-scores in 0..1."""

    mean: float | None
    """Mean over the labels with a boundary in truth or masks, background included; None if there is none."""
    per_label: dict[str, float | None]
    """F-score of each label, background first; None where neither truth nor masks have a boundary of it."""


class BoundaryCounter:
    """Counts boundary pixels picture by picture; memory does not grow with the pictures."""

    def __init__(self, num_labels: int, tolerance: float = TOLERANCE) -> None:
        """Start with nothing counted.

        Raises:
            ValueError: the tolerance is not a share above 0.
        """
        if not 0 < tolerance < 1:
            raise ValueError(f"the boundary tolerance is a share of the diagonal in (0, 1), got {tolerance}")
        self.tolerance = tolerance
        self.counts = np.zeros((4, num_labels), dtype=np.int64)  # predicted, of them right; true, of them found

    def update(self, predicted: NDArray[Any], truth: NDArray[Any]) -> None:
        """Count one picture: label maps [H, W] in {0..C, 255}.

        Raises:
            ValueError: the maps differ in size.
        """
        if predicted.shape != truth.shape:
            raise ValueError(f"predicted and true labels differ in size: {predicted.shape} and {truth.shape}")
        distance = max(1.0, self.tolerance * math.hypot(*truth.shape))
        closed = close_bands(truth, distance)
        known = predicted != IGNORE
        for label in np.union1d(predicted, truth):
            if label == IGNORE:
                continue
            ours = label_boundary(predicted, int(label))
            theirs = label_boundary(closed, int(label)) & known
            right, found = ours & near(theirs, distance), theirs & near(ours, distance)
            # an edge of the prediction that touches an ignored pixel can be right, but not wrong
            judged = right | label_boundary(np.where(truth == IGNORE, IGNORE, predicted), int(label))
            self.counts[:, int(label)] += [mask.sum() for mask in (judged, right, theirs, found)]

    def score(self, classes: Sequence[str]) -> BoundaryScore:
        """F = 2 P R / (P + R) per label over what was counted, and its mean over the labels that have a boundary."""
        per_label = {name: _f_score(*c) for name, c in zip(("background", *classes), self.counts.T, strict=True)}
        scored = [value for value in per_label.values() if value is not None]
        return BoundaryScore(mean=float(np.mean(scored)) if scored else None, per_label=per_label)


def _f_score(judged: int, right: int, true: int, found: int) -> float | None:
    if judged == 0 and true == 0:
        return None
    if judged == 0 or true == 0 or right + found == 0:
        return 0.0
    precision, recall = right / judged, found / true
    return float(2 * precision * recall / (precision + recall))


def label_boundary(labels: NDArray[Any], label: int) -> Mask:
    """Pixels bool [H, W] of `label` with one of another label above, below, left or right of them.

    Neither the border of the picture nor a pixel that is 255 makes a boundary.
    """
    inside: Mask = labels == label
    outside: Mask = np.pad(~inside & (labels != IGNORE), 1)
    above, below, left, right = outside[:-2, 1:-1], outside[2:, 1:-1], outside[1:-1, :-2], outside[1:-1, 2:]
    return (above | below | left | right) & inside


def near(points: Mask, distance: float) -> Mask:
    """Pixels bool [H, W] whose Euclidean distance to one of the points [H, W] is at most `distance`."""
    rows, _ = _nearest_in_column(points)
    out = np.zeros_like(points)
    for dx, here, there in _shifts(points.shape[1], distance):
        out[:, here] |= rows[:, there] <= math.isqrt(int(distance**2) - dx * dx)
    return out


def close_bands(labels: NDArray[Any], distance: float) -> NDArray[Any]:
    """The labels [H, W] with each 255 replaced by its nearest label, if that is at most `distance` away.

    Closes the bands of ignored pixels that annotators leave around objects, so that a boundary runs through their
    middle; of wider ignored regions only the rim is filled.
    """
    known = labels != IGNORE
    if known.all():
        return labels
    rows, source = _nearest_in_column(known)
    column_label = np.take_along_axis(labels, source, axis=0)
    best = np.full(labels.shape, distance**2 + 1e-9)
    out = labels.copy()
    for dx, here, there in _shifts(labels.shape[1], distance):
        squared = rows[:, there].astype(np.float64) ** 2 + dx * dx
        better = squared < best[:, here]
        out[:, here][better] = column_label[:, there][better]
        best[:, here][better] = squared[better]
    return out


def _shifts(width: int, distance: float) -> list[tuple[int, slice, slice]]:
    """Column offsets dx within `distance`, nearest first, with the columns x and the columns x + dx."""
    reach = min(int(distance), width - 1)
    offsets = sorted(range(-reach, reach + 1), key=abs)
    return [(dx, slice(max(0, -dx), width - max(0, dx)), slice(max(0, dx), width + min(0, dx))) for dx in offsets]


def _nearest_in_column(points: Mask) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Distance in rows [H, W] to the nearest point of the same column, and its row; of two equally near ones the upper.

    Without a point in the column the distance is larger than any picture, and the row means nothing.
    """
    far = 1 << 20
    row = np.arange(points.shape[0], dtype=np.int32)[:, None]
    above = np.maximum.accumulate(np.where(points, row, -far).astype(np.int32), axis=0)
    below = np.minimum.accumulate(np.where(points, row, far).astype(np.int32)[::-1], axis=0)[::-1]
    up, down = row - above, below - row
    return np.minimum(up, down), np.where(up <= down, above, below).clip(0, len(points) - 1)
