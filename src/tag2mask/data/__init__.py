"""Pictures, tags and masks as users have them: one call, `open_data`. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tag2mask.base.options import public
from tag2mask.config.formats import DataFormat, DataOptions
from tag2mask.data.dataset import DataError, MissingDataError, Picture, PictureSet, SplitError, voc_palette
from tag2mask.data.findings import warned
from tag2mask.data.readers.folder import open_folder
from tag2mask.data.readers.formats import detect_format, format_of, refuse_meaningless
from tag2mask.data.readers.listing import picture_set, settled
from tag2mask.data.readers.splits import split_files
from tag2mask.data.readers.voc import VOC_CLASSES, open_voc, split_lists
from tag2mask.data.storage.naming import NO_SPLIT
from tag2mask.data.storage.pictures import PictureError, PictureTooLarge, open_picture, read_mask, read_picture

__all__ = [
    "VOC_CLASSES",
    "DataError",
    "DataFormat",
    "DataOptions",
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


@public
def open_data(
    path: str | Path,
    *,
    split: str | Path | None = None,
    need_tags: bool = True,
    options: DataOptions | None = None,
    **fields: Any,
) -> PictureSet:
    """One split of the data set at `path`, with every check that needs no decoding of pictures done.

    Args:
        path: Its folder, in one of the formats of docs/data.md; tar files also by name or pattern.
        split: Name of a split, or a file with one picture per line. None is the split to train on: `train`, in a VOC
            tree `train_aug` if that is there.
        need_tags: False where only pictures and masks matter; tags are then read if they are there.
        options: How the data set is read where looking is not enough.
        fields: The same field by field, as in `open_data("photos", data_format="coco")`.

    Returns:
        The pictures; its `findings` say what was left out.

    Raises:
        DataError: (a ValueError) the data set cannot be used; the message names file, line and cure.
        MissingDataError: (also a FileNotFoundError) a file is not there.
        SplitError: the split does not exist or is empty.
    """
    pictures = read_split(path, split=split, need_tags=need_tags, options=options, **fields)
    if need_tags and not any(picture.tags for picture in pictures.pictures):
        raise DataError(
            f"No usable picture: none of the {len(pictures.pictures)} pictures of split {pictures.split!r} in "
            f"{pictures.root} has a tag of {', '.join(pictures.classes)}. Tag at least one.{warned(pictures.findings)}"
        )
    return pictures


def read_split(
    path: str | Path,
    *,
    split: str | Path | None = None,
    need_tags: bool = True,
    options: DataOptions | None = None,
    **fields: Any,
) -> PictureSet:
    """As `open_data`, but a split of negatives only is taken."""
    options = DataOptions.merged(options, fields)
    root = Path(path).expanduser()
    found = format_of(root, options.data_format)
    refuse_meaningless(found, options)
    name = None if split is None else str(split)
    if found.read is not None:
        listing = settled(found.read(root, options), options)
        folder = root if root.is_dir() else listing.source.parent  # shards may be named by a pattern
        return picture_set(listing, folder, found.name, split=name, options=options)
    read = open_voc if found.name == "voc" else open_folder
    return read(root, split=name, options=options, need_tags=need_tags)


def split_list(path: str | Path, split: str, *, options: DataOptions | None = None) -> Path | None:
    """The file with one picture per line that `split` stands for; None where it is the name of a split.

    Raises:
        DataError: as `open_data`.
    """
    if not Path(split).is_file():
        return None
    own = list_splits(path, options=options) or ("train", "val")
    return None if split in own else Path(split)


@public
def list_splits(path: str | Path, *, options: DataOptions | None = None, **fields: Any) -> tuple[str, ...]:
    """Names of the splits that the data set itself has, for `open_data`; empty where `train` and `val` are by hash.

    Raises:
        DataError: as `open_data`.
    """
    options = DataOptions.merged(options, fields)
    root = Path(path).expanduser()
    found = format_of(root, options.data_format)
    if found.name == "voc":
        return tuple(split_lists(root))
    if found.read is None or (root.is_dir() and split_files(root)):
        return tuple(split_files(root))
    return tuple(name for name in settled(found.read(root, options), options).splits if name != NO_SPLIT)
