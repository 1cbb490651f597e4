"""How near an exported model is to the network that it was made from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tag2mask.data import open_data, read_picture
from tag2mask.data.builtin.shapes import BUILTIN_CLASSES, render_scene
from tag2mask.inference.segmenter import Segmenter
from tag2mask.scoring.report import Progress, tracked

Predict = Callable[[NDArray[np.uint8]], tuple[NDArray[np.uint8], NDArray[np.float32]]]
"""Pictures uint8 [B, H, W, 3] to masks uint8 [B, H, W] and probabilities float32 [B, K, H, W]."""
MIN_EQUAL = 0.999
"""Least share of pixels with the label that the network gives them, for an export to count as good."""
_SIZES = ((160, 213), (240, 180), (97, 131), (375, 500), (33, 300), (300, 300))
"""(H, W) of the generated pictures."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How near an export is to the network on torch (CPU), over whole pictures at their own size."""

    max_difference: float
    """Largest difference of a probability."""
    equal_pixels: float
    """Share of pixels with the same label, in 0..1, over all pictures."""
    least_equal: float
    """The same for the picture with the smallest share."""
    num_images: int
    sizes: tuple[tuple[int, int], ...]
    """(H, W) of each picture; every second one was sent with its mirror image, as a batch of two."""
    pictures: str
    """Where the pictures came from: a data set and its split, or "generated"."""

    @property
    def good(self) -> bool:
        """At least 99.9 % of the pixels are equal."""
        return self.equal_pixels >= MIN_EQUAL


def comparison_pictures(data: str | Path | None, split: str, limit: int) -> tuple[list[NDArray[np.uint8]], str]:
    """Pictures uint8 [H, W, 3] to compare on, and where they are from: the first `limit` (0: all) of a data set, of
    which tags and masks are not read, or six generated ones of different sizes.
    """
    if data is None:
        rng = np.random.default_rng(0)
        scenes = [render_scene(rng, size, (1 + rng.permutation(len(BUILTIN_CLASSES))[:2]).tolist()) for size in _SIZES]
        return [scene.rgb for scene in scenes], "generated"
    found = open_data(data, split=split, need_tags=False)
    chosen = found.pictures[:limit] if limit else found.pictures
    return [read_picture(picture.path) for picture in chosen], f"{data}, split {split}"


def compare(
    segmenter: Segmenter,
    predict: Predict,
    pictures: Sequence[NDArray[np.uint8]],
    *,
    origin: str,
    progress: Progress | None = None,
) -> Parity:
    """Parity of an export with the network on pictures uint8 [H, W, 3]; every second has its mirror image with it.

    Raises:
        ValueError: there is no picture.
    """
    if not pictures:
        raise ValueError("There is no picture to compare the export on; give another --data or --split.")
    differences, equal, shares, pixels = [], 0, [], 0
    for i, rgb in tracked(list(enumerate(pictures)), progress):
        batch = np.stack([rgb, rgb[:, ::-1]] if i % 2 else [rgb])
        masks, probs = predict(batch)
        wanted = segmenter.predict(list(batch))
        same = np.stack([each.mask for each in wanted]) == masks
        # A maximum with NaN in it is NaN, which counts as the worst difference there is.
        difference = float(np.max([np.abs(each.probs - got).max() for each, got in zip(wanted, probs, strict=True)]))
        differences.append(1.0 if np.isnan(difference) else difference)
        shares.append(float(same.mean()))
        equal, pixels = equal + int(same.sum()), pixels + same.size
    return Parity(
        max_difference=max(differences),
        equal_pixels=equal / pixels,
        least_equal=min(shares),
        num_images=len(pictures),
        sizes=tuple((rgb.shape[0], rgb.shape[1]) for rgb in pictures),
        pictures=origin,
    )
