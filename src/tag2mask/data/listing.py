"""What the readers of other tools' formats find, and how it becomes a `PictureSet`. Imports no torch."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from tag2mask.data.dataset import DataError, Picture, PictureSet, SplitError, label_codes
from tag2mask.data.findings import Finding, warned
from tag2mask.data.folder import mask_path, mask_tags, split_files, split_names
from tag2mask.data.left_out import Unlabeled, is_skipped, other_tags, unlabeled, unlisted
from tag2mask.data.locating import PictureFiles, find_picture_files, found_at, locate
from tag2mask.data.naming import NO_SPLIT
from tag2mask.data.tables import checked_classes, class_indices, read_classes
from tag2mask.formats import DataOptions


class Entry(NamedTuple):
    """One annotated picture."""

    reference: str
    """The picture as the annotation names it."""
    tags: tuple[str, ...]
    where: str
    """File and line, or id, for messages."""
    near: tuple[str, ...] = ()
    """Folders, relative to the data folder, where `reference` is looked for first."""
    stored: Path | None = None
    """The picture itself, where it is no file of its own (then `reference` is its name)."""
    stored_mask: Path | None = None
    """Its mask, where that is no file of its own either."""
    labeled: bool = True
    """False where nobody labelled it."""


@dataclass(frozen=True)
class Listing:
    """All annotated pictures of a data set; no picture has been looked at."""

    data_format: str
    source: Path
    """What the tags were read from, for messages."""
    splits: dict[str, list[Entry]]
    """By split; all under "" where the format has none."""
    classes: tuple[str, ...] | None
    """The classes that the format declares, in its order; None: those that occur, sorted."""
    closed: bool
    """Whether tags come from a fixed list, so that classes.txt may choose from it; else a tag outside is a mistake."""
    files: PictureFiles | None = None
    """The picture files of the data folder, where the reader has looked for them."""
    findings: tuple[Finding, ...] = ()
    """As in `PictureSet`."""
    unlabeled: Unlabeled | None = None
    """What is done with entries that are not `labeled`; None where there can be none."""
    left_out: tuple[Entry, ...] = ()
    """Entries that were not `labeled` and are left out."""


class _Placed(NamedTuple):
    path: Path
    entry: Entry


def settled(listing: Listing, options: DataOptions) -> Listing:
    """The listing with pictures that nobody labelled left out or negatives, counted and named."""
    how = listing.unlabeled
    if how is None:
        return listing
    entries = [entry for entries in listing.splits.values() for entry in entries]
    each_once = {(entry.reference, entry.near): entry.labeled for entry in entries}
    names = [name for (name, _), labeled in each_once.items() if not labeled]
    found = unlabeled(how, names, len(each_once), listing.source, options)
    listing = replace(listing, findings=(*listing.findings, *found))
    if not is_skipped(how, options):
        return listing
    splits = {split: [entry for entry in each if entry.labeled] for split, each in listing.splits.items()}
    return replace(listing, splits=splits, left_out=tuple(entry for entry in entries if not entry.labeled))


def picture_set(listing: Listing, root: Path, *, split: str | None, options: DataOptions) -> PictureSet:
    """One split of a listing, with classes.txt, masks/ and splits/ of the data folder as in a plain folder.

    Pictures of other splits need not be there.

    Raises:
        DataError: with file, line or id, and cure.
    """
    split = split or "train"
    classes = class_list(listing, root)
    own = NO_SPLIT not in listing.splits and not split_files(root)
    if own and split not in listing.splits and not Path(split).is_file():
        known = ", ".join(listing.splits)
        raise SplitError(f"{root} has no split {split!r}; splits: {known}. Or give the path of a list of pictures.")
    files = _files(listing, root)
    if own and split in listing.splits:
        placed = _placed(root, [listing.splits[split]], files)
        names = list(placed)
    else:
        placed = _placed(root, listing.splits.values(), files)
        names = split_names(root, split, placed) if placed else []
    if not names:
        told = warned(listing.findings)
        raise SplitError(f"No usable picture: {listing.source} lists none in split {split!r}. Add pictures.{told}")
    codes = label_codes(len(classes), others=options.others)
    masks = root / "masks" if (root / "masks").is_dir() else None
    cure = f"Correct the tag or add the class to {root / 'classes.txt'}."
    pictures = []
    for name in names:
        path, entry = placed[name]
        mask = entry.stored_mask if masks is None else mask_path(masks, name)
        tags = mask_tags(mask, codes, name) if options.tags_from == "masks" else _tags(entry, listing, classes, cure)
        pictures.append(Picture(path, name, tags, mask))
    findings = (*listing.findings, *_left_out(listing, root, classes, files))
    return PictureSet(classes, tuple(pictures), codes, root, split, listing.data_format, findings)


def class_list(listing: Listing, root: Path) -> tuple[str, ...]:
    """classes.txt where it is there, else what the format declares, else the tags that occur, sorted by name.

    A class `background` (in any letter case) stands for "none of the classes" and is left out.

    Raises:
        DataError: no class, too many, or one in classes.txt that the format does not declare.
    """
    path = root / "classes.txt"
    if path.is_file():
        classes = read_classes(path)
        for name in classes if listing.classes is not None else ():
            if name not in (listing.classes or ()):
                near = difflib.get_close_matches(name, listing.classes or (), n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise DataError(
                    f"{path}: {listing.source} has no class {name!r}; its classes are "
                    f"{', '.join(listing.classes or ())}.{hint} Correct the name or remove the line."
                )
        return classes
    occurring = {tag for entries in listing.splits.values() for entry in entries for tag in entry.tags}
    names = sorted(occurring) if listing.classes is None else listing.classes
    classes = tuple(name for name in dict.fromkeys(names) if not _is_background(name))
    if not classes:
        told = warned(listing.findings)
        raise DataError(f"No usable picture: {listing.source} has no tag at all. Tag the pictures.{told}")
    return checked_classes(classes, listing.source)


def _is_background(name: str) -> bool:
    return name.lower() == "background"


def _tags(entry: Entry, listing: Listing, classes: tuple[str, ...], cure: str) -> tuple[int, ...]:
    tags = [tag for tag in entry.tags if not _is_background(tag)]
    if listing.closed:
        tags = [tag for tag in tags if tag in classes]
    return class_indices(tags, classes, entry.where, cure)


def _left_out(
    listing: Listing, root: Path, classes: tuple[str, ...], files: PictureFiles | None
) -> tuple[Finding, ...]:
    """What is said of tags that are no class, and of pictures that no split lists."""
    entries = [entry for entries in listing.splits.values() for entry in entries]
    found: tuple[Finding, ...] = ()
    if listing.closed:
        tags = {entry.reference: [tag for tag in entry.tags if not _is_background(tag)] for entry in entries}
        found = other_tags(tags, classes, listing.source, chosen=(root / "classes.txt").is_file())
    if files is None or listing.data_format == "imagefolder":  # a picture of no class folder
        return found
    listed = {found_at(files, entry.reference, entry.near) for entry in (*entries, *listing.left_out)}
    return (*found, *unlisted([name for name in files.names if name not in listed], root, listing.source))


def _files(listing: Listing, root: Path) -> PictureFiles | None:
    """The picture files, where pictures are files of their own."""
    if listing.files is not None or all(e.stored is not None for entries in listing.splits.values() for e in entries):
        return listing.files
    return find_picture_files(root)


def _placed(root: Path, splits: Iterable[list[Entry]], files: PictureFiles | None) -> dict[str, _Placed]:
    """File of each picture by its name: its path relative to images/ if it lies there, else to the data folder."""
    placed: dict[str, _Placed] = {}
    for entries in splits:
        here: set[str] = set()
        for entry in entries:
            name, path = _place(root, entry, files)
            if name in here or (name in placed and placed[name].path != path):
                other = placed[name].entry.where
                raise DataError(
                    f"{entry.where}: {name!r} is already at {other}. Keep one entry per picture, and one picture per "
                    "name."
                )
            here.add(name)
            placed.setdefault(name, _Placed(path, entry))
    return placed


def _place(root: Path, entry: Entry, files: PictureFiles | None) -> tuple[str, Path]:
    if entry.stored is not None or files is None:
        return entry.reference, entry.stored or root / entry.reference
    relative = locate(files, entry.reference, entry.where, entry.near)
    return relative.removeprefix("images/"), root / relative
