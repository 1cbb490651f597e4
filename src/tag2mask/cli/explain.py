"""The command explain: one picture step by step."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from tag2mask.cli.advice import beside, next_command, unless_dead
from tag2mask.cli.common import Command, Device, Json, Result, Run
from tag2mask.config.inference import CRFPreset


class Explain(Command):
    """Show one picture step by step: CAM, CRF votes, reliable labels, prediction; a PNG and a JSON."""

    run: Run
    """Run folder or .safetensors file."""
    image: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="IMAGE")]
    """The picture."""
    out: Path
    """Folder for NAME.png and NAME.json."""
    tags: tuple[str, ...] | None = None
    """Classes known to be in the picture; default those that the tag scores name."""
    crf: Annotated[CRFPreset, tyro.conf.arg(name="crf-preset")] = "inference"
    """CRF of the last step."""
    device: Device = "auto"
    json: Json = False

    def _run(self) -> Result:
        from tag2mask.jobs.explanation import explain

        result = explain(**self.arguments())
        line = next_command("predict", self.run, self.image.parent, out=beside(self.run, "predicted"))
        lines = [f"sheet: {result.sheet}", f"numbers: {result.json}", unless_dead(self.run, line)]
        return result, lines, 0
