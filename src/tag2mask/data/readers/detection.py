"""Which format a data set has, by a look at the names of its files. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import get_args

from tag2mask.config.formats import DataFormat
from tag2mask.data.dataset import DataError, MissingDataError
from tag2mask.data.readers.class_folders import has_class_folders, only_folder
from tag2mask.data.readers.coco import coco_files, has_other_coco, no_coco
from tag2mask.data.readers.cvat import cvat_files
from tag2mask.data.readers.hf_dataset import is_hf_dataset
from tag2mask.data.readers.label_studio import label_studio_files
from tag2mask.data.readers.metadata import metadata_files
from tag2mask.data.readers.yolo import is_yolo
from tag2mask.data.storage.links import walk
from tag2mask.data.storage.searching import is_result
from tag2mask.data.storage.shards import names_shards
from tag2mask.data.storage.suffixes import is_picture, passed_over

_SIGNS: dict[str, Callable[[Path], bool]] = {
    "hf-dataset": is_hf_dataset,
    "hf-imagefolder": lambda root: bool(metadata_files(root)),
    "coco": lambda root: bool(coco_files(root)),
    "cvat": lambda root: bool(cvat_files(root)),
    "label-studio": lambda root: bool(label_studio_files(root)),
    "yolo": is_yolo,
    "webdataset": lambda root: any(names_shards(path.name) for path in root.iterdir()),
}
"""Files that only this format has."""
_RESULTS: dict[str, Callable[[Path], list[Path]]] = {"coco": coco_files, "label-studio": label_studio_files}
"""Formats that `predict` writes too; its files never stand against other signs of a data set."""
_MOST_LOOKED_AT = 10_000
"""So many files are looked at to say what a folder has in place of pictures."""


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
    wanted = {"folder": "images", "voc": "JPEGImages"}.get(data_format)
    if wanted is not None and not (root / wanted).is_dir():
        raise _unknown(root)
    return data_format


def _looked(root: Path) -> str:
    if (root / "JPEGImages").is_dir():
        return "voc"
    if (root / "images").is_dir() and (root / "tags.csv").is_file():
        return "folder"
    found = [name for name, is_here in _SIGNS.items() if is_here(root)]
    made = {name for name, files in _RESULTS.items() if name in found and all(map(is_result, files(root)))}
    if made and (made != {*found} or has_class_folders(root)):  # `predict` has written into the data folder
        found = [name for name in found if name not in made]
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
    return MissingDataError(
        f"{root} is no known data set. Looked for images/ with tags.csv (plain folder), JPEGImages/ with "
        "ImageSets/Segmentation/ (PASCAL VOC tree), a folder of pictures per class, metadata.csv or metadata.jsonl "
        "(Hugging Face imagefolder), a COCO JSON file, annotations.xml (CVAT for images 1.1), a Label Studio export, "
        f"data.yaml with labels/ or obj.data (YOLO), dataset_dict.json or state.json (Hugging Face data set) and *.tar "
        f"(WebDataset, not compressed); found {found}.{_no_pictures(root)} See docs/data.md."
    )


def _no_pictures(root: Path) -> str:
    """What is said where files lie below `root`, but no picture by its suffix."""
    names = [name for name, _ in islice(walk(root, ""), _MOST_LOOKED_AT)]
    if any(map(is_picture, names)):
        return ""
    return "".join(f" {each.message} Cure: {each.cure}" for each in passed_over(names, root))
