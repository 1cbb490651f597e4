"""The command line: exit codes, stdout, stderr, options, help without torch."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from tag2mask import __version__, cli
from tag2mask.config import TrainConfig
from tag2mask.models import build_network
from tag2mask.runs.checkpoints import save_model

CLASSES = ("ball", "crate", "donut", "leaf", "starfish")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    from tag2mask.data.builtin.shapes import write_builtin

    return write_builtin(tmp_path_factory.mktemp("set") / "data", train=4, val=3, size=64)


@pytest.fixture(scope="module")
def run(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    config = TrainConfig.preset("small", data=str(data), backbone="test_resnet", weights="none", image_size=64)
    save_model(folder / "model.safetensors", build_network(config, CLASSES), config)
    (folder / "config.json").write_text(config.to_json())
    return folder


@pytest.fixture
def seen(monkeypatch, tmp_path):
    """The config that `train` would start with."""
    import tag2mask.training.first_step

    calls = []

    def fake(config, *, resume=None):
        calls.append((config, resume))
        print("chatter")
        (tmp_path / "environment.json").write_text('{"data": {"train": {"num_images": 3, "findings": []}}}')
        return tmp_path

    monkeypatch.setattr(tag2mask.training.first_step, "train", fake)
    return calls


def call(*arguments):
    return cli.main([str(a) for a in arguments])


def python(*arguments):
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("arguments", [["--help"], ["predict", "--help"], ["train", "small", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import sys\nfrom tag2mask.cli import main\n"
        f"code = main({arguments!r})\n"
        "sys.exit(9 if {'torch', 'torchvision', 'timm', 'numpy', 'PIL', 'filelock'} & set(sys.modules) else code)"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_importing_the_package_does_not_import_torch():
    assert python("-c", "import sys, tag2mask; sys.exit('torch' in sys.modules)").returncode == 0


def test_module_entry_point():
    done = python("-m", "tag2mask", "--version")
    assert (done.returncode, done.stdout.strip()) == (0, f"tag2mask {__version__}")


def test_help_names_every_command(capsys):
    assert call("--help") == 0
    page = capsys.readouterr().out
    assert all(f"  {verb} " in page for verb in ("demo", "train", "predict", "evaluate", "pseudo-label", "explain"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], "'train'"),
        (["train"], "needs a preset"),
        (["train", "smal", "--data", "x"], "'small'"),
        (["train", "small"], "--data"),
        (["train", "small", "--data", "x", "--method.reliable.kep", "1"], "--method.reliable.keep"),
        (["train", "small", "--data", "x", "--method.reliable.keep", "2"], "(0, 1]"),
        (["train", "small", "--data", "x", "--preset-name", "y"], "--preset-name"),
        (["train", "small", "--data", "x", "--profile", "best"], "official"),
        (["predict", "run", "--out", "o"], "at least one"),
        (["predict", "run", "a.jpg"], "--out"),
        (["predict", "run", "a.jpg", "--out", "o", "--format", "gif"], "gif"),
        (["evaluate", "--data", "x"], "RUN or --masks"),
        (["evaluate", "run", "--masks", "m", "--data", "x"], "RUN or --masks"),
        (["evaluate", "run"], "--data"),
    ],
)
def test_misuse_is_code_2_and_says_what_to_do(arguments, words, capsys):
    assert call(*arguments) == 2
    told = capsys.readouterr()
    assert words in " ".join(told.err.replace("│", " ").split())
    assert told.out == ""


def test_failure_is_code_1_and_one_line(capsys, tmp_path):
    assert call("predict", tmp_path / "none", __file__, "--out", tmp_path) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("tag2mask: error: ")
    assert told.err.count("\n") == 1


def test_debug_shows_the_traceback(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("TAG2MASK_DEBUG", "1")
    assert call("predict", tmp_path / "none", __file__, "--out", tmp_path) == 1
    assert "Traceback" in capsys.readouterr().err


def test_train_passes_preset_fields_and_profile(seen, capsys):
    assert call("train", "small", "--data", "d", "--seed", "7", "--method.cam-scales", "1", "0.5") == 0
    config, resume = seen[0]
    assert resume is None
    assert (config.data, config.seed, config.preset_name) == ("d", 7, "small")
    assert config.method.cam_scales == (1.0, 0.5)
    assert type(config) is TrainConfig
    assert config == TrainConfig.preset("small", data="d", seed=7).replace(method=config.method)


def test_profile_sets_the_rules_and_fields_override_them(seen):
    assert call("train", "small", "--data", "d", "--profile", "official", "--method.reliable.keep", "0.5") == 0
    expected = TrainConfig.preset("small", profile="official", data="d")
    reliable = seen[0][0].method.reliable
    assert reliable.agreement == "union"
    assert reliable.keep == 0.5
    assert seen[0][0].method.cam_mode == expected.method.cam_mode == "train"
    assert seen[0][0].profile == "official"


def test_train_json_is_one_object(seen, capsys, tmp_path):
    assert call("train", "small", "--data", "d", "--json") == 0
    told = capsys.readouterr()
    assert json.loads(told.out) == {"run": str(tmp_path), "data": {"train": {"num_images": 3, "findings": []}}}
    assert "chatter" in told.err


def test_resume_takes_the_saved_settings(seen, tmp_path, capsys):
    saved = TrainConfig.preset("small", data="d", seed=3, profile="paper")
    (tmp_path / "config.json").write_text(saved.to_json())
    assert call("train", "--resume", tmp_path) == 0
    assert seen == [(saved, tmp_path)]
    assert call("train", f"--resume={tmp_path}", "--seed", "3") == 0  # says the same: no conflict
    assert call("train", "--resume", tmp_path, "--seed", "4") == 2
    assert "differs in --seed." in capsys.readouterr().err
    assert call("train", "small", "--resume", tmp_path, "--method.reliable.keep", "0.3", "--profile", "clean") == 2
    assert "differs in --profile, --method.reliable.keep." in capsys.readouterr().err
    assert len(seen) == 2
    assert call("train", "--resume", tmp_path / "none") == 1


def test_predict(run, data, tmp_path, capsys):
    pictures = sorted((data / "images").iterdir())
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"x")
    assert call("predict", run, pictures[0], broken, pictures[1], "--out", tmp_path / "o", "--json", "--flip") == 1
    told = capsys.readouterr()
    result = json.loads(told.out)
    assert result["written"] == [pictures[0].stem, pictures[1].stem]
    assert list(result["errors"]) == [str(broken)]
    assert "tag2mask: error:" in told.err
    assert "broken.jpg" in told.err
    mask = np.array(Image.open(tmp_path / "o" / "masks" / f"{pictures[1].stem}.png"))
    assert mask.shape == np.array(Image.open(pictures[1])).shape[:2]
    assert call("predict", run, data / "images" / "val*.jpg", "--out", tmp_path / "p") == 0
    assert len(list((tmp_path / "p" / "overlays").iterdir())) == 3


def test_evaluate_equals_the_function(run, data, capsys):
    from tag2mask import evaluate

    assert (
        call("evaluate", run, "--data", data, "--scales", "1", "0.5", "--crf-preset", "aaai_inference", "--json") == 0
    )
    report = json.loads(capsys.readouterr().out)
    expected = evaluate(run, data=data, scales=(1, 0.5), crf="aaai_inference")
    assert report == json.loads(json.dumps(expected.as_dict()))
    assert call("evaluate", run, "--data", data) == 0
    assert "mIoU" in capsys.readouterr().out


def test_pseudo_label_then_evaluate_masks(run, data, tmp_path, capsys):
    assert call("pseudo-label", run, "--data", data, "--split", "val", "--out", tmp_path / "m") == 0
    assert call("evaluate", "--masks", tmp_path / "m", "--data", data, "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["num_images"] == 3


def test_explain(run, data, tmp_path, capsys):
    picture = next((data / "images").iterdir())
    assert call("explain", run, picture, "--out", tmp_path, "--tags", "ball", "leaf", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["steps"]["classes"] == ["ball", "leaf"]
    assert (tmp_path / f"{picture.stem}.png").is_file()


def test_demo_trains_scores_and_reports(tmp_path, monkeypatch, capsys, tiny_config):
    from tag2mask.jobs import demonstration

    builtin = demonstration.write_builtin
    monkeypatch.setattr(demonstration, "write_builtin", lambda out: builtin(out, train=6, val=3, size=64))
    monkeypatch.setattr(
        demonstration, "demo_config", lambda data, run: tiny_config.replace(data=str(data), out=str(run))
    )
    assert call("demo", "--out", tmp_path / "demo", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    page = (tmp_path / "demo" / "report.html").read_text()
    assert result["report"] == str(tmp_path / "demo" / "report.html")
    assert f"{100 * result['segmentation']['miou']:.1f} %" in page
    assert f"{100 * result['cam']['miou']:.1f} %" in page
    assert result["cam"]["protocol"]["label_prior"] == "true tags"
    assert result["segmentation"]["protocol"]["label_prior"] == "none"
    assert call("demo", "--out", tmp_path / "demo") == 1  # nothing is overwritten
