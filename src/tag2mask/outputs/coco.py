"""COCO JSON: one file with pictures, categories and annotations (cocodataset.org, data format, object detection)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tag2mask.base.files import whole_file
from tag2mask.config.formats import OutputOptions
from tag2mask.outputs.objects import Add, LabeledPicture, LabelObject, objects_of, rounded
from tag2mask.outputs.rle import coco_counts, coco_string


@contextmanager
def coco_writer(path: Path, classes: Sequence[str], options: OutputOptions) -> Iterator[Add]:
    """Open a COCO JSON file; category ids are the labels 1..C, picture and annotation ids count from 1.

    `segmentation` is compressed run lengths with `iscrowd` 0, or polygons: one per 4-connected region, holes joined to
    it by slits, since COCO adds the polygons of an annotation up. `score` is the tag score of the class, an addition
    that readers of ground truth skip.
    """
    images: list[str] = []
    count = 0
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write('{"info": {"description": "masks by tag2mask"}, "licenses": [],\n"annotations": [')

        def add(picture: LabeledPicture) -> None:
            nonlocal count
            h, w = picture.size
            image = {"id": len(images) + 1, "file_name": picture.file_name, "height": h, "width": w}
            lines = []
            for thing in objects_of(picture, classes, instances=options.instances):
                count += 1
                annotation = {"id": count, "image_id": image["id"], **_annotation(thing, (h, w), options)}
                annotation |= picture.score(thing.name)
                lines.append(f"{',' if count > 1 else ''}\n{json.dumps(annotation)}")
            file.write("".join(lines))
            images.append(json.dumps(image, ensure_ascii=False))

        yield add
        categories = [{"id": i, "name": name, "supercategory": ""} for i, name in enumerate(classes, start=1)]
        file.write('\n],\n"images": [\n' + ",\n".join(images) + '\n],\n"categories": ')
        file.write(json.dumps(categories, ensure_ascii=False) + "}\n")


def _annotation(thing: LabelObject, size: tuple[int, int], options: OutputOptions) -> dict[str, Any]:
    if options.shapes == "rle":
        counts = coco_string(coco_counts(thing.mask, thing.corner, size))
        segmentation: Any = {"size": list(size), "counts": counts}
    else:
        segmentation = [rounded(polygon) for polygon in thing.polygons(tolerance=options.tolerance)]
    return {
        "category_id": thing.label,
        "segmentation": segmentation,
        "bbox": list(thing.box),
        "area": thing.area,
        "iscrowd": 0,
    }
