"""Where a command writes is checked before anything is read or loaded, and the cure is a command that works."""

from __future__ import annotations

import dataclasses
import re

import pytest

import tag2mask
from tag2mask import cli
from tag2mask.base.files import check_file, check_folder, check_new_folder
from tag2mask.config import RetrainConfig, TrainConfig, load_config
from tag2mask.data import DataError
from tag2mask.training.first_step import train


@pytest.fixture
def filled(tmp_path):
    (tmp_path / "filled").mkdir()
    (tmp_path / "filled" / "thesis.txt").touch()
    return tmp_path / "filled"


@pytest.fixture
def file(tmp_path):
    (tmp_path / "a file").touch()
    return tmp_path / "a file"


NOT_THERE = "/nowhere/at/all"
"""Data, run and picture that do not exist: the place is refused before they are looked at."""


NEW_FOLDERS = {
    "train": lambda out: tag2mask.train(TrainConfig.preset("small", data=NOT_THERE, out=str(out))),
    "retrain": lambda out: tag2mask.retrain(
        RetrainConfig.preset("small", data=NOT_THERE, masks=NOT_THERE, out=str(out))
    ),
    "demo": lambda out: tag2mask.demo(out),
    "hub": lambda out: tag2mask.export(NOT_THERE, format="hub", out=out),
}
PLACES = NEW_FOLDERS | {
    "onnx": lambda out: tag2mask.export(NOT_THERE, out=out / "model.onnx"),
    "pseudo-label": lambda out: tag2mask.pseudo_label(NOT_THERE, data=NOT_THERE, out=out),
    "explain": lambda out: tag2mask.explain(NOT_THERE, NOT_THERE, out),
    "evaluate": lambda out: tag2mask.evaluate(NOT_THERE, data=NOT_THERE, out=out),
    "predict": lambda out: tag2mask.predict(NOT_THERE, NOT_THERE, out),
    "convert": lambda out: tag2mask.convert(NOT_THERE, to="folder", out=out / "copy"),
    "check": lambda out: tag2mask.check(NOT_THERE, out=out / "check.html"),
}


@pytest.mark.parametrize("start", NEW_FOLDERS.values(), ids=NEW_FOLDERS)
def test_a_filled_folder_is_refused_before_all_else(filled, start):
    with pytest.raises(FileExistsError, match="is not empty") as caught:
        start(filled)
    assert "there is no run in it" in str(caught.value)
    assert "tag2mask " not in str(caught.value)


@pytest.mark.parametrize("start", PLACES.values(), ids=PLACES)
def test_a_place_below_a_file_is_refused_before_all_else(file, start):
    with pytest.raises((NotADirectoryError, FileExistsError), match=r"a file (is no folder. Choose|exists; remove)"):
        start(file)
    with pytest.raises(NotADirectoryError, match="is no folder"):
        start(file / "deeper")


def test_what_may_be_written(tmp_path, filled):
    check_folder(tmp_path / "new" / "newer")
    check_folder(filled)
    check_file(tmp_path / "new" / "a.onnx")
    check_new_folder(tmp_path / "new")
    with pytest.raises(IsADirectoryError, match="a file is needed"):
        check_file(filled)


def test_the_cure_names_the_command_of_the_run_that_lies_there(tiny_config, tmp_path):
    run = train(tiny_config)
    with pytest.raises(FileExistsError) as caught:
        tag2mask.retrain(RetrainConfig.preset("small", data=NOT_THERE, masks=NOT_THERE, out=str(run)))
    (command,) = re.findall("go on with the run in it: tag2mask (.*)", str(caught.value))
    assert cli.main(command.split()) == 0
    other = load_config(run)
    fields = {f.name: getattr(other, f.name) for f in dataclasses.fields(RetrainConfig) if hasattr(other, f.name)}
    config = RetrainConfig(**fields | {"masks": "m"})
    (run / "config.json").write_text(config.to_json(), encoding="utf-8")
    with pytest.raises(FileExistsError, match="tag2mask retrain --resume"):
        train(tiny_config)


def test_own_masks_in_the_way_are_found_before_the_network_is_loaded(builtin, tmp_path):
    with pytest.raises((ValueError, DataError), match="the data set's own masks"):
        tag2mask.pseudo_label(NOT_THERE, data=builtin, out=builtin / "masks")
