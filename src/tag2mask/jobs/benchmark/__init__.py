"""How fast this machine runs the kernels, predictions and a training step.

Kernels and step are set beside pydensecrf where that is installed, predictions beside the network alone.

The contenders of a measurement alternate (A, B, A, B, ...) after one round that is not counted, and their medians are
compared. One thread is measured in CPU time of the process; several threads, processes or a GPU in wall time.
"""

from __future__ import annotations

import datetime
import difflib
from collections.abc import Callable, Sequence

import torch

from tag2mask.base.options import public
from tag2mask.jobs.benchmark.cases import CASES, QUICK_SHRINK
from tag2mask.jobs.benchmark.machine import describe_machine
from tag2mask.jobs.benchmark.measuring import measure_case
from tag2mask.jobs.benchmark.page import table_lines
from tag2mask.jobs.benchmark.peer import NO_PEER, load_peer
from tag2mask.jobs.benchmark.prediction import PREDICTIONS, measure_prediction
from tag2mask.jobs.benchmark.results import BenchReport, Row
from tag2mask.jobs.benchmark.training_step import measure_training

__all__ = ["CASES", "NAMES", "BenchReport", "Row", "bench", "check_arguments", "table_lines"]

ROUNDS, QUICK_ROUNDS = 7, 2
NAMES = (*CASES, *PREDICTIONS, "training-step")
"""Everything that --only may name."""


@public
def bench(
    only: Sequence[str] = (),
    *,
    rounds: int | None = None,
    quick: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> BenchReport:
    """Measure kernels and a training step, against pydensecrf if it is installed, and predictions.

    Args:
        only: Names of the measurements, from `NAMES`; empty for all.
        rounds: Counted rounds of each contender; 7 by default, 2 with `quick`.
        quick: Pictures of a quarter of the side and few rounds: a look that everything works, not a measurement.
        progress: Called with (done, all, name) before each measurement and at the end.

    Raises:
        ValueError: unknown name, or no rounds.
    """
    check_arguments(only, rounds)
    names = [name for name in NAMES if not only or name in only]
    rounds = rounds or (QUICK_ROUNDS if quick else ROUNDS)
    machine, peer = describe_machine(), load_peer()
    rows: list[Row] = []
    skipped: dict[str, str] = {} if peer is not None else {"pydensecrf": NO_PEER}
    for done, name in enumerate(names):
        if progress is not None:
            progress(done, len(names), name)
        if name in PREDICTIONS:
            rows.append(measure_prediction(name, PREDICTIONS[name], rounds, shrink=QUICK_SHRINK if quick else 1))
        elif name == "training-step":
            rows.append(measure_training(rounds, peer, quick=quick))
        elif CASES[name].device == "cuda" and not torch.cuda.is_available():
            skipped[name] = "there is no CUDA GPU that torch can use"
        else:
            rows.append(measure_case(name, CASES[name], rounds, peer, shrink=QUICK_SHRINK if quick else 1))
    if progress is not None:
        progress(len(names), len(names), "done")
    asked = [*(["--quick"] if quick else []), f"--rounds {rounds}", *(["--only", *only] if only else [])]
    return BenchReport(
        command=" ".join(["tag2mask bench", *asked]),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        machine=machine,
        quick=quick,
        rows=rows,
        skipped=skipped,
    )


def check_arguments(only: Sequence[str], rounds: int | None) -> None:
    """Refuse what `bench` cannot do, before anything is measured."""
    for name in only:
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"there is no measurement {name!r}; there are: {', '.join(NAMES)}.{hint}")
    if rounds is not None and rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
