"""CVAT for images 1.1: annotations.xml with the tags of each picture. Imports no torch."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from tag2mask.config.formats import DataOptions
from tag2mask.data.dataset import DataError, MissingDataError
from tag2mask.data.readers.coco import head_of
from tag2mask.data.readers.left_out import Kinds, Unlabeled, tags_or_shapes
from tag2mask.data.readers.listing import Entry, Listing
from tag2mask.data.storage.naming import NO_SPLIT, known_split
from tag2mask.data.storage.tables import named_xml_errors

_SHAPES = ("box", "polygon", "mask", "polyline", "points", "ellipse", "cuboid", "skeleton")
_UNLABELED = {False: Unlabeled("tag", "negative", usual=0.5), True: Unlabeled("shape", "negative", usual=0.5)}
"""Whether the labels of shapes are the tags. CVAT does not say which images somebody has looked at."""


def list_cvat(root: Path, options: DataOptions) -> Listing:
    """Tags from a CVAT export: the `<tag>` elements of each `<image>`.

    Where the file has none at all, or shapes are asked for, the labels of its shapes are taken, and a finding says so.
    An image without is a negative, or left out on request. Classes are in the order of the labels of the task or
    project. The splits are the `subset` attributes; `default` is none.

    Raises:
        MissingDataError: no such file.
        DataError: not the format for images, or not valid XML.
    """
    paths = cvat_files(root)
    if not paths:
        raise MissingDataError(f"{root} has no annotations.xml of CVAT. Export as 'CVAT for images 1.1' and unpack it.")
    if len(paths) > 1:
        raise DataError(f"{root} has {' and '.join(path.name for path in paths)} of CVAT. Keep one.")
    path = paths[0]
    images, labels = _read(path)
    if not images:
        raise DataError(f"No usable picture: {path} has no <image>. Export as 'CVAT for images 1.1'.")
    use_shapes, findings = tags_or_shapes([kinds for _, kinds in images], path, options)
    splits: dict[str, list[Entry]] = {}
    for item, kinds in images:
        name, subset = kinds.picture, item.get("subset", "")
        near = (f"images/{subset}", subset) if subset else ()
        found = kinds.taken(use_shapes)
        entry = Entry(name, found, f"{path} image {item.get('id', name)}", near, labeled=bool(found))
        splits.setdefault(known_split(subset) or subset, []).append(entry)
    if not any(known_split(subset) for subset in splits):
        splits = {NO_SPLIT: [entry for entries in splits.values() for entry in entries]}
    classes, unlabeled = tuple(dict.fromkeys(labels)) or None, _UNLABELED[use_shapes]
    return Listing(path, splits, classes, closed=bool(labels), findings=findings, unlabeled=unlabeled)


def cvat_files(root: Path) -> list[Path]:
    """XML files in the data folder that begin as CVAT's do."""
    paths = (path for path in sorted(root.glob("*.xml")) if path.is_file() and not path.name.startswith("."))
    return [path for path in paths if "<annotations" in head_of(path, 4096)]


def _read(path: Path) -> tuple[list[tuple[dict[str, str], Kinds]], list[str]]:
    """Attributes and labels of each image, and the labels of the task; one image in memory at a time."""
    images, labels = [], []
    with named_xml_errors(path, "Export it again.", "Save it as UTF-8."):
        for _, element in ElementTree.iterparse(path, events=("end",)):
            if element.tag == "label" and element.findtext("name"):
                if not element.findtext("parent"):  # the points of a skeleton have one
                    labels.append((element.findtext("name") or "").strip())
            elif element.tag == "track":
                raise DataError(f"{path} is CVAT for video. Export as 'CVAT for images 1.1'.")
            elif element.tag == "image":
                kinds = Kinds(element.get("name", ""), _labels(element, ("tag",)), _labels(element, _SHAPES))
                images.append((dict(element.attrib), kinds))
                element.clear()
    return images, labels


def _labels(image: ElementTree.Element, kinds: tuple[str, ...]) -> tuple[str, ...]:
    found = (child.get("label", "").strip() for child in image if child.tag in kinds)
    return tuple(dict.fromkeys(label for label in found if label))
