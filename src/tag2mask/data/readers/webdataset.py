"""WebDataset shards: tar files of pictures and their tags, read in place. Imports no torch."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tag2mask.config.formats import DataOptions
from tag2mask.data.dataset import DataError
from tag2mask.data.findings import Finding, about, some
from tag2mask.data.readers.left_out import Unlabeled, counted, unlisted, without_picture
from tag2mask.data.readers.listing import Entry, Listing
from tag2mask.data.readers.metadata import as_tags
from tag2mask.data.storage.naming import NO_SPLIT, known_split
from tag2mask.data.storage.shards import MASK_SUFFIX, Member, find_shards, member_path, members, read_bytes
from tag2mask.data.storage.suffixes import is_picture
from tag2mask.data.storage.tables import read_classes, split_tags

_TAG_SUFFIXES = ("json", "txt", "cls")
_TAG_WORDS = frozenset(("tag", "tags", "label", "labels", "class", "classes", "target", "output"))
"""What KEY.WORD.txt or KEY.WORD.cls may be called to hold tags."""
_MAX_TAG_BYTES = 1 << 20
_COMPRESSED = re.compile(r"\.(?:tar\.\w+|tgz|tbz2?|txz)$", re.IGNORECASE)
_NAMED_SPLIT = re.compile(r"(?:^|[-_.])(train|training|val|valid|validation|test|testing)(?=$|[-_.\d])", re.IGNORECASE)


_Sample = tuple[Entry, int | None, tuple[str, ...]]
"""One picture of a shard, the class number of its `.cls` member, and the suffixes of its members that are not read."""


def list_webdataset(root: Path, options: DataOptions) -> Listing:
    """Pictures and tags of shards; the pictures stay in the tar files.

    A sample is what shares a name up to the first dot, wherever it lies in its shard: a picture; tags as KEY.json
    (`tags`, a list or text with `;`), KEY.txt (text with `;`) or KEY.cls (a class number, with classes.txt beside the
    shards, or a class name); optionally KEY.mask.png. Where there is no KEY.jpg, KEY.input.jpg is the picture, and its
    tags may be KEY.input.json or KEY.tags.txt. Shards whose names say train, val or test are splits. A picture without
    tags is left out, or a negative on request.

    Raises:
        MissingDataError: a shard is not there.
        DataError: a tar file that cannot be read in place, a member that is no plain file or leaves its folder, one
            that is there twice, or tags that cannot be read.
    """
    shards = find_shards(root)
    folder = shards[0].parent
    named_so = {shard: _NAMED_SPLIT.search(shard.stem) for shard in shards}
    split_of = {shard: known_split(match.group(1)) if match else None for shard, match in named_so.items()}
    has_splits = all(split_of.values()) and len(set(split_of.values())) > 1
    classes = read_classes(folder / "classes.txt", numbered=True) if (folder / "classes.txt").is_file() else None
    splits: dict[str, list[Entry]] = {}
    seen: set[str] = set()
    spare: list[str] = []
    others: Counter[str] = Counter()
    untagged: Counter[str] = Counter()
    for shard in shards:
        entries = splits.setdefault((split_of[shard] if has_splits else None) or NO_SPLIT, [])
        for sample in read_shard(shard, options.tag_separator):
            if isinstance(sample, str):
                spare.append(f"{shard.name}/{sample}")
                continue
            entry, number, unread = sample
            if number is not None:
                entry = entry._replace(tags=(_class_name(number, classes, entry.where, folder),), labeled=True)
            (others if entry.labeled else untagged).update(each.lower() for each in unread)
            if entry.reference in seen:  # keys need to be unique in their shard only
                entry = entry._replace(reference=f"{shard.stem}/{entry.reference}")
            seen.add(entry.reference)
            entries.append(entry)
    beside = f" (beside them: {counted(untagged)})" if untagged else ""
    return Listing(
        shards[0],
        splits,
        numbered=True,
        findings=(*without_picture(spare, "member with tags", folder), *_unread(others, folder), *_beside(root)),
        unlabeled=Unlabeled(f"tags{beside}", "skip", labels=' (KEY.json with "tags", KEY.txt or KEY.cls)'),
    )


def read_shard(shard: Path, separator: str = ";") -> Iterator[_Sample | str]:
    """The samples of a tar file, in the order of their first members; no picture is read.

    Of a key without a picture the names of members that would be its tags. Beside what is in use only the offsets of
    the members are kept. Errors as `list_webdataset`.
    """
    groups: dict[str, dict[str, tuple[int, int]]] = {}
    for member in members(shard):
        folder, slash, base = member.name.rpartition("/")
        stem, _, suffix = base.partition(".")
        key = f"{folder}{slash}{stem}"
        place = (member.offset, member.size)
        if groups.setdefault(key, {}).setdefault(sys.intern(suffix), place) is not place:
            raise DataError(f"{shard} has the member {member.name!r} twice. Keep one.")
    for key in list(groups):
        group = {suffix: Member(f"{key}.{suffix}", *place) for suffix, place in groups.pop(key).items()}
        picture = _picture_suffix(shard, key, group)
        if picture is None:
            yield from (group[suffix].name for suffix in _tag_suffixes(group, ""))
        else:
            yield _sample(shard, group, picture, separator)


def _picture_suffix(shard: Path, key: str, group: Iterable[str]) -> str | None:
    """Suffix of the picture of a sample: one without a further dot, else the only one that is a picture."""
    pictures = [suffix for suffix in group if suffix.lower() != MASK_SUFFIX and is_picture(f"a.{suffix}")]
    pictures = [suffix for suffix in pictures if "." not in suffix] or pictures
    if len(pictures) > 1:
        raise DataError(
            f"{shard}: sample {key} has the pictures {', '.join(pictures)}. Keep one per sample; a sample is what "
            "shares a name up to the first dot."
        )
    return pictures[0] if pictures else None


def _sample(shard: Path, group: Mapping[str, Member], suffix: str, separator: str) -> _Sample:
    picture, mask = group[suffix], next((each for each in group if each.lower() == MASK_SUFFIX), None)
    tags, number, read = _tags(shard, {each: group[each] for each in _tag_suffixes(group, suffix)}, separator)
    entry = Entry(
        picture.name,
        tags or (),
        f"{shard} {picture.name}",
        stored=member_path(shard, picture),
        stored_mask=None if mask is None else member_path(shard, group[mask]),
        labeled=tags is not None,
    )
    return entry, number, tuple(each for each in group if each not in (suffix, mask, read))


def _tag_suffixes(group: Iterable[str], picture: str) -> list[str]:
    """Suffixes of a sample that may be tags: json, txt, cls; then those that begin as the picture's; then the telling.

    Text such as KEY.caption.txt is none.
    """
    middle = picture.rpartition(".")[0].lower()
    found = []
    for suffix in group:
        word, _, kind = suffix.lower().rpartition(".")
        told = not word or word == middle or word in _TAG_WORDS or kind != "txt"
        if kind in _TAG_SUFFIXES and told:
            found.append((bool(word), word != middle, _TAG_SUFFIXES.index(kind), suffix))
    return [suffix for *_, suffix in sorted(found)]


def _tags(
    shard: Path, members: Mapping[str, Member], separator: str
) -> tuple[tuple[str, ...] | None, int | None, str | None]:
    """Tags, or a class number, and the suffix that they are from."""
    for suffix, member in members.items():
        where = f"{shard} member {member.name!r}"
        if member.size > _MAX_TAG_BYTES:
            raise DataError(f"{where} has {member.size} bytes, too many for tags. Correct or remove it.")
        kind = suffix.rpartition(".")[2].lower()
        try:
            text = read_bytes(shard, member.offset, member.size).decode("utf-8-sig").strip()
            value = json.loads(text) if kind == "json" else text
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where} cannot be read: {error}. Save it as UTF-8 and valid JSON.") from error
        if kind == "json":
            if not isinstance(value, dict) or "tags" not in value:
                continue  # metadata of another kind
            return as_tags(value["tags"], where, separator), None, suffix
        if kind == "cls" and text == "-1":
            continue  # not known
        if kind == "cls" and text.isdecimal() and len(text) < 10:
            return None, int(text), suffix
        return split_tags(text, separator), None, suffix
    return None, None, None


def _unread(others: Counter[str], folder: Path) -> tuple[Finding, ...]:
    """Findings on members of tagged samples that are not read, by suffix."""
    return about(
        [f"{suffix}: {count}" for suffix, count in others.most_common()],
        severity="note",
        code="unread",
        message=f"{folder}: members beside pictures and tags not read: {counted(others)}.",
        cure="None needed; tags are KEY.json, KEY.txt or KEY.cls.",
    )


def _beside(root: Path) -> tuple[Finding, ...]:
    """Findings on compressed shards and of loose pictures in the folder of the shards."""
    names = sorted(path.name for path in root.iterdir()) if root.is_dir() else []
    packed = [name for name in names if _COMPRESSED.search(name)]
    found = unlisted({name: root / name for name in names if is_picture(name)}, root, "the shards")
    return found + about(
        packed,
        code="passed_over",
        message=f"{some(len(packed), 'compressed tar file')} in {root} passed over.",
        cure="Unpack what is a shard (gunzip), as pictures are read in place.",
    )


def _class_name(number: int, classes: tuple[str, ...] | None, where: str, folder: Path) -> str:
    if classes is None:
        raise DataError(
            f"{where}: its .cls holds the class number {number}; write the names into {folder / 'classes.txt'}, one "
            "per line, number 0 first."
        )
    if number >= len(classes):
        raise DataError(f"{where}: class number {number}, but {folder / 'classes.txt'} has {len(classes)} names.")
    return classes[number]
