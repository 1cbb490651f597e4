"""Commands that look at a data set before anything is trained: check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from tag2mask.base.console import Bar
from tag2mask.cli.advice import next_command
from tag2mask.cli.common import Result
from tag2mask.config import AugmentConfig
from tag2mask.config.formats import DataOptions


def check_command(
    data: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PATH")],
    *,
    train_split: str | None = None,
    min_images: int = 10,
    crop_size: int = AugmentConfig().crop_size,
    jobs: int = 0,
    out: Path | None = None,
    reading: DataOptions = DataOptions(),
    json: bool = False,
) -> Result:
    """Is this data set fit to train on? Broken and copied pictures, leaks, tags, classes, sizes.

    Exit code 1 where training would be pointless, with the reason.

    Args:
        data: Folder of the data set. Nothing in it is changed.
        train_split: Split to train on, by name, or a file with one picture per line.
        min_images: A class on fewer pictures is rare.
        crop_size: Training crop in pixels, against which pictures count as tiny.
        jobs: Threads that read pictures; 0 for one per processor, 8 at most.
        out: Page to write, such as check.html: findings with pictures, classes, sizes. Without it no file is written.
        reading: How a data set is read.
        json: Print one JSON object on stdout and nothing else.
    """
    from tag2mask.jobs.checking import check, report_lines

    with Bar("check") as bar:
        report = check(
            data,
            train_split=train_split,
            min_images=min_images,
            crop_size=crop_size,
            jobs=jobs,
            out=out,
            progress=bar.update,
            data_options=reading,
        )
    lines = report_lines(report)
    lines.append(f"page: {out}" if out else "no file was written; --out check.html writes a page with the pictures")
    asked = {"train_split": train_split, **reading.asked()}
    if report.fit:
        lines.append(next_command("train", "small", data=data, **asked))
    else:  # once more when the data is corrected
        lines.append(next_command("check", data, **asked, out=out or "check.html"))
    return report.as_dict(), lines, 0 if report.fit else 1
