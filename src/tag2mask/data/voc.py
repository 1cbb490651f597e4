"""The PASCAL VOC tree: JPEGImages/, ImageSets/Segmentation/, tags.csv or Annotations/. Imports no torch."""

from __future__ import annotations

import logging
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tag2mask.config import BACKGROUND, IGNORE
from tag2mask.data.dataset import (
    DataError,
    MissingDataError,
    Picture,
    PictureSet,
    SplitError,
    label_codes,
    other_code,
)
from tag2mask.data.findings import Finding
from tag2mask.data.folder import mask_path, mask_tags
from tag2mask.data.left_out import Unlabeled, is_skipped, other_tags, unlabeled, unlisted
from tag2mask.data.links import refuse_links_out, walk
from tag2mask.data.suffixes import is_picture
from tag2mask.data.tables import class_indices, numbered_lines, read_classes, read_tag_table, safe_name
from tag2mask.formats import DataOptions

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""The twenty classes of PASCAL VOC; id `i + 1` in its masks."""
_SUFFIX = re.compile(r"\.(jpe?g|png)$", re.IGNORECASE)
_log = logging.getLogger(__name__)


def open_voc(root: Path, *, split: str | None, options: DataOptions, need_tags: bool) -> PictureSet:
    """One split of a VOC tree, checked; rules in docs/data.md.

    Raises:
        DataError: with file, line and cure.
    """
    classes_file = root / "classes.txt"
    classes = read_classes(classes_file) if classes_file.is_file() else VOC_CLASSES
    codes = voc_codes(classes, others=options.others)
    list_file = split_file(root, split)
    lines = listed_ids(list_file)
    paths = {name: _picture_path(root, name, f"{list_file} line {line}") for name, line in lines.items()}
    masks = {name: _mask(root, name) for name in lines}
    refuse_links_out(root, ("JPEGImages", "SegmentationClass", "SegmentationClassAug", "Annotations"))
    findings = unlisted(_in_no_list(root, lines), root, "the lists of ImageSets/Segmentation", usual=True)
    if options.tags_from == "masks":
        tags = {name: mask_tags(mask, codes, name) for name, mask in masks.items()}
    else:
        tags, said = _tags(root, lines, list_file, classes, options, need_tags=need_tags)
        findings += said
    pictures = [Picture(paths[name], paths[name].name, tags[name], masks[name]) for name in lines if name in tags]
    if not pictures:
        raise SplitError(f"No usable picture: nobody labeled any of {list_file}. Leave --unlabeled skip out.")
    return PictureSet(classes, tuple(pictures), codes, root, split or list_file.stem, "voc", findings)


def voc_codes(classes: tuple[str, ...], *, others: str) -> NDArray[np.uint8]:
    """uint8 [256]: labels of VOC mask ids, by class name; ids of no listed class become 255 (0 for "background").

    Where no class is one of the twenty, the masks are taken to hold labels in the order of classes.txt.
    """
    if not set(classes) & set(VOC_CLASSES):
        return label_codes(len(classes), others=others)
    if unknown := [name for name in classes if name not in VOC_CLASSES]:
        _log.warning("No VOC mask id stands for %s: these classes cannot be scored on masks.", ", ".join(unknown))
    codes = np.full(256, other_code(others), dtype=np.uint8)
    codes[BACKGROUND], codes[IGNORE] = BACKGROUND, IGNORE
    for label, name in enumerate(classes, start=1):
        if name in VOC_CLASSES:
            codes[VOC_CLASSES.index(name) + 1] = label
    return codes


def split_file(root: Path, split: str | None) -> Path:
    """The list of a split; None means train_aug.txt where that exists, else train.txt.

    Raises:
        SplitError: no such split.
    """
    folder = root / "ImageSets" / "Segmentation"
    names = ("train_aug", "train") if split is None else (split,)
    candidates = [folder / f"{name}.txt" for name in names]
    for path in candidates if split is None else [*candidates, Path(split)]:
        if path.is_file():
            return path
    known = ", ".join(path.stem for path in sorted(folder.glob("*.txt"))) or "none"
    if split == "train_aug":
        raise SplitError(
            f"{folder} has no train_aug.txt; splits: {known}. It is no part of VOC 2012: put the list of the 10,582 "
            "training pictures that SBD extends it to there, one picture id per line. Their pictures are in JPEGImages "
            "and their tags in Annotations/*.xml already (or write tags.csv); masks are not needed. To train on the "
            "1,464 pictures of VOC's own list instead: --train-split train"
        )
    raise SplitError(
        f"{folder} has no split {split or 'train'!r}; splits: {known}. Or give the path of a list of pictures."
    )


def listed_ids(path: Path) -> dict[str, int]:
    """Picture ids of a list with their lines; a line may also be a file name, or '/JPEGImages/ID.jpg MASK'.

    Raises:
        SplitError: empty list.
        DataError: an id twice, or one that leaves the tree.
    """
    lines: dict[str, int] = {}
    for line, text in numbered_lines(path):
        name = picture_id(safe_name(text.split()[0].removeprefix("/JPEGImages/"), f"{path} line {line}"))
        if name in lines:
            raise DataError(f"{path} line {line}: {name!r} is already on line {lines[name]}. Remove one.")
        lines[name] = line
    if not lines:
        raise SplitError(f"{path} lists no picture. Write one picture id per line.")
    return lines


def picture_id(name: str) -> str:
    """The VOC id of a picture: its name without JPEGImages/ and without suffix."""
    return _SUFFIX.sub("", name.removeprefix("JPEGImages/"))


def _picture_path(root: Path, name: str, where: str) -> Path:
    for suffix in (".jpg", ".jpeg", ".JPG", ".png"):
        path = root / "JPEGImages" / f"{name}{suffix}"
        if path.is_file():
            return path
    raise MissingDataError(f"{where}: there is no picture {root / 'JPEGImages' / name}.jpg. Add it or remove the line.")


def _mask(root: Path, name: str) -> Path | None:
    return mask_path(root / "SegmentationClassAug", f"{name}.png") or mask_path(
        root / "SegmentationClass", f"{name}.png"
    )


def _in_no_list(root: Path, lines: Mapping[str, int]) -> list[str]:
    """Pictures of JPEGImages/ that no list of ImageSets/Segmentation/ names, nor `lines`."""
    listed = set(lines)
    for path in (root / "ImageSets" / "Segmentation").glob("*.txt"):
        listed |= {picture_id(text.split()[0].removeprefix("/JPEGImages/")) for _, text in numbered_lines(path)}
    names = sorted(name for name, _ in walk(root, "JPEGImages") if is_picture(name))
    return [name for name in names if picture_id(name) not in listed]


def _tags(
    root: Path,
    lines: Mapping[str, int],
    list_file: Path,
    classes: tuple[str, ...],
    options: DataOptions,
    *,
    need_tags: bool,
) -> tuple[dict[str, tuple[int, ...]], tuple[Finding, ...]]:
    """Tags of the listed pictures, without those that are left out: of tags.csv if there, else of Annotations/*.xml."""
    table, folder = root / "tags.csv", root / "Annotations"
    from_table = table.is_file() and options.tags_from != "shapes"
    findings: tuple[Finding, ...] = ()
    if from_table:
        found = _csv_tags(root, lines, classes)
    elif any(folder.glob("*.xml")):
        found, findings = _xml_tags(folder, lines, classes)
    elif options.tags_from == "shapes":
        raise MissingDataError(f"{root} has no Annotations/*.xml. Leave --tags-from shapes out to take tags.csv.")
    elif need_tags:
        raise MissingDataError(
            f"{root} has no tags: neither tags.csv nor Annotations/*.xml. Write tags.csv with the header "
            "'file_name,tags', or allow --tags-from masks, which then trains on more than tags."
        )
    else:
        return dict.fromkeys(lines, ()), ()
    missing = [name for name in lines if name not in found]
    if options.unlabeled == "auto":
        if missing and need_tags:
            where = f"{list_file} line {lines[missing[0]]}"
            raise _no_row(where, table, missing) if from_table else _no_xml(folder, missing)
        return found | dict.fromkeys(missing, ()), findings
    how = Unlabeled(f"a row in {table}" if from_table else f"an XML file in {folder}", options.unlabeled)
    findings += unlabeled(how, missing, len(lines), list_file, options)
    return found if is_skipped(how, options) else found | dict.fromkeys(missing, ()), findings


def _no_row(where: str, table: Path, missing: list[str]) -> DataError:
    return DataError(
        f"{where}: {missing[0]!r} has no row in {table}{_first_of(missing)}. Add the row (with an empty tag cell if it "
        "shows no class), remove the line, or say --unlabeled skip or --unlabeled negative."
    )


def _no_xml(folder: Path, missing: list[str]) -> MissingDataError:
    return MissingDataError(
        f"There is no {folder / missing[0]}.xml{_first_of(missing)}. Add it, write tags.csv for all pictures, or say "
        "--unlabeled skip or --unlabeled negative."
    )


def _first_of(missing: list[str]) -> str:
    return f" (the first of {len(missing)} such pictures)" if len(missing) > 1 else ""


def _csv_tags(root: Path, lines: Mapping[str, int], classes: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    def key(name: str) -> str | None:
        return picture_id(name) if picture_id(name) in lines else None

    table = read_tag_table(root / "tags.csv", key)
    cure = f"Correct the tag or add the class to {root / 'classes.txt'}."
    return {
        name: class_indices(row.tags, classes, f"{table.path} line {row.line}", cure)
        for name, row in table.rows.items()
    }


def _xml_tags(
    folder: Path, lines: Mapping[str, int], classes: tuple[str, ...]
) -> tuple[dict[str, tuple[int, ...]], tuple[Finding, ...]]:
    """Tags of the pictures that have an annotation; VOC classes outside the class list are left out, and counted."""
    objects = {name: _objects(folder / f"{name}.xml") for name in lines if (folder / f"{name}.xml").is_file()}
    tags = {}
    for name, labels in objects.items():
        wanted = [label for label in labels if label in classes or label not in VOC_CLASSES]
        cure = "Correct the name or add the class to classes.txt."
        tags[name] = class_indices(wanted, classes, str(folder / f"{name}.xml"), cure)
    return tags, other_tags(objects, classes, folder, chosen=True)


def _objects(path: Path) -> list[str]:
    """Names of the objects of a VOC annotation."""
    try:
        objects = ElementTree.parse(path).getroot().findall("object")
    except ElementTree.ParseError as error:
        line, _ = error.position
        raise DataError(f"{path} line {line}: not valid XML ({error}). Correct it or write tags.csv.") from error
    except (LookupError, ValueError) as error:  # an encoding that nobody knows
        raise DataError(f"{path}: not valid XML ({error}). Save it as UTF-8 or write tags.csv.") from error
    return [(item.findtext("name") or "").strip() for item in objects]
