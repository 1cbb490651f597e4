"""Clocks, and contenders that take turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch

Clock = Literal["cpu", "wall"]
Timer = Callable[[], float]
"""Does its work once and returns the seconds that it took."""
_CLOCKS: dict[Clock, Callable[[], float]] = {"cpu": time.process_time, "wall": time.perf_counter}


def timed(work: Callable[[], Any], clock: Clock, before: Callable[[], Any] | None = None) -> Timer:
    """A timer of `work`; `before` is called first and not timed."""

    def run() -> float:
        if before is not None:
            before()
        now = _CLOCKS[clock]
        start = now()
        work()
        return now() - start

    return run


def interleave(timers: Mapping[str, Timer], rounds: int) -> dict[str, list[float]]:
    """Seconds of each timer in each round: A, B, A, B, ... after a round that is not counted."""
    seconds = [[run() for run in timers.values()] for _ in range(rounds + 1)]
    return {name: list(each) for name, each in zip(timers, zip(*seconds[1:], strict=True), strict=True)}


@contextmanager
def threads(count: int) -> Iterator[None]:
    """`count` threads of torch, which the kernels follow; the old number comes back."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
