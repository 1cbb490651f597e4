"""Which pictures a user means by files, folders, globs and arrays, and what results are called. Imports no torch."""

from __future__ import annotations

import glob
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tag2mask.config import MAX_PIXELS
from tag2mask.data.dataset import DataError
from tag2mask.data.pictures import check_pixels, read_picture, to_rgb, upright
from tag2mask.data.shards import find_shards, names_shards, pictures_in
from tag2mask.data.suffixes import PICTURE_SUFFIXES
from tag2mask.data.voc import listed_ids, picture_id

Source: TypeAlias = str | Path | Image.Image | NDArray[Any]


@dataclass(frozen=True)
class NamedPicture:
    """One picture to work on."""

    path: Path
    name: str
    """What results are called, without suffix, with forward slashes; unique in any letter case."""
    relative: str
    """Path below the folder or glob that named it, with suffix."""


def find_pictures(sources: Iterable[str | Path]) -> list[NamedPicture]:
    """The pictures that files, folders (searched with their sub-folders), globs and shards name, each once.

    Of shards (SHARD.tar, or a pattern as in `tag2mask.data.shards.find_shards`) they are called SHARD/NAME.

    A picture below a folder keeps its sub-folder in its name. Where two would get the same name, both keep their
    suffix (`a.jpg` and `a.png` become `a.jpg` and `a.png`, so `a.jpg.png` in the end); if they are still the same,
    the name of their folder comes first.

    Raises:
        FileNotFoundError: a source names nothing.
    """
    found: dict[Path, str] = {}
    for source in sources:
        for path, relative in _expand(source):
            found.setdefault(path.resolve(), relative)
    pictures = list(found.items())
    names = [str(PurePosixPath(relative).with_suffix("")) for _, relative in pictures]
    names = _disambiguated(names, [relative for _, relative in pictures])
    names = _disambiguated(names, [f"{path.parent.name}/{relative}" for path, relative in pictures])
    names = _disambiguated(names, [str(PurePosixPath(*path.parts[1:])) for path, _ in pictures])
    return [NamedPicture(path, name, relative) for (path, relative), name in zip(pictures, names, strict=True)]


def _expand(source: str | Path) -> list[tuple[Path, str]]:
    path = Path(source).expanduser()
    if names_shards(str(path)) and not path.is_dir():
        return [(member, f"{shard.stem}/{name}") for shard in find_shards(path) for member, name in pictures_in(shard)]
    if path.is_dir():
        files = [p for p in sorted(path.rglob("*")) if p.suffix.lower() in PICTURE_SUFFIXES and p.is_file()]
        if not files:
            raise FileNotFoundError(f"{path} holds no picture ({', '.join(sorted(PICTURE_SUFFIXES))}).")
        return [(p, p.relative_to(path).as_posix()) for p in files if not p.name.startswith(".")]
    if path.exists():
        return [(path, path.name)]
    text = str(path)
    if not glob.has_magic(text):
        raise FileNotFoundError(f"There is no {path}.")
    files = [p for p in map(Path, sorted(glob.glob(text, recursive=True))) if p.is_file()]  # noqa: PTH207
    if not files:
        raise FileNotFoundError(f"No file matches {text}.")
    fixed = Path(*[part for i, part in enumerate(path.parts) if not any(map(glob.has_magic, path.parts[: i + 1]))])
    return [(p, p.relative_to(fixed).as_posix()) for p in files if p.suffix.lower() in PICTURE_SUFFIXES]


def _disambiguated(names: Sequence[str], longer: Sequence[str]) -> list[str]:
    """`names`, with those that occur more than once (in any letter case) replaced by their `longer` form."""
    groups: defaultdict[str, int] = defaultdict(int)
    for name in names:
        groups[name.casefold()] += 1
    return [long if groups[name.casefold()] > 1 else name for name, long in zip(names, longer, strict=True)]


def as_rgb(source: Source, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """A path, PIL image or array as uint8 [H, W, 3]; files and PIL images are turned as their EXIF data say.

    Args:
        source: The picture.
        max_pixels: Larger files and PIL images are refused, as far as possible before they are unpacked. Arrays are
            in memory already.

    Raises:
        ValueError: the file is no picture or too large, or the array has another shape or type.
    """
    if isinstance(source, (str, Path)):
        return read_picture(Path(source), max_pixels)
    if isinstance(source, Image.Image):
        check_pixels(source, max_pixels)
        return to_rgb(upright(source))
    if not isinstance(source, np.ndarray):
        raise ValueError(f"A picture is a path, a PIL image or a numpy array, got {type(source).__name__}.")
    if source.dtype != np.uint8 or source.size == 0:
        raise ValueError(
            f"A picture array must be uint8 in 0-255 and not empty, got {source.dtype} {source.shape}; "
            "scale it, for instance (255 * x).round().astype(numpy.uint8)."
        )
    if source.ndim == 2 or (source.ndim == 3 and source.shape[2] == 1):
        return np.repeat(source.reshape(*source.shape[:2], 1), 3, axis=2)
    if source.ndim == 3 and source.shape[2] == 3:
        return source
    if source.ndim == 3 and source.shape[2] == 4:
        return to_rgb(Image.fromarray(source))
    raise ValueError(f"A picture array must be [H, W, 3] or [H, W], got {source.shape}; choose three of its channels.")


def only_listed(pictures: Sequence[NamedPicture], list_file: Path) -> list[NamedPicture]:
    """Those of the pictures that a list names, in its order.

    Args:
        pictures: As `find_pictures` gives them.
        list_file: One picture per line, as in a VOC split: the path below its source or the bare file name, with or
            without suffix.

    Raises:
        DataError: (a ValueError) an empty list, a line twice, or one that names no picture or several.
    """
    by_name: defaultdict[str, list[NamedPicture]] = defaultdict(list)
    for picture in pictures:
        for name in {picture_id(picture.relative), picture_id(picture.path.name)}:
            by_name[name].append(picture)
    chosen = []
    for name, line in listed_ids(list_file).items():
        found = by_name[name]
        if len(found) != 1:
            problem = "is not among the sources" if not found else f"is the name of {len(found)} of the sources"
            raise DataError(f"{list_file} line {line}: {name!r} {problem}. Correct the line or the sources.")
        chosen += found
    return chosen
