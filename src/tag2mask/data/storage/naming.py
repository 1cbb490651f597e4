"""Names of splits, as folders and files of other tools spell them. Imports no torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

NO_SPLIT = ""
"""Key of all pictures of a data set that has no splits of its own."""
_SPELLINGS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_COCO_TASK = re.compile(r"^(?:instances|person_keypoints|panoptic|stuff|labels)_")
_YEAR = re.compile(r"[_-]?(19|20)\d\d$")


def known_split(text: str) -> str | None:
    """`train`, `val` or `test` for the usual spellings of them in any letter case, else None."""
    return _SPELLINGS.get(text.lower())


def by_folder(items: Iterable[T], name_of: Callable[[T], str]) -> dict[str, list[T]]:
    """Items by split: each name starts with the folder of a split (below images/ or not), or there are no splits."""
    items = list(items)
    found: dict[str, list[T]] = {}
    for item in items:
        folder, slash, _ = name_of(item).removeprefix("images/").partition("/")
        split = known_split(folder) if slash else None
        if split is None:
            return {NO_SPLIT: items}
        found.setdefault(split, []).append(item)
    return found or {NO_SPLIT: items}


def file_splits(paths: Sequence[Path], root: Path) -> dict[Path, str]:
    """Split of each annotation file: of `train/_annotations.json` the folder, of `instances_val2017.json` `val`.

    A year is dropped where that leaves the names different. A single file that is named after no split is all pictures.
    """
    raw = {path: _raw_split(path, root) for path in paths}
    short = {path: known_split(_YEAR.sub("", name)) or _YEAR.sub("", name) for path, name in raw.items()}
    if len(paths) == 1 and known_split(short[paths[0]]) is None:
        return {paths[0]: NO_SPLIT}
    often = Counter(short.values())
    full = {path: short[path] if often[short[path]] == 1 else raw[path] for path in paths}
    often = Counter(full.values())
    return {path: name if often[name] == 1 else path.relative_to(root).as_posix() for path, name in full.items()}


def _raw_split(path: Path, root: Path) -> str:
    if path.parent != root and known_split(path.parent.name):
        return path.parent.name
    stem = path.stem.removeprefix("_").removesuffix(".coco")
    return coco_stem(stem).removesuffix("_annotations") or stem


def coco_stem(stem: str) -> str:
    """`val2017` of `instances_val2017`, `panoptic_val2017` and the like."""
    return _COCO_TASK.sub("", stem)
