"""Cores that a process may use, children of every kind, scripts that their workers run again."""

from __future__ import annotations

import io
import multiprocessing
import os
import shlex
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tag2mask import cli
from tag2mask.base import memory, processes
from tag2mask.base.processes import usable_cores, usual_threads
from tag2mask.compat.pydensecrf import densecrf
from tag2mask.config import RetrainConfig, TrainConfig
from tag2mask.crf import dense_crf
from tag2mask.data.dataset import DataError
from tag2mask.data.training.loading import named_deaths
from tag2mask.filtering import Lattice, clear_cache, load_core
from tag2mask.inference.segmenter import Segmenter
from tag2mask.runs.folder import log_to, new_run_folder, save_model
from tag2mask.training.first_step import train
from tag2mask.training.second_step import retrain

POSIX = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


# Children

SIDE = 112
"""Five labels of so many pixels are more numbers than torch leaves to one thread."""
RGB = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
SCORES = np.random.default_rng(1).random((5, SIDE, SIDE), dtype=np.float32)


def by_dense_crf(_: Path) -> Any:
    return dense_crf(torch.from_numpy(RGB).permute(2, 0, 1)[None].contiguous(), torch.from_numpy(SCORES)[None])


def by_lattice(_: Path) -> Any:
    planes = torch.from_numpy(RGB).permute(2, 0, 1).contiguous()
    return Lattice.bilateral(planes, 80.0, 13.0).filter(torch.from_numpy(SCORES))


def by_compat(_: Path) -> Any:
    model = densecrf.DenseCRF2D(SIDE, SIDE, 5)
    model.setUnaryEnergy(-np.log(SCORES / SCORES.sum(0)).reshape(5, -1))
    model.addPairwiseGaussian(sxy=3, compat=3)
    model.addPairwiseBilateral(sxy=80, srgb=13, rgbim=RGB, compat=10, normalization=densecrf.NORMALIZE_AFTER)
    return model.inference(2)


def by_segmenter(file: Path) -> Any:
    segmenter = Segmenter.load(file)
    return np.stack([segmenter.predict(RGB, crf=crf).mask for crf in (None, True)])


def sums(file: Path) -> list[float]:
    """One number of all that each of them gives."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        works = (by_dense_crf, by_lattice, by_compat, by_segmenter)
        return [float(np.asarray(work(file), dtype=np.float64).sum()) for work in works]
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model_file(segmenter, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(path, segmenter.model, segmenter.config)
    return path


@POSIX
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_children_compute_what_their_parent_has_computed_before(method, model_file, forks):
    """torch keeps its threads for the next time, and a forked child would wait for threads that it does not have."""
    here = sums(model_file)
    context = forks if method == "forkserver" else multiprocessing.get_context(method)
    with context.Pool(2 if method == "fork" else 1) as pool:
        there = pool.map_async(sums, [model_file] * 2).get(timeout=100)
    np.testing.assert_allclose(there, [here, here], rtol=1e-6)
    np.testing.assert_allclose(sums(model_file), here, rtol=1e-6)


@POSIX
@pytest.mark.skipif(load_core() is None, reason="the compiled core was not built")
def test_a_fork_while_another_thread_is_inside_the_core(tmp_path):
    """A lock of the core that another thread holds at that moment must not stay locked in the child."""
    (script := tmp_path / "script.py").write_text(
        "import faulthandler, os, threading\nimport numpy as np\nfrom tag2mask import _core\n"
        "rgb = np.zeros((1, 3, 608, 608), np.uint8)\nvalues = np.zeros((1, 1, 608, 608), np.float32)\n"
        "def work():\n    _core.bilateral_filter(rgb, values, np.empty_like(values), 50.0, 15.0, False, 1)\n"
        "    _core.clear_cache()\n"
        "def busy():\n    while True:\n        work()\n"
        "for _ in range(3):\n    threading.Thread(target=busy, daemon=True).start()\n"
        "for _ in range(50):\n    child = os.fork()\n    if child == 0:\n"
        "        faulthandler.dump_traceback_later(20, exit=True)\n        work()\n        os._exit(0)\n"
        "    assert os.waitpid(child, 0)[1] == 0\n"
        "print('done', flush=True)\nos._exit(0)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=100)
    assert done.stdout == "done\n", done.stderr


def test_an_openmp_that_cannot_end_its_threads_leaves_children_one(monkeypatch):
    registered = {}
    monkeypatch.setattr(processes, "_gnu_openmp", lambda: [object()])
    monkeypatch.setattr(os, "register_at_fork", lambda **hooks: registered.update(hooks), raising=False)
    processes.survive_forks(one := lambda: None)
    assert registered == {"after_in_child": one}


def test_python_threads_side_by_side(segmenter):
    """One segmenter, many threads: the same masks as one after the other."""
    pictures = [np.random.default_rng(i).integers(0, 256, (60 + i, 80, 3), dtype=np.uint8) for i in range(6)]
    alone = [segmenter.predict(picture, crf=True, flip=True).mask for picture in pictures]
    found: dict[int, object] = {}

    def work(i: int) -> None:
        found[i] = segmenter.predict(pictures[i], crf=True, flip=True).mask
        clear_cache()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((found[i] == alone[i]).all() for i in range(6))


# Scripts without a guard


@POSIX
def test_a_script_without_a_guard_is_told_so_before_anything_is_made(tiny_config, tmp_path):
    (script := tmp_path / "train me.py").write_text(
        "import multiprocessing\nimport tag2mask\nmultiprocessing.set_start_method('spawn')\n"
        f"tag2mask.train(tag2mask.TrainConfig.from_json({tiny_config.replace(workers=1).to_json()!r}))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    assert f"A process that helps {script} (start method 'spawn') first runs that file again" in done.stderr
    assert 'if __name__ == "__main__":\n    run = tag2mask.train(config)' in done.stderr
    assert "emory" not in done.stderr
    assert not Path(tiny_config.out).exists()


@pytest.mark.parametrize("start", [train, retrain])
def test_a_training_never_begins_in_a_process_that_runs_its_parents_script(start, monkeypatch):
    """As where the file has a guard, but for something else."""
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    config = TrainConfig(workers=0) if start is train else RetrainConfig(workers=0)
    with pytest.raises(ValueError, match="first runs that file again, and with it this very call"):
        start(config)


def test_a_helper_that_failed_as_it_started_is_not_taken_for_one_without_memory():
    words = "DataLoader worker (pid(s) 3, 4) exited unexpectedly"
    with pytest.raises(DataError, match=r"unexpectedly\. If it printed an error above, that is why"), named_deaths():
        raise RuntimeError(words)


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("import tag2mask\ntag2mask.train(c)\n", True),
        ('"""No __name__ here."""\nimport tag2mask\n', True),
        ("import sys\nsys.exit(main() if __name__ == '__main__' else 0)\n", False),
        ("import multiprocessing as m\nif m.parent_process() is None:\n    go()\n", False),
        ("this is no Python (", False),
    ],
)
def test_what_counts_as_a_guard(text, refused, tmp_path, monkeypatch):
    (script := tmp_path / "script.py").write_text(text)
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(script), raising=False)
    processes.check_start(0, "spawn")
    processes.check_start(2, "fork")
    if not refused:
        processes.check_start(2, "spawn")
        return
    with pytest.raises(ValueError, match="first runs that file again"):
        processes.check_start(2, "spawn")


# Cores


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """A machine of 16 cores whose control groups the test writes."""
    monkeypatch.setattr(processes, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(processes, "_OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(processes, "_cores_of_affinity", lambda: 16)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def write(own: str, **files: str) -> None:
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            path = tmp_path / "cgroup" / name.replace("__", "/")
            path = path.with_name(path.name.replace("_max", ".max").replace("cfs", "cpu.cfs"))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return write


V1 = "4:memory:/a\n2:cpuacct,cpu:/docker/1f\n1:name=systemd:/x\n0::/\n"


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        ("0::/\n", {"cpu_max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu_max": "150000 100000\n"}, 2),
        ("0::/\n", {"cpu_max": "50000 100000\n"}, 1),
        ("0::/\n", {"cpu_max": "max 100000\n"}, 16),
        ("0::/\n", {"cpu_max": "6400000 100000\n"}, 16),
        ("0::/a.slice/b.scope\n", {"a.slice__cpu_max": "300000 100000", "a.slice__b.scope__cpu_max": "max 100000"}, 3),
        ("0::/a.slice/b.scope\n", {"a.slice__cpu_max": "max 100000", "a.slice__b.scope__cpu_max": "400000 100000"}, 4),
        ("0::/not/there\n", {"cpu_max": "500000 100000"}, 5),
        (V1, {"cpu__docker__1f__cfs_quota_us": "250000", "cpu__docker__1f__cfs_period_us": "100000"}, 3),
        (V1, {"cpuacct,cpu__cfs_quota_us": "100000", "cpuacct,cpu__cfs_period_us": "50000"}, 2),
        (V1, {"cpu__cfs_quota_us": "-1", "cpu__cfs_period_us": "100000"}, 16),
        (V1, {"cpu__cfs_quota_us": "100000"}, 16),
        ("", {}, 16),
        ("0::/\n", {"cpu_max": "damaged"}, 16),
    ],
)
def test_cores_within_the_quota_of_a_container(own, files, cores, groups):
    groups(own, **files)
    assert usable_cores() == usual_threads() == cores


def test_no_such_files(groups):
    assert usable_cores() == 16


@pytest.mark.parametrize(
    ("wish", "threads"), [("1", 1), ("3,2", 3), (" 2 ", 2), ("64", 16), ("", 16), ("0", 16), ("many", 16)]
)
def test_omp_num_threads_is_respected(wish, threads, groups, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", wish)
    assert usual_threads() == threads
    assert usable_cores() == 16


def test_memory_limits_of_groups_further_up_hold_too(groups, tmp_path):
    groups("0::/a.slice/b.scope\n", a_max="")
    (tmp_path / "cgroup" / "a.slice" / "b.scope").mkdir(parents=True)
    (tmp_path / "cgroup" / "a.slice" / "memory.max").write_text("5000\n")
    (tmp_path / "cgroup" / "a.slice" / "memory.current").write_text("2000\n")
    assert memory.free_bytes() == 3000


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_onnxruntime_takes_the_cores_of_the_affinity_only(segmenter, tmp_path):
    """On its own it starts a thread for every core of the machine, and one model for each of its processes."""
    pytest.importorskip("onnxruntime")
    script = (
        "import os, sys, json\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\nimport onnxruntime as r\n"
        "from tag2mask.inference.onnx_backend import session_options\nfrom tag2mask.base.processes import usable_cores\n"
        "print(session_options(r).intra_op_num_threads, usable_cores())\n"
    )
    (path := tmp_path / "script.py").write_text(script)
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, path], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout == "1 1\n", done.stderr


def test_every_session_and_every_pool_asks_how_many_cores_there_are():
    """No other place counts the processors of the machine, or leaves the count to onnxruntime."""
    package = Path(processes.__file__).parents[1]
    for path in package.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path.name != "processes.py":
            assert "os.cpu_count" not in text, path
            assert "sched_getaffinity" not in text, path
        assert text.count("SessionOptions()") == (path.name == "onnx_backend.py"), path


def test_the_command_keeps_torch_within_the_quota(groups, monkeypatch):
    """torch counts the affinity only, so the command tells it of the quota before it is imported."""
    groups("0::/\n", cpu_max="200000 100000")
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.setitem(sys.modules, "torch", torch)
    cli.main(["check", "/nowhere"])
    assert os.environ["OMP_NUM_THREADS"] == "5"
    monkeypatch.delenv("OMP_NUM_THREADS")
    cli.main(["check", "/nowhere"])
    assert "OMP_NUM_THREADS" not in os.environ  # too late: torch is there
    monkeypatch.delitem(sys.modules, "torch")
    processes.keep_torch_within_quota()
    assert os.environ.pop("OMP_NUM_THREADS") == "2"
    groups("0::/\n", cpu_max="max 100000")
    processes.keep_torch_within_quota()
    assert "OMP_NUM_THREADS" not in os.environ


# Two processes in one folder, and callers that close streams


@POSIX
def test_two_processes_never_train_in_one_folder(tmp_path):
    """As where a run is resumed twice at once: both would write its state."""
    script = (
        "import fcntl, sys\n"
        "with open(sys.argv[1], 'a') as log:\n    fcntl.lockf(log, fcntl.LOCK_EX)\n"
        "    print('begun', flush=True)\n    sys.stdin.read()\n"
    )
    (path := tmp_path / "script.py").write_text(script)
    with subprocess.Popen(
        [sys.executable, path, tmp_path / "log.txt"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "begun\n"
        with pytest.raises(FileExistsError, match="Another process is training in"), log_to(tmp_path):
            pass
        other.communicate(timeout=60)
    with log_to(tmp_path):  # its end gives the folder free
        asked = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'a'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        done = subprocess.run([sys.executable, "-c", asked, tmp_path / "log.txt"], capture_output=True, text=True)
    assert "BlockingIOError" in done.stderr


def test_of_two_runs_that_begin_at_once_one_gets_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "iterdir", lambda _: iter(()))  # neither has seen what the other wrote
    out = str(tmp_path / "run")
    assert new_run_folder(out, "small") == Path(out)
    with pytest.raises(FileExistsError, match="another run has just begun there"):
        new_run_folder(out, "small")


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_closed_streams_change_neither_the_exit_code_nor_the_other_stream(closed, tmp_path, capsys, monkeypatch):
    """A shell's `2>&-`: errors must not end up between the values of --json."""
    monkeypatch.setattr(sys, closed, None)
    assert cli.main(["check", str(tmp_path / "nowhere"), "--json"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert (told.err == "") == (closed == "stderr")


def test_names_that_the_streams_cannot_show_end_no_command(tmp_path, monkeypatch):
    """As in a pipe on Windows: after hours of work the last line must not fail at a letter."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setitem(cli.VERBS, "check", lambda rest: ({}, ["é", "кот", "\udcff"], 0))
    assert cli.main(["check", "photos"]) == 0
    out.flush()
    assert out.buffer.getvalue().decode("latin-1") == "é\n\\u043a\\u043e\\u0442\n\\udcff\n"


def test_cures_are_quoted_and_keep_the_blanks_of_names(tmp_path, capsys):
    """What an error tells to paste names the same folder in a shell."""
    run = tmp_path / "my  run's"
    run.mkdir()
    (run / "config.json").write_text(TrainConfig.preset("small").to_json())
    assert cli.main(["explain", str(run), str(tmp_path / "a.jpg"), "--out", str(tmp_path / "o")]) == 1
    command = capsys.readouterr().err.partition("Go on with `")[2].partition("`")[0]
    assert shlex.split(command) == ["tag2mask", "train", "--resume", str(run)]
