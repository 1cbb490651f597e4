"""Polygons from the outlines of regions: with holes as rings of their own, or as one ring; simplified on request.

Points are `(x, y)` in pixels, x to the right and y down; a pixel covers a unit square (see `outlines`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tag2mask.outputs.outlines import Region, Ring, Slit, doubled_area

Polygon: TypeAlias = NDArray[np.float64]
"""[n, 2], points (x, y) of a closed polygon; the first is not repeated."""


def ring_polygons(region: Region, *, tolerance: float = 0.0) -> list[Polygon]:
    """The outer ring and the holes, each as a polygon of its own.

    At tolerance 0 they are exact, none meets itself, and two meet in points at most: valid for every reader.

    Args:
        region: As `trace` finds it.
        tolerance: No pixel corner of the outline is further than this from the polygon, in pixels; a ring that would
            lose its area is kept as it is. Above 0 the rings of a thin region may cross.
    """
    return [_simplified(ring.astype(np.float64), tolerance) for ring in region.rings]


def single_polygon(region: Region, *, tolerance: float = 0.0, inset: float = 0.0) -> Polygon:
    """The whole region as one polygon, for formats without holes: a slit of no width leads to each hole and back.

    Under the even-odd rule and under the non-zero rule such a polygon covers the region and leaves the holes out. The
    slits run through the region's own pixels, so that readers that paint the outline too paint nothing else.

    Args:
        region: As `trace` finds it.
        tolerance: As for `ring_polygons`; the ends of the slits stay where they are.
        inset: Distance by which the outline is moved into the region, in pixels, below 0.5. With a small one readers
            that cut coordinates down to whole pixels and paint the outline get the region exactly.
    """
    corners = _corners(region, inset)
    doors, entries = _slits(region)
    points: list[NDArray[np.float64]] = []
    fixed: list[int] = []  # ends of slits, which simplification must not move

    def cross(slit: Slit, start: float, stop: float) -> None:
        fixed.extend((len(points), len(points) + 1))
        points.extend(np.array([[start, slit.row + 0.5], [stop, slit.row + 0.5]]))

    def around(ring: int, first: int) -> Iterator[Slit]:
        """Add the points of a ring from edge `first` on; stop at each slit, until its hole has been added."""
        count = len(corners[ring])
        for edge in (i % count for i in range(first, first + count)):
            points.extend(corners[ring][edge])
            for slit in doors[ring].get(edge, ()):
                left, right = slit.start + inset, slit.stop - inset
                cross(slit, left, right)
                yield slit
                cross(slit, right, left)

    walks = [around(0, 0)]  # a stack, as holes may follow each other thousands deep
    while walks:
        if (slit := next(walks[-1], None)) is None:
            walks.pop()
        else:
            walks.append(around(slit.hole, entries[slit.hole] + 1))
    return _simplified(np.array(points), tolerance, fixed)


def _slits(region: Region) -> tuple[list[dict[int, list[Slit]]], dict[int, int]]:
    """For each ring the slits that begin at each of its edges, in the order of a walk; the edge at which each ends."""
    doors: list[dict[int, list[Slit]]] = [{} for _ in region.rings]
    # edges with a region to their right run upwards: the lowest slit comes first
    for slit in sorted(region.slits, key=lambda each: (each.row, each.hole), reverse=True):
        edge = _vertical_edge(region.rings[slit.ring], slit.start, slit.row)
        doors[slit.ring].setdefault(edge, []).append(slit)
    ends = {slit.hole: _vertical_edge(region.rings[slit.hole], slit.stop, slit.row) for slit in region.slits}
    return doors, ends


def _corners(region: Region, inset: float) -> list[list[list[NDArray[np.float64]]]]:
    """The points at each corner of each ring, moved to the right hand, where the region is.

    Mostly one point. Where two rings meet, the region may be cut: there the outline turns left from one pixel of the
    region to the pixel that it touches by a corner, and gets a point in each.
    """
    shared = set[tuple[int, int]]()
    if inset and len(region.rings) > 1:
        known, counts = np.unique(np.concatenate(region.rings), axis=0, return_counts=True)
        shared = {(int(x), int(y)) for x, y in known[counts > 1]}
    corners = []
    for ring in region.rings:
        before = np.sign(ring - np.roll(ring, 1, axis=0))  # direction of the edge that ends here
        after = np.roll(before, -1, axis=0)
        right_before, right_after = (np.stack([-d[:, 1], d[:, 0]], axis=1) for d in (before, after))
        points = [[point] for point in ring + inset * (right_before + right_after)]
        left_turn = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0] < 0
        for i in np.flatnonzero(left_turn) if shared else ():
            if (int(ring[i, 0]), int(ring[i, 1])) in shared:
                steps = (right_before[i] - before[i], right_after[i] + after[i])
                points[i] = [ring[i] + inset * step for step in steps]
        corners.append(points)
    return corners


def _vertical_edge(ring: Ring, x: int, row: int) -> int:
    """Index of the point at which the edge at `x` that passes the row begins."""
    following = np.roll(ring, -1, axis=0)
    low, high = np.minimum(ring[:, 1], following[:, 1]), np.maximum(ring[:, 1], following[:, 1])
    return int(np.flatnonzero((ring[:, 0] == x) & (following[:, 0] == x) & (low <= row) & (row < high))[0])


def _simplified(points: Polygon, tolerance: float, fixed: Sequence[int] = ()) -> Polygon:
    """A closed polygon with fewer points (Douglas and Peucker, 1973), between the fixed ones or two far ones."""
    if tolerance <= 0:
        return points
    anchors = sorted(set(fixed)) or sorted((0, int(((points - points[0]) ** 2).sum(axis=1).argmax())))
    count = len(points)
    keep = np.zeros(count, dtype=bool)
    keep[anchors] = True
    doubled = np.concatenate([points, points])
    todo = list(zip(anchors, [*anchors[1:], anchors[0] + count], strict=True))
    while todo:
        a, b = todo.pop()
        if b - a < 2:
            continue
        distance = _distances(doubled[a + 1 : b], doubled[a], doubled[b])
        far = int(distance.argmax())
        if distance[far] > tolerance:
            middle = a + 1 + far
            keep[middle % count] = True
            todo += [(a, middle), (middle, b)]
    kept = points[keep]
    return kept if len(kept) >= 3 and doubled_area(kept) != 0 else points


def _distances(points: Polygon, a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance of points from the segment between a and b."""
    along = b - a
    square = float(along @ along)
    part = np.clip((points - a) @ along / square, 0, 1) if square > 0 else np.zeros(len(points))
    return np.asarray(np.hypot(*(points - a - part[:, None] * along).T))
