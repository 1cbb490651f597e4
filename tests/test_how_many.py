"""How many pictures, how many wrong tags: parts and planted mistakes, and the whole experiment in miniature."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from test_ablation import TINY

from experiments.how_many import ROWS, Plan, Row, RowResult, Study, __main__, how_many, running
from experiments.how_many.page import BEGIN, END, fill_page, table_lines
from experiments.how_many.pictures import LEAST, changed, part, planted, stratified_order, tag_matrix, write_folder
from experiments.how_many.rows import row_config
from tag2mask.config import TrainConfig, load_config
from tag2mask.data import Picture, open_data
from tag2mask.data.dataset import PictureSet, label_codes

CLASSES = ("cat", "dog", "yak")


@pytest.fixture(scope="module")
def many() -> PictureSet:
    """1000 pictures: half cats, a fifth dogs, one in fifty yaks (the dogs and yaks in part with cats), negatives."""
    random = np.random.default_rng(5)
    tags = random.random((1000, 3)) < (0.5, 0.2, 0.02)
    pictures = tuple(
        Picture(Path(f"/x/{i}.jpg"), f"{i}.jpg", tuple(int(j) for j in np.flatnonzero(row)), None)
        for i, row in enumerate(tags)
    )
    return PictureSet(CLASSES, pictures, label_codes(3, others="ignore"), Path("/x"), "train", "folder")


# -- parts -------------------------------------------------------------------------------------------------------------


def test_parts_hold_each_other_and_every_class(many):
    parts = {count: [each.name for each in part(many, count, 0)] for count in (25, 50, 150, 500, 1000)}
    assert [len(set(each)) for each in parts.values()] == list(parts)
    for small, large in zip(list(parts)[:-1], list(parts)[1:], strict=True):
        assert set(parts[small]) < set(parts[large])
    assert parts[1000] == [each.name for each in many.pictures]
    assert part(many, 50, 0) == part(many, 50, 0)
    assert part(many, 50, 0) != part(many, 50, 1)


@pytest.mark.parametrize("seed", range(3))
def test_every_class_has_its_share_and_at_least_a_few(many, seed):
    tags = tag_matrix(many.pictures, 3)
    total = np.append(tags.sum(0), (~tags.any(1)).sum())
    order = stratified_order(tags, seed)
    assert sorted(order) == list(range(1000))
    for count in (50, 150, 500):
        chosen = tags[order[:count]]
        here = np.append(chosen.sum(0), (~chosen.any(1)).sum())
        assert (here >= LEAST).all()
        assert np.abs(here - np.maximum(LEAST, total * count / 1000)).max() <= 0.06 * count


def test_a_class_on_fewer_pictures_is_taken_whole():
    tags = np.zeros((40, 2), dtype=bool)
    tags[:20, 0], tags[38:, 1] = True, True
    assert {38, 39} < set(stratified_order(tags, 0)[:10])


# -- planted mistakes --------------------------------------------------------------------------------------------------


def test_planted_mistakes_are_one_tag_each_and_lie_in_each_other(many):
    five, ten = (planted(many.pictures, 3, share, 0) for share in (0.05, 0.1))
    assert (len(five), len(ten)) == (50, 100)
    assert five.items() < ten.items()
    assert five == planted(many.pictures, 3, 0.05, 0) != planted(many.pictures, 3, 0.05, 1)
    assert planted(many.pictures, 3, 0.0, 0) == {}
    every = planted(many.pictures, 3, 1.0, 0)
    wrong = changed(many.pictures, every)
    kinds = {"missing": 0, "too many": 0}
    for before, after in zip(many.pictures, wrong, strict=True):
        assert set(before.tags) ^ set(after.tags) == {every[before.name]}
        assert after.tags == tuple(sorted(after.tags)) and after.path == before.path
        kinds["missing" if len(after.tags) < len(before.tags) else "too many"] += 1
    tagged = sum(bool(each.tags) for each in many.pictures)
    assert kinds["missing"] == pytest.approx(tagged / 2, abs=0.08 * tagged)
    assert [each.tags for each in changed(many.pictures, {})] == [each.tags for each in many.pictures]


def test_a_folder_of_wrong_tags_shows_the_same_pictures(builtin, tmp_path):
    train, val = open_data(builtin), open_data(builtin, split="val")
    wrong = planted(train.pictures, train.num_classes, 0.5, 0)
    folder = write_folder(tmp_path / "wrong", changed(train.pictures, wrong), val)
    found = open_data(folder)
    assert found.classes == train.classes
    assert [each.name for each in found.pictures] == [each.name for each in train.pictures]
    differing = {a.name for a, b in zip(train.pictures, found.pictures, strict=True) if a.tags != b.tags}
    assert differing == set(wrong) and len(wrong) == 6
    assert all(a.path.samefile(b.path) for a, b in zip(train.pictures, found.pictures, strict=True))
    held_out = open_data(folder, split="val")
    assert [(each.name, each.tags) for each in held_out.pictures] == [(each.name, each.tags) for each in val.pictures]
    assert write_folder(folder, [], val) == folder and open_data(folder).pictures == found.pictures


def test_pictures_in_several_folders_are_refused_with_the_cure(builtin, tmp_path):
    train, val = open_data(builtin), open_data(builtin, split="val")
    moved = [dataclasses.replace(each, path=Path("/elsewhere") / each.name) for each in train.pictures]
    with pytest.raises(ValueError, match=r"do not lie in one folder .* tag2mask convert PATH --to folder"):
        write_folder(tmp_path / "wrong", moved, val)
    assert not (tmp_path / "wrong").exists()


# -- rows --------------------------------------------------------------------------------------------------------------


def test_rows_differ_from_the_preset_in_what_they_say():
    preset = TrainConfig.preset("small", data="d", sample_every=0, tag_steps=5, joint_steps=4)
    configs = {
        n: row_config(r, Plan(tag_steps=5, joint_steps=4), data="d", split=None, seed=0) for n, r in ROWS.items()
    }
    assert {n for n, config in configs.items() if config != preset} == {n for n in ROWS if n.startswith("150-")}
    assert configs["150-augment"].augment.scale == (0.5, 1.5)
    assert (configs["150-freeze"].freeze_stride, configs["150-freeze-16"].freeze_stride) == (8, 16)
    assert (configs["150-long"].tag_steps, configs["150-long"].joint_steps) == (10, 4)
    assert all(row.against in ROWS for row in ROWS.values())
    assert [r.pictures for r in ROWS.values() if r.group == "pictures"] == [50, 150, 500, 1000, None]
    assert [r.wrong for r in ROWS.values() if r.wrong] == [0.05, 0.1, 0.2]


@pytest.fixture
def study(builtin, tmp_path, monkeypatch):
    """Two steps of everything on the built-in set of 12 training pictures."""
    tiny = TINY | {"joint_batch_size": 2}
    monkeypatch.setattr("tag2mask.config.run.PRESETS", {"train": {"small": tiny}})
    rows = (
        Row(name="8", group="pictures", title="8 pictures", pictures=8),
        Row(name="all", group="pictures", title="all pictures"),
        Row(name="wrong-50", group="wrong tags", title="half wrong", wrong=0.5),
        Row(name="500", group="pictures", title="500 pictures", pictures=500),
    )
    plan = Plan(tag_steps=2, joint_steps=2, seeds=1)
    return Study(data=str(builtin), out=tmp_path / "out", plan=plan, rows={row.name: row for row in rows})


def test_the_whole_experiment_and_nothing_twice(study, builtin, tmp_path, monkeypatch):
    _few, every, wrong = results = how_many(study)  # 500 pictures are left out
    assert [(each.name, each.pictures) for each in results] == [("8", 8), ("all", 12), ("wrong-50", 12)]
    assert all(0 <= each.miou <= 1 and 0 < each.tag_map <= 1 and each.minutes >= 0 for each in results)
    assert (every.planted, every.precision) == (None, None)
    assert (wrong.planted, wrong.first) == (6, min(100, wrong.listed))
    names = (study.out / "8-seed0.txt").read_text().split()
    assert len(names) == 8
    assert load_config(study.out / "8-seed0").train_split == str(study.out / "8-seed0.txt")
    with (study.out / "data-wrong-50-seed0/tags.csv").open(newline="") as file:
        written = {row["file_name"]: row["tags"] for row in csv.DictReader(file)}
    with (builtin / "tags.csv").open(newline="") as file:
        assert sum(written[row["file_name"]] != row["tags"] for row in csv.DictReader(file)) == 6
    page = json.loads((study.out / "how-many.json").read_text())
    assert [row["miou"] for row in page["rows"]] == [each.miou for each in results]
    assert "<svg" in (study.out / "how-many.svg").read_text()

    def fail(*args, **kwargs):
        raise AssertionError("a row that is done was run again")

    for name in ("train", "evaluate", "suspicious_tags"):
        monkeypatch.setattr(running, name, fail)
    assert how_many(study) == results
    docs = tmp_path / "docs/how-many.md"
    docs.parent.mkdir()
    docs.write_text(f"# How many\n\n{BEGIN}\nold\n{END}\n\nEnd.\n")
    fill_page(docs, study)
    text = docs.read_text()
    assert "old" not in text and text.endswith("\n\nEnd.\n")
    assert (study.out / "how-many.md").read_text().strip() in text
    assert (docs.parent / "images/how-many.svg").is_file() and "](images/how-many.svg)" in text
    other = dataclasses.replace(study, plan=dataclasses.replace(study.plan, tag_steps=3))
    with pytest.raises(ValueError, match=r"other settings \(--tag-steps 2, now 3\); choose another --out"):
        how_many(other)


def test_it_goes_on_after_an_interruption(study, monkeypatch):
    train, calls = running.train, []

    def dies_at_first(config=None, *, resume=None):
        calls.append(config)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return train(config, resume=resume)

    monkeypatch.setattr(running, "train", dies_at_first)
    with pytest.raises(KeyboardInterrupt):
        how_many(study, ("8",))
    assert [each.name for each in how_many(study, ("8",))] == ["8"]
    assert calls[0] == calls[1], "the same pictures"


def test_a_run_that_stops_for_it_learned_nothing_is_told(study, monkeypatch):
    def stops(config=None, *, resume=None):
        raise running.TrainingStopped("nothing was learned")

    monkeypatch.setattr(running, "train", stops)
    (result,) = how_many(study, ("8",))
    assert (result.stopped, result.miou) == ("nothing was learned", None)
    assert " | stopped | " in table_lines([result], study)[2]


def test_rows_that_cannot_be_run_are_refused(study):
    with pytest.raises(ValueError, match=r"no row nonsense; rows: 8, all, wrong-50, 500"):
        how_many(study, ("nonsense",))
    with pytest.raises(ValueError, match=r"12 pictures to train on, too few for --rows 500"):
        how_many(study, ("all", "500"))


def test_the_table_by_hand(study):
    def result(name, seed, miou, **values):
        row = study.rows[name]
        values = {"minutes": 2.0 + seed, "pictures": 12, "tag_map": 0.5} | values
        return RowResult(name=name, group=row.group, title=row.title, seed=seed, miou=miou, **values)

    planted = {"planted": 6, "listed": 9, "first": 9, "right": 3}
    rows = [result("8", 0, 0.2), result("all", 0, 0.5), result("all", 1, 0.4), result("wrong-50", 1, 0.31, **planted)]
    assert table_lines(rows, study) == [
        "|  | row | mIoU, seed 0 | mIoU, seed 1 | tag mAP, seed 0 | tag mAP, seed 1 | planted of the first 100, seed 0 "
        "| planted of the first 100, seed 1 | difference | to | minutes |",
        "|" + "---|" * 11,
        "| pictures | 8 pictures | 0.200 |  | 0.500 |  |  |  | -30.0 | `all` | 2.0 |",
        "|  | all pictures | 0.500 | 0.400 | 0.500 | 0.500 |  |  |  |  | 2.5 |",
        "| wrong tags | half wrong |  | 0.310 |  | 0.500 |  | 3 of 9 (6 planted) | -9.0 | `all` | 3.0 |",
    ]
    assert rows[-1].precision == pytest.approx(1 / 3)


def test_the_command(study, monkeypatch, capsys):
    monkeypatch.setattr(__main__, "Study", lambda **values: dataclasses.replace(study, **values))
    words = ["--data", study.data, "--out", str(study.out), "--rows", "8", "--tag-steps", "1", "--joint-steps", "1"]
    monkeypatch.setattr("sys.argv", ["how_many", *words, "--one-seed"])
    assert __main__.main() == 0
    assert capsys.readouterr().out.startswith("|  | row | mIoU, seed 0 | tag mAP, seed 0 |")
    monkeypatch.setattr("sys.argv", ["how_many", *words, "--joint-steps", "2"])
    assert __main__.main() == 1
    assert "--joint-steps 1, now 2" in capsys.readouterr().err
