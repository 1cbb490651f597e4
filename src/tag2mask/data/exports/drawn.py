"""What an annotation tool's export holds: pictures by name, and what was drawn on each. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from tag2mask.base.arrays import Size
from tag2mask.config import BACKGROUND, IGNORE
from tag2mask.data.exports.shapes import Piece, Points, filled
from tag2mask.data.findings import Finding, about, some
from tag2mask.data.storage.pictures import PictureError

_Number = TypeVar("_Number", bound=np.generic)
LabelOf: TypeAlias = Callable[[str], int]
"""The label of a class by its name: 0..C or 255."""


@dataclass(frozen=True, eq=False)
class Shape:
    """What somebody drew for one object."""

    name: str
    """Of its class."""
    where: str
    """File and entry, for messages."""
    pieces: Callable[[Size], Sequence[Piece]]
    """Its pixels in a picture of that size; a ValueError says why there are none."""
    is_box: bool = False
    """Whether it says only where the object is: which of its pixels show the object, nobody knows."""


class Painted(NamedTuple):
    """A picture's mask."""

    labels: NDArray[np.uint8]
    """[H, W] in {0..C, 255}."""
    boxes: int = 0
    overlap: int = 0
    """Pixels that objects of several classes claim."""
    foreign: tuple[str, ...] = ()
    """Ids and colors that stand for nothing."""


def no_size() -> Size | None:
    """The size that an export without sizes says."""
    return None


@dataclass(frozen=True, eq=False)
class Annotated:
    """A picture of an export."""

    reference: str
    """The picture as the export names it: a path, an address, or a path without suffix."""
    where: str
    """File and entry, for messages."""
    paint: Callable[[Size, LabelOf], Painted]
    """Its mask in a picture of that size; PictureError where there cannot be one."""
    size: Callable[[], Size | None] = no_size
    """Size of the picture that was drawn on, None where the export does not say."""
    labeled: bool = True
    """False where nobody drew anything, nor said that there is nothing."""


@dataclass(frozen=True, eq=False)
class Export:
    """An annotation tool's export."""

    data_format: str
    """For programs: cvat, voc, png, coco, label-studio, labelme or yolo."""
    title: str
    """The same for people."""
    source: Path
    """File or folder that was read."""
    pictures: Sequence[Annotated]
    classes: tuple[str, ...] | None
    """Classes that it declares; None where it has no list."""
    findings: tuple[Finding, ...] = ()


def polygons(parts: Sequence[Points], fill: Callable[[Points, Size], Piece] = filled) -> Callable[[Size], list[Piece]]:
    """The pieces of an object of several polygons, which are added up."""
    return lambda size: [fill(points, size) for points in parts]


def painter(shapes: Sequence[Shape], *, smaller_on_top: bool) -> Callable[[Size, LabelOf], Painted]:
    """How a picture's shapes become its mask.

    The pixels of boxes that no other shape covers are 255. Where shapes of several classes overlap, the later one in
    the order of the file is on top, or with `smaller_on_top` the smaller one.
    """
    return partial(_painted, shapes, smaller_on_top)


def not_painted(names: Sequence[str], source: Path) -> tuple[Finding, ...]:
    """Findings on shapes that cover no area, and on labels of shapes that cannot be told."""
    return about(
        names,
        code="not_painted",
        message=f"{source}: {some(len(names), 'shape')} not painted: points and lines cover no area, and a shape is of "
        "one class.",
        cure="Draw what is an object as a polygon or with a brush, with one label.",
    )


def _painted(shapes: Sequence[Shape], smaller_on_top: bool, size: Size, label_of: LabelOf) -> Painted:
    labels, covered = np.full(size, BACKGROUND, dtype=np.uint8), np.zeros(size, dtype=np.bool_)
    areas = [(shape, _pieces(shape, size)) for shape in shapes if not shape.is_box]
    boxes = [(shape, _pieces(shape, size)) for shape in shapes if shape.is_box]
    if smaller_on_top:
        areas.sort(key=lambda each: -sum(int(np.count_nonzero(piece.mask)) for piece in each[1]))
    for shape, pieces in boxes:
        label_of(shape.name)
        for piece in pieces:
            _window(labels, piece)[piece.mask] = IGNORE
    clash = np.zeros(size, dtype=np.bool_)
    for shape, pieces in areas:
        label = label_of(shape.name)
        for piece in pieces:
            there = _window(labels, piece)
            again = piece.mask & _window(covered, piece)
            _window(clash, piece)[again & (there != label)] = True
            there[piece.mask] = label
            _window(covered, piece)[piece.mask] = True
    return Painted(labels, len(boxes), int(np.count_nonzero(clash)))


def _window(values: NDArray[_Number], piece: Piece) -> NDArray[_Number]:
    (x, y), (h, w) = piece.corner, piece.mask.shape
    return values[y : y + h, x : x + w]


def _pieces(shape: Shape, size: Size) -> Sequence[Piece]:
    try:
        return shape.pieces(size)
    except ValueError as error:
        raise PictureError(f"{shape.where}: {error}. Draw it again, or export it again.") from error
