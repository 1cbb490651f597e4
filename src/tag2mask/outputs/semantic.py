"""Ultralytics' layout for semantic segmentation: images/, masks/ with ids, data.yaml with `masks_dir`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tag2mask.base.files import write_text
from tag2mask.config.formats import OutputOptions
from tag2mask.data.storage.pictures import place_picture
from tag2mask.data.storage.suffixes import suffix_of
from tag2mask.outputs.objects import Add, LabeledPicture, Wanted, stem_of
from tag2mask.outputs.render import save_mask
from tag2mask.outputs.yolo import check_yolo

_SUFFIXES = frozenset(
    (".avif", ".bmp", ".dng", ".heic", ".heif", ".jp2", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp")
)
"""Pictures that Ultralytics reads; it passes over others without a word."""


def check_semantic(wanted: Wanted) -> None:
    """What the layout cannot hold.

    Raises:
        ValueError: as `check_yolo`; or a picture of a kind that Ultralytics does not read.
    """
    check_yolo(wanted, "ultralytics-semantic")
    for name in wanted.file_names:
        if suffix_of(name) not in _SUFFIXES:
            raise ValueError(f"Ultralytics reads no {suffix_of(name) or 'files without suffix'}: save {name} as PNG.")


@contextmanager
def semantic_writer(path: Path, classes: Sequence[str], options: OutputOptions) -> Iterator[Add]:
    """Open a folder of pictures, copied or linked, and masks as 8-bit grey PNG of the same names.

    Ids are the labels: 0 background, which is a class of data.yaml, 1..C, and 255, which Ultralytics ignores.
    """

    def add(picture: LabeledPicture) -> None:
        assert picture.path is not None  # `Format.has_pictures`
        place_picture(picture.path, path / "images" / picture.file_name, link=options.link)
        save_mask(path / "masks" / f"{stem_of(picture.file_name)}.png", picture.labels, palette=False)

    yield add
    names = (f"  {i}: {json.dumps(name, ensure_ascii=False)}\n" for i, name in enumerate(("background", *classes)))
    text = "train: images\nval: images\nmasks_dir: masks\nnames:\n" + "".join(names)
    write_text(path / "data.yaml", text)
