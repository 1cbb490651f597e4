"""Masks in the folders of their pictures: told by their names and a look at a few of them. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from tag2mask.data.dataset import DataError
from tag2mask.data.findings import some
from tag2mask.data.masks.labels import mask_name
from tag2mask.data.readers.companions import pairs_beside
from tag2mask.data.storage.pictures import open_picture, opened

_LOOKED_AT = 8
"""So many pairs, spread over all, are opened."""
_SIDE = 256
"""About so many rows and columns of a picture are looked at."""
_MASK_BITS, _MORE_BITS = 3.0, 1.5
"""Entropy in bits of the grey values that a mask has at most, and by how much that of its picture is larger.

Measured: masks of two to six labels at most 2.3, also as JPEG of quality 40 or made half as large 3.0; photographs at
least 4.5; one drawing as PNG and as JPEG less than 1 apart.
"""


def refuse_masks_beside(names: Iterable[str], path_of: Callable[[str], Path], root: Path) -> None:
    """Refuse pictures to train on that are masks of others: pairs in one folder whose names and pixels say so.

    Files are opened only where names say that there may be masks, and then a few. Two photographs of one stem, or one
    picture in two formats, are no picture and mask.

    Raises:
        DataError: of the pairs that were looked at more than half are a picture and its mask; names one, and the cure.
    """
    pairs = pairs_beside(names)
    looked_at = pairs[:: max(1, len(pairs) // _LOOKED_AT)][:_LOOKED_AT]
    found = [each for pair in looked_at if (each := _mask_and_picture(*pair, path_of)) is not None]
    if not found or 2 * len(found) <= len(looked_at):
        return
    mask, picture = found[0]
    raise DataError(
        f"{root}: pictures and their masks lie side by side ({some(len(pairs), 'pair')}): by its name and its pixels "
        f"{mask} is the mask of {picture}. Masks are no pictures to train on. Move each to {root / 'masks'}, under the "
        f"name of its picture and as PNG: {mask} becomes masks/{mask_name(picture)}. A program for it is in "
        "docs/data.md, masks beside their pictures."
    )


def _mask_and_picture(one: str, two: str, path_of: Callable[[str], Path]) -> tuple[str, str] | None:
    """Which of two is the mask and which the picture, by their pixels; None where that is not certain."""
    try:
        bits = {name: _entropy(path_of(name)) for name in (one, two)}
    except Exception:  # the decoders raise nearly anything; who reads the file to use it says so
        return None
    mask, picture = sorted(bits, key=bits.__getitem__)
    certain = bits[mask] <= _MASK_BITS and bits[picture] >= bits[mask] + _MORE_BITS
    return (mask, picture) if certain else None


def _entropy(path: Path) -> float:
    """Entropy in bits of the grey values, or palette entries, of a picture."""
    with open_picture(path) as file, opened(file) as image:
        image.draft("L", (_SIDE, _SIDE))  # a JPEG is decoded at a fraction of its size
        values = np.asarray(image if image.mode in ("L", "P") else image.convert("L"))
    step = max(1, min(values.shape) // _SIDE)
    share = np.bincount(values[::step, ::step].ravel(), minlength=256) / values[::step, ::step].size
    return float(-(share[share > 0] * np.log2(share[share > 0])).sum())
