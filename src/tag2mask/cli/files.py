"""Commands that turn files into files of another format: convert."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from tag2mask.cli.common import Result, jsonable


def convert_command(
    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SOURCE")],
    *,
    to: Literal["safetensors"],
    out: Path,
    json: bool = False,
) -> Result:
    """Published weights to files of this package: a complete model, or weights to start training from.

    Args:
        source: MXNet .params, res38_cls.pth, RRM_final.pth or RRM(attention)_final.pth; its keys decide which it is.
        to: Format to write.
        out: New file NAME.safetensors.
        json: Print one JSON object on stdout and nothing else.
    """
    from tag2mask.conversion import convert

    result = convert(source, to=to, out=out)
    lines = [f"{source} is {result.title}", f"holds: {', '.join(result.parts)}"]
    if result.left_out:
        lines.append(f"left out: {', '.join(result.left_out)}")
    if result.complete:
        lines += [f"model: {out}", f"next: tag2mask evaluate {out} --data VOC2012"]
    else:
        preset = "voc-rrm" if "classifier" in result.parts else "voc-rrm-init"
        lines += [f"weights: {out}", f"next: tag2mask train {preset} --weights {out} --data VOC2012"]
    return jsonable(result), lines, 0
