"""What a release is made of: one version, the changelog, the workflow, the requirements and the Dockerfiles. Offline."""

from __future__ import annotations

import datetime
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import tag2mask

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
REQUIREMENTS = {each.name: each for each in map(Requirement, PROJECT["project"]["dependencies"])}
EXTRAS = PROJECT["project"]["optional-dependencies"]
PYTHONS = sorted(
    Version(found[1]) for each in PROJECT["project"]["classifiers"] if (found := re.search(r":: (3\.\d+)$", each))
)
WORKFLOW = ROOT / ".github" / "workflows" / "release.yml"
JOBS = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"]
DOCKERFILES = {path.name.partition(".")[0]: path for path in sorted((ROOT / "docker").glob("*.Dockerfile"))}


# -- one version -------------------------------------------------------------------------------------------------------


def test_the_version_has_one_home():
    assert PROJECT["project"]["dynamic"] == ["version"]
    home = ROOT / PROJECT["tool"]["scikit-build"]["metadata"]["version"]["input"]
    assert re.findall(r'^__version__ = "(.+)"$', home.read_text(encoding="utf-8"), re.MULTILINE) == [
        tag2mask.__version__
    ]
    same = re.compile(rf"(?<![\d.]){re.escape(tag2mask.__version__)}(?![\d.])")
    for path in (ROOT / "src").rglob("*"):
        if path.suffix in (".py", ".md", ".html", ".cpp", ".hpp") and path != home:
            assert not same.search(path.read_text(encoding="utf-8")), path


def releases() -> list[tuple[str, str]]:
    """Versions and dates of the changelog, newest first."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings[0] == "Unreleased", "what comes next needs a place"
    return [tuple(each.split(" - ")) for each in headings[1:]]


def test_the_changelog_and_the_citation_have_it_too():
    found = releases()
    assert found[0][0] == tag2mask.__version__
    numbers = [Version(version) for version, _ in found]
    assert numbers == sorted(set(numbers), reverse=True)
    dates = [datetime.date.fromisoformat(date) for _, date in found]
    assert dates == sorted(dates, reverse=True)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], str(citation["date-released"])) == found[0]
    assert citation["license"] == PROJECT["project"]["license"]


def test_every_section_of_the_changelog_says_something():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    for version, _ in releases():
        body = re.split(r"^## ", text.partition(f"## {version} - ")[2], flags=re.MULTILINE)[0]
        sections = re.split(r"^### (\w+)$", body, flags=re.MULTILINE)[1:]
        assert sections and set(sections[::2]) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
        assert len(set(sections[::2])) == len(sections[::2]), "each kind once"
        assert all(each.strip().startswith("- ") for each in sections[1::2])


# -- the workflow ------------------------------------------------------------------------------------------------------


def steps(job: dict) -> list[str]:
    return [step["run"] for step in job["steps"] if "run" in step]


def test_only_the_last_job_may_publish_and_only_of_a_tag_that_passed_everything():
    workflow = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
    assert workflow[True]["push"] == {"tags": ["v*"]}, "YAML reads `on` as true"
    assert workflow["permissions"] == {"contents": "read"}
    assert [name for name, job in JOBS.items() if "permissions" in job] == ["publish"]
    publish = JOBS["publish"]
    assert publish["permissions"] == {"id-token": "write", "attestations": "write"}
    assert publish["environment"]["name"] == "pypi"
    assert set(publish["needs"]) == set(JOBS) - {"publish"}
    assert publish["if"] == "github.event_name == 'push' && startsWith(github.ref, 'refs/tags/v')"
    assert "secrets." not in WORKFLOW.read_text(encoding="utf-8")
    assert not any("actions/checkout" in step.get("uses", "") for step in publish["steps"]), (
        "no code of ours runs there"
    )
    used = [step.get("uses", step.get("run", "")).partition("@")[0] for step in publish["steps"]]
    assert used[0] == "actions/download-artifact" and "dist/tag2mask-${GITHUB_REF_NAME#v}.tar.gz" in used[1]
    assert used[2:] == ["actions/attest-build-provenance", "pypa/gh-action-pypi-publish"]
    assert publish["steps"][-1]["with"]["attestations"] is True


def test_wheels_and_the_source_are_what_is_published():
    uploaded = [
        step["with"]
        for job in JOBS.values()
        for step in job["steps"]
        if step.get("uses", "").startswith("actions/upload-artifact")
    ]
    assert {each["path"] for each in uploaded} == {"wheelhouse/*.whl", "wheelhouse/*.tar.gz"}
    assert all(each["if-no-files-found"] == "error" for each in uploaded)
    fetch = JOBS["publish"]["steps"][0]["with"]
    assert fetch == {"path": "dist", "merge-multiple": True}, "all of them, and nothing else is kept by this workflow"
    assert any("build --sdist" in line for line in steps(JOBS["source"]))
    assert any("cibuildwheel" in line for line in steps(JOBS["wheels"]))


def test_actions_are_named_by_commit_and_see_no_token():
    for line in WORKFLOW.read_text(encoding="utf-8").splitlines():
        if "uses:" in line:
            assert re.search(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line
    for job in JOBS.values():
        for step in job["steps"]:
            assert "${{ github." not in step.get("run", ""), "a name of a branch is no text for a shell"
            if "actions/checkout" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False


def test_what_the_workflow_runs_is_there():
    for path in yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))[True]["pull_request"]["paths"]:
        assert list(ROOT.glob(path.replace("/**", ""))), path
    for line in (line for job in JOBS.values() for line in steps(job)):
        for extras in re.findall(r"\.\[([a-z,]+)\]", line):
            assert set(extras.split(",")) <= set(EXTRAS)
        for word in shlex.split(line, comments=True):
            if re.fullmatch(r"(tests|tools)/\S+", word):
                assert (ROOT / word).is_file(), line
    assert (ROOT / PROJECT["tool"]["cibuildwheel"]["test-command"].partition("{project}/")[2]).is_file()
    for job in JOBS.values():
        for needed in [job["needs"]] if isinstance(job.get("needs"), str) else job.get("needs", []):
            assert needed in JOBS


def test_the_oldest_and_the_newest_requirements_are_tested():
    """torch, timm, numpy and the rest: what pyproject.toml allows at its lower end, and what is newest."""
    job = JOBS["versions"]
    oldest, newest = job["strategy"]["matrix"]["include"]
    assert (oldest["releases"], oldest["resolution"]) == ("oldest", "lowest-direct")
    assert (newest["releases"], newest["resolution"]) == ("newest", "highest")
    assert [Version(oldest["python"]), Version(newest["python"])] == [PYTHONS[0], PYTHONS[-1]]
    assert PROJECT["project"]["requires-python"] == f">={oldest['python']}"
    compiled, installed, _, tested = steps(job)[1:]
    assert "--resolution ${{ matrix.resolution }}" in compiled and compiled.endswith("held.txt pyproject.toml")
    assert "--constraint held.txt" in installed and tested == "python -m pytest"
    assert {"torch", "timm", "numpy"} <= set(REQUIREMENTS)
    for name, requirement in REQUIREMENTS.items():
        assert [each.operator for each in requirement.specifier] == [">="], f"{name}: lowest-direct needs a lower bound"
    pythons = {PYTHONS[0], PYTHONS[-1]}
    assert pythons <= {Version(each) for each in JOBS["installed"]["strategy"]["matrix"]["python"]}
    builds = PROJECT["tool"]["cibuildwheel"]["build"]
    assert all(fnmatch(f"cp3{python.minor}-any", builds) for python in PYTHONS)


def test_what_is_installed_here_is_allowed():
    from importlib.metadata import version

    for name, requirement in REQUIREMENTS.items():
        assert requirement.specifier.contains(version(name), prereleases=True), f"{name} {version(name)}"


def test_the_tests_need_no_tool_that_lifts_a_requirement():
    """`dev` may: its linters have bounds of their own."""
    assert EXTRAS["dev"][0] == "tag2mask[tests]"
    assert not {Requirement(each).name for each in EXTRAS["tests"]} & {"ruff", "mypy", "import-linter", *REQUIREMENTS}


# -- the Dockerfiles ---------------------------------------------------------------------------------------------------


def instructions(path: Path) -> list[tuple[str, str]]:
    """Instructions and their arguments, continued lines joined, without comments."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
    return [tuple(line.split(" ", 1)) for line in joined.splitlines() if line]


def of_kind(path: Path, kind: str) -> list[str]:
    return [argument for name, argument in instructions(path) if name == kind]


@pytest.mark.parametrize("path", DOCKERFILES.values(), ids=DOCKERFILES)
def test_hadolint_has_nothing_to_say(path):
    places = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    hadolint = shutil.which("hadolint", path=places)
    if hadolint is None:
        pytest.skip("no hadolint, which the extra `tests` brings on Linux on x86-64")
    done = subprocess.run([hadolint, "--no-color", path], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("path", DOCKERFILES.values(), ids=DOCKERFILES)
def test_an_image_is_made_of_what_is_there_and_starts_the_command(path):
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = [line.removeprefix("!") for line in ignored if line.startswith("!")]
    assert "*" in ignored and "**/*.so" in ignored[ignored.index("!src") :], "a core of another Python stays out"
    copied = [word for each in of_kind(path, "COPY") for word in each.split()[:-1]]
    assert sorted(copied) == sorted(kept)
    assert all((ROOT / word).exists() for word in copied)
    assert {"src", "CMakeLists.txt", PROJECT["project"]["readme"], *PROJECT["project"]["license-files"]} <= set(copied)
    assert of_kind(path, "ENTRYPOINT") == ['["tag2mask"]'] and "tag2mask" in PROJECT["project"]["scripts"]
    assert of_kind(path, "CMD") == ['["--help"]']
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", of_kind(path, "USER")[-1]), "not root"
    for image in of_kind(path, "FROM"):
        assert Version(re.match(r"python:(3\.\d+)-", image)[1]) in PYTHONS


@pytest.mark.parametrize("path", DOCKERFILES.values(), ids=DOCKERFILES)
def test_an_image_holds_what_pyproject_allows(path):
    pins = dict(each.split("=") for each in of_kind(path, "ARG"))
    assert set(pins) == {"TORCH", "TORCHVISION"}
    for name, pin in pins.items():
        assert REQUIREMENTS[name.lower()].specifier.contains(pin)
    (installed,) = [each for each in of_kind(path, "RUN") if "tag2mask[" in each]
    assert set(re.search(r"tag2mask\[([a-z,]+)\]", installed)[1].split(",")) <= set(EXTRAS)


def test_the_two_images_differ_in_their_torch_alone():
    assert set(DOCKERFILES) == {"cpu", "cuda"}
    cpu, cuda = (instructions(path) for path in DOCKERFILES.values())
    assert [each for each in cpu if each not in cuda] == [
        (
            "RUN",
            'pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu "torch==${TORCH}" "torchvision==${TORCHVISION}"',
        )
    ]
    assert [each for each in cuda if each not in cpu] == [
        ("RUN", 'pip install --no-cache-dir "torch==${TORCH}" "torchvision==${TORCHVISION}"'),
        ("ENV", "NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility"),
    ]


def test_install_says_how_to_build_and_start_them():
    text = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    for name, path in DOCKERFILES.items():
        assert f"docker build -f docker/{path.name} -t tag2mask:{name} ." in text
        assert f"docker build -f docker/{path.name} -t tag2mask:{name} ." in path.read_text(encoding="utf-8")
