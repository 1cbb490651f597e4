"""Fast Gaussian filtering in up to eight dimensions on the permutohedral lattice.

Adams, Baek & Davis 2010 with the conventions of Krähenbühl & Koltun 2011: features elevated by `sqrt(2/3) (D + 1)`,
blur `v + (n1 + n2) / 2` along each of the `D + 1` axes in order, slice scale `1 / (1 + 2^-D)`. The lattice returns
about half to two thirds of the exact Gaussian sum; the published weights assume that.

Two implementations of the same arithmetic: a compiled core (CPU, float32) and a torch twin (any device and dtype).
"""

from __future__ import annotations

import functools
import importlib
import math
import warnings
from types import ModuleType
from typing import Any, Literal, Self, cast

import torch
from torch import Tensor

Backend = Literal["auto", "core", "torch"]

MAX_DIMS = 8
"""Most feature dimensions of a lattice."""


@functools.cache
def load_core() -> ModuleType | None:
    """The compiled core, or None (with one warning) where it was not built."""
    try:
        return importlib.import_module("tag2mask._core")
    except ImportError as error:
        warnings.warn(
            f"The compiled core of tag2mask is missing ({error}); dense CRF and dense energy run on torch, several "
            "times slower. Install a C++ compiler and reinstall tag2mask to get it.",
            stacklevel=2,
        )
        return None


def pick_core(backend: Backend, *tensors: Tensor) -> ModuleType | None:
    """The core when it is to be used on these tensors, else None for the torch twin.

    Raises:
        ValueError: unknown backend, or the core was asked for but is missing or cannot take the tensors.
    """
    if backend not in ("auto", "core", "torch"):
        raise ValueError(f"backend must be auto, core or torch, got {backend!r}")
    if backend == "torch":
        return None
    fits = all(t.device.type == "cpu" and t.dtype is torch.float32 for t in tensors if t.is_floating_point())
    core = load_core() if fits else None
    if backend == "core" and core is None:
        reason = "it is not built" if fits else "it takes float32 tensors on the CPU only"
        raise ValueError(f"backend 'core' cannot be used: {reason}; take backend='auto' or 'torch'")
    return core


def clear_cache() -> None:
    """Forget the cached spatial lattices (at most 16 in the core and 16 in the torch twin)."""
    spatial_twin.cache_clear()
    if (core := load_core()) is not None:
        core.clear_cache()


class TorchLattice:
    """The torch twin: vertices by sorting packed keys, splat by index_add, blur and slice by gathering.

    Deterministic on the CPU; on CUDA the order of the additions, hence the last bits, may vary.
    """

    def __init__(self, features: Tensor) -> None:
        dims, pixels = features.shape
        if not bool(features.isfinite().all()):
            raise ValueError("features hold NaN or infinite values; the lattice needs finite ones")
        cell, rank, self.weights = _locate(features)
        # A vertex has coordinates k + (D + 1) q_i with one remainder k: number them by (q, k). Two extra values per
        # coordinate leave room for the neighbors.
        low = cell.amin(1) - 3
        span = (cell.amax(1) + 3 - low).tolist()
        if math.prod(span) * (dims + 1) >= 2**62:
            raise ValueError(
                "features span too many lattice cells to be numbered in 64 bits; divide them by a larger sigma"
            )
        stride = [dims + 1]
        for size in span[:-1]:
            stride.append(stride[-1] * size)
        step = torch.tensor(stride, device=features.device)
        base = ((cell - low[:, None]) * step[:, None]).sum(0)
        remainder = torch.arange(dims + 1, device=features.device)
        below = (rank[:dims, :, None] > dims - remainder).long()
        corner_keys = base[:, None] + remainder - (below * step[:, None, None]).sum(0)
        keys, corners = torch.unique(corner_keys, return_inverse=True)
        self.dims, self.pixels, self.vertices = dims, pixels, len(keys)
        self.corners = corners.reshape(pixels, dims + 1) + 1  # vertex 0 stands for every missing vertex
        self.neighbors = _neighbors(keys, step)

    def filter(self, values: Tensor, *, transpose: bool = False) -> Tensor:
        """Unnormalized filter of [n, N] in the dtype of `values`; differentiable in `values`."""
        weights = self.weights.to(values.dtype)
        splat = values.new_zeros(self.vertices + 1, len(values))
        for k in range(self.dims + 1):
            splat = splat.index_add(0, self.corners[:, k], values.T * weights[:, k, None])
        mask = torch.ones_like(splat)
        mask[0] = 0
        for axis in reversed(range(self.dims + 1)) if transpose else range(self.dims + 1):
            first, second = self.neighbors[axis]
            splat = mask * (splat + 0.5 * (splat[first] + splat[second]))
        out = torch.zeros_like(values.T)
        for k in range(self.dims + 1):
            out = out + weights[:, k, None] * splat[self.corners[:, k]]
        return out.T / (1 + 2.0**-self.dims)

    def norm(self) -> Tensor:
        """`1 / sqrt(K 1 + 1e-20)` of every pixel, [N]."""
        ones = torch.ones(1, self.pixels, device=self.weights.device, dtype=self.weights.dtype)
        return (self.filter(ones)[0] + 1e-20).rsqrt()


def _locate(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cell [D, N] and ranks [D + 1, N] of each pixel's simplex, barycentric weights [N, D + 1] of its corners."""
    dims, pixels = features.shape
    number = torch.arange(dims, device=features.device, dtype=features.dtype)
    scaled = features * (math.sqrt(2 / 3) * (dims + 1) * ((number + 1) * (number + 2)).rsqrt())[:, None]
    rows, total = [], torch.zeros_like(features[0])
    for j in range(dims, 0, -1):
        rows.append(total - j * scaled[j - 1])
        total = total + scaled[j - 1]
    elevated = torch.stack([total, *reversed(rows)])
    cell = (elevated / (dims + 1)).round()
    part = elevated - cell * (dims + 1)
    rank = torch.zeros(dims + 1, pixels, dtype=torch.int64, device=features.device)
    for i in range(dims):
        for j in range(i + 1, dims + 1):
            less = part[i] < part[j]
            rank[i] += less
            rank[j] += ~less
    # The rounded point may lie beside the plane of coordinates with sum 0: walk back along the ranks.
    rank = rank + cell.sum(0).long()
    move = (rank < 0).long() - (rank > dims).long()
    rank = rank + move * (dims + 1)
    part = part / (dims + 1) - move
    by_rank = torch.empty_like(part).scatter_(0, rank, part)
    weights = by_rank.flip(0) - torch.cat([by_rank[:1] - 1, by_rank[1:].flip(0)])
    return (cell.long() + move)[:dims], rank, weights.T.contiguous()


def _neighbors(keys: Tensor, step: Tensor) -> Tensor:
    """Vertices one step back and forth along each axis, [D + 1, 2, V + 1]; 0 where there is none."""
    dims = len(step)
    own = torch.arange(1, len(keys) + 1, device=keys.device)
    wraps = keys % (dims + 1) == 0
    out = torch.zeros(dims + 1, 2, len(keys) + 1, dtype=torch.int64, device=keys.device)
    for axis in range(dims + 1):
        unit = step[axis] if axis < dims else step.new_zeros(())
        wanted = torch.where(wraps, keys + dims - step.sum(), keys - 1) + unit
        found = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        hit = keys[found] == wanted
        out[axis, 0, 1:] = torch.where(hit, found + 1, 0)
        out[axis, 1, found[hit] + 1] = own[hit]
    return out


@functools.lru_cache(maxsize=16)
def spatial_twin(height: int, width: int, sigma_xy: float, device: torch.device, dtype: torch.dtype) -> TorchLattice:
    """The torch lattice of a grid, cached per size and width."""
    return TorchLattice(grid_features((height, width), sigma_xy, device=device, dtype=dtype))


def grid_features(
    size: tuple[int, int],
    sigma_xy: float,
    valid: Tensor | None = None,
    *,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """`x / sigma_xy, y / sigma_xy` of the valid pixels, [2, N], counted from the corner of their bounding box."""
    y, x = torch.meshgrid(*(torch.arange(n, device=device, dtype=dtype) for n in size), indexing="ij")
    grid = torch.stack([x, y]).flatten(1)
    if valid is not None:
        grid = grid[:, valid.flatten().to(grid.device)]
        grid = grid - grid.amin(1, keepdim=True)
    return grid / sigma_xy


def bilateral_features(
    rgb: Tensor, sigma_xy: float, sigma_rgb: float, valid: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """`x, y` over `sigma_xy` and `r, g, b` over `sigma_rgb` of the valid pixels of [3, H, W], [5, N]."""
    grid = grid_features((rgb.shape[1], rgb.shape[2]), sigma_xy, valid, device=rgb.device, dtype=dtype)
    colors = rgb.flatten(1).to(dtype)
    if valid is not None:
        colors = colors[:, valid.flatten()]
    return torch.cat([grid, colors / sigma_rgb])


class _Filter(torch.autograd.Function):
    """Linear, so the gradient is the transposed filter, itself differentiable."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, lattice: Lattice, transpose: bool) -> Tensor:
        ctx.lattice, ctx.transpose = lattice, transpose
        return lattice._run(values, transpose)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return apply_filter(grads[0], ctx.lattice, not ctx.transpose), None, None


def apply_filter(values: Tensor, lattice: Lattice, transpose: bool) -> Tensor:
    """`_Filter` with types."""
    return cast(Tensor, _Filter.apply(values, lattice, transpose))


class Lattice:
    """A Gaussian filter over N pixels with D features each, built once and applied to any number of channels.

    Args:
        features: float [D, N], coordinates already divided by their standard deviations; D from 1 to 8.
        backend: `core` (compiled, float32 on the CPU), `torch` (any device and dtype) or `auto`, which takes the core
            where it can. With float64 values `auto` filters on the torch twin.

    Raises:
        ValueError: wrong shape or type, NaN, or so small a sigma that the cells overflow 64 bits.
    """

    def __init__(self, features: Tensor, *, backend: Backend = "auto") -> None:
        if not isinstance(features, Tensor) or features.ndim != 2 or not features.is_floating_point():
            raise ValueError(f"features must be a float tensor [D, N], got {describe(features)}")
        if not 1 <= features.shape[0] <= MAX_DIMS or features.shape[1] == 0:
            raise ValueError(
                f"features must be [D, N] with D from 1 to {MAX_DIMS} and N at least 1, got {describe(features)}"
            )
        self._features = features.detach().contiguous()
        self._valid: Tensor | None = None
        self._size: tuple[int, int] | None = None
        self._backend: Backend = backend
        self._twin: TorchLattice | None = None
        core = pick_core(backend, features)
        self._core: Any = None if core is None else core.lattice(self._features.numpy())
        if core is None:
            self._twin = TorchLattice(self._features)

    @classmethod
    def bilateral(
        cls,
        rgb: Tensor,
        sigma_xy: float,
        sigma_rgb: float,
        valid: Tensor | None = None,
        *,
        backend: Backend = "auto",
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """Position and color of the pixels of a picture.

        Args:
            rgb: uint8 [3, H, W].
            sigma_xy: spatial width in pixels.
            sigma_rgb: color width in levels of 0-255.
            valid: bool [H, W]; False leaves a pixel out of the lattice, its filtered value is 0.
            backend: see the class.
            dtype: arithmetic of the lattice; float64 takes the torch twin.

        Raises:
            ValueError: wrong shapes or types, a sigma that is not greater than 0, or no valid pixel.
        """
        if not isinstance(rgb, Tensor) or rgb.ndim != 3 or rgb.shape[0] != 3 or rgb.dtype is not torch.uint8:
            raise ValueError(f"rgb must be a uint8 tensor [3, H, W], got {describe(rgb)}")
        check_sigma("sigma_xy", sigma_xy)
        check_sigma("sigma_rgb", sigma_rgb)
        size = (int(rgb.shape[1]), int(rgb.shape[2]))
        valid = _check_valid(valid, size)
        lattice = cls(bilateral_features(rgb, sigma_xy, sigma_rgb, valid, dtype), backend=backend)
        lattice._size, lattice._valid = size, valid
        return lattice

    @classmethod
    def gaussian(
        cls,
        size: tuple[int, int],
        sigma_xy: float,
        valid: Tensor | None = None,
        *,
        backend: Backend = "auto",
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """Position of the pixels of a (height, width) grid; arguments and errors as for `bilateral`."""
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"size must be (height, width), each at least 1, got {size}")
        check_sigma("sigma_xy", sigma_xy)
        valid = _check_valid(valid, size)
        features = grid_features(size, sigma_xy, valid, device=torch.device(device), dtype=dtype)
        lattice = cls(features, backend=backend)
        lattice._size, lattice._valid = (size[0], size[1]), valid
        return lattice

    @property
    def num_pixels(self) -> int:
        """Pixels in the lattice."""
        return int(self._features.shape[1])

    @property
    def num_vertices(self) -> int:
        """Lattice points next to a pixel."""
        return int(self._core.vertices if self._twin is None or self._core is not None else self._twin.vertices)

    def filter(self, values: Tensor) -> Tensor:
        """`sum_j k(i, j) values_j`, unnormalized, the pixel itself included; differentiable in `values`.

        Args:
            values: float [n, N], or [n, H, W] for a lattice of a picture or grid.

        Returns:
            Same shape and dtype; 0 on pixels that were left out.

        Raises:
            ValueError: wrong shape, or no float tensor.
        """
        return self._apply(values, transpose=False)

    def transpose(self, values: Tensor) -> Tensor:
        """The adjoint of `filter`: the blur axes in reverse order. Shapes and errors as for `filter`."""
        return self._apply(values, transpose=True)

    def _apply(self, values: Tensor, *, transpose: bool) -> Tensor:
        if not isinstance(values, Tensor) or not values.is_floating_point():
            raise ValueError(f"values must be a float tensor, got {describe(values)}")
        all_pixels = self.num_pixels if self._size is None else self._size[0] * self._size[1]
        whole = self._size is not None and values.ndim == 3 and tuple(values.shape[1:]) == self._size
        if not whole and not (values.ndim == 2 and values.shape[1] in (self.num_pixels, all_pixels)):
            grid = "" if self._size is None else f" or [n, {self._size[0]}, {self._size[1]}]"
            raise ValueError(f"values must be [n, {self.num_pixels}]{grid} for this lattice, got {describe(values)}")
        flat = values.flatten(1)
        if self._valid is None or flat.shape[1] == self.num_pixels:
            return apply_filter(flat, self, transpose).reshape(values.shape)
        index = self._valid.flatten().nonzero()[:, 0].to(values.device)
        out = apply_filter(flat[:, index], self, transpose)
        return torch.zeros_like(flat).index_copy(1, index, out).reshape(values.shape)

    def _run(self, values: Tensor, transpose: bool) -> Tensor:
        if self._core is None or values.dtype is torch.float64 or values.device.type != "cpu":
            if self._backend == "core":
                raise ValueError(f"backend 'core' takes float32 values on the CPU, got {describe(values)}")
            if self._twin is None:
                self._twin = TorchLattice(self._features)
            return self._twin.filter(values, transpose=transpose)
        core = load_core()
        assert core is not None  # self._core came from it
        source = values.detach().to(torch.float32).contiguous()
        out = torch.empty_like(source)
        core.filter(self._core, source.numpy(), out.numpy(), transpose)
        return out.to(values.dtype)


def check_sigma(name: str, value: float) -> None:
    """Refuse a width that is not a number greater than 0."""
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be greater than 0, got {value}")


def _check_valid(valid: Tensor | None, size: tuple[int, int]) -> Tensor | None:
    if valid is None:
        return None
    if not isinstance(valid, Tensor) or valid.dtype is not torch.bool or tuple(valid.shape) != tuple(size):
        raise ValueError(f"valid must be a bool tensor {list(size)}, got {describe(valid)}")
    if not bool(valid.any()):
        raise ValueError("valid is False everywhere; a lattice needs at least one pixel")
    return None if bool(valid.all()) else valid


def describe(value: object) -> str:
    """Dtype, shape and device of a tensor, or the type of anything else, for error messages."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)} on {value.device}"
    return type(value).__name__
