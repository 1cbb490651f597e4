"""Lists of pictures, as splits and `--list` have them: which pictures their lines mean. Imports no torch."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

from tag2mask.base.spelling import nfc
from tag2mask.data.dataset import DataError, SplitError
from tag2mask.data.findings import Finding, about, some
from tag2mask.data.storage.suffixes import without_suffix
from tag2mask.data.storage.tables import read_text, safe_name

_COLUMN = re.compile(r"(.*\S)\s+(\S+)")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
"""What VOC's lists per class have after a picture: 1, -1 or 0 (it shows the class, does not, is hard)."""
_PATHS = re.compile(r"(/.*\S)\s+/.*")
"""The lines of some lists for VOC: `/JPEGImages/ID.jpg /SegmentationClassAug/ID.png`."""


class PictureNames:
    """Pictures by what lists call them: their name, or their name without suffix."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = {nfc(name): name for name in names}
        self._stems: defaultdict[str, list[str]] = defaultdict(list)
        for key, name in self._names.items():
            self._stems[without_suffix(key)].append(name)

    def find(self, text: str) -> list[str]:
        """The pictures that `text` may mean; `./` or a path to images/ before it, and backslashes, are no matter."""
        text = nfc(text)
        parts = text.replace("\\", "/").removeprefix("./").split("/")
        below = (parts[i + 1 :] for i, part in enumerate(parts[:-1]) if part in ("images", "JPEGImages"))
        for key in dict.fromkeys((text, *map("/".join, (parts, *below)))):
            if key in self._names:
                return [self._names[key]]
            if key in self._stems:
                return self._stems[key]
        return []


def read_list(path: Path, is_known: Callable[[str], bool] | None = None) -> tuple[dict[str, int], tuple[Finding, ...]]:
    """Names of a list with their lines, and what is said of columns after them.

    A name may hold blanks. Cut off are the path of a mask after it, and a column that every line has, where no name is
    known with it: a number, as in VOC's lists per class, or anything else after names that are all known.

    Args:
        path: One picture per line.
        is_known: Whether a name is that of a picture; None where that cannot be asked.

    Raises:
        SplitError: empty list.
        DataError: a name twice, or one that leaves the folder.
    """
    numbered = enumerate(read_text(path).splitlines(), start=1)
    texts = [(line, _first_path(text, is_known)) for line, text in numbered if text.strip()]
    cuts = _has_column([text for _, text in texts], is_known)
    lines: dict[str, int] = {}
    columns: list[tuple[str, str]] = []
    for line, text in texts:
        name, column = _cut(text, is_known) if cuts else (text, "")
        if is_known is None or not is_known(name):
            name = safe_name(name, f"{path} line {line}")
        if name in lines:
            raise DataError(f"{path} line {line}: {name!r} is already on line {lines[name]}. Remove one.")
        lines[name] = line
        if column:
            columns.append((name, column))
    if not lines:
        raise SplitError(f"{path} lists no picture. Write one file name or picture id per line.")
    return lines, _columns_finding(path, columns)


def _first_path(text: str, is_known: Callable[[str], bool] | None) -> str:
    """The picture of a line, which may name its mask too; blanks around it belong to it only where it is known so."""
    if is_known is not None and is_known(text):
        return text
    text = text.strip()
    match = _PATHS.fullmatch(text)
    return (match.group(1) if match else text).removeprefix("/JPEGImages/")


def _has_column(texts: list[str], is_known: Callable[[str], bool] | None) -> bool:
    matches = [_COLUMN.fullmatch(text) for text in texts]
    if not all(matches) or (is_known is not None and any(map(is_known, texts))):
        return False
    if all(_NUMBER.fullmatch(match.group(2)) for match in matches if match):
        return True
    return is_known is not None and all(is_known(_cut(text, is_known)[0]) for text in texts)


def _cut(text: str, is_known: Callable[[str], bool] | None) -> tuple[str, str]:
    """(picture, the column after it): of several columns so many belong to the name that it is known."""
    name, cuts = text, list[tuple[str, str]]()
    while match := _COLUMN.fullmatch(name):
        name = match.group(1)
        cuts.append((name, match.group(2)))
    return next((cut for cut in cuts if is_known is None or is_known(cut[0])), cuts[0])


def _columns_finding(path: Path, columns: list[tuple[str, str]]) -> tuple[Finding, ...]:
    counts = Counter(column for _, column in columns).most_common(3)
    told = ", ".join(f"{column!r} {count} times" for column, count in counts)
    return about(
        [f"{name} {column}" for name, column in columns],
        severity="note",
        code="list_columns",
        message=f"{some(len(columns), 'line')} of {path} with a column after the picture ({told}), which is not used: "
        "all these pictures are taken.",
        cure="Remove the lines of pictures that are not meant, if there are any.",
    )
