"""The command export: a model for use elsewhere."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Literal

from tag2mask.base.console import Bar
from tag2mask.cli.advice import after_exporting, next_command
from tag2mask.cli.common import Command, Json, Result, Run


class Export(Command):
    """Model for use elsewhere, compared with the network: ONNX, torch.export, or a folder for the hub.

    Exit code 1 where fewer than 99.9 % of the pixels get the network's label.
    """

    run: Run
    """Run folder of train or retrain, or .safetensors file."""
    format: Literal["onnx", "torch", "hub"] = "onnx"
    """onnx: for onnxruntime; torch: a program of torch.export (.pt2); hub: a folder for the Hugging Face hub."""
    out: Path | None = None
    """New file or folder; default model.onnx, model.pt2 or hub in the run folder."""
    data: Path | None = None
    """Data set whose pictures the comparison takes; default generated ones."""
    split: str = "val"
    """Its split."""
    limit: int = 8
    """Compare on at most so many of its pictures; 0 for all."""
    evaluation: Path | None = None
    """evaluation.json for the model card (hub); default the one in the run folder, if there."""
    license: str | None = None
    """Name of the model's license for its card (hub), such as mit; default that of the weights that it began with."""
    json: Json = False

    def _run(self) -> Result:
        from tag2mask.jobs.exporting.parity import MIN_EQUAL
        from tag2mask.jobs.exporting.run import export

        with Bar("compare") as bar:
            result = export(**self.arguments(), progress=bar.update)
        parity = result.parity
        lines = [
            f"{result.format}: {result.out} ({result.size_bytes / 1e6:.1f} MB, {result.seconds:.0f} s)",
            f"parity on {parity.num_images} pictures ({parity.pictures}): max |Δ| of probabilities "
            f"{parity.max_difference:.2g}, equal pixels {_percent(parity.equal_pixels)} "
            f"(worst picture {_percent(parity.least_equal)})",
        ]
        if not parity.good:
            lines.append(f"this is less than {100 * MIN_EQUAL:g} %: do not use {result.out}; use the run itself")
            return result, [*lines, next_command("ui", self.run)], 1
        if self.format == "hub":
            license = result.license or "not stated; --license NAME does"
            lines.append(f"license in the model card: {license}")
            lines.append(
                f"to publish, after `hf auth login`: {shlex.join(['hf', 'upload', 'OWNER/NAME', str(result.out)])}"
            )
        return result, [*lines, after_exporting(self.format, result.out, self.run, self.data)], 0


def _percent(share: float) -> str:
    """A share as text that says 100 % only where nothing is missing."""
    return "100 %" if share == 1 else f"{min(100 * share, 99.9999):.4f} %"
