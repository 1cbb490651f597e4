"""The paper's ablations on real pictures: `python -m tag2mask.ablation --data PATH --out DIR`.

Rows change one thing each and train equally long; rows that differ in the joint phase only share their tag phase, which
is exact, because a run that takes a tag phase over equals one that trains it (`TrainConfig.tag_phase`).
"""

from __future__ import annotations

from tag2mask.ablation.page import check_plan, write_page
from tag2mask.ablation.rows import BASE, ROWS, Plan, Row
from tag2mask.ablation.running import Ablation, RowResult

__all__ = ["BASE", "ROWS", "Ablation", "Plan", "Row", "RowResult", "ablate", "write_page"]


def ablate(ablation: Ablation, rows: tuple[str, ...] | None = None) -> list[RowResult]:
    """Run rows, then a second seed of those that lie close to the row that they are compared with, and of that row.

    Several processes may share a folder, each with rows of its own.

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
    for name in names:
        ablation.row(ROWS[name], seed=0)
        write_page(ablation)
    within = ablation.plan.second_seed_within
    scores = {result.name: result.miou for result in ablation.done() if result.seed == 0}
    if within is not None:
        for name in _close(names, scores, within):
            ablation.row(ROWS[name], seed=1)
            write_page(ablation)
    return ablation.done()


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
