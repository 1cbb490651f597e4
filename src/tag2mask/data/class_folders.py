"""One folder per class, as torchvision's ImageFolder: each picture has one tag. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from tag2mask.data.dataset import MissingDataError
from tag2mask.data.listing import Entry, Listing
from tag2mask.data.locating import PictureFiles, find_picture_files, pictures_below
from tag2mask.data.naming import NO_SPLIT, known_split
from tag2mask.data.searching import is_left_out, not_searched
from tag2mask.data.suffixes import PICTURE_SUFFIXES
from tag2mask.formats import DataOptions


def list_class_folders(root: Path, options: DataOptions) -> Listing:
    """CLASS/**/picture, or SPLIT/CLASS/**/picture where every folder is called train, val or test.

    Pictures that lie in no class folder are left out. Classes are sorted by name, as torchvision does.

    Raises:
        MissingDataError: no picture in a class folder.
    """
    files = _files(root)
    parts = [(name, name.split("/")) for name in pictures_below(files, "")]
    parts = [(name, folders) for name, folders in parts if len(folders) > 1]
    has_splits = all(known_split(folders[0]) for _, folders in parts) and any(len(folders) > 2 for _, folders in parts)
    splits: dict[str, list[Entry]] = {}
    for name, folders in parts:
        if has_splits and len(folders) < 3:
            continue
        split = (known_split(folders[0]) if has_splits else None) or NO_SPLIT
        splits.setdefault(split, []).append(Entry(name, (folders[1 if has_splits else 0],), name))
    if not splits:
        raise MissingDataError(
            f"{root} has no folder with pictures. Give each class a folder, as in {root / 'cat' / 'a.jpg'}."
        )
    classes = sorted({entry.tags[0] for entries in splits.values() for entry in entries})
    findings = not_searched(root, files.left_out)
    return Listing("imagefolder", root, splits, tuple(classes), closed=True, files=files, findings=findings)


def has_class_folders(root: Path) -> bool:
    """Whether a folder below `root` holds pictures, at most two levels down; looks no further than the first."""
    for pattern in ("*/*", "*/*/*"):
        for path in root.glob(pattern):
            between = path.parents[: len(path.relative_to(root).parts) - 1]
            hidden = path.name.startswith(".") or any(map(is_left_out, between))
            if not hidden and path.suffix.lower() in PICTURE_SUFFIXES and path.is_file():
                return True
    return False


def _files(root: Path) -> PictureFiles:
    """All pictures but those of a folder masks/ with the same sub-folders as `root`; another masks/ is a class."""
    folders = {path.name for path in root.iterdir() if path.is_dir()}
    masks = root / "masks"
    mirrors = masks.is_dir() and any(path.is_dir() and path.name in folders for path in masks.iterdir())
    return find_picture_files(root, skip=("masks",) if mirrors else ())
