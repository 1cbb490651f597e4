"""Messages name the option to who typed a command, and the argument to who called Python."""

import pytest

import tag2mask
from tag2mask import cli
from tag2mask.base.options import as_command, for_reader
from tag2mask.config import MAX_PIXELS
from tag2mask.config.formats import DataOptions, OutputOptions
from tag2mask.config.inference import Inference


@pytest.mark.parametrize(
    ("command", "python"),
    [
        ("--max-pixels must be 1, got 0", "max_pixels must be 1, got 0"),
        ("smaller tiles (--tile 512), without --crf", "smaller tiles (tile=512), without crf"),
        ("--method.reliable.keep must lie in (0, 1]", "method.reliable.keep must lie in (0, 1]"),
        ("choose another --out DIR.", "choose another out=DIR."),
        ("say --unlabeled skip or --unlabeled negative", "say unlabeled='skip' or unlabeled='negative'"),
        ("are the classes: --data a/b.c/images.", "are the classes: data=a/b.c/images."),
        ("as in --tag-separator ';'", "as in tag_separator=';'"),
        ("write it: tag2mask predict RUN PICTURES --out a/b, or leave --masks out",) * 2,
        ("a -- b, x--y and `tag2mask train --resume runs/x`.",) * 2,
    ],
)
def test_both_faces(command, python):
    python = python.replace("leave --masks", "leave masks")
    assert for_reader(command) == python
    with as_command():
        assert for_reader(command) == command


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Inference(tile=3), "tile"),
        (lambda: Inference(max_pixels=0), "max_pixels"),
        (lambda: Inference(scales=()), "scales"),
        (lambda: OutputOptions(tolerance=-1.0), "tolerance"),
        (lambda: DataOptions.merged(None, {"tag_separator": ""}), "tag_separator"),
    ],
)
def test_a_message_has_both_faces(make, name):
    with pytest.raises(ValueError, match=rf"^{name} "):
        make()
    with as_command(), pytest.raises(ValueError, match=rf"^--{name.replace('_', '-')} "):
        make()


def test_the_command_line_is_what_sets_it(capsys, tmp_path):
    assert cli.main(["predict", "run", "a.jpg", "--out", str(tmp_path / "out"), "--tolerance", "-1"]) == 1
    assert "--tolerance is a number of pixels" in capsys.readouterr().err
    assert for_reader("--tolerance") == "tolerance"


def test_a_public_function_names_its_arguments(tmp_path):
    with pytest.raises(ValueError, match=r"^evaluate needs|run=|masks") as error:
        tag2mask.evaluate(data=tmp_path)
    assert "--" not in str(error.value)
    with pytest.raises(FileExistsError, match=r"^out="):
        (tmp_path / "a.txt").touch()
        tag2mask.convert(tmp_path, to="folder", out=tmp_path)


def test_a_field_of_the_record_is_an_option_and_reaches_the_function(monkeypatch, tmp_path):
    seen = {}

    def fake(run, sources, out, **options):
        seen.update(options)
        raise ValueError("seen")

    monkeypatch.setattr("tag2mask.jobs.predicting.run.predict", fake)
    words = ["predict", "run", "a.jpg", "--out", str(tmp_path)]
    assert cli.main([*words, "--crf-preset", "aaai_inference", "--tile", "64", "--flip", "--scales", "1", "2"]) == 1
    assert {name: seen[name] for name in ("crf", "tile", "flip", "scales")} == {
        "crf": "aaai_inference", "tile": 64, "flip": True, "scales": (1.0, 2.0)
    }  # fmt: skip
    assert seen.get("max_pixels", MAX_PIXELS) == MAX_PIXELS
    assert "batch_size" not in seen
