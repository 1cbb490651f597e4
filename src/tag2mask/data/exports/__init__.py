"""Masks that were drawn in annotation tools: one module per format, and which of them an export has. Imports no torch.

A new format is a reader in this folder and one row of `FORMATS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tag2mask.data.dataset import DataError, MissingDataError
from tag2mask.data.exports.coco import read_coco_masks
from tag2mask.data.exports.drawn import Export
from tag2mask.data.exports.indexed import read_png_masks
from tag2mask.data.exports.label_studio import read_label_studio_masks
from tag2mask.data.exports.labelme import is_labelme, labelme_files, read_labelme_masks
from tag2mask.data.exports.yolo import label_files, read_yolo_masks
from tag2mask.data.masks.labels import VOC_FOLDERS
from tag2mask.data.readers.coco import coco_files, is_coco, json_files
from tag2mask.data.readers.cvat import cvat_files
from tag2mask.data.readers.label_studio import is_tasks
from tag2mask.data.readers.yolo_description import is_yolo
from tag2mask.data.storage.links import is_inside, leaves, walk
from tag2mask.data.storage.suffixes import suffix_of

_OF_PICTURES = ("images", "JPEGImages")
"""Folders of pictures; what lies beside them is a data set, and its masks are in a folder of their own."""


class Format(NamedTuple):
    """A format of masks of annotation tools."""

    looked_for: str
    """Its files, for messages."""
    find: Callable[[Path], list[Path]]
    """What would be read of an export in a folder; empty where there is nothing."""
    read: Callable[[Path, list[Path]], Export] | None = None
    """Reads that; None for masks as PNG."""
    is_file: Callable[[Path], bool] = lambda path: False
    """Whether a file alone is such an export."""


FORMATS: dict[str, Format] = {
    "cvat": Format(
        "SegmentationClass/ with masks and labelmap.txt (CVAT's Segmentation mask 1.1) or in the VOC palette",
        lambda root: _segmentation_class(root),
    ),
    "coco": Format(
        "*.json with images, annotations and categories (COCO)",
        coco_files,
        lambda root, found: read_coco_masks(found),
        is_coco,
    ),
    "label-studio": Format(
        "*.json with tasks (Label Studio's JSON or JSON-MIN)",
        lambda root: sorted(path for path in json_files(root) if is_tasks(path, predicted=True)),
        lambda root, found: read_label_studio_masks(found),
        lambda path: is_tasks(path, predicted=True),
    ),
    "labelme": Format("*.json with shapes (LabelMe)", labelme_files, read_labelme_masks, is_labelme),
    "yolo": Format(
        "labels/*.txt with data.yaml or classes.txt (YOLO)",
        lambda root: [root] if is_yolo(root) and label_files(root) else [],
        lambda root, found: read_yolo_masks(root),
        lambda path: path.suffix in (".yaml", ".yml") and is_yolo(path.parent),
    ),
    "png": Format("NAME.png with ids, and classes.txt", lambda root: _pngs(root)),
}
"""By name. `png` counts only where there is nothing else, as a PNG may be a picture."""


def read_export(source: Path, *, classes: Path | None = None, mask_ids: Sequence[str] = ()) -> Export:
    """The export of an annotation tool, whose format is told by its files.

    Args:
        source: Folder or file of the export; `archive.unpacked` gives that of a zip file.
        classes: Of masks as PNG: file with a class per line, in the order of their ids.
        mask_ids: Of masks as PNG: words of `--mask-ids`.

    Raises:
        MissingDataError: it has none of the formats.
        DataError: it may have several, or cannot be read.
    """
    root, found = _found(source)
    if len(found) > 1:
        places = [f"{name} ({files[0]})" for name, files in found.items()]
        raise DataError(
            f"{source} may be {' or '.join(places)}. Give the file or folder that is meant, or move the others "
            "elsewhere."
        )
    if not found:
        raise _unknown(source)
    ((name, files),) = found.items()
    if (read := FORMATS[name].read) is None:
        return read_png_masks(files[0], classes, mask_ids)
    if classes is not None or mask_ids:
        raise DataError(f"--classes and --mask-ids are for masks as PNG; {source} is {name}, which has its own names.")
    return read(root, files)


def _found(source: Path) -> tuple[Path, dict[str, list[Path]]]:
    """The folder of an export, and by format what of it would be read."""
    if source.is_file():
        return source.parent, {name: [source] for name, each in FORMATS.items() if each.is_file(source)}
    root = _inner(source)
    for name, is_link in walk(root, ""):
        if is_link and not is_inside(root / name, [root.resolve()]):
            raise leaves(root, name, str(root / name))
    found = {name: each.find(root) for name, each in FORMATS.items()}
    found = {name: files for name, files in found.items() if files}
    return root, {name: files for name, files in found.items() if name != "png" or len(found) == 1}


def _inner(folder: Path) -> Path:
    """The folder itself, or the only one in it, as zip files have one around everything."""
    entries = [path for path in folder.iterdir() if not path.name.startswith((".", "__"))]
    own = (*VOC_FOLDERS, "labels", "annotations", "masks")
    return _inner(entries[0]) if len(entries) == 1 and entries[0].is_dir() and entries[0].name not in own else folder


def _segmentation_class(root: Path) -> list[Path]:
    """The folder of masks of a VOC tree or of CVAT's export."""
    folders = [root] if root.name in VOC_FOLDERS else [root / name for name in reversed(VOC_FOLDERS)]
    return [folder for folder in folders if folder.is_dir() and _has_png(folder)][:1]


def _pngs(root: Path) -> list[Path]:
    folder = root / "masks"
    if folder.is_dir():
        return [folder] if _has_png(folder) else []
    return [root] if _has_png(root) and not any((root / name).is_dir() for name in _OF_PICTURES) else []


def _has_png(folder: Path) -> bool:
    return any(suffix_of(name) == ".png" for name, _ in walk(folder, ""))


def _unknown(source: Path) -> MissingDataError:
    told = f"{source} is no export of masks. Looked for: {'; '.join(each.looked_for for each in FORMATS.values())}."
    if source.is_dir() and cvat_files(source):
        told += " annotations.xml is CVAT for images: export the task as Segmentation mask 1.1 instead."
    return MissingDataError(told)
