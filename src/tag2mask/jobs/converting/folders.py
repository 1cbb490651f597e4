"""Any data set as a plain folder. Imports no torch."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tag2mask.base.arrays import label_counts
from tag2mask.base.files import make_folder_atomically, write_lines, write_text
from tag2mask.config.formats import DataOptions
from tag2mask.data import DataError, Picture, PictureSet, SplitError, list_splits, read_split
from tag2mask.data.findings import Finding
from tag2mask.data.masks.tally import MaskTally
from tag2mask.data.storage.pictures import place_picture, read_ids
from tag2mask.data.storage.result_names import result_names
from tag2mask.data.storage.tables import class_indices, read_classes, read_tag_table
from tag2mask.outputs.render import save_mask

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ConvertedData:
    """What `convert` made of a data set."""

    out: Path
    data_format: str
    """Format that was read."""
    classes: tuple[str, ...]
    num_images: int
    num_masks: int
    num_negatives: int
    splits: dict[str, int]
    """Pictures per split; empty where the data set has none (`train` and `val` are then by hash)."""
    findings: tuple[Finding, ...] = ()
    """What was left out, or may not be what it was taken for."""


def write_plain_folder(
    source: Path,
    out: Path,
    *,
    options: DataOptions,
    splits: Sequence[str],
    link: bool,
    progress: Callable[[int, int], object] | None,
) -> ConvertedData:
    """The part of `convert` for data sets: `source` as a plain folder (docs/data.md), whole or not at all.

    Pictures keep their bytes and their names, tags become tags.csv, classes keep their order (classes.txt), masks
    become label PNG with ids outside the class list as 255, and splits become splits/NAME.txt.
    """
    own = tuple(splits) or list_splits(source, options=options)
    sets = open_splits(source, own, options)
    first = next(iter(sets.values()))
    pictures = {picture.name: picture for each in sets.values() for picture in each.pictures}
    # groups are not seen in names: what they are split into is written down
    lists = {name: [each.name for each in sets[name].pictures] for name in own or (sets if options.group_by else ())}
    _check_names([*pictures, *first.classes, *own])
    tally = MaskTally(first)

    def fill(folder: Path) -> None:
        write_text(folder / "tags.csv", tag_table(list(pictures.values()), first.classes))
        write_lines(folder / "classes.txt", first.classes)
        _check_tables(folder, pictures, first.classes)
        for name, members in lists.items():
            write_lines(folder / "splits" / f"{name}.txt", members)
        _write_pictures(folder, pictures, first, tally, link=link, progress=progress)

    make_folder_atomically(out, fill)
    return ConvertedData(
        out=out,
        data_format=first.data_format,
        classes=first.classes,
        num_images=len(pictures),
        num_masks=sum(picture.mask is not None for picture in pictures.values()),
        num_negatives=sum(not picture.tags for picture in pictures.values()),
        splits={name: len(members) for name, members in lists.items()},
        findings=(*dict.fromkeys(each for part in sets.values() for each in part.findings), *tally.findings()),
    )


def open_splits(
    source: Path, own: Sequence[str], options: DataOptions, *, need_tags: bool = True
) -> dict[str, PictureSet]:
    """The splits `own` of a data set, or its two halves by hash where it has none."""
    read = partial(read_split, source, need_tags=need_tags, options=options)
    sets = {name: read(split=name) for name in own or ("train",)}
    if not own:
        try:
            sets["val"] = read(split="val")
        except SplitError as error:  # a single picture
            _log.info("%s", error)
    return sets


def _check_names(names: Sequence[str]) -> None:
    """Refuse names that the lines of a text file cannot hold."""
    for name in names:
        if name != name.strip() or len(name.splitlines()) != 1:
            raise DataError(f"The name {name!r} begins or ends with a space, or has a line break. Rename it.")


def _check_tables(folder: Path, pictures: Mapping[str, Picture], classes: tuple[str, ...]) -> None:
    """Read what was written, so that no folder is left that cannot be opened, or says something else."""
    try:
        rows, names = read_tag_table(folder / "tags.csv").rows, read_classes(folder / "classes.txt")
        same = names == classes and rows.keys() == pictures.keys()
        same = same and all(class_indices(rows[name].tags, names, "", "") == pictures[name].tags for name in rows)
    except DataError as error:
        raise DataError(
            f"The names of classes or pictures cannot be written as tags.csv: {error} Rename them."
        ) from error
    if not same:
        raise DataError(
            "The names of classes or pictures cannot be written as tags.csv: they read differently. Rename classes "
            f"that are called tags or file_name or like a list; the classes are {', '.join(classes)}."
        )


def tag_table(pictures: Sequence[Picture], classes: tuple[str, ...]) -> str:
    """tags.csv: `file_name,tags`, or a 0/1 column per class where a name holds the `;` that stands between tags."""
    rows = [["file_name", "tags"], *([each.name, ";".join(classes[i] for i in each.tags)] for each in pictures)]
    if any(";" in name for name in classes):
        columns = range(len(classes))
        rows = [
            ["file_name", *classes],
            *([each.name, *(str(int(i in each.tags)) for i in columns)] for each in pictures),
        ]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _write_pictures(
    folder: Path,
    pictures: Mapping[str, Picture],
    pictures_of: PictureSet,
    tally: MaskTally,
    *,
    link: bool,
    progress: Callable[[int, int], object] | None,
) -> None:
    names = result_names(list(pictures), numbered=False)
    for done, ((name, picture), result) in enumerate(zip(pictures.items(), names, strict=True), start=1):
        _place(picture.path, folder / "images" / name, link=link)
        if picture.mask is not None:
            ids = read_ids(picture.mask, colors=pictures_of.mask_codes.colors)
            tally.add(picture, label_counts(ids))
            save_mask(folder / "masks" / f"{result}.png", pictures_of.mask_codes.table[ids])
        if progress is not None:
            progress(done, len(pictures))


def _place(path: Path, place: Path, *, link: bool) -> None:
    """A copy of a picture's bytes, or a second name for its file.

    Raises:
        DataError: the file system takes its name for that of another.
    """
    if place.exists():
        raise DataError(f"{place} is there already: two pictures differ in letter case or accents only. Rename one.")
    place_picture(path, place, link=link)
