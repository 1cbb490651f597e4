"""Large pictures: tiles with overlap whose maps are blended, and limits of size. numpy and Pillow, no torch.

Sizes are `(height, width)`. A tile is cut from the grid of the network's input, at a multiple of the stride, so that
its cells are cells of the whole picture's map: away from the borders of tiles, where a network sees the same pixels, it
says the same. Blending weights fall towards the border of a tile and sum to 1 over the tiles at every cell.
"""

from __future__ import annotations

import logging
import math
import mmap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tag2mask.base.arrays import Size, is_large, stored
from tag2mask.config import CRFParams

log = logging.getLogger("tag2mask")

TILE = 1024
"""Side in pixels of the tiles of a large picture that enters the network at its own size."""
OVERLAP = 0.25
"""Share of a tile's side that it has in common with the next."""
CRF_SIDE = 1024
"""Side of the squares whose CRF result is kept; they are computed with a margin around them."""
CRF_REACH = 3.0
"""That margin, in standard deviations of the wider kernel; a Gaussian is below 0.012 of its peak from there on.

A wider one changes nothing: what is left comes from the cells of the lattice, which lie elsewhere in each square.
"""

Part: TypeAlias = tuple[slice, slice, NDArray[np.float32]]
"""(rows, columns, probabilities float32 [K, rows, columns])."""
Network: TypeAlias = Callable[[NDArray[np.uint8]], tuple[NDArray[np.float32], NDArray[np.float32]]]
"""A tile uint8 [h, w, 3] to logits float32 [K, h', w'], where h' divides h and w' divides w, and tag scores [C]."""


def tile_side(size: Size, tile: int | None, image_size: int | None) -> int | None:
    """Side of the tiles in pixels of a picture of `size`, or None where the picture passes the network as a whole.

    `tile` is what the user asked for; a picture that fits into one tile is not cut. `image_size` is the longer side at
    which pictures enter the network; None keeps theirs, and then large ones are cut without being asked for.
    """
    if tile is None and image_size is None and is_large(size):
        tile = TILE
    return tile if tile is not None and max(size) > tile else None


def network_size(size: Size, image_size: int | None, stride: int, scale: float = 1.0) -> Size:
    """Size (h, w) at which a picture of `size` (H, W) enters the network.

    Args:
        size: Of the picture.
        image_size: What the longer side becomes, times `scale`; None keeps it, times `scale`.
        stride: Of the network; both sides are rounded to multiples of it, so that its map covers the picture exactly.
        scale: Factor on the network's picture size.
    """
    return _rounded(size, scale * (max(size) if image_size is None else image_size) / max(size), stride)


def _rounded(size: Size, factor: float, stride: int) -> Size:
    h, w = (max(stride, round(side * factor / stride) * stride) for side in size)
    return h, w


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Where the tiles of one picture lie, in pixels of the network's input."""

    size: Size
    """Of the whole picture, multiples of the stride."""
    tile: Size
    """Of a tile; the picture's side where that is shorter."""
    overlap: int
    """Pixels that neighbours have in common; the last two of a line may have more."""
    tops: tuple[int, ...]
    lefts: tuple[int, ...]

    @classmethod
    def of(cls, size: Size, side: int, image_size: int | None, stride: int, scale: float = 1.0) -> Grid:
        """The grid of a picture of `size` in tiles of `side` pixels, each seen as a picture of that size would be.

        Args:
            size: Of the picture.
            side: Of a tile, pixels of the picture.
            image_size: Longer side at which a tile enters the network, times `scale`; None keeps its own.
            stride: Of the network; all sides and places are multiples of it.
            scale: Factor on the network's picture size.
        """
        factor = scale * (1.0 if image_size is None else image_size / side)
        h, w = _rounded(size, factor, stride)
        length = max(2, math.ceil(side * factor / stride)) * stride
        overlap = max(1, round(length * OVERLAP / stride)) * stride
        tops, lefts = (_starts(n, length, length - overlap) for n in (h, w))
        return cls(size=(h, w), tile=(min(length, h), min(length, w)), overlap=overlap, tops=tops, lefts=lefts)

    def __len__(self) -> int:
        """Number of tiles."""
        return len(self.tops) * len(self.lefts)


def _starts(size: int, tile: int, step: int) -> tuple[int, ...]:
    return (0,) if size <= tile else (*range(0, size - tile, step), size - tile)


def blended_map(
    rgb: NDArray[np.uint8], grid: Grid, network: Network
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logits of a picture uint8 [H, W, 3] from those of the tiles of `grid`, which enter `network` one by one.

    Returns:
        Logits float32 [K, h, w] of the whole picture, as the network's map of the whole would be laid out, and tag
        scores [C]: of each class the largest of all tiles.

    Raises:
        ValueError: the network's maps do not fit the tiles.
    """
    if len(grid) == 1:
        return network(resized(rgb, grid.size, (0, 0), grid.tile))
    log.info("%d x %d pixels (height x width) in %d tiles", *rgb.shape[:2], len(grid))
    total: NDArray[np.float32] | None = None
    best: NDArray[np.float32] | None = None
    for top in grid.tops:
        for left in grid.lefts:
            logits, scores = network(resized(rgb, grid.size, (top, left), grid.tile))
            rows, columns = _cell(grid.tile[0], logits.shape[1]), _cell(grid.tile[1], logits.shape[2])
            if total is None:
                total = stored((logits.shape[0], grid.size[0] // rows, grid.size[1] // columns), np.float32)
                down = _weights(grid.tops, grid.tile[0], grid.overlap, grid.size[0], rows)
                right = _weights(grid.lefts, grid.tile[1], grid.overlap, grid.size[1], columns)
            weights = down[top][:, None] * right[left]
            y, x = top // rows, left // columns
            total[:, y : y + logits.shape[1], x : x + logits.shape[2]] += logits * weights
            best = scores if best is None else np.maximum(best, scores)
        _write_back(total)
    assert total is not None and best is not None  # a grid has a tile
    return total, best


def _cell(pixels: int, cells: int) -> int:
    if pixels % cells:
        raise ValueError(
            f"This network makes {cells} cells of {pixels} pixels, so that tiles do not fit together; predict without "
            "tile, with an image_size in the run's config.json."
        )
    return pixels // cells


def _weights(starts: Sequence[int], tile: int, overlap: int, size: int, cell: int) -> dict[int, NDArray[np.float32]]:
    """Blending weights [cells of a tile] along one side, by the tile's start; they sum to 1 at each of the cells."""
    places, edge = np.arange(tile // cell) + 0.5, max(1, overlap // cell)
    ramp = np.minimum(np.minimum(places, places[::-1]) / edge, 1.0)
    total = np.zeros(size // cell)
    for start in starts:
        total[start // cell : start // cell + len(ramp)] += ramp
    return {s: (ramp / total[s // cell : s // cell + len(ramp)]).astype(np.float32) for s in starts}


def _write_back(values: NDArray[Any] | None) -> None:
    """Let the pages of a temporary file go, so that they do not stay in memory; their content stays in the file."""
    if isinstance(values, np.memmap) and hasattr(mmap, "MADV_DONTNEED"):
        values.flush()
        values._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]


def resized(rgb: NDArray[np.uint8], size: Size, corner: Size, part: Size) -> NDArray[np.uint8]:
    """A part of a picture that is resized with antialias, without the rest of it.

    Args:
        rgb: uint8 [H, W, 3].
        size: New size of the whole picture.
        corner: (top, left) of the part in the resized picture.
        part: Size of the part.

    Returns:
        uint8 [h, w, 3] of size `part`.
    """
    if rgb.shape[:2] == size:
        return rgb[corner[0] : corner[0] + part[0], corner[1] : corner[1] + part[1]]
    starts, stops, cuts = [], [], []
    for length, new, first, count in zip(rgb.shape[:2], size, corner, part, strict=True):
        factor = length / new
        margin = math.ceil(max(1.0, factor)) + 1
        low = max(0, math.floor(first * factor) - margin)
        high = min(length, math.ceil((first + count) * factor) + margin)
        cuts.append(slice(low, high))
        starts.append(first * factor - low)
        stops.append((length if first + count == new else (first + count) * factor) - low)
    crop = Image.fromarray(np.ascontiguousarray(rgb[cuts[0], cuts[1]]))
    box = (starts[1], starts[0], stops[1], stops[0])
    return np.asarray(crop.resize((part[1], part[0]), Image.Resampling.BILINEAR, box=box))


def labels_of(parts: Iterator[Part], size: Size) -> NDArray[np.uint8]:
    """The most probable label of each pixel, uint8 [H, W], of probabilities that come in parts."""
    labels = np.empty(size, dtype=np.uint8)
    for rows, columns, probs in parts:
        labels[rows, columns] = probs.argmax(0)
    return labels


def whole(parts: Iterator[Part], size: Size) -> NDArray[np.float32]:
    """Probabilities float32 [K, H, W] that come in parts."""
    out: NDArray[np.float32] | None = None
    for rows, columns, probs in parts:
        if probs.shape[1:] == size:
            return probs
        if out is None:
            out = np.empty((probs.shape[0], *size), dtype=np.float32)
        out[:, rows, columns] = probs
    assert out is not None  # a picture has a part
    return out


def crf_parts(size: Size, crf: CRFParams, refined: Callable[[slice, slice], NDArray[Any]]) -> Iterator[Part]:
    """A CRF of a large picture, square by square; each is computed with a margin of its surroundings.

    `refined` takes (rows, columns) to the CRF's probabilities [K, rows, columns] of that part alone.
    """
    margin = math.ceil(CRF_REACH * max(crf.gaussian_sxy, crf.bilateral_sxy))
    for top in range(0, size[0], CRF_SIDE):
        for left in range(0, size[1], CRF_SIDE):
            outer, inner, kept = [], [], []
            for start, length in ((top, size[0]), (left, size[1])):
                stop, low = min(start + CRF_SIDE, length), max(0, start - margin)
                outer.append(slice(low, min(stop + margin, length)))
                inner.append(slice(start - low, stop - low))
                kept.append(slice(start, stop))
            yield kept[0], kept[1], refined(outer[0], outer[1])[:, inner[0], inner[1]]
