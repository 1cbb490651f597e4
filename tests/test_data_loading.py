"""Samples: reproducible one by one, and no broken file stops a run."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from tag2mask.batch import Batch, Sample
from tag2mask.config import AugmentConfig
from tag2mask.data import DataError, PictureSet, open_data
from tag2mask.data.training.loading import TrainingPictures, leave_stops_to_the_parent, named_errors

AUGMENT = AugmentConfig(crop_size=16)
COUNT = 7


@pytest.fixture
def pictures(tmp_path: Path) -> PictureSet:
    """Seven pictures p0 .. p6 of 12 x 20 with masks; the even ones show `cat`, p0 also `dog`."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks", "splits"):
        (tmp_path / name).mkdir()
    rows = ["file_name,tags"]
    for i in range(COUNT):
        Image.fromarray(rng.integers(0, 256, (12, 20, 3), np.uint8)).save(tmp_path / f"images/p{i}.png")
        mask = Image.fromarray(np.full((12, 20), i % 3, np.uint8), mode="P")
        mask.putpalette([0] * 768)
        mask.save(tmp_path / f"masks/p{i}.png")
        rows.append(f"p{i}.png," + ("cat;dog" if i == 0 else "" if i % 2 else "cat"))
    (tmp_path / "tags.csv").write_text("\n".join(rows))
    (tmp_path / "splits/train.txt").write_text("\n".join(f"p{i}.png" for i in range(COUNT)))
    return open_data(tmp_path)


def training(pictures: PictureSet, seed: int = 3) -> TrainingPictures:
    return TrainingPictures(pictures, AUGMENT, None, (1, 2, 3), seed)


def same(a: Sample, b: Sample) -> bool:
    return a[4:] == b[4:] and all(torch.equal(x, y) for x, y in zip(a[:4], b[:4], strict=True))


def test_each_epoch_holds_every_picture_once_in_its_own_order(pictures: PictureSet) -> None:
    data = training(pictures)
    epochs = [[data[n].name for n in range(e * COUNT, (e + 1) * COUNT)] for e in range(4)]
    assert all(sorted(names) == [f"p{i}.png" for i in range(COUNT)] for names in epochs)
    assert len(set(map(tuple, epochs))) == 4


def test_a_draw_depends_on_seed_and_number_alone(pictures: PictureSet) -> None:
    data = training(pictures)
    forward = [data[n] for n in range(20)]
    backward = [training(pictures)[n] for n in reversed(range(20))][::-1]
    torch.manual_seed(99)
    assert all(same(a, b) for a, b in zip(forward, backward, strict=True))
    others = training(pictures, seed=4)
    assert not all(same(forward[n], others[n]) for n in range(20))
    by_name: dict[str, list[Sample]] = {}
    for sample in forward:
        by_name.setdefault(sample.name, []).append(sample)
    repeated = next(samples for samples in by_name.values() if len(samples) > 1)
    assert not torch.equal(repeated[0].rgb, repeated[1].rgb)  # another draw of one picture is augmented anew


def test_one_scale_per_batch_is_fixed_by_the_first_draw_of_the_batch(pictures: PictureSet) -> None:
    starts = [0, 4, 8, 10, 12, 14]  # batches of 4, then of 2
    augment = AugmentConfig(crop_size=64, scale=(0.5, 3.0), scale_per="batch", flip=0.0, jitter=(0, 0, 0, 0))

    def sides(data: TrainingPictures, draws: range) -> list[int]:
        return [int(data[n].valid.any(0).sum()) for n in draws]  # pictures are 20 wide

    data = TrainingPictures(pictures, augment, None, (1, 2, 3), 3, batch_starts=starts)
    batches = [sides(data, range(a, b)) for a, b in itertools.pairwise(starts)]
    assert all(len(set(batch)) == 1 for batch in batches)
    assert len({batch[0] for batch in batches}) >= 4
    assert sides(data, range(9, 12)) == [*batches[2][1:], *batches[3]]  # a resumed run draws the same
    each = TrainingPictures(pictures, replace(augment, scale_per="picture"), None, (1, 2, 3), 3, batch_starts=starts)
    assert len(set(sides(each, range(4)))) > 1
    assert [each[n].name for n in range(4)] == [data[n].name for n in range(4)]
    with pytest.raises(ValueError, match=r"--augment\.scale-per batch .*batch_starts"):
        TrainingPictures(pictures, augment, None, (1, 2, 3), 3)


def test_workers_change_nothing(pictures: PictureSet) -> None:
    def load(workers: int) -> list[Batch]:
        batches = [range(4), range(4, 8), range(8, 12)]
        return list(
            DataLoader(training(pictures), batch_sampler=batches, num_workers=workers, collate_fn=Batch.collate)
        )

    for a, b in zip(load(0), load(2), strict=True):
        assert a.names == b.names and torch.equal(a.rgb, b.rgb) and torch.equal(a.mask, b.mask)


def test_samples_carry_tags_and_masks(pictures: PictureSet) -> None:
    for n in range(COUNT):
        sample = training(pictures)[n]
        i = int(sample.name[1])
        assert sample.tags.tolist() == [i % 2 == 0, i == 0]
        assert sample.tags.dtype == torch.bool
        assert set(sample.mask[sample.valid].tolist()) == {i % 3}
        assert sample.broken == ()


def test_a_broken_picture_is_passed_over_and_named(pictures: PictureSet) -> None:
    order = [training(pictures)[n].name for n in range(COUNT)]
    (pictures.root / "images" / order[2]).write_bytes(b"")
    (pictures.root / "images" / order[3]).unlink()
    data = training(pictures)
    assert (data[2].name, data[2].broken) == (order[4], (order[2], order[3]))
    assert (data[3].name, data[3].broken) == (order[4], (order[3],))
    assert (data[4].name, data[4].broken) == (order[4], ())
    (pictures.root / "images" / order[6]).write_bytes(b"x")
    assert training(pictures)[6].name == order[0]  # behind the last comes the first of the same epoch


def test_only_broken_pictures_are_an_error(pictures: PictureSet) -> None:
    for picture in pictures.pictures:
        picture.path.write_bytes(b"x")
    with pytest.raises(DataError, match="None of the 7 pictures"):
        training(pictures)[0]


def test_a_broken_mask_does_not_stop_training_on_tags(pictures: PictureSet, caplog: pytest.LogCaptureFixture) -> None:
    for picture in pictures.pictures:
        assert picture.mask is not None
        picture.mask.write_bytes(b"x")
    sample = training(pictures)[0]
    assert (sample.mask == 255).all() and sample.broken == ()
    assert "cannot be read as a mask" in caplog.text


class _Pids(Dataset[int]):
    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index: int) -> int:
        return os.getpid()


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="this system does not tell who sent a signal")
def test_only_the_parent_ends_a_loader_process():
    """Schedulers and launchers signal a whole job; a worker that obeyed them would take the last save with it."""
    drawn = iter(DataLoader(_Pids(), batch_size=None, num_workers=1, worker_init_fn=leave_stops_to_the_parent))
    worker = next(drawn)
    for name in ("TERM", "INT"):
        subprocess.run(["kill", f"-{name}", str(worker)], check=True)
    assert [next(drawn) for _ in range(100)] == [worker] * 100
    os.kill(worker, signal.SIGTERM)
    (ended,) = (process for process in multiprocessing.active_children() if process.pid == worker)
    ended.join(30)
    assert ended.exitcode == 0


@pytest.mark.skipif(os.name == "nt", reason="torch hears of dead workers by a signal")
def test_the_signal_of_a_worker_that_broke_off_does_not_break_into_what_follows():
    def told(*_):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    def broken_off():
        signal.setitimer(signal.ITIMER_REAL, 0.05)  # the signal comes a little after the connection has broken
        raise ConnectionResetError
        yield

    before = signal.signal(signal.SIGALRM, told)
    try:
        with pytest.raises(DataError, match=r"died: it broke off in the middle of a batch\."):
            list(named_errors(broken_off()))
        time.sleep(0.1)
    finally:
        signal.signal(signal.SIGALRM, before)
