"""From logits to labels in one pass: the compiled core against the probabilities that it does without."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from tag2mask.base.core import find_core
from tag2mask.inference import score_maps
from tag2mask.inference.score_maps import NUMPY, ScoreMaps
from tag2mask.inference.tiles import labels_of

needs_core = pytest.mark.skipif(find_core()[0] is None, reason="the core is not built")


def logits(labels: int, height: int, width: int, seed: int) -> NDArray[np.float32]:
    """Maps of a network: smooth, with a background that is often the largest."""
    rng = np.random.default_rng(seed)
    maps = rng.normal(scale=3, size=(labels, height + 2, width + 2))
    maps = maps[:, 1:-1, 1:-1] + maps[:, :-2, 1:-1] + maps[:, 2:, 1:-1] + maps[:, 1:-1, :-2] + maps[:, 1:-1, 2:]
    maps[0] += 4
    return maps.astype(np.float32)


def expect_same(maps: ScoreMaps) -> None:
    """Equal to the labels of the probabilities but where two labels are equal within rounding."""
    got, probs = maps.labels(), maps.probs()
    assert got.dtype == np.uint8 and got.shape == maps.size
    taken = np.take_along_axis(probs, got[None].astype(np.int64), 0)[0]
    np.testing.assert_array_less(probs.max(0) - taken, 2e-6)
    assert (got == probs.argmax(0)).mean() > 0.9999
    if maps.allowed is not None:
        assert maps.allowed[got].all()


@needs_core
@pytest.mark.parametrize("labels", [1, 2, 7, 21, 81, 255])
@pytest.mark.parametrize("tags", [None, 0, 1, 3])
@pytest.mark.parametrize("views", [[(20, 15)], [(20, 15), (30, 23), (20, 15)]])
def test_labels_are_those_of_the_probabilities(labels, tags, views):
    maps = tuple(logits(labels, *size, seed=i) for i, size in enumerate(views))
    allowed = None if tags is None else np.arange(labels) * 7 % max(labels, 2) <= tags
    expect_same(ScoreMaps(logits=maps, size=(375, 281), allowed=allowed))


@needs_core
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 3), (17, 16), (64, 33), (5, 700)])
@pytest.mark.parametrize("cells", [(1, 1), (1, 9), (9, 1), (2, 2), (13, 40)])
def test_labels_of_any_size(size, cells):
    """Also of pictures that are smaller than the maps, and of maps of a single cell."""
    one, other = logits(5, *cells, seed=1), logits(5, 3, 4, seed=2)
    for allowed in (None, np.array([True, False, True, True, False])):
        expect_same(ScoreMaps(logits=(one,), size=size, allowed=allowed))
        expect_same(ScoreMaps(logits=(one, other), size=size, allowed=allowed))


@needs_core
def test_extreme_logits_and_equal_ones():
    far = np.zeros((3, 4, 4), np.float32)
    far[0], far[1, :2], far[2, 2:] = -500, 500, 500
    expect_same(ScoreMaps(logits=(far,), size=(40, 40)))
    allowed = np.array([True, False, True])
    expect_same(ScoreMaps(logits=(far, far), size=(40, 40), allowed=allowed))
    flat = ScoreMaps(logits=(np.zeros((4, 3, 3), np.float32),), size=(20, 20))
    assert not flat.labels().any(), "of equal labels the first"


@needs_core
def test_threads_change_nothing(monkeypatch):
    """A picture that is large enough for several."""
    for views in (1, 2):
        maps = tuple(logits(21, 32, 40, seed=i) for i in range(views))
        found = []
        for threads in (1, 2, 3, 100):
            monkeypatch.setattr(score_maps, "usual_threads", lambda threads=threads: threads)
            found.append(ScoreMaps(logits=maps, size=(401, 503)).labels())
        assert all(np.array_equal(found[0], each) for each in found[1:])


@needs_core
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set_finds_them(isa):
    """The core falls back where a CPU lacks one."""
    code = (
        "from tests.test_labels import *\n"
        "for views in ([(20, 15)], [(20, 15), (9, 40)]):\n"
        "    for allowed in (None, np.arange(21) % 4 == 0):\n"
        "        maps = tuple(logits(21, *size, seed=i) for i, size in enumerate(views))\n"
        "        expect_same(ScoreMaps(logits=maps, size=(123, 217), allowed=allowed))\n"
        "print(find_core()[0].instruction_set())\n"
    )
    env = os.environ | {"TAG2MASK_ISA": isa}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in (isa, "baseline")


@needs_core
def test_what_is_no_map_is_refused():
    core, out = find_core()[0], np.zeros((4, 4), np.uint8)
    good = logits(3, 2, 2, seed=0)
    for maps, allowed in (([], None), ([good, good[:2]], None), ([good], np.ones(2, np.uint8)), ([good[:0]], None)):
        with pytest.raises(ValueError, match=r"maps must|allowed must"):
            core.labels(maps, allowed, out, 1)
    with pytest.raises(ValueError, match="the first set"):
        core.labels([good], np.array([0, 1, 1], np.uint8), out, 1)


def test_without_the_core_they_come_from_the_probabilities(monkeypatch):
    maps = ScoreMaps(logits=(logits(4, 6, 5, seed=0),), size=(60, 50), arithmetic=NUMPY)
    monkeypatch.setattr(score_maps, "find_core", lambda: (None, "not built"))
    np.testing.assert_array_equal(maps.labels(), labels_of(maps.parts(), maps.size))
