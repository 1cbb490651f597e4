"""What the readers of formats find, and how it becomes a `PictureSet`. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from tag2mask.base.spelling import class_name, class_names, is_background, nfc
from tag2mask.config.formats import DataOptions
from tag2mask.data.dataset import DataError, Picture, PictureSet, SplitError
from tag2mask.data.findings import Finding, warned
from tag2mask.data.masks.labels import MaskFiles, own_codes
from tag2mask.data.masks.survey import tags_of_masks
from tag2mask.data.readers.class_names import background_finding, name_findings
from tag2mask.data.readers.companions import mask_files, masks_among
from tag2mask.data.readers.left_out import Unlabeled, is_skipped, other_tags, unlabeled, unlisted
from tag2mask.data.readers.locating import PictureFiles, find_picture_files, folders_near, found_at, locate
from tag2mask.data.readers.masks_beside import refuse_masks_beside
from tag2mask.data.readers.splits import no_split, refuse_groups, split_files, split_names
from tag2mask.data.storage.naming import NO_SPLIT
from tag2mask.data.storage.searching import not_searched
from tag2mask.data.storage.suffixes import is_picture, passed_over
from tag2mask.data.storage.tables import checked_classes, class_indices, near_word, read_classes, without_background


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

    source: Path
    """What the tags were read from, for messages."""
    splits: dict[str, list[Entry]]
    """By split; all under "" where the format has none."""
    classes: tuple[str, ...] | None = None
    """The classes that the format declares, in its order; None: those that occur, sorted."""
    closed: bool = False
    """Whether tags come from a fixed list, so that classes.txt may choose from it; else a tag outside is a mistake."""
    about_files: bool = True
    """Whether findings on the files that no entry names are still missing; some readers give their own."""
    numbered: bool = False
    """Whether classes.txt names the classes by number, so that `background` may be one of them."""
    files: PictureFiles | None = None
    """The picture files of the data folder, where the reader has looked for them."""
    findings: tuple[Finding, ...] = ()
    """As in `PictureSet`."""
    unlabeled: Unlabeled | None = None
    """What is done with entries that are not `labeled`; None where there can be none."""
    left_out: tuple[Entry, ...] = ()
    """Entries that were not `labeled` and are left out."""

    @cached_property
    def entries(self) -> list[Entry]:
        """The entries of all splits."""
        return [entry for entries in self.splits.values() for entry in entries]


class _Placed(NamedTuple):
    path: Path
    entry: Entry


def settled(listing: Listing, options: DataOptions) -> Listing:
    """The listing with names as they are kept, and pictures that nobody labelled left out or negatives, counted."""
    listing = _composed(listing)
    how = listing.unlabeled
    if how is None:
        return listing
    entries = listing.entries
    each_once = {(entry.reference, entry.near): entry.labeled for entry in entries}
    names = [name for (name, _), labeled in each_once.items() if not labeled]
    found = unlabeled(how, names, len(each_once), listing.source, options)
    listing = replace(listing, findings=(*listing.findings, *found))
    if not is_skipped(how, options):
        return listing
    splits = {split: [entry for entry in each if entry.labeled] for split, each in listing.splits.items()}
    return replace(listing, splits=splits, left_out=tuple(entry for entry in entries if not entry.labeled))


def picture_set(
    listing: Listing, root: Path, data_format: str, *, split: str | None, options: DataOptions
) -> PictureSet:
    """One split of a listing (`settled`), with classes.txt, masks/ and splits/ of the data folder as in a plain folder.

    Pictures of other splits need not be there.

    Raises:
        DataError: with file, line or id, and cure.
    """
    split = split or "train"
    classes = class_list(listing, root)
    own = NO_SPLIT not in listing.splits and not split_files(root)
    if own:
        refuse_groups(options.group_by, listing.splits)
    if own and nfc(split) not in listing.splits and not Path(split).is_file():
        raise no_split(root, split, ", ".join(listing.splits))
    files = listing.files
    if files is None and any(entry.stored is None for entry in listing.entries):
        files = find_picture_files(root)
    list_findings: tuple[Finding, ...] = ()
    if own and nfc(split) in listing.splits:
        placed = _placed(root, [listing.splits[nfc(split)]], files)
        names = list(placed)
    else:
        placed = _placed(root, listing.splits.values(), files)
        paths = {name: each.path for name, each in placed.items()}
        names, list_findings = split_names(root, split, paths, options.group_by) if placed else ([], ())
    if not names:
        told = warned(listing.findings)
        raise SplitError(f"No usable picture: {listing.source} lists none in split {split!r}. Add pictures.{told}")
    refuse_masks_beside(placed, lambda name: placed[name].path, root)
    beside = MaskFiles(root / "masks") if (root / "masks").is_dir() else None
    stored = any(placed[name].entry.stored_mask is not None for name in names)
    codes = own_codes(root / "masks" if stored or beside is not None else None, classes, options)
    masks = {name: placed[name].entry.stored_mask if beside is None else beside.find(name) for name in names}
    tags = (without_background(entry.tags) for entry in listing.entries)
    findings = (
        *listing.findings,
        *name_findings(classes, root / "classes.txt" if listing.closed and not listing.numbered else None),
        *background_finding((entry.reference, entry.tags) for entry in listing.entries),
        *(other_tags(tags, classes, listing.source, chosen=(root / "classes.txt").is_file()) if listing.closed else ()),
        *_about_files(listing, root, files, placed),
        *(() if files is None else not_searched(root, files.left_out)),
        *list_findings,
    )
    pictures = tuple(Picture(placed[name].path, name, (), masks[name]) for name in names)
    found = PictureSet(classes, pictures, codes, root, split, data_format, findings)
    cure = f"Correct the tag or add the class to {root / 'classes.txt'}."

    def read() -> tuple[dict[str, tuple[int, ...]], tuple[Finding, ...]]:
        return {name: _tags(placed[name].entry, listing, classes, cure) for name in names}, ()

    known = [*placed, *(entry.reference for entry in listing.entries)]
    return completed(found, options, read, [] if beside is None else [beside], known)


def tags_by_name(listing: Listing, root: Path) -> dict[str, tuple[Path, tuple[str, ...], str]]:
    """File, tags and where they stand of every picture of a listing (`settled`), by its name, whatever its split.

    Raises:
        DataError: as `picture_set`.
    """
    classes, files = class_list(listing, root), listing.files
    if files is None and any(entry.stored is None for entry in listing.entries):
        files = find_picture_files(root)
    cure = f"Correct the tag or add the class to {root / 'classes.txt'}."
    return {
        name: (path, tuple(classes[i] for i in _tags(entry, listing, classes, cure)), entry.where)
        for name, (path, entry) in _placed(root, listing.splits.values(), files).items()
    }


def completed(
    pictures: PictureSet,
    options: DataOptions,
    read_tags: Callable[[], tuple[dict[str, tuple[int, ...]], tuple[Finding, ...]]],
    folders: Sequence[MaskFiles],
    names: Iterable[str],
) -> PictureSet:
    """The last step of every reader: tags, and findings on the files in folders of masks.

    Args:
        pictures: With masks and codes, and without tags.
        options: Whether the tags are those of the masks.
        read_tags: Gives the tags of pictures by name and findings on them; pictures without are left out.
        folders: Of masks.
        names: Pictures of all splits, as far as they are known.

    Raises:
        DataError: tags or masks cannot be used.
    """
    tags, told = tags_of_masks(pictures) if options.tags_from == "masks" else read_tags()
    kept = tuple(replace(each, tags=tags[each.name]) for each in pictures.pictures if each.name in tags)
    names = list(names)
    strays = dict.fromkeys(finding for folder in folders for finding in folder.findings(kept, names))
    return replace(pictures, pictures=kept, findings=(*pictures.findings, *told, *strays))


def _composed(listing: Listing) -> Listing:
    """The listing with all names as they are kept (`spelling`)."""
    spelt = {tag: class_name(tag) for entry in listing.entries for tag in entry.tags}
    changed = any(tag != name for tag, name in spelt.items())
    splits: dict[str, list[Entry]] = {}
    for split, entries in listing.splits.items():
        splits.setdefault(nfc(split), []).extend(
            each._replace(
                reference=nfc(each.reference),
                tags=tuple(dict.fromkeys(spelt[tag] for tag in each.tags if spelt[tag])) if changed else each.tags,
            )
            if changed or not each.reference.isascii()
            else each
            for each in entries
        )
    classes = None if listing.classes is None else class_names(listing.classes)
    return replace(listing, splits=splits, classes=classes)


def class_list(listing: Listing, root: Path) -> tuple[str, ...]:
    """classes.txt where it is there, else what the format declares, else the tags that occur, sorted by name.

    A class `background` (`spelling.is_background`) stands for "none of the classes" and is left out.

    Raises:
        DataError: no class, too many, or one in classes.txt that the format does not declare.
    """
    path = root / "classes.txt"
    if path.is_file():
        classes = tuple(each for each in read_classes(path, numbered=listing.numbered) if not is_background(each))
        for name in classes if listing.classes is not None else ():
            if name not in (listing.classes or ()):
                near = near_word(name, listing.classes or ())
                hint = f" Did you mean {near!r}?" if near else ""
                raise DataError(
                    f"{path}: {listing.source} has no class {name!r}; its classes are "
                    f"{', '.join(listing.classes or ())}.{hint} Correct the name or remove the line."
                )
        return classes
    names = listing.classes
    if names is None:
        names = tuple(sorted({tag for entry in listing.entries for tag in entry.tags}))
    classes = tuple(name for name in dict.fromkeys(names) if not is_background(name))
    if not classes:
        told = warned(listing.findings)
        raise DataError(
            f"No usable picture: {listing.source} has no tag at all. Tag the pictures; background is no class.{told}"
        )
    return checked_classes(classes, listing.source)


def _tags(entry: Entry, listing: Listing, classes: tuple[str, ...], cure: str) -> tuple[int, ...]:
    tags = without_background(entry.tags)
    kept = [tag for tag in tags if tag in classes] if listing.closed else tags
    return class_indices(kept, classes, entry.where, cure)


def _about_files(
    listing: Listing, root: Path, files: PictureFiles | None, placed: Mapping[str, _Placed]
) -> tuple[Finding, ...]:
    """Findings on masks among the pictures, of pictures that no split lists, and of files that are no pictures."""
    if not listing.about_files:
        return ()
    if files is None:
        return mask_files(masks_among(placed), placed, root)
    entries = [*listing.entries, *listing.left_out]
    listed = {found_at(files, entry.reference, entry.near) for entry in entries}
    masks = dict.fromkeys(masks_among(files.names))
    rest = {name: files.path(name) for name in files.names if name not in listed and name not in masks}
    used = {name.removeprefix("images/") for name in listed if name is not None}
    others = {nfc(each.path.relative_to(files.root).as_posix()) for each in placed.values()}
    for entry in entries:  # also those of splits that are not asked for
        if not is_picture(entry.reference):
            others |= {f"{folder}{entry.reference}" for folder in folders_near(entry.near)}
    return (
        *mask_files((name.removeprefix("images/") for name in masks), used, root),
        *unlisted(rest, root, listing.source),
        *passed_over((name for name in files.others if name not in others), files.root),
    )


def _placed(root: Path, splits: Iterable[list[Entry]], files: PictureFiles | None) -> dict[str, _Placed]:
    """File of each picture by its name: its path relative to images/ if it lies there, else to the data folder."""
    placed: dict[str, _Placed] = {}
    for entries in splits:
        here: set[str] = set()
        for entry in entries:
            if entry.stored is not None or files is None:
                name, path = entry.reference, entry.stored or root / entry.reference
            else:
                relative = locate(files, entry.reference, entry.where, entry.near)
                name, path = nfc(relative).removeprefix("images/"), files.path(relative)
            if name in here or (name in placed and placed[name].path != path):
                other = placed[name].entry.where
                raise DataError(
                    f"{entry.where}: {name!r} is already at {other}. Keep one entry per picture, and one picture per "
                    "name."
                )
            here.add(name)
            placed.setdefault(name, _Placed(path, entry))
    return placed
