"""Fuzz the Python side of the core: layouts, dtypes, NaN; a right answer or ValueError, nothing else.

    python tools/fuzz.py [cases [seed]]     cases seed, seed + 1, ...; `python tools/fuzz.py 1 N` repeats number N

Every case draws its inputs from its own seed. The judge is `backend="torch"` on plain contiguous float32 copies of the
same numbers (float64 where they came so: on the border of a cell the two precisions may pick different vertices).
`tools/sanitize.sh` runs this after the driver in C++.
"""

from __future__ import annotations

import random
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from tag2mask.compat.bilateralfilter import bilateralfilter_batch
from tag2mask.crf import CRFParams, dense_crf
from tag2mask.filtering import Lattice, bilateral_filter, load_core
from tag2mask.losses import dense_energy_loss
from tag2mask.torch_lattice import picture_features

SIZES = (1, 1, 2, 3, 5, 7, 8, 9, 13, 17, 23, 31, 32)


class Draw(random.Random):
    """Random numbers, tensors and layouts of one case."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.generator = torch.Generator().manual_seed(seed)

    def numbers(self, *shape: int) -> Tensor:
        """float32 in [0, 1)."""
        return torch.rand(shape, generator=self.generator)

    def chance(self, p: float) -> bool:
        """True with probability p."""
        return self.random() < p

    def picture(self, batch: int, height: int, width: int) -> Tensor:
        """uint8 [batch, 3, height, width]: noise, a constant, or smooth."""
        kind = self.choice(("noise", "constant", "smooth"))
        if kind == "noise":
            values = self.numbers(batch, 3, height, width)
        elif kind == "constant":
            values = self.numbers(batch, 3, 1, 1).expand(batch, 3, height, width)
        else:
            values = torch.nn.functional.interpolate(self.numbers(batch, 3, 3, 3), (height, width), mode="bilinear")
        return (values * 255).to(torch.uint8)

    def mask(self, *shape: int) -> Tensor:
        """Bools of `shape` with a share of True between none and all."""
        return self.numbers(*shape) < self.choice((0.0, 0.3, 0.9, 1.1))

    def laid_out(self, x: Tensor) -> Tensor:
        """The same numbers in another layout in memory."""
        kind = self.choice(("contiguous", "channels last", "every second", "offset", "reversed axes", "expanded"))
        if kind == "channels last" and x.ndim >= 3:
            return x.movedim(1, -1).contiguous().movedim(-1, 1)
        if kind == "every second":
            wide = torch.zeros(*x.shape[:-1], 2 * x.shape[-1], dtype=x.dtype)
            wide[..., ::2] = x
            return wide[..., ::2]
        if kind == "offset":
            return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)
        if kind == "reversed axes":
            axes = tuple(reversed(range(x.ndim)))
            return x.permute(axes).contiguous().permute(axes)
        if kind == "expanded" and bool((x == x[:1]).all()):
            return x[:1].expand(x.shape)
        return x


def expect_close(got: Tensor, want: Tensor, atol: float, what: str) -> None:
    """Raise AssertionError with the gap where two tensors differ."""
    gap = float((got.detach().double() - want.detach().double()).abs().max()) if got.numel() else 0.0
    assert got.shape == want.shape, f"{what}: {list(got.shape)}, not {list(want.shape)}"
    assert gap <= atol, f"{what}: {list(got.shape)} differ by {gap:.3g}, allowed {atol:.3g}"


def refused(call: Callable[[], Any]) -> bool:
    """Whether a call raises ValueError; any other exception passes through."""
    try:
        call()
    except ValueError:
        return True
    return False


def fuzz_crf(draw: Draw) -> None:
    """`dense_crf` against its torch twin, and its refusals."""
    batch, runs = draw.randint(1, 3), draw.randint(1, 3)
    labels, height, width = draw.choice((1, 2, 3, 4, 5, 8, 9, 21, 33, 81)), draw.choice(SIZES), draw.choice(SIZES)
    rgb, scores = draw.picture(batch, height, width), draw.numbers(batch, runs, labels, height, width)
    scores = scores.to(draw.choice((torch.float32, torch.float32, torch.float64, torch.float16, torch.bfloat16)))
    if draw.chance(0.3):
        scores[draw.mask(*scores.shape)] = draw.choice((0.0, 1.0, -1.0, 2.0, float("inf"), float("-inf")))
    if draw.chance(0.3):
        scores = scores[:, 0]
    valid = draw.mask(batch, height, width) if draw.chance(0.6) else None
    present = draw.mask(batch, labels) if draw.chance(0.5) else None
    params = CRFParams(
        gaussian_sxy=draw.choice((0.5, 3.0, 40.0)),
        bilateral_sxy=draw.choice((2.0, 20.0, 80.0)),
        bilateral_srgb=draw.choice((3.0, 13.0, 100.0)),
        iterations=draw.choice((0, 1, 3, 5)),
    )

    def run() -> Tensor:
        kept = [None if x is None else draw.laid_out(x) for x in (valid, present)]
        return dense_crf(draw.laid_out(rgb), draw.laid_out(scores), params, *kept)

    if present is not None and not bool(present.any(1).all()):
        assert refused(run), "a picture without any label was taken"
        return
    got = run()
    want = dense_crf(rgb, scores.float().contiguous(), params, valid, present, backend="torch")
    assert got.dtype is torch.float32 and bool(got.isfinite().all()), "marginals are not finite float32"
    expect_close(got.sum(-3), torch.ones_like(got.sum(-3)), 1e-5, "the sum of the marginals")
    expect_close(got, want, 1e-3, "marginals and their twin")
    broken = scores.clone()
    place = tuple(draw.randrange(n) for n in scores.shape)
    broken[place] = float("nan")
    reads = present is None or bool(present[place[0], place[-3]])
    assert refused(lambda: dense_crf(rgb, broken, params, valid, present)) == reads, "NaN is refused where it is read"
    assert refused(lambda: dense_crf(rgb, scores.long(), params)), "integer scores were taken"
    assert refused(lambda: dense_crf(rgb.float(), scores, params)), "a float picture was taken"


def fuzz_lattice(draw: Draw) -> None:
    """`Lattice` against its torch twin, with gradients, and its refusals."""
    dims, pixels, channels = draw.randint(1, 12), draw.choice((1, 2, 3, 9, 50, 200)), draw.choice((1, 3, 8, 9, 33))
    features = (draw.numbers(dims, pixels) - 0.5) * draw.choice((0.0, 1.0, 5.0, 20.0))
    values = draw.numbers(channels, pixels) - 0.5
    dtype = draw.choice((torch.float32, torch.float32, torch.float64, torch.float16, torch.bfloat16))
    lattice, twin = Lattice(draw.laid_out(features)), Lattice(features, backend="torch")
    given = draw.laid_out(values.to(dtype)).requires_grad_()
    plain = values.to(dtype).float()
    room = 1e-4 * max(1, pixels**0.5) + {torch.float16: 2e-3, torch.bfloat16: 2e-2}.get(dtype, 0.0) * pixels
    for name, other in (("filter", "transpose"), ("transpose", "filter")):
        out = getattr(lattice, name)(given)
        assert out.dtype is dtype, f"{dtype} values gave {out.dtype}"
        expect_close(out.detach(), getattr(twin, name)(plain), room, f"{name} and its twin")
        (slope,) = torch.autograd.grad(out.float().sum(), given)
        expect_close(slope, getattr(twin, other)(torch.ones_like(plain)), room, f"the gradient of {name}")
    broken = features.clone()
    broken[draw.randrange(dims), draw.randrange(pixels)] = draw.choice((float("nan"), float("inf"), float("-inf")))
    assert refused(lambda: Lattice(broken)), "features that are not finite were taken"
    assert refused(lambda: Lattice(features.long())), "integer features were taken"
    assert refused(lambda: lattice.filter(values[:, 1:])), "values of another size were taken"
    huge = features * draw.choice((1e7, 1e20, 1e38))
    with suppress(ValueError):
        assert bool(Lattice(huge).filter(values).isfinite().all()), "huge features give values that are not finite"
    got = lattice.filter(torch.full_like(values, float("nan")))
    assert bool(got.isnan().all()), "NaN values must stay NaN"


def fuzz_energy(draw: Draw) -> None:
    """`dense_energy_loss` and its gradient against the torch twin."""
    batch, labels = draw.randint(1, 3), draw.choice((1, 2, 3, 9, 21))
    height, width = draw.choice(SIZES), draw.choice(SIZES)
    scale = draw.choice((0.25, 0.5, 0.7, 1.0, 1.5))
    rgb = draw.picture(batch, height, width)
    probs = draw.numbers(batch, labels, height, width).softmax(1)
    probs = probs.to(draw.choice((torch.float32, torch.float32, torch.float64, torch.float16, torch.bfloat16)))
    ids = torch.randint(0, labels, (batch, height, width), generator=draw.generator)
    ids[draw.mask(batch, height, width)] = 255
    valid = draw.mask(batch, height, width) if draw.chance(0.6) else None
    sigmas = draw.choice((5.0, 15.0, 100.0)), draw.choice((4.0, 100.0))
    gradient = draw.choice(("surrogate", "exact"))

    def run(p: Tensor, backend: Any = "auto") -> Tensor:
        if backend == "torch":
            return dense_energy_loss(rgb, p, ids, valid, *sigmas, scale, 1.0, gradient, backend="torch")
        laid = [None if x is None else draw.laid_out(x) for x in (rgb, ids, valid)]
        return dense_energy_loss(laid[0], p, laid[1], laid[2], *sigmas, scale, 1.0, gradient)  # type: ignore[arg-type]

    given = draw.laid_out(probs).requires_grad_()
    if min(height, width) * scale < 1:
        assert refused(lambda: run(given)), "a picture of which nothing is left was taken"
        return
    loss = run(given)
    judge = probs.to(torch.float64 if probs.dtype is torch.float64 else torch.float32).requires_grad_()
    want = run(judge, "torch")
    room = 1e-4 * max(1.0, abs(float(want.detach())))
    expect_close(loss.detach(), want.detach(), room, "the energy and its twin")
    (got_slope,), (slope,) = torch.autograd.grad(loss, given), torch.autograd.grad(want, judge)
    coarse = {torch.float16: 2e-3, torch.bfloat16: 1e-2}.get(probs.dtype, 1e-4)
    room = coarse * max(1.0, float(slope.abs().max()))
    expect_close(got_slope, slope, room, f"the {gradient} gradient of the energy")
    broken = probs.clone()
    broken[tuple(draw.randrange(n) for n in broken.shape)] = float("nan")
    refused(lambda: run(broken))  # NaN or ValueError: what counts is that nothing else is raised
    if min(height, width) > 1:
        whole, kind = [dense_energy_loss(x, probs, ids, valid) for x in (rgb, rgb.float())], probs.dtype
        assert torch.equal(*whole), f"whole levels as floats give another energy of {kind}"
    assert refused(lambda: dense_energy_loss(rgb.float() - 256, probs, ids, valid)), "colors below 0 were taken"


def fuzz_batch(draw: Draw) -> None:
    """`bilateral_filter` and the stand-in for the extension `bilateralfilter` against the torch twin."""
    batch, channels = draw.randint(1, 3), draw.choice((1, 3, 8, 9, 33))
    height, width = draw.choice(SIZES), draw.choice(SIZES)
    rgb = draw.picture(batch, height, width) * draw.choice((1, 1.0, 0.71))
    values = draw.numbers(batch, channels, height, width) - 0.5
    dtype = draw.choice((torch.float32, torch.float32, torch.float16, torch.bfloat16))
    sigmas, transpose = (draw.choice((5.0, 100.0)), draw.choice((4.0, 50.0))), draw.chance(0.5)
    got = bilateral_filter(draw.laid_out(rgb), draw.laid_out(values.to(dtype)), *sigmas, transpose=transpose)
    plain = values.to(dtype).float()
    want = bilateral_filter(rgb, plain, *sigmas, transpose=transpose, backend="torch")
    room = 1e-5 * (height * width) ** 0.5 + {torch.float16: 2e-3, torch.bfloat16: 2e-2}.get(dtype, 0.0) * height * width
    assert got.dtype is dtype, f"{dtype} values gave {got.dtype}"
    expect_close(got, want, room + 1e-5, "the filter of a batch and its twin")

    out, rest = torch.zeros(values.shape), -height * width % 4
    sizes = batch, channels, height, width
    bilateralfilter_batch(draw.laid_out(rgb), draw.laid_out(values), out, *sizes, *reversed(sigmas))
    for picture, some, result in zip(rgb, values, out, strict=True):
        features = picture_features((height, width), sigmas[0], rgb=picture[None], sigma_rgb=sigmas[1])
        lattice = Lattice(torch.nn.functional.pad(features, (0, rest)), backend="torch")
        filled = lattice.filter(torch.nn.functional.pad(some.flatten(1), (0, rest)))[:, : height * width]
        expect_close(
            result.flatten(1), filled, 1e-4 + 1e-5 * (height * width) ** 0.5, "the stand-in and a filled lattice"
        )


def main() -> int:
    """Run the cases that the command line names; the exit code is 1 where one failed."""
    cases = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    core = load_core()
    failed = 0
    for seed in range(first, first + cases):
        draw = Draw(seed)
        try:
            draw.choice((fuzz_crf, fuzz_lattice, fuzz_energy, fuzz_batch))(draw)
        except Exception as error:  # whatever it is, it is a finding
            failed += 1
            where = traceback.extract_tb(error.__traceback__)[-1]
            print(f"case {seed} failed: {type(error).__name__}: {error} ({where.name}, line {where.lineno})")
    print(f"python, {core.instruction_set() if core else 'no core'}: {cases} cases from seed {first}, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
