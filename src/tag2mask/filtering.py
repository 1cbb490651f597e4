"""Fast Gaussian filtering in many dimensions on the permutohedral lattice.

Adams, Baek & Davis 2010 with the conventions of Krähenbühl & Koltun 2011: features elevated by `sqrt(2/3) (D + 1)`,
blur `v + (n1 + n2) / 2` along each of the `D + 1` axes in order, slice scale `1 / (1 + 2^-D)`. The lattice returns
about half to two thirds of the exact Gaussian sum; the published weights assume that.

Two implementations of the same arithmetic: a compiled core (CPU, float32, up to eight dimensions) and a torch twin
(`torch_lattice.py`, any device and dtype, up to 64).
"""

from __future__ import annotations

import functools
import math
import warnings
from functools import partial
from types import ModuleType
from typing import Any, Literal, Self, cast

import torch
from torch import Tensor

from tag2mask.base.core import find_core
from tag2mask.base.processes import survive_forks
from tag2mask.torch_lattice import TOO_FINE, TorchLattice, picture_features, spatial_twin

Backend = Literal["auto", "core", "torch"]

CORE_DIMS, MAX_DIMS = 8, 64
"""Most feature dimensions of a lattice on the core, and of any."""

survive_forks(partial(torch.set_num_threads, 1))


@functools.cache
def load_core() -> ModuleType | None:
    """The compiled core, or None (with one warning) where it was not built."""
    core, reason = find_core()
    if core is None:
        warnings.warn(
            f"The compiled core of tag2mask is missing ({reason}); dense CRF and dense energy run on torch, several "
            "times slower. Install a C++ compiler and reinstall tag2mask to get it.",
            stacklevel=2,
        )
    return core


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
    """Forget the cached spatial lattices (at most 16 in core and torch twin each) and free the core's kept memory."""
    spatial_twin.cache_clear()
    if (core := load_core()) is not None:
        core.clear_cache()


class _Filter(torch.autograd.Function):
    """Linear, so the gradient is the transposed filter, itself differentiable."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, lattice: Lattice | PictureBatch, transpose: bool) -> Tensor:
        ctx.lattice, ctx.transpose = lattice, transpose
        return lattice.run(values, transpose)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return apply_filter(grads[0], ctx.lattice, not ctx.transpose), None, None


def apply_filter(values: Tensor, lattice: Lattice | PictureBatch, transpose: bool) -> Tensor:
    """`_Filter` with types."""
    return cast(Tensor, _Filter.apply(values, lattice, transpose))


class Lattice:
    """A Gaussian filter over N pixels with D features each, built once and applied to any number of channels.

    Args:
        features: float [D, N], coordinates already divided by their standard deviations; D from 1 to 64.
        backend: `core` (compiled, float32 on the CPU, D up to 8), `torch` (any device and dtype) or `auto`, which takes
            the core where it can. The torch twin, several times slower, serves also where features span so many cells
            that 64 bits do not number them, and filters float64 values.

    The core filters 65536 pixels or more with `torch.get_num_threads()` threads, whose number then moves the last bits.

    Raises:
        ValueError: wrong shape or type, NaN, or so small a sigma that the cells cannot be numbered.
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
        fits = core is not None and len(features) <= CORE_DIMS
        self._core: Any = core.lattice(self._features.numpy()) if core is not None and fits else None
        if self._core is not None:
            return
        if backend == "core":
            reason = TOO_FINE if fits else f"the core takes up to {CORE_DIMS} rows of features, got {len(features)}"
            raise ValueError(f"{reason}; or take backend='auto' or 'torch'")
        self._twin = TorchLattice(self._features, wide=True)

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
            rgb: [3, H, W], uint8, or float in the same levels of 0-255 (not 0-1), whole or not.
            sigma_xy: spatial width in pixels.
            sigma_rgb: color width in levels of 0-255.
            valid: bool [H, W]; False leaves a pixel out of the lattice, its filtered value is 0.
            backend: see the class.
            dtype: arithmetic of the lattice; float64 takes the torch twin.

        Raises:
            ValueError: wrong shapes or types, float levels that are NaN or beyond 0-255, a sigma that is not greater
                than 0, or no valid pixel.
        """
        if not isinstance(rgb, Tensor) or rgb.ndim != 3 or rgb.shape[0] != 3:
            raise ValueError(f"rgb must be a tensor [3, H, W], uint8 or float, got {describe(rgb)}")
        check_levels(rgb)
        check_sigma("sigma_xy", sigma_xy)
        check_sigma("sigma_rgb", sigma_rgb)
        size = (int(rgb.shape[1]), int(rgb.shape[2]))
        valid = _check_valid(valid, size, rgb.device)
        box = None if valid is None else valid[None]
        features = picture_features(size, sigma_xy, box, rgb[None], sigma_rgb, device=rgb.device, dtype=dtype)
        return cls._of_picture(features, size, valid, backend)

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
        valid = _check_valid(valid, size, torch.device(device))
        box = None if valid is None else valid[None]
        features = picture_features(size, sigma_xy, box, device=torch.device(device), dtype=dtype)
        return cls._of_picture(features, size, valid, backend)

    @classmethod
    def _of_picture(cls, features: Tensor, size: tuple[int, int], valid: Tensor | None, backend: Backend) -> Self:
        lattice = cls(features if valid is None else features[:, valid.flatten()], backend=backend)
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

    def run(self, values: Tensor, transpose: bool) -> Tensor:
        """`filter` or `transpose` of [n, N] without checks and without a gradient."""
        if self._core is None or values.dtype is torch.float64 or values.device.type != "cpu":
            if self._backend == "core":
                raise ValueError(f"backend 'core' takes float32 values on the CPU, got {describe(values)}")
            if self._twin is None:
                self._twin = TorchLattice(self._features, wide=True)
            return self._twin.filter(values, transpose=transpose)
        core = load_core()
        assert core is not None  # self._core came from it
        source = values.detach().to(torch.float32).contiguous()
        out = torch.empty_like(source)
        core.filter(self._core, source.numpy(), out.numpy(), transpose, torch.get_num_threads())
        return out.to(values.dtype)


def bilateral_filter(
    rgb: Tensor,
    values: Tensor,
    sigma_xy: float,
    sigma_rgb: float,
    *,
    transpose: bool = False,
    backend: Backend = "auto",
) -> Tensor:
    """`Lattice.bilateral(rgb[b], ...).filter(values[b])` of every picture of a batch, in one call.

    On the CPU `torch.get_num_threads()` threads share the pictures; differentiable in `values`. No pixel is left out of
    the lattices: set `values` to 0 where a picture is padding.

    Args:
        rgb: [B, 3, H, W], uint8, or float in the same levels of 0-255.
        values: float [B, n, H, W].
        sigma_xy: spatial width in pixels.
        sigma_rgb: color width in levels of 0-255.
        transpose: the adjoint of the filter.
        backend: `core`, `torch`, or `auto` for the core where it can be used.

    Returns:
        Shape, dtype and device of `values`; unnormalized: divide by the filter of ones for an average.

    Raises:
        ValueError: wrong shapes or types, float levels that are NaN or beyond 0-255, or a sigma that is not greater
            than 0.
    """
    if not isinstance(values, Tensor) or values.ndim != 4 or not values.is_floating_point() or 0 in values.shape:
        raise ValueError(f"values must be a float tensor [B, n, H, W] and not empty, got {describe(values)}")
    shape = [values.shape[0], 3, *values.shape[2:]]
    if not isinstance(rgb, Tensor) or list(rgb.shape) != shape:
        raise ValueError(f"rgb must be a tensor {shape} to go with values {list(values.shape)}, got {describe(rgb)}")
    check_levels(rgb)
    check_sigma("sigma_xy", sigma_xy)
    check_sigma("sigma_rgb", sigma_rgb)
    return apply_filter(values, PictureBatch(rgb.to(values.device), sigma_xy, sigma_rgb, backend), transpose)


class PictureBatch:
    """The filters of `bilateral_filter` for checked arguments; on torch all pictures share one lattice, built once."""

    def __init__(self, rgb: Tensor, sigma_xy: float, sigma_rgb: float, backend: Backend) -> None:
        self.rgb, self.sigma_xy, self.sigma_rgb, self.backend = rgb, sigma_xy, sigma_rgb, backend
        self._twin: TorchLattice | None = None

    def run(self, values: Tensor, transpose: bool = False) -> Tensor:
        """Filter (or its adjoint) of [B, n, H, W] without a gradient."""
        source = values.detach().to(torch.promote_types(values.dtype, torch.float32)).contiguous()
        if (core := pick_core(self.backend, source)) is not None:
            out = torch.empty_like(source)
            rgb = (self.rgb if self.rgb.dtype is torch.uint8 else self.rgb.to(torch.float32)).contiguous().numpy()
            threads = torch.get_num_threads()
            core.bilateral_filter(rgb, source.numpy(), out.numpy(), self.sigma_xy, self.sigma_rgb, transpose, threads)
            return out.to(values.dtype)
        batch, channels, height, width = source.shape
        if self._twin is None:
            features = picture_features(
                (height, width),
                self.sigma_xy,
                rgb=self.rgb,
                sigma_rgb=self.sigma_rgb,
                device=source.device,
                dtype=source.dtype,
            )
            picture = torch.arange(batch, device=source.device).repeat_interleave(height * width)
            self._twin = TorchLattice(features, picture, batch)
        by_pixel = source.permute(0, 2, 3, 1).reshape(-1, channels)
        out = self._twin.rows(by_pixel, transpose=transpose).to(values.dtype)
        return out.reshape(batch, height, width, channels).permute(0, 3, 1, 2).contiguous()


def check_levels(rgb: Tensor) -> None:
    """Refuse colors that are neither uint8 nor float levels of 0-255.

    Half a level beyond is taken for rounding, such as undoing a network's normalization leaves behind.
    """
    if rgb.dtype is torch.uint8 or rgb.numel() == 0:
        return
    if not rgb.is_floating_point():
        raise ValueError(f"rgb must be uint8 or float, got {describe(rgb)}")
    low, high = (float(x) for x in rgb.detach().aminmax())
    if not (low >= -0.5 and high <= 255.5):
        raise ValueError(
            f"rgb must hold levels of 0-255, got values from {low:g} to {high:g}; undo a network's normalization "
            "(rgb * std + mean), multiply by 255 what lies in 0-1, and leave no NaN"
        )
    if 0.01 < high <= 1:
        warnings.warn(
            f"no level of rgb is above {high:g}, so that all of its pixels are alike to the filter; levels are 0-255: "
            "multiply by 255 what lies in 0-1",
            stacklevel=3,
        )


def check_sigma(name: str, value: float) -> None:
    """Refuse a width that is not a number greater than 0."""
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be greater than 0, got {value}")


def _check_valid(valid: Tensor | None, size: tuple[int, int], device: torch.device) -> Tensor | None:
    if valid is None:
        return None
    if not isinstance(valid, Tensor) or valid.dtype is not torch.bool or tuple(valid.shape) != tuple(size):
        raise ValueError(f"valid must be a bool tensor {list(size)}, got {describe(valid)}")
    if not bool(valid.any()):
        raise ValueError("valid is False everywhere; a lattice needs at least one pixel")
    return None if bool(valid.all()) else valid.to(device)


def describe(value: object) -> str:
    """Dtype, shape and device of a tensor, or the type of anything else, for error messages."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)} on {value.device}"
    return type(value).__name__
