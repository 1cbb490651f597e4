"""Names of formats, how a data set is read and how objects are written. Imports no torch and no numpy."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self, TypeAlias, get_args, get_origin, get_type_hints

from tag2mask.config.fields import require

DataFormat = Literal[
    "auto",
    "folder",
    "voc",
    "imagefolder",
    "hf-imagefolder",
    "coco",
    "cvat",
    "label-studio",
    "yolo",
    "hf-dataset",
    "webdataset",
]
"""`--data-format`: `auto` looks; the others are described in docs/data.md."""


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """How a data set is read where looking at it is not enough: one record from the command to the reader."""

    data_format: DataFormat = "auto"
    """Format of --data when looking is not enough."""
    tags_from: Literal["tags", "shapes", "masks"] = "tags"
    """`tags`: image tags, and the labels of shapes only where no picture has an image tag; `shapes`: the labels of
    shapes, in CVAT, Label Studio and VOC trees beside tags; `masks` derives the tags from the masks, never done
    unless asked."""
    tag_separator: str = ";"
    """What stands between two tags of a cell."""
    unlabeled: Literal["auto", "negative", "skip"] = "auto"
    """Pictures that nobody labelled: negatives, or left out; `auto` does what the tools of the format do
    (docs/data.md)."""
    group_by: str = ""
    """Keeps pictures of one thing on one side of the split by hash: `look` those that look the same, a regular
    expression those in whose names it (its first group, if it has one) matches the same."""
    others: Literal["ignore", "background"] = "ignore"
    """Mask ids outside the class list become 255, or 0."""
    mask_ids: tuple[str, ...] = ()
    """Classes of ids in the data set's own masks that are not labels, as in 255=ball; also background and ignore."""

    @classmethod
    def of(cls, options: DataOptions) -> Self:
        """These options alone of a config that has more."""
        return cls(**{each.name: getattr(options, each.name) for each in fields(DataOptions)})

    @classmethod
    def merged(cls, options: DataOptions | None, values: dict[str, Any]) -> DataOptions:
        """`options` with some fields given by name, as the functions for users take them.

        Raises:
            TypeError: there is no such field.
            ValueError: a word that the field does not know.
        """
        if unknown := sorted(values.keys() - {each.name for each in fields(DataOptions)}):
            raise TypeError(f"unknown argument {', '.join(unknown)}; see tag2mask.data.DataOptions")
        merged = replace(DataOptions() if options is None else cls.of(options), **values)
        for name, kind in get_type_hints(DataOptions).items():
            words = get_args(kind) if get_origin(kind) is Literal else ()
            if words and getattr(merged, name) not in words:
                word = f"--{name.replace('_', '-')}"
                require(False, f"{word} must be {', '.join(words[:-1])} or {words[-1]}, got {getattr(merged, name)!r}")
        require(
            _is_pattern(merged.group_by), f"--group-by must be look or a regular expression, got {merged.group_by!r}"
        )
        require(bool(merged.tag_separator), "--tag-separator must be at least one character, got ''")
        return merged

    def asked(self) -> dict[str, Any]:
        """Those that differ from their default, by name."""
        return {f.name: value for f in fields(DataOptions) if (value := getattr(self, f.name)) != f.default}


def _is_pattern(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True


Shapes: TypeAlias = Literal["rle", "polygons"]


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """How objects are written for annotation tools."""

    shapes: Shapes = "rle"
    """Objects of coco and label-studio: run lengths, exact, or polygons."""
    instances: bool = False
    """One object per connected region instead of one per class."""
    tolerance: float = 0.0
    """Pixels by which polygons may miss the outline; 0 is exact."""
    picture_prefix: str = "/data/local-files/?d="
    """What label-studio puts before a picture's path."""
    link: bool = False
    """Hard links to pictures instead of copies, where they are written."""

    def __post_init__(self) -> None:
        require(self.shapes in ("rle", "polygons"), f"--shapes must be rle or polygons, got {self.shapes!r}.")
        fine = math.isfinite(self.tolerance) and self.tolerance >= 0
        require(fine, f"--tolerance is a number of pixels, 0 or more, got {self.tolerance}.")


MaskFormat = Literal["coco", "yolo", "label-studio", "cvat", "geojson", "voc", "ultralytics-semantic", "hf-imagefolder"]
"""Formats of annotation tools that masks are written in (docs/formats.md)."""
OutputFormat = Literal["png", "ids", "npz", "comp5", "comp6", MaskFormat]
"""`predict --format`."""
MASK_FORMATS: tuple[str, ...] = get_args(MaskFormat)
RESULTS: dict[str, tuple[str, ...]] = {
    "png": ("masks/NAME.png", "overlays/NAME.jpg"),
    "ids": ("ids/NAME.png",),
    "npz": ("probs/NAME.npz",),
    "comp5": ("results.tgz", "results/"),
    "comp6": ("results.tgz", "results/"),
    "coco": ("coco.json",),
    "yolo": ("yolo/labels/NAME.txt",),
    "label-studio": ("label-studio.json",),
    "cvat": ("cvat.zip",),
    "geojson": ("geojson/NAME.geojson",),
    "voc": ("voc/SegmentationClass/NAME.png", "voc/SegmentationObject/NAME.png"),
    "ultralytics-semantic": ("ultralytics-semantic/masks/NAME.png", "ultralytics-semantic/images/"),
    "hf-imagefolder": ("hf-imagefolder/masks/NAME.png", "hf-imagefolder/images/"),
}
"""What `predict` writes below OUT in each format: whole files, folders, and the files of each picture NAME."""


def place_of(result: str) -> str:
    """The file or folder directly below OUT that an entry of `RESULTS` is, or lies in."""
    return result.partition("/")[0]
