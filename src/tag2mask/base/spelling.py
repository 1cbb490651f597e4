"""One form of every name: the same word, or the same file, however it was typed or stored. Imports no torch.

Text comes composed (NFC, as most keyboards write `é`) or decomposed (NFD, as macOS stores file names). Names of classes
and pictures are kept composed; files are found in whatever form the disk has them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path, PurePosixPath

_NOTHING = re.compile("[\u00ad\u200b\u2060\ufeff]")
"""Soft hyphen, zero-width blank, word joiner, byte order mark: they show nothing and mean nothing in a name."""
_EDGE = re.compile(r"^[\s\u200c-\u200f\u202a-\u202e\u2061-\u2069]+|[\s\u200c-\u200f\u202a-\u202e\u2061-\u2069]+$")
"""Blanks, joiners and marks of direction: inside a word some scripts need them, at its ends none does."""
_BLANK = re.compile(r"[^\S\n\r\t\v\f\x1c-\x1f\x85\u2028\u2029 ]")
"""No-break and other blanks that are not the usual one."""


def nfc(text: str) -> str:
    """`text` composed: equal to what another system calls the same file."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def class_name(text: str) -> str:
    """The name of a class or tag as it is kept: composed, without blanks at its ends and characters nobody sees."""
    if text.isascii():
        return text.strip()
    return _EDGE.sub("", _BLANK.sub(" ", _NOTHING.sub("", nfc(text))))


def class_names(names: Iterable[str]) -> tuple[str, ...]:
    """Names of classes as they are kept, each once, without those of which nothing is left."""
    return tuple(dict.fromkeys(filter(None, map(class_name, names))))


def stored_classes(names: Iterable[str]) -> tuple[str, ...]:
    """The classes of a model as they are kept; as they stand, where two of them would become one."""
    names = tuple(names)
    kept = class_names(names)
    return kept if len(kept) == len(names) else names


def twin_key(name: str) -> str:
    """Equal for names that people take for the same.

    Letter case, width, the form of accents, blanks, `-`, `_`, and quotes or stops at the ends do not matter.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", class_name(name)).casefold())
    seen = "".join(letter for letter in folded if unicodedata.category(letter) != "Cf")
    bare = seen.strip(" .,;:\"'`“”‘’") or seen
    return "".join(bare.replace("_", " ").replace("-", " ").split())


@lru_cache(maxsize=4096)
def is_background(name: str) -> bool:
    """Whether a tag says "none of the classes": `background` in any letter case, also `_background_`."""
    return name.strip("_").casefold() == "background"


def existing(folder: Path, name: str) -> Path | None:
    """The file or folder `name` below `folder`, composed or decomposed as the disk has it; None where there is none."""
    path = folder / name
    if path.exists():
        return path
    if name.isascii():
        return None
    for part in map(nfc, PurePosixPath(name).parts):
        path = folder / part
        if not path.exists():
            found = _by_form(folder, folder.stat().st_mtime_ns).get(part) if folder.is_dir() else None
            if found is None:
                return None
            path = folder / found
        folder = path
    return folder


@lru_cache(maxsize=64)
def _by_form(folder: Path, stamp: int) -> dict[str, str]:
    """Names in a folder by their composed form, those alone that differ from it; `stamp` changes with the folder."""
    return {nfc(path.name): path.name for path in folder.iterdir() if path.name != nfc(path.name)}
