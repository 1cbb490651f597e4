"""How fast this machine runs the kernels and a training step, beside pydensecrf where that is installed.

The contenders of a measurement alternate (A, B, A, B, ...) after one round that is not counted, and their medians are
compared. One thread is measured in CPU time of the process; several threads, processes or a GPU in wall time.

`python -m tag2mask.benchmark FILE.json [PAGE.md]` prints what `tag2mask bench --json` wrote as Markdown, or puts it
between the two marks of a page.
"""

from __future__ import annotations

import contextlib
import csv
import datetime
import difflib
import importlib
import importlib.metadata
import io
import itertools
import json
import math
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

from tag2mask import __version__, reliable
from tag2mask.config import CRFParams, ReliableConfig, TrainConfig
from tag2mask.crf import MIN_SCORE, dense_crf
from tag2mask.data.objects import color, noise
from tag2mask.data.shapes import write_builtin
from tag2mask.files import write_atomically, write_text
from tag2mask.filtering import Lattice, clear_cache, load_core
from tag2mask.losses import _Kernel

ROUNDS, QUICK_ROUNDS, MOST_CURVE_ROUNDS = 7, 2, 3
QUICK_SHRINK = 4
"""`quick` divides the sides of the pictures by this."""
GROWTH_BAR = 1.3
"""Most that a pixel at 2048 x 2048 may cost, as a multiple of one at 512 x 512."""
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
NO_PEER = "it is not installed, so only own times are shown; `pip install pydensecrf2` builds it (needs a C++ compiler)"

Size = tuple[int, int]
Clock = Literal["cpu", "wall"]
Timer = Callable[[], float]
"""Does its work once and returns the seconds that it took."""
_CLOCKS: dict[Clock, Callable[[], float]] = {"cpu": time.process_time, "wall": time.perf_counter}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table; times are medians in milliseconds."""

    name: str
    """What --only calls it."""
    work: str
    """What tag2mask did."""
    against: str
    """What pydensecrf did."""
    clock: Clock
    """CPU time of the process, or wall time."""
    threads: int
    """Threads of tag2mask."""
    rounds: int
    """Counted rounds."""
    own_ms: float
    """Median of tag2mask."""
    peer_ms: float | None
    """Median of pydensecrf; None without it."""
    own_all_ms: list[float]
    """Every round of tag2mask."""
    peer_all_ms: list[float]
    """Every round of pydensecrf."""
    measure: Literal["speedup", "share"]
    """`speedup`: peer over own, at least the bar. `share`: own over peer, at most the bar."""
    value: float | None
    """The speedup or share of the medians."""
    bar: float | None
    """What the value is held against; None where nothing is asked."""
    met: bool | None
    """None where there is no value or no bar, or the run was quick: bars hold at full size only."""
    max_difference: float | None = None
    """Largest difference between the two results of the first picture, where both compute the same."""
    crf_share: float | None = None
    """Share of a training step that the CRF votes and the reliable labels take, 0-1."""
    peer_crf_share: float | None = None
    """The same with pydensecrf in the step."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One point of a curve: both CRF runs of a picture, one thread, CPU time."""

    height: int
    width: int
    labels: int
    rounds: int
    own_ms: float
    peer_ms: float | None
    vertices_per_pixel: float
    """Vertices of the bilateral lattice: how hard the picture is."""


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """What `bench` measured, and where."""

    command: str
    date: str
    """UTC, YYYY-MM-DD."""
    machine: dict[str, Any]
    """Core in use, processor, versions, load average at the start."""
    quick: bool
    rows: list[Row]
    pixels: list[Point]
    """Cost against the number of pixels."""
    growth: float | None
    """Cost of a pixel of the largest picture of that curve, as a multiple of one at 512 x 512."""
    labels: list[Point]
    """Cost against the number of labels."""
    skipped: dict[str, str]
    """Measurements that were not made, with the reason."""
    plots: list[str]
    """Files that were drawn."""

    @classmethod
    def from_dict(cls, values: Any) -> BenchReport:
        """The report that `--json` printed.

        Raises:
            ValueError: it is something else.
        """
        try:
            rows = [Row(**row) for row in values["rows"]]
            curves = {name: [Point(**point) for point in values[name]] for name in ("pixels", "labels")}
            return cls(**values | {"rows": rows} | curves)
        except (TypeError, KeyError) as error:
            raise ValueError(f"this is no report of `tag2mask bench --json` of this version ({error})") from error


@dataclass(frozen=True, kw_only=True)
class Case:
    """One line of the table before it is measured: what runs on which pictures."""

    work: str
    """`{size}` stands for the size of the pictures, `{other}` for that of the peer's."""
    bar: float
    against: str = "two pydensecrf runs"
    size: Size = (448, 448)
    labels: int = 3
    runs: int = 2
    """Unaries of each picture."""
    batch: int = 1
    params: CRFParams = field(default_factory=CRFParams.mining)
    threads: int = 1
    """Threads of tag2mask, and processes of pydensecrf."""
    cold: bool = False
    """Forget the cached spatial lattices before each run."""
    backend: Literal["auto", "torch"] = "auto"
    device: Literal["cpu", "cuda"] = "cpu"
    energy: bool = False
    """The filter of the dense energy instead of a CRF, as a share of one CRF run at `_ENERGY_PEER`."""

    @property
    def clock(self) -> Clock:
        """CPU time for one thread, else wall time."""
        return "cpu" if self.threads == 1 and self.device == "cpu" else "wall"


_PAIR = "both CRF runs of a picture (R = 2), {size}, "
_ENERGY_PEER: Size = (375, 500)
_ENERGY = Case(
    work="energy filter 4 × 21 channels, one thread, {size}",
    bar=0.0,
    against="share of one pydensecrf run at {other}, L = 21",
    batch=4,
    labels=21,
    runs=1,
    energy=True,
)
_SINGLE = Case(work="", bar=0.0, against="one pydensecrf run", runs=1)
CASES: dict[str, Case] = {
    "pair-l3": Case(work=_PAIR + "L = 3, one thread", bar=10.0),
    "pair-l5": Case(work=_PAIR + "L = 5, one thread", bar=7.0, labels=5),
    "pair-l21": Case(work=_PAIR + "L = 21, one thread", bar=4.0, labels=21),
    "cold-l3": replace(_SINGLE, work="single run with nothing cached, {size}, L = 3, one thread", bar=5.0, cold=True),
    "batch-8": Case(
        work="both runs, batch of 8, {size}, L = 3, two threads",
        bar=10.0,
        against="pydensecrf in two processes",
        batch=8,
        threads=2,
    ),
    "inference-l21": replace(
        _SINGLE,
        work="inference CRF, {size}, L = 21, one thread",
        bar=4.0,
        size=(375, 500),
        labels=21,
        params=CRFParams.inference(),
    ),
    "energy-160": replace(_ENERGY, size=(160, 160), bar=0.019),
    "energy-224": replace(_ENERGY, size=(224, 224), bar=0.039),
    "twin-l3": replace(_SINGLE, work="torch twin on CPU, {size}, L = 3, one thread", bar=0.5, backend="torch"),
    "cuda-batch-8": Case(
        work="CUDA, batch of 8 pairs at {size}, L = 3",
        bar=200.0,
        against="two pydensecrf runs per picture, one core",
        batch=8,
        device="cuda",
    ),
}
NAMES = (*CASES, "training-step", "pixels", "labels")
"""Everything that --only may name."""


def bench(
    only: Sequence[str] = (),
    *,
    rounds: int | None = None,
    quick: bool = False,
    plots: str | Path | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> BenchReport:
    """Measure the kernels and a training step on this machine, against pydensecrf if it is installed.

    Args:
        only: Names of the measurements, from `NAMES`; empty for all.
        rounds: Counted rounds of each contender; 7 by default, 2 with `quick`. The two curves take at most 3.
        quick: Pictures of a quarter of the side and few rounds: a look that everything works, not a measurement.
        plots: Folder for performance-pixels.svg and performance-labels.svg.
        progress: Called with (done, all, name) before each measurement and at the end.

    Raises:
        ValueError: unknown name, no rounds, or plots of a curve that is not measured.
    """
    check_arguments(only, rounds, plots)
    names = [name for name in NAMES if not only or name in only]
    rounds = rounds or (QUICK_ROUNDS if quick else ROUNDS)
    machine, peer = describe_machine(), load_peer()
    rows: list[Row] = []
    curves: dict[str, list[Point]] = {"pixels": [], "labels": []}
    skipped: dict[str, str] = {} if peer is not None else {"pydensecrf": NO_PEER}
    for done, name in enumerate(names):
        if progress is not None:
            progress(done, len(names), name)
        if name in curves:
            curves[name] = measure_curve(_problems(name, quick=quick), min(rounds, MOST_CURVE_ROUNDS), peer)
        elif name == "training-step":
            rows.append(measure_training(rounds, peer, quick=quick))
        elif CASES[name].device == "cuda" and not torch.cuda.is_available():
            skipped[name] = "there is no CUDA GPU that torch can use"
        else:
            rows.append(measure_case(name, CASES[name], rounds, peer, shrink=QUICK_SHRINK if quick else 1))
    if progress is not None:
        progress(len(names), len(names), "done")
    drawn = [] if plots is None else [draw(Path(plots), name, points) for name, points in curves.items()]
    return BenchReport(
        command=_command(only, rounds, plots, quick=quick),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        machine=machine,
        quick=quick,
        rows=rows,
        pixels=curves["pixels"],
        growth=growth(curves["pixels"]),
        labels=curves["labels"],
        skipped=skipped,
        plots=[str(path) for path in drawn],
    )


def check_arguments(only: Sequence[str], rounds: int | None, plots: str | Path | None) -> None:
    """Refuse what `bench` cannot do, before anything is measured."""
    for name in only:
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"there is no measurement {name!r}; there are: {', '.join(NAMES)}.{hint}")
    if rounds is not None and rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    if plots is not None and only and not {"pixels", "labels"} <= set(only):
        raise ValueError(f"plots show the curves pixels and labels, but only {', '.join(only)} is asked for; add them")


def _command(only: Sequence[str], rounds: int, plots: str | Path | None, *, quick: bool) -> str:
    words = ["tag2mask bench", *(["--quick"] if quick else []), f"--rounds {rounds}"]
    words += [f"--only {' '.join(only)}"] if only else []
    return " ".join(words + ([f"--plots {Path(plots).as_posix()}"] if plots is not None else []))


# The contenders


def load_peer() -> ModuleType | None:
    """pydensecrf, or None where it is not installed."""
    try:
        return importlib.import_module("pydensecrf.densecrf")
    except ImportError:
        return None


def _peer_crf(peer: ModuleType, rgb: NDArray[np.uint8], unary: NDArray[np.float32], params: CRFParams) -> Any:
    """Marginals [L, N] of one run, from uint8 [H, W, 3] and unary energies [L, N]: a new object each, as is usual."""
    height, width = rgb.shape[:2]
    crf = peer.DenseCRF2D(width, height, len(unary))
    crf.setUnaryEnergy(unary)
    crf.addPairwiseGaussian(sxy=params.gaussian_sxy, compat=params.gaussian_compat)
    crf.addPairwiseBilateral(
        sxy=params.bilateral_sxy, srgb=params.bilateral_srgb, rgbim=rgb, compat=params.bilateral_compat
    )
    return np.array(crf.inference(params.iterations))


def _peer_inputs(rgb: Tensor, scores: Tensor) -> list[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
    """A picture and unary energies for each run of [B, 3, H, W] and [B, R, L, H, W]."""
    energies = -scores.clamp(MIN_SCORE, 1).log().flatten(3)
    pictures = rgb.permute(0, 2, 3, 1).contiguous()
    return [(p.numpy(), run.contiguous().numpy()) for p, runs in zip(pictures, energies, strict=True) for run in runs]


def _peer_work(peer: ModuleType, rgb: Tensor, scores: Tensor, params: CRFParams) -> Callable[[], Any]:
    """Every run of every picture, one after the other; the unary energies are ready before the clock starts."""
    inputs = _peer_inputs(rgb, scores)
    return lambda: [_peer_crf(peer, picture, unary, params) for picture, unary in inputs]


def _serve(pipe: Connection, rgb: NDArray[np.uint8], scores: NDArray[np.float32], params: CRFParams) -> None:
    """A process of the peer: waits for True, does its pictures, answers with the seconds it computed."""
    peer = load_peer()
    assert peer is not None  # the parent has it
    run = timed(_peer_work(peer, torch.from_numpy(rgb), torch.from_numpy(scores), params), "wall")
    pipe.send(True)
    while pipe.recv():
        pipe.send(run())


def _peer_processes(rgb: Tensor, scores: Tensor, params: CRFParams, count: int, stack: ExitStack) -> Timer:
    """The pictures shared by `count` processes that live as long as `stack`; the slower one's computing counts.

    Starting a process, sending it pictures and fetching its results is not timed, in favor of the peer.
    """
    context = multiprocessing.get_context("spawn")
    pipes: list[Connection] = []
    for share in torch.arange(len(rgb)).chunk(count):
        mine, theirs = context.Pipe()
        process = context.Process(
            target=_serve, args=(theirs, rgb[share].numpy(), scores[share].numpy(), params), daemon=True
        )
        process.start()
        theirs.close()
        stack.callback(process.join)
        stack.callback(mine.send, False)
        pipes.append(mine)
    for pipe in pipes:
        pipe.recv()

    def run() -> float:
        for pipe in pipes:
            pipe.send(True)
        return max(float(pipe.recv()) for pipe in pipes)

    return run


def _own_work(case: Case, rgb: Tensor, scores: Tensor) -> Callable[[], Any]:
    rgb, scores = rgb.to(case.device), scores.to(case.device)
    if case.energy:  # widths of the published loss at half size
        return lambda: _Kernel(rgb, 50.0, 15.0, "auto").filter(scores[:, 0])

    def crf() -> Tensor:
        out = dense_crf(rgb, scores, case.params, backend=case.backend)
        if case.device == "cuda":
            torch.cuda.synchronize()
        return out

    return crf


# Measuring


def timed(work: Callable[[], Any], clock: Clock, before: Callable[[], Any] | None = None) -> Timer:
    """A timer of `work`; `before` is called first and not timed."""

    def run() -> float:
        if before is not None:
            before()
        now = _CLOCKS[clock]
        start = now()
        work()
        return now() - start

    return run


def interleave(timers: Mapping[str, Timer], rounds: int) -> dict[str, list[float]]:
    """Seconds of each timer in each round: A, B, A, B, ... after a round that is not counted."""
    for run in timers.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(rounds):
        for name, run in timers.items():
            seconds[name].append(run())
    return seconds


def measure_case(name: str, case: Case, rounds: int, peer: ModuleType | None, *, shrink: int = 1) -> Row:
    """One line of the table."""
    size, other = shrunk(case.size, shrink), shrunk(_ENERGY_PEER, shrink)
    rgb, scores = pictures(case.batch, size), score_maps(case.batch, case.labels, size, case.runs)
    own_work, difference = _own_work(case, rgb, scores), None
    with threads(case.threads), ExitStack() as stack:
        timers = {"own": timed(own_work, case.clock, clear_cache if case.cold else None)}
        if peer is not None and case.energy:
            work = _peer_work(peer, pictures(1, other), score_maps(1, case.labels, other, 1), CRFParams.mining())
            timers["peer"] = timed(work, case.clock)
        elif peer is not None:
            first = _peer_work(peer, rgb[:1], scores[:1], case.params)()
            mine = own_work()[0].cpu().flatten(2).numpy()
            difference = float(max(np.abs(a - b).max() for a, b in zip(mine, first, strict=True)))
            if case.threads > 1:
                timers["peer"] = _peer_processes(rgb, scores, case.params, case.threads, stack)
            else:
                timers["peer"] = timed(_peer_work(peer, rgb, scores, case.params), case.clock)
        seconds = interleave(timers, rounds)
    return make_row(
        seconds,
        name=name,
        work=case.work.format(size=_times(size)),
        against=case.against.format(other=_times(other)),
        clock=case.clock,
        threads=case.threads,
        measure="share" if case.energy else "speedup",
        bar=case.bar,
        judged=shrink == 1,
        max_difference=difference,
    )


def make_row(
    seconds: Mapping[str, list[float]],
    *,
    measure: Literal["speedup", "share"],
    bar: float | None,
    judged: bool,
    **columns: Any,
) -> Row:
    """The row of the seconds of `own` and, where it ran, `peer`."""
    own, peer = seconds["own"], seconds.get("peer", [])
    value = None
    if peer:
        value = median(peer) / median(own) if measure == "speedup" else median(own) / median(peer)
    met = None
    if judged and value is not None and bar is not None:
        met = value >= bar if measure == "speedup" else value <= bar
    return Row(
        rounds=len(own),
        own_ms=1e3 * median(own),
        peer_ms=1e3 * median(peer) if peer else None,
        own_all_ms=[1e3 * s for s in own],
        peer_all_ms=[1e3 * s for s in peer],
        measure=measure,
        value=value,
        bar=bar,
        met=met,
        **columns,
    )


def _problems(name: str, *, quick: bool) -> list[tuple[Size, int]]:
    """Sizes and label counts of a curve."""
    if name == "pixels":
        return [((side, side), 3) for side in ((64, 128) if quick else (256, 512, 1024, 2048))]
    size = shrunk((448, 448), QUICK_SHRINK if quick else 1)
    return [(size, labels) for labels in ((2, 5) if quick else (2, 3, 5, 11, 21, 41, 81))]


def measure_curve(problems: Sequence[tuple[Size, int]], rounds: int, peer: ModuleType | None) -> list[Point]:
    """Both CRF runs of one picture for each problem; a round visits them all, so that drift meets every point."""
    params, density = CRFParams.mining(), []
    timers: dict[str, Timer] = {}
    for i, (size, labels) in enumerate(problems):
        case = Case(work="", bar=0.0, size=size, labels=labels)
        rgb, scores = pictures(1, size), score_maps(1, labels, size, 2)
        lattice = Lattice.bilateral(rgb[0], params.bilateral_sxy, params.bilateral_srgb)
        density.append(lattice.num_vertices / lattice.num_pixels)
        timers[f"own {i}"] = timed(_own_work(case, rgb, scores), "cpu")
        if peer is not None:
            timers[f"peer {i}"] = timed(_peer_work(peer, rgb, scores, params), "cpu")
    with threads(1):
        seconds = interleave(timers, rounds)
    return [
        Point(
            height=size[0],
            width=size[1],
            labels=labels,
            rounds=rounds,
            own_ms=1e3 * median(seconds[f"own {i}"]),
            peer_ms=1e3 * median(seconds[f"peer {i}"]) if peer is not None else None,
            vertices_per_pixel=density[i],
        )
        for i, (size, labels) in enumerate(problems)
    ]


def growth(points: Sequence[Point]) -> float | None:
    """Cost of a pixel of the largest picture over that of one at 512 x 512; None where that was not measured."""
    each = {p.height * p.width: p.own_ms / (p.height * p.width) for p in points}
    return each[max(each)] / each[512 * 512] if 512 * 512 in each and max(each) > 512 * 512 else None


def measure_training(
    rounds: int, peer: ModuleType | None, *, quick: bool = False, config: TrainConfig | None = None
) -> Row:
    """Joint steps of a run of the preset `small` on built-in pictures, every second one with pydensecrf if it is there.

    They are the steps of `tag2mask.train` as its metrics.csv tells them: loading, network, CRF, losses and update.

    Args:
        rounds: Counted steps of each contender; the first of each is not counted.
        peer: pydensecrf or None.
        quick: Smaller crops and batches.
        config: Settings instead of those of `small`.
    """
    from tag2mask.training import train  # heavy, and no process of the peer needs it

    config = config or TrainConfig.preset("small")
    if quick:
        config = config.replace(joint_batch_size=2, augment=replace(config.augment, crop_size=96))
    contenders = ("own",) if peer is None else ("own", "peer")
    steps = len(contenders) * (rounds + 1)
    with tempfile.TemporaryDirectory() as folder:
        data = write_builtin(Path(folder) / "data", train=16, val=1, size=config.image_size or 320)
        config = config.replace(
            data=str(data),
            val_split="none",  # nothing to validate
            out=str(Path(folder) / "run"),
            tag_steps=0,
            joint_steps=steps,
            log_every=1,
            sample_every=0,
            save_every=steps,
        )
        with _crf_by_turns(peer, steps), contextlib.redirect_stderr(io.StringIO()):
            run = train(config)
        with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
            metrics = [{key: float(row[key]) for key in _STEP} for row in csv.DictReader(file)]
    counted = {name: metrics[i :: len(contenders)][1:] for i, name in enumerate(contenders)}
    shares = {name: median(row["mining_share"] for row in rows) for name, rows in counted.items()}
    batch, crop = config.joint_batch_size, config.augment.crop_size
    return make_row(
        {name: [batch / row["images_per_second"] for row in rows] for name, rows in counted.items()},
        name="training-step",
        work=f"training step of `{config.preset_name}`, batch of {batch}, {_times((crop, crop))}, all threads",
        against="the same with pydensecrf for its CRF",
        clock="wall",
        threads=torch.get_num_threads(),
        measure="speedup",
        bar=None,
        judged=False,
        crf_share=shares["own"],
        peer_crf_share=shares.get("peer"),
    )


_STEP = ("images_per_second", "mining_share")


@contextmanager
def _crf_by_turns(peer: ModuleType | None, steps: int) -> Iterator[None]:
    """Let every second call of the CRF votes run on pydensecrf.

    Raises:
        RuntimeError: the steps did not call it once each, so their times cannot be told apart.
    """
    own, calls = vars(reliable)["dense_crf"], itertools.count()

    def by_turns(rgb: Tensor, scores: Tensor, **options: Any) -> Tensor:
        if next(calls) % 2 and peer is not None:
            return _peer_votes(peer, rgb, scores, options["params"], options["present"])
        return cast(Tensor, own(rgb, scores, **options))

    vars(reliable)["dense_crf"] = by_turns
    try:
        yield
    finally:
        vars(reliable)["dense_crf"] = own
    if (called := next(calls)) != steps:
        raise RuntimeError(f"{steps} training steps called the CRF {called} times; bench expects one call a step")


def _peer_votes(peer: ModuleType, rgb: Tensor, scores: Tensor, params: CRFParams, present: Tensor) -> Tensor:
    """`dense_crf` of [B, R, K, H, W] on pydensecrf, which knows no valid area."""
    out = torch.zeros(scores.shape)
    for i, labels in enumerate(present.cpu()):
        one = scores[i : i + 1, :, labels].float().cpu()
        marginals = _peer_work(peer, rgb[i : i + 1].cpu(), one, params)()
        out[i, :, labels] = torch.from_numpy(np.stack(marginals)).reshape(one.shape[1:])
    return out.to(scores.device)


# Pictures and scores


def pictures(count: int, size: Size) -> Tensor:
    """uint8 [count, 3, H, W], the same ones for every run on every machine."""
    channels_last = np.stack([dead_leaves(seed, size) for seed in range(count)])
    return torch.from_numpy(channels_last).permute(0, 3, 1, 2).contiguous()


def dead_leaves(seed: int, size: Size) -> NDArray[np.uint8]:
    """A picture uint8 [H, W, 3] with the statistics of photographs: discs of all scales that hide each other.

    Radii have density r^-3, which makes the spectrum that of natural pictures (the dead leaves model); shading and
    grain on top. A bilateral lattice gets as many vertices from it as from photographs: about 0.05 a pixel at widths
    80 and 13, 0.3 at 83 and 5.
    """
    rng = np.random.default_rng((seed, *size))
    height, width = size
    low, high = 3.0, max(0.35 * max(size), 6.0)
    area = (height + 2 * high) * (width + 2 * high)
    count = int(4 * area / (2 * math.pi * low**2 * math.log(high / low)))  # four layers of discs: no ground is seen
    radius = low / np.sqrt(1 - rng.random(count) * (1 - (low / high) ** 2))
    x = rng.uniform(-high, width + high, count)
    y = rng.uniform(-high, height + high, count)
    hue = rng.random() + 0.12 * rng.standard_normal(count)
    saturation, value = rng.uniform(0.05, 0.35, count), rng.normal(0.45, 0.18, count).clip(0.05, 1)
    image = Image.new("RGB", (width, height))
    drawing = ImageDraw.Draw(image)
    for i in np.flatnonzero((abs(x - width / 2) < width / 2 + radius) & (abs(y - height / 2) < height / 2 + radius)):
        r, g, b = (round(255 * float(level)) for level in color(hue[i], saturation[i], value[i]))
        box = (x[i] - radius[i], y[i] - radius[i], x[i] + radius[i], y[i] + radius[i])
        drawing.ellipse(box, fill=(r, g, b))
    canvas = np.asarray(image.filter(ImageFilter.GaussianBlur(0.7)), np.float32)
    shading = 1 + 0.5 * (noise(rng, size, max(size) / 120, 5) - 0.5)
    grain = 1.2 * rng.standard_normal((height, width, 1), dtype=np.float32)
    return np.asarray(np.clip(np.rint(canvas * shading[..., None] + grain), 0, 255), np.uint8)


def score_maps(batch: int, labels: int, size: Size, runs: int) -> Tensor:
    """Scores float32 [B, R, L, H, W] like those of CAMs: smooth blobs, and a background (1 - max)^4, then ^32."""
    rng = np.random.default_rng((batch, labels, *size))
    maps = np.stack([noise(rng, size, 4, 2) for _ in range(batch * (labels - 1))])
    cams = torch.from_numpy(np.clip(4 * maps - 2, 0, 1)).reshape(batch, labels - 1, *size)
    config = ReliableConfig()
    powers = config.foreground_power, config.background_power
    both = [torch.cat([reliable.background_score(cams, power), cams], dim=1) for power in powers]
    return torch.stack(both[:runs], dim=1)


def shrunk(size: Size, factor: int) -> Size:
    """Sides divided by `factor` and even, so that their product is a multiple of 4: pydensecrf pads other sizes."""
    return size if factor == 1 else (size[0] // factor // 2 * 2, size[1] // factor // 2 * 2)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """`count` threads of torch, which the kernels follow; the old number comes back."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# The machine


def describe_machine() -> dict[str, Any]:
    """Core in use, processor, versions, and the load average before anything ran."""
    core = load_core()
    return {
        "core": f"compiled core, {core.instruction_set()}" if core is not None else "torch twin (no compiled core)",
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}",
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "versions": {
            "tag2mask": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "pydensecrf": _peer_version(),
        },
    }


def _peer_version() -> str | None:
    for name in ("pydensecrf2", "pydensecrf"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return f"{name} {importlib.metadata.version(name)}"
    return None


def _cpu_model() -> str:
    """The processor's name; `platform.processor` is empty or vague on most systems."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.lower().startswith("model name"):
                return line.split(":", 1)[1].strip()
    if sys.platform == "darwin":
        asked = ["sysctl", "-n", "machdep.cpu.brand_string"]
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    return platform.processor() or platform.machine()


# Tables and plots


def _times(size: Size) -> str:
    """448×448; squares of the energy filter too."""
    return f"{size[0]}×{size[1]}"


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} ms" if value < 1000 else f"{value / 1000:.2f} s"


def _value(row: Row, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1f} ×" if row.measure == "speedup" else f"{100 * value:.2f} %"


def _verdict(row: Row) -> str:
    return "" if row.met is None else "met" if row.met else "not met"


def _row_cells(row: Row) -> list[str]:
    sign = "≥" if row.measure == "speedup" else "≤"
    bar = "" if row.bar is None else f"{sign} {row.bar:g} ×" if row.measure == "speedup" else f"≤ {100 * row.bar:g} %"
    return [row.work, _ms(row.own_ms), row.against, _ms(row.peer_ms), _value(row, row.value), bar, _verdict(row)]


_ROW_HEAD = ["work", "tag2mask", "against", "pydensecrf", "ratio", "asked", ""]
_POINT_HEAD = ["", "tag2mask", "pydensecrf", "ratio", "tag2mask per megapixel", "lattice vertices per pixel"]


def _point_cells(point: Point) -> list[str]:
    own = point.own_ms / (point.height * point.width / 1e6)
    ratio = "" if point.peer_ms is None else f"{point.peer_ms / point.own_ms:.1f} ×"
    what = f"{_times((point.height, point.width))}, L = {point.labels}"
    return [what, _ms(point.own_ms), _ms(point.peer_ms), ratio, _ms(own), f"{point.vertices_per_pixel:.3f}"]


def _conditions(report: BenchReport) -> str:
    machine = report.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    load = "" if machine["load"] is None else f" Load average at the start: {machine['load']:.2f}."
    return (
        f"`{report.command}`, {report.date}. {machine['core']}; {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['gpu'] or 'no GPU'}, {machine['system']}; {versions}.{load}"
    ).replace("pydensecrf pydensecrf", "pydensecrf")


def _notes(report: BenchReport) -> list[str]:
    """What the numbers of the tables leave out, a sentence each."""
    notes = []
    for row in report.rows:
        if row.crf_share is not None:
            theirs = "" if row.peer_crf_share is None else f" ({100 * row.peer_crf_share:.0f} % with pydensecrf)"
            notes.append(
                f"CRF votes and reliable labels take {100 * row.crf_share:.0f} % of the training step{theirs}."
            )
    differences = [row.max_difference for row in report.rows if row.max_difference is not None]
    if differences:
        notes.append(f"Both give the same marginals: the largest difference in this run is {max(differences):.1e}.")
    if report.growth is not None:
        met = "met" if report.growth <= GROWTH_BAR else "not met"
        notes.append(f"A pixel at 2048×2048 costs {report.growth:.2f} × one at 512×512; at most {GROWTH_BAR} ×: {met}.")
    if report.quick:
        notes.append("A quick look at small sizes; the bars hold at full size only and are not judged.")
    return notes + [f"Not measured: {name}: {reason}" for name, reason in report.skipped.items()]


def _blocks(report: BenchReport) -> list[tuple[str, list[list[str]]]]:
    """Title and cells, head first, of every table that holds something."""
    blocks = [("Kernels and training step", [_ROW_HEAD, *map(_row_cells, report.rows)])]
    for title, points in (("pixels", report.pixels), ("labels", report.labels)):
        heading = f"Cost against {title} (both CRF runs of a picture, one thread)"
        blocks.append((heading, [_POINT_HEAD, *map(_point_cells, points)]))
    return [(title, cells) for title, cells in blocks if len(cells) > 1]


def table_lines(report: BenchReport) -> list[str]:
    """The report for a terminal: aligned columns."""
    lines = [_conditions(report)]
    for title, cells in _blocks(report):
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines += ["", title]
        lines += ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in cells]
    return [*lines, "", *_notes(report)]


def markdown(report: BenchReport, folder: Path | None = None) -> str:
    """The report as Markdown; plots are linked relative to `folder`, where the page lies."""
    parts = [_conditions(report)]
    for title, cells in _blocks(report):
        head, *rows = [f"| {' | '.join(row)} |" for row in cells]
        parts += [f"### {title}", "\n".join([head, "|---" * len(cells[0]) + "|", *rows])]
    parts += ["\n".join(f"- {note}" for note in _notes(report))]
    for plot in report.plots:
        link = plot if folder is None else os.path.relpath(plot, folder)
        parts.append(f"![{Path(plot).stem.replace('-', ' ')}]({Path(link).as_posix()})")
    return "\n\n".join(part for part in parts if part) + "\n"


def fill_page(page: Path, report: BenchReport) -> None:
    """Replace what stands between the two marks of a page.

    Raises:
        ValueError: the page has not exactly one of each mark, in order.
    """
    text = page.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"{page} must hold the line {BEGIN} once and {END} once below it")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    write_text(page, f"{before}{BEGIN}\n\n{markdown(report, page.parent)}\n{END}{after}")


def draw(folder: Path, name: str, points: Sequence[Point]) -> Path:
    """Write performance-NAME.svg: milliseconds against megapixels or labels, both logarithmic."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    x = [p.height * p.width / 1e6 if name == "pixels" else p.labels for p in points]
    for label, values in (("tag2mask", [p.own_ms for p in points]), ("pydensecrf", [p.peer_ms for p in points])):
        if None not in values:
            axes.loglog(x, [float(v) for v in values if v is not None], marker="o", label=label)
    axes.set_xticks(x, [f"{v:.2g}" for v in x], minor=False)
    axes.minorticks_off()
    axes.set_xlabel(
        "megapixels (L = 3)" if name == "pixels" else f"labels ({_times((points[0].height, points[0].width))})"
    )
    axes.set_ylabel("ms")
    axes.set_title("both CRF runs of a picture, one thread", fontsize="medium")
    axes.grid(alpha=0.3)
    axes.legend()
    # Text stays text and nothing depends on the day: a small file that changes only with the numbers.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "tag2mask"}):
        return write_atomically(
            folder / f"performance-{name}.svg", lambda p: figure.savefig(p, format="svg", metadata={"Date": None})
        )


def main(arguments: Sequence[str]) -> int:
    """`python -m tag2mask.benchmark FILE.json [PAGE.md]`; returns the exit code."""
    if not 1 <= len(arguments) <= 2 or arguments[0].startswith("-"):
        print("usage: python -m tag2mask.benchmark FILE.json [PAGE.md]", file=sys.stderr)
        return 2
    source = Path(arguments[0])
    try:
        report = BenchReport.from_dict(json.loads(source.read_text(encoding="utf-8")))
        if len(arguments) == 1:
            print(markdown(report), end="")
        else:
            fill_page(Path(arguments[1]), report)
    except (OSError, ValueError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        print(f"tag2mask.benchmark: error: {source}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
