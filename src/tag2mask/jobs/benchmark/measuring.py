"""The measurements of the kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from statistics import median
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tag2mask.config import CRFParams
from tag2mask.crf import dense_crf
from tag2mask.filtering import PictureBatch, clear_cache
from tag2mask.jobs.benchmark.cases import ENERGY_PEER, Case
from tag2mask.jobs.benchmark.inputs import pictures, score_maps, shrunk, size_text
from tag2mask.jobs.benchmark.peer import peer_processes, peer_work
from tag2mask.jobs.benchmark.results import Row
from tag2mask.jobs.benchmark.timing import interleave, threads, timed


def own_work(case: Case, rgb: Tensor, scores: Tensor) -> Callable[[], Any]:
    """One round of tag2mask on uint8 [B, 3, H, W] and scores [B, R, L, H, W]; it gives the marginals."""
    rgb, scores = rgb.to(case.device), scores.to(case.device)
    if case.energy:  # widths of the published loss at half size
        return lambda: PictureBatch(rgb, 50.0, 15.0, "auto").run(scores[:, 0])

    def crf() -> Tensor:
        out = dense_crf(rgb, scores, case.params, backend=case.backend)
        if case.device == "cuda":
            torch.cuda.synchronize()
        return out

    return crf


def measure_case(name: str, case: Case, rounds: int, peer: ModuleType | None, *, shrink: int = 1) -> Row:
    """One line of the table."""
    size, other = shrunk(case.size, shrink), shrunk(ENERGY_PEER, shrink)
    rgb, scores = pictures(case.batch, size), score_maps(case.batch, case.labels, size, case.runs)
    work, difference = own_work(case, rgb, scores), None
    with threads(case.threads), ExitStack() as stack:
        timers = {"own": timed(work, case.clock, clear_cache if case.cold else None)}
        if peer is not None and case.energy:
            theirs = peer_work(peer, pictures(1, other), score_maps(1, case.labels, other, 1), CRFParams.mining())
            timers["peer"] = timed(theirs, case.clock)
        elif peer is not None:
            first = peer_work(peer, rgb[:1], scores[:1], case.params)()
            mine = work()[0].cpu().flatten(2).numpy()
            difference = float(max(np.abs(a - b).max() for a, b in zip(mine, first, strict=True)))
            if case.threads > 1:
                timers["peer"] = peer_processes(rgb, scores, case.params, case.threads, stack)
            else:
                timers["peer"] = timed(peer_work(peer, rgb, scores, case.params), case.clock)
        seconds = interleave(timers, rounds)
    return make_row(
        seconds,
        name=name,
        work=case.work.format(size=size_text(size)),
        against=case.against.format(other=size_text(other)),
        clock=case.clock,
        threads=case.threads,
        measure="share" if case.energy else "speedup",
        bar=case.bar,
        judged=shrink == 1,
        max_difference=difference,
    )


def make_row(
    seconds: Mapping[str, list[float]],
    *,
    measure: Literal["speedup", "share"],
    bar: float | None,
    judged: bool,
    **columns: Any,
) -> Row:
    """The row of the seconds of `own` and, where it ran, `peer`."""
    own, peer = seconds["own"], seconds.get("peer", [])
    value = None
    if peer:
        value = median(peer) / median(own) if measure == "speedup" else median(own) / median(peer)
    met = None
    if judged and value is not None and bar is not None:
        met = value >= bar if measure == "speedup" else value <= bar
    return Row(
        rounds=len(own),
        own_ms=1e3 * median(own),
        peer_ms=1e3 * median(peer) if peer else None,
        own_all_ms=[1e3 * s for s in own],
        peer_all_ms=[1e3 * s for s in peer],
        measure=measure,
        value=value,
        bar=bar,
        met=met,
        **columns,
    )
