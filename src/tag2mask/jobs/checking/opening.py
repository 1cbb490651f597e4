"""Opens every split of a data set and turns what its reader refuses into findings. Imports no torch."""

from __future__ import annotations

import difflib
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from tag2mask.base.spelling import existing
from tag2mask.config.formats import DataFormat, DataOptions
from tag2mask.data import DataError, Picture, PictureSet, SplitError, detect_format, list_splits, open_data
from tag2mask.data.dataset import label_codes
from tag2mask.data.findings import Finding, named, some
from tag2mask.data.readers.folder import folder_files, table_findings
from tag2mask.data.readers.voc import VOC_CLASSES, listed_ids, picture_id
from tag2mask.data.storage.tables import TagTable, read_classes, read_tag_table

_HELD_OUT = ("val", "test", "dev", "eval", "holdout")
UNLISTED = "files"
"""Name of the stand-in split where no split can be opened: every picture file."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """The splits of a data set as far as they can be opened."""

    root: Path
    data_format: str
    train: str
    """Name of the split to train on, whether it could be opened or not."""
    splits: dict[str, PictureSet]
    """The split to train on first."""
    tagged: frozenset[str]
    """Splits whose tags are known."""
    findings: tuple[Finding, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class list of the split to train on, else of any."""
        return next((each.classes for each in self.splits.values()), ())


def open_splits(root: Path, *, train_split: str | Path | None, options: DataOptions) -> Opened:
    """Open the split to train on, then the others.

    A split whose tags cannot be used is opened without them; where nothing can be opened the picture files of a plain
    folder or VOC tree are taken as they lie there, so that the pictures at least are checked.

    Raises:
        DataError: there is no folder, or no data set that is recognised in it.
    """
    kind = detect_format(root, options.data_format)
    options = replace(options, data_format=cast(DataFormat, kind))
    findings: list[Finding] = []
    splits: dict[str, PictureSet] = {}
    tagged = set()
    own = _own_splits(root, options)
    first = str(train_split or ("train_aug" if kind == "voc" and "train_aug" in own else "train"))
    for name in dict.fromkeys([first, *(own or ("train", "val"))]):
        asked = train_split if name == first else name
        try:
            pictures, problem = _open(root, asked, options)
        except SplitError as error:
            # that there are too few pictures for a `val` by hash is no mistake
            if name == first or name in own:
                findings.append(_unreadable(name, error, fatal=name == first))
            continue
        except DataError as error:
            # training scores on `val` and would stop there
            findings.append(_unreadable(name, error, fatal=name in (first, "val")))
            continue
        if name == first:
            name = first = pictures.split
        splits[name] = pictures
        if problem is None:
            tagged.add(name)
        elif name == first or not pictures.has_masks:
            findings.append(_untagged(name, problem, fatal=name == first))
    if not splits and (stand_in := _files(root, kind)) is not None:
        splits[UNLISTED] = stand_in
    findings = [*_merged(findings), *_table_findings(root, kind, splits, first, options)]
    return Opened(
        root=root, data_format=kind, train=first, splits=splits, tagged=frozenset(tagged), findings=tuple(findings)
    )


def is_held_out(split: str) -> bool:
    """Whether a split is kept from training, by its name: `val`, `valid`, `test_2`, `dev` ..."""
    return split.lower().startswith(_HELD_OUT)


def _own_splits(root: Path, options: DataOptions) -> tuple[str, ...]:
    """Splits that the data set itself has; none where they are made by hash."""
    try:
        return list_splits(root, options=options)
    except DataError:  # opening the split to train on will say it
        return ()


def _open(root: Path, split: str | Path | None, options: DataOptions) -> tuple[PictureSet, DataError | None]:
    """A split, and why its tags cannot be used.

    Raises:
        DataError: it cannot be opened even without tags.
    """
    try:
        return open_data(root, split=split, options=options), None
    except SplitError:
        raise
    except DataError as error:
        try:
            return open_data(root, split=split, options=replace(options, tags_from="tags"), need_tags=False), error
        except DataError:
            raise error from None  # what is wrong with tags too says more


def _unreadable(split: str, error: DataError, *, fatal: bool) -> Finding:
    return Finding(
        severity="error" if fatal else "warning",
        code="unreadable",
        message=f"The split {split!r} cannot be opened: {error}",
        cure="Do what the message says, then check again.",
    )


def _untagged(split: str, error: DataError, *, fatal: bool) -> Finding:
    return Finding(
        severity="error" if fatal else "warning",
        code="no_tags",
        message=f"The tags of the split {split!r} cannot be used: {error}",
        cure="Do what the message says, then check again."
        if fatal
        else "Without tags and masks nothing can be scored on these pictures. Add either, or leave the split out.",
    )


def _merged(findings: list[Finding]) -> list[Finding]:
    """One finding where several splits fail for the same reason (all share one tags.csv)."""
    seen: dict[str, Finding] = {}
    for finding in findings:
        seen.setdefault(finding.message.split(": ", 1)[-1], finding)
    return list(seen.values())


def _files(root: Path, data_format: str) -> PictureSet | None:
    folder = root / {"folder": "images", "voc": "JPEGImages"}.get(data_format, "")
    if folder == root:
        return None
    try:
        files = folder_files(root, folder.name).pictures
    except DataError:
        return None
    pictures = tuple(Picture(folder / path, name, (), None) for name, path in files.items())
    return PictureSet((), pictures, label_codes(0, others="ignore"), root, UNLISTED, data_format) if files else None


def _table_findings(
    root: Path, data_format: str, splits: dict[str, PictureSet], train: str, options: DataOptions
) -> list[Finding]:
    """Everything that is wrong in tags.csv at once, where the readers stop at the first."""
    path = root / "tags.csv"
    if data_format not in ("folder", "voc") or options.tags_from != "tags" or not path.is_file():
        return []
    try:
        table = read_tag_table(path, separator=options.tag_separator)
        classes = _listed_classes(root, data_format)
        used = set(table.rows) if data_format == "folder" else _used_rows(root, table)
    except DataError:
        return []  # this is what the splits could not be opened for
    found = _unknown_tags(table, classes, used)
    if data_format == "folder":
        found += _missing_pictures(root, table)
        if UNLISTED in splits:  # a split that can be opened says it itself
            found += table_findings(root, table, folder_files(root, "images"))
    elif options.unlabeled == "auto":
        found += _missing_rows(splits, table, train)
    return found


def _listed_classes(root: Path, data_format: str) -> tuple[str, ...] | None:
    """Classes that tags must be of; None where the tags themselves are the class list."""
    path = root / "classes.txt"
    if path.is_file():
        return read_classes(path)
    return VOC_CLASSES if data_format == "voc" else None


def _used_rows(root: Path, table: TagTable) -> set[str]:
    """Rows of a VOC tree's tags.csv that a list names; the others are ignored, whatever they say."""
    files, known = (root / "ImageSets" / "Segmentation").glob("*.txt"), {picture_id(name) for name in table.rows}
    ids = {name for path in files for name in listed_ids(path, known)}
    return {name for name in table.rows if picture_id(name) in ids}


def _unknown_tags(table: TagTable, classes: tuple[str, ...] | None, used: set[str]) -> list[Finding]:
    lines: defaultdict[str, list[int]] = defaultdict(list)
    for name, row in table.rows.items() if classes else ():
        for tag in row.tags if name in used else ():
            if tag not in (classes or ()):
                lines[tag].append(row.line)
    if not lines:
        return []
    names = []
    for tag, where in sorted(lines.items(), key=lambda each: -len(each[1])):
        close = difflib.get_close_matches(tag, classes or (), n=1)
        hint = f", did you mean {close[0]!r}?" if close else ""
        names.append(f"{tag!r}: {some(len(where), 'picture')}, first on line {where[0]}{hint}")
    return [
        Finding(
            severity="error",
            code="unknown_tags",
            message=f"{table.path} has {some(len(lines), 'tag')} that are no classes: "
            f"{'classes.txt does' if (table.path.parent / 'classes.txt').is_file() else 'the twenty VOC classes do'} "
            "not name them.",
            cure="Correct the tags, or add the classes to classes.txt.",
            **named(names),
        )
    ]


def _missing_pictures(root: Path, table: TagTable) -> list[Finding]:
    names = [f"{name} (line {row.line})" for name, row in table.rows.items() if not existing(root / "images", name)]
    if not names:
        return []
    return [
        Finding(
            severity="error",
            code="missing_pictures",
            message=f"{some(len(names), 'row')} of {table.path} without a picture in {root / 'images'}.",
            cure="Add the pictures, correct file_name (relative to images/), or remove the rows.",
            **named(names),
        )
    ]


def _missing_rows(splits: dict[str, PictureSet], table: TagTable, train: str) -> list[Finding]:
    rows = {picture_id(name) for name in table.rows}
    found = []
    for split, pictures in splits.items():
        names = [each.name for each in pictures.pictures if picture_id(each.name) not in rows]
        if not names or is_held_out(split) or split == UNLISTED:
            continue
        found.append(
            Finding(
                severity="error" if split == train else "warning",
                code="missing_tags",
                message=f"{some(len(names), 'picture')} of the split {split!r} without a row in {table.path}.",
                cure="Add a row for each (with an empty tag cell if it shows no class), or remove the list's lines.",
                **named(names),
            )
        )
    return found
