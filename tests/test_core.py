"""The compiled core alone: threads inside a picture and instruction sets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_crf import photos, some_scores

from tag2mask.config import CRFParams
from tag2mask.crf import dense_crf
from tag2mask.filtering import load_core

pytestmark = pytest.mark.skipif(load_core() is None, reason="the compiled core was not built")
LARGE = (264, 260)
"""Just over 65536 pixels, from which on several threads share a picture."""


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def large_case(labels: int = 3, size: tuple[int, int] = LARGE) -> tuple[torch.Tensor, torch.Tensor]:
    rgb = torch.nn.functional.interpolate(photos(1).float(), size, mode="bilinear").to(torch.uint8)
    return rgb, some_scores(1, 2, labels, *size)


def test_threads_inside_a_picture_change_only_the_last_bits(threads) -> None:
    rgb, scores = large_case()
    threads(1)
    alone = dense_crf(rgb, scores, backend="core")
    for count in (2, 3, 4):
        threads(count)
        shared = dense_crf(rgb, scores, backend="core")
        assert torch.equal(shared, dense_crf(rgb, scores, backend="core"))  # the same for one number of threads
        torch.testing.assert_close(shared, alone, rtol=0, atol=1e-4)
        assert not torch.equal(shared, alone), "the threads did not share the picture, so this tests nothing"


def test_filter_with_threads_inside_a_picture() -> None:
    core = load_core()
    rgb = large_case()[0].numpy()
    values = np.random.default_rng(0).random((1, 21, *LARGE), dtype=np.float32)
    out = [np.empty_like(values) for _ in range(2)]
    for threads, each in zip((1, 4), out, strict=True):
        core.bilateral_filter(rgb, values, each, 50.0, 15.0, False, threads)
    np.testing.assert_allclose(out[1], out[0], rtol=1e-4)


def test_more_threads_than_pictures_and_pictures_than_threads(threads) -> None:
    rgb, scores = photos(3), some_scores(3, 2, 3, 28, 36)
    threads(1)
    want = dense_crf(rgb, scores, backend="core")
    for count in (2, 7):
        threads(count)
        assert torch.equal(dense_crf(rgb, scores, backend="core"), want)  # small pictures are never shared


@pytest.mark.parametrize("width", [512, 513, 1024, 1100])
def test_wide_pictures_go_through_in_strips(width) -> None:
    rgb, scores = large_case(size=(24, width))
    twin = dense_crf(rgb, scores, backend="torch")
    torch.testing.assert_close(dense_crf(rgb, scores, backend="core"), twin, rtol=0, atol=1e-4)


def test_a_padded_wide_picture_equals_the_one_without_padding() -> None:
    rgb, scores = large_case(size=(24, 1100))
    top, left, bottom, right = 3, 5, 2, 7
    around = (left, right, top, bottom)
    valid = torch.nn.functional.pad(torch.ones(1, 24, 1100, dtype=torch.bool), around)
    padded = dense_crf(
        torch.nn.functional.pad(rgb, around, value=77),
        torch.nn.functional.pad(scores, around, value=0.3),
        valid=valid,
        backend="core",
    )
    assert torch.equal(padded[..., top:-bottom, left:-right], dense_crf(rgb, scores, backend="core"))


@pytest.mark.parametrize("size", [(4, 0), (0, 4), (0, 0)])
def test_pictures_without_pixels_are_filtered_to_nothing(size) -> None:
    """The functions refuse them by name; the core itself must not fall over them."""
    rgb, values = np.zeros((1, 3, *size), np.uint8), np.zeros((1, 2, *size), np.float32)
    out = np.zeros_like(values)
    load_core().bilateral_filter(rgb, values, out, 3.0, 3.0, False, 1)
    assert out.size == 0


def test_extreme_widths_of_the_kernels_choose_strips_as_well() -> None:
    """The columns of a strip follow from the widths; very wide colors and very narrow places ask for endless ones."""
    rgb, scores = torch.randint(0, 256, (1, 3, 8, 700), dtype=torch.uint8), some_scores(1, 3, 8, 700)
    for params in (CRFParams(bilateral_sxy=1e-3, bilateral_srgb=1e9), CRFParams(bilateral_sxy=1e4, bilateral_srgb=0.5)):
        q = dense_crf(rgb, scores, params)
        torch.testing.assert_close(q, dense_crf(rgb, scores, params, backend="torch"), rtol=0, atol=1e-4)


def test_memory_that_is_kept_leaves_nothing_behind() -> None:
    core = load_core()
    rgb, scores = large_case(size=(336, 320))  # pieces of two megabytes and more are kept
    core.clear_cache()
    fresh = dense_crf(rgb, scores, backend="core")
    dense_crf(rgb.flip(-1), scores.flip(-1) ** 3, backend="core")
    assert torch.equal(dense_crf(rgb, scores, backend="core"), fresh)
    core.clear_cache()
    assert torch.equal(dense_crf(rgb, scores, backend="core"), fresh)


_RUN = """
import sys, numpy as np, torch
sys.path.insert(0, {tests!r})
from test_core import large_case
from tag2mask.crf import dense_crf
from tag2mask.filtering import Lattice, load_core
parts = [np.array([load_core().instruction_set() == {isa!r}])]
for labels in (2, 5, 21, 40):
    parts.append(dense_crf(*large_case(labels, (132, 130)), backend="core").numpy().ravel()[::97])
features = torch.rand(8, 500, generator=torch.Generator().manual_seed(0)) * 3
for dims in range(1, 9):
    lattice = Lattice(features[:dims], backend="core")
    parts.append(lattice.filter(torch.rand(37, 500, generator=torch.Generator().manual_seed(1))).numpy().ravel())
np.savez(sys.argv[1], *parts)
"""


def test_instruction_sets_agree(tmp_path) -> None:
    fastest = load_core().instruction_set()
    known = ("baseline", "avx2", "avx512")
    if fastest == "baseline":
        pytest.skip("this CPU runs the baseline only")
    results = {}
    for isa in known[: known.index(fastest) + 1]:
        script = _RUN.format(tests=str(Path(__file__).parent), isa=isa)
        environment = os.environ | {"TAG2MASK_ISA": isa, "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, "-c", script, str(tmp_path / isa)], check=True, env=environment)
        results[isa] = list(np.load(tmp_path / f"{isa}.npz").values())
        assert results[isa][0].all(), f"TAG2MASK_ISA={isa} was not honored"
    for isa, parts in results.items():
        for one, two in zip(parts[1:], results[fastest][1:], strict=True):
            np.testing.assert_allclose(one, two, rtol=0, atol=2e-4, err_msg=isa)
