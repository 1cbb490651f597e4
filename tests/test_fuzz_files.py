"""A slice of `tools/fuzz_files.py`, which takes seconds, and proof that its judge sees what it must see."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[1] / "tools" / "fuzz_files.py"


def fuzz(*arguments: str, keep: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FUZZ), *arguments, "--keep", str(keep)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_damaged_files_are_read_or_refused_by_name(tmp_path):
    done = fuzz(
        "--cases", "600", "--seed", "3", "--families", "pictures", "masks", "tags", "exports", "configs", keep=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "cases from seed 3, 0 findings" in done.stdout


def test_damaged_weights_are_read_or_refused_by_name(tmp_path):
    done = fuzz("--cases", "150", "--seed", "3", "--families", "weights", keep=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "150 cases from seed 3, 0 findings" in done.stdout


@pytest.fixture
def tool(monkeypatch):
    spec = importlib.util.spec_from_file_location("fuzz_files", FUZZ)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "raised",
    [
        KeyError("a"),
        UnicodeEncodeError("utf-8", "\ud800", 0, 1, "no"),
        MemoryError(),
        OSError(36, "File name too long"),
        ValueError("that names no file"),
    ],
)
def test_other_errors_are_findings(tool, tmp_path, monkeypatch, raised):
    def read(*_):
        raise raised

    monkeypatch.setattr("tag2mask.data.storage.pictures.read_picture", read)
    with pytest.raises(type(raised)):
        tool.run_case("pictures", 0, 0, tmp_path / "case", tool.good_files("pictures"))


def test_a_wrong_result_is_a_finding(tool, tmp_path, monkeypatch):
    import numpy as np

    monkeypatch.setattr("tag2mask.data.storage.pictures.read_picture", lambda path: np.zeros((3, 3), np.uint8))
    with pytest.raises(tool.Finding, match="shape"):
        tool.run_case("pictures", 0, 0, tmp_path / "case", tool.good_files("pictures"))


def test_a_crash_of_the_interpreter_is_a_finding_and_the_rest_goes_on(tool, tmp_path, monkeypatch, capsys):
    """A child that dies by a signal in case 2 of 5 is started again behind it."""
    child = tmp_path / "child.py"
    child.write_text(
        "import json, os, signal, sys\n"
        "from pathlib import Path\n"
        "family, first, cases, seed, work, until = sys.argv[2:]\n"
        "for number in range(int(first), int(first) + int(cases)):\n"
        "    (Path(work) / 'number').write_text(str(number))\n"
        "    (Path(work) / 'case').mkdir(exist_ok=True)\n"
        "    if number == 2: os.kill(os.getpid(), signal.SIGSEGV)\n"
        "print(json.dumps({'done': int(cases), 'read': 1, 'failed': 0}))\n"
    )
    monkeypatch.setattr(tool, "__file__", str(child))
    counts = tool.run_family("pictures", 5, 0, tmp_path / "work", float("inf"))
    assert counts == {"done": 5, "read": 1, "failed": 1}
    assert "pictures:2 crashed the interpreter or hung: exit code -11" in capsys.readouterr().out
    assert (tmp_path / "work" / "findings" / "pictures-0-2").is_dir()
