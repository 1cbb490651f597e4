"""Pictures per second of training, by wall clock and by CPU time of a process, in the number of processes it runs in.

python tools/throughput.py --data photos
torchrun --nproc-per-node 2 tools/throughput.py --data photos

Other options go to `tag2mask train small`. Each process prints a line per phase: medians over its steps, the first of
the phase left out. The CPU time of a process does not count its waiting, so it tells what idle cores would give.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tag2mask import cli
from tag2mask.training import loop

STEPS = 5


def main(options: list[str]) -> int:
    """Train a few steps and print their cost."""
    load, costs, step = os.getloadavg()[0], {}, loop._step

    def timed(*arguments: Any) -> tuple[dict[str, Any], Any]:
        wall, cpu = time.perf_counter(), time.process_time()
        row, batch = step(*arguments)
        spent = (time.perf_counter() - wall, time.process_time() - cpu, len(batch.names))
        costs.setdefault(row["phase"], []).append(spent)
        return row, batch

    loop._step = timed
    with tempfile.TemporaryDirectory() as folder:
        words = ["train", "small", "--out", str(Path(folder) / "run"), "--tag-steps", str(STEPS), "--workers", "0"]
        words += ["--joint-steps", str(STEPS), "--val-split", "none", "--sample-every", "0", "--save-every", "100"]
        code = cli.main([*words, *options])
    rank, world = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    for phase, spent in costs.items():
        wall, cpu, pictures = (statistics.median(each) for each in zip(*spent[1:], strict=True))
        print(
            f"process {rank} of {world}, {phase}: {wall:.2f} s a step, {pictures:g} of its pictures, "
            f"{1000 * cpu / pictures:.0f} ms CPU time each; load average at the start {load:.1f}",
            flush=True,
        )
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
