"""How many pictures are enough, and what do wrong tags cost? `python -m experiments.how_many --data PATH --out DIR`.

Each row trains the preset `small` on a part of the pictures, or on all with some tags made wrong, and is scored on the
split val. A row with planted mistakes also says how many of them `tag2mask check --run` finds.
"""

from __future__ import annotations

import logging

from experiments.how_many.page import check_plan, write_page
from experiments.how_many.rows import ROWS, Plan, Row
from experiments.how_many.running import RowResult, Study
from experiments.resuming import share_out
from tag2mask.data import open_data

__all__ = ["ROWS", "Plan", "Row", "RowResult", "Study", "how_many", "write_page"]

log = logging.getLogger("tag2mask")


def how_many(study: Study, names: tuple[str, ...] | None = None) -> list[RowResult]:
    """Run rows with each seed. Several processes may share a folder, in which each row is locked by its process.

    Args:
        study: Data, folder, steps and rows. Rows that are done are read from the folder.
        names: Rows to run; default all for which the data set has enough pictures.

    Returns:
        All results in the folder, one per row and seed; `how-many.json` there holds them after every row.

    Raises:
        ValueError: a row that is not known or needs more pictures than there are, or a folder whose rows were trained
            by another plan.
    """
    count = len(open_data(study.data).pictures)
    if unknown := [name for name in names or () if name not in study.rows]:
        raise ValueError(f"There is no row {', '.join(unknown)}; rows: {', '.join(study.rows)}")
    too_large = [row.name for row in study.rows.values() if row.pictures is not None and row.pictures > count]
    if wanted := [name for name in names or () if name in too_large]:
        raise ValueError(f"The data set has {count} pictures to train on, too few for --rows {' '.join(wanted)}")
    if names is None and too_large:
        log.info("left out: %s, as there are %d pictures to train on", ", ".join(too_large), count)
    chosen = names or tuple(name for name in study.rows if name not in too_large)
    study.out.mkdir(parents=True, exist_ok=True)
    check_plan(study)
    write_page(study)  # the plan, for others that join
    jobs = [(name, seed) for seed in range(study.plan.seeds) for name in chosen]

    def run(job: tuple[str, int]) -> None:
        study.row(study.rows[job[0]], job[1])
        write_page(study)

    share_out(lambda: [job for job in jobs if study.stored(*job) is None], run)
    write_page(study)  # with what others have done
    return study.done()
