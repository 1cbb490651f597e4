"""Masks in the formats of annotation tools (docs/formats.md): one module per format, one writer each.

Writers take pictures one by one and keep none of them. Files appear whole, when all is done. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tag2mask.config.formats import OutputOptions, Shapes
from tag2mask.outputs.coco import check_coco, coco_writer
from tag2mask.outputs.cvat import check_cvat, cvat_writer
from tag2mask.outputs.geojson import check_geojson, geojson_writer
from tag2mask.outputs.label_studio import check_label_studio, label_studio_writer
from tag2mask.outputs.objects import Add, Check, LabeledPicture, Wanted, Writer, objects_of
from tag2mask.outputs.voc import check_voc, voc_writer
from tag2mask.outputs.yolo import check_yolo, yolo_writer

__all__ = [
    "CHECKS", "PLACES", "WRITERS", "Add", "LabeledPicture", "OutputOptions", "Shapes", "Writer", "check", "objects_of",
    "writers",
]  # fmt: skip

WRITERS: dict[str, Writer] = {
    "coco": coco_writer,
    "yolo": yolo_writer,
    "label-studio": label_studio_writer,
    "cvat": cvat_writer,
    "geojson": geojson_writer,
    "voc": voc_writer,
}
CHECKS: dict[str, Check] = {
    "coco": check_coco,
    "yolo": check_yolo,
    "label-studio": check_label_studio,
    "cvat": check_cvat,
    "geojson": check_geojson,
    "voc": check_voc,
}
"""What each format demands; a writer fails at nothing that its check has let through."""
PLACES = {
    "coco": "coco.json",
    "yolo": "yolo",
    "label-studio": "label-studio.json",
    "cvat": "cvat.zip",
    "geojson": "geojson",
    "voc": "voc",
}
"""What `predict` calls the file or folder of a format, below OUT."""


def check(
    formats: Sequence[str], classes: Sequence[str], file_names: Sequence[str], options: OutputOptions, max_pixels: int
) -> None:
    """Refuse what one of the formats cannot hold, before any work; formats that have no writer here are skipped.

    Args:
        formats: Their names.
        classes: In the order of the labels.
        file_names: Of all pictures, as in `LabeledPicture`.
        options: How objects are written.
        max_pixels: Most pixels of a picture.

    Raises:
        ValueError: names what, and the cure.
    """
    wanted = Wanted(classes=classes, file_names=file_names, options=options, max_pixels=max_pixels)
    for name, check_format in CHECKS.items():
        if name in formats:
            check_format(wanted)


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
