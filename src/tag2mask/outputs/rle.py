"""Run lengths of masks as COCO and Label Studio write them. numpy only.

A mask is given as a crop of its picture: bool [h, w] with its corner (x, y); nothing outside of the crop is set.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MAX_BRUSH_PIXELS = 2**30 - 1
"""Label Studio's brush counts bytes, four per pixel, in 32 bits."""
_BRUSH_BITS = (3, 4, 8, 16)
"""Widths of the four kinds of run lengths; any four would do, Label Studio's converter writes these."""


def coco_counts(mask: NDArray[np.bool_], corner: tuple[int, int], size: tuple[int, int]) -> list[int]:
    """COCO's run lengths: column by column, unset first; their sum is H * W.

    Args:
        mask: bool [h, w].
        corner: (x, y) of its first pixel in the picture.
        size: (height, width) of the picture.
    """
    return _run_lengths(mask.T, corner[::-1], size[::-1])


def coco_string(counts: list[int]) -> str:
    """Run lengths as COCO compresses them (pycocotools, maskApi.c, rleToString).

    From the fourth on each is given less the one two before it. Numbers are cut into groups of 5 bits, lowest first;
    bit 6 says that another group follows, the sign is that of the last group; each group is a character from "0" on.
    """
    characters = []
    for index, count in enumerate(counts):
        value = count - counts[index - 2] if index > 2 else count
        more = True
        while more:
            group = value & 31
            value >>= 5
            more = value != (-1 if group & 16 else 0)
            characters.append(48 + group + 32 * more)
    return bytes(characters).decode("ascii")


def brush_rle(mask: NDArray[np.bool_], corner: tuple[int, int], size: tuple[int, int]) -> list[int]:
    """Label Studio's run lengths of a brush, as bytes 0..255 (thi.ng/rle-pack, which its editor uses).

    The picture is four bytes per pixel, row by row, all 255 where the mask is set and all 0 elsewhere. In bits, highest
    first: the number of bytes (32), 8 - 1 (5), the four widths - 1 (4 each); then for each run: 1, the kind of its
    length (2), its length - 1, its value (8). Zeros fill the last byte.

    Args:
        mask: bool [h, w].
        corner: (x, y) of its first pixel in the picture.
        size: (height, width) of the picture; H * W is at most `MAX_BRUSH_PIXELS`.
    """
    total = 4 * size[0] * size[1]
    if total > 4 * MAX_BRUSH_PIXELS:
        raise ValueError(
            f"Label Studio's brush holds at most {MAX_BRUSH_PIXELS} pixels, the picture has {size[0]} x {size[1]}. "
            "Write polygons instead (--shapes polygons)."
        )
    counts = np.array(_run_lengths(mask, corner, size), dtype=np.int64) * 4
    values = np.where(np.arange(len(counts)) % 2, 255, 0)[counts > 0]
    counts = counts[counts > 0]
    pieces = -(-counts // 65536)  # the longest run that 16 bits can say
    values = np.repeat(values, pieces)
    last = np.cumsum(pieces) - 1
    lengths = np.full(len(values), 65536)
    lengths[last] = counts - 65536 * (pieces - 1)
    kind = np.searchsorted([2**bits for bits in _BRUSH_BITS], lengths)
    width = np.array(_BRUSH_BITS)[kind]
    # numbers of a run: 1, kind, length, value, put into one number of 3 + width + 8 bits
    number = ((4 + kind) << width | lengths - 1) << 8 | values
    header = [(total, 32), (7, 5), *((bits - 1, 4) for bits in _BRUSH_BITS)]
    numbers = np.concatenate([np.array([value for value, _ in header]), number])
    bits = np.concatenate([np.array([bits for _, bits in header]), 3 + width + 8])
    shift = np.repeat(np.cumsum(bits), bits) - 1 - np.arange(bits.sum())
    packed = np.packbits((np.repeat(numbers, bits) >> shift & 1).astype(np.uint8))
    return [int(byte) for byte in packed]


def _run_lengths(mask: NDArray[np.bool_], corner: tuple[int, int], size: tuple[int, int]) -> list[int]:
    """Lengths of the unset and set runs in turn, from an unset one on, which may be empty, line by line.

    `corner` is (place in the line, line), `size` is (lines, length of a line).
    """
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    begin, end = (np.stack(np.nonzero(edges == sign)) for sign in (1, -1))
    first, last = ((line + corner[1]) * size[1] + place + corner[0] for line, place in (begin, end))
    joined = np.flatnonzero(last[:-1] == first[1:])  # a line's end and the next one's begin
    runs = np.stack([np.delete(first, joined + 1), np.delete(last, joined)], axis=1)
    borders = np.concatenate([[0], runs.ravel(), [size[0] * size[1]]])
    lengths = [int(length) for length in np.diff(borders)]
    return lengths if lengths[-1] > 0 else lengths[:-1]
