"""What the commands of the experiments share: options, the log, and how they end."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tag2mask.base.files import check_folder


def rows_parser(name: str, about: str, *, rows: Iterable[str], plan: type[Any], writes: str) -> argparse.ArgumentParser:
    """A parser with the options of all experiments that train rows.

    Args:
        name: The experiment's module.
        about: What it compares.
        rows: Names of the rows.
        plan: Dataclass whose fields `..._steps` are options.
        writes: What lies in --out at the end.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m experiments.{name}",
        description=f"{about} Run it again to go on after an interruption: rows that are done are kept, and one in "
        "progress goes on from its last save. Several of these commands at once, with one thread each "
        "(OMP_NUM_THREADS=1), share the rows among them.",
    )
    parser.add_argument("--data", required=True, help="data set with tags, and masks of its split val")
    parser.add_argument("--out", required=True, type=Path, help=f"folder of the runs, {writes}")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help=f"rows to run, of {', '.join(rows)}; default all")
    for field in dataclasses.fields(plan):
        if field.name.endswith("_steps"):
            parser.add_argument(f"--{field.name.replace('_', '-')}", type=int, default=field.default)
    return parser


def steps_of(options: argparse.Namespace) -> dict[str, int]:
    """The fields `..._steps` of the plan, as they were given."""
    return {name: value for name, value in vars(options).items() if name.endswith("_steps")}


def ended(out: Path, table: Path, work: Callable[[], object]) -> int:
    """Do the work, print its table and return the exit code; what was done by an interruption stays in `out`."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    try:
        check_folder(out)
        work()
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"stopped; the same command goes on (rows so far: {table})", file=sys.stderr)
        return 1
    print(table.read_text(encoding="utf-8"))
    return 0
