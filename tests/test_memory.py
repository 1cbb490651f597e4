"""Memory that runs out: one line that says what to change, and batches that fit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tag2mask import cli
from tag2mask.base.memory import free_bytes, peak_bytes, ran_out
from tag2mask.config import TrainConfig, load_config, parse_config
from tag2mask.inference.tiles import network_size
from tag2mask.jobs.predicting.run import predict
from tag2mask.training import batch_fitting
from tag2mask.training.first_step import train


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "an array did not fit"),
        (MemoryError("Unable to allocate 3 GiB\nmore"), "Unable to allocate 3 GiB"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "CUDA out of memory. Tried"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "DefaultCPUAllocator"),
        (RuntimeError("std::bad_alloc"), "bad_alloc"),
        (RuntimeError("shapes differ"), None),
        (ValueError("out of memory of earlier days"), None),
    ],
)
def test_which_errors_say_that_memory_ran_out(error, words):
    found = ran_out(error)
    assert (found is None) if words is None else (words in found and "\n" not in found)


def test_torch_says_it_in_these_words():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55, dtype=torch.uint8)
    assert ran_out(caught.value) is not None


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_measured_memory():
    peak_bytes(lambda: np.ones(1 << 20))
    small, large = (peak_bytes(lambda n=n: np.ones(n << 17)) for n in (10, 110))  # MiB
    assert (large - small) / 2**20 == pytest.approx(100, abs=10)
    assert 2**20 < free_bytes() < 2**50


def test_a_picture_that_does_not_fit_is_told_and_the_others_are_done(segmenter, tmp_path, monkeypatch, capsys):
    for name in "abc":
        Image.fromarray(np.zeros((20, 30 if name == "b" else 40, 3), np.uint8)).save(tmp_path / f"{name}.png")
    network = segmenter.network
    run, size = network.run, network_size((20, 30), network.image_size, network.stride)

    def failing(rgb, *arguments, **options):
        if rgb.shape[1:3] == size:
            torch.empty(2**55, dtype=torch.uint8)
        return run(rgb, *arguments, **options)

    monkeypatch.setattr(network, "run", failing)
    summary = predict(segmenter, tmp_path, tmp_path / "out")
    assert summary.written == ("a", "c")
    assert "b.png does not fit into memory" in summary.errors[str(tmp_path / "b.png")]
    assert "--tile 512" in summary.errors[str(tmp_path / "b.png")]
    monkeypatch.setattr(network, "run", lambda *_, **__: torch.zeros(3, 3) @ torch.zeros(2, 2))
    with pytest.raises(RuntimeError):  # what is not about memory is not about the picture
        predict(segmenter, tmp_path, tmp_path / "out")


def test_training_out_of_memory_is_one_line(tiny_config, monkeypatch, capsys):
    monkeypatch.setattr("tag2mask.training.loop._step", lambda *_: torch.empty(2**55, dtype=torch.uint8))
    data = [
        "--data",
        tiny_config.data,
        "--out",
        tiny_config.out,
        "--backbone",
        "test_efficientnet",
        "--weights",
        "none",
    ]
    assert cli.main(["train", "small", *data, "--workers", "0", "--trackers"]) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("tag2mask: error: out of memory (") and "--batch-size" in last and "auto" in last


def test_auto_in_a_config():
    config = TrainConfig.preset("small", data="x", batch_size="auto", joint_batch_size=3)
    assert parse_config(config.to_json()) == config
    assert config.batch_fields == ("batch_size", "joint_batch_size")
    for wrong in (0, "many", 70_000):
        with pytest.raises(ValueError, match="batch_size must be 1 to 65536, or auto, got"):
            TrainConfig.preset("small", data="x", batch_size=wrong)


@pytest.mark.parametrize(
    ("fits", "expected"), [(0, 0), (1, 1), (2, 1), (37, None), (99, None), (100, 100), (5000, 100)]
)
def test_trying_finds_what_fits_and_leaves_a_share(fits, expected):
    tried = []

    def step(count):
        tried.append(count)
        if count > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")

    found = batch_fitting._by_trying(step, 100)
    if expected is None:
        assert int(batch_fitting.SHARE * fits * 0.93) <= found <= batch_fitting.SHARE * fits
    else:
        assert found == expected
    assert len(tried) <= 14
    assert max(tried) <= 100


def test_other_errors_of_a_trial_are_raised():
    def step(count):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes"):
        batch_fitting._by_trying(step, 4)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_auto_is_a_number_in_the_run_and_changes_nothing_else(tiny_config, monkeypatch):
    monkeypatch.setattr(batch_fitting, "free_bytes", lambda: 10**15)  # so much that the pictures are the limit
    found = load_config(train(tiny_config.replace(batch_size="auto", joint_steps=0)))
    assert found.batch_size == 12
    same = train(tiny_config.replace(batch_size=12, joint_steps=0, out=tiny_config.out + "-same"))
    one, two = (Path(run) / "model.safetensors" for run in (found.out, same))
    from safetensors.numpy import load_file

    weights = load_file(two)
    assert all(np.array_equal(value, weights[name]) for name, value in load_file(one).items())


_LIMITED = """
import json, resource, sys
from pathlib import Path
from tag2mask import cli
from tag2mask.training.first_step import train  # everything is loaded before the limit is set
from tag2mask.models import backbones
import timm, torch
torch.set_num_threads(1)
used = int(Path("/proc/self/status").read_text().split("VmSize:")[1].split()[0]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
words = sys.argv[1:]
codes = [cli.main([*words, "--batch-size", size, "--out", f"{sys.argv[0]}{size}"]) for size in ("auto", "4000")]
print(json.dumps(codes))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_auto_fits_below_a_limit_that_a_large_batch_breaks(builtin, tmp_path):
    words = [
        *("train", "small", "--data", str(builtin), "--backbone", "test_efficientnet", "--weights", "none"),
        *("--workers", "0", "--sample-every", "0", "--trackers", "--tag-steps", "2", "--joint-steps", "0"),
        *("--image-size", "448", "--augment.crop-size", "448"),
    ]
    program = _LIMITED.replace("{sys.argv[0]}", f"{tmp_path}/")
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == [json.dumps([0, 1])], done.stderr[-2000:]
    found = load_config(tmp_path / "auto").batch_size
    assert isinstance(found, int) and 1 <= found <= 12
    assert "tag2mask: error: out of memory (" in done.stderr.splitlines()[-1]
