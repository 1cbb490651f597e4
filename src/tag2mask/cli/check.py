"""The command check: is a data set fit to train on?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from tag2mask.base.console import Bar
from tag2mask.cli.advice import next_command
from tag2mask.cli.common import Command, Device, Json, Result
from tag2mask.config import AugmentConfig
from tag2mask.config.formats import DataOptions


class Check(Command):
    """Is this data set fit to train on? Broken and copied pictures, leaks, tags, classes, sizes.

    Exit code 1 where training would be pointless, with the reason.
    """

    data: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PATH")]
    """Folder of the data set. Nothing in it is changed."""
    train_split: str | None = None
    """Split to train on, by name, or a file with one picture per line."""
    min_images: int = 10
    """A class on fewer pictures is rare."""
    crop_size: int = AugmentConfig().crop_size
    """Training crop in pixels, against which pictures count as tiny."""
    jobs: int = 0
    """Threads that read pictures; 0 for one per processor, 8 at most."""
    run: str | None = None
    """Run (or model file) that judges the tags: lists those that are probably wrong."""
    device: Device = "auto"
    out: Path | None = None
    """Page to write, such as check.html: findings with pictures, classes, sizes, probably wrong tags (all of them in
    suspicious_tags.csv beside it). Without it no file is written."""
    data_options: DataOptions = DataOptions()
    json: Json = False

    def _run(self) -> Result:
        from tag2mask.jobs.checking import check, report_lines
        from tag2mask.jobs.checking.wrong_tags import LIST

        with Bar("check") as bar:
            report = check(**self.arguments(), progress=bar.update)
        page = "no file was written; --out check.html writes a page with the pictures"
        if self.out is not None:
            page = f"page: {self.out}" + ("" if self.run is None else f"; list: {self.out.with_name(LIST)}")
        suspicious = report.suspicious is not None and report.suspicious.tags
        asked = {"train_split": self.train_split, **self.data_options.asked()}
        if report.by_hash and any(each.code == "leak" for each in report.findings):
            asked |= {"group_by": "look"}
        if suspicious and self.out is None:  # to look at their pictures
            line = next_command("check", self.data, **asked, run=self.run, out="check.html")
        elif report.fit:
            line = next_command("train", "small", data=self.data, **asked)
        else:  # once more when the data is corrected
            line = next_command("check", self.data, **asked, out=self.out or "check.html")
        return report, [*report_lines(report), page, line], 0 if report.fit else 1
