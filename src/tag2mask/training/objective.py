"""What a training run learns: the interface between the loop and the two steps."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from tag2mask.batch import Batch, Losses
from tag2mask.method import Moment


class Objective(Protocol):
    """What a run learns."""

    def losses(self, at: Moment, batch: Batch) -> Losses:
        """The losses of the batch of which this process has B samples, on the model's device."""
        ...

    def write_samples(self, run: Path, at: Moment, batch: Batch, step: int) -> Path:
        """Write `samples/step-N.jpg` of a batch that was learned at that moment; the random state stays as it was."""
        ...
