"""Small words that the findings share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from tag2mask.checking.results import MOST_NAMES

MOST_FILES = 8
"""So many names of a finding are shown as pictures on the page."""


class Named(TypedDict):
    """The fields of a `Finding` that name things."""

    names: tuple[str, ...]
    count: int
    files: tuple[tuple[Path, ...], ...]


def named(names: Sequence[str], files: Sequence[tuple[Path, ...]] = ()) -> Named:
    """The first names, how many there are, and the first files."""
    return {"names": tuple(names[:MOST_NAMES]), "count": len(names), "files": tuple(files[:MOST_FILES])}


def some(count: int, word: str) -> str:
    """`1 picture`, `2 pictures`."""
    return f"{count} {word}{'' if count == 1 else 's' if not word.endswith('s') else 'es'}"


def are(count: int, what: str) -> str:
    """`1 class is`, `2 classes are`."""
    return f"{some(count, what)} {'is' if count == 1 else 'are'}"


def listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
