"""The command bench: how fast this machine is."""

from __future__ import annotations

import sys

from tag2mask.cli.advice import next_command
from tag2mask.cli.common import Command, Json, Misuse, Result


class Bench(Command):
    """Speed of the kernels and of a training step on this machine, against pydensecrf if it is installed."""

    only: tuple[str, ...] = ()
    """Measurements to make: pair-l3, pair-l5, pair-l21, cold-l3, batch-8, inference-l21, energy-160, energy-224,
    twin-l3, cuda-batch-8, predict-l3, predict-l21, predict-l81, predict-batch-8, predict-files, predict-crf,
    training-step; default all."""
    rounds: int | None = None
    """Counted rounds of each contender; default 7, 2 with --quick."""
    quick: bool = False
    """Small pictures and few rounds: shows that everything works, no measurement."""
    json: Json = False

    def _run(self) -> Result:
        from tag2mask.jobs.benchmark import bench, check_arguments, table_lines

        try:
            check_arguments(self.only, self.rounds)
        except ValueError as error:
            raise Misuse(f"bench: {error}") from error

        def tell(done: int, total: int, name: str) -> None:
            # lines, no bar: what redraws a bar would run beside, and count into, what is measured
            print(f"bench {done}/{total}  {name}", file=sys.stderr, flush=True)

        report = bench(**self.arguments(), progress=tell)
        lines = [*table_lines(report), "no file was written; --json prints every round"]
        return report, [*lines, next_command("bench" if self.quick else "demo")], 0
