"""The measurement of a training step."""

from __future__ import annotations

import contextlib
import io
import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from tag2mask.config import TrainConfig
from tag2mask.crf import dense_crf
from tag2mask.data.builtin.shapes import write_builtin
from tag2mask.jobs.benchmark.inputs import size_text
from tag2mask.jobs.benchmark.measuring import make_row
from tag2mask.jobs.benchmark.peer import peer_votes
from tag2mask.jobs.benchmark.results import Row
from tag2mask.reliable import DenseCRF
from tag2mask.runs.metrics import read_metrics

_STEP = ("images_per_second", "mining_share")


def measure_training(
    rounds: int, peer: ModuleType | None, *, quick: bool = False, config: TrainConfig | None = None
) -> Row:
    """Joint steps of a run of the preset `small` on built-in pictures, every second one with pydensecrf if it is there.

    They are the steps of `tag2mask.train` as its metrics.csv tells them: loading, network, CRF, losses and update.
    The first step of each contender is not counted; `quick` has smaller crops and batches, and `config` takes the place
    of the preset.

    Raises:
        RuntimeError: the steps did not call the CRF once each, so their times cannot be told apart.
    """
    # heavy, and no process of the peer needs them
    from tag2mask.training.first_step import TagObjective
    from tag2mask.training.starting import run_training
    from tag2mask.training.watching import run_pictures

    config = config or TrainConfig.preset("small")
    if quick:
        config = config.replace(joint_batch_size=2, augment=replace(config.augment, crop_size=96))
    contenders = ("own",) if peer is None else ("own", "peer")
    steps, calls = len(contenders) * (rounds + 1), itertools.count()
    with tempfile.TemporaryDirectory() as folder:
        data = write_builtin(Path(folder) / "data", train=16, val=1, size=config.image_size or 320)
        config = config.replace(
            data=str(data),
            val_split="none",  # nothing to validate
            out=str(Path(folder) / "run"),
            tag_steps=0,
            joint_steps=steps,
            log_every=1,
            sample_every=0,
            save_every=steps,
        )
        objective = TagObjective(config, crf=crf_by_turns(peer, calls))
        with contextlib.redirect_stderr(io.StringIO()):
            run = run_training(config, run_pictures(config, config.train_split), objective)
        metrics = [{key: float(row[key]) for key in _STEP} for row in read_metrics(run)]
    if (called := next(calls)) != steps:
        raise RuntimeError(f"{steps} training steps called the CRF {called} times; bench expects one call a step")
    counted = {name: metrics[i :: len(contenders)][1:] for i, name in enumerate(contenders)}
    shares = {name: median(row["mining_share"] for row in rows) for name, rows in counted.items()}
    batch, crop = int(config.joint_batch_size), config.augment.crop_size
    return make_row(
        {name: [batch / row["images_per_second"] for row in rows] for name, rows in counted.items()},
        name="training-step",
        work=f"training step of `{config.preset_name}`, batch of {batch}, {size_text((crop, crop))}, all threads",
        against="the same with pydensecrf for its CRF",
        clock="wall",
        threads=torch.get_num_threads(),
        measure="speedup",
        bar=None,
        judged=False,
        crf_share=shares["own"],
        peer_crf_share=shares.get("peer"),
    )


def crf_by_turns(peer: ModuleType | None, calls: Iterator[int]) -> DenseCRF:
    """The dense CRF, every second call of which runs on pydensecrf where that is there; each takes one of `calls`."""

    def by_turns(rgb: Tensor, scores: Tensor, **options: Any) -> Tensor:
        if next(calls) % 2 and peer is not None:
            return peer_votes(peer, rgb, scores, options["params"], options["present"])
        return dense_crf(rgb, scores, **options)

    return by_turns
