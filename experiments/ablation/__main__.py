"""`python -m experiments.ablation`."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from pathlib import Path

from experiments.ablation import ROWS, Ablation, Plan, ablate
from tag2mask.base.files import check_folder


def main() -> int:
    """Run the ablation; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.ablation",
        description="Compare rules and loss terms at equal steps. Run it again to go on after an interruption: "
        "rows that are done are kept, and one in progress goes on from its last save. Several of these commands at "
        "once, with one thread each (OMP_NUM_THREADS=1), share the rows among them.",
    )
    parser.add_argument("--data", required=True, help="data set with tags, and masks of its split val")
    parser.add_argument("--out", required=True, type=Path, help="folder of the runs, ablation.json, ablation.md, plots")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help=f"rows to run, of {', '.join(ROWS)}; default all")
    parser.add_argument("--second-split", help="split that the second step learns from; default the one to train on")
    for field in dataclasses.fields(Plan):
        if field.name.endswith("_steps"):
            parser.add_argument(f"--{field.name.replace('_', '-')}", type=int, default=field.default)
    parser.add_argument("--one-seed", action="store_true", help="no second seed for rows close to the base row")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    plan = Plan(
        tag_steps=options.tag_steps,
        joint_steps=options.joint_steps,
        supervised_steps=options.supervised_steps,
        second_seed_within=None if options.one_seed else Plan.second_seed_within,
    )
    out = options.out
    ablation = Ablation(data=options.data, out=out, plan=plan, second_split=options.second_split)
    try:
        check_folder(out)
        ablate(ablation, None if options.rows is None else tuple(options.rows))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"stopped; the same command goes on (rows so far: {out / 'ablation.md'})", file=sys.stderr)
        return 1
    print((out / "ablation.md").read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
