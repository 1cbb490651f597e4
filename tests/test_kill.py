"""Kills: a run that SIGKILL ends, again and again, comes to the same weights as one that nothing disturbed."""

from __future__ import annotations

import csv
import dataclasses
import os
import random
import signal
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")

STEPS = 100
KILLS = 20


def _config(tiny_config, out: Path):
    return tiny_config.replace(
        out=str(out),
        backbone="test_resnet",
        image_size=32,
        batch_size=2,
        augment=dataclasses.replace(tiny_config.augment, crop_size=32),
        tag_steps=STEPS // 2,
        joint_steps=STEPS // 2,
        save_every=2,
        val_split="none",
    )


def _train(config, resume, where: str | None, count: int) -> None:
    """Train or go on; die of SIGKILL at the `count`-th time that `where` is reached."""
    import torch

    torch.set_num_threads(1)
    if where is not None:
        _die(where, count)
    from tag2mask.config import load_config
    from tag2mask.training.first_step import train

    train(load_config(Path(resume)) if resume else config, resume=resume)


def _die(where: str, count: int) -> None:
    import torch

    from tag2mask.base import files
    from tag2mask.runs import metrics

    left = [count]

    def now() -> bool:
        left[0] -= 1
        return left[0] == 0

    def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    save, flush = torch.save, files._flush

    def half_saved(state, path):
        save(state, path)
        if now():
            os.truncate(path, Path(path).stat().st_size // 2)
            kill()

    def flushed(path):
        flush(path)
        if path.name == ".state.part.pt" and now():
            kill()

    def half_row(self, row):
        if now():
            with self.path.open("a", encoding="utf-8") as file:
                file.write("1,tags,0.0")
            kill()
        write(self, row)

    write = metrics.MetricsFile.write
    if where == "while the state is written":
        torch.save = half_saved
    elif where == "before the state is renamed":
        files._flush = flushed
    elif where == "while a row of metrics is written":
        metrics.MetricsFile.write = half_row


FORCED = (
    ("while the state is written", 1),
    ("before the state is renamed", 1),
    ("while the state is written", 4),
    ("before the state is renamed", 3),
    ("while a row of metrics is written", 5),
)


def _metrics(run: Path) -> list[dict[str, str]]:
    timed = {"images_per_second", "mining_share"}
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return [{key: value for key, value in row.items() if key not in timed} for row in csv.DictReader(file)]


def _weights(run: Path) -> dict[str, bytes]:
    from safetensors.torch import load_file

    return {name: tensor.numpy().tobytes() for name, tensor in load_file(run / "model.safetensors").items()}


def _wait_for_rows(path: Path, count: int, process) -> None:
    """Until the process has added so many rows to the file, or ends."""

    def rows() -> int:
        return path.read_bytes().count(b"\n") if path.is_file() else 0

    least = rows()
    while rows() < least + count and process.is_alive():
        least = min(least, rows())  # going on from a save drops the rows behind it
        time.sleep(0.002)


def test_a_run_that_is_killed_twenty_times_ends_as_if_nothing_had_happened(tiny_config, tmp_path, forks):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = forks.Process(target=_train, args=(_config(tiny_config, whole), None, None, 0))
    process.start()
    process.join(120)
    assert process.exitcode == 0

    rng = random.Random(0)
    forced, kills, started_anew = list(FORCED), 0, 0
    for attempt in range(200):
        has_state = (killed / "last" / "state.pt").is_file()
        if not has_state and killed.exists():
            killed.rename(tmp_path / f"early-{attempt}")  # killed before its first save: nothing to go on from
            started_anew += 1
        where, count = forced.pop(0) if forced and has_state and attempt % 3 == 0 else (None, 0)
        config = _config(tiny_config, killed)
        process = forks.Process(target=_train, args=(config, killed if has_state else None, where, count))
        process.start()
        if where is None and kills < KILLS + len(FORCED):
            if not has_state or rng.random() < 0.8:  # the others are killed while they start
                _wait_for_rows(killed / "metrics.csv", rng.randint(1, 5), process)
            process.join(rng.uniform(0, 0.05))
            process.kill()
        process.join(120)
        assert process.exitcode in (0, -signal.SIGKILL), f"attempt {attempt} ended with {process.exitcode}"
        if process.exitcode == 0:
            break
        kills += 1
    assert process.exitcode == 0
    assert kills >= KILLS, f"only {kills} kills; give the run more steps"
    assert not forced, f"never reached: {forced}"
    assert _weights(killed) == _weights(whole)
    assert _metrics(killed) == _metrics(whole)
    assert not list(killed.rglob(".*part*")), "nothing is left behind"


PICTURES = 400


def _predict(run: Path, pictures: Path, out: Path) -> None:
    import torch

    torch.set_num_threads(1)
    from tag2mask.jobs.predicting.run import predict

    predict(run, pictures, out, formats=("png", "geojson"), device="cpu")


def test_a_predict_that_is_killed_neither_loses_nor_repeats_a_picture(tiny_config, tmp_path, forks):
    import numpy as np
    from PIL import Image

    from tag2mask.training.first_step import train

    run = train(tiny_config.replace(tag_steps=1, joint_steps=1, val_split="none"))
    rng = np.random.default_rng(0)
    for i in range(PICTURES):
        path = tmp_path / "pictures" / f"{i % 7}" / f"{i:04d}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)).save(path)
    moments = random.Random(1)
    out, kills = tmp_path / "out", 0
    while True:
        process = forks.Process(target=_predict, args=(run, tmp_path / "pictures", out))
        process.start()
        if kills < KILLS:
            if moments.random() < 0.8:  # the others are killed while they start
                _wait_for_rows(out / "manifest" / "0-of-1.jsonl", moments.randint(1, 20), process)
            process.join(moments.uniform(0, 0.02))
            process.kill()
        process.join(300)
        assert process.exitcode in (0, -signal.SIGKILL)
        if process.exitcode == 0:
            break
        kills += 1
    assert kills >= KILLS, f"only {kills} kills; give it more pictures"
    names = [f"{i % 7}/{i:04d}" for i in range(PICTURES)]
    masks = {path.relative_to(out / "masks").with_suffix("").as_posix(): path for path in out.glob("masks/**/*.png")}
    assert sorted(masks) == sorted(names)
    for path in masks.values():
        with Image.open(path) as mask:
            assert np.asarray(mask).shape == (12, 16), f"{path} is torn"
    with (out / "scores.csv").open(newline="", encoding="utf-8") as file:
        assert sorted(row["file_name"] for row in csv.DictReader(file)) == sorted(f"{name}.bmp" for name in names)
    rows = (out / "manifest" / "0-of-1.jsonl").read_text(encoding="utf-8").count('"name"')
    assert rows == PICTURES, "no picture was done twice"
    assert not list(out.rglob("*.part*")), "nothing is left behind"
