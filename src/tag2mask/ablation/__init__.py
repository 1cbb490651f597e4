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
    """Run rows, then a second seed of those that lie close to the base row.

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
    if within is not None and BASE in scores:
        close = [n for n in names if n == BASE or abs(scores[n] - scores[BASE]) <= within]
        for name in close if len(close) > 1 or BASE not in close else ():
            ablation.row(ROWS[name], seed=1)
            write_page(ablation)
    return ablation.done()
