"""Masks in the formats of annotation tools (docs/formats.md): one module per format, one writer each.

Writers take pictures one by one and keep none of them. Files appear whole, when all is done. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tag2mask.config.formats import RESULTS, OutputOptions, Shapes, place_of
from tag2mask.outputs.coco import coco_writer
from tag2mask.outputs.cvat import cvat_writer
from tag2mask.outputs.geojson import geojson_writer
from tag2mask.outputs.label_studio import check_label_studio, label_studio_writer
from tag2mask.outputs.objects import Add, Check, LabeledPicture, Wanted, Writer, check_names
from tag2mask.outputs.semantic import check_hf, check_semantic, hf_writer, semantic_writer
from tag2mask.outputs.voc import check_tree, check_voc, voc_writer
from tag2mask.outputs.yolo import check_yolo, yolo_writer

__all__ = ["FORMATS", "PLACES", "LabeledPicture", "OutputOptions", "Shapes", "Wanted", "check", "writers"]


class Format(NamedTuple):
    """A format of masks."""

    writer: Writer
    check: Check | None = None
    """What it demands beyond `check_names`; a writer fails at nothing that its check has let through."""
    has_pictures: bool = False
    """Whether it holds the pictures too."""


FORMATS: dict[str, Format] = {
    "coco": Format(coco_writer),
    "yolo": Format(yolo_writer, check_yolo),
    "label-studio": Format(label_studio_writer, check_label_studio),
    "cvat": Format(cvat_writer, partial(check_tree, format="cvat", ignored=False)),
    "geojson": Format(geojson_writer),
    "voc": Format(voc_writer, check_voc),
    "ultralytics-semantic": Format(semantic_writer, check_semantic, has_pictures=True),
    "hf-imagefolder": Format(hf_writer, check_hf, has_pictures=True),
}
PLACES = {name: place_of(RESULTS[name][0]) for name in FORMATS}
"""What `predict` calls the file or folder of a format, below OUT."""


def check(formats: Sequence[str], wanted: Wanted) -> None:
    """Refuse what one of the formats cannot hold, before any work; formats that have no writer here are skipped.

    Raises:
        ValueError: names what, and the cure.
    """
    for name, each in FORMATS.items():
        if name in formats:
            check_names(wanted)
            if each.check is not None:
                each.check(wanted)


@contextmanager
def writers(out: Path, formats: Sequence[str], classes: Sequence[str], options: OutputOptions) -> Iterator[Add]:
    """Open the writers of several formats below OUT as one; formats that have no writer here are skipped."""
    with ExitStack() as stack:
        chosen = [name for name in FORMATS if name in formats]
        adds = [stack.enter_context(FORMATS[name].writer(out / PLACES[name], classes, options)) for name in chosen]

        def add(picture: LabeledPicture) -> None:
            for each in adds:
                each(picture)

        yield add
