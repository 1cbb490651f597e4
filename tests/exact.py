"""Exact O(N^2) twins of the lattice filters, from the formulas, in numpy float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def features(rgb: NDArray[np.uint8], sigma_xy: float, sigma_rgb: float | None) -> Array:
    """Features [N, 2 or 5] of a picture [3, H, W]."""
    y, x = np.mgrid[: rgb.shape[1], : rgb.shape[2]].astype(np.float64)
    position = np.stack([x.ravel(), y.ravel()], 1) / sigma_xy
    if sigma_rgb is None:
        return position
    return np.concatenate([position, rgb.reshape(3, -1).T.astype(np.float64) / sigma_rgb], 1)


def gaussian_kernel(f: Array) -> Array:
    """exp(-|f_i - f_j|^2 / 2), [N, N]."""
    square = (f**2).sum(1)
    return np.exp(-0.5 * np.maximum(square[:, None] + square[None] - 2 * f @ f.T, 0))


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(0, keepdims=True))
    return e / e.sum(0, keepdims=True)


def dense_crf(scores: Array, kernels: list[tuple[Array, float]], iterations: int) -> Array:
    """Mean field of scores [K, N] with symmetrically normalized kernels and Potts weights."""
    log_scores = np.log(np.clip(scores, 1e-5, 1))
    normalized = []
    for kernel, weight in kernels:
        n = 1 / np.sqrt(kernel.sum(1) + 1e-20)
        normalized.append(weight * n[:, None] * kernel * n[None])
    total = sum(normalized)
    q = softmax(log_scores)
    for _ in range(iterations):
        q = softmax(log_scores + q @ total.T)
    return q
