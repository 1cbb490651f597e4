"""The plain folder: images/ and tags.csv, with optional classes.txt, masks/ and splits/. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from tag2mask.base.spelling import existing
from tag2mask.config.formats import DataOptions
from tag2mask.data.dataset import DataError, MissingDataError, Picture, PictureSet
from tag2mask.data.findings import Finding, about, listed, some
from tag2mask.data.masks.labels import MaskFiles, own_codes
from tag2mask.data.readers.class_names import background_finding, name_findings
from tag2mask.data.readers.companions import mask_files, masks_among
from tag2mask.data.readers.left_out import other_columns
from tag2mask.data.readers.listing import completed
from tag2mask.data.readers.locating import PictureFiles, files_of_folder
from tag2mask.data.readers.masks_beside import refuse_masks_beside
from tag2mask.data.readers.splits import split_names
from tag2mask.data.storage.links import refuse_links_out
from tag2mask.data.storage.searching import not_searched
from tag2mask.data.storage.suffixes import passed_over
from tag2mask.data.storage.tables import TagTable, checked_classes, class_indices, read_classes, read_tag_table


def open_folder(root: Path, *, split: str | None, options: DataOptions, need_tags: bool) -> PictureSet:
    """One split of a plain folder, checked; rules in docs/data.md, errors as `open_data`."""
    split = split or "train"
    table = _table(root, options, needed=need_tags and options.tags_from == "tags")
    classes = _classes(root, table)
    refuse_links_out(root, ("images", "masks"))
    files = files_of_folder(root, "images")
    paths = _all_paths(root, table, files)
    refuse_masks_beside(paths, paths.__getitem__, root)
    chosen, list_findings = split_names(root, split, paths, options.group_by)
    masks = MaskFiles(root / "masks")
    codes = own_codes(masks.folder if masks.folder.is_dir() else None, classes, options)
    findings = (*name_findings(classes), *table_findings(root, table, files), *list_findings)
    pictures = tuple(Picture(paths[name], name, (), masks.find(name)) for name in chosen)
    found = PictureSet(classes, pictures, codes, root, split, "folder", findings)
    return completed(found, options, lambda: (_tags(table, classes, root, paths), ()), [masks], paths)


def table_findings(root: Path, table: TagTable | None, files: PictureFiles) -> tuple[Finding, ...]:
    """Findings on the files in images/ and of the rows of tags.csv."""
    folder = root / "images"
    rows = {} if table is None else table.rows
    found = passed_over((name for name in files.others if name not in rows), folder)
    found += not_searched(root, files.left_out)
    if table is None:
        return (*found, *mask_files(masks_among(files.names), (), folder))
    masks = dict.fromkeys(masks_among({**dict.fromkeys(files.names), **dict.fromkeys(rows)}))
    rest = [name for name in files.names if name not in rows and name not in masks]
    return (
        *found,
        *other_columns(table),
        *background_finding((name, row.with_background) for name, row in rows.items()),
        *mask_files(masks, rows, folder),
        *about(
            rest,
            [(files.path(name),) for name in rest],
            code="missing_tags",
            message=f"{some(len(rest), 'picture')} in {folder} without tags in {table.path}: not used.",
            cure="Add their tags (none where a picture shows no class), or remove the files.",
        ),
    )


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


def _all_paths(root: Path, table: TagTable | None, files: PictureFiles) -> dict[str, Path]:
    """The file of every picture of the data set: of the rows of tags.csv, else of images/ without masks in it."""
    folder = root / "images"
    paths: dict[str, Path] = {}
    if table is None:
        masks = frozenset(masks_among(files.names))
        paths = {name: files.path(name) for name in files.names if name not in masks}
    for name, row in table.rows.items() if table else ():
        path = files.path(name) if name in files.known else existing(folder, name)
        if path is None or (name not in files.known and not path.is_file()):
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


def _tags(
    table: TagTable | None, classes: tuple[str, ...], root: Path, paths: dict[str, Path]
) -> dict[str, tuple[int, ...]]:
    if table is None:
        return dict.fromkeys(paths, ())
    cure = f"Correct the tag or add the class to {root / 'classes.txt'}."
    return {
        name: class_indices(row.tags, classes, f"{table.path} line {row.line}", cure)
        for name, row in table.rows.items()
    }
