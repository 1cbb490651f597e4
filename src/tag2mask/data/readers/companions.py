"""Pictures that, by their names, are masks of other pictures. Imports no torch."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Container, Iterable
from itertools import combinations
from pathlib import Path

from tag2mask.data.findings import Finding, about, some
from tag2mask.data.storage.suffixes import suffix_of

_WORDS = r"(?:mask|masks|seg|segm|segmentation|label|labels|gt|groundtruth|ground[ _-]truth|annotation|annot|matte)"
_TAIL = re.compile(rf"[ ._-]{_WORDS}(?:[ ._-]?\d+)?$", re.IGNORECASE)
_HEAD = re.compile(rf"^{_WORDS}[ ._-]", re.IGNORECASE)
MASK_FOLDERS = frozenset(
    (
        "mask", "masks", "label", "labels", "groundtruth", "ground_truth", "ground truth", "gt", "seg", "segmentation",
        "segmentations", "segmentationclass", "segmentationobject", "annotation", "annotations", "annot", "mattes",
    )
)  # fmt: skip
"""What folders of masks are called, in lower case."""
_EXACT = frozenset((".png", ".apng", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".pgm", ".pbm", ".ppm", ".pnm"))
"""Suffixes that masks have: formats that keep every value."""
_PHOTOS = frozenset((".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".heic", ".heif", ".hif", ".avif", ".jp2"))
"""Suffixes of photographs; a PNG with the name of one of them is its mask."""


def masks_among(names: Iterable[str]) -> list[str]:
    """The names, with forward slashes, that look like masks of other pictures among them.

    `x_mask.png` beside `x.jpg`; `x.png` beside `x.jpg`; `x.jpg.png` beside `x.jpg`; and in a folder called masks,
    labels or so, a PNG with the name of a picture that lies beside that folder or below its neighbours.
    """
    names = list(names)
    split = [_split(name) for name in names]
    beside: defaultdict[tuple[str, str], list[str]] = defaultdict(list)  # suffixes by folder and stem
    for folder, stem, suffix in split:
        beside[folder, stem].append(suffix)
    folders = {folder: _picture_side(folder) for folder in {folder for folder, _, _ in split}}
    homes: defaultdict[str, set[str]] = defaultdict(set)  # folders of the pictures of each stem, without mask folders
    for folder, stem in beside if any(is_mask for _, is_mask in folders.values()) else ():
        if not folders[folder][1]:
            homes[stem].add(folder)
    return [
        name
        for name, (folder, stem, suffix) in zip(names, split, strict=True)
        if _is_beside(folder, stem, suffix, beside)
        or (folders[folder][1] and _has_picture(folders[folder][0], stem, suffix, homes))
    ]


def pairs_beside(names: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of pictures of one folder of which, by their names, one may be the mask of the other.

    `x.png` and `x.jpg`; `x_mask.png` and `x.jpg`; `x.jpg.png` and `x.jpg`. Pixels say which is the mask, if either is.
    """
    same: defaultdict[tuple[str, str], list[str]] = defaultdict(list)  # by folder and stem
    for name in names:
        folder, stem, _ = _split(name)
        same[folder, stem].append(name)
    pairs: list[tuple[str, str]] = []
    for (folder, stem), each in same.items():
        pairs += combinations(each, 2)
        for short in {*_shorter(stem), stem[: len(stem) - len(suffix_of(stem))]} - {stem}:
            pairs += [(name, other) for name in each for other in same.get((folder, short), ())[:1]]
    return pairs


def mask_files(names: Iterable[str], used: Container[str], where: Path) -> tuple[Finding, ...]:
    """Findings on the pictures `names` that look like masks of others; those of `used` are used."""
    names = list(names)
    taken = sum(name in used for name in names)
    kinds = {"used like any other": taken, "left out": len(names) - taken}
    said = ", ".join(word if count == len(names) else f"{count} {word}" for word, count in kinds.items() if count)
    return about(
        names,
        code="mask_files",
        message=f"{some(len(names), 'picture')} in {where} called like a mask of another one: {said}.",
        cure="Move masks to a folder masks/ under the names of their pictures (docs/data.md); rename what is none.",
    )


def _split(name: str) -> tuple[str, str, str]:
    """(folder, stem in lower case, suffix) of a path."""
    folder, _, base = name.rpartition("/")
    suffix = suffix_of(base)
    return folder, base[: len(base) - len(suffix)].casefold(), suffix


def _shorter(stem: str) -> list[str]:
    """What a stem is without a word for masks at its end or start, where it has one."""
    return [short for short in (_TAIL.sub("", stem), _HEAD.sub("", stem)) if short != stem]


def _picture_side(folder: str) -> tuple[str, bool]:
    """(where the pictures of a folder of masks lie, whether it is one)."""
    parts = folder.split("/")
    for index, part in enumerate(parts):
        if part.lower() in MASK_FOLDERS:
            return "/".join(parts[:index]), True
    return folder, False


def _is_beside(folder: str, stem: str, suffix: str, beside: dict[tuple[str, str], list[str]]) -> bool:
    """Whether the picture of a mask lies in the same folder."""
    if any((folder, short) in beside for short in _shorter(stem)):
        return True
    if suffix not in _EXACT:
        return False
    others = beside[folder, stem]
    if len(others) > 1 and (_PHOTOS.intersection(others) or (suffix == ".png" and set(others) - {".png", ".apng"})):
        return True
    inner = suffix_of(stem)
    return inner in _PHOTOS | _EXACT and inner in beside.get((folder, stem[: len(stem) - len(inner)]), ())


def _has_picture(side: str, stem: str, suffix: str, homes: dict[str, set[str]]) -> bool:
    """Whether a picture of the name of a mask lies below `side`."""
    if suffix not in _EXACT:
        return False
    return any(
        folder == side or side == "" or folder.startswith(f"{side}/")
        for short in (stem, *_shorter(stem))
        for folder in homes.get(short, ())
    )
