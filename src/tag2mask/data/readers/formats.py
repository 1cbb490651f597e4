"""The table of input formats: one row each, and which of them a data set has, by the names of its files.

A new format is a reader in this folder, one row of `FORMATS` and its name in `config.formats.DataFormat`. Imports no
torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, get_args

from tag2mask.config.formats import DataFormat, DataOptions
from tag2mask.data.dataset import DataError, MissingDataError
from tag2mask.data.findings import listed
from tag2mask.data.readers.class_folders import has_class_folders, list_class_folders, only_folder
from tag2mask.data.readers.coco import coco_files, has_other_coco, list_coco, no_coco
from tag2mask.data.readers.cvat import cvat_files, list_cvat
from tag2mask.data.readers.hf_dataset import is_hf_dataset, list_hf_dataset
from tag2mask.data.readers.label_studio import label_studio_files, list_label_studio
from tag2mask.data.readers.listing import Listing
from tag2mask.data.readers.metadata import list_metadata, metadata_files
from tag2mask.data.readers.webdataset import list_webdataset
from tag2mask.data.readers.yolo import list_yolo
from tag2mask.data.readers.yolo_description import is_yolo
from tag2mask.data.storage.links import walk
from tag2mask.data.storage.searching import is_result
from tag2mask.data.storage.shards import names_shards
from tag2mask.data.storage.suffixes import is_picture, passed_over

_MOST_LOOKED_AT = 10_000
"""So many files are looked at to say what a folder has in place of pictures."""


@dataclass(frozen=True)
class Format:
    """An input format."""

    name: str
    looked_for: str
    """Its files, as the message says that no format was recognised."""
    read: Callable[[Path, DataOptions], Listing] | None = None
    """Its reader; None for the plain folder and the VOC tree, which are read a split at a time (`data.read_split`)."""
    files: Callable[[Path], Any] = lambda root: ()
    """The files in a folder that only this format has, or whether there are such."""
    also_predicted: bool = False
    """Whether `predict` writes the format too: such files never stand against those of a data set."""
    folder: str | None = None
    """The folder of pictures without which it cannot be read."""
    has_shapes: bool = False
    """Whether it has shapes, whose labels may be tags."""
    has_cells: bool = True
    """Whether tags are text, with a separator between two; else tags are listed one by one."""
    all_labeled: str = ""
    """What a picture without tags means; "" where it may be one that nobody has labelled."""


_BY_ROWS = "a picture with an empty tag cell is a negative, and one without a row is left out."
_BY_FOLDERS = "each picture has the tag of its folder; the folder background holds negatives."
FORMATS = (
    Format("folder", "images/ with tags.csv (plain folder)", folder="images", all_labeled=_BY_ROWS),
    Format("voc", "JPEGImages/ with ImageSets/Segmentation/ (PASCAL VOC tree)", folder="JPEGImages", has_shapes=True),
    Format(
        "imagefolder", "a folder of pictures per class", list_class_folders, has_cells=False, all_labeled=_BY_FOLDERS
    ),
    Format(
        "hf-imagefolder",
        "metadata.csv or metadata.jsonl (Hugging Face imagefolder)",
        list_metadata,
        metadata_files,
        all_labeled=_BY_ROWS,
    ),
    Format("coco", "a COCO JSON file", list_coco, coco_files, also_predicted=True, has_shapes=True, has_cells=False),
    Format("cvat", "annotations.xml (CVAT for images 1.1)", list_cvat, cvat_files, has_shapes=True, has_cells=False),
    Format(
        "label-studio",
        "a Label Studio export",
        list_label_studio,
        label_studio_files,
        also_predicted=True,
        has_shapes=True,
    ),
    Format("yolo", "data.yaml with labels/ or obj.data (YOLO)", list_yolo, is_yolo, has_shapes=True, has_cells=False),
    Format("hf-dataset", "dataset_dict.json or state.json (Hugging Face data set)", list_hf_dataset, is_hf_dataset),
    Format(
        "webdataset",
        "*.tar (WebDataset, not compressed)",
        list_webdataset,
        lambda root: any(names_shards(path.name) for path in root.iterdir()),
    ),
)
"""In the order in which messages name them."""
_BY_NAME = {each.name: each for each in FORMATS}
assert ("auto", *_BY_NAME) == get_args(DataFormat), "config.formats.DataFormat must name the rows of FORMATS"


def format_of(root: Path, data_format: str) -> Format:
    """The row of the format of the data set at `root`; see `detect_format`."""
    return _BY_NAME[detect_format(root, data_format)]


def refuse_meaningless(found: Format, options: DataOptions) -> None:
    """Refuse an option that the format cannot follow.

    Raises:
        DataError: there is one.
    """
    if options.tags_from == "shapes" and not found.has_shapes:
        with_shapes = ", ".join(each.name for each in FORMATS if each.has_shapes)
        raise DataError(f"--tags-from shapes is for {with_shapes}: {found.name} has no shapes. Leave it out.")
    if options.tag_separator != DataOptions.tag_separator and not found.has_cells:
        raise DataError(f"--tag-separator is for tags that are text, which {found.name} has not. Leave it out.")
    if options.unlabeled != "auto" and found.all_labeled:
        with_unlabeled = ", ".join(each.name for each in FORMATS if not each.all_labeled)
        raise DataError(
            f"--unlabeled {options.unlabeled} is for {with_unlabeled}: in the format {found.name} {found.all_labeled} "
            "Leave it out."
        )


def detect_format(root: Path, data_format: str = "auto") -> str:
    """Format of the data set at `root`: a VOC tree, else a plain folder with tags.csv, else whose files are there.

    Raises:
        DataError: unknown format name, or files of more than one format.
        MissingDataError: nothing there, or nothing that is recognised.
    """
    names = get_args(DataFormat)
    if data_format not in names:
        raise DataError(f"--data-format must be {', '.join(names[:-1])} or {names[-1]}, got {data_format!r}")
    if names_shards(str(root)) and not root.is_dir() and data_format in ("auto", "webdataset"):
        return "webdataset"
    if not root.is_dir():
        found = f"{root} is a file" if root.is_file() else f"There is no folder {root}"
        raise MissingDataError(f"{found}. --data takes the folder of a data set, or a tar file that is not compressed.")
    if data_format == "auto":
        return _looked(root)
    if (folder := _BY_NAME[data_format].folder) is not None and not (root / folder).is_dir():
        raise _unknown(root)
    return data_format


def _looked(root: Path) -> str:
    if (root / "JPEGImages").is_dir():
        return "voc"
    if (root / "images").is_dir() and (root / "tags.csv").is_file():
        return "folder"
    files = {each: there for each in FORMATS if (there := each.files(root))}
    made = [each for each, there in files.items() if each.also_predicted and all(map(is_result, there))]
    if made and (made != list(files) or has_class_folders(root)):  # `predict` has written into the data folder
        files = {each: there for each, there in files.items() if each not in made}
    found = [each.name for each in files]
    if len(found) > 1:
        raise DataError(
            f"{root} has files of {' and of '.join(found)}. Say which to read with --data-format, as in "
            f"--data-format {found[0]}."
        )
    if found:
        return found[0]
    if has_other_coco(root):
        raise no_coco(root)
    if (root / "images").is_dir():
        return "folder"
    if (inner := _unpacked(root)) is not None:
        raise DataError(
            f"{root} holds one folder, {inner.name}/, and the data set lies in that: give --data {inner}. If "
            f"{inner.name} is a class, put its pictures directly into it, and add a folder of another class."
        )
    if has_class_folders(root):
        return "imagefolder"
    raise _unknown(root)


def _unpacked(root: Path) -> Path | None:
    """The one folder in `root`, as zip files unpack, where that is a data set; a class folder is none."""
    inner = only_folder(root)
    if inner is None:
        return None
    try:
        kind = _looked(inner)
    except MissingDataError:
        return None
    except DataError:
        return inner
    return None if kind == "imagefolder" and any(is_picture(path.name) for path in inner.iterdir()) else inner


def _unknown(root: Path) -> MissingDataError:
    found = ", ".join(sorted(p.name + ("/" if p.is_dir() else "") for p in root.iterdir())[:8]) or "nothing"
    names = [name for name, _ in islice(walk(root, ""), _MOST_LOOKED_AT)]
    strange = () if any(map(is_picture, names)) else passed_over(names, root)
    return MissingDataError(
        f"{root} is no known data set. Looked for {listed([each.looked_for for each in FORMATS])}; found {found}."
        f"{''.join(f' {each.message} Cure: {each.cure}' for each in strange)} See docs/data.md."
    )
