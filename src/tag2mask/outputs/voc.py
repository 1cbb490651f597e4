"""A PASCAL VOC tree: SegmentationClass/, SegmentationObject/, ImageSets/Segmentation/ and the names of the labels."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tag2mask.base.files import write_lines, write_text
from tag2mask.config import IGNORE
from tag2mask.config.formats import OutputOptions
from tag2mask.data.dataset import voc_palette
from tag2mask.data.readers.voc import VOC_CLASSES
from tag2mask.outputs.objects import Add, LabeledPicture, LabelObject, Wanted, check_stems, objects_of, stem_of
from tag2mask.outputs.render import save_mask

MAX_OBJECTS = 254
"""Objects of a picture; 0 is none and 255 is ignored."""


def check_voc(wanted: Wanted) -> None:
    """What a VOC tree cannot hold.

    Raises:
        ValueError: as `check_tree`; or some of the classes are VOC's and some are not.
    """
    others = other_classes(wanted.classes)
    if others and len(others) < len(wanted.classes):
        raise ValueError(
            f"A VOC tree has VOC's ids for VOC's classes, but {', '.join(others)} are not among them. "
            "Rename them all to VOC's names or none, or write cvat or coco."
        )
    check_tree(wanted, "voc", ignored=True)


def other_classes(classes: Sequence[str]) -> list[str]:
    """Those that are not VOC's."""
    return [name for name in classes if name not in VOC_CLASSES]


def voc_ids(classes: Sequence[str]) -> NDArray[np.uint8]:
    """The id uint8 [C + 1] of each label: 0 for background, then VOC's by class name."""
    return np.array([0, *(VOC_CLASSES.index(name) + 1 for name in classes)], dtype=np.uint8)


@contextmanager
def voc_writer(path: Path, classes: Sequence[str], options: OutputOptions) -> Iterator[Add]:
    """Open a VOC tree without pictures (they go into JPEGImages/); its list is ImageSets/Segmentation/default.txt.

    Masks are indexed PNG with the VOC palette; 255 stays 255 in both. Where all classes are VOC's, the ids are VOC's;
    where none is, they are the labels, and labelmap.txt names their colors. classes.txt names the classes either way,
    for `--data` of this package.
    """
    own_labels = bool(other_classes(classes))
    codes = np.full(256, IGNORE, dtype=np.uint8)
    codes[: len(classes) + 1] = np.arange(len(classes) + 1) if own_labels else voc_ids(classes)
    colors = label_colors(classes, ignored=True)
    names: list[str] = []

    def add(picture: LabeledPicture) -> None:
        stem = stem_of(picture.file_name)
        names.append(stem)
        objects = object_map(picture, classes, options)
        objects[picture.labels == IGNORE] = IGNORE
        save_mask(path / "SegmentationClass" / f"{stem}.png", codes[picture.labels])
        save_mask(path / "SegmentationObject" / f"{stem}.png", objects)

    yield add
    if own_labels:
        write_text(path / "labelmap.txt", colors)
    write_lines(path / "classes.txt", classes)
    write_lines(path / "ImageSets" / "Segmentation" / "default.txt", names)


def label_colors(classes: Sequence[str], *, ignored: bool) -> str:
    """labelmap.txt: `name:R,G,B:parts:actions` of the background and of each class, with the colors of the VOC palette.

    With `ignored`, VOC's label of that name stands for 255.

    Raises:
        ValueError: a name with a colon or a line break, with a `#` in front, with blanks around it, or one that the
            file needs itself.
    """
    taken = ("background", "ignored") if ignored else ("background",)
    for name in classes:
        if re.search(r"[:\r\n]", name) or name.startswith("#") or name != name.strip() or name in ("", *taken):
            raise ValueError(
                f"labelmap.txt cannot hold the class {name!r}: no ':', no line break, no '#' in front, "
                f"not {' or '.join(taken)}. Rename the class."
            )
    names = {0: "background", **dict(enumerate(classes, start=1)), **({IGNORE: "ignored"} if ignored else {})}
    palette = voc_palette().tolist()
    lines = (f"{name}:{','.join(map(str, palette[label]))}::\n" for label, name in names.items())
    return "# label:color_rgb:parts:actions\n" + "".join(lines)


def check_tree(wanted: Wanted, format: str, *, ignored: bool) -> None:
    """What labelmap.txt and ImageSets/Segmentation cannot hold, as datumaro and with it CVAT read the list: a line is
    a name, without blanks around it.

    Raises:
        ValueError: as `label_colors` and `check_stems`; or a name that would be read as another one, or as a remark.
    """
    label_colors(wanted.classes, ignored=ignored)
    check_stems(wanted, format)
    for stem in map(stem_of, wanted.file_names):
        if stem != stem.strip() or stem.startswith("#") or len(stem.splitlines()) != 1:
            raise ValueError(
                f"A list of a VOC tree cannot hold the name {stem!r}: no blank at its ends, no line break, "
                "no '#' in front. Rename the picture."
            )


def object_map(picture: LabeledPicture, classes: Sequence[str], options: OutputOptions) -> NDArray[np.uint8]:
    """uint8 [H, W]: 0 for no object, else the number of the object, 1.. by label and place.

    With instances, of a picture with more than `MAX_OBJECTS` regions the smallest ones of a class share one number,
    and the numbers go by area.
    """
    things = list(objects_of(picture, classes, instances=options.instances))
    objects = np.zeros(picture.size, dtype=np.uint8)
    for number, group in enumerate(_groups(things), start=1):
        for thing in group:
            x, y, w, h = thing.box
            objects[y : y + h, x : x + w][thing.mask] = number
    return objects


def _groups(things: Sequence[LabelObject]) -> list[list[LabelObject]]:
    if len(things) <= MAX_OBJECTS:
        return [[thing] for thing in things]
    labels = Counter(thing.label for thing in things)
    by_area = sorted(things, key=lambda thing: -thing.area)
    alone, shared = by_area[: MAX_OBJECTS - len(labels)], by_area[MAX_OBJECTS - len(labels) :]
    rests = [[thing for thing in shared if thing.label == label] for label in sorted(labels)]
    return [[thing] for thing in alone] + [rest for rest in rests if rest]
