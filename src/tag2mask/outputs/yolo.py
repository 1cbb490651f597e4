"""YOLO segmentation labels as Ultralytics reads them: labels/NAME.txt and data.yaml."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tag2mask.base.files import write_text
from tag2mask.config.formats import OutputOptions
from tag2mask.outputs.objects import Add, LabeledPicture, Wanted, check_stems, objects_of, stem_of

INSET = 0.02
"""Pixels by which outlines are drawn in; see `yolo_writer`."""


def check_yolo(wanted: Wanted, format: str = "yolo") -> None:
    """What Ultralytics' layout of pictures and labels, or masks, cannot hold.

    Raises:
        ValueError: as `check_stems`; or a picture in a folder called images: the labels of images/images/a.jpg are
            looked for as images/labels/a.txt, so that it would be taken for a negative.
    """
    check_stems(wanted, format)
    for name in wanted.file_names:
        if "images" in name.split("/")[:-1]:
            raise ValueError(
                f"{format} cannot hold {name}: its readers look for labels beside the last folder called images, and "
                "below images/ of the written folder that would be another one. Give the folder images itself as the "
                "pictures', or rename it."
            )


@contextmanager
def yolo_writer(path: Path, classes: Sequence[str], options: OutputOptions) -> Iterator[Add]:
    """Open a folder of YOLO segmentation labels: a line `class x1 y1 x2 y2 ...` per 4-connected region.

    Class ids count from 0 (label - 1); coordinates are divided by the picture's sides; holes are joined to the outline
    by slits, as a line is one ring. A picture without object has an empty file, which YOLO takes as a negative.
    Readers cut the coordinates down to whole pixels and paint the outline as part of the object, which would add a
    row and a column to each. So outlines are drawn in by `INSET` pixels: such readers then get each region exactly,
    and others one that is 0.02 pixels smaller on each side.
    """

    def add(picture: LabeledPicture) -> None:
        h, w = picture.size
        lines = []
        for thing in objects_of(picture, classes, instances=False):
            for points in thing.polygons(tolerance=options.tolerance, inset=INSET):
                numbers = " ".join(f"{number:.7f}".rstrip("0") for number in (points / (w, h)).ravel())
                lines.append(f"{thing.label - 1} {numbers}\n")
        write_text(path / "labels" / f"{stem_of(picture.file_name)}.txt", "".join(lines))

    yield add
    names = "".join(f"  {index}: {json.dumps(name, ensure_ascii=False)}\n" for index, name in enumerate(classes))
    head = "# The pictures go into images/ beside this file, under the names of the files in labels/.\n"
    write_text(path / "data.yaml", f"{head}train: images\nval: images\nnames:\n{names}")
