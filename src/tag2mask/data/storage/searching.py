"""Which folders are searched for pictures: not what systems hide there, nor results of ours. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from tag2mask.config.formats import RESULTS, place_of
from tag2mask.data.findings import Finding, about, are

SYSTEM_FOLDERS = frozenset(
    ("__MACOSX", "@eaDir", "#recycle", "@Recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found")
)
"""Folders that archives, disks in the network and systems make by themselves, with copies or what was deleted."""
MANIFEST = "manifest"
"""Folder in OUT of what `predict` has done."""
RESULT_PLACES = frozenset((MANIFEST, *(place_of(result) for results in RESULTS.values() for result in results)))
"""Folders and files that `predict` makes in OUT, but for tables."""


def is_predicted(folder: Path) -> bool:
    """Whether `predict` has written into a folder."""
    return any((folder / MANIFEST).glob("*-of-*.jsonl"))


def is_result(path: Path) -> bool:
    """Whether `predict` has written a folder, or a file that could be taken for annotations."""
    return path.name in RESULT_PLACES and is_predicted(path.parent)


def is_left_out(folder: Path) -> bool:
    """Whether a folder is never searched for pictures, wherever it lies.

    So are hidden folders, those of `SYSTEM_FOLDERS`, and results of this package: of `predict`, the sample sheets of a
    run, masks of `pseudo-label`.
    """
    name, parent = folder.name, folder.parent
    if name.startswith(".") or name in SYSTEM_FOLDERS or is_result(folder):
        return True
    if name == "samples" and (parent / "config.json").is_file() and (parent / "metrics.csv").is_file():
        return True
    return (folder / "pseudo_labels.json").is_file()


def is_mask_folder(folder: Path) -> bool:
    """Whether a folder holds the masks of the data set around it, by its name and that of the pictures' folder."""
    if folder.name == "masks":
        return (folder.parent / "images").is_dir()
    around = ("JPEGImages", "ImageSets")
    return folder.name.startswith("Segmentation") and any((folder.parent / name).is_dir() for name in around)


def not_searched(where: object, folders: Sequence[str]) -> tuple[Finding, ...]:
    """What is said of folders that are not searched: none, or one finding that names them."""
    return about(
        folders,
        severity="note",
        code="not_searched",
        message=f"{are(len(folders), 'folder')} not searched in {where}: results of tag2mask, masks of a data set, "
        "links to folders, or what a system makes by itself.",
        cure="If pictures are meant to lie there, move them elsewhere.",
    )


def files_below(root: Path, left_out: list[str]) -> Iterator[Path]:
    """All files below a folder that is searched for pictures to predict; hidden ones are passed over.

    Args:
        root: The folder.
        left_out: Takes the folders below it that are not searched, with forward slashes: those of `is_left_out` that
            are not hidden, masks of data sets, and links to folders.
    """
    for place, folders, files in os.walk(root):
        here = Path(place)
        kept = []
        for name in sorted(folders):
            folder = here / name
            if folder.is_symlink() or is_left_out(folder) or is_mask_folder(folder):
                if not name.startswith("."):
                    left_out.append(folder.relative_to(root).as_posix())
            else:
                kept.append(name)
        folders[:] = kept
        for name in files:
            file = here / name
            if not name.startswith(".") and (file.is_file() or file.is_symlink()):  # a link to nothing is told later
                yield file
