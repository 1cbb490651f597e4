"""Label Studio's JSON and JSON-MIN: brushes, polygons and ellipses as masks. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tag2mask.base.arrays import Size
from tag2mask.data.dataset import DataError
from tag2mask.data.exports.drawn import Annotated, Export, LabelOf, Painted, Shape, not_painted, painter, polygons
from tag2mask.data.exports.shapes import Piece, brush_mask, ellipse, filled, read_points, rectangle
from tag2mask.data.findings import Finding, about, some
from tag2mask.data.readers.label_studio import OWN_KEYS, is_done, picture_key
from tag2mask.data.storage.pictures import PictureError
from tag2mask.data.storage.tables import read_json, shown


@dataclass
class _Told:
    """What is said of tasks."""

    several: list[str] = field(default_factory=list)
    not_painted: list[str] = field(default_factory=list)
    predicted: int = 0


def read_label_studio_masks(paths: Sequence[Path]) -> Export:
    """Of each task the annotation that is marked as ground truth, else the one that was changed last.

    Rectangles are boxes. The later region is on top, as in the editor. Predictions are not read: who has looked at them
    submits them. An annotation without region says that the picture shows no object. A brush covers the pixels
    that it covers by half at least.

    Raises:
        DataError: a file that cannot be read, or a task without its picture.
    """
    told, pictures = _Told(), list[Annotated]()
    for path in paths:
        tasks = read_json(path)
        if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
            raise DataError(f"{path} must be a list of tasks. Export it as JSON or JSON-MIN.")
        pictures += [_task(task, f"{path} task {task.get('id', i)}", told) for i, task in enumerate(tasks)]
    return Export("label-studio", "Label Studio", paths[0], pictures, None, _findings(told, paths[0]))


def _task(task: dict[str, Any], where: str, told: _Told) -> Annotated:
    data = task.get("data", task)
    if not isinstance(data, dict):
        raise DataError(f"{where}: data must be an object. Export it as JSON or JSON-MIN.")
    name = data[picture_key(data, where)]
    if data is task:  # JSON-MIN: the regions of each control are a field
        results = [each for key, value in task.items() if key not in OWN_KEYS for each in _objects(value)]
        labeled = bool(results) or bool(task.get("annotation_id"))
    else:
        done = [each for each in task.get("annotations", task.get("completions")) or [] if is_done(each)]
        told.several += [name] if len(done) > 1 else []
        told.predicted += bool(task.get("predictions") and not done)
        results = _objects(max(done, key=_rank).get("result")) if done else []
        labeled = bool(done)
    turned = [each for each in results if each.get("image_rotation")]
    shapes = list(_shapes(results, name, where, told))
    paint = partial(_refuse_turned, where) if turned else painter(shapes, smaller_on_top=False)
    sizes = [(each.get("original_height"), each.get("original_width")) for each in results]
    size = next(((h, w) for h, w in sizes if isinstance(h, int) and isinstance(w, int)), None)
    return Annotated(name, where, paint, lambda: size, labeled=labeled)


def _objects(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _rank(annotation: dict[str, Any]) -> tuple[bool, str]:
    """Larger for the annotation to take."""
    return bool(annotation.get("ground_truth")), str(annotation.get("updated_at") or annotation.get("created_at") or "")


def _refuse_turned(where: str, size: Size, label_of: LabelOf) -> Painted:
    raise PictureError(f"{where}: the picture was turned in Label Studio. Turn it back there, and draw on it again.")


def _shapes(results: Sequence[dict[str, Any]], name: str, where: str, told: _Told) -> Iterator[Shape]:
    """The shapes of the regions of an annotation; what covers no area is told."""
    named = {each.get("id") for each in results if _labels(each)}
    for number, result in enumerate(results, start=1):
        value, labels = _value(result), _labels(result)
        if not labels and (result.get("id") in named or not _is_region(value)):
            continue  # <Labels> with <Brush>: its other half has the name
        place = f"{where} region {number}"
        drawn = _drawn(value, result, place) if labels else None
        if drawn is None:
            told.not_painted.append(f"{name}: {result.get('type', 'region')}{'' if labels else ' without a label'}")
        else:
            pieces, is_box = drawn
            yield Shape(labels[0], place, pieces, is_box)
            told.not_painted += [f"{name}: a second label, {label}" for label in labels[1:]]


def _value(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """The region: the field `value`, or of JSON-MIN the result itself."""
    value = result.get("value", result)
    return value if isinstance(value, Mapping) else {}


def _is_region(value: Mapping[str, Any]) -> bool:
    return any(key in value for key in ("rle", "points", "radiusX", "x", "imageDataURL"))


def _labels(result: Mapping[str, Any]) -> list[str]:
    """The names of a region's classes."""
    found = [labels for key, labels in _value(result).items() if key.endswith("labels") and isinstance(labels, list)]
    return [each.strip() for labels in found for each in labels if isinstance(each, str) and each.strip()]


def _drawn(value: Mapping[str, Any], result: Mapping[str, Any], where: str) -> tuple[Any, bool] | None:
    """(what gives the pieces of a region, whether it is a box); None where it covers no area."""
    if "rle" in value:
        return partial(_brush, value["rle"]), False
    if "points" in value:
        points = read_points(value["points"], where)
        if len(points) < 3 or value.get("closed") is False:
            return None
        return lambda size: polygons([points * (size[1] / 100, size[0] / 100)])(size), False
    x, y, width, height = (value.get(key, value.get(radius)) for key, radius in _NUMBERS)
    if any(each is None for each in (x, y, width, height)):
        return None
    numbers = read_points((x, y, width, height, value.get("rotation") or 0, 0), where).ravel()[:5].tolist()
    outline = ellipse if "radiusX" in value else rectangle
    return partial(_scaled, outline, numbers), outline is rectangle


_NUMBERS = (("x", ""), ("y", ""), ("width", "radiusX"), ("height", "radiusY"))


def _brush(rle: Any, size: Size) -> list[Piece]:
    if not isinstance(rle, list):
        raise ValueError(f"a brush must be a list of bytes, got {shown(rle)}")
    return [Piece((0, 0), brush_mask(rle, size))]


def _scaled(outline: Any, numbers: Sequence[float], size: Size) -> list[Piece]:
    """A rectangle or ellipse from percent of the picture's sides; its angle is that of the picture."""
    x, y, width, height, angle = numbers
    across, down = size[1] / 100, size[0] / 100
    return [filled(outline(x * across, y * down, width * across, height * down, angle), size)]


def _findings(told: _Told, source: Path) -> tuple[Finding, ...]:
    return (
        *about(
            told.several,
            code="several_annotations",
            message=f"{source}: {some(len(told.several), 'task')} with several annotations: the ground truth is taken, "
            "else the one that was changed last.",
            cure="Mark the right one as ground truth, or delete the others.",
        ),
        *not_painted(told.not_painted, source),
        *about(
            ["predictions"] * told.predicted,
            severity="note",
            code="predictions",
            message=f"{source}: {some(told.predicted, 'task')} with predictions that nobody has submitted: not read.",
            cure="Open these tasks in Label Studio, correct them, and submit them.",
        ),
    )
