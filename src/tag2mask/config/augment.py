"""How pictures are cropped, scaled and colored for training. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from tag2mask.config.codes import MAX_SIDE
from tag2mask.config.fields import Settings, require, setting


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(Settings):
    """The joint transform of picture, mask and valid area."""

    PREFIX: ClassVar[str] = "--augment."

    crop_size: int = setting(224, within=f"[2, {MAX_SIDE}]")
    """Height and width of a training crop in pixels, even or odd."""
    scale: tuple[float, float] = (0.7, 1.3)
    """Range of the random scale."""
    scale_per: Literal["picture", "batch"] = "picture"
    """Draw the scale anew for each `picture`, or once per `batch` as the published code does [C]."""
    flip: float = setting(0.5, within="[0, 1]")
    """Probability of a horizontal flip."""
    vertical_flip: float = setting(0.0, within="[0, 1]")
    """Probability of a vertical flip, for pictures that have no top."""
    jitter: tuple[float, float, float, float] = (0.3, 0.3, 0.3, 0.1)
    """Color jitter: brightness, contrast, saturation, hue; zeros switch it off."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.scale[0] <= self.scale[1], f"--augment.scale must be 0 < low <= high, got {self.scale}")
        require(
            min(self.jitter) >= 0 and self.jitter[3] <= 0.5,
            f"--augment.jitter must be 0 or more, its last (hue) at most 0.5, got {self.jitter}",
        )
