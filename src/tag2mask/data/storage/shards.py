"""Tar files whose members are read in place. Imports no torch.

A picture stays in its tar file; its path, SHARD.tar/OFFSET+SIZE/NAME, says where, so any process reads it at once.
"""

from __future__ import annotations

import glob
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tag2mask.data.dataset import DataError, MissingDataError
from tag2mask.data.storage.suffixes import is_picture
from tag2mask.data.storage.tables import safe_name

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_CHOICE = re.compile(r"\{([^{}]*,[^{}]*)\}")
_PLACE = re.compile(r"(\d+)\+(\d+)")
_MAX_SHARDS = 1_000_000


def names_shards(text: str) -> bool:
    """Whether `text` means tar files: SHARD.tar, or a pattern with braces or wildcards that ends so."""
    return text.lower().endswith(".tar")


def find_shards(text: str | Path) -> list[Path]:
    """The tar files that a file, a folder, a pattern with {000..099} or {a,b}, or a glob names, in order.

    Raises:
        MissingDataError: one of them is not there, or there is none.
        DataError: a range that is no range.
    """
    path = Path(text).expanduser()
    if path.is_dir():
        found = sorted(each for each in path.iterdir() if names_shards(each.name) and each.is_file())
        if not found:
            raise MissingDataError(
                f"{path} holds no *.tar. Give the folder of the shards, or a pattern. Unpack compressed ones."
            )
        return found
    shards: list[Path] = []
    for name in _expanded(str(path)):
        matches = sorted(glob.glob(name)) if glob.has_magic(name) else [name]  # noqa: PTH207
        if not matches or not Path(matches[0]).is_file():
            raise MissingDataError(f"There is no shard {name} (of {text}). Correct the pattern, or copy the file.")
        shards += map(Path, matches)
    return list(dict.fromkeys(shards))


def _expanded(text: str) -> Iterator[str]:
    """The names of a pattern with braces, as a shell would list them."""
    if match := _RANGE.search(text):
        first, last = match.groups()
        if int(last) < int(first) or int(last) - int(first) >= _MAX_SHARDS:
            raise DataError(f"{text}: {match.group()} must rise, and name at most {_MAX_SHARDS} files.")
        words: Sequence[str] = [str(i).zfill(len(first)) for i in range(int(first), int(last) + 1)]
    elif match := _CHOICE.search(text):
        words = match.group(1).split(",")
    else:
        yield text
        return
    for word in words:
        yield from _expanded(text[: match.start()] + word + text[match.end() :])


def pictures_in(shard: Path) -> Iterator[tuple[Path, str]]:
    """Path and name of each picture in a shard, in its order; masks (KEY.mask.png) are none. Errors as `members`."""
    for member in members(shard):
        if is_picture(member.name) and not member.name.lower().endswith(f".{MASK_SUFFIX}"):
            yield member_path(shard, member), member.name


def is_in_shard(path: Path) -> bool:
    """Whether `path` is a picture in a shard."""
    return len(path.parts) > 2 and path.parts[-3].lower().endswith(".tar") and bool(_PLACE.fullmatch(path.parts[-2]))


def shard_of(path: Path) -> Path | None:
    """The tar file that holds the picture `path`; None where it is a file of its own."""
    return path.parents[1] if is_in_shard(path) else None


def shard_bytes(path: Path) -> bytes:
    """The encoded picture at SHARD.tar/OFFSET+SIZE/NAME.

    Raises:
        FileNotFoundError: the shard is not there any more.
        DataError: it ends before the picture does.
    """
    offset, size = map(int, path.parts[-2].split("+"))
    return read_bytes(path.parents[1], offset, size)


MASK_SUFFIX = "mask.png"
"""A member KEY.mask.png is the mask of the picture KEY."""


class Member(NamedTuple):
    """A plain file in a tar file."""

    name: str
    offset: int
    size: int


def members(shard: Path) -> Iterator[Member]:
    """The plain files of a tar file, in its order, without hidden ones; only headers are read.

    Raises:
        DataError: not an uncompressed tar file, cut short, or a member that is no plain file or leaves its folder.
    """
    end = shard.stat().st_size
    try:
        with tarfile.open(shard, "r:") as archive:
            for info in archive:
                archive.members = []  # type: ignore[attr-defined]  # tarfile keeps every header it has seen
                if info.isdir() or PurePosixPath(info.name).name.startswith("."):
                    continue
                where = f"{shard} member {info.name!r}"
                if not info.isreg() or info.issparse():
                    raise DataError(f"{where} is no plain file (a link, device or sparse file). Pack the file itself.")
                if info.size < 0:
                    raise DataError(f"{where} claims {info.size} bytes: the header is damaged. Pack the shard anew.")
                if info.offset_data + info.size > end:
                    raise DataError(f"{shard} ends in the middle of {info.name!r}: copy it again.")
                yield Member(safe_name(info.name.removeprefix("./"), where), info.offset_data, info.size)
    except DataError:
        raise
    except (tarfile.TarError, ValueError, OverflowError, EOFError, LookupError) as error:  # damaged extended headers
        raise DataError(
            f"{shard} cannot be read as an uncompressed tar file: {error}. Copy it again, or unpack a compressed one "
            "(gunzip), as pictures are read in place."
        ) from error


def member_path(shard: Path, member: Member) -> Path:
    """The path that stands for a member: SHARD.tar/OFFSET+SIZE/NAME."""
    return shard / f"{member.offset}+{member.size}" / PurePosixPath(member.name).name


def read_bytes(shard: Path, offset: int, size: int) -> bytes:
    """`size` bytes of a file from `offset`.

    Raises:
        DataError: the file ends before.
    """
    with shard.open("rb", buffering=0) as file:
        file.seek(offset)
        data = file.read(size)
    if len(data) != size:
        raise DataError(f"{shard} ends before byte {offset + size}: it was cut or changed. Copy it again.")
    return data
