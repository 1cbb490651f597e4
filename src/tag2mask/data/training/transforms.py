"""The one joint transform of picture, mask and valid area.

The random numbers are drawn first (`draw`), then used (`joint_transform`), so that each part can be tested alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from tag2mask.config import IGNORE, AugmentConfig


class Crop(NamedTuple):
    """Result of the joint transform."""

    rgb: Tensor
    """uint8 [3, H, W]."""
    mask: Tensor
    """int64 [H, W] in {0..C, 255}, 255 on padding."""
    valid: Tensor
    """bool [H, W], one rectangle, False on padding; its bounds are even, or the last row or column of an odd crop."""


@dataclass(frozen=True)
class Draw:
    """The random numbers of one item."""

    scale: float
    """Factor on the size."""
    flip: bool
    row: float
    """Vertical place of the crop, or of a smaller picture in it, in [0, 1)."""
    column: float
    """Horizontal place, in [0, 1)."""
    brightness: float
    contrast: float
    saturation: float
    hue: float
    """Turn of the hue, in [-0.5, 0.5]."""
    order: tuple[int, ...]
    """Order of the four colour changes."""
    vertical_flip: bool = False


def draw(rng: np.random.Generator, augment: AugmentConfig) -> Draw:
    """Random numbers of one item; colour factors and their order are drawn as in torchvision's ColorJitter."""
    brightness, contrast, saturation, hue = augment.jitter
    return Draw(
        scale=float(rng.uniform(*augment.scale)),
        flip=bool(rng.random() < augment.flip),
        row=float(rng.random()),
        column=float(rng.random()),
        brightness=float(rng.uniform(max(0.0, 1 - brightness), 1 + brightness)),
        contrast=float(rng.uniform(max(0.0, 1 - contrast), 1 + contrast)),
        saturation=float(rng.uniform(max(0.0, 1 - saturation), 1 + saturation)),
        hue=float(rng.uniform(-hue, hue)),
        order=tuple(int(i) for i in rng.permutation(4)),
        vertical_flip=bool(rng.random() < augment.vertical_flip),
    )


def joint_transform(
    rgb: NDArray[np.uint8],
    mask: NDArray[np.uint8] | None,
    drawn: Draw,
    *,
    crop_size: int,
    image_size: int | None,
    fill_rgb: tuple[int, int, int],
) -> Crop:
    """Scale, flip, crop, change colours, pad: picture, mask and valid area together.

    The picture is resampled once (bilinear with antialias; mask nearest), to its longer side `image_size` times
    `drawn.scale`. A picture smaller than the crop is placed at random on `fill_rgb`. Its place and size there are even
    (its last odd row or column is dropped), so sampling at half size mixes no padding with picture. Half of an odd crop
    leaves out its last row and column (321 becomes 160), as the published resampling does.

    Args:
        rgb: uint8 [H, W, 3].
        mask: uint8 [H, W] in {0..C, 255}, or None for a picture without.
        drawn: From `draw`.
        crop_size: Height and width of the result.
        image_size: Longer side before the random scale; None keeps the size.
        fill_rgb: Colour of the padding, 0-255.
    """
    height, width = rgb.shape[:2]
    labels = np.full((height, width), IGNORE, np.uint8) if mask is None else mask
    picture = tv_tensors.Image(torch.from_numpy(rgb).permute(2, 0, 1))
    truth = tv_tensors.Mask(torch.from_numpy(labels)[None])
    factor = drawn.scale * (1.0 if image_size is None else image_size / max(height, width))
    size = (max(2, round(height * factor)), max(2, round(width * factor)))
    rows, columns = (_place(side, crop_size, u) for side, u in zip(size, (drawn.row, drawn.column), strict=True))

    def geometry(image: Tensor) -> Tensor:
        image = F.resize(image, list(size), interpolation=v2.InterpolationMode.BILINEAR, antialias=True)
        image = F.horizontal_flip(image) if drawn.flip else image
        image = F.vertical_flip(image) if drawn.vertical_flip else image
        cropped: Tensor = F.crop(image, rows.source, columns.source, rows.length, columns.length)
        return cropped

    valid = tv_tensors.Mask(torch.ones((1, rows.length, columns.length), dtype=torch.bool))
    colors = list(map(float, fill_rgb))
    return Crop(
        rgb=_pad(_jitter(geometry(picture), drawn), rows, columns, crop_size, colors).contiguous(),
        mask=_pad(geometry(truth), rows, columns, crop_size, IGNORE)[0].long(),
        valid=_pad(valid, rows, columns, crop_size, 0)[0],
    )


class _Span(NamedTuple):
    source: int
    """First pixel taken from the scaled picture."""
    target: int
    """Where it goes in the crop; even."""
    length: int
    """Pixels taken; even, or the whole crop."""


def _place(side: int, crop_size: int, u: float) -> _Span:
    """Random crop of a longer side, random even place of a shorter one."""
    if side >= crop_size:
        return _Span(int(u * (side - crop_size + 1)), 0, crop_size)
    length = side - side % 2
    target = 2 * int(u * ((crop_size - length) // 2 + 1))
    return _Span(0, target, length)


def _pad(image: Tensor, rows: _Span, columns: _Span, crop_size: int, fill: float | list[float]) -> Tensor:
    right = crop_size - columns.target - columns.length
    bottom = crop_size - rows.target - rows.length
    padded: Tensor = F.pad(image, [columns.target, rows.target, right, bottom], fill=fill)
    return padded.as_subclass(Tensor)


def _jitter(image: Tensor, drawn: Draw) -> Tensor:
    changes = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
    factors = (drawn.brightness, drawn.contrast, drawn.saturation, drawn.hue)
    for i in drawn.order:
        if factors[i] != (0 if i == 3 else 1):
            image = changes[i](image, factors[i])
    return image
