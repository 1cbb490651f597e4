"""Pictures and scores that follow from a seed, the same for every run on every machine."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

from tag2mask import reliable
from tag2mask.config import ReliableConfig
from tag2mask.data.builtin.objects import color, noise

Size = tuple[int, int]
"""Height and width."""


def pictures(count: int, size: Size) -> Tensor:
    """uint8 [count, 3, H, W], the same ones for every run on every machine."""
    channels_last = np.stack([dead_leaves(seed, size) for seed in range(count)])
    return torch.from_numpy(channels_last).permute(0, 3, 1, 2).contiguous()


def dead_leaves(seed: int, size: Size) -> NDArray[np.uint8]:
    """A picture uint8 [H, W, 3] with the statistics of photographs: discs of all scales that hide each other.

    Radii have density r^-3, which makes the spectrum that of natural pictures (the dead leaves model); shading and
    grain on top. A bilateral lattice gets as many vertices from it as from photographs: about 0.05 a pixel at widths
    80 and 13, 0.3 at 83 and 5.
    """
    rng = np.random.default_rng((seed, *size))
    height, width = size
    low, high = 3.0, max(0.35 * max(size), 6.0)
    area = (height + 2 * high) * (width + 2 * high)
    count = int(4 * area / (2 * math.pi * low**2 * math.log(high / low)))  # four layers of discs: no ground is seen
    radius = low / np.sqrt(1 - rng.random(count) * (1 - (low / high) ** 2))
    x = rng.uniform(-high, width + high, count)
    y = rng.uniform(-high, height + high, count)
    hue = rng.random() + 0.12 * rng.standard_normal(count)
    saturation, value = rng.uniform(0.05, 0.35, count), rng.normal(0.45, 0.18, count).clip(0.05, 1)
    image = Image.new("RGB", (width, height))
    drawing = ImageDraw.Draw(image)
    for i in np.flatnonzero((abs(x - width / 2) < width / 2 + radius) & (abs(y - height / 2) < height / 2 + radius)):
        r, g, b = (round(255 * float(level)) for level in color(hue[i], saturation[i], value[i]))
        box = (x[i] - radius[i], y[i] - radius[i], x[i] + radius[i], y[i] + radius[i])
        drawing.ellipse(box, fill=(r, g, b))
    canvas = np.asarray(image.filter(ImageFilter.GaussianBlur(0.7)), np.float32)
    shading = 1 + 0.5 * (noise(rng, size, max(size) / 120, 5) - 0.5)
    grain = 1.2 * rng.standard_normal((height, width, 1), dtype=np.float32)
    return np.asarray(np.clip(np.rint(canvas * shading[..., None] + grain), 0, 255), np.uint8)


def score_maps(batch: int, labels: int, size: Size, runs: int) -> Tensor:
    """Scores float32 [B, R, L, H, W] like those of CAMs: smooth blobs, and a background (1 - max)^4, then ^32."""
    rng = np.random.default_rng((batch, labels, *size))
    maps = np.stack([noise(rng, size, 4, 2) for _ in range(batch * (labels - 1))])
    cams = torch.from_numpy(np.clip(4 * maps - 2, 0, 1)).reshape(batch, labels - 1, *size)
    config = ReliableConfig()
    powers = config.foreground_power, config.background_power
    both = [torch.cat([reliable.background_score(cams, power), cams], dim=1) for power in powers]
    return torch.stack(both[:runs], dim=1)


def shrunk(size: Size, factor: int) -> Size:
    """Sides divided by `factor` and even, so that their product is a multiple of 4: pydensecrf pads other sizes."""
    return size if factor == 1 else (size[0] // factor // 2 * 2, size[1] // factor // 2 * 2)


def size_text(size: Size) -> str:
    """448×448; squares of the energy filter too."""
    return f"{size[0]}×{size[1]}"
