from __future__ import annotations

import sys
import warnings
from pathlib import Path

import exact
import numpy as np
import pytest
import torch
from lattice_twin import lattice_filter

from tag2mask import filtering, torch_lattice
from tag2mask.filtering import Lattice, TorchLattice, bilateral_filter, clear_cache, load_core
from tag2mask.torch_lattice import CHUNK, _simplex_keys, picture_features

GOLDEN = Path(__file__).parent / "golden"
needs_core = pytest.mark.skipif(load_core() is None, reason="the compiled core was not built")
BACKENDS = [pytest.param("core", marks=needs_core), "torch"]


def photo(height: int = 40, width: int = 48) -> torch.Tensor:
    """uint8 [3, height, width] from the golden photo of a cat, every second pixel."""
    rgb = np.load(GOLDEN / "crf_mining_chelsea.npz")["rgb"][20 : 20 + 2 * height : 2, 30 : 30 + 2 * width : 2]
    return torch.from_numpy(rgb).permute(2, 0, 1).contiguous()


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_dimension_is_interpolation_and_two_blurs(backend: str) -> None:
    # In 1-D the lattice is a line with vertices every sqrt(3)/2; both axes run along it.
    f = np.sort(np.random.default_rng(0).uniform(0, 9, 400))
    v = np.random.default_rng(1).normal(size=400)
    at = f / (np.sqrt(3) / 2)
    left = np.floor(at).astype(int)
    interpolate = np.zeros((400, left.max() + 2))
    interpolate[np.arange(400), left] = 1 - (at - left)
    interpolate[np.arange(400), left + 1] = at - left
    line = interpolate.T @ v
    for _ in range(2):
        line = np.convolve(line, [0.5, 1, 0.5], mode="same")
    lattice = Lattice(torch.tensor(f[None], dtype=torch.float32), backend=backend)
    assert lattice.num_vertices == interpolate.shape[1]
    out = lattice.filter(torch.tensor(v[None], dtype=torch.float32))[0].numpy()
    np.testing.assert_allclose(out, interpolate @ line / 1.5, atol=2e-5)


@needs_core
@pytest.mark.parametrize("dims", range(1, 9))
def test_core_equals_twin(dims: int) -> None:
    f = torch.randn(dims, 500, generator=torch.Generator().manual_seed(dims)) * 2
    values = numbers(37, 500)  # more than one group of channels, and not a multiple of eight
    core, twin = Lattice(f, backend="core"), Lattice(f, backend="torch")
    assert core.num_vertices == twin.num_vertices
    for name in ("filter", "transpose"):
        torch.testing.assert_close(getattr(core, name)(values), getattr(twin, name)(values), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("sigma_xy", "sigma_rgb"), [(80.0, 13.0), (10.0, 15.0)])
def test_bilateral_is_a_known_share_of_the_exact_sum(backend: str, sigma_xy: float, sigma_rgb: float) -> None:
    rgb = photo()
    values = numbers(2, *rgb.shape[1:])
    got = Lattice.bilateral(rgb, sigma_xy, sigma_rgb, backend=backend).filter(values).flatten(1).numpy()
    kernel = exact.gaussian_kernel(exact.features(rgb.numpy(), sigma_xy, sigma_rgb))
    want = values.flatten(1).numpy() @ kernel
    assert 0.5 < got.sum() / want.sum() < 0.7
    assert np.corrcoef(got[0], want[0])[0, 1] > 0.95


@pytest.mark.parametrize("backend", BACKENDS)
def test_gaussian_normalized_is_close_to_exact(backend: str) -> None:
    values = numbers(1, 40, 48)
    lattice = Lattice.gaussian((40, 48), 3.0, backend=backend)
    got = (lattice.filter(values) / lattice.filter(torch.ones(1, 40, 48))).flatten().numpy()
    kernel = exact.gaussian_kernel(exact.features(np.zeros((3, 40, 48), np.uint8), 3.0, None))
    want = kernel @ values.flatten().numpy() / kernel.sum(1)
    assert np.abs(got / want - 1).mean() < 0.04


@pytest.mark.parametrize("backend", BACKENDS)
def test_linear(backend: str) -> None:
    lattice = Lattice.bilateral(photo(), 10, 15, backend=backend)
    a, b = numbers(3, 40, 48, seed=1), numbers(3, 40, 48, seed=2)
    torch.testing.assert_close(
        lattice.filter(2 * a - 3 * b), 2 * lattice.filter(a) - 3 * lattice.filter(b), rtol=1e-4, atol=1e-3
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_order_of_pixels_does_not_matter(backend: str) -> None:
    f, values = numbers(4, 300) * 5, numbers(3, 300, seed=1)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(2))
    straight = Lattice(f, backend=backend).filter(values)
    shuffled = Lattice(f[:, order], backend=backend).filter(values[:, order])
    torch.testing.assert_close(shuffled, straight[:, order], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_transpose_is_the_adjoint(backend: str) -> None:
    lattice = Lattice.bilateral(photo(), 10, 15, backend=backend)
    u, v = numbers(1, 40, 48, seed=1), numbers(1, 40, 48, seed=2)
    left = float((u.double() * lattice.filter(v)).sum())
    assert left == pytest.approx(float((lattice.transpose(u).double() * v).sum()), rel=1e-6)
    # The blurs do not commute where vertices are missing, so the filter is not its own adjoint.
    assert not torch.allclose(lattice.filter(u), lattice.transpose(u), rtol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_symmetric_in_the_sum_over_a_picture(backend: str) -> None:
    rgb = torch.from_numpy(np.load(GOLDEN / "crf_mining_chelsea.npz")["rgb"]).permute(2, 0, 1)
    size = (rgb.shape[1], rgb.shape[2])
    u, v = numbers(1, *size, seed=1).double(), numbers(1, *size, seed=2).double()
    for lattice in (
        Lattice.bilateral(rgb, 80, 13, backend=backend),
        Lattice.bilateral(rgb, 50, 15, backend=backend),
        Lattice.gaussian(size, 3, backend=backend),
    ):
        uv, vu = (float((a * lattice.filter(b.float())).sum()) for a, b in ((u, v), (v, u)))
        assert uv == pytest.approx(vu, rel=1e-3)


def test_the_exact_twin_is_symmetric() -> None:
    kernel = exact.gaussian_kernel(exact.features(photo(12, 16).numpy(), 20.0, 13.0))
    np.testing.assert_allclose(kernel, kernel.T, rtol=1e-12)
    np.testing.assert_allclose(np.diag(kernel), 1, rtol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_pixels_at_one_place_are_summed(backend: str) -> None:
    # K is the same number for every pair, so the filter is the sum times the value of a lattice of one pixel.
    place = torch.tensor([[0.3], [1.7], [-2.2]])
    values = numbers(2, 100 * CHUNK + 1, seed=3)
    alone = float(Lattice(place, backend=backend).filter(torch.ones(1, 1)))
    got = Lattice(place.expand(-1, values.shape[1]), backend=backend).filter(values)
    want = (alone * values.double().sum(1, keepdim=True)).float().expand_as(got)
    torch.testing.assert_close(got, want, rtol=2e-5, atol=0)


def test_no_serial_sum_of_the_splat_is_longer_than_a_chunk() -> None:
    lattice = TorchLattice(torch.cat([torch.zeros(2, 10 * CHUNK + 3), numbers(2, 50) * 9], 1))
    lengths = torch.diff(lattice.chunk_starts, append=torch.tensor([len(lattice.splat_pixels)]))
    assert int(lengths.min()) >= 0
    assert int(lengths.max()) == CHUNK
    assert int(lengths.sum()) == 3 * (10 * CHUNK + 53)


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_inputs_equal_contiguous_ones(backend: str) -> None:
    f, values = numbers(200, 3) * 5, numbers(200, 4, seed=1)
    want = Lattice(f.T.contiguous(), backend=backend).filter(values.T.contiguous())
    assert torch.equal(Lattice(f.T, backend=backend).filter(values.T), want)
    twice = numbers(3, 40, 96, seed=2)
    rgb = (twice * 255).to(torch.uint8)
    every_second = Lattice.bilateral(rgb[..., ::2], 10, 15, backend=backend).filter(twice[..., ::2])
    copied = Lattice.bilateral(rgb[..., ::2].clone(), 10, 15, backend=backend).filter(twice[..., ::2].clone())
    assert torch.equal(every_second, copied)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_stays_in_its_channel(backend: str) -> None:
    lattice, values = Lattice.bilateral(photo(), 10, 15, backend=backend), numbers(3, 40, 48)
    clean = lattice.filter(values)
    values[1, 20, 20] = float("nan")
    got = lattice.filter(values)
    assert bool(got[1, 20, 20].isnan())
    assert torch.equal(got[[0, 2]], clean[[0, 2]])


def test_half_precision_is_filtered_in_float32() -> None:
    f, values = (numbers(3, 100) * 5).half(), numbers(2, 100, seed=1).bfloat16()
    got = Lattice(f).filter(values)
    assert got.dtype is torch.bfloat16
    want = Lattice(f.float(), backend="torch").filter(values.float())
    torch.testing.assert_close(got, want.bfloat16(), rtol=0, atol=0)


def three_pictures() -> tuple[list[torch.Tensor], torch.Tensor]:
    """Features of pictures of 300, 17 and 520 pixels, and whose they are."""
    features = [numbers(5, n, seed=n) * 9 for n in (300, 17, 520)]
    return features, torch.arange(3).repeat_interleave(torch.tensor([300, 17, 520]))


@pytest.mark.parametrize("transpose", [False, True])
def test_one_lattice_of_many_pictures_equals_one_each(transpose: bool) -> None:
    features, picture = three_pictures()
    values = numbers(837, 7, seed=1)
    together = TorchLattice(torch.cat(features, 1), picture, 3).rows(values, transpose=transpose)
    parts = zip(features, values.split([300, 17, 520]), strict=True)
    alone = torch.cat([TorchLattice(f).rows(v, transpose=transpose) for f, v in parts])
    assert torch.equal(together, alone)


def test_pictures_with_equal_features_do_not_meet() -> None:
    f = numbers(3, 90, seed=1) * 4
    lattice = TorchLattice(f.repeat(1, 2), torch.arange(2).repeat_interleave(90), 2)
    values = torch.cat([torch.zeros(90, 2), numbers(90, 2)])
    assert bool((lattice.rows(values)[:90] == 0).all())
    assert bool((lattice.rows(values)[90:] > 0).all())


def test_repeated_equals_built_at_once() -> None:
    once = TorchLattice(picture_features((13, 17), 3.0))
    repeated = once.repeated(3)
    built = TorchLattice(picture_features((13, 17), 3.0).repeat(1, 3), torch.arange(3).repeat_interleave(221), 3)
    values = numbers(663, 4)
    assert repeated.vertices == built.vertices
    assert torch.equal(repeated.rows(values), built.rows(values))
    assert torch.equal(repeated.norm, built.norm)
    assert torch.equal(repeated.normalized(2.5).rows(values), built.normalized(2.5).rows(values))


def test_normalized_is_weight_times_n_k_n() -> None:
    lattice = TorchLattice(numbers(3, 400, dtype=torch.float64) * 5)
    values = numbers(400, 2, seed=1, dtype=torch.float64)
    n = (lattice.filter(torch.ones(1, 400, dtype=torch.float64))[0] + 1e-20).rsqrt()[:, None]
    torch.testing.assert_close(lattice.normalized(2.5).rows(values), 2.5 * n * lattice.rows(n * values))


def test_threads_change_no_bit_of_the_twin() -> None:
    f, values = numbers(5, 5000) * 9, numbers(5000, 6, seed=1)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 1):
            torch.set_num_threads(threads)
            results.append(TorchLattice(f).rows(values))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], other) for other in results[1:])


@needs_core
def test_where_simplices_cannot_be_numbered_pixels_stand_for_themselves() -> None:
    f = numbers(8, 300) * 16
    cell, rank = torch.zeros(8, 300, dtype=torch.int64), torch.zeros(8, 300, dtype=torch.int64)
    span = [25] * 8  # about that of f: the vertices fit into 64 bits, the simplices do not
    assert torch.equal(_simplex_keys(cell, rank, [0] * 8, span, None, 1), torch.arange(300))
    core, twin = Lattice(f, backend="core"), Lattice(f, backend="torch")
    values = numbers(2, 300, seed=1)
    assert core.num_vertices == twin.num_vertices
    torch.testing.assert_close(core.filter(values), twin.filter(values), rtol=2e-5, atol=2e-5)


def test_too_many_pictures_to_be_numbered_are_refused() -> None:
    with pytest.raises(ValueError, match="fewer pictures"):
        TorchLattice(numbers(5, 10), torch.zeros(10, dtype=torch.int64), 2**50)


def test_twin_matrix_transposes_exactly_in_float64() -> None:
    twin = TorchLattice(numbers(3, 60, dtype=torch.float64) * 6)
    eye = torch.eye(60, dtype=torch.float64)
    torch.testing.assert_close(twin.filter(eye), twin.filter(eye, transpose=True).T, rtol=1e-12, atol=1e-14)


def test_gradient_is_the_transposed_filter() -> None:
    lattice = Lattice(numbers(3, 20, dtype=torch.float64) * 6)
    values = numbers(2, 20, seed=3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lattice.filter, values)
    assert torch.autograd.gradcheck(lattice.transpose, values)


@needs_core
def test_gradient_through_core_and_float64_values_on_a_float32_lattice() -> None:
    f = numbers(3, 50) * 6
    values = numbers(2, 50, seed=3).requires_grad_()
    weight = numbers(2, 50, seed=4)
    (Lattice(f, backend="core").filter(values) * weight).sum().backward()
    torch.testing.assert_close(values.grad, Lattice(f, backend="torch").transpose(weight), rtol=1e-5, atol=1e-5)
    double = Lattice(f).filter(values.detach().double())
    assert double.dtype is torch.float64
    torch.testing.assert_close(double.float(), Lattice(f).filter(values.detach()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_pixels_that_are_not_valid_are_not_there(backend: str) -> None:
    rgb, values = photo(), numbers(3, 40, 48)
    valid = numbers(40, 48, seed=5) > 0.4
    valid[:7] = valid[:, :5] = False
    got = Lattice.bilateral(rgb, 10, 15, valid, backend=backend).filter(values)
    y, x = (valid.nonzero() - torch.tensor([7, 5])).T.float()
    f = torch.stack([x / 10, y / 10, *(rgb[:, valid].float() / 15)])
    assert torch.equal(got[:, valid], Lattice(f, backend=backend).filter(values[:, valid]))
    assert bool((got[:, ~valid] == 0).all())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [(1, 1), (1, 37), (37, 1)])
def test_thin_and_constant_pictures(backend: str, size: tuple[int, int]) -> None:
    rgb = torch.full((3, *size), 77, dtype=torch.uint8)
    out = Lattice.bilateral(rgb, 10, 15, backend=backend).filter(torch.ones(1, *size))
    assert bool(((out > 0.4) & (out < 38)).all())


@pytest.mark.parametrize("backend", BACKENDS)
def test_bad_inputs(backend: str) -> None:
    rgb = photo()
    bad = [
        (lambda: Lattice(torch.zeros(65, 5), backend=backend), "D from 1 to 64"),
        (lambda: Lattice(torch.zeros(2, 0), backend=backend), "N at least 1"),
        (lambda: Lattice(torch.zeros(2, 5, dtype=torch.int64), backend=backend), "float tensor"),
        (lambda: Lattice(torch.tensor([[0.0, float("nan")]]), backend=backend), "NaN"),
        (lambda: Lattice(torch.tensor([[0.0, float("inf")]]), backend=backend), "infinite"),
        (lambda: Lattice(numbers(5, 50) * 1e12, backend=backend), "larger sigma"),
        (lambda: Lattice(numbers(2, 50) * 1e30, backend=backend), "larger sigma"),
        (lambda: Lattice(torch.full((2, 5), 3e38), backend=backend), "larger sigma|infinite"),
        (lambda: Lattice.bilateral(rgb.int(), 10, 15, backend=backend), "uint8 or float, got int32"),
        (lambda: Lattice.bilateral(rgb.float() + 200, 10, 15, backend=backend), "from .* to .* undo a network's"),
        (lambda: Lattice.bilateral(rgb.float() / 60 - 2, 10, 15, backend=backend), "levels of 0-255"),
        (lambda: Lattice.bilateral(rgb.float() * float("nan"), 10, 15, backend=backend), "from nan to nan"),
        (lambda: Lattice.bilateral(rgb[None], 10, 15, backend=backend), r"\[3, H, W\]"),
        (lambda: Lattice.bilateral(rgb, 0, 15, backend=backend), "sigma_xy"),
        (lambda: Lattice.bilateral(rgb, 10, float("nan"), backend=backend), "sigma_rgb"),
        (lambda: Lattice.bilateral(rgb, 10, 15, torch.zeros(40, 48, dtype=torch.bool), backend=backend), "one pixel"),
        (lambda: Lattice.bilateral(rgb, 10, 15, torch.ones(48, 40, dtype=torch.bool), backend=backend), "valid"),
        (lambda: Lattice.gaussian((0, 4), 3, backend=backend), "size"),
        (lambda: Lattice.gaussian((4, 4), 3, backend=backend).filter(torch.zeros(2, 15)), r"\[n, 16\]"),
        (lambda: Lattice.gaussian((4, 4), 3, backend=backend).filter(torch.zeros(2, 16).long()), "float"),
        (lambda: Lattice(torch.zeros(2, 5), backend="fast"), "backend"),
    ]
    for call, message in bad:
        with pytest.raises(ValueError, match=message):
            call()


@needs_core
def test_the_core_alone_refuses_what_the_twin_takes() -> None:
    bad = [
        (torch.zeros(9, 5), "up to 8 rows of features, got 9; or take backend='auto'"),
        (numbers(8, 50) * 1e5, "larger sigma; or take backend='auto'"),
        (numbers(2, 50) + 1e9, "larger sigma"),
    ]
    for features, message in bad:
        with pytest.raises(ValueError, match=message):
            Lattice(features, backend="core")
        assert Lattice(features).num_vertices > 0


@pytest.mark.parametrize(("dims", "reach"), [(9, 3), (12, 40), (24, 2), (5, 3e4), (3, 1e6)])
def test_many_rows_and_large_features_equal_a_plain_lattice(dims: int, reach: float) -> None:
    f = numbers(dims, 300) * reach
    f[:, 150:] = f[:, :150] + numbers(dims, 150, seed=1) * 0.3  # pairs of neighbors, however large the space is
    values = numbers(3, 300, seed=2)
    lattice = Lattice(f)
    got, want = lattice.filter(values).numpy(), lattice_filter(f.numpy(), values.numpy(), block=1)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6 * want.max())
    alone = lattice_filter(f.numpy()[:, :1], np.ones((1, 1)), block=1)[0, 0]
    assert (want > 1.2 * alone * values.numpy()).any()  # neighbors hear of each other
    other = numbers(3, 300, seed=3)
    torch.testing.assert_close((lattice.transpose(other) * values).sum(), (other * lattice.filter(values)).sum())


def test_pixels_beyond_float32_cells_stay_apart() -> None:
    # Cells of these features are 1e8 and more: pairs of equal pixels share what they hold, others nothing.
    f, values = numbers(4, 200) * 1e8, numbers(2, 200, seed=1)
    out = Lattice(torch.cat([f, f], 1)).filter(torch.cat([values, values.flip(0)], 1))
    share = Lattice(f).filter(torch.ones(1, 200))
    assert bool(((share > 0.2) & (share < 1.01)).all())
    torch.testing.assert_close(out, (share * (values + values.flip(0))).repeat(1, 2))


def test_one_word_and_several_number_the_same_lattice(monkeypatch: pytest.MonkeyPatch) -> None:
    features, picture = three_pictures()
    values = numbers(837, 7, seed=1)
    want = TorchLattice(torch.cat(features, 1), picture, 3)
    monkeypatch.setattr(torch_lattice, "WORD", 2**20)
    monkeypatch.setattr(torch_lattice, "PART", 2**10)
    got = TorchLattice(torch.cat(features, 1), picture, 3, wide=True)
    assert got.vertices == want.vertices
    torch.testing.assert_close(got.rows(values), want.rows(values))
    torch.testing.assert_close(got.rows(values, transpose=True), want.rows(values, transpose=True))
    with pytest.raises(ValueError, match="fewer pictures"):
        TorchLattice(torch.cat(features, 1), picture, 3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_float_pictures(backend: str) -> None:
    rgb, values = photo(), numbers(2, 40, 48)
    want = Lattice.bilateral(rgb, 10, 15, backend=backend).filter(values)
    assert torch.equal(Lattice.bilateral(rgb.float(), 10, 15, backend=backend).filter(values), want)
    between = rgb * 0.9 + 7.3
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(48.0), indexing="ij")
    f = torch.stack([x / 10, y / 10, *(between / 15)]).flatten(1)
    got = Lattice.bilateral(between, 10, 15, backend=backend).filter(values)
    torch.testing.assert_close(got, Lattice(f, backend=backend).filter(values.flatten(1)).reshape(values.shape))
    assert not torch.allclose(got, want, rtol=1e-2)
    rounded = (rgb.double() / 255 - 0.45) / 0.22 * 0.22 * 255 + 0.45 * 255  # some a little below 0 or above 255
    rounded[:, 0, 0], rounded[:, 0, 1] = -1e-4, 255.0001
    Lattice.bilateral(rounded, 10, 15, backend="torch")


def test_a_float_picture_of_0_to_1_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="no level of rgb is above .* multiply by 255") as caught:
        Lattice.bilateral(photo() / 255.0, 10, 15)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Lattice.bilateral(torch.full((3, 4, 5), 1e-5), 10, 15)  # a black picture whose normalization was undone
        Lattice.bilateral(torch.ones(3, 4, 5, dtype=torch.uint8), 10, 15)


def pictures() -> torch.Tensor:
    """uint8 [3, 3, 20, 24], unlike each other."""
    return torch.stack([photo(20, 24), photo(20, 24).flip(0, 2), 255 - photo(20, 24)])


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32, torch.float64])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_batch_equals_one_lattice_each(backend: str, kind: torch.dtype, transpose: bool) -> None:
    rgb, values = pictures().to(kind), numbers(3, 11, 20, 24)
    if kind is not torch.uint8:
        rgb = rgb * 0.95 + 3.3
    got = bilateral_filter(rgb, values, 10, 15, transpose=transpose, backend=backend)
    for one, some, result in zip(rgb, values, got, strict=True):
        lattice = Lattice.bilateral(one, 10, 15, backend=backend)
        want = lattice.transpose(some) if transpose else lattice.filter(some)
        torch.testing.assert_close(result, want, rtol=1e-5, atol=1e-5)


def test_a_batch_is_differentiable_in_any_precision() -> None:
    rgb, values = pictures()[:2, :, :3, :4], numbers(2, 1, 3, 4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: bilateral_filter(rgb, v, 10, 15), values)
    assert torch.autograd.gradcheck(lambda v: bilateral_filter(rgb, v, 10, 15, transpose=True), values)
    half = values.detach().half().requires_grad_()
    out = bilateral_filter(rgb, half, 10, 15)
    assert out.dtype is torch.float16
    want = bilateral_filter(rgb, half.detach().float(), 10, 15)
    torch.testing.assert_close(out.detach(), want.half())
    out.float().sum().backward()
    want = bilateral_filter(rgb, torch.ones(2, 1, 3, 4), 10, 15, transpose=True)
    torch.testing.assert_close(half.grad, want.half())


def test_a_batch_is_refused_by_name() -> None:
    rgb, values = pictures(), numbers(3, 2, 20, 24)
    bad = [
        (lambda: bilateral_filter(rgb, values[0], 10, 15), r"values must be a float tensor \[B, n, H, W\]"),
        (lambda: bilateral_filter(rgb, values.long(), 10, 15), "values must be a float"),
        (lambda: bilateral_filter(rgb, values[:0], 10, 15), "not empty"),
        (lambda: bilateral_filter(rgb[:2], values, 10, 15), r"rgb must be a tensor \[3, 3, 20, 24\]"),
        (lambda: bilateral_filter(rgb.int(), values, 10, 15), "uint8 or float"),
        (lambda: bilateral_filter(rgb * 2.0, values, 10, 15), "levels of 0-255"),
        (lambda: bilateral_filter(rgb, values, 0, 15), "sigma_xy"),
        (lambda: bilateral_filter(rgb, values, 10, -1), "sigma_rgb"),
        (lambda: bilateral_filter(rgb, values.double(), 10, 15, backend="core"), "backend 'core'"),
    ]
    for call, message in bad:
        with pytest.raises(ValueError, match=message):
            call()


def test_without_the_core_torch_takes_over_with_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tag2mask._core", None)
    load_core.cache_clear()
    try:
        with pytest.warns(UserWarning, match="compiled core") as caught:
            values = numbers(2, 40, 48)
            out = Lattice.bilateral(photo(), 10, 15).filter(values)
            Lattice.gaussian((4, 4), 3)
        assert len(caught) == 1
        assert torch.equal(out, Lattice.bilateral(photo(), 10, 15, backend="torch").filter(values))
        with pytest.raises(ValueError, match="not built"):
            Lattice(torch.zeros(2, 5), backend="core")
    finally:
        load_core.cache_clear()


def test_clear_cache() -> None:
    filtering.spatial_twin(4, 5, 3.0, torch.device("cpu"), torch.float32)
    assert filtering.spatial_twin.cache_info().currsize > 0
    clear_cache()
    assert filtering.spatial_twin.cache_info().currsize == 0
