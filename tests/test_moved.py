"""Splits that do not exist, paths that survive another working directory, and data that has moved."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest

from tag2mask import cli
from tag2mask.cli.advice import after_training
from tag2mask.config import RetrainConfig, TrainConfig, load_config
from tag2mask.data import SplitError, open_data
from tag2mask.runs.checkpoints import load_model
from tag2mask.runs.places import RECORD, located
from tag2mask.training.first_step import train
from tag2mask.training.second_step import retrain


@pytest.fixture
def short(tiny_config):
    return tiny_config.replace(tag_steps=2, joint_steps=0, validate_pictures=1)


@pytest.fixture
def interrupted(short, tmp_path, monkeypatch):
    """A run that has saved its first step, on data that may be moved."""

    def begin(config=short, start=train):
        shutil.copytree(config.data, tmp_path / "here")
        config = config.replace(data=str(tmp_path / "here"), save_every=1, tag_steps=3) if start is train else config
        from tag2mask.training import loop

        save = loop.save_state

        def saved(run, state):
            save(run, state)
            raise InterruptedError

        monkeypatch.setattr(loop, "save_state", saved)
        with pytest.raises(InterruptedError):
            start(config)
        monkeypatch.setattr(loop, "save_state", save)
        return tmp_path / "run"

    return begin


def second_step(config, **changes):
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(RetrainConfig) if hasattr(config, f.name)}
    return RetrainConfig(**fields | {"own_masks": True, "supervised_steps": 2} | changes)


@pytest.mark.parametrize("split", ["vall", "lists/val.txt"])
def test_a_validation_split_that_is_not_there_is_refused_before_any_work(short, tmp_path, split):
    for start, config in ((train, short), (retrain, second_step(short))):
        with pytest.raises(SplitError, match=rf"val_split: .* has no split '{split}'.*val_split='none'"):
            start(config.replace(val_split=split))
        assert not (tmp_path / "run").exists()


def test_the_default_that_is_not_there_is_said_and_none_is_a_choice(short, tmp_path):
    data = tmp_path / "only train"
    shutil.copytree(short.data, data)
    (data / "splits" / "val.txt").unlink(missing_ok=True)
    (data / "splits").mkdir(exist_ok=True)
    names = [p.name for p in open_data(short.data).pictures]
    (data / "splits" / "train.txt").write_text("\n".join(names), encoding="utf-8")
    log = (train(short.replace(data=str(data))) / "log.txt").read_text(encoding="utf-8")
    assert "WARNING no validation:" in log
    assert "has no split 'val'" in log
    run = train(short.replace(val_split="none", out=str(tmp_path / "none")))
    log = (run / "log.txt").read_text(encoding="utf-8")
    assert "INFO no validation: --val-split none" in log
    assert "mIoU" not in log
    assert "its tags is measured on 12 training pictures\n" in log
    with pytest.raises(ValueError, match="val_split='none' switches off"):
        short.replace(val_split="none", select="miou", validate_every=1)


def test_advice_scores_only_where_the_run_did(short, tmp_path):
    assert "pseudo-label" in after_training(tmp_path, short)
    (tmp_path / "validation").mkdir()
    (tmp_path / "validation" / "scores.json").write_text("{}", encoding="utf-8")
    assert "evaluate" in after_training(tmp_path, short)


def test_lists_survive_another_working_directory(short, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lists").mkdir()
    for split in ("train", "val"):
        names = [p.name for p in open_data(short.data, split=split).pictures]
        (tmp_path / "lists" / f"{split}.txt").write_text("\n".join(names[:3]), encoding="utf-8")
    run = train(short.replace(train_split="lists/train.txt", val_split="lists/val.txt"))
    saved = load_config(run)
    assert saved.val_split == str(tmp_path / "lists" / "val.txt")
    assert saved.train_split == str(tmp_path / "lists" / "train.txt")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    train(saved, resume=run)
    assert "no validation" not in (run / "log.txt").read_text(encoding="utf-8")


def test_words_and_names_of_splits_are_no_files(short, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("none", "default", "val", "train"):
        (tmp_path / name).write_text("x", encoding="utf-8")
    config = located(short.replace(train_split="train", weights="none"))
    assert (config.train_split, config.val_split, config.weights) == ("train", "val", "none")
    assert located(short.replace(val_split="none", weights="default")).weights == "default"
    names = [p.name for p in open_data(short.data, split="val").pictures]
    assert names, "a file of that name in the working directory is not taken for the split"


def test_every_path_is_spelled_out(short, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("data", "masks", "first"):
        (tmp_path / name).mkdir()
    config = short.replace(data="data", masks_for_some="masks", tag_phase="first", weights="first")
    found = located(config)
    for name in ("data", "masks_for_some", "tag_phase", "weights"):
        assert getattr(found, name).startswith(str(tmp_path)), name
    assert set(TrainConfig.path_names()) - set(RetrainConfig.path_names()) == {"tag_phase", "masks_for_some"}
    assert set(RetrainConfig.path_names()) == {"data", "train_split", "val_split", "out", "weights", "masks"}


def test_a_run_goes_on_where_its_data_lies_now(interrupted, short, tmp_path, capsys):
    run = interrupted()
    (tmp_path / "here").rename(tmp_path / "there")
    assert cli.main(["train", "--resume", str(run), "--data", str(tmp_path / "there")]) == 0
    assert load_config(run).data == str(tmp_path / "there")
    log = (run / "log.txt").read_text(encoding="utf-8")
    assert f"--data has moved from {tmp_path / 'here'} to {tmp_path / 'there'}" in log
    assert "the same by name, size and tags" in log
    whole = train(short.replace(out=str(tmp_path / "whole"), tag_steps=3))
    one, two = (load_model(each)[0].state_dict() for each in (run, whole))
    assert all(one[name].equal(two[name]) for name in one)
    assert cli.main(["train", "--resume", str(run), "--data", str(tmp_path / "there"), "--seed", "7"]) == 2
    assert "differs in --seed" in " ".join(capsys.readouterr().err.split())


def test_the_same_place_in_other_words_is_no_move(interrupted, tmp_path, monkeypatch):
    run = interrupted()
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "--resume", "run", "--data", "here"]) == 0
    assert "has moved" not in (run / "log.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda data: next(iter(sorted((data / "images").iterdir()))).write_bytes(b"other"), r"1 sizes of \w+ differ"),
        (lambda data: (data / "tags.csv").write_text(
            (data / "tags.csv").read_text(encoding="utf-8").rpartition("\n")[0].rpartition("\n")[0] + "\n", encoding="utf-8"),
            "are missing|no picture"),
        (lambda data: (data / "classes.txt").write_text(
            "\n".join(reversed((data / "classes.txt").read_text(encoding="utf-8").split())), encoding="utf-8"),
            "the classes were .* and are"),
    ],
)  # fmt: skip
def test_other_data_is_refused_with_what_differs(interrupted, tmp_path, change, told):
    run = interrupted()
    (tmp_path / "here").rename(tmp_path / "there")
    change(tmp_path / "there")
    before = (run / "config.json").read_bytes()
    with pytest.raises(ValueError, match=told):
        train(load_config(run).replace(data=str(tmp_path / "there")), resume=run)
    assert (run / "config.json").read_bytes() == before


def test_data_that_changed_in_its_place_is_a_warning(interrupted, tmp_path):
    run = interrupted()
    picture = next(iter(sorted((tmp_path / "here" / "images").iterdir())))
    picture.write_bytes(picture.read_bytes() + b" ")
    train(load_config(run), resume=run)
    log = (run / "log.txt").read_text(encoding="utf-8")
    assert "WARNING the data is not what this run began with: 1 sizes of" in log


def test_an_older_run_compares_what_it_has(interrupted, tmp_path):
    run = interrupted()
    (run / RECORD).unlink()
    (tmp_path / "here").rename(tmp_path / "there")
    config = load_config(run).replace(data=str(tmp_path / "there"))
    about = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    about["data"]["train"]["num_images"] += 1
    (run / "environment.json").write_text(json.dumps(about), encoding="utf-8")
    with pytest.raises(ValueError, match=r"the numbers of pictures were \[13, 4\] and are \[12, 4\]"):
        train(config, resume=run)
    del about["data"]
    (run / "environment.json").write_text(json.dumps(about), encoding="utf-8")
    train(config, resume=run)
    assert "this run is of an older version" in (run / "log.txt").read_text(encoding="utf-8")


def test_masks_that_teach_may_move_and_may_not_change(interrupted, short, tmp_path):
    masks = tmp_path / "masks"
    shutil.copytree(f"{short.data}/masks", masks)
    config = second_step(short, own_masks=False, masks=str(masks), save_every=1, supervised_steps=2)
    run = interrupted(config, retrain)
    masks.rename(tmp_path / "moved")
    there = load_config(run).replace(masks=str(tmp_path / "moved"))
    one = next(iter(sorted((tmp_path / "moved").glob("train*.png"))))
    whole = one.read_bytes()
    one.write_bytes(whole + b" ")
    with pytest.raises(ValueError, match="1 training masks of train differ"):
        retrain(there, resume=run)
    one.write_bytes(whole)
    retrain(there, resume=run)
    assert load_config(run).masks == str(tmp_path / "moved")


def test_a_tag_phase_on_a_list_file_is_taken_over(short, tmp_path, monkeypatch):
    """The list was relative in one config and absolute in the other."""
    monkeypatch.chdir(tmp_path)
    names = [p.name for p in open_data(short.data).pictures]
    (tmp_path / "some.txt").write_text("\n".join(names[:6]), encoding="utf-8")
    config = short.replace(train_split="some.txt", val_split="none")
    tags = train(config.replace(out=str(tmp_path / "tags")))
    assert train(config.replace(joint_steps=1, tag_phase=str(tags)))
