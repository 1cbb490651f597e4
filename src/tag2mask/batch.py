"""What travels through the method: codes, axes, and the typed batch and outputs.

Axes: `B` batch, `C` classes without background, `K = C + 1` with background first, `D` features,
`H, W` pixels of the crop, `h, w` cells of the feature map. Sizes are always `(height, width)`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tag2mask.config import BACKGROUND, IGNORE

__all__ = ["BACKGROUND", "IGNORE", "Batch", "Losses", "Outputs", "Sample"]


class Sample(NamedTuple):
    """One picture after the joint transform, as the loader collates it."""

    rgb: Tensor
    """uint8 [3, H, W], 0-255; padding holds the backbone's mean color."""
    valid: Tensor
    """bool [H, W], False on padding."""
    tags: Tensor
    """bool [C]."""
    mask: Tensor
    """int64 [H, W] in {0..C, 255}; all 255 where the picture has no mask. Never used for training on tags."""
    name: str
    broken: tuple[str, ...] = ()
    """Pictures that could not be read and were passed over to get this one."""


@dataclass(frozen=True, eq=False)
class Batch:
    """B samples on one device."""

    rgb: Tensor
    """uint8 [B, 3, H, W]."""
    valid: Tensor
    """bool [B, H, W]."""
    tags: Tensor
    """bool [B, C]."""
    mask: Tensor
    """int64 [B, H, W]."""
    names: tuple[str, ...]
    broken: tuple[str, ...] = ()

    @staticmethod
    def collate(samples: list[Sample]) -> Batch:
        """Stack samples of one size."""
        return Batch(
            rgb=torch.stack([s.rgb for s in samples]),
            valid=torch.stack([s.valid for s in samples]),
            tags=torch.stack([s.tags for s in samples]),
            mask=torch.stack([s.mask for s in samples]),
            names=tuple(s.name for s in samples),
            broken=tuple(name for s in samples for name in s.broken),
        )

    def rows(self, indices: Sequence[int]) -> Batch:
        """Some of the samples, in the order of `indices`."""
        names = tuple(self.names[i] for i in indices)
        return replace(self._changed(lambda tensor: tensor[list(indices)]), names=names)

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        return self._changed(lambda tensor: tensor.to(device, non_blocking=True))

    def _changed(self, change: Callable[[Tensor], Tensor]) -> Batch:
        tensors: dict[str, Any] = {name: change(getattr(self, name)) for name in ("rgb", "valid", "tags", "mask")}
        return replace(self, **tensors)


class Outputs(NamedTuple):
    """What the network gives for a batch of normalized images."""

    features: Tensor
    """float [B, D, h, w], before the dropout of the tag branch."""
    tag_logits: Tensor
    """float [B, C]."""
    seg_logits: Tensor | None
    """float [B, K, h, w], background first; None when the segmentation branch was not asked for."""
    distance_features: Tensor | None = None
    """float [B, 1024, h, w] (768 on narrow backbones) that the class distance loss compares; of networks with attention
    only."""


@dataclass(frozen=True, eq=False)
class Losses:
    """The losses of one step; `total` is their plain sum, as published."""

    parts: dict[str, Tensor]
    """Float scalars by name: tag, segmentation, energy, class_distance, ...; a part that does not apply is not there.
    A name is enough for its column in metrics.csv and its line in the chart of the report."""
    reliable_share: float | None = None
    """Share of the valid pixels that carry a reliable label, 0-1; None where none were made."""
    mining_seconds: float = 0.0
    """Wall time of the CRF votes and the reliable labels."""
    background_share: float | None = None
    """Share of background among the labeled pixels of tagged pictures, 0-1; None where there are none."""

    @property
    def total(self) -> Tensor:
        """L_cls + L_ce + L_energy (paper, joint loss), in the extension with the class distance."""
        first, *others = self.parts.values()
        return sum(others, first)
