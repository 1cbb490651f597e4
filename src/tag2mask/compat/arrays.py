"""What callers hand over as arrays. Imports no torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def as_array(name: str, value: Any) -> NDArray[Any]:
    """A numpy array, memoryview or other buffer, torch tensor or anything with `__array__` as a numpy array.

    It shares the memory where that is possible: of a tensor on the CPU and of every buffer.

    Raises:
        TypeError: none of these, such as a list.
    """
    if isinstance(value, np.ndarray):
        return value
    if hasattr(value, "detach"):  # a torch tensor, perhaps with a gradient, on a GPU, or of a type that numpy lacks
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":
            value = value.float()
    if hasattr(value, "__array__") or hasattr(value, "__array_interface__"):
        return np.asarray(value)
    try:
        return np.asarray(memoryview(value))
    except TypeError:
        raise TypeError(
            f"{name} must be a numpy array, a memoryview or a torch tensor, got {type(value).__name__}"
        ) from None
