"""Pictures, tags and masks as users have them: one call, `open_data`. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from tag2mask.data.dataset import (
    DataError,
    MissingDataError,
    Picture,
    PictureSet,
    SplitError,
    voc_palette,
)
from tag2mask.data.folder import open_folder
from tag2mask.data.pictures import PictureError, read_mask, read_picture
from tag2mask.data.voc import VOC_CLASSES, open_voc

__all__ = [
    "VOC_CLASSES",
    "DataError",
    "MissingDataError",
    "Picture",
    "PictureError",
    "PictureSet",
    "SplitError",
    "open_data",
    "read_mask",
    "read_picture",
    "voc_palette",
]

_READERS = {"folder": open_folder, "voc": open_voc}


def open_data(
    path: str | Path,
    *,
    split: str | Path | None = None,
    data_format: str = "auto",
    tags_from: str = "tags",
    others: str = "ignore",
    need_tags: bool = True,
) -> PictureSet:
    """One split of the data set at `path`, with every check that needs no decoding of pictures done.

    Args:
        path: A plain folder (images/, tags.csv) or a PASCAL VOC tree.
        split: Name of a split, or a file with one picture per line. None is the split to train on: `train`, in a VOC
            tree `train_aug` if that is there.
        data_format: "folder", "voc", or "auto" to look.
        tags_from: "tags"; "masks" reads them from the masks instead.
        others: Mask ids outside the class list become 255 ("ignore") or 0 ("background").
        need_tags: False where only pictures and masks matter; tags are then read if they are there.

    Raises:
        DataError: (a ValueError) the data set cannot be used; the message names file, line and cure.
        MissingDataError: (also a FileNotFoundError) a file is not there.
        SplitError: the split does not exist or is empty.
    """
    if tags_from not in ("tags", "masks"):
        raise ValueError(f"tags_from must be tags or masks, got {tags_from!r}")
    if others not in ("ignore", "background"):
        raise ValueError(f"others must be ignore or background, got {others!r}")
    root = Path(path).expanduser()
    read = _READERS[detect_format(root, data_format)]
    name = None if split is None else str(split)
    pictures = read(root, split=name, tags_from=tags_from, others=others, need_tags=need_tags)
    if need_tags and not any(picture.tags for picture in pictures.pictures):
        raise DataError(
            f"No usable picture: none of the {len(pictures.pictures)} pictures of split {pictures.split!r} in {root} "
            f"has a tag of {', '.join(pictures.classes)}. Tag at least one."
        )
    return pictures


def detect_format(root: Path, data_format: str = "auto") -> str:
    """Format of the data set at `root`.

    Raises:
        DataError: unknown format name.
        MissingDataError: nothing there, or nothing that is recognised.
    """
    if data_format != "auto" and data_format not in _READERS:
        raise DataError(f"--data-format must be auto, {' or '.join(_READERS)}, got {data_format!r}")
    if not root.is_dir():
        raise MissingDataError(f"There is no folder {root}. --data takes the folder of a data set.")
    wanted = {"folder": "images", "voc": "JPEGImages"}
    for name in ("voc", "folder") if data_format == "auto" else (data_format,):
        if (root / wanted[name]).is_dir():
            return name
    found = ", ".join(sorted(p.name + ("/" if p.is_dir() else "") for p in root.iterdir())[:8]) or "nothing"
    raise MissingDataError(
        f"{root} is no known data set. Looked for images/ with tags.csv (plain folder) and for JPEGImages/ with "
        f"ImageSets/Segmentation/ (PASCAL VOC tree), found {found}. See docs/data.md."
    )
