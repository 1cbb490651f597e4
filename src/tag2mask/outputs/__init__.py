"""Masks in the formats of annotation tools (docs/formats.md): one module per format, one writer each.

Writers take pictures one by one and keep none of them. Files appear whole, when all is done. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tag2mask.outputs.coco import coco_writer
from tag2mask.outputs.cvat import cvat_writer
from tag2mask.outputs.geojson import geojson_writer
from tag2mask.outputs.label_studio import label_studio_writer
from tag2mask.outputs.objects import Add, LabeledPicture, OutputOptions, Shapes, Writer, check_stems, objects_of
from tag2mask.outputs.voc import voc_writer
from tag2mask.outputs.yolo import yolo_writer

__all__ = [
    "BY_STEM", "PLACES", "WRITERS", "Add", "LabeledPicture", "OutputOptions", "Shapes", "Writer", "check_stems",
    "objects_of", "writers",
]  # fmt: skip

WRITERS: dict[str, Writer] = {
    "coco": coco_writer,
    "yolo": yolo_writer,
    "label-studio": label_studio_writer,
    "cvat": cvat_writer,
    "geojson": geojson_writer,
    "voc": voc_writer,
}
PLACES = {
    "coco": "coco.json",
    "yolo": "yolo",
    "label-studio": "label-studio.json",
    "cvat": "cvat.zip",
    "geojson": "geojson",
    "voc": "voc",
}
"""What `predict` calls the file or folder of a format, below OUT."""
BY_STEM = frozenset(("yolo", "cvat", "voc"))
"""Formats that find a picture by its name without suffix."""


@contextmanager
def writers(out: Path, formats: Sequence[str], classes: Sequence[str], options: OutputOptions) -> Iterator[Add]:
    """Open the writers of several formats below OUT as one; formats that have no writer here are skipped."""
    with ExitStack() as stack:
        chosen = [name for name in WRITERS if name in formats]
        adds = [stack.enter_context(WRITERS[name](out / PLACES[name], classes, options)) for name in chosen]

        def add(picture: LabeledPicture) -> None:
            for each in adds:
                each(picture)

        yield add
