"""Label Studio: tasks with predictions as JSON, and the labeling configuration that they fit."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from tag2mask.base.files import whole_file, write_text
from tag2mask.config.formats import OutputOptions
from tag2mask.outputs.objects import Add, LabeledPicture, LabelObject, Wanted, objects_of
from tag2mask.outputs.rle import MAX_BRUSH_PIXELS, brush_rle

_BRUSH, _POLYGON, _IMAGE = "brush", "polygon", "image"


def check_label_studio(wanted: Wanted) -> None:
    """What Label Studio cannot hold.

    Raises:
        ValueError: pictures that may be larger than a brush can be.
    """
    if wanted.options.shapes == "rle" and wanted.max_pixels > MAX_BRUSH_PIXELS:
        raise ValueError(
            f"Label Studio's brush holds at most {MAX_BRUSH_PIXELS} pixels, but --max-pixels {wanted.max_pixels} "
            "allows more. Lower it, or write polygons (--shapes polygons)."
        )


@contextmanager
def label_studio_writer(path: Path, classes: Sequence[str], options: OutputOptions) -> Iterator[Add]:
    """Open a JSON file of tasks with one prediction each; the configuration goes beside it, with suffix .xml.

    With `shapes` rle an object is a brush (its own run lengths, see `rle.brush_rle`); with polygons each 4-connected
    region is a polygon in percent of the picture's sides, holes joined to it by slits, as its polygons have none.
    `score` of a region is the tag score of its class; that of a prediction, by which tasks can be sorted, their mean.
    """
    count = 0
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write("[")

        def add(picture: LabeledPicture) -> None:
            nonlocal count
            count += 1
            task = _task(picture, classes, options)
            file.write(f"{',' if count > 1 else ''}\n{json.dumps(task, ensure_ascii=False)}")

        yield add
        file.write("\n]\n")
    write_text(path.with_suffix(".xml"), labeling_config(classes))


def labeling_config(classes: Sequence[str]) -> str:
    """The XML for Settings, Labeling Interface, Code of a Label Studio project."""
    labels = "".join(f"\n    <Label value={quoteattr(name)}/>" for name in classes)
    tools = (("BrushLabels", _BRUSH), ("PolygonLabels", _POLYGON))
    blocks = "".join(f'\n  <{tag} name="{name}" toName="{_IMAGE}">{labels}\n  </{tag}>' for tag, name in tools)
    return f'<View>\n  <Image name="{_IMAGE}" value="$image" zoom="true"/>{blocks}\n</View>\n'


def _task(picture: LabeledPicture, classes: Sequence[str], options: OutputOptions) -> dict[str, Any]:
    h, w = picture.size
    shared = {"to_name": _IMAGE, "original_width": w, "original_height": h, "image_rotation": 0}
    results = [
        {**shared, **picture.score(thing.name), **shape}
        for thing in objects_of(picture, classes, instances=options.instances)
        for shape in _shapes(thing, (h, w), options)
    ]
    for index, result in enumerate(results, start=1):
        result["id"] = f"r{index}"
    prediction: dict[str, Any] = {"model_version": "tag2mask", "result": results}
    if picture.scores is not None and results:
        prediction["score"] = round(sum(result["score"] for result in results) / len(results), 6)
    return {"data": {"image": options.picture_prefix + quote(picture.file_name)}, "predictions": [prediction]}


def _shapes(thing: LabelObject, size: tuple[int, int], options: OutputOptions) -> Iterator[dict[str, Any]]:
    """A brush, or a polygon per region."""
    if options.shapes == "rle":
        brush = brush_rle(thing.mask, thing.corner, size)
        value: dict[str, Any] = {"format": "rle", "rle": brush, "brushlabels": [thing.name]}
        yield {"type": "brushlabels", "from_name": _BRUSH, "value": value}
        return
    for points in thing.polygons(tolerance=options.tolerance):
        percent = (points * (100 / size[1], 100 / size[0])).round(8).tolist()
        value = {"points": percent, "closed": True, "polygonlabels": [thing.name]}
        yield {"type": "polygonlabels", "from_name": _POLYGON, "value": value}
