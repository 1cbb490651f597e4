"""Checks of the arguments of `DenseCRF`, and their conversion to tensors."""

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

from tag2mask.compat.arrays import as_array

Floats = NDArray[np.float32]
Kind = TypeVar("Kind", bound=IntEnum)
Compat = float | Floats
"""A number (Potts), a vector [nlabels] or a matrix [nlabels, nlabels]."""


def to_tensor(
    name: str, value: Any, shape: tuple[int | None, ...], dtype: Any = np.float32, *, ordered: bool = True
) -> Tensor:
    """Copy of an array after a check of type, shape (None: any size) and, where `ordered`, memory order."""
    kind, value = np.dtype(dtype), as_array(name, value)
    if value.dtype != kind:
        raise ValueError(f"{name} must be {kind}, got {value.dtype}; convert it with .astype(np.{kind})")
    fits = value.ndim == len(shape) and all(n in (None, m) for n, m in zip(shape, value.shape, strict=True))
    if not fits:
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise ValueError(f"{name} must have the shape [{wanted}], got {list(value.shape)}")
    if ordered and not value.flags.c_contiguous:
        raise ValueError(f"{name} must be C-contiguous; pass np.ascontiguousarray({name})")
    return torch.from_numpy(np.array(value, order="C"))


def compatibility(value: Compat, labels: int) -> Tensor:
    """The compatibility as a number or a matrix [L, L], in the sign of an energy."""
    if is_number(value):
        factor = torch.tensor(-float(value), dtype=torch.float32)
    elif (array := as_array("compat, where it is no number,", value)).ndim == 1:
        factor = to_tensor("compat", array, (labels,)).diag()
    elif array.ndim == 2:
        matrix = to_tensor("compat", array, (labels, labels))
        factor = (matrix + matrix.T) / 2
    else:
        raise ValueError(f"compat must be a number, a vector or a matrix, got an array of {array.ndim} dimensions")
    if not bool(factor.isfinite().all()):
        raise ValueError("compat holds NaN or infinite values; it must be finite")
    return factor


def widths(name: str, value: float | Sequence[float], count: int) -> list[float]:
    """`count` widths greater than 0 from one number or one for each."""
    if is_number(value):
        widths = [float(value)] * count
    elif isinstance(value, Sequence | np.ndarray) and all(is_number(v) for v in value):
        widths = [float(v) for v in value]
    else:
        raise TypeError(f"{name} must be a number or {count} numbers, got {value!r}")
    if len(widths) != count or not all(math.isfinite(v) and v > 0 for v in widths):
        raise ValueError(f"{name} must be one or {count} numbers greater than 0, got {value!r}")
    return widths


def whole_number(name: str, value: float, least: int) -> int:
    """A whole number of at least `least`."""
    if not is_number(value):
        raise TypeError(f"{name} must be a whole number, got {type(value).__name__}")
    if not math.isfinite(value) or value != int(value) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value}")
    return int(value)


def is_number(value: object) -> TypeGuard[float]:
    """A number of Python or numpy, no array."""
    return isinstance(value, Real)


def member(kinds: type[Kind], name: str, value: int) -> Kind:
    """The member of an enumeration with this number."""
    if value not in list(kinds):
        raise ValueError(f"{name} must be one of {', '.join(kind.name for kind in kinds)}, got {value!r}")
    return kinds(value)
