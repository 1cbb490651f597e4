"""Which pictures a split has: by the lists in splits/, by a list of the user, else by the hash of the name.

Imports no torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from tag2mask.base.spelling import nfc
from tag2mask.data.dataset import DataError, SplitError
from tag2mask.data.findings import Finding, about, some, warned
from tag2mask.data.readers.groups import split_keys
from tag2mask.data.readers.lists import PictureNames, read_list
from tag2mask.data.storage.naming import known_split
from tag2mask.data.storage.suffixes import without_suffix

HELD_OUT = 10
"""One picture in ten is held out where there is no splits folder."""


def split_files(root: Path) -> dict[str, Path]:
    """Lists in the folder splits/ of a data folder, by name."""
    return {nfc(path.stem): path for path in sorted((root / "splits").glob("*.[tT][xX][tT]"))}


def split_names(
    root: Path, split: str, paths: Mapping[str, Path], group_by: str = ""
) -> tuple[list[str], tuple[Finding, ...]]:
    """Names of the pictures of a split: from a list, or by the hash of the name where there is no list at all.

    Also the findings on the lists. `paths` are the files of all pictures by name, `group_by` as in `DataOptions`.

    Raises:
        SplitError: no such split, or no picture in it.
        DataError: a line that names no picture of the data set, or one twice.
    """
    names = list(paths)
    files = split_files(root)
    if files:
        refuse_groups(group_by, files)
    if nfc(split) in files:
        known = PictureNames(names)
        chosen, found = _listed_names(files[nfc(split)], names, known)
        return chosen, (*found, *_in_no_list(root, files, names, known), *_unused_lists(root, files))
    by_hash = not files and split in ("train", "val")
    if not by_hash and Path(split).is_file():
        return _listed_names(Path(split), names, PictureNames(names))
    if not by_hash:
        splits = ", ".join(files) or "train, val (by hash, as there is no splits folder)"
        raise no_split(root, split, splits, warned(_unused_lists(root, files)))
    keys, grouped = split_keys(paths, group_by)
    train, held_out = hash_split(names, keys)
    chosen = train if split == "train" else held_out
    if not chosen:
        of_what = "picture" if len(names) == 1 else f"pictures that --group-by {group_by} takes for one thing"
        raise SplitError(f"{root} has {len(names)} {of_what}, too few to hold any out. Add pictures or splits/val.txt.")
    return chosen, (*grouped, *_unused_lists(root, files))


def refuse_groups(group_by: str, splits: Iterable[str]) -> None:
    """Refuse `--group-by` where splits are given, which are never changed.

    Raises:
        DataError: it is asked for.
    """
    if group_by:
        raise DataError(
            f"--group-by {group_by} is for data without splits; here they are given: {', '.join(splits)}. Leave it "
            "out; tag2mask check says which pictures of one thing are in two of them."
        )


def no_split(place: Path, split: str, known: str, told: str = "") -> SplitError:
    """The error that a data folder, or the folder of its lists, has no such split."""
    return SplitError(f"{place} has no split {split!r}; splits: {known}. Or give the path of a list of pictures.{told}")


def hash_split(names: Iterable[str], keys: Mapping[str, str] | None = None) -> tuple[list[str], list[str]]:
    """(train, val): a tenth is held out by the SHA-256 of the name, so that new pictures move no old one.

    With `keys` (`groups.split_keys`) by that of each name's key. Of two or more keys at least one is on either side.
    """
    names = list(names)
    key_of = {name: name for name in names} if keys is None else keys
    digests = {key: name_number(key) for key in key_of.values()}
    order = sorted(digests, key=digests.__getitem__)
    val = {key for key in order if digests[key] % HELD_OUT == 0}
    if len(order) > 1 and not val:
        val = {order[0]}
    elif len(val) == len(order):  # also of a single picture: it trains
        val -= {order[-1]}
    held_out = {name for name in names if key_of[name] in val}
    return sorted(set(names) - held_out), sorted(held_out)


def name_number(name: str) -> int:
    """The number by which pictures are held out: from the SHA-256 of the name, so it depends on nothing else."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def _listed_names(path: Path, names: Sequence[str], known: PictureNames) -> tuple[list[str], tuple[Finding, ...]]:
    """The pictures that a list means, of `names`, which `known` finds, and the findings on it.

    Raises:
        SplitError: empty list.
        DataError: a line that means no picture or several, or one twice.
    """
    texts, findings = read_list(path, lambda text: bool(known.find(text)))
    lines: dict[str, int] = {}
    for text, line in texts.items():
        found = known.find(text)
        if len(found) > 1:
            raise DataError(
                f"{path} line {line}: {text!r} could be {' or '.join(found[:3])}. Write it with its suffix."
            )
        if not found:
            stem = without_suffix(text).casefold()
            near = (f" Did you mean {name!r}?" for name in names if without_suffix(name).casefold() == stem)
            raise DataError(
                f"{path} line {line}: {text!r} is no picture of this data set.{next(near, '')} Write its path "
                "from the folder of pictures, one picture per line, or remove the line."
            )
        if found[0] in lines:
            raise DataError(f"{path} line {line}: {text!r} is already on line {lines[found[0]]}. Remove one.")
        lines[found[0]] = line
    return list(lines), findings


def listed_by(paths: Iterable[Path], read: Callable[[Path], Iterable[str]]) -> set[str] | None:
    """What all lists name, an empty one nothing; None where one cannot be read, which opening that split says."""
    listed: set[str] = set()
    for path in paths:
        try:
            listed.update(read(path))
        except SplitError:
            continue
        except DataError:
            return None
    return listed


def _in_no_list(root: Path, files: dict[str, Path], names: Sequence[str], known: PictureNames) -> tuple[Finding, ...]:
    """Findings on pictures that no list of splits/ names."""
    listed = listed_by(files.values(), lambda path: _listed_names(path, names, known)[0])
    rest = [] if listed is None else [name for name in names if name not in listed]
    return about(
        rest,
        severity="note",
        code="in_no_split",
        message=f"{some(len(rest), 'picture')} in no list of {root / 'splits'}: in no split and not used.",
        cure="Add them to a list, if they are meant to be used.",
    )


def _unused_lists(root: Path, files: dict[str, Path]) -> tuple[Finding, ...]:
    """Findings on lists that are not read: in splits/ what is no .txt, and train.txt and the like beside it."""
    folder = root / "splits"
    inside = sorted(path for path in folder.iterdir() if path.name[0] != ".") if folder.is_dir() else []
    beside = [] if files else [path for path in sorted(root.glob("*.txt")) if known_split(path.stem)]
    lists = [path.relative_to(root).as_posix() for path in (*inside, *beside) if path not in files.values()]
    by_hash = "" if files else ": one picture in ten is held out by the hash of its name"
    return about(
        lists,
        code="unused_lists",
        message=f"{some(len(lists), 'list')} of splits in {root} not read{by_hash}.",
        cure=f"Write them as {folder / 'train.txt'}, {folder / 'val.txt'}, one picture per line; or remove them.",
    )
