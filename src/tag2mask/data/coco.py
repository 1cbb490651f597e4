"""COCO JSON: the categories of a picture's annotations are its tags. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tag2mask.data.dataset import DataError, MissingDataError
from tag2mask.data.listing import Entry, Listing
from tag2mask.data.naming import NO_SPLIT, file_splits, known_split
from tag2mask.data.tables import read_json
from tag2mask.formats import DataOptions

_KEYS = ("images", "annotations", "categories")
_HEAD = re.compile(r'\s*\{\s*"(info|licenses|type|images|annotations|categories)"\s*:')
_HEAD_BYTES = 1 << 16
_SMALL = 1 << 22
_OTHER_TASKS = ("captions_", "person_keypoints_", "panoptic_", "image_info_", "stuff_")


def list_coco(root: Path, options: DataOptions) -> Listing:
    """Tags from COCO JSON files in the data folder, its annotations/, or the folders of its splits.

    Each category that one of a picture's annotations has is a tag, crowds (`iscrowd`) as well; boxes and polygons are
    not looked at. A picture without annotation is a negative. Classes are in the order of `categories`. `instances_*`
    files are read alone where there are any; each file is a split (`instances_val2017.json` is `val`).

    Raises:
        MissingDataError: no COCO file.
        DataError: a file that is not as COCO defines it.
    """
    paths = coco_files(root)
    if not paths:
        raise MissingDataError(
            f"{root} has no COCO file: looked for *.json with images, annotations and categories there, in "
            "annotations/ and in train/, val/, test/."
        )
    classes: dict[str, None] = {}
    splits: dict[str, list[Entry]] = {}
    for path, split in file_splits(paths, root).items():
        splits[split], names = _read(path, _near(path, root, split))
        classes.update(dict.fromkeys(names))
    return Listing("coco", paths[0] if len(paths) == 1 else paths[0].parent, splits, tuple(classes), closed=True)


def coco_files(root: Path) -> list[Path]:
    """The annotation files, by a look at their beginning."""
    found = sorted(path for path in json_files(root) if _looks_like_coco(path))
    instances = [path for path in found if path.name.startswith("instances_")]
    return instances or [path for path in found if not path.name.startswith(_OTHER_TASKS)]


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


def _looks_like_coco(path: Path) -> bool:
    """All three keys; in a file too large to read for a look, a first key that fits."""
    if not _HEAD.match(head_of(path)):
        return False
    if path.stat().st_size > _SMALL:
        return True
    text = head_of(path, _SMALL)
    return all(f'"{key}"' in text for key in _KEYS)


def _near(path: Path, root: Path, split: str) -> tuple[str, ...]:
    """Where the pictures of an annotation file usually lie."""
    beside = path.parent.relative_to(root).as_posix()
    stem = path.stem.removeprefix("instances_")
    names = [name for name in dict.fromkeys((stem, split)) if name != NO_SPLIT]
    folders = [beside, *names, *(f"images/{name}" for name in names)]
    return tuple(folder for folder in folders if folder != ".")


def _read(path: Path, near: tuple[str, ...]) -> tuple[list[Entry], list[str]]:
    data = read_json(path)
    images, annotations, categories = (_objects(path, data, key) for key in _KEYS)
    name_of = {_id(path, "category", item): _text(path, "category", item, "name") for item in categories}
    tags: dict[Any, dict[str, None]] = {_id(path, "image", item): {} for item in images}
    if len(tags) != len(images):
        raise DataError(f"{path}: two images have the same id. Give each its own.")
    for item in annotations:
        where = f"{path} annotation {item.get('id')}"
        image, category = _key(item.get("image_id")), _key(item.get("category_id"))
        if image not in tags:
            raise DataError(
                f"{where}: there is no image with the id {item.get('image_id')!r}. Remove it or add the image."
            )
        if category not in name_of:
            raise DataError(
                f"{where}: there is no category with the id {item.get('category_id')!r}; categories: "
                f"{', '.join(f'{key} {name}' for key, name in name_of.items())}. Correct it or add the category."
            )
        tags[image][name_of[category]] = None
    entries = [
        Entry(_text(path, "image", item, "file_name"), tuple(tags[item["id"]]), f"{path} image {item['id']}", near)
        for item in images
    ]
    return entries, list(name_of.values())


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
