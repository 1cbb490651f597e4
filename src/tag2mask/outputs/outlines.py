"""Exact pixel outlines of masks: 4-connected regions with their holes, found from the corners of the outline.

A pixel (column x, row y) covers the square from (x, y) to (x + 1, y + 1), so outlines run on whole numbers. All points
are `(x, y)`, x to the right and y down, as the formats that are written from them want it. numpy only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Ring: TypeAlias = NDArray[np.int64]
"""[n, 2], corners (x, y) of a closed outline, horizontal and vertical edges in turn; the first is not repeated."""


@dataclass(frozen=True, eq=False)
class Slit:
    """A straight cut through a region, from a hole to the ring on its left, half-way down the pixel row `row`."""

    hole: int
    """Index of the hole, into `Region.rings`."""
    ring: int
    """Index of the ring on its left."""
    row: int
    start: int
    """x at which the cut meets that ring."""
    stop: int
    """x at which it meets the hole."""


@dataclass(frozen=True, eq=False)
class Region:
    """A 4-connected region: pixels that are joined by their sides.

    Its rings are simple: none meets itself. Two may meet in a point, where pixels touch by their corners. The outer
    ring has the pixels on the right hand of who walks along it (a positive area in (x, y)), and so have the holes.
    """

    rings: tuple[Ring, ...]
    """The outer ring, then the holes."""
    slits: tuple[Slit, ...]
    """One per hole; together they join all rings into one."""
    area: int
    """Pixels."""

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(x, y, width, height)."""
        low, high = self.rings[0].min(axis=0), self.rings[0].max(axis=0)
        return int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1])


def trace(mask: NDArray[np.bool_]) -> tuple[list[Region], NDArray[np.int32]]:
    """The regions of a mask, and which region each pixel is of.

    Args:
        mask: bool [H, W].

    Returns:
        The regions by their first pixel in reading order, and int32 [H, W]: 0 outside, region i has i + 1.
    """
    labels = np.zeros(mask.shape, dtype=np.int32)
    if not mask.any():
        return [], labels
    rings = [simple for ring in _rings(mask) for simple in _simple_rings(ring)]
    areas = [int(doubled_area(ring)) // 2 for ring in rings]
    left, right = _sides(rings, mask)
    owner = _owners(rings, areas, left, right)
    starts = np.flatnonzero(mask & ~np.pad(mask, ((0, 0), (1, 0)))[:, :-1])
    lengths = np.flatnonzero(mask & ~np.pad(mask, ((0, 0), (0, 1)))[:, 1:]) - starts + 1
    labels[mask] = np.repeat((owner[left] + 1).astype(np.int32), lengths)
    rows, columns = np.divmod(starts, mask.shape[1])
    found, first = np.unique(right, return_index=True)
    cut = dict(zip(found.tolist(), first.tolist(), strict=True))  # the first run that ends at each hole: for its slit
    members: list[list[int]] = [[] for _ in range(int(owner.max()) + 1)]
    for index, area in enumerate(areas):
        members[owner[index]] += [index] if area < 0 else []
    outers = [index for index, area in enumerate(areas) if area > 0]
    regions = []
    for outer, holes in zip(outers, members, strict=True):
        place = {index: i for i, index in enumerate([outer, *holes])}
        slits = tuple(
            Slit(place[hole], place[int(left[r])], int(rows[r]), int(columns[r]), int(columns[r] + lengths[r]))
            for hole, r in ((hole, cut[hole]) for hole in holes)
        )
        area = areas[outer] + sum(areas[hole] for hole in holes)
        regions.append(Region(tuple(rings[index] for index in place), slits, area))
    return regions, labels


def _rings(mask: NDArray[np.bool_]) -> Iterator[Ring]:
    """Closed outlines with the pixels of the mask on the right hand; they may meet themselves at corners.

    A corner of the outline joins one horizontal and one vertical edge. Along a grid line the corners pair up into
    edges in their order. Where two pixels touch by their corners only, two corners lie on one point, each joining
    the edges of one of the two pixels, so that regions are 4-connected.
    """
    pixels = np.pad(mask, 1)
    nw, ne, sw, se = pixels[:-1, :-1], pixels[:-1, 1:], pixels[1:, :-1], pixels[1:, 1:]
    touch = (nw == se) & (ne == sw) & (nw != ne)
    corner = ((nw ^ ne ^ sw ^ se) | touch).ravel()
    at = np.repeat(np.flatnonzero(corner), 1 + touch.ravel()[corner])
    y, x = np.divmod(at, mask.shape[1] + 1)
    first = np.flatnonzero(touch[y, x])[0::2]  # of two corners on a point, the one whose edge goes west comes first
    east, south = ne[y, x] != se[y, x], sw[y, x] != se[y, x]
    east[first], east[first + 1] = False, True
    south[first] = ~nw[y[first], x[first]]
    south[first + 1] = ~south[first]
    order = np.lexsort((south, y, x))
    vertical = np.empty_like(order)  # the corner at the other end of the vertical edge; of the horizontal one: i ^ 1
    vertical[order[0::2]], vertical[order[1::2]] = order[1::2], order[0::2]
    start = np.arange(0, len(at), 2)
    start += ~se[y[start], x[start]]  # pixels below: to the right
    following = (vertical[start ^ 1] // 2).tolist()
    points = np.stack([x[start], y[start], x[start ^ 1], y[start ^ 1]], axis=1)
    seen = bytearray(len(following))
    for begin in range(len(following)):
        edges, edge = [], begin
        while not seen[edge]:
            seen[edge] = 1
            edges.append(edge)
            edge = following[edge]
        if edges:
            yield points[edges].reshape(-1, 2)


def _simple_rings(ring: Ring) -> list[Ring]:
    """A ring cut where it meets itself, so that each part meets itself nowhere."""
    keys = ring[:, 0] << 32 | ring[:, 1]
    if len(np.unique(keys)) == len(keys):
        return [ring]
    parts, path, place = [], list[int](), dict[int, int]()
    for index, key in enumerate(keys.tolist()):
        if key in place:
            cut = place[key]
            for other in path[cut:]:
                del place[int(keys[other])]
            parts.append(ring[path[cut:]])
            del path[cut:]
        place[key] = len(path)
        path.append(index)
    return [*parts, ring[path]]


def doubled_area(ring: NDArray[Any]) -> Any:
    """Twice the area of a closed polygon [n, 2], in square pixels: negative for holes."""
    x, y = ring.T
    return (x * np.roll(y, -1) - np.roll(x, -1) * y).sum()


def _sides(rings: Sequence[Ring], mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each run of pixels in a row, in reading order: the ring at its left end and the ring at its right end."""
    begin = np.concatenate(rings)
    end = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])
    ring_of = np.repeat(np.arange(len(rings)), [len(ring) for ring in rings])
    sides = []
    for up in (True, False):
        chosen = (end[:, 1] < begin[:, 1]) if up else (end[:, 1] > begin[:, 1])
        top = np.minimum(begin[chosen, 1], end[chosen, 1])
        height = np.abs(begin[chosen, 1] - end[chosen, 1])
        step = np.arange(height.sum()) - np.repeat(np.cumsum(height) - height, height)
        row, column = np.repeat(top, height) + step, np.repeat(begin[chosen, 0], height)
        sides.append(np.repeat(ring_of[chosen], height)[np.argsort(row * (mask.shape[1] + 1) + column)])
    return sides[0], sides[1]


def _owners(
    rings: Sequence[Ring], areas: Sequence[int], left: NDArray[np.int64], right: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The region of each ring: rings at the two ends of a run belong together; outer rings are numbered in order."""
    parent = list(range(len(rings)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    differ = left != right
    for a, b in np.unique(np.stack([left[differ], right[differ]], axis=1), axis=0).tolist():
        parent[root(a)] = root(b)
    number = {root(index): i for i, index in enumerate(i for i, area in enumerate(areas) if area > 0)}
    return np.array([number[root(index)] for index in range(len(rings))])
