"""Check the compiled core of an installed wheel where torch is not installed: it loads, filters and runs a CRF.

    python tools/check_core.py

Needs numpy alone. The expectations are identities: columns that sum to 1, an adjoint, a value known by hand.
"""

from __future__ import annotations

import platform

import numpy as np

from tag2mask import _core


def main() -> None:
    """Raise AssertionError where the core is wrong."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(5, 500)).astype(np.float32)
    lattice = _core.lattice(features)
    u, v = rng.normal(size=(2, 3, 500)).astype(np.float32)
    forth, back = np.empty_like(u), np.empty_like(u)
    _core.filter(lattice, v, forth, False, 1)
    _core.filter(lattice, u, back, True, 1)
    assert np.isclose((u * forth).sum(), (back * v).sum(), rtol=1e-4), "<u, K v> differs from <K' u, v>"

    # Two pixels on one vertex: with the slice scale 1 / 1.5, and what comes back around the blur axes, in [2 / 1.5, 2].
    pair, ones = _core.lattice(np.zeros((1, 2), np.float32)), np.ones((1, 2), np.float32)
    both = np.empty_like(ones)
    _core.filter(pair, ones, both, False, 1)
    assert np.allclose(both, both[0, 0]) and 2 / 1.5 <= both[0, 0] <= 2, f"two equal pixels gave {both}"

    rgb = rng.integers(0, 256, size=(2, 3, 17, 23), dtype=np.uint8)
    scores = rng.uniform(size=(2, 2, 5, 17, 23)).astype(np.float32)
    present, q = np.ones((2, 5), np.uint8), np.zeros_like(scores)
    assert _core.dense_crf(rgb, scores, present, None, q, 3.0, 3.0, 20.0, 13.0, 10.0, 5, 2) == -1
    assert np.allclose(q.sum(2), 1, atol=1e-5), "marginals do not sum to 1"
    scores[1, 0, 2, 3, 4] = np.nan
    assert _core.dense_crf(rgb, scores, present, None, q, 3.0, 3.0, 20.0, 13.0, 10.0, 5, 2) == 1, "NaN is not reported"

    values = rng.uniform(size=(2, 4, 17, 23)).astype(np.float32)
    from_bytes, from_floats = np.empty_like(values), np.empty_like(values)
    _core.bilateral_filter(rgb, values, from_bytes, 20.0, 13.0, False, 2)
    _core.bilateral_filter(rgb.astype(np.float32), values, from_floats, 20.0, 13.0, False, 1)
    assert np.array_equal(from_bytes, from_floats), "bytes and floats of equal levels are filtered differently"
    print(f"{_core.__file__}: {_core.instruction_set()} kernels, {platform.machine()}, {platform.python_version()}")


if __name__ == "__main__":
    main()
