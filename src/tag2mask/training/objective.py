"""What a training run learns, and what the loop tells it at each step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import nn

from tag2mask.base.team import Team
from tag2mask.batch import Batch, Losses
from tag2mask.models.base import SegmentationNetwork


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Where a run stands when it asks for the losses of a batch."""

    model: nn.Module
    """The network that trains, as the accelerator wrapped it; to be called once."""
    network: SegmentationNetwork
    """The same network, bare."""
    average: SegmentationNetwork | None
    """Running average of the network."""
    phase: str
    """Name of the phase."""
    progress: float
    """Share of the phase that lies behind, in 0..1."""
    team: Team
    """Processes that share the batch."""

    @property
    def keeper(self) -> SegmentationNetwork:
        """The network that is shown and saved: the running average where there is one."""
        return self.network if self.average is None else self.average


class Objective(Protocol):
    """What a run learns."""

    def losses(self, at: Moment, batch: Batch) -> Losses:
        """The losses of the batch of which this process has B samples, on the model's device."""
        ...

    def write_samples(self, run: Path, at: Moment, batch: Batch, step: int) -> Path:
        """Write `samples/step-N.jpg` of a batch that was learned at that moment; the random state stays as it was."""
        ...
