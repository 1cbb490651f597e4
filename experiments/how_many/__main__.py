"""`python -m experiments.how_many`."""

from __future__ import annotations

import sys
from pathlib import Path

from experiments.command import ended, rows_parser, steps_of
from experiments.how_many import ROWS, Plan, Study, how_many
from experiments.how_many.page import TABLE, fill_page


def main() -> int:
    """Train the rows; returns the exit code."""
    about = "How many pictures are enough, and what do wrong tags cost?"
    parser = rows_parser("how_many", about, rows=ROWS, plan=Plan, writes="how-many.json, how-many.md, the plot")
    parser.add_argument("--one-seed", action="store_true", help="no second seed")
    parser.add_argument("--page", type=Path, help="also put table and plot into this page, such as docs/how-many.md")
    options = parser.parse_args()
    plan = Plan(**steps_of(options), seeds=1 if options.one_seed else Plan.seeds)
    study = Study(data=options.data, out=options.out, plan=plan)

    def work() -> None:
        how_many(study, None if options.rows is None else tuple(options.rows))
        if options.page is not None:
            fill_page(options.page, study)

    return ended(options.out, options.out / TABLE, work)


if __name__ == "__main__":
    sys.exit(main())
