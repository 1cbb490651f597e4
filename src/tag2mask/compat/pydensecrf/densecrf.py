"""`DenseCRF` and `DenseCRF2D` with pydensecrf's names, arguments and results, on the lattices of tag2mask.

Semantics as measured on pydensecrf2 1.1, where `U` is the unary energy [L, N] and `Q` the marginals:

- a step is `Q = softmax(-U - sum over terms of mu(n2 K(n1 Q)))`, the start is `softmax(-U)`; the pixel's own part stays
  in `K`;
- the normalization sets `n1` and `n2`: symmetric takes `1 / sqrt(K 1 + 1e-20)` for both, before and after take
  `1 / (K 1 + 1e-20)` for `n1` or `n2` alone;
- the compatibility `mu` of a number `c` is `-c` (Potts), of a vector its diagonal matrix, of a matrix `m` the symmetric
  part `(m + m^T) / 2`; so the number 3 equals the vector of -3;
- the kernel type changes nothing here: it only says which parameters pydensecrf's C++ library may learn;
- the pixels of a lattice are filled up to a multiple of four with pixels whose features are 0. They hold no value, but
  the vertices around them take part in the blur.

Unlike the original it refuses what made that crash or read foreign memory, and an inference without a unary. It takes
and returns plain arrays where the original has a matrix class of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import IntEnum
from numbers import Real
from typing import Any, TypeGuard, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tag2mask.filtering import MAX_DIMS, Lattice

Floats = NDArray[np.float32]
Kind = TypeVar("Kind", bound=IntEnum)
Compat = float | Floats
"""A number (Potts), a vector [nlabels] or a matrix [nlabels, nlabels]."""

BLOCK = 4
"""pydensecrf's lattice takes pixels in fours."""

MAX_FEATURE = 1e6
"""Beyond it float32 no longer tells the cells of the lattice apart."""


class KernelType(IntEnum):
    """Which kernel parameters pydensecrf's C++ library may learn; without effect on inference."""

    CONST_KERNEL = 0
    DIAG_KERNEL = 1
    FULL_KERNEL = 2


class NormalizationType(IntEnum):
    """Where a message is divided by the kernel's sum."""

    NO_NORMALIZATION = 0
    NORMALIZE_BEFORE = 1
    NORMALIZE_AFTER = 2
    NORMALIZE_SYMMETRIC = 3


CONST_KERNEL = KernelType.CONST_KERNEL
DIAG_KERNEL = KernelType.DIAG_KERNEL
FULL_KERNEL = KernelType.FULL_KERNEL
NO_NORMALIZATION = NormalizationType.NO_NORMALIZATION
NORMALIZE_BEFORE = NormalizationType.NORMALIZE_BEFORE
NORMALIZE_AFTER = NormalizationType.NORMALIZE_AFTER
NORMALIZE_SYMMETRIC = NormalizationType.NORMALIZE_SYMMETRIC


class Unary:
    """Energy of each label at each pixel; base of `ConstUnary` and `LogisticUnary`."""

    def _energy(self) -> Tensor:
        raise ValueError("Unary holds no energy; make a ConstUnary or a LogisticUnary")


class ConstUnary(Unary):
    """The energies themselves, float32 [nlabels, nvar]."""

    def __init__(self, u: Floats) -> None:
        self._u = _tensor("u", u, (None, None))

    def _energy(self) -> Tensor:
        return self._u


class LogisticUnary(Unary):
    """Energies `L @ f` of weights float32 [nlabels, F] and features float32 [F, nvar]."""

    def __init__(self, L: Floats, f: Floats) -> None:
        weights = _tensor("L", L, (None, None))
        self._u = weights @ _tensor("f", f, (weights.shape[1], None))

    def _energy(self) -> Tensor:
        return self._u


class _Pairwise:
    """One term: lattice, normalization and label compatibility."""

    def __init__(self, features: Tensor | Lattice, pixels: int, compat: Compat, labels: int, norm_type: int) -> None:
        self.pixels = pixels
        self.normalization = _member(NormalizationType, "normalization", norm_type)
        self.compat = _compat(compat, labels)
        self.padding = 0
        if isinstance(features, Tensor):
            self.padding = -pixels % BLOCK
            features = Lattice(torch.nn.functional.pad(features, (0, self.padding)))
        self.lattice = features
        kernel_sum = self.filter(torch.ones(1, pixels, dtype=torch.float32)) + 1e-20
        symmetric = self.normalization is NORMALIZE_SYMMETRIC
        self.norm = kernel_sum.rsqrt() if symmetric else kernel_sum.reciprocal()

    def filter(self, values: Tensor) -> Tensor:
        """`K values` of [n, N]."""
        padded = torch.nn.functional.pad(values, (0, self.padding)) if self.padding else values
        return self.lattice.filter(padded)[:, : self.pixels]

    def energy(self, q: Tensor) -> Tensor:
        """Energy [L, N] that the marginals q cause at each pixel and label."""
        if self.normalization in (NORMALIZE_BEFORE, NORMALIZE_SYMMETRIC):
            q = q * self.norm
        message = self.filter(q)
        if self.normalization in (NORMALIZE_AFTER, NORMALIZE_SYMMETRIC):
            message = message * self.norm
        return self.compat @ message if self.compat.ndim == 2 else self.compat * message


def _mean_field_step(unary: Tensor, terms: list[_Pairwise], q: Tensor) -> Tensor:
    """Marginals [L, N] after one more step from q."""
    exponent = -unary
    for term in terms:
        exponent = exponent - term.energy(q)
    return exponent.softmax(0)


class DenseCRF:
    """Fully connected CRF over `nvar` pixels with `nlabels` labels each.

    Arrays are float32, C-contiguous and are copied.

    Raises:
        ValueError: a count below 1; in the methods, arrays of another type, shape or order, NaN, no unary.
        TypeError: no array where one is needed, as in pydensecrf.
    """

    def __init__(self, nvar: int, nlabels: int) -> None:
        self._nvar = _count("nvar", nvar, 1)
        self._nlabels = _count("nlabels", nlabels, 1)
        self._unary: Tensor | None = None
        self._terms: list[_Pairwise] = []

    def setUnaryEnergy(self, u: Floats, f: Floats | None = None) -> None:
        """Energy `u` [nlabels, nvar], usually the negative logarithm of a probability, or `u @ f` of both.

        +inf forbids a label at a pixel, as long as another label is left.
        """
        self.setUnary(ConstUnary(u) if f is None else LogisticUnary(u, f))

    def setUnary(self, u: Unary) -> None:
        """Energy from a `ConstUnary` or a `LogisticUnary`."""
        if not isinstance(u, Unary):
            raise TypeError(f"u must be a ConstUnary or LogisticUnary, got {type(u).__name__}; see setUnaryEnergy")
        energy = u._energy()
        if energy.shape != (self._nlabels, self._nvar):
            raise ValueError(
                f"the unary must give energies {[self._nlabels, self._nvar]} (nlabels, nvar), got {list(energy.shape)}"
            )
        if bool(energy.isnan().any()):
            raise ValueError("the unary holds NaN; energies must be numbers, such as -log(probability)")
        if bool(energy.isneginf().any()) or bool(energy.isinf().all(0).any()):
            raise ValueError(
                "the unary holds -inf, or +inf for every label of a pixel; clip the probabilities before the logarithm"
            )
        self._unary = energy

    def addPairwiseEnergy(
        self,
        features: Floats,
        compat: Compat,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Gaussian term over features [D, nvar], already divided by their widths; D from 1 to 8."""
        self._add(_tensor("features", features, (None, self._nvar)), compat, kernel, normalization)

    def _add(self, features: Tensor | Lattice, compat: Compat, kernel: int, normalization: int) -> None:
        _member(KernelType, "kernel", kernel)
        if isinstance(features, Tensor):
            if not 1 <= len(features) <= MAX_DIMS:
                raise ValueError(f"features must have 1 to {MAX_DIMS} rows, got {len(features)}")
            if not bool((features.abs() <= MAX_FEATURE).all()):
                raise ValueError(
                    f"features hold NaN or values beyond {MAX_FEATURE:g}; they must be coordinates divided by their "
                    "widths"
                )
        self._terms.append(_Pairwise(features, self._nvar, compat, self._nlabels, normalization))

    def inference(self, niter: int) -> Floats:
        """Marginals [nlabels, nvar] after `niter` steps; `softmax(-unary)` after 0."""
        steps = _count("niter", niter, 0)
        unary = self._need_unary()
        q = (-unary).softmax(0)
        for _ in range(steps):
            q = _mean_field_step(unary, self._terms, q)
        return q.numpy()

    def startInference(self) -> tuple[Floats, Floats, Floats]:
        """Marginals before the first step and two work arrays to hand to `stepInference`, empty as in pydensecrf."""
        q = (-self._need_unary()).softmax(0).numpy()
        return q, np.empty((0, 0), np.float32), np.empty((0, 0), np.float32)

    def stepInference(self, Q: Floats, tmp1: Floats, tmp2: Floats) -> None:
        """One step, written into `Q`; the work arrays are left alone."""
        unary = self._need_unary()
        q = self._marginals(Q)
        if not Q.flags.writeable:
            raise ValueError("Q is read-only, but stepInference writes into it; hand over Q.copy()")
        Q[...] = _mean_field_step(unary, self._terms, q).numpy()

    def klDivergence(self, Q: Floats) -> float:
        """Divergence of marginals `Q` from the CRF up to a constant: `sum Q (log Q + unary + pairwise energy)`.

        Energies are float32, the sums float64.
        """
        unary = self._need_unary()
        q = self._marginals(Q)
        energy = torch.where(q == 0, 0, unary).double()  # a forbidden label costs nothing where it is absent
        energy += q.clamp_min(1e-20).log()
        for term in self._terms:
            energy += term.energy(q)
        return float((q * energy).sum())

    def _marginals(self, Q: Floats) -> Tensor:
        q = _tensor("Q", Q, (self._nlabels, self._nvar), ordered=False)
        if not bool(q.isfinite().all()):
            raise ValueError("Q holds NaN or infinite values; it must hold marginals, such as those of inference")
        return q

    def _need_unary(self) -> Tensor:
        if self._unary is None:
            raise ValueError("no unary is set; call setUnaryEnergy first")
        return self._unary


class DenseCRF2D(DenseCRF):
    """`DenseCRF` over the pixels of a picture, row by row; mind the order: width, then height."""

    def __init__(self, w: int, h: int, nlabels: int) -> None:
        self._size = (_count("h", h, 1), _count("w", w, 1))
        super().__init__(self._size[0] * self._size[1], nlabels)

    def addPairwiseGaussian(
        self,
        sxy: float | Sequence[float],
        compat: Compat,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Term over positions of width `sxy` in pixels, one number or (x, y)."""
        sigma_x, sigma_y = _widths("sxy", sxy, 2)
        if sigma_x == sigma_y:  # without padding, which would only repeat the pixel at (0, 0)
            self._add(Lattice.gaussian(self._size, sigma_x), compat, kernel, normalization)
        else:
            self._add(self._positions(sigma_x, sigma_y), compat, kernel, normalization)

    def addPairwiseBilateral(
        self,
        sxy: float | Sequence[float],
        srgb: float | Sequence[float],
        rgbim: NDArray[np.uint8],
        compat: Compat,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Term over positions and the colors of `rgbim`, uint8 [h, w, 3].

        `sxy` is in pixels, one number or (x, y); `srgb` in levels of 0-255, one number or (r, g, b).
        """
        positions = self._positions(*_widths("sxy", sxy, 2))
        sigmas = torch.tensor(_widths("srgb", srgb, 3), dtype=torch.float32)
        if isinstance(rgbim, np.ndarray) and rgbim.ndim == 3 and rgbim.shape[2] != 3:
            raise ValueError(
                f"rgbim must be an RGB picture {[*self._size, 3]}, got {list(rgbim.shape)}; for other channels hand "
                "the features of utils.create_pairwise_bilateral to addPairwiseEnergy"
            )
        colors = _tensor("rgbim", rgbim, (*self._size, 3), np.uint8).flatten(0, 1).T
        self._add(torch.cat([positions, colors / sigmas[:, None]]), compat, kernel, normalization)

    def _positions(self, sigma_x: float, sigma_y: float) -> Tensor:
        """`x / sigma_x, y / sigma_y` of every pixel, [2, h w]."""
        y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in self._size), indexing="ij")
        return torch.stack([x / sigma_x, y / sigma_y]).flatten(1)


def _tensor(
    name: str, value: object, shape: tuple[int | None, ...], dtype: Any = np.float32, *, ordered: bool = True
) -> Tensor:
    """Copy of an array after a check of type, shape (None: any size) and, where `ordered`, memory order."""
    kind = np.dtype(dtype)
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name} must be a numpy array of {kind}, got {type(value).__name__}")
    if value.dtype != kind:
        raise ValueError(f"{name} must be {kind}, got {value.dtype}; convert it with .astype(np.{kind})")
    fits = value.ndim == len(shape) and all(n in (None, m) for n, m in zip(shape, value.shape, strict=True))
    if not fits:
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise ValueError(f"{name} must have the shape [{wanted}], got {list(value.shape)}")
    if ordered and not value.flags.c_contiguous:
        raise ValueError(f"{name} must be C-contiguous; pass np.ascontiguousarray({name})")
    return torch.from_numpy(np.array(value, order="C"))


def _compat(value: Compat, labels: int) -> Tensor:
    """The compatibility as a number or a matrix [L, L], in the sign of an energy."""
    if _is_number(value):
        factor = torch.tensor(-float(value), dtype=torch.float32)
    elif not isinstance(value, np.ndarray):
        raise TypeError(f"compat must be a number or a float32 array, got {type(value).__name__}")
    elif value.ndim == 1:
        factor = _tensor("compat", value, (labels,)).diag()
    elif value.ndim == 2:
        matrix = _tensor("compat", value, (labels, labels))
        factor = (matrix + matrix.T) / 2
    else:
        raise ValueError(f"compat must be a number, a vector or a matrix, got an array of {value.ndim} dimensions")
    if not bool(factor.isfinite().all()):
        raise ValueError("compat holds NaN or infinite values; it must be finite")
    return factor


def _widths(name: str, value: float | Sequence[float], count: int) -> list[float]:
    """`count` widths greater than 0 from one number or one for each."""
    if _is_number(value):
        widths = [float(value)] * count
    elif isinstance(value, Sequence | np.ndarray) and all(_is_number(v) for v in value):
        widths = [float(v) for v in value]
    else:
        raise TypeError(f"{name} must be a number or {count} numbers, got {value!r}")
    if len(widths) != count or not all(math.isfinite(v) and v > 0 for v in widths):
        raise ValueError(f"{name} must be one or {count} numbers greater than 0, got {value!r}")
    return widths


def _count(name: str, value: float, least: int) -> int:
    """A whole number of at least `least`."""
    if not _is_number(value):
        raise TypeError(f"{name} must be a whole number, got {type(value).__name__}")
    if not math.isfinite(value) or value != int(value) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value}")
    return int(value)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, Real)


def _member(kinds: type[Kind], name: str, value: int) -> Kind:
    """The member of an enumeration with this number."""
    if value not in list(kinds):
        raise ValueError(f"{name} must be one of {', '.join(kind.name for kind in kinds)}, got {value!r}")
    return kinds(value)
