"""A permutohedral lattice in plain numpy, from the paper and the behavior of the published code on SSE.

Where a pixel lies is found in float32, step by step as published, since the last bit decides which vertices there are on the
border of two cells. Sums are float64.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def lattice_filter(features: NDArray[np.float32], values: Array, *, block: int = 4) -> Array:
    """Unnormalized filter of values [n, N] over features [D, N], filled up with features 0 to a multiple of `block`."""
    dims, pixels = features.shape
    features = np.pad(features, ((0, 0), (0, -pixels % block)))
    corners, weights = corners_of(features)  # [M, D + 1, D], [M, D + 1]
    corners = corners.reshape(-1, dims)
    at, first = numbered(corners)
    vertices, at = corners[first], at.reshape(-1, dims + 1)[:pixels]
    weights = weights[:pixels].astype(np.float64)
    out = np.zeros((len(values), pixels))
    neighbors = [neighbors_of(vertices, axis) for axis in range(dims + 1)]
    for one, result in zip(np.asarray(values, np.float64), out, strict=True):
        sums = np.bincount(at.ravel(), (weights * one[:, None]).ravel(), len(vertices))
        for before, after in neighbors:
            there = np.append(sums, 0.0)  # the last stands for a vertex that is not there
            sums = sums + (there[before] + there[after]) / 2
        result[:] = (weights * sums[at]).sum(1) / (1 + 2.0**-dims)
    return out


def corners_of(features: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """First D coordinates [M, D + 1, D] and barycentric weights [M, D + 1] of the corners around each pixel."""
    dims, pixels = features.shape
    unit = np.float32(np.sqrt(2 / 3) * (dims + 1))
    scale = [np.float32(1 / np.sqrt((i + 1) * (i + 2)) * np.float64(unit)) for i in range(dims)]
    elevated = np.zeros((dims + 1, pixels), np.float32)
    for j in range(dims, 0, -1):
        part = features[j - 1] * scale[j - 1]
        elevated[j] = elevated[0] - np.float32(j) * part
        elevated[0] += part
    cell = np.rint(elevated * np.float32(1 / np.float32(dims + 1)))
    rest = elevated - cell * np.float32(dims + 1)
    rank = np.zeros((dims + 1, pixels), np.int64)
    for i in range(dims):
        for j in range(i + 1, dims + 1):
            less = rest[i] < rest[j]
            rank[i] += less
            rank[j] += ~less
    rank += cell.sum(0).astype(np.int64)
    move = (rank < 0).astype(np.int64) - (rank > dims)
    rank += move * (dims + 1)
    base = (cell.astype(np.int64) + move) * (dims + 1)
    rest = (elevated - base.astype(np.float32)) * np.float32(1 / np.float32(dims + 1))
    weights = np.zeros((pixels, dims + 2), np.float32)
    every = np.arange(pixels)
    for i in range(dims + 1):
        weights[every, dims - rank[i]] += rest[i]
        weights[every, dims - rank[i] + 1] -= rest[i]
    weights[:, 0] += 1 + weights[:, dims + 1]
    remainder = np.arange(dims + 1)[:, None, None]
    below = (rank[:dims] > dims - remainder) * (dims + 1)  # [D + 1, D, M]
    corners = base[:dims] + remainder - below
    return corners.transpose(2, 0, 1), weights[:, : dims + 1]


def neighbors_of(vertices: NDArray[np.int64], axis: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Where the two neighbors of each vertex along an axis are in the list, its length where they are missing."""
    dims = vertices.shape[1]
    step = np.full(dims, -1)
    if axis < dims:
        step[axis] = dims
    found = []
    for wanted in (vertices + step, vertices - step):
        at, _ = numbered(np.concatenate([vertices, wanted]))
        place = np.full(at.max() + 1, len(vertices))
        place[at[: len(vertices)]] = np.arange(len(vertices))
        found.append(place[at[len(vertices) :]])
    return found[0], found[1]


def numbered(rows: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """A number from 0 for each row, equal for equal rows, and where each number is first."""
    rows = rows - rows.min(0)
    sizes = rows.max(0) + 1
    if np.log2(sizes.astype(np.float64)).sum() < 62:  # one word is sorted faster than rows
        keys = np.ravel_multi_index(tuple(rows.T), tuple(sizes))
        _, first, at = np.unique(keys, return_index=True, return_inverse=True)
    else:
        _, first, at = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    return at.ravel(), first


def picture_features(image: NDArray[np.float32], sigma_rgb: float, sigma_xy: float) -> NDArray[np.float32]:
    """x, y, r, g, b over their widths, float32 [5, H W], of colors [3, H, W]."""
    y, x = np.mgrid[: image.shape[1], : image.shape[2]].astype(np.float32).reshape(2, -1)
    colors = np.asarray(image, np.float32).reshape(3, -1)
    return np.concatenate([np.stack([x, y]) / np.float32(sigma_xy), colors / np.float32(sigma_rgb)])
