"""The paper's ablations on real pictures: `python -m experiments.ablation --data PATH --out DIR`.

Rows change one thing each and train equally long; rows that differ in the joint phase only share their tag phase, which
is exact, because a run that takes a tag phase over equals one that trains it (`TrainConfig.tag_phase`).
"""

from __future__ import annotations

from experiments.ablation.page import check_plan, write_page
from experiments.ablation.rows import BASE, ROWS, Plan, Row
from experiments.ablation.running import Ablation, RowResult
from experiments.resuming import share_out

__all__ = ["BASE", "ROWS", "Ablation", "Plan", "Row", "RowResult", "ablate", "write_page"]


def ablate(ablation: Ablation, rows: tuple[str, ...] | None = None) -> list[RowResult]:
    """Run rows, then a second seed of those that lie close to the row that they are compared with, and of that row.

    Several processes may share a folder, in which each row is locked by the process that runs it.

    Args:
        ablation: Data, folder and steps. Rows that are done are read from the folder.
        rows: Names of the rows; default all.

    Returns:
        All results in the folder, one per row and seed; `ablation.json` there holds them after every row.

    Raises:
        ValueError: a row that is not known, or a folder whose rows were trained by another plan.
    """
    names = tuple(ROWS) if rows is None else rows
    if unknown := [name for name in names if name not in ROWS]:
        raise ValueError(f"There is no row {', '.join(unknown)}; rows: {', '.join(ROWS)}")
    ablation.out.mkdir(parents=True, exist_ok=True)
    check_plan(ablation)
    write_page(ablation)  # the plan, for others that join

    def run(job: tuple[str, int]) -> None:
        ablation.row(ROWS[job[0]], job[1])
        write_page(ablation)

    share_out(lambda: [job for job in _jobs(ablation, names) if ablation.stored(*job) is None], run)
    return ablation.done()


def _jobs(ablation: Ablation, names: tuple[str, ...]) -> list[tuple[str, int]]:
    """The rows and seeds to run, as far as the scores tell by now."""
    jobs = [(name, 0) for name in names]
    within = ablation.plan.second_seed_within
    if within is not None:
        scores = {result.name: result.miou for result in ablation.done() if result.seed == 0}
        jobs += [(name, 1) for name in _close(names, scores, within)]
    return jobs


def _close(names: tuple[str, ...], scores: dict[str, float], within: float) -> list[str]:
    """Rows among `names` that need a second seed, with those that they are compared with, in the order of `ROWS`."""
    pairs = [(name, ROWS[name].against) for name in names if name != ROWS[name].against]
    close = {
        one
        for pair in pairs
        if all(n in scores for n in pair)
        for one in pair
        if abs(scores[pair[0]] - scores[pair[1]]) <= within
    }
    return [name for name in ROWS if name in close]
