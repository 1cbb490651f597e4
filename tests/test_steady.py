"""Steady: memory, open files and threads stay level over many steps and predictions; dead workers end a run at once."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from tag2mask.config import AugmentConfig, OptimConfig
from tag2mask.data import DataError
from tag2mask.jobs.predicting.run import predict
from tag2mask.runs.metrics import MetricsFile
from tag2mask.training import loop
from tag2mask.training.first_step import train

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


class Held(NamedTuple):
    """What this process holds."""

    kib: int
    files: int
    threads: int


def held() -> Held:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    status = Path("/proc/self/status").read_text()
    threads = int(status.split("Threads:")[1].split()[0])
    return Held(pages * os.sysconf("SC_PAGESIZE") // 1024, len(list(Path("/proc/self/fd").iterdir())), threads)


def growth(samples: list[Held], each: int) -> str:
    """What the last quarter holds more of than the second; nothing if all is level.

    Memory may grow by 4 MiB, for what the allocators keep, and by `each` bytes per sample between the two.
    """
    quarter = len(samples) // 4
    before, after = samples[quarter : 2 * quarter], samples[3 * quarter :]
    found = []
    allowed = 4096 + each * 2 * quarter // 1024
    for name, more in zip(Held._fields, (allowed, 0, 0), strict=True):
        first, last = (max(getattr(sample, name) for sample in part) for part in (before, after))
        if last > first + more:
            found.append(f"{name}: {first} to {last}")
    return "; ".join(found)


def test_what_grows_is_seen():
    level = [Held(100_000 + i % 3, 9, 4) for i in range(400)]
    assert growth(level, 0) == ""
    assert "kib" in growth([each._replace(kib=each.kib + 25 * i) for i, each in enumerate(level)], 4096)
    assert growth([each._replace(files=9 + i // 150) for i, each in enumerate(level)], 0).startswith("files")
    assert growth([each._replace(threads=4 + i // 150) for i, each in enumerate(level)], 0).startswith("threads")


def smallest(tiny_config, tags: int, joint: int):
    return tiny_config.replace(
        image_size=32,
        augment=AugmentConfig(crop_size=32),
        batch_size=2,
        joint_batch_size=2,
        tag_steps=tags,
        joint_steps=joint,
        save_every=50,
        val_split="none",
        trackers=(),
        optim=OptimConfig(lr=1e-4, joint_lr=1e-4),  # at more a toy of two pictures a step diverges some day
    )


def samples_of_steps(config, monkeypatch) -> list[Held]:
    samples: list[Held] = []
    write = MetricsFile.write

    def noting(self, row):
        write(self, row)
        samples.append(held())

    monkeypatch.setattr(MetricsFile, "write", noting)
    monkeypatch.setattr(logging.getLogger("tag2mask"), "propagate", False)  # pytest would keep every line
    train(config)
    return samples


def samples_of_predictions(segmenter, folder: Path, count: int) -> list[Held]:
    samples = []
    for number in range(count):
        size = (40 + number % 7, 50 + number % 5)
        path = folder / f"{number % 10}.png"
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
        if number % 50 == 0:
            predict(segmenter, path, folder / "out")
        out = segmenter.predict(path, crf=number % 10 == 0, tile=64 if number % 10 == 1 else None)
        assert out.probs.shape[1:] == size
        samples.append(held())
    return samples


def test_some_steps_hold_nothing(tiny_config, monkeypatch):
    """Measured: 10,000 steps below. Here the joint phase too, in which the CRF runs."""
    samples = samples_of_steps(smallest(tiny_config, 10, 150), monkeypatch)
    assert growth(samples, 8 * 1024) == ""


def test_some_predictions_hold_nothing(segmenter, tmp_path):
    assert growth(samples_of_predictions(segmenter, tmp_path, 300), 8 * 1024) == ""


@pytest.mark.slow
def test_ten_thousand_steps_hold_nothing(tiny_config, monkeypatch, capsys):
    samples = samples_of_steps(smallest(tiny_config, 5000, 5000), monkeypatch)
    assert len(samples) == 10_000
    with capsys.disabled():
        print("\nsteps:", *(samples[i] for i in (99, 2499, 4999, 7499, 9999)), sep="\n  ")
    # each half is one phase; the second quarter of each against its last
    assert growth(samples[:5000], 256) == ""
    assert growth(samples[5000:], 256) == ""


@pytest.mark.slow
def test_ten_thousand_predictions_hold_nothing(segmenter, tmp_path, capsys):
    samples = samples_of_predictions(segmenter, tmp_path, 10_000)
    with capsys.disabled():
        print("\npredictions:", *(samples[i] for i in (99, 2499, 4999, 7499, 9999)), sep="\n  ")
    assert growth(samples, 512) == ""


def children() -> list[int]:
    return [
        int(pid)
        for task in Path("/proc/self/task").iterdir()
        for pid in (task / "children").read_text().split()
        if " Z " not in (Path("/proc") / pid / "stat").read_text()  # ended, and held by the error's traceback
    ]


@pytest.mark.parametrize("waits", [False, True], ids=["between-steps", "in-a-step"])
def test_a_dead_worker_ends_the_run_at_once(tiny_config, monkeypatch, waits):
    before = set(children())
    killed: list[float] = []
    note = loop._note_broken

    def killing(state, batch, team):
        note(state, batch, team)
        if state.step == 1 and not killed:
            for pid in set(children()) - before:
                os.kill(pid, signal.SIGKILL)
            killed.append(time.monotonic())
            if waits:
                threading.Event().wait(60)  # torch tells it in the middle of this

    monkeypatch.setattr(loop, "_note_broken", killing)
    config = smallest(tiny_config, 500, 0).replace(workers=1)
    with pytest.raises(DataError, match=r"A process that loads pictures died: .*workers .*resume"):
        train(config)
    assert killed and time.monotonic() - killed[0] < 50
    gc.collect()
    assert set(children()) <= before
