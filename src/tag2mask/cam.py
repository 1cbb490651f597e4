"""Class activation maps over several scales (paper figure 2; method 2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tag2mask.models.network import Network

_CPU_PIXELS = 450_000
"""Pixels that pass the network together on a CPU."""


@torch.no_grad()
def multi_scale_cam(
    model: Network,
    images: Tensor,
    tags: Tensor,
    scales: Sequence[float] = (1.0, 0.5, 1.5, 2.0),
    valid: Tensor | None = None,
    *,
    features: Tensor | None = None,
) -> Tensor:
    """Class activation maps, averaged over scales and normalized per class.

    At each scale the map is relu(classifier weight * features). The maps are resized to the map of the first scale
    and averaged without further weights, resized to the picture (bilinear, align_corners=False), multiplied by the
    tags and divided by their maximum over the valid pixels plus 1e-5. No minimum is subtracted.

    Dropout inside the backbone acts as the model's mode says; the classifier's own dropout never does.

    Args:
        model: Network whose features and classifier weights are used; its mode is left as it is.
        images: float [B, 3, H, W], normalized by `model.normalize`.
        tags: bool [B, C].
        scales: Resize factors, each > 0.
        valid: bool [B, H, W], False on padding; None means all True (the published rule, which lets padding take part
            in the maximum).
        features: float [B, D, h, w] of `images` at scale 1, to save that pass; used for scales[0] == 1.

    Returns:
        float [B, C, H, W] in [0, 1]: exactly 0 for absent tags and where not valid. Carries no gradient.

    Raises:
        ValueError: no scale, a scale that is not positive, or shapes that do not fit.
    """
    if not scales or min(scales) <= 0:
        raise ValueError(f"scales must hold at least one positive number, got {tuple(scales)}")
    if images.ndim != 4 or tags.shape != (images.shape[0], model.num_classes):
        raise ValueError(
            f"multi_scale_cam needs images [B, 3, H, W] and tags [B, {model.num_classes}], "
            f"got {tuple(images.shape)} and {tuple(tags.shape)}"
        )
    reused = features if scales[0] == 1 else None
    first = _map_at(model, images, scales[0]) if reused is None else model.cam(reused)
    maps = [first, *(_map_at(model, images, scale) for scale in scales[1:])]
    size = maps[0].shape[-2:]
    mean = torch.stack([F.interpolate(m, size, mode="bilinear", align_corners=False) for m in maps]).mean(0)
    cams = F.interpolate(mean, images.shape[-2:], mode="bilinear", align_corners=False)
    cams = cams * tags[:, :, None, None]
    if valid is not None:
        cams = cams * valid[:, None]
    return cams / (cams.amax(dim=(2, 3), keepdim=True) + 1e-5)


def _map_at(model: Network, images: Tensor, scale: float) -> Tensor:
    """The class activation map float [B, C, h, w] of the pictures resized by `scale`."""
    if scale != 1:
        # rounded down as published (321 at 1.5 is 481), but at least one pixel of a thin picture
        size = [max(1, int(side * scale)) for side in images.shape[-2:]]
        images = F.interpolate(images, size, mode="bilinear", align_corners=False)
    # On a CPU a few pictures at a time stay in its cache, which is faster at the larger scales.
    pixels = images.shape[-2] * images.shape[-1]
    count = max(1, _CPU_PIXELS // pixels) if images.device.type == "cpu" else len(images)
    parts = images.chunk(-(-len(images) // count))
    return torch.cat([model.cam(model(part, segment=False).features) for part in parts])
