"""What `bench` found, as it is printed and kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tag2mask.jobs.benchmark.timing import Clock


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table; times are medians in milliseconds."""

    name: str
    """What --only calls it."""
    work: str
    """What tag2mask did."""
    against: str
    """What pydensecrf did."""
    clock: Clock
    """CPU time of the process, or wall time."""
    threads: int
    """Threads of tag2mask."""
    rounds: int
    """Counted rounds."""
    own_ms: float
    """Median of tag2mask."""
    peer_ms: float | None
    """Median of pydensecrf; None without it."""
    own_all_ms: list[float]
    """Every round of tag2mask."""
    peer_all_ms: list[float]
    """Every round of pydensecrf."""
    measure: Literal["speedup", "share"]
    """`speedup`: peer over own, at least the bar. `share`: own over peer, at most the bar."""
    value: float | None
    """The speedup or share of the medians."""
    bar: float | None
    """What the value is held against; None where nothing is asked."""
    met: bool | None
    """None where there is no value or no bar, or the run was quick: bars hold at full size only."""
    max_difference: float | None = None
    """Largest difference between the two results of the first picture, where both compute the same."""
    crf_share: float | None = None
    """Share of a training step that the CRF votes and the reliable labels take, 0-1."""
    peer_crf_share: float | None = None
    """The same with pydensecrf in the step."""


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """What `bench` measured, and where."""

    command: str
    date: str
    """UTC, YYYY-MM-DD."""
    machine: dict[str, Any]
    """Core in use, processor, versions, load average at the start."""
    quick: bool
    rows: list[Row]
    skipped: dict[str, str]
    """Measurements that were not made, with the reason."""
