"""Pictures of one thing, such as exposures of it, that a split by hash keeps on one side. Imports no torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tag2mask.base.processes import in_threads
from tag2mask.data.dataset import DataError
from tag2mask.data.findings import Finding, about, some
from tag2mask.data.storage.fingerprint import fingerprint, joined, near_pairs
from tag2mask.data.storage.pictures import read_picture

LOOK = "look"
"""The word of `--group-by` for pictures that look the same."""


def split_keys(paths: Mapping[str, Path], group_by: str) -> tuple[dict[str, str], tuple[Finding, ...]]:
    """What decides on which side of the split by hash each picture is, equal for those of one thing; and findings.

    Args:
        paths: Files of all pictures by name.
        group_by: `DataOptions.group_by`; "" leaves each picture its own name.

    Raises:
        DataError: a regular expression that matches in no name.
    """
    if not group_by:
        return {name: name for name in paths}, ()
    keys = _by_look(paths) if group_by == LOOK else _by_name(list(paths), group_by)
    counts = Counter(keys.values())
    groups = [key for key, count in counts.items() if count > 1]
    together = sum(counts[key] for key in groups)
    return keys, about(
        groups,
        severity="note",
        code="groups",
        message=f"{some(together, 'picture')} of {len(keys)} in {some(len(groups), 'group')} (--group-by {group_by}): "
        "each on one side of the split.",
        cure="None needed. The same --group-by in every command gives the same split.",
    )


def _by_name(names: list[str], group_by: str) -> dict[str, str]:
    pattern = re.compile(group_by)
    found = {name: match for name in names if (match := pattern.search(name)) is not None}
    if not found:
        raise DataError(
            f"--group-by {group_by!r} matches in no name of a picture, as {names[0]!r}. Correct it, or leave it out."
        )
    part = 1 if pattern.groups else 0
    return {name: (found[name].group(part) or name) if name in found else name for name in names}


def _by_look(paths: Mapping[str, Path]) -> dict[str, str]:
    """The name of the first picture of the group that each belongs to: joined by a chain of near fingerprints.

    Pictures that cannot be read or show next to nothing are alone.
    """
    names = list(paths)
    bits, alone = _fingerprints(tuple((path, *_stamp(path)) for path in paths.values()))
    good = np.flatnonzero(~alone)
    distinct, code = np.unique(bits[good], return_inverse=True)
    label = np.arange(len(distinct))
    for one, two in near_pairs(distinct):
        label = joined(label, one, two)
    first: dict[int, str] = {}
    keys = {name: name for name in names}
    for group, name in sorted((int(label[c]), names[i]) for i, c in zip(good, code, strict=True)):
        keys[name] = first.setdefault(group, name)
    return keys


def _stamp(path: Path) -> tuple[int, int]:
    """What changes with the file; nothing for a picture inside of another file."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=2)
def _fingerprints(files: tuple[tuple[Path, int, int], ...]) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Fingerprints uint64 [N], and bool [N] which of them say nothing; kept, as `train` and `val` ask for the same."""
    looks = list(in_threads(lambda file: _look(file[0]), files))
    return np.array([bits for bits, _ in looks], dtype=np.uint64), np.array([flat for _, flat in looks], dtype=bool)


def _look(path: Path) -> tuple[int, bool]:
    try:
        return fingerprint(read_picture(path))
    except (ValueError, OSError, MemoryError):
        return 0, True
