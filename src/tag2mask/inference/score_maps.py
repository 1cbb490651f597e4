"""From logits at the size of the feature map to probabilities and labels at the size of the picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tag2mask.base.arrays import Size, is_large, row_strips
from tag2mask.config import CRFParams
from tag2mask.crf import dense_crf
from tag2mask.inference.tiles import Part, crf_parts
from tag2mask.teacher import label_probs

_STRIP = 1 << 18
"""Pixels whose probabilities are computed at a time, so that a huge picture needs little memory."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoreMaps:
    """Logits of one picture at the size of the feature map, one per scale and flip; probabilities on request."""

    logits: tuple[Tensor, ...]
    """float32 [K, h, w] each, on the CPU, flips undone."""
    size: tuple[int, int]
    """(H, W) of the picture."""
    allowed: Tensor | None
    """bool [K] of the labels that may occur, or None for all."""

    def probs(self, rows: slice = slice(None), columns: slice = slice(None)) -> Tensor:
        """Probabilities float32 [K, rows, columns] that sum to 1 over K.

        Logits are resized to the picture (bilinear, align_corners=False), made probabilities (`label_probs`),
        then averaged over scales and flips; labels that are not allowed are 0.
        """
        total: Tensor | None = None
        for each in self.logits:
            part = label_probs(_upsampled(each, self.size, rows, columns), self.allowed)
            total = part if total is None else total.add_(part)
        if total is None:
            raise ValueError("There are no logits to make probabilities of.")
        return total.div_(len(self.logits))

    def shows_objects(self) -> bool:
        """Whether any cell of the maps, at their own size, is an object."""
        return any(bool((label_probs(each, self.allowed).argmax(0) > 0).any()) for each in self.logits)

    def parts(self) -> Iterator[Part]:
        """Probabilities strip by strip."""
        for rows in row_strips(self.size, _STRIP):
            yield rows, slice(0, self.size[1]), self.probs(rows).numpy()


def _upsampled(logits: Tensor, size: Size, rows: slice, columns: slice) -> Tensor:
    """A part of F.interpolate(logits, size, mode="bilinear", align_corners=False) without the rest of the map."""
    low, high, weight = _neighbors(logits.shape[1], size[0], rows)
    first = int(low[0])
    needed = logits[:, first : int(high[-1]) + 1]
    if columns == slice(None):
        wide = F.interpolate(needed[None], (needed.shape[1], size[1]), mode="bilinear", align_corners=False)[0]
    else:
        left, right, share = _neighbors(logits.shape[2], size[1], columns)
        wide = torch.lerp(needed[:, :, left], needed[:, :, right], share)
    blended: Tensor = torch.lerp(wide[:, low - first], wide[:, high - first], weight[:, None])
    return blended


def _neighbors(cells: int, pixels: int, part: slice) -> tuple[Tensor, Tensor, Tensor]:
    """For some of the pixels of a side: the cells at both sides of each, and the weight of the second."""
    place = torch.arange(pixels, dtype=torch.float32)[part]
    position = ((place + 0.5) * (cells / pixels) - 0.5).clamp(min=0)
    low = position.long().clamp(max=cells - 1)
    return low, (low + 1).clamp(max=cells - 1), position - low


def refine(
    rgb: NDArray[np.uint8],
    maps: ScoreMaps,
    crf: CRFParams,
    rows: slice = slice(None),
    columns: slice = slice(None),
) -> Tensor:
    """Probabilities [K, rows, columns] of the dense CRF at the picture's size, of that part of the picture alone."""
    picture = torch.from_numpy(np.ascontiguousarray(rgb[rows, columns])).permute(2, 0, 1)[None]
    present = None if maps.allowed is None else maps.allowed[None]
    return dense_crf(picture, maps.probs(rows, columns)[None], params=crf, present=present)[0]


def probability_parts(rgb: NDArray[np.uint8], maps: ScoreMaps, crf: CRFParams | None) -> Iterator[Part]:
    """Probabilities strip by strip; those of a dense CRF in one piece, or square by square of a large picture."""
    if crf is None:
        yield from maps.parts()
    elif is_large(maps.size):
        yield from crf_parts(maps.size, crf, lambda rows, columns: refine(rgb, maps, crf, rows, columns).numpy())
    else:
        yield slice(0, maps.size[0]), slice(0, maps.size[1]), refine(rgb, maps, crf).numpy()
