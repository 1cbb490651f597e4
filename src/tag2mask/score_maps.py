"""From logits at the size of the feature map to probabilities and labels at the size of the picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tag2mask.config import CRFParams
from tag2mask.crf import dense_crf

_STRIP = 1 << 20
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

    def probs(self, rows: slice = slice(None)) -> Tensor:
        """Probabilities float32 [K, rows, W] that sum to 1 over K.

        Logits are resized to the picture (bilinear, align_corners=False), softmax over the allowed labels,
        then averaged over scales and flips; labels that are not allowed are 0.
        """
        maps = [_upsampled_rows(m, self.size, rows) for m in self.logits]
        if self.allowed is not None:
            maps = [m.masked_fill(~self.allowed[:, None, None], -torch.inf) for m in maps]
        return torch.stack([m.softmax(0) for m in maps]).mean(0)

    def labels(self) -> Tensor:
        """The most probable label of each pixel, uint8 [H, W], computed strip by strip."""
        h, w = self.size
        step = max(1, _STRIP // w)
        strips = [self.probs(slice(top, min(top + step, h))).argmax(0) for top in range(0, h, step)]
        return torch.cat(strips).to(torch.uint8)


def _upsampled_rows(logits: Tensor, size: tuple[int, int], rows: slice) -> Tensor:
    """Rows of F.interpolate(logits, size, mode="bilinear", align_corners=False) without the rest of the map."""
    h, w = size
    wide = F.interpolate(logits[None], (logits.shape[1], w), mode="bilinear", align_corners=False)[0]
    y = torch.arange(h, dtype=torch.float32)[rows]
    position = ((y + 0.5) * (logits.shape[1] / h) - 0.5).clamp(min=0)
    low = position.long().clamp(max=logits.shape[1] - 1)
    high = (low + 1).clamp(max=logits.shape[1] - 1)
    blended: Tensor = torch.lerp(wide[:, low], wide[:, high], (position - low)[None, :, None])
    return blended


def refine(rgb: NDArray[np.uint8], maps: ScoreMaps, crf: CRFParams) -> Tensor:
    """Probabilities [K, H, W] of the dense CRF at the picture's size."""
    picture = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)[None]
    present = None if maps.allowed is None else maps.allowed[None]
    return dense_crf(picture, maps.probs()[None], params=crf, present=present)[0]
