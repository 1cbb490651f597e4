"""How pictures are cropped, scaled and colored for training. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tag2mask.config.codes import MAX_SIDE
from tag2mask.config.method import require


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """The joint transform of picture, mask and valid area."""

    crop_size: int = 224
    """Height and width of a training crop in pixels, even or odd."""
    scale: tuple[float, float] = (0.7, 1.3)
    """Range of the random scale."""
    scale_per: Literal["picture", "batch"] = "picture"
    """Draw the scale anew for each `picture`, or once per `batch` as the published code does [C]."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    jitter: tuple[float, float, float, float] = (0.3, 0.3, 0.3, 0.1)
    """Color jitter: brightness, contrast, saturation, hue; zeros switch it off."""

    def __post_init__(self) -> None:
        require(2 <= self.crop_size <= MAX_SIDE, f"--augment.crop-size must be 2 to {MAX_SIDE}, got {self.crop_size}")
        require(0 < self.scale[0] <= self.scale[1], f"--augment.scale must be 0 < low <= high, got {self.scale}")
        require(0 <= self.flip <= 1, f"--augment.flip must lie in [0, 1], got {self.flip}")
        require(
            min(self.jitter) >= 0 and self.jitter[3] <= 0.5,
            f"--augment.jitter must be 0 or more, its last (hue) at most 0.5, got {self.jitter}",
        )
