"""Unaries and features for `DenseCRF`, with the names, arguments and results of `pydensecrf.utils`.

Where the original goes on with senseless values (labels that wrap around) or raises an `AssertionError`,
`ZeroDivisionError` or `IndexError`, these functions raise a `ValueError`. Arrays may be numpy arrays, memoryviews and
other buffers, or torch tensors of any device. Imports no torch.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tag2mask.compat.arrays import as_array

Floats = NDArray[np.float32]


def unary_from_labels(labels: NDArray[Any], n_labels: int, gt_prob: float, zero_unsure: bool = True) -> Floats:
    """Energy float32 [n_labels, N] of a label map that is right with probability `gt_prob`.

    Args:
        labels: integers of any shape. With `zero_unsure` 0 means unknown and label i is 1 + row i of the result; else
            label i is row i.
        n_labels: labels without the unknown one, at least 2.
        gt_prob: in (0, 1); the other labels share the rest evenly. An unknown pixel gives all labels the same.
        zero_unsure: see `labels`.

    Raises:
        ValueError: no integers, a label out of range, `n_labels` or `gt_prob` out of range.
    """
    labels = as_array("labels", labels)
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels must be integers, got {labels.dtype}; convert them with .astype(np.int64)")
    if n_labels < 2:
        raise ValueError(f"n_labels must be at least 2, got {n_labels}")
    if not 0 < gt_prob < 1:
        raise ValueError(f"gt_prob must lie in (0, 1), got {gt_prob}")
    flat = labels.reshape(-1).astype(np.int64)
    first, last = 0, n_labels if zero_unsure else n_labels - 1
    if flat.size and not (first <= flat.min() and flat.max() <= last):
        raise ValueError(
            f"labels must lie in {first} to {last} for n_labels={n_labels} and zero_unsure={zero_unsure}, got "
            f"{flat.min()} to {flat.max()}"
        )
    rows = np.arange(n_labels)[:, None] + int(zero_unsure)
    right, wrong, unsure = -np.log(gt_prob), -np.log((1 - gt_prob) / (n_labels - 1)), -np.log(1 / n_labels)
    energy: Floats = np.where(flat == rows, right, wrong).astype(np.float32)
    if zero_unsure:
        energy[:, flat == 0] = unsure
    return energy


def compute_unary(labels: NDArray[Any], M: int, GT_PROB: float = 0.5) -> Floats:
    """Older name of `unary_from_labels`."""
    warnings.warn("compute_unary is deprecated; use unary_from_labels", DeprecationWarning, stacklevel=2)
    return unary_from_labels(labels, M, GT_PROB)


def unary_from_softmax(sm: NDArray[Any], scale: float | None = None, clip: float | None = 1e-5) -> Floats:
    """Energy `-log(sm)`, float32 [L, N], of probabilities [L, ...].

    Args:
        sm: probabilities, labels first.
        scale: trust in them, in (0, 1]: `scale * sm + (1 - scale) / L` is taken instead.
        clip: smallest probability (the largest is 1); None leaves them alone, and a 0 becomes an energy of +inf.

    Raises:
        ValueError: NaN, or `scale` out of range.
    """
    sm = as_array("sm", sm)
    if sm.ndim == 0 or not np.issubdtype(sm.dtype, np.number) or np.iscomplexobj(sm):
        raise ValueError(f"sm must be an array of probabilities, labels first, got {sm.dtype} {list(sm.shape)}")
    if np.isnan(sm).any():
        raise ValueError("sm holds NaN; it must hold probabilities")
    if scale is not None:
        if not 0 < scale <= 1:
            raise ValueError(f"scale must lie in (0, 1], got {scale}")
        sm = scale * sm + np.full(1, (1 - scale) / len(sm))  # float64 from here on, as in the original
    if clip is not None:
        sm = np.clip(sm, clip, 1.0)
    with np.errstate(divide="ignore"):
        energy = -np.log(sm)
    return np.ascontiguousarray(energy.reshape(len(sm), -1), np.float32)


def softmax_to_unary(sm: NDArray[Any], GT_PROB: float = 1) -> Floats:
    """Older name of `unary_from_softmax`, without clipping."""
    warnings.warn("softmax_to_unary is deprecated; use unary_from_softmax", DeprecationWarning, stacklevel=2)
    return unary_from_softmax(sm, None if GT_PROB == 1 else GT_PROB, clip=None)


def create_pairwise_gaussian(sdims: float | Sequence[float], shape: Sequence[int]) -> Floats:
    """Features float32 [D, N] of the positions in a grid, one row for each axis, in the order of the axes.

    `DenseCRF2D.addPairwiseGaussian` puts x before y, so its lattice differs a little from that of (height, width).

    Args:
        sdims: width of each axis, or one for all.
        shape: size of each axis.

    Raises:
        ValueError: not one width greater than 0 for each axis.
    """
    if isinstance(sdims, Sequence | np.ndarray) and len(sdims) < len(shape):  # the original mixes the rows up
        raise ValueError(f"sdims must be {len(shape)} numbers, one for each axis, or one number for all, got {sdims}")
    mesh = np.indices(tuple(shape), np.float32)
    _divide(mesh, "sdims", sdims, "axes")
    return mesh.reshape(len(shape), -1)


def create_pairwise_bilateral(
    sdims: float | Sequence[float], schan: float | Sequence[float], img: NDArray[Any], chdim: int = -1
) -> Floats:
    """Features float32 [D, N] of the positions in an image, in the order of its axes, and of its channels.

    As in the original, axes and channels for which there is no width are not scaled; here a warning says so.

    Args:
        sdims: width of each axis but that of the channels, or one for all.
        schan: width of each channel, or one for all.
        img: image of any number of axes.
        chdim: the axis of the channels; -1 for an image without one.

    Raises:
        ValueError: no such axis, more widths than axes or channels, or one that is not greater than 0.
    """
    img = as_array("img", img)
    if not -1 <= chdim < img.ndim:
        raise ValueError(f"chdim must be an axis of img, 0 to {img.ndim - 1}, or -1 for none, got {chdim}")
    channels = img[None] if chdim == -1 else np.moveaxis(img, chdim, 0)
    colors = channels.astype(np.float32)
    mesh = np.indices(colors.shape[1:], np.float32)
    _divide(colors, "schan", schan, "channels")
    _divide(mesh, "sdims", sdims, "axes")
    return np.concatenate([mesh, colors]).reshape(len(mesh) + len(colors), -1)


def _divide(rows: Floats, name: str, widths: float | Sequence[float], kind: str) -> None:
    """Divide each row by its width, in place."""
    each = list(widths) if isinstance(widths, Sequence | np.ndarray) else [widths] * len(rows)
    if not 0 < len(each) <= len(rows) or not all(isinstance(v, Real) and np.isfinite(v) and v > 0 for v in each):
        raise ValueError(
            f"{name} must be {len(rows)} numbers greater than 0, one for each of the {kind}, or one number for all, "
            f"got {widths}"
        )
    if len(each) < len(rows):
        warnings.warn(
            f"{name} has {len(each)} widths for {len(rows)} {kind}: the last {len(rows) - len(each)} are left "
            "unscaled, as in pydensecrf. Give one number for all, or a width for each (1 leaves one unscaled).",
            stacklevel=3,
        )
    for row, width in zip(rows, each, strict=False):
        row /= width
