"""The command that hands models on: export."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tag2mask.base.console import Bar
from tag2mask.cli.advice import after_exporting, next_command
from tag2mask.cli.common import Result, Run, jsonable


def export_command(
    run: Run,
    *,
    format: Literal["onnx", "torch", "hub"] = "onnx",
    out: Path | None = None,
    data: Path | None = None,
    split: str = "val",
    limit: int = 8,
    evaluation: Path | None = None,
    json: bool = False,
) -> Result:
    """Model for use elsewhere, compared with the network: ONNX, torch.export, or a folder for the hub.

    Exit code 1 where fewer than 99.9 % of the pixels get the network's label.

    Args:
        run: Run folder of train or retrain, or .safetensors file.
        format: onnx: for onnxruntime; torch: a program of torch.export (.pt2); hub: a folder for the Hugging Face hub.
        out: New file or folder; default model.onnx, model.pt2 or hub in the run folder.
        data: Data set whose pictures the comparison takes; default generated ones.
        split: Its split.
        limit: Compare on at most so many of its pictures; 0 for all.
        evaluation: evaluation.json for the model card (hub); default the one in the run folder, if there.
        json: Print one JSON object on stdout and nothing else.
    """
    from tag2mask.jobs.exporting.parity import MIN_EQUAL
    from tag2mask.jobs.exporting.run import export

    with Bar("compare") as bar:
        result = export(
            run,
            format=format,
            out=out,
            data=data,
            split=split,
            limit=limit,
            evaluation=evaluation,
            progress=bar.update,
        )
    parity = result.parity
    lines = [
        f"{result.format}: {result.out} ({result.size_bytes / 1e6:.1f} MB, {result.seconds:.0f} s)",
        f"parity on {parity.num_images} pictures ({parity.pictures}): max |Δ| of probabilities "
        f"{parity.max_difference:.2g}, equal pixels {_percent(parity.equal_pixels)} "
        f"(worst picture {_percent(parity.least_equal)})",
    ]
    if not parity.good:
        lines.append(f"this is less than {100 * MIN_EQUAL:g} %: do not use {result.out}; use the run itself")
        lines.append(next_command("ui", run))
    else:
        if format == "hub":
            lines.append(f'to publish: tag2mask.Segmenter.load({str(result.out)!r}).push_to_hub("OWNER/NAME")')
        lines.append(after_exporting(format, result.out, run, data, split))
    return jsonable(result), lines, 0 if parity.good else 1


def _percent(share: float) -> str:
    """A share as text that says 100 % only where nothing is missing."""
    return "100 %" if share == 1 else f"{min(100 * share, 99.9999):.4f} %"
