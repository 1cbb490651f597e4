"""How pictures are predicted: one record that goes from the command, or the call, to the backend. Imports no torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeAlias

from tag2mask.config.codes import MAX_PIXELS
from tag2mask.config.fields import require
from tag2mask.config.method import CRFParams

CRFPreset: TypeAlias = Literal["inference", "aaai_inference"]
CRFChoice: TypeAlias = bool | CRFParams | CRFPreset | None
CRF_PRESETS = {"inference": CRFParams.inference(), "aaai_inference": CRFParams.aaai_inference()}
MIN_TILE = 64
"""Smallest side of a tile: a smaller one shows too little of a thing."""


def resolve_crf(crf: CRFChoice) -> CRFParams | None:
    """The CRF that `crf` stands for: None or False for none, True for `CRFParams.inference()`, or a preset's name."""
    if crf is None or crf is False:
        return None
    if crf is True:
        return CRFParams.inference()
    if isinstance(crf, CRFParams):
        return crf
    require(crf in CRF_PRESETS, f"--crf must be None, True, CRFParams or one of {', '.join(CRF_PRESETS)}, got {crf!r}")
    return CRF_PRESETS[crf]


@dataclass(frozen=True, kw_only=True)
class Inference:
    """Everything that decides what a network's prediction of a picture is."""

    crf: CRFChoice = None
    """None for none; True, a preset's name or `CRFParams` to refine the probabilities at the picture's size. Kept as
    `CRFParams` or None."""
    scales: Sequence[float] = (1.0,)
    """Factors on the network's picture size, averaged."""
    flip: bool = False
    """Average with the mirrored picture."""
    tags: Sequence[str] | Sequence[Sequence[str]] | None = None
    """Names of the classes known to be in the picture: all others get probability 0, and these share what the network
    gives to objects. For a list of pictures either one list of names for all, or one per picture."""
    tile: int | None = None
    """Side of overlapping tiles in pixels; by itself for large pictures of runs that keep their size."""
    max_pixels: int = MAX_PIXELS
    """Files and PIL images with more pixels are refused."""
    batch_size: int = 1
    """Pictures that pass the network together."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "crf", resolve_crf(self.crf))
        object.__setattr__(self, "scales", tuple(self.scales))
        positive = all(0 < scale < math.inf for scale in self.scales)
        require(bool(self.scales) and positive, f"--scales must hold at least one positive number, got {self.scales}")
        large = self.tile is None or self.tile >= MIN_TILE
        require(large, f"--tile must be at least {MIN_TILE} pixels, got {self.tile}; leave it out for no tiles.")
        require(self.max_pixels >= 1, f"--max-pixels must be at least 1, got {self.max_pixels}.")
        require(self.batch_size >= 1, f"--batch-size must be at least 1, got {self.batch_size}")

    @classmethod
    def split(
        cls, inference: Inference | None, options: Mapping[str, Any], without: Sequence[str] = ()
    ) -> tuple[Inference, dict[str, Any]]:
        """The record with the fields that `options` gives by name, except `without`; and the other options."""
        names = {field.name for field in dataclasses.fields(cls)}.difference(without) & options.keys()
        others = {name: value for name, value in options.items() if name not in names}
        return (inference or cls()).replace(**{name: options[name] for name in names}), others

    def replace(self, **changes: Any) -> Self:
        """A copy with other values.

        Raises:
            TypeError: a name that is no field, with the fields there are.
        """
        names = [field.name for field in dataclasses.fields(self)]
        if unknown := sorted(set(changes) - set(names)):
            raise TypeError(f"There is no option {', '.join(unknown)}; there are {', '.join(names)}.")
        return dataclasses.replace(self, **changes)
