"""Arrays that may be large: in strips, in temporary files, counted. Imports numpy alone."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

LARGE = 1 << 22
"""Pixels above which a picture is handled in parts: tiles where it enters the network at its own size, and the CRF."""
_IN_MEMORY = 1 << 29
"""Bytes above which an array lives in a temporary file."""
_STRIP = 1 << 20
"""Pixels that are counted at a time."""
_Number = TypeVar("_Number", bound=np.generic)
Size: TypeAlias = tuple[int, int]


def is_large(size: Size) -> bool:
    """Whether a picture of `size` is handled in parts."""
    return size[0] * size[1] > LARGE


def stored(shape: tuple[int, ...], dtype: type[_Number]) -> NDArray[_Number]:
    """Zeros in memory, or in a temporary file, which the system may write to the disk, where they are many."""
    if np.dtype(dtype).itemsize * math.prod(shape) <= _IN_MEMORY:
        return np.zeros(shape, dtype=dtype)
    with tempfile.TemporaryFile(prefix="tag2mask-") as file:  # the map keeps it open
        return np.memmap(file, dtype=dtype, mode="w+", shape=shape)


def row_strips(size: Size, pixels: int) -> Iterator[slice]:
    """The rows of a picture in strips of about so many pixels."""
    step = max(1, pixels // size[1])
    for top in range(0, size[0], step):
        yield slice(top, min(top + step, size[0]))


def label_counts(labels: NDArray[Any]) -> NDArray[np.int64]:
    """Pixels of each label, int64 [256]; numpy's own count makes eight bytes of each pixel first."""
    counts = np.zeros(256, dtype=np.int64)
    for rows in row_strips((labels.shape[0], labels.shape[1]), _STRIP):
        counts += np.bincount(labels[rows].ravel(), minlength=256)
    return counts
