"""Manners of every command: help that fits a screen, working examples, progress on stderr, a next step at the end."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import re
import shlex
from pathlib import Path

import pytest
from docs_world import SHORTER

import tag2mask
from tag2mask import cli
from tag2mask.base.console import SECONDS_PER_LINE, Bar, Remaining
from tag2mask.cli.advice import after_exporting, beside, next_command
from tag2mask.cli.examples import EXAMPLES
from tag2mask.config import RetrainConfig, TrainConfig
from tag2mask.config.formats import DataOptions

ROWS, COLUMNS = 48, 100
"""A screen."""


class Called(Exception):
    """The arguments are right: the function that does the work was called."""


def refuse(*args, **options):
    raise Called


@pytest.fixture
def nothing_runs(monkeypatch):
    """Every public function only says that it was called."""
    for module in tag2mask._PUBLIC.values():  # first, or one module would import another's stand-in for good
        importlib.import_module(f"tag2mask.{module}")
    for name, module in tag2mask._PUBLIC.items():
        if name.islower():
            monkeypatch.setattr(f"tag2mask.{module}.{name}", refuse)


def help_of(capsys, monkeypatch, *words):
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    assert cli.main([*words]) == 0
    return capsys.readouterr().out


# -- help --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_fits_a_screen_and_ends_with_examples(verb, capsys, monkeypatch):
    page = help_of(capsys, monkeypatch, verb, "--help")
    lines = page.splitlines()
    assert len(lines) <= ROWS
    assert max(map(len, lines)) <= COLUMNS
    start = lines.index("examples:") + 1
    assert tuple(line.removeprefix("  ") for line in lines[start:]) == EXAMPLES[verb]
    assert 2 <= len(EXAMPLES[verb]) <= 4
    assert all(line.split()[:2] == ["tag2mask", verb] for line in EXAMPLES[verb])
    assert help_of(capsys, monkeypatch, verb, "-h") == page


def test_the_list_of_commands_fits_too(capsys, monkeypatch):
    lines = help_of(capsys, monkeypatch, "--help").splitlines()
    assert len(lines) <= ROWS


@pytest.mark.parametrize("line", [line for lines in EXAMPLES.values() for line in lines])
def test_examples_are_right(line, nothing_runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, config in (("photos", TrainConfig), ("photos-2", RetrainConfig)):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.json").write_text(config.preset("small", data="photos").to_json())
    with pytest.raises(Called):
        cli.main(shlex.split(line)[1:])


def options_of(config, prefix="--"):
    """The names of the fields that are options, `no-` in front of switches that are on."""
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), field.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            yield from options_of(value, f"{prefix}{name}.")
        elif field.metadata.get("option", True):
            yield f"{prefix}no-{name}" if value is True else f"{prefix}{name}"


@pytest.mark.parametrize("config", [TrainConfig, RetrainConfig])
def test_help_all_lists_every_option_and_help_the_main_ones(config, capsys, monkeypatch):
    verb = config.kind
    every = set(options_of(config.preset("small"))) | {"--resume", "--json"}
    found = [
        set(
            re.findall(
                r"^[│ ] {1,2}(--[a-z][a-z0-9.-]*)", help_of(capsys, monkeypatch, verb, "small", flag), re.MULTILINE
            )
        )
        for flag in ("--help", "--help-all")
    ]
    assert found[1] == every
    assert found[0] < every
    assert {"--data", "--out", "--backbone", "--batch-size", "--seed", "--resume", "--json"} <= found[0]
    assert f"tag2mask {verb} PRESET --help-all" in help_of(capsys, monkeypatch, verb, "--help")


@pytest.mark.parametrize("option", ["--optim.new-parts", "--optim.joint-multipliers", "--preset-name"])
def test_values_of_presets_are_no_options(option, capsys):
    assert cli.main(["train", "small", "--data", "x", option, "heads"]) == 2
    assert option in capsys.readouterr().err


def test_help_all_is_help_elsewhere(capsys, monkeypatch):
    assert help_of(capsys, monkeypatch, "explain", "--help-all") == help_of(capsys, monkeypatch, "explain", "--help")


@pytest.mark.parametrize("verb", ["check", "evaluate", "pseudo-label", "convert"])
def test_help_all_shows_every_way_to_read_a_data_set(verb, capsys, monkeypatch):
    short, full = (help_of(capsys, monkeypatch, verb, word) for word in ("--help", "--help-all"))
    assert f"tag2mask {verb} --help-all lists every one." in " ".join(short.replace("│", "").split())
    for field in dataclasses.fields(DataOptions):
        option = f"--{field.name.replace('_', '-')} "
        assert option in full
        assert (option in short) == (field.name == "data_format")


# -- progress ----------------------------------------------------------------------------------------------------------


def test_progress_is_sparse_lines_where_there_is_no_terminal(monkeypatch, capsys):
    now = 100.0
    monkeypatch.setattr("tag2mask.base.console.time.monotonic", lambda: now)
    with Bar("work") as bar:
        for done in range(1, 101):
            now += 0.3
            bar.update(done, 100, "a.jpg")
    told = capsys.readouterr()
    lines = told.err.splitlines()
    assert told.out == ""
    assert len(lines) == 100 * 0.3 // SECONDS_PER_LINE
    assert lines[0].split() == ["work", "17/100", "a.jpg", "0:25", "left"]
    assert lines[-1].startswith("work 100/100")


def test_no_time_is_shown_before_there_is_a_pace(monkeypatch, capsys):
    """A first step of 10 s, as processes start, then 0.2 s each; the estimate was 18:10 then."""
    now = 0.0
    monkeypatch.setattr("tag2mask.base.console.time.monotonic", lambda: now)
    with Bar("step") as bar:
        for done in range(1, 111):
            now += 10.0 if done == 1 else 0.2 if done <= 60 else 1.0
            bar.update(done, 110)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "step 1/110  "
    assert lines[1] == "step 27/110  0:17 left"
    shown = {int(line.split()[1].split("/")[0]): line.split()[2] for line in lines[1:]}
    late = {done: left for done, left in shown.items() if 91 <= done < 110}
    assert late
    assert late == {done: f"0:{110 - done:02d}" for done in late}, "the pace is that of the last 30 seconds"


def test_the_pace_of_few_and_slow_items():
    remaining = Remaining()
    assert [remaining.update(60.0 * i, i, 20) for i in range(3)] == [None] * 3
    assert remaining.update(180.0, 3, 20) == 17 * 60
    assert remaining.update(200.0, 1, 20) is None, "another pass over the items"
    assert remaining.update(1e3, 20, 20) == 0


def test_progress_is_a_bar_on_a_terminal(monkeypatch, capsys):
    import sys

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with Bar("work") as bar:
        bar.update(50, 100, "a.jpg")
        bar.update(100, 100, "b.jpg")
    told = capsys.readouterr()
    assert told.out == ""
    assert "━" * 20 in told.err and "100/100" in told.err and "b.jpg" in told.err


# -- the end -----------------------------------------------------------------------------------------------------------


def test_the_next_command_is_quoted_and_leaves_defaults_out():
    line = next_command(
        "check", Path("my photos"), data_format="auto", train_split=None, crf=True, out=Path("it's.html")
    )
    assert line == """next: tag2mask check 'my photos' --crf --out 'it'"'"'s.html'"""
    assert shlex.split(line)[1:] == ["tag2mask", "check", "my photos", "--crf", "--out", "it's.html"]


@pytest.mark.parametrize("name", ["val", "tags", "auto", "ignore", "default"])
def test_a_folder_called_as_the_default_of_another_option_is_not_left_out(name):
    assert next_command("evaluate", "run", data=name, split="val") == f"next: tag2mask evaluate run --data {name}"
    assert next_command("train", split="auto", out=name) == f"next: tag2mask train --split auto --out {name}"


def test_places_beside_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert beside("runs/photos", "masks") == Path("runs/photos-masks")
    assert beside("runs/photos/", "masks") == Path("runs/photos-masks")
    assert beside("runs/v1.2", "masks") == Path("runs/v1.2-masks")
    assert beside("x/model.safetensors", "masks") == Path("x/model-masks")
    assert beside("hf://owner/name", "masks") == Path("name-masks")
    assert beside(".", "masks") == Path(f"{tmp_path.name}-masks")


class Session:
    """A person who pastes what the last line says."""

    def __init__(self, capsys) -> None:
        self.capsys = capsys

    def run(self, *words: object, progress: str = "") -> list[str]:
        """Run a command and check its manners; returns the words of the command that it names next."""
        verb = words[0]
        code = cli.main([*map(str, words), *SHORTER.get(verb, ())])
        told = self.capsys.readouterr()
        assert code == 0, told.err
        if progress:
            assert re.search(rf"^{progress} \d+/\d+ ", told.err, re.MULTILINE), told.err
            assert not re.search(rf"^{progress} \d+/\d+ ", told.out, re.MULTILINE)
        self.lines = told.out.splitlines()
        last = self.lines[-1]
        assert last.startswith("next: ")
        return shlex.split(last.removeprefix("next: "))

    def follow(self, words: list[str], verb: str, **options: str) -> list[str]:
        """Run the advice, which must be a command `verb`."""
        assert words[:2] == ["tag2mask", verb], words
        return self.run(*words[1:], **options)

    def wrote(self, *paths: Path) -> None:
        """The command has said what it wrote, and it is there."""
        for path in paths:
            assert path.exists()
            assert any(str(path) in line for line in self.lines[:-1]), self.lines


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A tagged data set with masks, whose name has to be quoted, and a run on it."""
    from tag2mask.data.builtin.shapes import write_builtin

    folder = tmp_path_factory.mktemp("home")
    with contextlib.chdir(folder):
        photos = write_builtin(Path("Ann's photos"), train=6, val=3, size=64)
        assert cli.main(["train", "small", "--data", str(photos), "--out", "a run", *SHORTER["train"]]) == 0
    return folder


@pytest.fixture
def photos(home, monkeypatch, capsys):
    """In the working folder."""
    monkeypatch.chdir(home)
    capsys.readouterr()
    return Path("Ann's photos")


@pytest.fixture
def run(photos):
    return Path("a run")


def test_advice_leads_from_tags_to_a_model_elsewhere(photos, capsys):
    """check, train, evaluate, pseudo-label, retrain, evaluate, export, predict, convert: each names the next."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    person, runs = Session(capsys), Path("runs")
    words = person.run("check", photos, "--min-images", "1", "--crop-size", "64", progress="check")
    words = person.follow(words, "train", progress="step")
    person.wrote(runs / "small")
    words = person.follow(words, "evaluate", progress="evaluate")
    words = person.follow(words, "pseudo-label", progress="pseudo-label")
    person.wrote(runs / "small-masks")
    words = person.follow(words, "retrain", progress="step")
    person.wrote(runs / "small-2")
    words = person.follow(words, "evaluate", progress="evaluate")
    words = person.follow(words, "export", progress="compare")
    person.wrote(runs / "small-2" / "model.onnx")
    words = person.follow(words, "predict", progress="predict")
    masks = runs / "small-2" / "model-masks"
    person.wrote(masks, masks / "masks", masks / "overlays")
    words = person.follow(words, "convert", progress="convert")
    person.wrote(runs / "small-2" / "model-masks-coco.json")
    assert words[-1] == "(docs/formats.md)"


def test_advice_after_the_other_uses_of_a_run(run, photos, capsys):
    """explain, predict --rank, evaluate --masks, evaluate --out, predict for tools, and convert to a folder."""
    person = Session(capsys)
    picture = sorted((photos / "images").iterdir())[0]
    words = person.run("explain", run, picture, "--out", "steps")
    person.wrote(Path("steps") / f"{picture.stem}.png", Path("steps") / f"{picture.stem}.json")
    words = person.follow(words, "predict", progress="predict")
    person.wrote(Path("a run-predicted"))
    words = person.run("evaluate", "--masks", "a run-predicted/masks", "--data", photos, "--out", "scores")
    person.wrote(Path("scores/evaluation.json"))
    assert words[:4] == ["tag2mask", "evaluate", "--masks", "a run-predicted/masks"]
    assert "--boundary" in words
    words = person.run("predict", run, picture, "--format", "coco", "--out", "tool")
    person.wrote(Path("tool/coco.json"))
    words = person.follow(words, "predict", progress="predict")
    person.wrote(Path("tool-ranked/rank.html"))
    assert words[:5] == ["tag2mask", "convert", "tool-ranked", "--to", "coco"]
    words = person.run("predict", run, photos / "images", "--rank", "--out", "ranked")
    assert words == ["tag2mask", "ui", "a run", "--ranked", "ranked", "--pictures", str(photos / "images")]
    words = person.run("convert", photos, "--to", "folder", "--out", "copy of it", progress="convert")
    person.wrote(Path("copy of it"))
    assert words == ["tag2mask", "train", "small", "--data", "copy of it"]


def test_advice_without_masks_or_fitness(run, photos, capsys):
    """No scores where nothing can be scored, and no training on a data set that is not fit."""
    import shutil

    person = Session(capsys)
    photos = Path(shutil.copytree(photos, "Ann's other photos"))
    shutil.rmtree(photos / "masks")
    words = person.run("train", "small", "--data", photos, "--out", "second")
    assert words[:5] == ["tag2mask", "pseudo-label", "second", "--data", str(photos)]
    for path in (photos / "images").iterdir():
        path.write_bytes(b"")
    assert cli.main(["check", str(photos), "--data-format", "folder"]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    expected = ["tag2mask", "check", str(photos), "--data-format", "folder", "--out", "check.html"]
    assert shlex.split(last.removeprefix("next: ")) == expected


def test_advice_of_export_and_hub(run, photos, capsys):
    person = Session(capsys)
    words = person.run("export", run, "--format", "hub", "--out", "for the hub", progress="compare")
    person.wrote(Path("for the hub"))
    assert "license in the model card: not stated; --license NAME does" in person.lines
    (publish,) = [line for line in person.lines if line.startswith("to publish")]
    assert shlex.split(publish.rpartition(": ")[2]) == ["hf", "upload", "OWNER/NAME", "for the hub"]
    pictures = str((photos / "images").resolve())
    assert words == ["tag2mask", "predict", "for the hub", pictures, "--out", "for the hub-masks"]
    person.follow(words, "predict")
    line = after_exporting("torch", Path("it's.pt2"), str(run), None)
    words = shlex.split(line.removeprefix("next: "))
    assert words[:2] == ["python", "-c"]
    compile(words[2], "advice", "exec")
    assert """torch.export.load("it's.pt2").module()""" in words[2]


def test_advice_of_demo_bench_and_ui(photos, tmp_path, monkeypatch, capsys, tiny_config):
    from tag2mask.jobs import demonstration
    from tag2mask.web import server

    builtin = demonstration.write_builtin
    monkeypatch.setattr(demonstration, "write_builtin", lambda out: builtin(out, train=6, val=3, size=64))
    tiny = tiny_config
    monkeypatch.setattr(demonstration, "demo_config", lambda data, run: tiny.replace(data=str(data), out=str(run)))
    person = Session(capsys)
    words = person.run("demo", "--out", "my demo", progress="score CAMs")
    person.wrote(Path("my demo/report.html"), Path("my demo/run"))
    person.follow(words, "explain")
    assert person.run("bench") == ["tag2mask", "bench"]  # SHORTER: --quick
    monkeypatch.setattr(server, "ui", lambda *args, ready, **options: ready("http://127.0.0.1:1"))
    assert person.run("ui", "a run", "--port", "1") == ["tag2mask", "ui", "a run", "--port", "1"]
    words = person.run("ui", "a run", "--ranked", "ranked", "--pictures", photos / "images")
    assert words == ["tag2mask", "predict", "a run", str(photos / "images"), "--out", str(photos / "images-masks")]


def test_advice_of_published_weights(capsys, monkeypatch, tmp_path):
    """Words only: the files are other people's."""
    from tag2mask.cli.convert import _weights_lines
    from tag2mask.jobs.converting.weights import ConvertedWeights

    fields = {field.name for field in dataclasses.fields(ConvertedWeights)}
    assert {"out", "title", "parts", "left_out", "complete"} <= fields
    values = {
        "out": tmp_path / "a b.safetensors",
        "title": "t",
        "parts": ("backbone",),
        "left_out": (),
        "complete": True,
    }
    values |= {name: None for name in fields - values.keys()}
    last = _weights_lines(Path("x.pth"), ConvertedWeights(**values))[-1]
    assert shlex.split(last)[1:4] == ["tag2mask", "evaluate", str(tmp_path / "a b.safetensors")]
