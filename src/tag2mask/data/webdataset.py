"""WebDataset shards: tar files of pictures and their tags, read in place. Imports no torch."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tag2mask.data.dataset import DataError
from tag2mask.data.listing import Entry, Listing
from tag2mask.data.metadata import as_tags
from tag2mask.data.naming import NO_SPLIT, known_split
from tag2mask.data.shards import MASK_SUFFIX, Member, find_shards, member_path, members, read_bytes
from tag2mask.data.suffixes import PICTURE_SUFFIXES
from tag2mask.data.tables import read_classes, split_tags
from tag2mask.formats import DataOptions

_TAG_SUFFIXES = ("json", "txt", "cls")
_MAX_TAG_BYTES = 1 << 20
_NAMED_SPLIT = re.compile(r"(?:^|[-_.])(train|training|val|valid|validation|test|testing)(?=$|[-_.\d])", re.IGNORECASE)


class ShardSample(NamedTuple):
    """One picture of a shard."""

    picture: Path
    """SHARD.tar/OFFSET+SIZE/NAME, for `tag2mask.data.open_picture`."""
    name: str
    """Its name in the tar file."""
    tags: tuple[str, ...] | None
    """None where the sample says nothing about tags."""
    number: int | None
    """Class number of a `.cls` member."""
    mask: Path | None
    """Its member KEY.mask.png, as `picture`; for evaluation only."""


def list_webdataset(root: Path, options: DataOptions) -> Listing:
    """Pictures and tags of shards; the pictures stay in the tar files.

    A sample is what shares a name up to the first dot: a picture; tags as KEY.json (`tags`, a list or text with `;`),
    KEY.txt (text with `;`) or KEY.cls (a class number, with classes.txt beside the shards, or a class name); optionally
    KEY.mask.png. Shards whose names say train, val or test are splits. A picture without tags is left out.

    Raises:
        MissingDataError: a shard is not there.
        DataError: a tar file that cannot be read in place, a member that is no plain file or leaves its folder, or
            tags that cannot be read.
    """
    shards = find_shards(root)
    folder = shards[0].parent
    named = {shard: _split_of(shard) for shard in shards}
    has_splits = all(named.values()) and len(set(named.values())) > 1
    classes = read_classes(folder / "classes.txt", numbered=True) if (folder / "classes.txt").is_file() else None
    splits: dict[str, list[Entry]] = {}
    seen: set[str] = set()
    for shard in shards:
        entries = splits.setdefault((named[shard] if has_splits else None) or NO_SPLIT, [])
        for sample in read_shard(shard, options.tag_separator):
            where = f"{shard} {sample.name}"
            tags = sample.tags if sample.number is None else (_class_name(sample.number, classes, where, folder),)
            if tags is None:
                continue
            # keys need to be unique in their shard only
            name = sample.name if sample.name not in seen else f"{shard.stem}/{sample.name}"
            seen.add(name)
            entries.append(Entry(name, tags, where, stored=sample.picture, stored_mask=sample.mask))
    return Listing("webdataset", shards[0], splits, None, closed=False, numbered=True)


def read_shard(shard: Path, separator: str = ";") -> Iterator[ShardSample]:
    """The samples of a tar file, in its order; no picture is read.

    Raises:
        DataError: as `list_webdataset`.
    """
    for key, group in itertools.groupby(members(shard), key=lambda member: _key(member.name)[0]):
        by_suffix = {_key(member.name)[1]: member for member in group}
        pictures = [suffix for suffix in by_suffix if suffix != MASK_SUFFIX and f".{suffix}" in PICTURE_SUFFIXES]
        if not pictures:
            continue
        if len(pictures) > 1:
            raise DataError(f"{shard}: sample {key} has the pictures {', '.join(pictures)}. Keep one per sample.")
        picture = by_suffix[pictures[0]]
        found = {suffix: by_suffix[suffix] for suffix in _TAG_SUFFIXES if suffix in by_suffix}
        tags, number = _tags(shard, found, separator)
        mask = by_suffix.get(MASK_SUFFIX)
        yield ShardSample(
            member_path(shard, picture), picture.name, tags, number, None if mask is None else member_path(shard, mask)
        )


def _key(name: str) -> tuple[str, str]:
    """Key and suffix of a member, by the first dot of its file name."""
    folder, slash, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    return f"{folder}{slash}{stem}", suffix.lower()


def _tags(shard: Path, members: dict[str, Member], separator: str) -> tuple[tuple[str, ...] | None, int | None]:
    """Tags, or a class number."""
    for suffix, member in members.items():
        where = f"{shard} member {member.name!r}"
        if member.size > _MAX_TAG_BYTES:
            raise DataError(f"{where} has {member.size} bytes, too many for tags. Correct or remove it.")
        try:
            text = read_bytes(shard, member.offset, member.size).decode("utf-8-sig").strip()
            value = json.loads(text) if suffix == "json" else text
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where} cannot be read: {error}. Save it as UTF-8 and valid JSON.") from error
        if suffix == "json":
            if not isinstance(value, dict) or "tags" not in value:
                continue  # metadata of another kind
            return as_tags(value["tags"], where, separator), None
        if suffix == "cls" and text.isdecimal() and len(text) < 10:
            return None, int(text)
        return split_tags(text, separator), None
    return None, None


def _class_name(number: int, classes: tuple[str, ...] | None, where: str, folder: Path) -> str:
    if classes is None:
        raise DataError(
            f"{where}: its .cls holds the class number {number}; write the names into {folder / 'classes.txt'}, one "
            "per line, number 0 first."
        )
    if number >= len(classes):
        raise DataError(f"{where}: class number {number}, but {folder / 'classes.txt'} has {len(classes)} names.")
    return classes[number]


def _split_of(shard: Path) -> str | None:
    match = _NAMED_SPLIT.search(shard.stem)
    return known_split(match.group(1)) if match else None
