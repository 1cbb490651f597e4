"""What the files made of pictures are called: one name per picture, decided once for all of them. Imports no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from tag2mask.base.spelling import nfc
from tag2mask.config.formats import RESULTS
from tag2mask.data.storage.suffixes import without_suffix
from tag2mask.data.storage.tables import MAX_NAME


def _suffixes(formats: Iterable[str]) -> set[str]:
    """Suffixes of what is made of a picture in these formats."""
    return {PurePosixPath(result).suffix for name in formats for result in RESULTS[name] if "NAME" in result}


_SUFFIXES = _suffixes(RESULTS)


def check_lengths(names: Iterable[str], formats: Iterable[str]) -> None:
    """Refuse names that no file system takes with the suffixes of these formats, or with that of a mask.

    Raises:
        ValueError: names the picture and the cure.
    """
    suffix = max((".png", *sorted(_suffixes(formats))), key=len)
    for name in names:
        base = name.rpartition("/")[2]
        if len(base.encode()) + len(suffix) > MAX_NAME:
            raise ValueError(
                f"The name of the picture {name} is too long for NAME{suffix}: a file's name has at most {MAX_NAME} "
                "bytes. Rename the picture."
            )


def name_key(name: str) -> str:
    """Equal for names that some file systems take for one: in any letter case, accents composed or not."""
    if name.isascii():
        return name.lower()
    return nfc(nfc(name).casefold())


def result_names(file_names: Sequence[str], *, numbered: bool = True) -> list[str]:
    """NAME of each picture: its results are called NAME.png and the like; no two are the same to any file system.

    The name without suffix. Pictures that share it keep their suffix (`a.jpg`, so `a.jpg.png`), as does one whose
    results would be called like a folder of others, or like the whole name of another. What is still the same, as
    `a.jpg` and `A.jpg`, is numbered: `A.jpg-2`.

    Args:
        file_names: Paths of pictures relative to one folder, with forward slashes; all different.
        numbered: False for masks that are looked for by the picture's name: `a.jpg` and `A.jpg` stay as they are.
    """
    whole = set(map(name_key, file_names))
    folders = _folders(file_names)
    names = [without_suffix(each) for each in file_names]
    while True:
        often = Counter(map(name_key, names))
        short = [i for i, (name, full) in enumerate(zip(names, file_names, strict=True)) if name != full]
        taken = [i for i in short if often[key := name_key(names[i])] > 1 or key in whole or _is_folder(key, folders)]
        if not taken:
            break
        for i in taken:
            names[i] = file_names[i]
    used: set[str] = set()
    for i, name in enumerate(names if numbered else ()):
        number, key = 1, name_key(name)
        while key in used or _is_folder(key, folders):
            number += 1
            names[i] = f"{name}-{number}"
            key = name_key(names[i])
        used.add(key)
    return names


def _folders(names: Iterable[str]) -> frozenset[str]:
    """All folders that the names lie in, as keys."""
    found: set[str] = set()
    for folder in {name_key(name.rpartition("/")[0]) for name in names}:
        while folder and folder not in found:
            found.add(folder)
            folder = folder.rpartition("/")[0]
    return frozenset(found)


def _is_folder(key: str, folders: frozenset[str]) -> bool:
    return any(key + suffix in folders for suffix in _SUFFIXES)
