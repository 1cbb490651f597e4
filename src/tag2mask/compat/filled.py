"""Lattices as pydensecrf and bilateralfilter build them: of pixels in fours, as their SSE code takes them.

Where the number of pixels is no multiple of four, pixels whose features are all 0 (black, in the first corner) fill it
up. They hold no value, but the vertices around them take part in the blur.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import pad

from tag2mask.filtering import Lattice

BLOCK = 4


def filled_lattice(features: Tensor) -> Lattice:
    """Lattice of features [D, N] and, behind them, of the pixels that fill it up."""
    return Lattice(pad(features, (0, -features.shape[1] % BLOCK)))


def filter_filled(lattice: Lattice, values: Tensor) -> Tensor:
    """Filter of [n, N] on the lattice of N pixels, filled up or not."""
    pixels = values.shape[1]
    padding = lattice.num_pixels - pixels
    return lattice.filter(pad(values, (0, padding)))[:, :pixels] if padding else lattice.filter(values)
