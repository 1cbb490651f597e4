"""Pictures, tags and masks as users have them: one call, `open_data`. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tag2mask.data.class_folders import list_class_folders
from tag2mask.data.coco import list_coco
from tag2mask.data.cvat import list_cvat
from tag2mask.data.dataset import (
    DataError,
    MissingDataError,
    Picture,
    PictureSet,
    SplitError,
    voc_palette,
)
from tag2mask.data.detection import detect_format
from tag2mask.data.folder import open_folder, split_files
from tag2mask.data.hf_dataset import list_hf_dataset
from tag2mask.data.label_studio import list_label_studio
from tag2mask.data.listing import Listing, picture_set
from tag2mask.data.metadata import list_metadata
from tag2mask.data.naming import NO_SPLIT
from tag2mask.data.pictures import PictureError, PictureTooLarge, open_picture, read_mask, read_picture
from tag2mask.data.voc import VOC_CLASSES, open_voc
from tag2mask.data.webdataset import list_webdataset
from tag2mask.data.yolo import list_yolo
from tag2mask.formats import DataFormat

__all__ = [
    "VOC_CLASSES",
    "DataError",
    "DataFormat",
    "MissingDataError",
    "Picture",
    "PictureError",
    "PictureSet",
    "PictureTooLarge",
    "SplitError",
    "detect_format",
    "list_splits",
    "open_data",
    "open_picture",
    "read_mask",
    "read_picture",
    "voc_palette",
]

_LISTINGS: dict[str, Callable[[Path], Listing]] = {
    "imagefolder": list_class_folders,
    "hf-imagefolder": list_metadata,
    "coco": list_coco,
    "cvat": list_cvat,
    "label-studio": list_label_studio,
    "yolo": list_yolo,
    "hf-dataset": list_hf_dataset,
    "webdataset": list_webdataset,
}


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
        path: Its folder, in one of the formats of docs/data.md; tar files also by name or pattern.
        split: Name of a split, or a file with one picture per line. None is the split to train on: `train`, in a VOC
            tree `train_aug` if that is there.
        data_format: Name of the format (`tag2mask.formats.DataFormat`), or "auto" to look.
        tags_from: "tags"; "masks" reads them from the masks instead.
        others: Mask ids outside the class list become 255 ("ignore") or 0 ("background").
        need_tags: False where only pictures and masks matter; tags are then read if they are there.

    Raises:
        DataError: (a ValueError) the data set cannot be used; the message names file, line and cure.
        MissingDataError: (also a FileNotFoundError) a file is not there.
        SplitError: the split does not exist or is empty.
    """
    pictures = read_split(
        path, split=split, data_format=data_format, tags_from=tags_from, others=others, need_tags=need_tags
    )
    if need_tags and not any(picture.tags for picture in pictures.pictures):
        raise DataError(
            f"No usable picture: none of the {len(pictures.pictures)} pictures of split {pictures.split!r} in "
            f"{pictures.root} has a tag of {', '.join(pictures.classes)}. Tag at least one."
        )
    return pictures


def read_split(
    path: str | Path,
    *,
    split: str | Path | None = None,
    data_format: str = "auto",
    tags_from: str = "tags",
    others: str = "ignore",
    need_tags: bool = True,
) -> PictureSet:
    """As `open_data`, but a split of negatives only is taken."""
    if tags_from not in ("tags", "masks"):
        raise ValueError(f"tags_from must be tags or masks, got {tags_from!r}")
    if others not in ("ignore", "background"):
        raise ValueError(f"others must be ignore or background, got {others!r}")
    root = Path(path).expanduser()
    found = detect_format(root, data_format)
    name = None if split is None else str(split)
    if found in _LISTINGS:
        listing = _LISTINGS[found](root)
        folder = root if root.is_dir() else listing.source.parent  # shards may be named by a pattern
        return picture_set(listing, folder, split=name, tags_from=tags_from, others=others)
    read = open_voc if found == "voc" else open_folder
    return read(root, split=name, tags_from=tags_from, others=others, need_tags=need_tags)


def list_splits(path: str | Path, *, data_format: str = "auto") -> tuple[str, ...]:
    """Names of the splits that the data set itself has, for `open_data`; empty where `train` and `val` are by hash.

    Raises:
        DataError: as `open_data`.
    """
    root = Path(path).expanduser()
    found = detect_format(root, data_format)
    if found == "voc":
        return tuple(file.stem for file in sorted((root / "ImageSets" / "Segmentation").glob("*.txt")))
    if found == "folder" or (root.is_dir() and split_files(root)):
        return tuple(split_files(root))
    return tuple(name for name in _LISTINGS[found](root).splits if name != NO_SPLIT)
