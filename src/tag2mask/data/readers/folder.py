"""The plain folder: images/ and tags.csv, with optional classes.txt, masks/ and splits/. Imports no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable
from pathlib import Path
from typing import NamedTuple

from tag2mask.base.spelling import existing, nfc
from tag2mask.config.formats import DataOptions
from tag2mask.data.dataset import DataError, MissingDataError, Picture, PictureSet, SplitError
from tag2mask.data.findings import Finding, about, listed, named, some, warned
from tag2mask.data.masks.labels import MaskFiles, own_codes
from tag2mask.data.masks.survey import tags_of_masks
from tag2mask.data.readers.class_names import background_finding, name_findings
from tag2mask.data.readers.companions import masks_among
from tag2mask.data.readers.left_out import other_columns
from tag2mask.data.readers.lists import PictureNames, read_list
from tag2mask.data.storage.links import refuse_links_out, walk
from tag2mask.data.storage.naming import known_split
from tag2mask.data.storage.searching import not_searched
from tag2mask.data.storage.suffixes import is_picture, passed_over, without_suffix
from tag2mask.data.storage.tables import TagTable, checked_classes, class_indices, read_classes, read_tag_table

HELD_OUT = 10
"""One picture in ten is held out where there is no splits folder."""


def open_folder(root: Path, *, split: str | None, options: DataOptions, need_tags: bool) -> PictureSet:
    """One split of a plain folder, checked; rules in docs/data.md.

    Raises:
        DataError: with file, line and cure.
    """
    split = split or "train"
    table = _table(root, options, needed=need_tags and options.tags_from == "tags")
    classes = _classes(root, table)
    refuse_links_out(root, ("images", "masks"))
    files = folder_files(root, "images")
    paths = _all_paths(root, table, files)
    chosen, list_findings = split_names(root, split, paths)
    mask_files = MaskFiles(root / "masks")
    codes = own_codes(mask_files.folder if mask_files.folder.is_dir() else None, classes, options)
    masks = {name: mask_files.find(name) for name in chosen}
    findings = (*name_findings(classes), *table_findings(root, table, files), *list_findings)
    if options.tags_from == "masks":
        tags_of, found = tags_of_masks(masks, classes, codes, split)
        findings += found
    else:
        tags_of = _tags(table, classes, root)
    pictures = tuple(Picture(paths[name], name, tags_of.get(name, ()), masks[name]) for name in chosen)
    findings += mask_files.findings(pictures, paths)
    return PictureSet(classes, pictures, codes, root, split, "folder", findings)


class FolderFiles(NamedTuple):
    """The files below a folder of pictures, without hidden ones."""

    pictures: dict[str, str]
    """Their path on the disk by their name, both relative to the folder, sorted by name."""
    others: tuple[str, ...]
    """Files that are no pictures by their suffix."""
    left_out: tuple[str, ...]
    """Folders that are never searched, see `tag2mask.data.storage.searching.is_left_out`; hidden ones aside."""


def folder_files(root: Path, folder: str) -> FolderFiles:
    """The files below `root/folder`, by suffix; no file is opened.

    Raises:
        DataError: two pictures whose names differ in their form (composed or not) alone.
    """
    pictures: dict[str, str] = {}
    others: list[str] = []
    left_out: list[str] = []
    for path, is_link in walk(root, folder, left_out=left_out) if (root / folder).is_dir() else ():
        stored = path[len(folder) + 1 :]
        name = nfc(stored)
        if is_link and (root / path).is_dir():
            continue
        if not is_picture(name):
            others.append(name)
        elif name in pictures:
            raise DataError(
                f"{root / folder} has two pictures {name!r}: one name is composed, the other decomposed (as macOS "
                "writes accents). Rename or remove one."
            )
        else:
            pictures[name] = stored
    return FolderFiles(dict(sorted(pictures.items())), tuple(sorted(others)), tuple(sorted(left_out)))


def table_findings(root: Path, table: TagTable | None, files: FolderFiles) -> tuple[Finding, ...]:
    """What is said of the files in images/ and of the rows of tags.csv."""
    folder = root / "images"
    rows = {} if table is None else table.rows
    found = passed_over((name for name in files.others if name not in rows), folder)
    found += not_searched(root, files.left_out)
    if table is None:
        return (*found, *mask_files(masks_among(files.pictures), (), folder))
    alone = [name for name, row in table.rows.items() if row.background and not row.tags]
    together = [name for name, row in table.rows.items() if row.background and row.tags]
    masks = dict.fromkeys(masks_among({**files.pictures, **dict.fromkeys(table.rows)}))
    rest = [name for name in files.pictures if name not in table.rows and name not in masks]
    return (
        *found,
        *other_columns(table),
        *background_finding(alone, together),
        *mask_files(masks, table.rows, folder),
        *_without_row({name: folder / files.pictures[name] for name in rest}, folder, table.path),
    )


def _without_row(paths: dict[str, Path], folder: Path, source: Path) -> tuple[Finding, ...]:
    """What is said of pictures in a folder that have no tags in `source`."""
    return about(
        list(paths),
        [(path,) for path in paths.values()],
        severity="warning",
        code="missing_tags",
        message=f"{some(len(paths), 'picture')} in {folder} without tags in {source}: not used.",
        cure="Add their tags (none where a picture shows no class), or remove the files.",
    )


def mask_files(names: Iterable[str], used: Container[str], where: Path) -> tuple[Finding, ...]:
    """What is said of the pictures `names` that look like masks of others; those of `used` are used."""
    names = list(names)
    if not names:
        return ()
    taken = sum(name in used for name in names)
    kinds = {"used like any other": taken, "left out": len(names) - taken}
    said = ", ".join(word if count == len(names) else f"{count} {word}" for word, count in kinds.items() if count)
    return (
        Finding(
            severity="warning",
            code="mask_files",
            message=f"{some(len(names), 'picture')} in {where} called like a mask of another one: {said}.",
            cure="Move masks to a folder masks/ under the names of their pictures (docs/data.md); rename what is none.",
            **named(names),
        ),
    )


def split_files(root: Path) -> dict[str, Path]:
    """Split lists of a plain folder, by name."""
    return {nfc(path.stem): path for path in sorted((root / "splits").glob("*.[tT][xX][tT]"))}


def split_names(root: Path, split: str, names: Iterable[str]) -> tuple[list[str], tuple[Finding, ...]]:
    """Names of the pictures of a split: from a list, or by the hash of the name where there is no list at all.

    Also what is said of the lists.

    Raises:
        SplitError: no such split, or no picture in it.
        DataError: a line that names no picture of the data set, or one twice.
    """
    names = list(names)
    files = split_files(root)
    if nfc(split) in files:
        chosen, found = listed_names(files[nfc(split)], names)
        return chosen, (*found, *_in_no_list(root, files, names), *_unused_lists(root, files))
    by_hash = not files and split in ("train", "val")
    if not by_hash and Path(split).is_file():
        return listed_names(Path(split), names)
    if not by_hash:
        known = ", ".join(files) or "train, val (by hash, as there is no splits folder)"
        told = warned(_unused_lists(root, files))
        raise SplitError(
            f"{root} has no split {split!r}; splits: {known}. Or give the path of a list of pictures.{told}"
        )
    train, held_out = hash_split(names)
    chosen = train if split == "train" else held_out
    if not chosen:
        raise SplitError(f"{root} has {len(names)} picture, too few to hold any out. Add pictures or splits/val.txt.")
    return chosen, _unused_lists(root, files)


def _unused_lists(root: Path, files: dict[str, Path]) -> tuple[Finding, ...]:
    """What is said of lists that are not read: in splits/ what is no .txt, and train.txt and the like beside it."""
    folder = root / "splits"
    inside = sorted(path for path in folder.iterdir() if path.name[0] != ".") if folder.is_dir() else []
    beside = [] if files else [path for path in sorted(root.glob("*.txt")) if known_split(path.stem)]
    lists = [path for path in (*inside, *beside) if path not in files.values()]
    if not lists:
        return ()
    return (
        Finding(
            severity="warning",
            code="unused_lists",
            message=f"{some(len(lists), 'list')} of splits in {root} not read"
            f"{'' if files else ': one picture in ten is held out by the hash of its name'}.",
            cure=f"Write them as {folder / 'train.txt'}, {folder / 'val.txt'}, one picture per line; or remove them.",
            **named([path.relative_to(root).as_posix() for path in lists]),
        ),
    )


def listed_names(path: Path, names: Iterable[str]) -> tuple[list[str], tuple[Finding, ...]]:
    """The pictures that a list means, of `names`, and what is said of it.

    Raises:
        SplitError: empty list.
        DataError: a line that means no picture or several, or one twice.
    """
    names = list(names)
    known = PictureNames(names)
    texts, findings = read_list(path, lambda text: bool(known.find(text)))
    lines: dict[str, int] = {}
    for text, line in texts.items():
        found = known.find(text)
        if len(found) > 1:
            raise DataError(
                f"{path} line {line}: {text!r} could be {' or '.join(found[:3])}. Write it with its suffix."
            )
        if not found:
            raise DataError(
                f"{path} line {line}: {text!r} is no picture of this data set.{_hint(text, names)} Write its path "
                "from the folder of pictures, one picture per line, or remove the line."
            )
        if found[0] in lines:
            raise DataError(f"{path} line {line}: {text!r} is already on line {lines[found[0]]}. Remove one.")
        lines[found[0]] = line
    return list(lines), findings


def _hint(text: str, names: list[str]) -> str:
    stem = without_suffix(text).casefold()
    near = next((name for name in names if without_suffix(name).casefold() == stem), None)
    return f" Did you mean {near!r}?" if near else ""


def _in_no_list(root: Path, files: dict[str, Path], names: list[str]) -> tuple[Finding, ...]:
    """What is said of pictures that no list of splits/ names."""
    listed: set[str] = set()
    for path in files.values():
        try:
            listed.update(listed_names(path, names)[0])
        except SplitError:  # an empty list
            continue
        except DataError:  # opening that split says it
            return ()
    return in_no_list([name for name in names if name not in listed], root / "splits")


def in_no_list(names: list[str], folder: Path) -> tuple[Finding, ...]:
    """What is said of pictures that no list of a folder names."""
    return about(
        names,
        severity="note",
        code="in_no_split",
        message=f"{some(len(names), 'picture')} in no list of {folder}: in no split and not used.",
        cure="Add them to a list, if they are meant to be used.",
    )


def hash_split(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """(train, val): a tenth is held out by the SHA-256 of the name, so that new pictures move no old one.

    Of two or more pictures at least one is on either side.
    """
    digests = {name: _digest(name) for name in names}
    order = sorted(digests, key=digests.__getitem__)
    val = {name for name in order if digests[name] % HELD_OUT == 0}
    if len(order) > 1 and not val:
        val = {order[0]}
    elif len(val) == len(order):  # also of a single picture: it trains
        val -= {order[-1]}
    return sorted(set(order) - val), sorted(val)


def _digest(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def _table(root: Path, options: DataOptions, *, needed: bool) -> TagTable | None:
    path = root / "tags.csv"
    if path.is_file():
        return read_tag_table(path, separator=options.tag_separator)
    if needed:
        inner = sorted(path.name for path in (root / "images").iterdir() if path.is_dir() and path.name[0] != ".")
        cure = f" If the folders in it ({listed(inner[:5])}) are the classes: --data {root / 'images'}" if inner else ""
        raise MissingDataError(
            f"{root} has images/ but no tags.csv. Write one with the header 'file_name,tags' and a row per picture, "
            f"for example 'a.jpg,cat;dog'.{cure}"
        )
    return None


def _classes(root: Path, table: TagTable | None) -> tuple[str, ...]:
    path = root / "classes.txt"
    if path.is_file():
        return read_classes(path)
    if table is None:
        raise MissingDataError(f"{root} has neither classes.txt nor tags.csv. Write one class name per line in {path}.")
    names = set(table.columns) or {tag for row in table.rows.values() for tag in row.tags}
    if not names:
        raise DataError(
            f"No usable picture: {table.path} has no tag at all. Tag the pictures, for example 'a.jpg,cat'; background "
            "is no class."
        )
    return checked_classes(tuple(sorted(names)), table.path)


def _all_paths(root: Path, table: TagTable | None, files: FolderFiles) -> dict[str, Path]:
    """The file of every picture of the data set: of the rows of tags.csv, else of images/ without masks in it."""
    folder = root / "images"
    paths: dict[str, Path] = {}
    if table is None:
        masks = frozenset(masks_among(files.pictures))
        paths = {name: folder / stored for name, stored in files.pictures.items() if name not in masks}
    for name, row in table.rows.items() if table else ():
        stored = files.pictures.get(name)
        path = existing(folder, name) if stored is None else folder / stored
        if path is None or (stored is None and not path.is_file()):
            raise MissingDataError(
                f"{table.path if table else root} line {row.line}: there is no picture {folder / name}. "
                "Add it, correct file_name (relative to images/), or remove the row."
            )
        paths[name] = path
    if not paths:
        raise DataError(
            f"No usable picture: {table.path if table else folder} lists none. Add pictures and their tags."
        )
    return paths


def _tags(table: TagTable | None, classes: tuple[str, ...], root: Path) -> dict[str, tuple[int, ...]]:
    if table is None:
        return {}
    cure = f"Correct the tag or add the class to {root / 'classes.txt'}."
    return {
        name: class_indices(row.tags, classes, f"{table.path} line {row.line}", cure)
        for name, row in table.rows.items()
    }
