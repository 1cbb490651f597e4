"""Pictures and masks with ids as trainers of semantic segmentation read them: Ultralytics, Hugging Face datasets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tag2mask.base.files import write_lines, write_text
from tag2mask.config.formats import OutputOptions
from tag2mask.data.storage.pictures import place_picture
from tag2mask.data.storage.result_names import name_key
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
    yield lambda picture: _place(path, picture, stem_of(picture.file_name), options)
    names = (f"  {i}: {json.dumps(name, ensure_ascii=False)}\n" for i, name in enumerate(("background", *classes)))
    text = "train: images\nval: images\nmasks_dir: masks\nnames:\n" + "".join(names)
    write_text(path / "data.yaml", text)


def check_hf(wanted: Wanted) -> None:
    """What the layout cannot hold.

    Raises:
        ValueError: two pictures whose names some systems take for one.
    """
    seen: dict[str, str] = {}
    for name in wanted.file_names:
        other = seen.setdefault(name_key(name), name)
        if other != name:
            raise ValueError(f"hf-imagefolder cannot hold both {other} and {name} on every system. Rename one.")


@contextmanager
def hf_writer(path: Path, classes: Sequence[str], options: OutputOptions) -> Iterator[Add]:
    """Open a folder that `datasets.load_dataset("imagefolder", data_dir=...)` reads: columns `image` and `mask`.

    Masks are 8-bit grey PNG with labels 0..C and 255; id2label.json names 0..C, as models of transformers take it.
    """
    rows: list[str] = []

    def add(picture: LabeledPicture) -> None:
        _place(path, picture, picture.name, options)
        row = {"file_name": f"images/{picture.file_name}", "mask_file_name": f"masks/{picture.name}.png"}
        rows.append(json.dumps(row, ensure_ascii=False))

    yield add
    write_lines(path / "metadata.jsonl", rows)
    names = dict(enumerate(("background", *classes)))
    write_text(path / "id2label.json", json.dumps(names, ensure_ascii=False, indent=2) + "\n")


def _place(path: Path, picture: LabeledPicture, name: str, options: OutputOptions) -> None:
    """Write a picture below images/ and its mask below masks/."""
    assert picture.path is not None  # `Format.has_pictures`
    place_picture(picture.path, path / "images" / picture.file_name, link=options.link)
    save_mask(path / "masks" / f"{name}.png", picture.labels, palette=False)
