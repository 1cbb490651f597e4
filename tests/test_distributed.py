"""Two processes that train together: the losses and weights of one, one writer, and no process that waits for ever."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL and gloo over sockets")

SECONDS = 300
"""After so long a process counts as hanging."""


def _as_process(index: int, count: int, port: int, work, arguments) -> None:
    import torch

    torch.set_num_threads(1)
    if count > 1:
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        place = {"RANK": str(index), "LOCAL_RANK": str(index), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
        os.environ.update(address | place)
    work(*arguments)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(forks, count: int, work, *arguments) -> list:
    port = _free_port()
    processes = [
        forks.Process(target=_as_process, args=(index, count, port, work, arguments)) for index in range(count)
    ]
    for process in processes:
        process.start()
    return processes


def finish(processes) -> list[int | None]:
    """Exit codes; a process that hangs is killed and has None."""
    end = time.monotonic() + SECONDS
    for process in processes:
        process.join(max(0, end - time.monotonic()))
    hanging = [process.exitcode is None for process in processes]
    for process in processes:
        process.kill()
    return [None if hangs else process.exitcode for hangs, process in zip(hanging, processes, strict=True)]


# --------------------------------------------------------------------------------------------- equal to one process

UNTIMED = ("images_per_second", "mining_share")


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return [{key: value for key, value in row.items() if key not in UNTIMED} for row in csv.DictReader(file)]


def _train_config(data: Path, out: Path, **changes):
    from tag2mask.config import AugmentConfig, MethodConfig, OptimConfig, TrainConfig

    settings = {
        "data": str(data),
        "out": str(out),
        "backbone": "test_efficientnet",
        "weights": "none",
        "image_size": 64,
        "batch_size": 5,  # shares of 2 and 3
        "joint_batch_size": 4,
        "tag_steps": 2,
        "joint_steps": 3,
        "dropout": 0.0,
        "workers": 0,
        "log_every": 1,
        "sample_every": 5,
        "validate_every": 2,
        "save_every": 2,
        "trackers": (),
        "augment": AugmentConfig(crop_size=48),
        "optim": OptimConfig(lr=0.05, joint_lr=0.05, clip_norm=5.0),
        "attention": True,
        "method": MethodConfig(ema=0.5, teacher=0.5, class_distance=0.1, cam_precision="same"),
    }
    return TrainConfig.preset("small", **(settings | changes))


def _retrain_config(data: Path, out: Path):
    from tag2mask.config import AugmentConfig, OptimConfig, RetrainConfig

    return RetrainConfig.preset(
        "small",
        data=str(data),
        own_masks=True,
        out=str(out),
        backbone="test_efficientnet",
        weights="none",
        image_size=64,
        batch_size=3,
        supervised_steps=3,
        workers=0,
        log_every=1,
        sample_every=0,
        trackers=(),
        augment=AugmentConfig(crop_size=48),
        optim=OptimConfig(lr=0.05, accumulate=2),
    )


def _losses(out: Path) -> None:
    """Write each loss and its gradient in the values of all pictures; of several processes each has a share of them."""
    import torch

    from tag2mask.base.team import Team
    from tag2mask.losses import (
        balanced_cross_entropy,
        class_distance_loss,
        cross_entropy,
        dense_energy_loss,
        dice_cross_entropy,
        tag_loss,
    )

    index, count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    team = Team(index, count)
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 4, 16, 16, generator=rng, dtype=torch.float64)
    features = torch.randn(5, 6, 16, 16, generator=rng, dtype=torch.float64)
    labels = torch.randint(0, 4, (5, 16, 16), generator=rng)
    labels[0], labels[1] = 255, 1  # shares with other numbers of labeled pixels, and one without background
    logits[3] = torch.tensor([9.0, 0, 0, 0])[:, None, None]  # nothing but background
    rgb = torch.randint(0, 256, (5, 3, 16, 16), generator=rng, dtype=torch.uint8)
    own = slice(*((team.share(range(5)).start, team.share(range(5)).stop)))
    results = {}
    for name, values, loss in (
        ("tag", logits[:, :, 0, 0], lambda x: tag_loss(x, labels[own, :4, 0] > 1, team=team)),
        ("balanced", logits, lambda x: balanced_cross_entropy(x, labels[own], team=team)),
        ("cross entropy", logits, lambda x: cross_entropy(x, labels[own], team=team)),
        ("dice", logits, lambda x: dice_cross_entropy(x, labels[own], team=team)),
        (
            "energy",
            logits,
            lambda x: dense_energy_loss(rgb[own], x.softmax(1), labels[own], None, weight=1e-3, team=team),
        ),
        ("class distance", features, lambda x: class_distance_loss(logits[own], x, team=team)),
        ("no object", features, lambda x: class_distance_loss(logits[own, :1], x, team=team)),
    ):
        leaf = values[own].clone().requires_grad_()
        value = loss(leaf)
        value.backward()
        gradients = team.gather(leaf.grad / count)  # the engine averages over the processes
        results[name] = {"value": value.detach(), "gradient": torch.cat(gradients)}
    if team.is_main:
        torch.save(results, out)


def _jobs(data: Path, out: Path) -> None:
    """One work of everything, by one process or by several."""
    from tag2mask import retrain, train
    from tag2mask.training import loop

    # true masks for all: thresholds of reliable labels would turn the last bit of a weight into other labels
    train(_train_config(data, out / "train", masks_for_some=str(data / "masks")))
    # reliable labels in the first step, where the weights are equal bit by bit
    train(_train_config(data, out / "reliable", tag_steps=0, joint_steps=1, validate_every=0, sample_every=0))
    _losses(out / "losses.pt")
    retrain(_retrain_config(data, out / "retrain"))
    if "RANK" not in os.environ:
        return
    dropping = {"dropout": 0.5, "tag_steps": 4, "joint_steps": 0, "val_split": "none"}
    train(_train_config(data, out / "whole", **dropping))
    broken, step = _train_config(data, out / "broken", **dropping), loop._step

    def die_after_the_save(job, moment, optimizer, state, batches):
        if state.step == broken.save_every:
            raise InterruptedError("power cut")
        return step(job, moment, optimizer, state, batches)

    loop._step = die_after_the_save
    try:
        train(broken)
    except InterruptedError:
        loop._step = step
    train(broken, resume=out / "broken")


@pytest.fixture(scope="module")
def both(builtin, tmp_path_factory, forks):
    """The folders of one process and of two."""
    out = tmp_path_factory.mktemp("jobs")
    (out / "one").mkdir()
    (out / "two").mkdir()
    assert finish(start(forks, 1, _jobs, builtin, out / "one")) == [0]
    assert finish(start(forks, 2, _jobs, builtin, out / "two")) == [0, 0]
    return out / "one", out / "two"


def test_each_loss_and_its_gradient_are_those_of_the_whole_batch(both):
    import torch

    one, two = (torch.load(out / "losses.pt", weights_only=True) for out in both)
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-9, atol=1e-12, msg=lambda text, n=name: f"{n}: {text}")
        assert float(one[name]["gradient"].abs().max()) > 1e-7, f"{name} has no gradient: nothing was tested"


@pytest.mark.parametrize("verb", ["train", "reliable", "retrain"])
def test_two_processes_have_the_losses_scores_and_weights_of_one(both, verb):
    from safetensors.torch import load_file

    one, two = (out / verb for out in both)
    steps = [row["step"] for row in rows(one)]
    assert [row["step"] for row in rows(two)] == steps == [str(i + 1) for i in range(len(steps))]
    for want, got in zip(rows(one), rows(two), strict=True):
        assert {k for k, v in want.items() if v} == {k for k, v in got.items() if v}
        for name in [name for name, value in want.items() if value and name != "phase"]:
            assert float(got[name]) == pytest.approx(float(want[name]), rel=1e-5, abs=1e-5), (name, want["step"])
    assert any(row["miou"] for row in rows(two))
    a, b = load_file(one / "model.safetensors"), load_file(two / "model.safetensors")
    assert a.keys() == b.keys()
    for name in a:
        assert float((a[name] - b[name]).abs().max()) <= 1e-5, name


def test_training_moves_the_weights_by_more_than_the_tolerance(both, builtin):
    """Else equal weights would show nothing."""
    from accelerate.utils import set_seed
    from safetensors.torch import load_file

    from tag2mask.data import open_data
    from tag2mask.models import build_network

    config = _train_config(builtin, Path("unused"))
    set_seed(config.seed)
    before = build_network(config, open_data(builtin, split="train").classes).state_dict()
    after = load_file(both[1] / "train" / "model.safetensors")
    moved = {name: float((before[name] - after[name]).abs().max()) for name in before}
    assert moved["classifier.weight"] > 1e-4
    assert moved["segmenter.2.weight"] > 1e-3
    assert max(value for name, value in moved.items() if name.startswith("backbone.")) > 1e-4


def test_one_process_writes_and_speaks(both):
    run = both[1] / "train"
    stamped = [line for line in (run / "log.txt").read_text().splitlines() if line[:2] == "20"]
    lines = [line.partition(" ")[2].partition(" ")[2] for line in stamped]
    assert len(lines) == len(set(lines)), "each line once"
    assert sum("DEBUG step" in line for line in lines) == 5
    assert {path.name for path in run.iterdir()} == {path.name for path in (both[0] / "train").iterdir()}
    assert [path.name for path in (run / "samples").iterdir()] == ["step-000005.jpg"]
    assert '"processes": 2' in (run / "environment.json").read_text()


def test_the_validation_scores_each_picture_once(both):
    import json

    one, two = (json.loads((out / "train" / "validation" / "scores.json").read_text()) for out in both)
    assert two["num_images"] == 4
    assert two["confusion"] == one["confusion"]
    assert two["pictures"].keys() == one["pictures"].keys()


def test_resume_is_exact_and_each_process_drops_other_channels(both):
    import torch
    from safetensors.torch import load_file

    from tag2mask.runs.checkpoints import load_state

    whole, broken = both[1] / "whole", both[1] / "broken"
    a, b = load_file(whole / "model.safetensors"), load_file(broken / "model.safetensors")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert rows(whole) == rows(broken)
    state = load_state(whole)
    assert len(state["rng_of_others"]) == 1
    assert not torch.equal(state["rng"], state["rng_of_others"][0]["rng"])


def test_a_batch_that_is_too_small_is_refused(builtin, tmp_path):
    from tag2mask.base.team import Team
    from tag2mask.training.starting import _check_share

    config = _train_config(builtin, tmp_path / "run", batch_size=4, joint_batch_size=2)
    _check_share(config, Team(0, 2))
    with pytest.raises(ValueError, match="joint phase has 2 pictures per step, which 3 processes cannot share"):
        _check_share(config, Team(0, 3))


def test_shares_are_everything_once():
    from tag2mask.base.team import Team

    for count in (1, 2, 3, 7):
        for total in (0, 1, 5, 21):
            parts = [Team(index, count).share(list(range(total))) for index in range(count)]
            assert [item for part in parts for item in part] == list(range(total))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(("place", "wanted"), [(None, "cuda"), ("0", "cuda:0"), ("1", "cuda:1"), ("5", "cuda:1")])
def test_each_process_of_a_machine_takes_a_gpu_of_its_own(monkeypatch, place, wanted):
    import torch

    from tag2mask.inference import torch_backend as segmenter

    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if place is not None:
        monkeypatch.setenv("LOCAL_RANK", place)
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "zeros", lambda *_, device: asked.append(device))
    assert segmenter.resolve_device("auto") == torch.device(wanted)
    assert segmenter.resolve_device("cpu") == torch.device("cpu")
    assert asked == [wanted, "cpu"]


# --------------------------------------------------------------------------------------------- a process that is lost


def _words(data: Path, out: Path, **changes: object) -> list[str]:
    """The command that trains a tiny network."""
    options = {
        "data": data,
        "out": out,
        "backbone": "test_efficientnet",
        "weights": "none",
        "image-size": 64,
        "batch-size": 2,
        "tag-steps": 100_000,
        "joint-steps": 0,
        "val-split": "none",
        "workers": 0,
        "log-every": 1,
        "sample-every": 0,
        "save-every": 2,
        "augment.crop-size": 48,
    }
    words = [word for name, value in (options | changes).items() for word in (f"--{name}", str(value))]
    return ["train", "small", *words, "--trackers"]


def _endless(data: Path, out: Path, error: str, errors: Path, patience: int = 600) -> None:
    """Train until something ends it; with `error` process 1 fails in its third step."""
    from tag2mask.cli import main
    from tag2mask.training import loop

    os.environ["TAG2MASK_TIMEOUT"] = str(patience)
    step, calls = loop._step, []

    def failing(*arguments):
        calls.append(1)
        if error and os.environ["RANK"] == "1" and len(calls) == 3:
            raise ValueError(error)
        return step(*arguments)

    loop._step = failing
    with (errors / os.environ["RANK"]).open("w") as sys.stderr:
        code = main(_words(data, out))
    sys.exit(code)


def _wait_for_steps(run: Path, count: int) -> None:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        if (run / "metrics.csv").is_file() and len((run / "metrics.csv").read_text().splitlines()) > count:
            return
        time.sleep(0.05)
    raise AssertionError(f"no {count} steps within {SECONDS} s")


@pytest.mark.parametrize(
    ("victim", "how", "patience"), [(1, signal.SIGKILL, 600), (0, signal.SIGKILL, 600), (1, signal.SIGSTOP, 8)]
)
def test_a_process_that_is_killed_or_hangs_ends_the_others(builtin, tmp_path, forks, victim, how, patience):
    run = tmp_path / "run"
    processes = start(forks, 2, _endless, builtin, run, "", tmp_path, patience)
    _wait_for_steps(run, 3)
    assert (run / "last" / "state.pt").is_file(), "there is a state to go on from"
    os.kill(processes[victim].pid, how)
    begun, survivor = time.monotonic(), processes[1 - victim]
    survivor.join(SECONDS)
    took = time.monotonic() - begun
    for process in processes:
        process.kill()
    assert survivor.exitcode == 1
    assert took < 60
    said = (tmp_path / str(1 - victim)).read_text()
    assert (
        f"tag2mask: error: process {1 - victim} of 2: Another process of this job is lost: it was killed, hangs" in said
    )
    assert "--resume" in said
    if victim == 1:
        assert "Another process of this job is lost" in (run / "log.txt").read_text().splitlines()[-1]


def test_the_error_of_one_process_is_the_reason_that_the_others_give(builtin, tmp_path, forks):
    run = tmp_path / "run"
    assert finish(start(forks, 2, _endless, builtin, run, "the third picture is upside down", tmp_path)) == [1, 1]
    assert (tmp_path / "1").read_text().endswith("error: process 1 of 2: the third picture is upside down\n")
    reason = "process 1 ended with ValueError: the third picture is upside down"
    assert reason in (tmp_path / "0").read_text()
    assert reason in (run / "log.txt").read_text()


def test_a_run_folder_that_exists_ends_all(builtin, tmp_path, forks):
    run = tmp_path / "run"
    run.mkdir()
    (run / "precious").touch()
    assert finish(start(forks, 2, _endless, builtin, run, "", tmp_path)) == [1, 1]
    assert "exists and is not empty" in (tmp_path / "0").read_text()
    assert [path.name for path in run.iterdir()] == ["precious"]


@pytest.mark.parametrize("text", ["soon", "0", "-3", "nan"])
def test_a_bad_timeout_is_refused(monkeypatch, text):
    from tag2mask.base.team import timeout

    monkeypatch.setenv("TAG2MASK_TIMEOUT", text)
    with pytest.raises(ValueError, match="TAG2MASK_TIMEOUT must be a number of seconds"):
        timeout()


# --------------------------------------------------------------------------------------------- the launchers


def _launch(launcher: list[str], words: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", *launcher, "-m", "tag2mask", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def _torchrun(words: list[str]) -> subprocess.Popen[str]:
    return _launch(["torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(_free_port())], words)


ACCELERATE = ["--multi_gpu", "--num_machines", "1", "--num_processes", "2", "--mixed_precision", "no"]
ACCELERATE += ["--dynamo_backend", "no"]


def _train_as_launched(data: Path, out: Path, told: Path, environment: dict[str, str]) -> None:
    from tag2mask.cli import main

    os.environ.update(environment)
    with (told / os.environ["RANK"]).open("w") as sys.stdout:
        code = main([*_words(data, out, **{"tag-steps": 2, "device": "cpu"}), "--json"])
    sys.exit(code)


def check_launched(run: Path, told: str) -> None:
    assert json.loads(told)["run"] == str(run)
    assert [row["step"] for row in rows(run)] == ["1", "2"]
    assert '"processes": 2' in (run / "environment.json").read_text()


def test_two_processes_train_in_the_environment_of_accelerate_launch(builtin, tmp_path, forks):
    from accelerate.commands.launch import launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    run = tmp_path / "run"
    words = [*ACCELERATE, "--main_process_port", str(_free_port()), "-m", "tag2mask"]
    made = prepare_multi_gpu_env(launch_command_parser().parse_args(words))
    environment = {name: value for name, value in made.items() if name.startswith("ACCELERATE_")}
    assert environment["ACCELERATE_MIXED_PRECISION"] == "no"
    assert finish(start(forks, 2, _train_as_launched, builtin, run, tmp_path, environment)) == [0, 0]
    check_launched(run, (tmp_path / "0").read_text())
    assert (tmp_path / "1").read_text() == ""


@pytest.mark.slow
def test_accelerate_launch_trains(builtin, tmp_path):
    run = tmp_path / "run"
    launcher = ["accelerate.commands.launch", *ACCELERATE, "--main_process_port", str(_free_port())]
    words = _words(builtin, run, **{"tag-steps": 2, "device": "cpu"})
    out, errors = _launch(launcher, [*words, "--json"]).communicate(timeout=SECONDS)
    assert out, errors
    check_launched(run, out)


@pytest.mark.slow
def test_torchrun_ends_the_job_when_a_process_is_killed_and_it_goes_on(builtin, tmp_path):
    run = tmp_path / "run"
    job = _torchrun(_words(builtin, run))
    _wait_for_steps(run, 4)
    found = subprocess.run(["pgrep", "-P", str(job.pid)], capture_output=True, text=True, check=True).stdout.split()
    begun = time.monotonic()
    os.kill(int(found[-1]), signal.SIGKILL)
    _, errors = job.communicate(timeout=SECONDS)
    assert job.returncode != 0
    assert time.monotonic() - begun < 60
    assert "exitcode  : -9" in errors
    assert (run / "last" / "state.pt").is_file(), "there is a state to go on from"


def test_torchrun_passes_a_stop_on_and_all_is_saved(builtin, tmp_path):
    """torchrun signals the whole process group, the loader processes with it; they must outlive the step."""
    from tag2mask.runs.checkpoints import load_state

    run = tmp_path / "run"
    job = _torchrun(_words(builtin, run, **{"workers": 1, "save-every": 100_000}))
    _wait_for_steps(run, 4)
    job.terminate()
    _, errors = job.communicate(timeout=SECONDS)
    step = int(rows(run)[-1]["step"])
    assert f"Stopped and saved at step {step} of 100000" in (run / "log.txt").read_text(), errors
    assert load_state(run)["step"] == step
