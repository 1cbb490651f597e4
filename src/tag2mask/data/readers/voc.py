"""The PASCAL VOC tree: JPEGImages/, ImageSets/Segmentation/, tags.csv or Annotations/. Imports no torch."""

from __future__ import annotations

import logging
import xml.etree.ElementTree as ElementTree
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

from tag2mask.base.spelling import class_name, existing, is_background, nfc
from tag2mask.config.formats import DataOptions
from tag2mask.data.dataset import DataError, MissingDataError, Picture, PictureSet, SplitError
from tag2mask.data.findings import Finding, about, some
from tag2mask.data.masks.labels import VOC_CLASSES as VOC_CLASSES
from tag2mask.data.masks.labels import VOC_FOLDERS, MaskFiles, own_codes
from tag2mask.data.readers.class_names import background_finding, name_findings
from tag2mask.data.readers.companions import mask_files, masks_among
from tag2mask.data.readers.left_out import Unlabeled, is_skipped, other_tags, unlabeled, unlisted
from tag2mask.data.readers.listing import completed
from tag2mask.data.readers.lists import read_list
from tag2mask.data.readers.locating import PictureFiles, files_of_folder
from tag2mask.data.readers.splits import listed_by, no_split, refuse_groups
from tag2mask.data.storage.links import refuse_links_out
from tag2mask.data.storage.searching import not_searched
from tag2mask.data.storage.suffixes import passed_over, suffix_of, without_suffix
from tag2mask.data.storage.tables import (
    class_indices,
    named_xml_errors,
    read_classes,
    read_tag_table,
    without_background,
)

LISTS = "ImageSets/Segmentation"
"""Folder of the lists of a VOC tree."""
_FIRST_SUFFIXES = (".jpg", ".jpeg", ".png")
"""Of several pictures with one id the one with the first of these is taken."""
_log = logging.getLogger(__name__)


def open_voc(root: Path, *, split: str | None, options: DataOptions, need_tags: bool) -> PictureSet:
    """One split of a VOC tree, checked; rules in docs/data.md, errors as `open_data`."""
    classes_file = root / "classes.txt"
    classes = read_classes(classes_file) if classes_file.is_file() else VOC_CLASSES
    folders = [MaskFiles(root / name) for name in reversed(VOC_FOLDERS)]
    codes = own_codes(root / VOC_FOLDERS[0], classes, options, usual=mask_classes(classes))
    list_file = _split_file(root, split)
    refuse_groups(options.group_by, split_lists(root))
    refuse_links_out(root, ("JPEGImages", "SegmentationClass", "SegmentationClassAug", "Annotations"))
    files = files_of_folder(root, "JPEGImages")
    by_id, twins = _by_id(files)
    texts, findings = read_list(list_file, lambda name: picture_id(name) in by_id)
    lines = _ids(texts, list_file)
    if missing := next((key for key in lines if key not in by_id), None):
        raise MissingDataError(
            f"{list_file} line {lines[missing]}: there is no picture {files.root / missing}.jpg. Add it or remove the "
            "line."
        )
    masks = {key: next(filter(None, (each.find(f"{key}.png") for each in folders)), None) for key in lines}
    pictures = tuple(Picture(files.path(by_id[key]), by_id[key], (), masks[key]) for key in lines)
    findings += (*twins, *name_findings(classes), *_about_files(root, files, by_id, lines))
    findings += not_searched(files.root, files.left_out)
    found = PictureSet(classes, pictures, codes, root, split or list_file.stem, "voc", findings)

    def read() -> tuple[dict[str, tuple[int, ...]], tuple[Finding, ...]]:
        tags, said = _tags(root, lines, list_file, classes, options, need_tags=need_tags)
        return {by_id[key]: each for key, each in tags.items()}, said

    found = completed(found, options, read, folders, files.names)
    if not found.pictures:
        raise SplitError(f"No usable picture: nobody labeled any of {list_file}. Leave --unlabeled skip out.")
    return found


def tags_by_name(root: Path) -> dict[str, tuple[Path, tuple[str, ...], str]]:
    """File, tags and where they stand of every picture of a VOC tree that has an XML file, by its name.

    Raises:
        DataError: a file that cannot be read, or an object that is no class.
    """
    classes_file = root / "classes.txt"
    classes = read_classes(classes_file) if classes_file.is_file() else VOC_CLASSES
    files = files_of_folder(root, "JPEGImages")
    by_id, _ = _by_id(files)
    paths = {key: existing(root / "Annotations", f"{key}.xml") for key in by_id}
    names: _Names = {key: (str(path), _objects(path)) for key, path in paths.items() if path is not None}
    return {
        by_id[key]: (files.path(by_id[key]), tuple(classes[i] for i in tags), names[key][0])
        for key, tags in _indices(names, classes, root, from_table=False).items()
    }


def mask_classes(classes: tuple[str, ...]) -> dict[int, str]:
    """The class of each VOC mask id; where no class is one of the twenty, the masks hold labels in the order of
    classes.txt.
    """
    if not set(classes) & set(VOC_CLASSES):
        return dict(enumerate(classes, start=1))
    if unknown := [name for name in classes if name not in VOC_CLASSES]:
        _log.warning("No VOC mask id stands for %s: these classes cannot be scored on masks.", ", ".join(unknown))
    return dict(enumerate(VOC_CLASSES, start=1))


def split_lists(root: Path) -> dict[str, Path]:
    """The lists of a VOC tree, by the name of the split."""
    return {path.stem: path for path in sorted((root / LISTS).glob("*.txt"))}


def _split_file(root: Path, split: str | None) -> Path:
    """The list of a split; None means train_aug.txt where that exists, else train.txt.

    Raises:
        SplitError: no such split.
    """
    folder = root / LISTS
    names = ("train_aug", "train") if split is None else (split,)
    candidates = [folder / f"{name}.txt" for name in names]
    for path in candidates if split is None else [*candidates, Path(split)]:
        if (found := existing(path.parent, path.name)) is not None and found.is_file():
            return found
    known = ", ".join(split_lists(root)) or "none"
    if split == "train_aug":
        raise SplitError(
            f"{folder} has no train_aug.txt; splits: {known}. It is no part of VOC 2012: put the list of the 10,582 "
            "training pictures that SBD extends it to there, one picture id per line. Their pictures are in JPEGImages "
            "and their tags in Annotations/*.xml already (or write tags.csv); masks are not needed. To train on the "
            "1,464 pictures of VOC's own list instead: --train-split train"
        )
    raise no_split(folder, split or "train", known)


def listed_ids(path: Path, known: Container[str] | None = None) -> dict[str, int]:
    """Picture ids of a list with their lines; a line may also be a file name, or '/JPEGImages/ID.jpg MASK'.

    Args:
        path: One picture per line; a number after it, as in VOC's lists per class, is not used (`lists.read_list`).
        known: The ids that there are; with them a name that ends in a blank and a number is recognised as a name.

    Raises:
        SplitError: empty list.
        DataError: an id twice, or one that leaves the tree.
    """
    lines, _ = read_list(path, None if known is None else lambda name: picture_id(name) in known)
    return _ids(lines, path)


def _ids(lines: Mapping[str, int], path: Path) -> dict[str, int]:
    ids: dict[str, int] = {}
    for text, line in lines.items():
        name = picture_id(text)
        if name in ids:
            raise DataError(f"{path} line {line}: {name!r} is already on line {ids[name]}. Remove one.")
        ids[name] = line
    return ids


def picture_id(name: str) -> str:
    """The VOC id of a picture: its name, composed, without JPEGImages/ and without suffix."""
    return without_suffix(nfc(name).removeprefix("JPEGImages/"))


def _by_id(files: PictureFiles) -> tuple[dict[str, str], tuple[Finding, ...]]:
    """Name of the picture of each id, and findings on ids with several."""
    first = {suffix: index for index, suffix in enumerate(_FIRST_SUFFIXES)}
    by_id: dict[str, str] = {}
    twins: dict[str, list[str]] = {}
    for name in sorted(files.names, key=lambda name: first.get(suffix_of(name), len(first))):
        taken = by_id.setdefault(picture_id(name), name)
        if taken != name:
            twins.setdefault(taken, [taken]).append(name)
    return by_id, about(
        [" / ".join(names) for names in twins.values()],
        code="same_id",
        message=f"{some(len(twins), 'id')} of JPEGImages with more than one picture: the first of each is taken.",
        cure="An id is the name without suffix: give each picture its own.",
    )


def _about_files(
    root: Path, files: PictureFiles, by_id: Mapping[str, str], lines: Mapping[str, int]
) -> tuple[Finding, ...]:
    """Findings on masks in JPEGImages/, pictures in no list, and files that are no pictures."""
    listed = listed_by(split_lists(root).values(), lambda path: listed_ids(path, by_id))
    if listed is None:
        return passed_over(files.others, files.root)
    used = {name for key, name in by_id.items() if key in listed or key in lines}
    masks = [name for name in masks_among(files.names) if by_id[picture_id(name)] == name]
    rest = sorted(set(by_id.values()) - used - set(masks))
    return (
        *mask_files(masks, used, files.root),
        *unlisted({name: files.path(name) for name in rest}, files.root, f"the lists of {LISTS}", usual=True),
        *passed_over(files.others, files.root),
    )


_Names = dict[str, tuple[str, tuple[str, ...]]]
"""By picture: where its tags stand, and their names."""


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
    names: _Names

    if from_table:
        own = dict(zip(lines, lines, strict=True))
        rows = read_tag_table(table, lambda name: own.get(picture_id(name)), options.tag_separator).rows
        names = {key: (f"{table} line {row.line}", row.with_background) for key, row in rows.items()}
    elif any(folder.glob("*.xml")):
        files = {key: existing(folder, f"{key}.xml") for key in lines}
        names = {key: (str(path), _objects(path)) for key, path in files.items() if path is not None and path.is_file()}
    elif options.tags_from == "shapes":
        raise MissingDataError(f"{root} has no Annotations/*.xml. Leave --tags-from shapes out to take tags.csv.")
    elif need_tags:
        raise MissingDataError(
            f"{root} has no tags: neither tags.csv nor Annotations/*.xml. Write tags.csv with the header "
            "'file_name,tags', or allow --tags-from masks, which then trains on more than tags."
        )
    else:
        return dict.fromkeys(lines, ()), ()
    found = _indices(names, classes, root, from_table=from_table)
    findings = background_finding((key, tags) for key, (_, tags) in names.items())
    if not from_table:
        objects = [without_background(tags) for _, tags in names.values()]
        findings += other_tags(objects, classes, folder, chosen=True)
    missing = [name for name in lines if name not in found]
    if options.unlabeled == "auto":
        if missing and need_tags:
            place = f"{list_file} line {lines[missing[0]]}: {missing[0]!r} has no row in {table}"
            raise _no_tags(place if from_table else f"There is no {folder / missing[0]}.xml", missing, from_table)
        return found | dict.fromkeys(missing, ()), findings
    how = Unlabeled(f"a row in {table}" if from_table else f"an XML file in {folder}", options.unlabeled)
    findings += unlabeled(how, missing, len(lines), list_file, options)
    return found if is_skipped(how, options) else found | dict.fromkeys(missing, ()), findings


def _no_tags(what: str, missing: Sequence[str], from_table: bool) -> DataError:
    first = f" (the first of {len(missing)} such pictures)" if len(missing) > 1 else ""
    add = "Add the row (with an empty tag cell if it shows no class), remove the line"
    add = add if from_table else "Add it, write tags.csv for all pictures"
    kind = DataError if from_table else MissingDataError
    return kind(f"{what}{first}. {add}, or say --unlabeled skip or --unlabeled negative.")


def _indices(names: _Names, classes: tuple[str, ...], root: Path, *, from_table: bool) -> dict[str, tuple[int, ...]]:
    """Indices of the tags; VOC classes outside the class list are none in Annotations, background nowhere."""
    others = () if from_table else VOC_CLASSES
    cure = f"Correct the {'tag' if from_table else 'name'} or add the class to {root / 'classes.txt'}."
    return {
        key: class_indices(
            [tag for tag in tags if tag in classes or not (tag in others or is_background(tag))], classes, where, cure
        )
        for key, (where, tags) in names.items()
    }


def _objects(path: Path) -> tuple[str, ...]:
    """Names of the objects of a VOC annotation."""
    with named_xml_errors(path, "Correct it or write tags.csv.", "Save it as UTF-8 or write tags.csv."):
        objects = ElementTree.parse(path).getroot().findall("object")
    return tuple(class_name(item.findtext("name") or "") for item in objects)
