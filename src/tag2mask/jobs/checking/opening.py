"""Opens every split of a data set and turns the errors of its reader into findings. Imports no torch."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Container
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from tag2mask.base.spelling import existing
from tag2mask.config.formats import DataFormat, DataOptions
from tag2mask.data import DataError, Picture, PictureSet, SplitError, detect_format, list_splits, open_data
from tag2mask.data.dataset import label_codes
from tag2mask.data.findings import Finding, about, some
from tag2mask.data.readers.folder import table_findings
from tag2mask.data.readers.locating import files_of_folder
from tag2mask.data.readers.voc import VOC_CLASSES, listed_ids, picture_id, split_lists
from tag2mask.data.storage.tables import TagTable, near_word, read_classes, read_tag_table

_HELD_OUT = ("val", "test", "dev", "eval", "holdout")
_DO = "Do what the message says, then check again."
_WITHOUT = "Without tags and masks nothing can be scored on these pictures. Add either, or leave the split out."
UNLISTED = "files"
"""Name of the stand-in split where no split can be opened: every picture file."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """The splits of a data set as far as they can be opened."""

    data_format: str
    train: str
    """Name of the split to train on, whether it could be opened or not."""
    splits: dict[str, PictureSet]
    """The split to train on first."""
    tagged: frozenset[str]
    """Splits whose tags are known."""
    by_hash: bool
    """Whether `train` and `val` are made by the hash of the names."""
    findings: tuple[Finding, ...]

    @property
    def held_out(self) -> tuple[str, ...]:
        """Splits that are kept from training."""
        return tuple(name for name in self.splits if is_held_out(name) and name != self.train)

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
    own: tuple[str, ...] = ()  # none where they are made by hash
    with contextlib.suppress(DataError):  # opening the split to train on will say it
        own = list_splits(root, options=options)
    first = str(train_split or ("train_aug" if kind == "voc" and "train_aug" in own else "train"))
    for name in dict.fromkeys([first, *(own or ("train", "val"))]):
        asked = train_split if name == first else name
        try:
            pictures, problem = _open(root, asked, options)
        except DataError as error:
            is_missing = isinstance(error, SplitError)
            # too few pictures for a `val` by hash are no mistake
            if not is_missing or name == first or name in own:
                # training scores on `val` and would stop there
                fatal = name == first or (name == "val" and not is_missing)
                findings.append(_problem("unreadable", f"The split {name!r} cannot be opened: {error}", fatal=fatal))
            continue
        if name == first:
            name = first = pictures.split
        splits[name] = pictures
        if problem is None:
            tagged.add(name)
        elif name == first or not pictures.has_masks:
            message = f"The tags of the split {name!r} cannot be used: {problem}"
            findings.append(_problem("no_tags", message, fatal=name == first, cure=_WITHOUT))
    if not splits and (stand_in := _files(root, kind)) is not None:
        splits[UNLISTED] = stand_in
    once: dict[str, Finding] = {}  # several splits may fail for the same reason, as all share one tags.csv
    for finding in findings:
        once.setdefault(finding.message.split(": ", 1)[-1], finding)
    findings = [*once.values(), *_table_findings(root, kind, splits, first, options)]
    return Opened(
        data_format=kind,
        train=first,
        splits=splits,
        tagged=frozenset(tagged),
        by_hash=not own and bool(splits),
        findings=tuple(findings),
    )


def is_held_out(split: str) -> bool:
    """Whether a split is kept from training, by its name: `val`, `valid`, `test_2`, `dev` ..."""
    return split.lower().startswith(_HELD_OUT)


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
            raise error from None  # the first error says more


def _problem(code: str, message: str, *, fatal: bool, cure: str = _DO) -> Finding:
    if fatal:
        return Finding(severity="error", code=code, message=message, cure=_DO)
    return Finding(severity="warning", code=code, message=message, cure=cure)


def _files(root: Path, data_format: str) -> PictureSet | None:
    """The picture files of a plain folder or VOC tree as they lie there; None where there is none."""
    folder = {"folder": "images", "voc": "JPEGImages"}.get(data_format)
    if folder is None:
        return None
    try:
        files = files_of_folder(root, folder)
    except DataError:
        return None
    pictures = tuple(Picture(files.path(name), name, (), None) for name in files.names)
    return PictureSet((), pictures, label_codes(0, others="ignore"), root, UNLISTED, data_format) if pictures else None


def _table_findings(
    root: Path, data_format: str, splits: dict[str, PictureSet], train: str, options: DataOptions
) -> tuple[Finding, ...]:
    """Everything that is wrong in tags.csv at once, where the readers stop at the first."""
    path, is_voc = root / "tags.csv", data_format == "voc"
    if data_format not in ("folder", "voc") or options.tags_from != "tags" or not path.is_file():
        return ()
    try:
        table = read_tag_table(path, separator=options.tag_separator)
        has_list = (root / "classes.txt").is_file()
        classes = read_classes(root / "classes.txt") if has_list else VOC_CLASSES if is_voc else None
        used = _used_rows(root, table) if is_voc else table.rows.keys()
    except DataError:
        return ()  # the splits could not be opened for this reason, which is reported already
    found = () if classes is None else _unknown_tags(table, classes, used, has_list=has_list)
    if is_voc:
        return found + (_missing_rows(splits, table, train) if options.unlabeled == "auto" else ())
    found += _missing_pictures(root, table)
    # a split that can be opened says it itself
    return found + (table_findings(root, table, files_of_folder(root, "images")) if UNLISTED in splits else ())


def _used_rows(root: Path, table: TagTable) -> set[str]:
    """Rows of a VOC tree's tags.csv that a list names; the others are ignored, whatever they say."""
    known = {picture_id(name) for name in table.rows}
    ids = {name for path in split_lists(root).values() for name in listed_ids(path, known)}
    return {name for name in table.rows if picture_id(name) in ids}


def _unknown_tags(
    table: TagTable, classes: tuple[str, ...], used: Container[str], *, has_list: bool
) -> tuple[Finding, ...]:
    lines: defaultdict[str, list[int]] = defaultdict(list)
    for name, row in table.rows.items():
        for tag in row.tags if name in used else ():
            if tag not in classes:
                lines[tag].append(row.line)
    names = []
    for tag, where in sorted(lines.items(), key=lambda each: -len(each[1])):
        near = near_word(tag, classes)
        hint = f", did you mean {near!r}?" if near else ""
        names.append(f"{tag!r}: {some(len(where), 'picture')}, first on line {where[0]}{hint}")
    return about(
        names,
        severity="error",
        code="unknown_tags",
        message=f"{table.path} has {some(len(lines), 'tag')} that are no classes: "
        f"{'classes.txt does' if has_list else 'the twenty VOC classes do'} not name them.",
        cure="Correct the tags, or add the classes to classes.txt.",
    )


def _missing_pictures(root: Path, table: TagTable) -> tuple[Finding, ...]:
    names = [f"{name} (line {row.line})" for name, row in table.rows.items() if not existing(root / "images", name)]
    return about(
        names,
        severity="error",
        code="missing_pictures",
        message=f"{some(len(names), 'row')} of {table.path} without a picture in {root / 'images'}.",
        cure="Add the pictures, correct file_name (relative to images/), or remove the rows.",
    )


def _missing_rows(splits: dict[str, PictureSet], table: TagTable, train: str) -> tuple[Finding, ...]:
    rows = {picture_id(name) for name in table.rows}
    found: tuple[Finding, ...] = ()
    for split, pictures in splits.items():
        if is_held_out(split) or split == UNLISTED:
            continue
        names = [each.name for each in pictures.pictures if picture_id(each.name) not in rows]
        found += about(
            names,
            severity="error" if split == train else "warning",
            code="missing_tags",
            message=f"{some(len(names), 'picture')} of the split {split!r} without a row in {table.path}.",
            cure="Add a row for each (with an empty tag cell if it shows no class), or remove the list's lines.",
        )
    return found
