"""The plain folder: images/ and tags.csv, with optional classes.txt, masks/ and splits/. Imports no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from tag2mask.data.dataset import DataError, MissingDataError, Picture, PictureSet, SplitError
from tag2mask.data.findings import Finding
from tag2mask.data.links import refuse_links_out
from tag2mask.data.mask_labels import MaskFiles, own_codes
from tag2mask.data.mask_survey import tags_of_masks
from tag2mask.data.searching import picture_names
from tag2mask.data.tables import (
    TagTable,
    checked_classes,
    class_indices,
    numbered_lines,
    read_classes,
    read_tag_table,
    safe_name,
)
from tag2mask.formats import DataOptions

HELD_OUT = 10
"""One picture in ten is held out where there is no splits folder."""


def open_folder(root: Path, *, split: str | None, options: DataOptions, need_tags: bool) -> PictureSet:
    """One split of a plain folder, checked; rules in docs/data.md.

    Raises:
        DataError: with file, line and cure.
    """
    split = split or "train"
    table = _table(root, needed=need_tags and options.tags_from == "tags")
    classes = _classes(root, table)
    names = _all_names(root, table)
    refuse_links_out(root, ("images", "masks"))
    chosen = split_names(root, split, names)
    files = MaskFiles(root / "masks")
    codes = own_codes(files.folder if files.folder.is_dir() else None, classes, options)
    masks = {name: files.find(name) for name in chosen}
    findings: tuple[Finding, ...] = ()
    if options.tags_from == "masks":
        tags_of, findings = tags_of_masks(masks, classes, codes, split)
    else:
        tags_of = _tags(table, classes, root)
    pictures = tuple(Picture(root / "images" / name, name, tags_of.get(name, ()), masks[name]) for name in chosen)
    findings += files.findings(pictures, names)
    return PictureSet(classes, pictures, codes, root, split, "folder", findings)


def split_files(root: Path) -> dict[str, Path]:
    """Split lists of a plain folder, by name."""
    return {path.stem: path for path in sorted((root / "splits").glob("*.txt"))}


def split_names(root: Path, split: str, names: Iterable[str]) -> list[str]:
    """Names of the pictures of a split: from a list, or by the hash of the name where there is no list at all.

    Raises:
        SplitError: no such split, or no picture in it.
        DataError: a line that names no picture of the data set, or one twice.
    """
    names = list(names)
    files = split_files(root)
    if split in files:
        return listed_names(files[split], names)
    by_hash = not files and split in ("train", "val")
    if not by_hash and Path(split).is_file():
        return listed_names(Path(split), names)
    if not by_hash:
        known = ", ".join(files) or "train, val (by hash, as there is no splits folder)"
        raise SplitError(f"{root} has no split {split!r}; splits: {known}. Or give the path of a list of pictures.")
    train, held_out = hash_split(names)
    chosen = train if split == "train" else held_out
    if not chosen:
        raise SplitError(f"{root} has {len(names)} picture, too few to hold any out. Add pictures or splits/val.txt.")
    return chosen


def listed_names(path: Path, names: Iterable[str]) -> list[str]:
    """Lines of a split list, each the name of a picture in `names`."""
    known = set(names)
    lines: dict[str, int] = {}
    for line, text in numbered_lines(path):
        name = safe_name(text, f"{path} line {line}")
        if name not in known:
            raise DataError(
                f"{path} line {line}: {name!r} is no picture of this data set. Write it as in tags.csv, or add its row."
            )
        if name in lines:
            raise DataError(f"{path} line {line}: {name!r} is already on line {lines[name]}. Remove one.")
        lines[name] = line
    if not lines:
        raise SplitError(f"{path} lists no picture. Write one file name per line.")
    return list(lines)


def hash_split(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """(train, val): a tenth is held out by the SHA-256 of the name, so that new pictures move no old one.

    Of two or more pictures at least one is on either side.
    """
    order = sorted(names, key=_digest)
    held_out = sum(_digest(name) % HELD_OUT == 0 for name in order)
    val = {name for name in order if _digest(name) % HELD_OUT == 0}
    if len(order) > 1 and held_out == 0:
        val = {order[0]}
    if held_out == len(order):  # also of a single picture: it trains
        val -= {order[-1]}
    return sorted(set(order) - val), sorted(val)


def _digest(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def _table(root: Path, *, needed: bool) -> TagTable | None:
    path = root / "tags.csv"
    if path.is_file():
        return read_tag_table(path)
    if needed:
        raise MissingDataError(
            f"{root} has images/ but no tags.csv. Write one with the header 'file_name,tags' and a row per picture, "
            "for example 'a.jpg,cat;dog'."
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
            f"No usable picture: {table.path} has no tag at all. Tag the pictures, for example 'a.jpg,cat'."
        )
    return checked_classes(tuple(sorted(names)), table.path)


def _all_names(root: Path, table: TagTable | None) -> list[str]:
    """Every picture of the data set: the rows of tags.csv, else the files of images/."""
    folder = root / "images"
    if table is None:
        names = picture_names(folder)
    else:
        names = list(table.rows)
        for name, row in table.rows.items():
            if not (folder / name).is_file():
                raise MissingDataError(
                    f"{table.path} line {row.line}: there is no picture {folder / name}. "
                    "Add it, correct file_name (relative to images/), or remove the row."
                )
    if not names:
        raise DataError(
            f"No usable picture: {table.path if table else folder} lists none. Add pictures and their tags."
        )
    return names


def _tags(table: TagTable | None, classes: tuple[str, ...], root: Path) -> dict[str, tuple[int, ...]]:
    if table is None:
        return {}
    cure = f"Correct the tag or add the class to {root / 'classes.txt'}."
    return {
        name: class_indices(row.tags, classes, f"{table.path} line {row.line}", cure)
        for name, row in table.rows.items()
    }
