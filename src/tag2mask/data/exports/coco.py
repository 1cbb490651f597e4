"""COCO JSON: the segmentations of its annotations as masks. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tag2mask.base.arrays import Size
from tag2mask.data.dataset import DataError
from tag2mask.data.exports.drawn import Annotated, Export, Shape, painter, polygons
from tag2mask.data.exports.shapes import Piece, coco_mask, filled, read_points, rectangle
from tag2mask.data.findings import Finding, about, some
from tag2mask.data.readers.coco import picture_of, read_coco
from tag2mask.data.storage.tables import shown


def read_coco_masks(paths: Sequence[Path]) -> Export:
    """Run lengths, compressed or not, and polygons, which an annotation adds up; crowds (`iscrowd`) are of their class.

    An annotation with a `bbox` alone is a box. COCO's annotations have no order, so the smaller object is on top.

    Raises:
        DataError: a file that is not as COCO defines it.
    """
    pictures: list[Annotated] = []
    classes: dict[str, None] = {}
    crowds: list[str] = []
    for path in paths:
        file = read_coco(path)
        classes.update(dict.fromkeys(file.names.values()))
        for item in file.images:
            name, parts = picture_of(path, item), file.parts[item["id"]]
            shapes = [_shape(path, part, file.names) for part in parts]
            crowds += [name for part in parts if part.get("iscrowd")]
            pictures.append(
                Annotated(
                    name,
                    f"{path} image {item['id']}",
                    painter(shapes, smaller_on_top=True),
                    partial(_size, item),
                    labeled=bool(parts),
                )
            )
    return Export("coco", "COCO JSON", paths[0], pictures, tuple(classes), _about_crowds(crowds, paths[0]))


def _size(item: dict[str, Any]) -> Size | None:
    h, w = item.get("height"), item.get("width")
    return (h, w) if isinstance(h, int) and isinstance(w, int) and h > 0 and w > 0 else None


def _shape(path: Path, part: dict[str, Any], names: dict[Any, str]) -> Shape:
    where = f"{path} annotation {part.get('id')}"
    name, drawn = names[part["category_id"]], part.get("segmentation")
    if isinstance(drawn, dict):
        return Shape(name, where, partial(_run_lengths, drawn))
    if drawn:
        if not isinstance(drawn, list):
            raise DataError(f"{where}: segmentation must be polygons or run lengths, got {shown(drawn)}.")
        rings = drawn if isinstance(drawn[0], list) else [drawn]
        return Shape(name, where, polygons([read_points(ring, where) for ring in rings]))
    box = read_points(part.get("bbox") or (), where).ravel().tolist()
    if len(box) != 4:
        raise DataError(
            f"{where} has neither segmentation nor bbox. Export instances; captions, key points and the PNG files of "
            "panoptic annotations are no masks here."
        )
    return Shape(name, where, lambda size: [filled(rectangle(*box), size)], is_box=True)


def _run_lengths(drawn: dict[str, Any], size: Size) -> list[Piece]:
    if drawn.get("size") != list(size):
        raise ValueError(
            f"run lengths for {shown(drawn.get('size'))}, but the picture has {list(size)} (height, width)"
        )
    return [Piece((0, 0), coco_mask(drawn.get("counts"), size))]


def _about_crowds(names: Sequence[str], source: Path) -> tuple[Finding, ...]:
    return about(
        list(dict.fromkeys(names)),
        severity="note",
        code="crowds",
        message=f"{source}: {some(len(names), 'annotation')} with iscrowd, taken like any other.",
        cure="Nothing: CVAT and datumaro write so whatever was painted. Real crowds are drawn roughly: look at them.",
    )
