"""COCO JSON: the categories of a picture's annotations are its tags. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from tag2mask.config.formats import DataOptions
from tag2mask.data.dataset import DataError, MissingDataError
from tag2mask.data.findings import Finding, about, some
from tag2mask.data.readers.left_out import Unlabeled, same_name
from tag2mask.data.readers.listing import Entry, Listing
from tag2mask.data.storage.naming import NO_SPLIT, coco_stem, file_splits, known_split
from tag2mask.data.storage.tables import read_json, shown

_KEYS = ("images", "annotations", "categories")
_HEAD = re.compile(r'\s*\{\s*"')
_ANY_KEY = re.compile(r'"(?:images|annotations|categories)"\s*:\s*\[')
_HEAD_BYTES = 1 << 16
_SMALL = 1 << 22
_TASKS = ("instances_", "person_keypoints_", "panoptic_", "stuff_", "labels_")
"""What the names of COCO's files begin with, by what they hold; of instances and others, instances are read."""
_WITHOUT_TAGS = {"captions_": "captions, which name no class", "image_info_": "pictures without annotations"}
_UNLABELED = Unlabeled("annotation", "negative", usual=0.5)


def list_coco(root: Path, options: DataOptions) -> Listing:
    """Tags from COCO JSON files in the data folder, its annotations/, or the folders of its splits.

    Each category that one of a picture's annotations (of panoptic files, its segments) has is a tag, crowds (`iscrowd`)
    as well; boxes and polygons are not looked at. A picture without annotation is a negative, or left out on request.
    Classes are in the order of `categories`. `instances_*` files are read alone where there are any, then any other
    names, then keypoints, panoptic or stuff; each file is a split (`instances_val2017.json` is `val`).

    Raises:
        MissingDataError: no COCO file with categories.
        DataError: a file that is not as COCO defines it, or files of several tasks.
    """
    there = _found(root)
    paths = _chosen(there, root)
    if not paths:
        raise no_coco(root)
    classes: dict[str, None] = {}
    splits: dict[str, list[Entry]] = {}
    findings: tuple[Finding, ...] = ()
    for path, split in file_splits(paths, root).items():
        splits[split], names = _read(path, _near(path, root, split))
        classes.update(dict.fromkeys(names.values()))
        findings += same_name(names.items(), path)
    others = [path.relative_to(root).as_posix() for path in there if path not in paths]
    taken = paths[0].name if len(paths) == 1 else f"{paths[0].name} and its like"
    source = paths[0] if len(paths) == 1 else paths[0].parent
    findings += about(
        others,
        severity="note",
        code="other_files",
        message=f"{some(len(others), 'annotation file')} of {root} not read, as {taken} is.",
        cure="Nothing, if that is meant; else move the files that are not to be read elsewhere.",
    )
    return Listing(source, splits, tuple(classes), closed=True, findings=findings, unlabeled=_UNLABELED)


def coco_files(root: Path) -> list[Path]:
    """The annotation files to read, by a look at their beginning and their names.

    Raises:
        DataError: files of several tasks, none of them instances.
    """
    return _chosen(_found(root), root)


def _chosen(there: dict[Path, str], root: Path) -> list[Path]:
    """Of the files of `_found` those to read, see `coco_files`."""
    found = [path for path, lacks in there.items() if not lacks]
    by_task = {task: [path for path in found if path.name.startswith(task)] for task in _TASKS}
    if by_task["instances_"]:
        return by_task["instances_"]
    if others := [path for path in found if not path.name.startswith(_TASKS)]:
        return others
    tasks = [task for task in _TASKS if by_task[task]]
    if len(tasks) > 1:
        raise DataError(
            f"{root} has COCO files of {' and of '.join(tasks)}: {', '.join(by_task[task][0].name for task in tasks)}. "
            "Keep those of one kind there."
        )
    return by_task[tasks[0]] if tasks else []


def is_coco(path: Path) -> bool:
    """Whether a file is one of COCO with categories, by a look at its beginning."""
    return _lacks(path) == ""


def no_coco(root: Path) -> MissingDataError:
    """The error where no COCO file has categories, which says what the files hold that are there."""
    told = [f"{path.relative_to(root).as_posix()} holds {lacks}" for path, lacks in _found(root).items()]
    if told:
        return MissingDataError(
            f"{root} has no COCO file with classes: {', '.join(told[:3])}. Put the instances_*.json of the same "
            "pictures there (or person_keypoints_*, panoptic_*, stuff_*)."
        )
    return MissingDataError(
        f"{root} has no COCO file: looked for *.json with images, annotations and categories there, in "
        "annotations/ and in train/, val/, test/."
    )


def has_other_coco(root: Path) -> bool:
    """Whether there are COCO files without classes, such as captions."""
    there = _found(root)
    return bool(there) and not _chosen(there, root)


def _found(root: Path) -> dict[Path, str]:
    """All files of COCO's kind; of those that name no class, what they hold instead."""
    return {path: lacks for path in sorted(json_files(root)) if (lacks := _lacks(path)) is not None}


def _lacks(path: Path) -> str | None:
    """What a file with pictures holds instead of categories; "" where it has them, None where it is no COCO file.

    Of a file too large to read for a look, the first keys and the name are enough.
    """
    head = head_of(path)
    if not _HEAD.match(head) or not _ANY_KEY.search(head):
        return None
    named = next((what for start, what in _WITHOUT_TAGS.items() if path.name.startswith(start)), "")
    if named or path.stat().st_size > _SMALL:
        return named
    text = head if len(head) < _HEAD_BYTES else head_of(path, _SMALL)
    if all(f'"{key}"' in text for key in _KEYS):
        return ""
    if '"images"' in text and '"annotations"' in text:
        return _WITHOUT_TAGS["captions_"] if '"caption"' in text else "no categories"
    return None


def json_files(root: Path) -> Iterable[Path]:
    """JSON files of a data folder, its annotations/ and the folders of its splits; hidden ones are left out."""
    folders = [root, *(path for path in root.iterdir() if path.is_dir())]
    for folder in folders:
        if folder == root or folder.name == "annotations" or known_split(folder.name):
            yield from (path for path in folder.glob("*.json") if path.is_file() and not path.name.startswith("."))


def head_of(path: Path, size: int = _HEAD_BYTES) -> str:
    """The beginning of a text file, whatever it is."""
    with path.open("rb") as file:
        return file.read(size).decode("utf-8-sig", errors="replace")


def _near(path: Path, root: Path, split: str) -> tuple[str, ...]:
    """Where the pictures of an annotation file usually lie."""
    beside = path.parent.relative_to(root).as_posix()
    stem = coco_stem(path.stem)
    names = [name for name in dict.fromkeys((stem, split)) if name != NO_SPLIT]
    folders = [beside, *names, *(f"images/{name}" for name in names)]
    return tuple(folder for folder in folders if folder != ".")


def _read(path: Path, near: tuple[str, ...]) -> tuple[list[Entry], dict[Any, str]]:
    """The pictures, and the names of the categories by id."""
    file = read_coco(path)
    entries = []
    for item in file.images:
        found = tuple(dict.fromkeys(file.names[part["category_id"]] for part in file.parts[item["id"]]))
        entries.append(Entry(picture_of(path, item), found, f"{path} image {item['id']}", near, labeled=bool(found)))
    return entries, file.names


class CocoFile(NamedTuple):
    """A COCO file, checked."""

    images: list[dict[str, Any]]
    parts: dict[Any, list[dict[str, Any]]]
    """What bears categories, by the id of its image, in the order of the file: annotations, or panoptic segments."""
    names: dict[Any, str]
    """Of the categories, by id."""


def read_coco(path: Path) -> CocoFile:
    """Images, annotations and categories of a file.

    Raises:
        DataError: they are not as COCO defines them.
    """
    data = read_json(path)
    images, annotations, categories = (_objects(path, data, key) for key in _KEYS)
    name_of: dict[Any, str] = {}
    for item in categories:
        key, name = _id(path, "category", item), _text(path, "category", item, "name")
        if name_of.setdefault(key, name) != name:
            raise DataError(
                f"{path}: the categories {name_of[key]!r} and {name!r} have the same id {key}. Give each its own, and "
                "correct the annotations."
            )
    parts: dict[Any, list[dict[str, Any]]] = {_id(path, "image", item): [] for item in images}
    if len(parts) != len(images):
        raise DataError(f"{path}: two images have the same id. Give each its own.")
    for item in annotations:
        where = f"{path} annotation {item.get('id', item.get('file_name'))}"
        image = _key(item.get("image_id"))
        if image not in parts:
            raise DataError(
                f"{where}: there is no image with the id {item.get('image_id')!r}. Remove it or add the image."
            )
        for part in _segments(item, where):
            if _key(part.get("category_id")) not in name_of:
                raise DataError(
                    f"{where}: there is no category with the id {part.get('category_id')!r}; categories: "
                    f"{', '.join(f'{key} {name}' for key, name in name_of.items())}. Correct it or add the category."
                )
            parts[image].append(part)
    return CocoFile(images, parts, name_of)


def picture_of(path: Path, item: dict[str, Any]) -> str:
    """The file name of an image; LVIS has addresses alone."""
    return _text(path, "image", item, "file_name" if "file_name" in item or "coco_url" not in item else "coco_url")


def _segments(item: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """What bears categories: the annotation, or of a panoptic one its segments."""
    segments = item.get("segments_info")
    if segments is None:
        return [item]
    if not isinstance(segments, list) or not all(isinstance(each, dict) for each in segments):
        raise DataError(f"{where}: segments_info must be a list of objects, got {shown(segments)}. Export it again.")
    return segments


def _objects(path: Path, data: Any, key: str) -> list[dict[str, Any]]:
    values = data.get(key) if isinstance(data, dict) else None
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise DataError(
            f"{path} is no COCO file: {key} must be a list of objects. Export it as COCO, or say what it is with "
            "--data-format."
        )
    return values


def _key(value: object) -> object:
    """`value` if it can be an id."""
    return value if isinstance(value, (int, str)) else None


def _id(path: Path, kind: str, item: dict[str, Any]) -> object:
    if _key(item.get("id")) is None:
        raise DataError(f"{path}: {kind} {item.get('file_name', item.get('name'))!r} has no id. Give it a number.")
    return item["id"]


def _text(path: Path, kind: str, item: dict[str, Any], key: str) -> str:
    value = item.get(key)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{path} {kind} {item.get('id')}: {key} must be text, got {value!r}.")
    return value.strip()
