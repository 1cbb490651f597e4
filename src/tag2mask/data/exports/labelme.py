"""LabelMe: a JSON file per picture. Imports no torch."""

from __future__ import annotations

import math
import posixpath
from functools import partial
from pathlib import Path
from typing import Any

from tag2mask.base.arrays import Size
from tag2mask.data.dataset import DataError
from tag2mask.data.exports.drawn import Annotated, Export, Shape, not_painted, painter, polygons
from tag2mask.data.exports.shapes import Piece, ellipse, outlined, read_points, rectangle, text_mask
from tag2mask.data.readers.coco import head_of
from tag2mask.data.storage.links import walk
from tag2mask.data.storage.tables import read_json, shown

_SIGNS = ('"version"', '"flags"', '"imagePath"', '"imageData"')
_NO_AREA = ("point", "points", "line", "linestrip")
_LOOK = 1 << 14


def labelme_files(root: Path) -> list[Path]:
    """JSON files of LabelMe below a folder, by their beginning."""
    names = sorted(name for name, _ in walk(root, "") if name.lower().endswith(".json"))
    return [root / name for name in names if is_labelme(root / name)]


def is_labelme(path: Path) -> bool:
    """Whether a JSON file is one of LabelMe; its path of the picture may come after thousands of points."""
    head = head_of(path, _LOOK)
    return '"shapes"' in head and any(sign in head for sign in _SIGNS)


def read_labelme_masks(root: Path, paths: list[Path]) -> Export:
    """Polygons as LabelMe paints them (`outlined`), circles and masks; the later shape is on top. Rectangles are boxes.

    A file without shapes says that the picture shows no object. `_background_` and `__ignore__` are 0 and 255.

    Raises:
        DataError: a file that cannot be read.
    """
    pictures, no_area = [], list[str]()
    for path in paths:
        data = read_json(path)
        items = data.get("shapes") if isinstance(data, dict) else None
        name = data.get("imagePath") if isinstance(data, dict) else None
        if not isinstance(items, list) or not isinstance(name, str):
            raise DataError(f"{path} must hold shapes and imagePath. Save it again in LabelMe.")
        folder = path.parent.relative_to(root).as_posix()
        shapes = []
        for number, item in enumerate(items, start=1):
            shape = _shape(item, f"{path} shape {number}")
            if shape is None:
                no_area.append(f"{path.name} shape {number}: {item.get('shape_type') or 'polygon'}")
            else:
                shapes.append(shape)
        reference = posixpath.normpath(posixpath.join(folder, name.replace("\\", "/")))
        paint = painter(shapes, smaller_on_top=False)
        pictures.append(Annotated(reference, str(path), paint, partial(_size, data)))
    return Export("labelme", "LabelMe", root, pictures, None, not_painted(no_area, root))


def _size(data: dict[str, Any]) -> Size | None:
    h, w = data.get("imageHeight"), data.get("imageWidth")
    return (h, w) if isinstance(h, int) and isinstance(w, int) else None


def _shape(item: Any, where: str) -> Shape | None:
    """A shape; None where it covers no area."""
    if not isinstance(item, dict) or not isinstance(item.get("label"), str):
        raise DataError(f"{where}: must have a label, got {shown(item)}. Save it again in LabelMe.")
    name, kind = item["label"].strip(), item.get("shape_type") or "polygon"
    points = read_points(item.get("points") or (), where)
    if kind in _NO_AREA or (kind == "polygon" and len(points) < 3):
        return None
    if kind == "polygon":
        return Shape(name, where, polygons([points], outlined))
    if kind == "oriented_rectangle" and len(points) == 4:
        return Shape(name, where, polygons([points]), is_box=True)
    if len(points) != 2 or kind not in ("rectangle", "circle", "mask"):
        raise DataError(f"{where}: {shown(kind)} of {len(points)} points is no shape that is known. Draw a polygon.")
    (x, y), (to_x, to_y) = points.tolist()
    if kind == "rectangle":
        return Shape(name, where, polygons([rectangle(x, y, to_x - x, to_y - y)]), is_box=True)
    if kind == "circle":
        radius = math.hypot(to_x - x, to_y - y)
        return Shape(name, where, polygons([ellipse(x, y, radius, radius)]))
    return Shape(name, where, partial(_mask, item.get("mask"), (int(x), int(y))))


def _mask(text: Any, corner: tuple[int, int], size: Size) -> list[Piece]:
    mask, (x, y) = text_mask(text), corner
    if x < 0 or y < 0 or y + mask.shape[0] > size[0] or x + mask.shape[1] > size[1]:
        raise ValueError(f"a mask of {mask.shape[0]} x {mask.shape[1]} at ({x}, {y}) leaves the picture")
    return [Piece(corner, mask)]
