"""The command pseudo-label: training masks for the second step."""

from __future__ import annotations

from pathlib import Path

from tag2mask.base.console import Bar
from tag2mask.cli.advice import after_pseudo_labeling
from tag2mask.cli.common import Command, Device, Json, Result, Run, tell_errors
from tag2mask.cli.inference import DataInferenceOptions
from tag2mask.config import MaskSource
from tag2mask.config.formats import DataOptions


class PseudoLabel(Command):
    """Write training masks for a second network, limited to each picture's tags."""

    run: Run
    """Run folder or .safetensors file."""
    data: Path
    """Data set with tags."""
    out: Path
    """Folder of the masks."""
    split: str | None = None
    """Name of a split, or a file with one picture per line; default the split to train on."""
    source: MaskSource | None = None
    """What the masks are drawn from: the `segmentation` branch, or the `evidence` of the tags, which suits objects of
    very different sizes; default what the run was trained for."""
    inference: DataInferenceOptions = DataInferenceOptions()
    min_confidence: float = 0.0
    """Pixels to whose label the network gives less (before any CRF) become 255."""
    data_options: DataOptions = DataOptions()
    device: Device = "auto"
    json: Json = False

    def _run(self) -> Result:
        from tag2mask.jobs.pseudo_labels import pseudo_label

        with Bar("pseudo-label") as bar:
            result = pseudo_label(**self.arguments(), progress=bar.update)
        tell_errors(result.errors)
        lines = [
            f"{result.num_images} masks, {result.ignored_share:.1%} of their pixels ignored: {result.out}",
            after_pseudo_labeling(self.run, result, self.data, self.data_options, self.split),
        ]
        return result, lines, 1 if result.errors else 0
