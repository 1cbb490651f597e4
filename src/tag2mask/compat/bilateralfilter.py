"""Stands in for the extension `bilateralfilter` of the dense energy losses: only the import changes.

```python
from tag2mask.compat.bilateralfilter import bilateralfilter, bilateralfilter_batch
```

The bilateral filter of Adams, Baek & Davis 2010 in the features x and y over `sigmaxy`, r, g and b over `sigmargb`,
unnormalized, the pixel itself included. As in the original's x86 build, pixels whose features are all 0 fill a picture
up to a multiple of four pixels: they hold no value, but their lattice vertices take part in the blur.

Unlike the original it refuses arrays of the wrong length, NaN and infinite colors in place of touching foreign memory,
and takes arrays of any shape. Imports no torch; where the compiled core is missing it filters on torch, several times
slower.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tag2mask.base.core import find_core
from tag2mask.base.processes import usual_threads
from tag2mask.compat.arrays import as_array

__all__ = ["bilateralfilter", "bilateralfilter_batch"]

Floats = NDArray[np.float32]


def bilateralfilter(image: Any, _in: Any, out: Floats, H: int, W: int, sigmargb: float, sigmaxy: float) -> None:
    """Filter the channels of one picture into `out`.

    Args:
        image: 3 H W colors, channel by channel, in the levels of `sigmargb`; float32, or what converts to it.
        _in: K H W values, channel by channel.
        out: K H W float32, written in place; may be `_in`.
        H: height.
        W: width.
        sigmargb: color width.
        sigmaxy: spatial width in pixels.

    Raises:
        TypeError: no arrays, `out` is no float32 array that can be written in place, or a size is no whole number.
        ValueError: lengths that do not belong together, colors that are not finite, widths that are not greater than 0
            or so small that the lattice cannot be numbered.
    """
    pixels = operator.index(H) * operator.index(W)
    values = _floats("_in", _in)
    if pixels < 1 or values.size == 0 or values.size % pixels:
        raise ValueError(f"_in must hold K H W = K * {pixels} values for H={H}, W={W}, got {values.size}")
    _filter(("image", "_in", "out"), image, values, out, (1, values.size // pixels, H, W), sigmargb, sigmaxy)


def bilateralfilter_batch(
    images: Any, ins: Any, outs: Floats, N: int, K: int, H: int, W: int, sigmargb: float, sigmaxy: float
) -> None:
    """Filter the channels of N pictures into `outs`, each picture on its own lattice.

    Threads share the pictures, as many as the usable cores and no more than OMP_NUM_THREADS, which changes no bit.

    Args:
        images: N 3 H W colors; float32, or what converts to it.
        ins: N K H W values.
        outs: N K H W float32, written in place; may be `ins`.
        N: pictures.
        K: channels.
        H: height.
        W: width.
        sigmargb: color width in the levels of `images`.
        sigmaxy: spatial width in pixels.

    Raises:
        TypeError, ValueError: as `bilateralfilter`.
    """
    _filter(("images", "ins", "outs"), images, _floats("ins", ins), outs, (N, K, H, W), sigmargb, sigmaxy)


def _filter(
    names: tuple[str, str, str],
    images: Any,
    values: Floats,
    outs: Any,
    shape: tuple[int, int, int, int],
    sigmargb: float,
    sigmaxy: float,
) -> None:
    batch, channels, height, width = (operator.index(n) for n in shape)
    if min(batch, channels, height, width) < 1:
        raise ValueError(f"N, K, H and W must be at least 1, got {batch}, {channels}, {height}, {width}")
    for name, sigma in (("sigmargb", sigmargb), ("sigmaxy", sigmaxy)):
        if not (math.isfinite(sigma) and sigma > 0):
            raise ValueError(f"{name} must be greater than 0, got {sigma}")
    result = _in_place(names[2], outs)
    colors = _floats(names[0], images)
    for name, array, planes in zip(names, (colors, values, result), (3, channels, channels), strict=True):
        if array.size != batch * planes * height * width:
            raise ValueError(
                f"{name} must hold {batch} pictures of {planes} channels of {height} x {width} values, "
                f"{batch * planes * height * width} in all, got {array.size}"
            )
    rgb, ins, out = (x.reshape(batch, -1, height, width) for x in (colors, values, result))
    core, _ = find_core()
    if core is None:
        return _filter_on_torch(rgb, ins, out, sigmargb, sigmaxy)
    threads = min(batch, usual_threads())
    core.bilateral_filter(rgb, ins, out, float(sigmaxy), float(sigmargb), False, threads, filled=True)


def _floats(name: str, value: Any) -> Floats:
    array = as_array(name, value)
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == np.bool_) or np.iscomplexobj(array):
        raise TypeError(f"{name} must hold numbers, got {array.dtype}")
    return np.ascontiguousarray(array, dtype=np.float32)


def _in_place(name: str, value: Any) -> Floats:
    array = as_array(name, value)
    if array.dtype != np.float32 or not array.flags.c_contiguous or not array.flags.writeable:
        raise TypeError(
            f"{name} is written in place: it must be a float32 array, contiguous and writable, such as "
            f"np.zeros(n, np.float32), got {array.dtype} {list(array.shape)}"
        )
    return array


def _filter_on_torch(rgb: Floats, values: Floats, out: Floats, sigmargb: float, sigmaxy: float) -> None:
    import torch

    from tag2mask.compat.filled import filled_lattice, filter_filled
    from tag2mask.torch_lattice import picture_features

    for picture, channels, result in zip(rgb, values, out, strict=True):
        size = channels.shape[1], channels.shape[2]
        features = picture_features(size, sigmaxy, rgb=torch.from_numpy(picture)[None], sigma_rgb=sigmargb)
        filtered = filter_filled(filled_lattice(features), torch.from_numpy(channels).flatten(1))
        result[...] = filtered.reshape(channels.shape).numpy()
