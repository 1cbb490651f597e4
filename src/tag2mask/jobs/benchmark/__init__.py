"""How fast this machine runs the kernels and a training step, beside pydensecrf where that is installed.

The contenders of a measurement alternate (A, B, A, B, ...) after one round that is not counted, and their medians are
compared. One thread is measured in CPU time of the process; several threads, processes or a GPU in wall time.
"""

from __future__ import annotations

import datetime
import difflib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from tag2mask.base.files import check_folder
from tag2mask.base.options import public
from tag2mask.jobs.benchmark.cases import CASES, NAMES, QUICK_SHRINK, problems
from tag2mask.jobs.benchmark.machine import describe_machine
from tag2mask.jobs.benchmark.measuring import growth, measure_case, measure_curve
from tag2mask.jobs.benchmark.page import draw, table_lines
from tag2mask.jobs.benchmark.peer import NO_PEER, load_peer
from tag2mask.jobs.benchmark.results import BenchReport, Point, Row
from tag2mask.jobs.benchmark.training_step import measure_training

__all__ = ["CASES", "NAMES", "BenchReport", "Point", "Row", "bench", "check_arguments", "table_lines"]

ROUNDS, QUICK_ROUNDS, MOST_CURVE_ROUNDS = 7, 2, 3


@public
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
            curves[name] = measure_curve(problems(name, quick=quick), min(rounds, MOST_CURVE_ROUNDS), peer)
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
    if plots is not None:
        check_folder(Path(plots), "--plots")
    if plots is not None and only and not {"pixels", "labels"} <= set(only):
        raise ValueError(f"plots show the curves pixels and labels, but only {', '.join(only)} is asked for; add them")


def _command(only: Sequence[str], rounds: int, plots: str | Path | None, *, quick: bool) -> str:
    words = ["tag2mask bench", *(["--quick"] if quick else []), f"--rounds {rounds}"]
    words += [f"--only {' '.join(only)}"] if only else []
    return " ".join(words + ([f"--plots {Path(plots).as_posix()}"] if plots is not None else []))
