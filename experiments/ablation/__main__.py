"""`python -m experiments.ablation`."""

from __future__ import annotations

import sys

from experiments.ablation import ROWS, Ablation, Plan, ablate
from experiments.command import ended, rows_parser, steps_of


def main() -> int:
    """Run the ablation; returns the exit code."""
    about = "Compare rules and loss terms at equal steps."
    parser = rows_parser("ablation", about, rows=ROWS, plan=Plan, writes="ablation.json, ablation.md, plots")
    parser.add_argument("--second-split", help="split that the second step learns from; default the one to train on")
    parser.add_argument("--one-seed", action="store_true", help="no second seed for rows close to the base row")
    options = parser.parse_args()
    within = None if options.one_seed else Plan.second_seed_within
    plan = Plan(**steps_of(options), second_seed_within=within)
    ablation = Ablation(data=options.data, out=options.out, plan=plan, second_split=options.second_split)
    rows = None if options.rows is None else tuple(options.rows)
    return ended(options.out, options.out / "ablation.md", lambda: ablate(ablation, rows))


if __name__ == "__main__":
    sys.exit(main())
