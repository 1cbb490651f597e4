"""Which pictures a user means by files, folders, globs and arrays, and what results are called. Imports no torch."""

from __future__ import annotations

import glob
import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tag2mask.base.spelling import existing, nfc
from tag2mask.config import MAX_PIXELS
from tag2mask.data.dataset import DataError
from tag2mask.data.findings import Finding
from tag2mask.data.readers.lists import read_list
from tag2mask.data.storage.pictures import check_pixels, file_size, read_picture, to_rgb, upright
from tag2mask.data.storage.result_names import name_key, result_names
from tag2mask.data.storage.searching import files_below, is_left_out, not_searched
from tag2mask.data.storage.shards import find_shards, names_shards, pictures_in
from tag2mask.data.storage.suffixes import is_picture, passed_over, without_suffix
from tag2mask.data.storage.tables import read_text

Source: TypeAlias = str | Path | Image.Image | NDArray[Any]


@dataclass(frozen=True)
class NamedPicture:
    """One picture to work on."""

    path: Path
    name: str
    """What its results are called, without suffix, with forward slashes; see `result_names`."""
    file_name: str
    """What tables and files of other tools call it: its path with suffix below the folder or glob that named it. Where
    pictures of several sources would be called the same, that of each begins at the folder common to all sources."""
    place: str
    """Its whole path as the sources name it, with forward slashes; of a member of a shard FOLDER/SHARD/NAME."""


class Found(NamedTuple):
    """What sources name."""

    pictures: list[NamedPicture]
    findings: tuple[Finding, ...]
    """What was left out of the folders and globs."""


class _Member(NamedTuple):
    """A file that a source names."""

    path: Path
    base: Path
    """The folder that its names begin at."""
    name: str
    """Its path below `base`; of a member of a shard SHARD/NAME."""
    whole_name: str
    """The same; of a member of a shard SHARD.tar/NAME."""


def search(sources: Iterable[str | Path]) -> Found:
    """The pictures that files, folders (searched with their sub-folders), globs and shards name, each once.

    Of shards (SHARD.tar, or a pattern as in `tag2mask.data.storage.shards.find_shards`) they are called SHARD/NAME.

    Raises:
        FileNotFoundError: a source names nothing.
        ValueError: names that no file can be written with, or a shard that has two pictures of one name.
    """
    members: dict[Path, _Member] = {}
    folders: dict[Path, Path] = {}
    findings: list[Finding] = []
    for source in sources:
        for member in _expand(source, findings):
            # the links of its folders are followed, not its own: two links to one file are two pictures
            folder = folders.setdefault(member.path.parent, member.path.parent.resolve())
            members.setdefault(folder / member.path.name, member)
    file_names = _file_names(list(members.values()))
    names = result_names(file_names)
    places = ((_absolute(member.base) / member.name).as_posix() for member in members.values())
    pictures = [NamedPicture(*each) for each in zip(members, names, file_names, places, strict=True)]
    return Found(pictures, tuple(findings))


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 (resolve would follow links)


def _expand(source: str | Path, findings: list[Finding]) -> list[_Member]:
    if not str(source).strip():
        raise FileNotFoundError("A source is empty. Name a file, a folder or a glob; . is the folder you are in.")
    path = Path(source).expanduser()
    if names_shards(str(path)) and not path.is_dir():
        members = [
            _Member(member, shard.parent, f"{shard.stem}/{name}", f"{shard.name}/{name}")
            for shard in find_shards(path)
            for member, name in pictures_in(shard)
        ]
        if not members:
            raise FileNotFoundError(f"{path} holds no picture, or masks alone (NAME.mask.png).")
        return members
    if path.is_dir():
        left_out: list[str] = []
        files = sorted(files_below(path, left_out))
        return _pictures_of(path, path, files, left_out, findings)
    if path.exists():
        return [_Member(path, path.parent, path.name, path.name)]
    text = str(path)
    if not glob.has_magic(text):
        raise FileNotFoundError(f"There is no {path}.")
    files = [p for p in map(Path, sorted(glob.glob(text, recursive=True))) if p.is_file()]  # noqa: PTH207
    if not files:
        raise FileNotFoundError(f"No file matches {text}.")
    fixed = Path(*[part for i, part in enumerate(path.parts) if not any(map(glob.has_magic, path.parts[: i + 1]))])
    skipped = {folder for folder in {p.parent for p in files} if _is_left_out_below(folder, fixed)}
    left_out = sorted(folder.relative_to(fixed).as_posix() for folder in skipped)
    return _pictures_of(path, fixed, [p for p in files if p.parent not in skipped], left_out, findings)


def _is_left_out_below(folder: Path, fixed: Path) -> bool:
    """Whether a folder, or one on the way to it that a glob did not spell out, is never searched."""
    return any(is_left_out(each) for each in takewhile(lambda each: each != fixed, [folder, *folder.parents]))


def _pictures_of(
    source: Path, base: Path, files: Sequence[Path], left_out: Sequence[str], findings: list[Finding]
) -> list[_Member]:
    """The pictures among files below `base`; what else is there is counted."""
    names = [file.relative_to(base).as_posix() for file in files]
    members = [_Member(file, base, name, name) for file, name in zip(files, names, strict=True) if is_picture(name)]
    told = [*passed_over(names, source, companions=not members), *not_searched(source, left_out)]
    if not members:
        seen = " ".join(f"{each.message} {each.cure}" for each in told) or "It is empty, or all in it is hidden."
        raise FileNotFoundError(f"{source} names no picture. {seen}")
    findings += told
    return members


def _file_names(members: Sequence[_Member]) -> list[str]:
    """Each picture's path below its source; of all below the folder common to all sources, where that is needed.

    Raises:
        ValueError: a name that is no text, or two members of a shard with one name.
    """
    bases: defaultdict[str, set[Path]] = defaultdict(set)
    for member in members:
        bases[name_key(without_suffix(member.name))].add(member.base)
    names = [member.name for member in members]
    if any(len(each) > 1 for each in bases.values()):  # the results of two sources would be called the same
        folders = _below_common({member.base for member in members})
        names = [(folders[member.base] / member.whole_name).as_posix() for member in members]
    if len(set(names)) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise ValueError(f"Two pictures are called {twice!r}. Rename one, or pack the shard anew.")
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"The name of the picture {name!r} is no UTF-8 text. Rename the file.") from error
    return names


def _below_common(bases: Iterable[Path]) -> dict[Path, Path]:
    """Each folder's path below the one that is common to all."""
    folders = {base: _absolute(base) for base in bases}
    try:
        root = os.path.commonpath(folders.values())
        return {base: folder.relative_to(root) for base, folder in folders.items()}
    except ValueError:  # on different drives
        return {base: Path(folder.drive.strip(":\\/"), *folder.parts[1:]) for base, folder in folders.items()}


def as_rgb(source: Source, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """A path, PIL image or array as uint8 [H, W, 3]; files and PIL images are turned as their EXIF data say.

    Args:
        source: The picture.
        max_pixels: Larger files and PIL images are refused, as far as possible before they are unpacked. Arrays are
            in memory already.

    Raises:
        ValueError: the file is no picture or too large, or the array has another shape or type.
    """
    if isinstance(source, (str, Path)):
        path = Path(source)
        return read_picture(existing(path.parent, path.name) or path, max_pixels)
    if isinstance(source, Image.Image):
        check_pixels(source, max_pixels)
        return to_rgb(upright(source))
    if not isinstance(source, np.ndarray):
        raise ValueError(f"A picture is a path, a PIL image or a numpy array, got {type(source).__name__}.")
    if source.dtype != np.uint8 or source.size == 0:
        raise ValueError(
            f"A picture array must be uint8 in 0-255 and not empty, got {source.dtype} {source.shape}; "
            "scale it, for instance (255 * x).round().astype(numpy.uint8)."
        )
    if source.ndim == 2 or (source.ndim == 3 and source.shape[2] == 1):
        return np.repeat(source.reshape(*source.shape[:2], 1), 3, axis=2)
    if source.ndim == 3 and source.shape[2] == 3:
        return source
    if source.ndim == 3 and source.shape[2] == 4:
        return to_rgb(Image.fromarray(source))
    raise ValueError(f"A picture array must be [H, W, 3] or [H, W], got {source.shape}; choose three of its channels.")


def pixels_of(source: Source) -> int:
    """Pixels of a picture, of a file without unpacking it; 0 where reading it will fail."""
    if isinstance(source, (str, Path)):
        try:
            height, width = file_size(source)
        except (ValueError, OSError, MemoryError):
            return 0
        return height * width
    size = getattr(source, "size", 0)
    return math.prod(size) if isinstance(size, tuple) else int(size)


def called(
    names: Mapping[str, str], pictures: Sequence[NamedPicture], ends: Mapping[str, Sequence[int]] | None = None
) -> dict[str, NamedPicture]:
    """The picture, of those of `search`, that each name of a table or list means; names that mean none are left out.

    A name is the picture's `file_name`, or an end of its path, with or without suffix: the bare name of the file at
    least. An end counts only where it is that of one picture, and where no other name has the same last part. `names`
    says where each stands, for messages; `ends` are the `path_ends` of the pictures, where they are there already.

    Raises:
        DataError: a name that may mean several pictures, or two that may mean the same.
    """
    if ends is None:
        ends = path_ends(max(map(_depth, names), default=0), pictures)
    last_parts = Counter(map(_last_part, names))
    found: dict[str, int] = {}
    owner: dict[int, str] = {}

    def claim(i: int, name: str) -> None:
        other = owner.setdefault(i, name)
        if other != name:
            raise DataError(
                f"{names[name]}: {name!r} and {other!r} ({names[other]}) may both mean {pictures[i].place}. Give the "
                "folder that the names begin at as the source."
            )

    for name in names:
        if (whole := _whole(name, ends.get(nfc(name), ()), pictures)) is not None:
            claim(whole, name)
            found[name] = whole
    taken = set(owner)
    for name in [name for name in names if name not in found]:
        ending = ends.get(nfc(name), ())
        for i in taken.intersection(ending):
            if _depth(name) > _depth(pictures[i].file_name):  # refused: another is its whole name, this fits its path
                claim(i, name)
        free = [i for i in ending if i not in taken]
        if len(free) > 1:
            several = " and ".join(pictures[i].file_name for i in free[:2])
            raise DataError(
                f"{names[name]}: {name!r} is the name of {len(free)} of the sources: {several}. Write their paths."
            )
        if free and (last_parts[_last_part(name)] == 1 or _depth(name) >= _depth(pictures[free[0]].file_name)):
            claim(free[0], name)
            found[name] = free[0]
    return {name: pictures[i] for name, i in found.items()}


def _whole(name: str, ending: Sequence[int], pictures: Sequence[NamedPicture]) -> int | None:
    """The picture of this whole name; a name without suffix is a whole one only where it has a folder."""
    same = [i for i in ending if pictures[i].file_name == name]
    same = same or [i for i in ending if nfc(pictures[i].file_name) == nfc(name)]
    if not same and "/" in name:
        same = [i for i in ending if nfc(without_suffix(pictures[i].file_name)) == nfc(name)]
    return same[0] if len(same) == 1 else None


def _depth(name: str) -> int:
    return name.count("/") + 1


def _last_part(name: str) -> str:
    return nfc(name).rpartition("/")[2]


def path_ends(deepest: int, pictures: Sequence[NamedPicture]) -> dict[str, list[int]]:
    """Indices of the pictures by each end of their path of up to `deepest` parts, with and without suffix."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for i, picture in enumerate(pictures):
        parts = picture.place.split("/")
        for end in {"/".join(parts[-count:]) for count in range(1, min(deepest, len(parts)) + 1)} | {picture.file_name}:
            for word in {nfc(end), nfc(without_suffix(end))}:
                found[word].append(i)
    return found


def only_listed(pictures: Sequence[NamedPicture], list_file: Path) -> Found:
    """Those of the pictures that a list (`tag2mask.data.readers.lists.read_list`) names as in `called`, in its order.

    Raises:
        DataError: (a ValueError) an empty list, a line twice, or one that names no picture or several.
    """
    slashes = max((line.count("/") + line.count("\\") for line in read_text(list_file).splitlines()), default=0)
    known = path_ends(slashes + 1, pictures)
    lines, findings = read_list(list_file, lambda text: _spelled(text, known) is not None)
    names: dict[str, int] = {}
    for text, line in lines.items():
        name = _spelled(text, known)
        if name is None:
            raise DataError(
                f"{list_file} line {line}: {text!r} is not among the sources. Correct the line or the sources."
            )
        if name in names:
            raise DataError(f"{list_file} line {line}: {name!r} is already on line {names[name]}. Remove one.")
        names[name] = line
    chosen = called({name: f"{list_file} line {line}" for name, line in names.items()}, pictures, known)
    for name, line in names.items():
        if name not in chosen:
            raise DataError(
                f"{list_file} line {line}: the pictures called {name!r} are listed by their paths already, or it is "
                "not certain which is meant. Write its path below the source."
            )
    return Found([chosen[name] for name in names], findings)


def _spelled(text: str, known: Mapping[str, object]) -> str | None:
    """A line of a list as the name that is known, with slashes of this system and without `./` or `JPEGImages/`."""
    slashed = text.replace("\\", "/").removeprefix("./")
    words = (text, slashed, slashed.removeprefix("/JPEGImages/").removeprefix("JPEGImages/"))
    return next((word for word in words if nfc(word) in known), None)
