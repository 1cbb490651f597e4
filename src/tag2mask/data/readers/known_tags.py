"""The tags of all pictures of a table or data set, whatever split they are in. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tag2mask.config.formats import DataOptions
from tag2mask.data.dataset import DataError
from tag2mask.data.findings import Finding
from tag2mask.data.readers import listing, voc
from tag2mask.data.readers.formats import format_of
from tag2mask.data.storage.shards import names_shards
from tag2mask.data.storage.tables import read_tag_table

_OF_DATA_SETS = (".json", ".jsonl", ".xml", ".yaml", ".yml")
"""Suffixes of the annotations of a data set, which is given by its folder."""


class KnownTags(NamedTuple):
    """What is known of a picture."""

    tags: tuple[str, ...]
    """Without `background`; none of a negative."""
    where: str
    """File and line, or id, for messages."""
    path: Path | None
    """The picture itself; None where a table alone names it."""


def read_known_tags(path: Path) -> tuple[dict[str, KnownTags], tuple[Finding, ...]]:
    """Tags by the names of the pictures, as the reader names them, and what is said of the pictures without.

    Args:
        path: A table in either form of tags.csv, or a data set in any format of docs/data.md.

    Raises:
        DataError: neither can be read.
    """
    if not path.is_dir() and not names_shards(str(path)):
        if path.suffix.lower() in _OF_DATA_SETS:
            raise DataError(
                f"--tags {path} is no table like tags.csv. Of a data set give the folder: --tags {path.parent}."
            )
        return _of_table(path, None), ()
    found = format_of(path, "auto")
    if found.read is not None:
        options = DataOptions()
        whole = listing.settled(found.read(path, options), options)
        folder = path if path.is_dir() else whole.source.parent
        rows = listing.tags_by_name(whole, folder)
        return {name: KnownTags(tags, where, file) for name, (file, tags, where) in rows.items()}, whole.findings
    if found.name == "folder" or (path / "tags.csv").is_file():
        return _of_table(path / "tags.csv", path / str(found.folder)), ()
    rows = voc.tags_by_name(path)
    return {name: KnownTags(tags, where, file) for name, (file, tags, where) in rows.items()}, ()


def _of_table(path: Path, folder: Path | None) -> dict[str, KnownTags]:
    """The rows of a table; its names begin at `folder`, where that is known."""
    rows = read_tag_table(path, lambda name: name.replace("\\", "/")).rows
    return {
        name: KnownTags(row.tags, f"{path} line {row.line}", None if folder is None else folder / name)
        for name, row in rows.items()
    }
