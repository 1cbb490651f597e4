"""The command demo: the whole job on the built-in data set."""

from __future__ import annotations

from tag2mask.cli.advice import next_command
from tag2mask.cli.common import Command, Json, Result


class Demo(Command):
    """Whole job on the built-in data set: no downloads, no GPU, a few minutes."""

    out: str | None = None
    """New folder for data, run and report.html; default runs/demo, then -2, -3 ..."""
    json: Json = False

    def _run(self) -> Result:
        from tag2mask.jobs.demonstration import demo
        from tag2mask.scoring.report import score_lines

        result = demo(self.out)
        folder = result.report.parent
        picture = min((folder / "data" / "images").glob("val_*"))
        lines = [
            *score_lines({"segmentation": result.segmentation, "CAM with true tags": result.cam}),
            f"{result.seconds:.0f} s in all",
            f"report: {result.report}",
            f"run folder: {result.run}",
            next_command("explain", result.run, picture, out=folder / "explained"),
        ]
        return result, lines, 0
