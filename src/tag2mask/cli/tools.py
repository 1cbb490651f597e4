"""Commands around the method: demo and bench."""

from __future__ import annotations

import sys
from pathlib import Path

from tag2mask.cli.advice import beside, next_command, pictures_of
from tag2mask.cli.common import Misuse, Result, Run, jsonable


def demo_command(out: str | None = None, json: bool = False) -> Result:
    """Whole job on the built-in data set: no downloads, no GPU, a few minutes.

    Args:
        out: New folder for data, run and report.html; default runs/demo, then -2, -3 ...
        json: Print one JSON object on stdout and nothing else.
    """
    from tag2mask.jobs.demonstration import demo
    from tag2mask.scoring.report import score_lines

    result = demo(out)
    table = score_lines({"segmentation": result.segmentation, "CAM with true tags": result.cam})
    lines = [*table, f"{result.seconds:.0f} s in all", f"report: {result.report}", f"run folder: {result.run}"]
    held_out = pictures_of(result.report.parent / "data", split="val")
    if held_out is not None:
        place = result.report.parent / "explained"
        lines.append(next_command("explain", result.run, held_out.pictures[0].path, out=place))
    return jsonable(result), lines, 0


def bench_command(
    *,
    only: tuple[str, ...] = (),
    rounds: int | None = None,
    quick: bool = False,
    plots: Path | None = None,
    json: bool = False,
) -> Result:
    """Speed of the kernels and of a training step on this machine, against pydensecrf if it is installed.

    Args:
        only: Measurements to make: pair-l3, pair-l5, pair-l21, cold-l3, batch-8, inference-l21, energy-160,
            energy-224, twin-l3, cuda-batch-8, training-step, pixels, labels; default all.
        rounds: Counted rounds of each contender; default 7, 2 with --quick.
        quick: Small pictures and few rounds: shows that everything works, no measurement.
        plots: Folder for plots of cost against pixels and against labels.
        json: Print one JSON object on stdout and nothing else.
    """
    from tag2mask.jobs.benchmark import bench, check_arguments, table_lines

    try:
        check_arguments(only, rounds, plots)
    except ValueError as error:
        raise Misuse(f"bench: {error}") from error

    def tell(done: int, total: int, name: str) -> None:
        # lines, no bar: what redraws a bar would run beside, and count into, what is measured
        print(f"bench {done}/{total}  {name}", file=sys.stderr, flush=True)

    report = bench(only, rounds=rounds, quick=quick, plots=plots, progress=tell)
    lines = [*table_lines(report), f"plots: {plots}" if plots else "no file was written; --plots DIR draws the curves"]
    if quick:
        lines.append(next_command("bench"))
    else:
        lines.append(next_command("demo") if plots else next_command("bench", plots="bench_plots"))
    return jsonable(report), lines, 0


def ui_command(
    run: Run,
    *,
    port: int = 7860,
    ranked: Path | None = None,
    pictures: Path | None = None,
    device: str = "auto",
    json: bool = False,
) -> Result:
    """A local page: drop a picture, see its mask and how it came about, save it.

    Args:
        run: Run folder, .safetensors or .onnx file.
        port: Port on this machine (127.0.0.1); 0 takes a free one.
        ranked: Folder that predict --rank wrote, to browse its list.
        pictures: Folder of the pictures of that list.
        device: auto, cpu, cuda or mps.
        json: Print one JSON object on stdout and nothing else.
    """
    from tag2mask.web.server import ui

    addresses: list[str] = []

    def ready(address: str) -> None:
        addresses.append(address)
        print(f"the page is at {address} (Ctrl-C ends it)", file=sys.stderr, flush=True)

    ui(run, port=port, ranked=ranked, pictures=pictures, device=device, ready=ready)
    lines = ["the page is closed; what you did not save from it is gone"]
    if pictures is None:
        lines.append(next_command("ui", run, port=None if port == 7860 else port))
    else:
        lines.append(next_command("predict", run, pictures, out=beside(pictures, "masks")))
    return {"address": addresses[0]}, lines, 0
