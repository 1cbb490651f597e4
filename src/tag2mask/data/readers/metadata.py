"""Hugging Face's `imagefolder`: pictures beside a metadata.csv or metadata.jsonl. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tag2mask.base.spelling import class_names, nfc
from tag2mask.config.formats import DataOptions
from tag2mask.data.dataset import DataError, MissingDataError
from tag2mask.data.findings import Finding
from tag2mask.data.readers.left_out import other_columns
from tag2mask.data.readers.listing import Entry, Listing
from tag2mask.data.storage.naming import by_folder
from tag2mask.data.storage.tables import TagRow, TagTable, numbered_lines, read_tag_table, safe_name, shown, split_tags

NAMES = ("metadata.csv", "metadata.jsonl")


def list_metadata(root: Path, options: DataOptions) -> Listing:
    """metadata.csv or metadata.jsonl in the data folder, or one in each folder (of a split, as a rule).

    `file_name` is relative to the folder of the table. `tags` is a list, or text with `;` between tags; a csv may have
    a 0/1 column per class instead. Where all pictures lie in folders called train, val or test, those are the splits.

    Raises:
        MissingDataError: no such table.
        DataError: a row that cannot be read.
    """
    paths = metadata_files(root)
    if not paths:
        raise MissingDataError(f"{root} has no metadata.csv or metadata.jsonl. Write one with file_name and tags.")
    entries, columns = [], set()
    findings: list[Finding] = []
    for path in paths:
        if path.suffix == ".csv" and path.with_suffix(".jsonl") in paths:
            raise DataError(f"{path.parent} has metadata.csv and metadata.jsonl. Remove one.")
        read = read_tag_table if path.suffix == ".csv" else read_jsonl
        table = read(path, separator=options.tag_separator)
        columns |= set(table.columns)
        findings += other_columns(table)
        folder = "" if path.parent == root else f"{path.parent.name}/"
        for name, row in table.rows.items():
            entries.append(Entry(nfc(folder) + name, row.with_background, f"{path} line {row.line}"))
    occurring = columns | {tag for entry in entries for tag in entry.tags}
    classes = tuple(sorted(occurring)) if columns else None
    return Listing(paths[0], by_folder(entries, lambda entry: entry.reference), classes, findings=tuple(findings))


def metadata_files(root: Path) -> list[Path]:
    """The tables of a data folder."""
    return sorted(path for name in NAMES for path in (*root.glob(name), *root.glob(f"*/{name}")) if path.is_file())


def read_jsonl(path: Path, separator: str = ";") -> TagTable:
    """One object per line with `file_name` and `tags` (a list, text with `;`, or null for none); others are ignored.

    Raises:
        DataError: no such object, a name twice or outside the folder.
    """
    rows: dict[str, TagRow] = {}
    keys: dict[str, None] = {}
    for line, text in numbered_lines(path):
        where = f"{path} line {line}"
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: not valid JSON ({error}). Write one object per line.") from error
        if not isinstance(row, dict) or "file_name" not in row or "tags" not in row:
            found = ", ".join(row) if isinstance(row, dict) else type(row).__name__
            raise DataError(f"{where}: needs an object with file_name and tags, got {found}.")
        name = safe_name(row["file_name"], where)
        if name in rows:
            raise DataError(f"{where}: {name!r} is already on line {rows[name].line}. Keep one row per picture.")
        rows[name] = TagRow(line, as_tags(row["tags"], where, separator))
        keys.update(dict.fromkeys(row))
    return TagTable(path, rows, (), tuple(key for key in keys if key not in ("file_name", "tags")))


def as_tags(value: Any, where: str, separator: str = ";") -> tuple[str, ...]:
    """Tags of a list, of text with `separator` between them, or of None."""
    if value is None:
        return ()
    if isinstance(value, str):
        return split_tags(value, separator)
    if isinstance(value, list) and all(isinstance(tag, str) for tag in value):
        return class_names(value)
    raise DataError(f"{where}: tags must be a list of class names, or text with ';' between them, got {shown(value)}.")
