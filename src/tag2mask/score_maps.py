"""From logits at the size of the feature map to probabilities and labels at the size of the picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tag2mask.config import CRFParams
from tag2mask.crf import dense_crf
from tag2mask.tiling import Part, row_strips

_STRIP = 1 << 18
"""Pixels whose probabilities are computed at a time, so that a huge picture needs little memory."""


@dataclass(frozen=True, kw_only=True)
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

        Logits are resized to the picture (bilinear, align_corners=False), softmax over the allowed labels,
        then averaged over scales and flips; labels that are not allowed are 0.
        """
        total: Tensor | None = None
        for each in self.logits:
            part = _upsampled_rows(each, self.size, rows)[:, :, columns]
            if self.allowed is not None:
                part = part.masked_fill(~self.allowed[:, None, None], -torch.inf)
            part = part.softmax(0)
            total = part if total is None else total.add_(part)
        if total is None:
            raise ValueError("There are no logits to make probabilities of.")
        return total.div_(len(self.logits))

    def parts(self) -> Iterator[Part]:
        """Probabilities strip by strip."""
        for rows in row_strips(self.size, _STRIP):
            yield rows, slice(0, self.size[1]), self.probs(rows).numpy()

    def labels(self) -> Tensor:
        """The most probable label of each pixel, uint8 [H, W], computed strip by strip."""
        labels = torch.empty(self.size, dtype=torch.uint8)
        for rows in row_strips(self.size, _STRIP):
            labels[rows] = self.probs(rows).argmax(0)
        return labels


def _upsampled_rows(logits: Tensor, size: tuple[int, int], rows: slice) -> Tensor:
    """Rows of F.interpolate(logits, size, mode="bilinear", align_corners=False) without the rest of the map."""
    h, w = size
    y = torch.arange(h, dtype=torch.float32)[rows]
    position = ((y + 0.5) * (logits.shape[1] / h) - 0.5).clamp(min=0)
    low = position.long().clamp(max=logits.shape[1] - 1)
    high = (low + 1).clamp(max=logits.shape[1] - 1)
    first = int(low[0])
    needed = logits[:, first : int(high[-1]) + 1]
    wide = F.interpolate(needed[None], (needed.shape[1], w), mode="bilinear", align_corners=False)[0]
    blended: Tensor = torch.lerp(wide[:, low - first], wide[:, high - first], (position - low)[None, :, None])
    return blended


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
