"""YOLO segmentation: polygons in text files. Imports no torch."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np

from tag2mask.base.arrays import Size
from tag2mask.base.spelling import nfc
from tag2mask.data.dataset import DataError
from tag2mask.data.exports.drawn import Annotated, Export, Shape, painter
from tag2mask.data.exports.shapes import Piece, Points, filled, outlined, read_points, rectangle
from tag2mask.data.readers.yolo import class_of
from tag2mask.data.readers.yolo_description import Description, description
from tag2mask.data.storage.links import walk
from tag2mask.data.storage.tables import numbered_lines, read_text

_LISTS = frozenset(("classes.txt", "train.txt", "val.txt", "valid.txt", "test.txt"))
_SLACK = 0.01
"""Pixels by which a coordinate may be smaller than a whole number by rounding to six digits."""


def read_yolo_masks(root: Path) -> Export:
    """A line `class x1 y1 x2 y2 ...` is an object, painted as Ultralytics does (`outlined`), the smaller one on top.

    A line of a class and four numbers is a box. An empty label file says that the picture shows no object; pictures
    without label file are not known here. The names of the classes are found as `readers.yolo.list_yolo` does.

    Raises:
        MissingDataError: no names of classes.
        DataError: a line that cannot be read, or poses.
    """
    described = description(root)
    if described.source.suffix in (".yaml", ".yml") and re.search(r"(?m)^kpt_shape:", read_text(described.source)):
        raise DataError(f"{described.source} says kpt_shape: poses are no masks. Export segmentations.")
    pictures = []
    for name in label_files(root):
        path = root / name
        shapes = [_shape(path, line, text, described) for line, text in numbered_lines(path)]
        pictures.append(Annotated(_picture(nfc(name)), str(path), painter(shapes, smaller_on_top=True)))
    return Export("yolo", "YOLO labels", described.source, pictures, tuple(dict.fromkeys(described.names.values())))


def label_files(root: Path) -> list[str]:
    """The label files of a data folder: in folders called labels, else beside the pictures of YOLO 1.1, else all."""
    texts = sorted(name for name, _ in walk(root, "") if name.lower().endswith(".txt"))
    texts = [name for name in texts if name.rpartition("/")[2] not in _LISTS]
    in_labels = [name for name in texts if "labels" in name.split("/")[:-1]]
    return in_labels or [name for name in texts if name.startswith("obj_")] or texts


def _picture(name: str) -> str:
    """The picture of a label file, without suffix: below the last folder called labels."""
    return f"/{name}".rpartition("/labels/")[2].removeprefix("/")[:-4]


def _shape(path: Path, line: int, text: str, described: Description) -> Shape:
    where = f"{path} line {line}"
    name = class_of(text, where, described.names, described.source)
    try:
        numbers = [float(word) for word in text.split()[1:]]
    except ValueError as error:
        raise DataError(f"{where}: {error}. A line is a class and numbers 0 to 1.") from error
    if len(numbers) == 4:
        return Shape(name, where, partial(_box, numbers), is_box=True)
    if len(numbers) < 6:
        raise DataError(f"{where}: {len(numbers)} numbers after the class are no polygon. Export segmentations.")
    return Shape(name, where, partial(_polygon, read_points(numbers, where)))


def _polygon(points: Points, size: Size) -> list[Piece]:
    return [outlined(points * size[::-1] + _SLACK, size)]


def _box(numbers: list[float], size: Size) -> list[Piece]:
    x, y, w, h = np.array(numbers) * (size[1], size[0], size[1], size[0])
    return [filled(rectangle(x - w / 2, y - h / 2, w, h), size)]
