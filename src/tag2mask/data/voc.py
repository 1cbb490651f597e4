"""The PASCAL VOC tree: JPEGImages/, ImageSets/Segmentation/, tags.csv or Annotations/. Imports no torch."""

from __future__ import annotations

import logging
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tag2mask.data.dataset import DataError, MaskCodes, MissingDataError, Picture, PictureSet, SplitError
from tag2mask.data.findings import Finding
from tag2mask.data.links import refuse_links_out
from tag2mask.data.mask_labels import VOC_CLASSES as VOC_CLASSES
from tag2mask.data.mask_labels import VOC_FOLDERS, MaskFiles, codes_by_name, own_codes
from tag2mask.data.mask_survey import tags_of_masks
from tag2mask.data.tables import class_indices, numbered_lines, read_classes, read_tag_table, safe_name
from tag2mask.formats import DataOptions

_SUFFIX = re.compile(r"\.(jpe?g|png)$", re.IGNORECASE)
_log = logging.getLogger(__name__)


def open_voc(root: Path, *, split: str | None, options: DataOptions, need_tags: bool) -> PictureSet:
    """One split of a VOC tree, checked; rules in docs/data.md.

    Raises:
        DataError: with file, line and cure.
    """
    classes_file = root / "classes.txt"
    classes = read_classes(classes_file) if classes_file.is_file() else VOC_CLASSES
    folders = [MaskFiles(root / name) for name in reversed(VOC_FOLDERS)]
    codes = own_codes(root / VOC_FOLDERS[0], classes, options, usual=mask_classes(classes))
    list_file = split_file(root, split)
    lines = listed_ids(list_file)
    paths = {each: _picture_path(root, each, f"{list_file} line {line}") for each, line in lines.items()}
    masks = {each: _mask(folders, each) for each in lines}
    refuse_links_out(root, ("JPEGImages", "SegmentationClass", "SegmentationClassAug", "Annotations"))
    name = split or list_file.stem
    findings: tuple[Finding, ...] = ()
    if options.tags_from == "masks":
        tags, findings = tags_of_masks(masks, classes, codes, name)
    else:
        tags = _tags(root, lines, list_file, classes, need_tags=need_tags)
    pictures = tuple(Picture(paths[each], paths[each].name, tags.get(each, ()), masks[each]) for each in lines)
    findings += _mask_findings(root, folders, pictures)
    return PictureSet(classes, pictures, codes, root, name, "voc", findings)


def mask_classes(classes: tuple[str, ...]) -> dict[int, str]:
    """The class of each VOC mask id; where no class is one of the twenty, the masks hold labels in the order of
    classes.txt.
    """
    if not set(classes) & set(VOC_CLASSES):
        return dict(enumerate(classes, start=1))
    if unknown := [name for name in classes if name not in VOC_CLASSES]:
        _log.warning("No VOC mask id stands for %s: these classes cannot be scored on masks.", ", ".join(unknown))
    return dict(enumerate(VOC_CLASSES, start=1))


def voc_codes(classes: tuple[str, ...], *, others: str) -> NDArray[np.uint8]:
    """uint8 [256]: labels of VOC mask ids, by class name; ids of no listed class become 255 (0 for "background")."""
    return MaskCodes.of(codes_by_name(mask_classes(classes), classes), others=others).table


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


def _mask(folders: Sequence[MaskFiles], name: str) -> Path | None:
    return next(filter(None, (files.find(f"{name}.png") for files in folders)), None)


def _mask_findings(root: Path, folders: Sequence[MaskFiles], pictures: Sequence[Picture]) -> tuple[Finding, ...]:
    """Of files that are no picture's mask, where masks are missing."""
    if all(picture.mask is not None for picture in pictures) or not (root / "JPEGImages").is_dir():
        return ()
    names = [path.relative_to(root / "JPEGImages").as_posix() for path in (root / "JPEGImages").rglob("*")]
    return tuple(dict.fromkeys(each for files in folders for each in files.findings(pictures, names)))


def _tags(
    root: Path, lines: Mapping[str, int], list_file: Path, classes: tuple[str, ...], *, need_tags: bool
) -> dict[str, tuple[int, ...]]:
    """Tags of the listed pictures: tags.csv if there, else the object names of Annotations/*.xml."""
    if (root / "tags.csv").is_file():
        return _csv_tags(root, lines, list_file, classes, need_tags=need_tags)
    annotations = root / "Annotations"
    if any(annotations.glob("*.xml")):
        return {
            name: _xml_tags(annotations / f"{name}.xml", classes)
            for name in lines
            if need_tags or (annotations / f"{name}.xml").is_file()
        }
    if need_tags:
        raise MissingDataError(
            f"{root} has no tags: neither tags.csv nor Annotations/*.xml. Write tags.csv with the header "
            "'file_name,tags', or allow --tags-from masks, which then trains on more than tags."
        )
    return {}


def _csv_tags(
    root: Path, lines: Mapping[str, int], list_file: Path, classes: tuple[str, ...], *, need_tags: bool
) -> dict[str, tuple[int, ...]]:
    def key(name: str) -> str | None:
        return picture_id(name) if picture_id(name) in lines else None

    table = read_tag_table(root / "tags.csv", key)
    missing = next((name for name in lines if name not in table.rows), None)
    if missing is not None and need_tags:
        raise DataError(
            f"{list_file} line {lines[missing]}: {missing!r} has no row in {table.path}. "
            "Add the row (with an empty tag cell if it shows no class) or remove the line."
        )
    cure = f"Correct the tag or add the class to {root / 'classes.txt'}."
    return {
        name: class_indices(row.tags, classes, f"{table.path} line {row.line}", cure)
        for name, row in table.rows.items()
    }


def _xml_tags(path: Path, classes: tuple[str, ...]) -> tuple[int, ...]:
    """Tags from the objects of a VOC annotation; VOC classes outside the class list are left out."""
    try:
        objects = ElementTree.parse(path).getroot().findall("object")
    except FileNotFoundError as error:
        raise MissingDataError(f"There is no {path}. Add it, or write tags.csv for all pictures.") from error
    except ElementTree.ParseError as error:
        line, _ = error.position
        raise DataError(f"{path} line {line}: not valid XML ({error}). Correct it or write tags.csv.") from error
    except (LookupError, ValueError) as error:  # an encoding that nobody knows
        raise DataError(f"{path}: not valid XML ({error}). Save it as UTF-8 or write tags.csv.") from error
    names = [(item.findtext("name") or "").strip() for item in objects]
    wanted = [name for name in names if name in classes or name not in VOC_CLASSES]
    return class_indices(wanted, classes, str(path), "Correct the name or add the class to classes.txt.")
