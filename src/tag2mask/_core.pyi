"""Types of the compiled core."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

class Lattice:
    @property
    def dims(self) -> int: ...
    @property
    def pixels(self) -> int: ...
    @property
    def vertices(self) -> int: ...

def lattice(features: NDArray[np.float32]) -> Lattice | None: ...
def filter(
    lattice: Lattice, values: NDArray[np.float32], out: NDArray[np.float32], transpose: bool, threads: int
) -> None: ...
def bilateral_filter(
    rgb: NDArray[np.uint8] | NDArray[np.float32],
    values: NDArray[np.float32],
    out: NDArray[np.float32],
    sigma_xy: float,
    sigma_rgb: float,
    transpose: bool,
    threads: int,
    filled: bool = False,
) -> None: ...
def dense_crf(
    rgb: NDArray[np.uint8],
    scores: NDArray[np.float32],
    present: NDArray[np.uint8],
    valid: NDArray[np.uint8] | None,
    out: NDArray[np.float32],
    gaussian_sxy: float,
    gaussian_compat: float,
    bilateral_sxy: float,
    bilateral_srgb: float,
    bilateral_compat: float,
    iterations: int,
    threads: int,
    energies: bool = False,
    filled: bool = False,
) -> int: ...
def labels(
    maps: Sequence[NDArray[np.float32]], allowed: NDArray[np.uint8] | None, out: NDArray[np.uint8], threads: int
) -> None: ...
def clear_cache() -> None: ...
def cache_size() -> int: ...
def instruction_set() -> str: ...
