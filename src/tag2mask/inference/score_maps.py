"""From logits at the size of the feature map to probabilities at the size of the picture. numpy, no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tag2mask.base.arrays import Size, is_large, row_strips
from tag2mask.base.core import find_core
from tag2mask.base.processes import usual_threads
from tag2mask.config import CRFParams
from tag2mask.config.inference import CRFChoice, resolve_crf
from tag2mask.inference.tiles import Part, crf_parts, labels_of

Floats: TypeAlias = NDArray[np.float32]

_STRIP = 1 << 18
"""Pixels whose probabilities are computed at a time, so that a huge picture needs little memory."""


class Arithmetic(NamedTuple):
    """The few operations that libraries round differently; here numpy's, in `torch_backend` those of torch."""

    lerp: Callable[[Floats, Floats, Floats], Floats]
    """Values between the first (at weight 0) and the second (at weight 1)."""
    widened: Callable[[Floats, int, slice], Floats] | None
    """Some columns of maps [K, h, w] resized to a width; None makes them by `lerp`."""
    softmax: Callable[[Floats], Floats]
    """Softmax over the labels of [L, H, W]."""
    mean: Callable[[Sequence[Floats]], Floats]
    """Mean of arrays of one shape."""
    dense_crf: Callable[[NDArray[np.uint8], Floats, NDArray[np.bool_] | None, CRFParams], Floats]
    """Marginals [K, H, W] of a picture [H, W, 3], its probabilities [K, H, W] and the labels that may occur."""

    def upsampled(self, logits: Floats, size: Size, rows: slice, columns: slice) -> Floats:
        """A part of maps [K, h, w] resized to `size` (bilinear, align_corners=False), without the rest of them."""
        low, high, weight = _neighbors(logits.shape[1], size[0], rows)
        first = low[0]
        wide = (self.widened or self._widened)(logits[:, first : high[-1] + 1], size[1], columns)
        return self.lerp(wide.take(low - first, 1), wide.take(high - first, 1), weight[:, None])

    def _widened(self, values: Floats, width: int, columns: slice) -> Floats:
        low, high, weight = _neighbors(values.shape[2], width, columns)
        return self.lerp(values.take(low, 2), values.take(high, 2), weight)


def _softmax(logits: Floats) -> Floats:
    exponents = np.exp(logits - logits.max(0))
    probs: Floats = exponents / exponents.sum(0)
    return probs


def _dense_crf(rgb: NDArray[np.uint8], probs: Floats, present: NDArray[np.bool_] | None, crf: CRFParams) -> Floats:
    """`tag2mask.crf.dense_crf` by the compiled core.

    Raises:
        ValueError: the core is missing, or the probabilities hold NaN.
    """
    core, reason = find_core()
    if core is None:
        raise ValueError(
            f"crf with an ONNX model needs the compiled core of tag2mask, which is missing ({reason}): install a C++ "
            "compiler and reinstall tag2mask, load the run itself, or leave crf out."
        )
    out = np.zeros((1, 1, *probs.shape), dtype=np.float32)
    bad = core.dense_crf(
        np.ascontiguousarray(rgb.transpose(2, 0, 1)[None]),
        probs[None, None],
        np.ones((1, len(probs)), np.uint8) if present is None else present[None].astype(np.uint8),
        None,
        out,
        *dataclasses.astuple(crf),
        usual_threads(),
    )
    if bad >= 0:
        raise ValueError("The model's probabilities hold NaN, so there is nothing to refine; export the run anew.")
    marginals: Floats = out[0, 0]
    return marginals


NUMPY = Arithmetic(
    lerp=lambda start, end, weight: start + (end - start) * weight,
    widened=None,
    softmax=_softmax,
    mean=lambda values: np.asarray(np.mean(values, axis=0)),
    dense_crf=_dense_crf,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoreMaps:
    """Logits of one picture at the size of the feature map, one per scale and flip; probabilities on request."""

    logits: tuple[Floats, ...]
    """float32 [K, h, w] each, flips undone."""
    size: Size
    """(H, W) of the picture."""
    allowed: NDArray[np.bool_] | None = None
    """bool [K] of the labels that may occur, or None for all."""
    arithmetic: Arithmetic = NUMPY

    def probs(self, rows: slice = slice(None), columns: slice = slice(None)) -> Floats:
        """Probabilities float32 [K, rows, columns] that sum to 1 over K.

        Logits are resized to the picture (bilinear, align_corners=False), made probabilities, then averaged over scales
        and flips; labels that are not allowed are 0.
        """
        views = (self.arithmetic.upsampled(each, self.size, rows, columns) for each in self.logits)
        mean: Floats = reduce(np.add, map(self._label_probs, views)) / np.float32(len(self.logits))
        if self.allowed is None:
            return mean
        out = np.zeros((len(self.allowed), *mean.shape[1:]), dtype=np.float32)
        out[self.allowed] = mean
        return out

    def labels(self) -> NDArray[np.uint8]:
        """The most probable label of each pixel, uint8 [H, W]; the probabilities of the picture are never all there.

        By the compiled core, else from `parts`. The two differ where labels are equal within rounding.
        """
        if self.allowed is not None and not self.allowed[1:].any():
            return np.zeros(self.size, np.uint8)
        core, _ = find_core()
        if core is None:
            return labels_of(self.parts(), self.size)
        out = np.empty(self.size, np.uint8)
        allowed = None if self.allowed is None else self.allowed.astype(np.uint8)
        core.labels([np.ascontiguousarray(each) for each in self.logits], allowed, out, usual_threads())
        return out

    def shows_objects(self) -> bool:
        """Whether any cell of the maps, at their own size, is an object."""
        return any(bool((self._label_probs(each).argmax(0) > 0).any()) for each in self.logits)

    def parts(self) -> Iterator[Part]:
        """Probabilities strip by strip."""
        for rows in row_strips(self.size, _STRIP):
            yield rows, slice(0, self.size[1]), self.probs(rows)

    def _label_probs(self, logits: Floats) -> Floats:
        """Probabilities of the labels that may occur, [L, H, W] of [K, H, W]; see `teacher.label_probs`.

        The background keeps the probability that it has among all labels; the allowed objects share the rest.
        """
        probs = self.arithmetic.softmax(logits)
        if self.allowed is None:
            return probs
        objects = np.flatnonzero(self.allowed)[1:]
        if not len(objects):
            return np.ones_like(probs[:1])
        return np.concatenate([probs[:1], (1 - probs[:1]) * self.arithmetic.softmax(logits[objects])])


def _neighbors(cells: int, pixels: int, part: slice) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """For some of the pixels of a side: the cells at both sides of each, and the weight of the second."""
    place = np.arange(pixels, dtype=np.float32)[part]
    position = ((place + 0.5) * np.float32(cells / pixels) - 0.5).clip(min=0)
    low = np.minimum(position.astype(np.int64), cells - 1)
    return low, np.minimum(low + 1, cells - 1), (position - low).astype(np.float32)


def probability_parts(rgb: NDArray[np.uint8], maps: ScoreMaps, crf: CRFChoice) -> Iterator[Part]:
    """Probabilities of a picture uint8 [H, W, 3], strip by strip.

    With a dense CRF at the picture's size they come in one piece, or square by square of a large picture.
    """
    params = resolve_crf(crf)
    if params is None:
        yield from maps.parts()
        return

    def refined(rows: slice, columns: slice) -> Floats:
        return maps.arithmetic.dense_crf(rgb[rows, columns], maps.probs(rows, columns), maps.allowed, params)

    if is_large(maps.size):
        yield from crf_parts(maps.size, params, refined)
    else:
        yield slice(0, maps.size[0]), slice(0, maps.size[1]), refined(slice(None), slice(None))
