"""Links in a data folder: those that lead out of it are never followed. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from tag2mask.data.dataset import DataError
from tag2mask.data.storage.searching import is_left_out

IMAGES = "images"
"""The folder of pictures that may itself be a link, as to a disk with room."""


def walk(
    root: Path, folder: str, skip: Collection[str] = (), left_out: list[str] | None = None
) -> Iterator[tuple[str, bool]]:
    """(relative path, whether it is a link) of all files and links below a folder, without hidden ones.

    Args:
        root: Data folder.
        folder: Folder below it; "" is all.
        skip: Folders directly below `root` that are left out.
        left_out: Takes the folders that are never searched (`is_left_out`), but for hidden ones.
    """
    with os.scandir(root / folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or (not folder and entry.name in skip):
                continue
            name = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir(follow_symlinks=False):
                if not is_left_out(Path(entry.path)):
                    yield from walk(root, name, skip, left_out)
                elif left_out is not None:
                    left_out.append(name)
            else:
                yield name, entry.is_symlink()


def is_inside(path: Path, homes: Iterable[Path]) -> bool:
    """Whether a path, its links followed, lies in one of these folders (links followed in them already)."""
    place = path.resolve()
    return any(place.is_relative_to(home) for home in homes)


def refuse_links_out(root: Path, folders: Sequence[str]) -> None:
    """Refuse links in these folders that lead out of them and of `root`; no file is opened, only links are looked up.

    A folder that is itself a link, as `images` to a disk with room, is its owner's choice.

    Raises:
        DataError: there is one.
    """
    for folder in folders:
        homes = (root.resolve(), (root / folder).resolve())
        for name, is_link in walk(root, folder) if (root / folder).is_dir() else ():
            if is_link and not is_inside(root / name, homes):
                raise leaves(root, name, str(root / name))


def leaves(root: Path, where: str, path: str) -> DataError:
    """The error about a link out of the data folder."""
    return DataError(
        f"{where}: {path} is a link that leaves the data folder {root}. Copy the pictures into it. The folder images "
        "(JPEGImages in a VOC tree) may itself be a link to another disk."
    )
