"""Messages name the option to who typed a command, and the argument to who called Python."""

import pytest

from tag2mask import cli
from tag2mask.base.options import as_command, option
from tag2mask.config import MAX_PIXELS
from tag2mask.config.formats import DataOptions, OutputOptions
from tag2mask.config.inference import Inference


def test_both_faces():
    assert (option("max_pixels"), option("tile", 512)) == ("max_pixels", "tile=512")
    assert (option("to", "coco"), option("out", "DIR")) == ("to='coco'", "out=DIR")
    with as_command():
        assert (option("method.reliable.keep"), option("max_pixels")) == ("--method.reliable.keep", "--max-pixels")
        assert (option("to", "coco"), option("out", "DIR")) == ("--to coco", "--out DIR")
    assert option("tile") == "tile"


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
    assert option("tolerance") == "tolerance"


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
