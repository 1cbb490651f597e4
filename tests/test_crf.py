from __future__ import annotations

from pathlib import Path

import exact
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tag2mask.crf import CRFParams, dense_crf
from tag2mask.filtering import Lattice, clear_cache, load_core
from tag2mask.jobs.benchmark.peer import crf_of

GOLDEN = Path(__file__).parent / "golden"
needs_core = pytest.mark.skipif(load_core() is None, reason="the compiled core was not built")
BACKENDS = [pytest.param("core", marks=needs_core), "torch"]
PARAMS = CRFParams(bilateral_sxy=20.0, iterations=5)


def photos(count: int, height: int = 28, width: int = 36) -> torch.Tensor:
    """uint8 [count, 3, height, width], different corners of the golden photo of a cat."""
    rgb = np.load(GOLDEN / "crf_mining_chelsea.npz")["rgb"]
    crops = [rgb[12 * i : 12 * i + height, 20 * i : 20 * i + width] for i in range(count)]
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).contiguous()


def some_scores(*shape: int, seed: int = 0) -> torch.Tensor:
    """Smooth scores in [0, 1] over the last two axes."""
    coarse = torch.rand(1, int(np.prod(shape[:-2])), 5, 5, generator=torch.Generator().manual_seed(seed))
    fine = torch.nn.functional.interpolate(coarse, shape[-2:], mode="bilinear")
    return ((fine - 0.2).clamp(0, 0.6) / 0.6).reshape(shape)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("crf_mining_chelsea", CRFParams.mining()),
        ("crf_inference_coffee", CRFParams.inference()),
        ("crf_inference_rocket", CRFParams.inference()),
    ],
)
def test_golden(name: str, params: CRFParams, backend: str) -> None:
    case = np.load(GOLDEN / f"{name}.npz")
    rgb = torch.from_numpy(case["rgb"]).permute(2, 0, 1)[None]
    q = dense_crf(rgb, torch.from_numpy(case["scores"])[None], params, backend=backend)[0]
    want = torch.from_numpy(case["q"]).float()
    assert q.dtype is torch.float32
    assert float((q - want).abs().max()) <= 5e-4  # float16
    assert float((q.argmax(0) == want.argmax(0)).float().mean()) >= 0.9995
    torch.testing.assert_close(q.sum(0), torch.ones(q.shape[1:]), rtol=0, atol=2e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("labels", [1, 2, 3, 5, 21, 81])
def test_equals_the_reference_implementation(labels: int, backend: str) -> None:
    """Against pydensecrf itself on 20 random crops; it pads pixel counts to a multiple of four, so take such."""
    peer = pytest.importorskip("pydensecrf.densecrf", reason="pydensecrf is not installed")
    random = np.random.default_rng(labels)
    pictures = [np.load(GOLDEN / f"crf_{name}.npz")["rgb"] for name in ("mining_chelsea", "inference_coffee")]
    same, pixels = 0, 0
    for i in range(20):
        height, width = (int(n) for n in random.integers(6, 12, 2) * 2)
        picture = pictures[i % 2]
        y, x = (int(random.integers(0, n - m + 1)) for n, m in zip(picture.shape, (height, width), strict=False))
        crop = np.ascontiguousarray(picture[y : y + height, x : x + width])
        scores = some_scores(1, labels, height, width, seed=i)
        unary = np.ascontiguousarray(-scores[0].clamp(1e-5, 1).log().reshape(labels, -1).numpy())
        reference = crf_of(peer, crop, unary, CRFParams.mining())
        want = np.array(reference.inference(10)).reshape(labels, height, width)
        rgb = torch.from_numpy(crop).permute(2, 0, 1)[None]
        q = dense_crf(rgb, scores, CRFParams.mining(), backend=backend)[0].numpy()
        assert np.abs(q - want).max() <= 1e-4
        same, pixels = same + int((q.argmax(0) == want.argmax(0)).sum()), pixels + height * width
    assert same / pixels >= 0.9999


def test_strips_of_many_labels_and_fine_colors_equal_the_reference_implementation() -> None:
    """Such pictures are worked on in strips of 80 columns here, of at most 128 in general; the reference has none."""
    peer = pytest.importorskip("pydensecrf.densecrf", reason="pydensecrf is not installed")
    picture = np.load(GOLDEN / "crf_inference_coffee.npz")["rgb"]
    height, width = picture.shape[:2]
    scores = some_scores(1, 21, height, width)
    unary = np.ascontiguousarray(-scores[0].clamp(1e-5, 1).log().reshape(21, -1).numpy())
    want = np.array(crf_of(peer, picture, unary, CRFParams.inference()).inference(10)).reshape(21, height, width)
    q = dense_crf(torch.from_numpy(picture).permute(2, 0, 1)[None], scores, CRFParams.inference())[0].numpy()
    assert np.abs(q - want).max() <= 1e-4
    assert (q.argmax(0) == want.argmax(0)).mean() >= 0.9999


@pytest.mark.parametrize("backend", BACKENDS)
def test_exact_twin(backend: str) -> None:
    rgb, scores = photos(1), some_scores(1, 3, 28, 36)
    q = dense_crf(rgb, scores, PARAMS, backend=backend)[0].flatten(1).numpy()
    kernels = [
        (exact.gaussian_kernel(exact.features(rgb[0].numpy(), 3.0, None)), 3.0),
        (exact.gaussian_kernel(exact.features(rgb[0].numpy(), 20.0, 13.0)), 10.0),
    ]
    want = exact.dense_crf(scores[0].flatten(1).double().numpy(), kernels, 5)
    assert (q.argmax(0) == want.argmax(0)).mean() > 0.95
    assert (scores[0].flatten(1).numpy().argmax(0) == want.argmax(0)).mean() < 0.95  # the CRF does something
    assert np.abs(q - want).mean() < 0.03


@needs_core
@pytest.mark.parametrize("labels", [1, 2, 3, 4, 5, 8, 9, 21])
@pytest.mark.parametrize("runs", [1, 2, 3])
def test_core_equals_twin(labels: int, runs: int) -> None:
    rgb, scores = photos(2), some_scores(2, runs, labels, 28, 36)
    valid = torch.ones(2, 28, 36, dtype=torch.bool)
    valid[1, :5] = False
    valid[1, 20, 3:17] = False
    present = torch.ones(2, labels, dtype=torch.bool)
    present[0, 2 : labels - 1] = False
    core = dense_crf(rgb, scores, PARAMS, valid, present, backend="core")
    twin = dense_crf(rgb, scores, PARAMS, valid, present, backend="torch")
    torch.testing.assert_close(core, twin, rtol=0, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_stacked_runs_equal_separate_runs(backend: str) -> None:
    rgb, scores = photos(2), some_scores(2, 3, 5, 28, 36)
    stacked = dense_crf(rgb, scores, PARAMS, backend=backend)
    assert stacked.shape == scores.shape
    for r in range(3):
        alone = dense_crf(rgb, scores[:, r], PARAMS, backend=backend)
        torch.testing.assert_close(stacked[:, r], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_absent_label_equals_fewer_labels(backend: str) -> None:
    rgb, scores = photos(2), some_scores(2, 2, 6, 28, 36)
    scores[:, :, 4] = float("nan")  # never read
    present = torch.tensor([[True, False, True, True, False, False]] * 2)
    q = dense_crf(rgb, scores, PARAMS, present=present, backend=backend)
    assert torch.equal(q[:, :, present[0]], dense_crf(rgb, scores[:, :, present[0]].clone(), PARAMS, backend=backend))
    assert bool((q[:, :, ~present[0]] == 0).all())


@pytest.mark.parametrize("backend", BACKENDS)
def test_padding_equals_the_picture_without_padding(backend: str) -> None:
    rgb, scores = photos(1), some_scores(1, 2, 3, 28, 36)
    padded_rgb = torch.full((1, 3, 40, 50), 200, dtype=torch.uint8)
    padded_scores = some_scores(1, 2, 3, 40, 50, seed=9)
    valid = torch.zeros(1, 40, 50, dtype=torch.bool)
    padded_rgb[..., 4:32, 6:42], padded_scores[..., 4:32, 6:42], valid[..., 4:32, 6:42] = rgb, scores, True
    q = dense_crf(padded_rgb, padded_scores, PARAMS, valid, backend=backend)
    assert torch.equal(q[..., 4:32, 6:42], dense_crf(rgb, scores, PARAMS, backend=backend))
    outside = padded_scores.clamp(1e-5, 1) / padded_scores.clamp(1e-5, 1).sum(2, keepdim=True)  # softmax(-unary)
    hole = ~valid[0]
    torch.testing.assert_close(q[:, :, :, hole], outside[:, :, :, hole], rtol=0, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_scattered_valid_pixels_equal_mean_field_over_these_pixels(backend: str) -> None:
    rgb, scores = photos(1), some_scores(1, 3, 28, 36)
    valid = torch.rand(1, 28, 36, generator=torch.Generator().manual_seed(1)) > 0.5
    q = dense_crf(rgb, scores, PARAMS, valid, backend=backend)[0][:, valid[0]]
    y, x = (valid[0].nonzero() - valid[0].nonzero().amin(0)).T.float()
    log_scores = scores[0][:, valid[0]].clamp(1e-5, 1).log()
    spatial = Lattice(torch.stack([x, y]) / 3, backend="torch")
    bilateral = Lattice(torch.stack([x / 20, y / 20, *(rgb[0][:, valid[0]].float() / 13)]), backend="torch")
    want = log_scores.softmax(0)
    for _ in range(5):
        exponent = log_scores
        for lattice, weight in ((spatial, 3.0), (bilateral, 10.0)):
            n = (lattice.filter(torch.ones(1, len(x))) + 1e-20).rsqrt()
            exponent = exponent + weight * n * lattice.filter(n * want)
        want = exponent.softmax(0)
    torch.testing.assert_close(q, want, rtol=0, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_valid_and_no_steps_give_the_softmax_of_the_unary(backend: str) -> None:
    rgb, scores = photos(1), some_scores(1, 3, 28, 36)
    want = scores.clamp(1e-5, 1) / scores.clamp(1e-5, 1).sum(1, keepdim=True)
    nothing = torch.zeros(1, 28, 36, dtype=torch.bool)
    torch.testing.assert_close(dense_crf(rgb, scores, PARAMS, nothing, backend=backend), want, rtol=0, atol=1e-6)
    no_steps = dense_crf(rgb, scores, CRFParams(iterations=0), backend=backend)
    torch.testing.assert_close(no_steps, want, rtol=0, atol=1e-6)


def ragged_batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Four pictures, two runs, five labels: a padded one, one with holes, one with no valid pixel, a whole one."""
    rgb, scores = photos(4, 20, 24), some_scores(4, 2, 5, 20, 24)
    valid = torch.ones(4, 20, 24, dtype=torch.bool)
    valid[0, :6] = valid[0, :, 19:] = False
    valid[1] = torch.rand(20, 24, generator=torch.Generator().manual_seed(1)) > 0.3
    valid[2] = False
    present = torch.tensor([[1, 0, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 1, 0, 1], [0, 0, 0, 0, 1]]).bool()
    return rgb, scores, valid, present


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_ragged_batch_equals_its_pictures_alone(backend: str) -> None:
    rgb, scores, valid, present = ragged_batch()
    for ragged in ((None, None), (valid, None), (None, present), (valid, present)):
        together = dense_crf(rgb, scores, PARAMS, *ragged, backend=backend)
        for i in range(4):
            one = slice(i, i + 1)
            alone = (None if x is None else x[one] for x in ragged)
            want = dense_crf(rgb[one], scores[one], PARAMS, *alone, backend=backend)
            torch.testing.assert_close(together[one], want, rtol=0, atol=2e-6)


class Counter(TorchDispatchMode):
    """Operations that run, and those that a GPU would be waited for."""

    operations = waits = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.operations += 1
        self.waits += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("ragged", [False, True])
def test_work_on_a_gpu_is_launched_once_for_all_pictures(ragged: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    lists = []
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self, f=torch.Tensor.tolist: lists.append(1) or f(self))
    rgb, scores, valid, present = (x[:2] for x in ragged_batch())
    dense_crf(rgb, scores, PARAMS, backend="torch")  # fills the cache of spatial lattices

    def count(copies: int, iterations: int) -> tuple[int, int]:
        batch = [x.repeat(copies, *[1] * (x.ndim - 1)) for x in (rgb, scores, valid, present)]
        params = CRFParams(bilateral_sxy=20.0, iterations=iterations)
        lists.clear()
        with Counter() as counter:
            dense_crf(batch[0], batch[1], params, *(batch[2:] if ragged else ()), backend="torch")
        return counter.operations, counter.waits + len(lists)

    few, waits = count(1, 2)
    assert count(5, 2) == (few, waits)
    assert waits == (4 if not ragged else 8)
    assert count(1, 3)[1] == waits  # a step waits for nothing


@pytest.mark.parametrize("backend", BACKENDS)
def test_swapped_labels_swap_the_marginals(backend: str) -> None:
    rgb, scores = photos(1), some_scores(1, 4, 28, 36)
    order = [2, 0, 3, 1]
    q = dense_crf(rgb, scores, PARAMS, backend=backend)
    torch.testing.assert_close(
        dense_crf(rgb, scores[:, order], PARAMS, backend=backend), q[:, order], rtol=0, atol=1e-5
    )


@needs_core
def test_threads_and_batch_change_nothing() -> None:
    rgb, scores = photos(3), some_scores(3, 2, 3, 28, 36)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(dense_crf(rgb, scores, PARAMS))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    assert torch.equal(results[0][1:2], dense_crf(rgb[1:2], scores[1:2], PARAMS))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [(1, 1), (1, 33), (33, 1), (5, 6)])
def test_thin_and_constant_pictures(backend: str, size: tuple[int, int]) -> None:
    rgb = torch.full((1, 3, *size), 255, dtype=torch.uint8)
    scores = torch.tensor([0.7, 0.3])[None, :, None, None].expand(1, 2, *size)
    q = dense_crf(rgb, scores, backend=backend)
    assert bool((q[:, 0] > 0.7).all())  # neighbors, and the pixel itself, pull towards the majority
    torch.testing.assert_close(q.sum(1), torch.ones(1, *size), rtol=0, atol=1e-6)


def test_input_is_left_alone_and_other_types_are_taken() -> None:
    rgb, scores = photos(1), some_scores(1, 3, 28, 36)
    copy = scores.clone()
    q = dense_crf(rgb, scores, PARAMS)
    assert torch.equal(scores, copy)
    torch.testing.assert_close(dense_crf(rgb, scores.double(), PARAMS), q, rtol=0, atol=0)
    strided = scores.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2).requires_grad_()
    assert torch.equal(dense_crf(rgb, strided, PARAMS), q)


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_pictures_and_expanded_scores(backend: str) -> None:
    wide = photos(2, 28, 72)
    scores = some_scores(1, 3, 28, 36).expand(2, 3, 28, 36)
    want = dense_crf(wide[..., ::2].clone(), scores.clone(), PARAMS, backend=backend)
    assert torch.equal(dense_crf(wide[..., ::2], scores, PARAMS, backend=backend), want)


@pytest.mark.parametrize("backend", BACKENDS)
def test_too_small_a_width_is_refused(backend: str) -> None:
    params = CRFParams(bilateral_sxy=1e-6)
    with pytest.raises(ValueError, match="larger sigma"):
        dense_crf(photos(1), some_scores(1, 3, 28, 36), params, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_strong_weights_stay_finite(backend: str) -> None:
    q = dense_crf(photos(1), some_scores(1, 3, 28, 36), CRFParams(bilateral_compat=1e4), backend=backend)
    assert bool(q.isfinite().all())
    torch.testing.assert_close(q.sum(1), torch.ones(1, 28, 36), rtol=0, atol=2e-6)


@needs_core
def test_cache_is_bounded() -> None:
    core = load_core()
    assert core is not None
    clear_cache()
    for width in range(1, 30):
        dense_crf(photos(1, 4, width), some_scores(1, 2, 4, width), PARAMS)
    assert core.cache_size() == 16
    clear_cache()
    assert core.cache_size() == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_bad_inputs(backend: str) -> None:
    rgb, scores = photos(2), some_scores(2, 3, 28, 36)
    broken = scores.clone()
    broken[1, 2, 3, 4] = float("nan")
    yes = torch.ones(2, 3, dtype=torch.bool)
    none_of_one = yes.clone()
    none_of_one[1] = False
    valid = torch.ones(2, 28, 36, dtype=torch.bool)
    hole = valid.clone()
    hole[1, 3, 4] = False
    bad = [
        ((rgb.float(), scores), {}, "rgb must be uint8"),
        ((rgb[:1], scores), {}, "rgb must be"),
        ((rgb[..., :-1], scores), {}, "rgb must be"),
        ((rgb, scores[0]), {}, "scores must be"),
        ((rgb, scores.long()), {}, "scores must be a float"),
        ((rgb[..., :0], scores[..., :0]), {}, "empty"),
        ((rgb, broken), {}, "picture 1 .* NaN"),
        ((rgb, broken), {"valid": hole}, "picture 1 .* NaN"),
        ((rgb, scores), {"valid": valid.float()}, "valid must be bool"),
        ((rgb, scores), {"valid": valid[:, :-1]}, "valid must be"),
        ((rgb, scores), {"present": yes[:, :2]}, "present must be"),
        ((rgb, scores), {"present": none_of_one}, "at least one label"),
    ]
    for arguments, options, message in bad:
        with pytest.raises(ValueError, match=message):
            dense_crf(*arguments, PARAMS, **options, backend=backend)
