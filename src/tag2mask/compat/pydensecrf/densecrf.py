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

`DenseCRF2D.inference` of the usual model runs in one piece on the core of `tag2mask.crf.dense_crf`, anything else step
by step.

Unlike the original it refuses what made that crash or read foreign memory, and an inference without a unary. It takes
numpy arrays, memoryviews and other buffers, and torch tensors, and returns numpy arrays where the original has a matrix
class of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import IntEnum
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tag2mask.compat.arrays import as_array
from tag2mask.compat.filled import filled_lattice, filter_filled
from tag2mask.compat.pydensecrf.arguments import Compat, Floats, compatibility, member, to_tensor, whole_number, widths
from tag2mask.config import CRFParams
from tag2mask.crf import reference_marginals
from tag2mask.filtering import Lattice, load_core

MAX_PLAIN_FEATURE = 1e3
"""Up to here every lattice of a picture can be numbered in 64 bits, so that building it may wait."""


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


CONST_KERNEL, DIAG_KERNEL, FULL_KERNEL = KernelType
NO_NORMALIZATION, NORMALIZE_BEFORE, NORMALIZE_AFTER, NORMALIZE_SYMMETRIC = NormalizationType


class Unary:
    """Energy of each label at each pixel; base of `ConstUnary` and `LogisticUnary`."""

    _u: Tensor | None = None

    def _energy(self) -> Tensor:
        if self._u is None:
            raise ValueError("Unary holds no energy; make a ConstUnary or a LogisticUnary")
        return self._u


class ConstUnary(Unary):
    """The energies themselves, float32 [nlabels, nvar]."""

    def __init__(self, u: Floats) -> None:
        self._u = to_tensor("u", u, (None, None))


class LogisticUnary(Unary):
    """Energies `L @ f` of weights float32 [nlabels, F] and features float32 [F, nvar]."""

    def __init__(self, L: Floats, f: Floats) -> None:
        weights = to_tensor("L", L, (None, None))
        self._u = weights @ to_tensor("f", f, (weights.shape[1], None))


class _Pairwise:
    """One term: lattice, normalization and label compatibility."""

    def __init__(
        self, make_lattice: Callable[[], Lattice], pixels: int, compat: Compat, labels: int, norm_type: int
    ) -> None:
        self.pixels = pixels
        self.normalization = member(NormalizationType, "normalization", norm_type)
        self.compat = compatibility(compat, labels)
        self.plain: tuple[float, ...] = ()
        """Where the core has the same term: the width of a Gaussian, or the widths in pixels and levels."""
        self._make_lattice = make_lattice

    @cached_property
    def lattice(self) -> Lattice:
        """Of the pixels and, behind them, those that fill it up."""
        return self._make_lattice()

    @cached_property
    def norm(self) -> Tensor:
        """`1 / sqrt(K 1)` or `1 / (K 1)`, [1, N]."""
        kernel_sum = self.filter(torch.ones(1, self.pixels, dtype=torch.float32)) + 1e-20
        symmetric = self.normalization is NORMALIZE_SYMMETRIC
        return kernel_sum.rsqrt() if symmetric else kernel_sum.reciprocal()

    def filter(self, values: Tensor) -> Tensor:
        """`K values` of [n, N]."""
        return filter_filled(self.lattice, values)

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
        self._nvar = whole_number("nvar", nvar, 1)
        self._nlabels = whole_number("nlabels", nlabels, 1)
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
        self, features: Floats, compat: Compat, kernel: int = DIAG_KERNEL, normalization: int = NORMALIZE_SYMMETRIC
    ) -> None:
        """Gaussian term over features [D, nvar], already divided by their widths.

        D from 1 to 64, any size; with more than eight rows, or features so large that 64 bits do not number the cells
        of their lattice, it is filtered on torch, several times slower.
        """
        rows = to_tensor("features", features, (None, self._nvar))
        self._add(lambda: filled_lattice(rows), compat, kernel, normalization)

    def _add(
        self,
        make_lattice: Callable[[], Lattice],
        compat: Compat,
        kernel: int,
        normalization: int,
        plain: tuple[float, ...] = (),
    ) -> None:
        """Keep a term. Unless it is plain its lattice is made at once, so that bad features are refused here."""
        member(KernelType, "kernel", kernel)
        term = _Pairwise(make_lattice, self._nvar, compat, self._nlabels, normalization)
        if not plain:
            _ = term.norm
        elif term.normalization is NORMALIZE_SYMMETRIC and term.compat.ndim == 0:
            term.plain = plain
        self._terms.append(term)

    def inference(self, niter: int) -> Floats:
        """Marginals [nlabels, nvar] after `niter` steps; `softmax(-unary)` after 0."""
        steps = whole_number("niter", niter, 0)
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
        q, out = self._marginals(Q), as_array("Q", Q)
        if not out.flags.writeable:
            raise ValueError("Q is read-only, but stepInference writes into it; hand over Q.copy()")
        out[...] = _mean_field_step(unary, self._terms, q).numpy()

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
        q = to_tensor("Q", Q, (self._nlabels, self._nvar), ordered=False)
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
        self._size = (whole_number("h", h, 1), whole_number("w", w, 1))
        super().__init__(self._size[0] * self._size[1], nlabels)
        self._rgb: Tensor | None = None

    def addPairwiseGaussian(
        self,
        sxy: float | Sequence[float],
        compat: Compat,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Term over positions of width `sxy` in pixels, one number or (x, y)."""
        sigma_x, sigma_y = widths("sxy", sxy, 2)
        size = self._size  # a term that held the CRF would keep both until the garbage is collected
        if sigma_x != sigma_y:
            self._add(lambda: filled_lattice(_positions(size, sigma_x, sigma_y)), compat, kernel, normalization)
        else:  # without padding, which would only repeat the pixel at (0, 0)
            plain = (sigma_x,) if self._coarse(sigma_x) else ()
            self._add(lambda: Lattice.gaussian(size, sigma_x), compat, kernel, normalization, plain)

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
        sigma_x, sigma_y = widths("sxy", sxy, 2)
        sigmas = widths("srgb", srgb, 3)
        picture = as_array("rgbim", rgbim)
        if picture.ndim == 3 and picture.shape[2] != 3:
            raise ValueError(
                f"rgbim must be an RGB picture {[*self._size, 3]}, got {list(picture.shape)}; for other channels hand "
                "the features of utils.create_pairwise_bilateral to addPairwiseEnergy"
            )
        size = self._size
        rgb = to_tensor("rgbim", picture, (*size, 3), np.uint8).permute(2, 0, 1)

        def make_lattice() -> Lattice:
            colors = rgb.flatten(1) / torch.tensor(sigmas, dtype=torch.float32)[:, None]
            return filled_lattice(torch.cat([_positions(size, sigma_x, sigma_y), colors]))

        even = sigma_x == sigma_y and len(set(sigmas)) == 1
        plain = (sigma_x, sigmas[0]) if even and self._coarse(sigma_x, sigmas[0]) else ()
        self._add(make_lattice, compat, kernel, normalization, plain)
        self._rgb = rgb

    def inference(self, niter: int) -> Floats:
        """As `DenseCRF.inference`.

        In one piece where the compiled core has the model: a bilateral term and at most one Gaussian term, each with
        one width for x and y, one for the colors, a number for `compat` and the symmetric normalization. The last bits
        may then differ from those of `stepInference`.
        """
        steps, unary = whole_number("niter", niter, 0), self._need_unary()
        params = self._params(steps)
        if self._rgb is None or params is None or load_core() is None:
            return super().inference(steps)
        q = reference_marginals(self._rgb[None], unary.reshape(1, 1, self._nlabels, *self._size), params)
        return q.reshape(unary.shape).numpy()

    def _params(self, steps: int) -> CRFParams | None:
        """With these the core computes the same; None where there are none."""
        if sorted(len(term.plain) for term in self._terms) not in ([2], [1, 2]):
            return None
        params = CRFParams(gaussian_compat=0.0, iterations=steps)
        for term in self._terms:
            weight = -float(term.compat)
            if len(term.plain) == 1:
                params = replace(params, gaussian_sxy=term.plain[0], gaussian_compat=weight)
            else:
                sxy, srgb = term.plain
                params = replace(params, bilateral_sxy=sxy, bilateral_srgb=srgb, bilateral_compat=weight)
        return params

    def _coarse(self, sxy: float, srgb: float = math.inf) -> bool:
        """Whether no feature of the picture exceeds `MAX_PLAIN_FEATURE`."""
        return max((max(self._size) - 1) / sxy, 255 / srgb) <= MAX_PLAIN_FEATURE


def _positions(size: tuple[int, int], sigma_x: float, sigma_y: float) -> Tensor:
    """`x / sigma_x, y / sigma_y` of every pixel, [2, h w]."""
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in size), indexing="ij")
    return torch.stack([x / sigma_x, y / sigma_y]).flatten(1)
