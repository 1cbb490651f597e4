"""`--group-by`: pictures of one thing stay on one side of a split by hash."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import data_formats as made
import numpy as np
import pytest
from PIL import Image

from tag2mask import check, cli, convert
from tag2mask.config import TrainConfig
from tag2mask.config.formats import DataOptions
from tag2mask.data import DataError, SplitError, list_splits, open_data
from tag2mask.data.readers import groups
from tag2mask.data.readers.splits import hash_split
from tag2mask.runs.places import own_reading

THINGS = 24


def exposures(root: Path, per_thing: int = 3) -> Path:
    """A folder per class with exposures of each thing, whose names have nothing in common but an order."""
    number = 100
    for thing in range(THINGS):
        random = np.random.default_rng(thing)
        coarse = Image.fromarray(random.integers(0, 200, (5, 6), dtype=np.uint8)).resize((72, 60), Image.BICUBIC)
        for i in range(per_thing):
            number += 17
            shown = np.asarray(coarse) * (0.8 + 0.2 * i) + random.normal(0, 2, (60, 72))
            place = root / ("crack", "dent")[thing % 2] / f"exp{i}_num_{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(shown.clip(0, 255).astype(np.uint8)).save(place)
    return root


def sides(root: Path, **options: object) -> dict[str, str]:
    return {p.name: s for s in ("train", "val") for p in open_data(root, split=s, need_tags=False, **options).pictures}


def things(root: Path, side_of: dict[str, str]) -> dict[int, set[str]]:
    """The sides on which the pictures of each thing are."""
    found: dict[int, set[str]] = {}
    names = sorted(side_of, key=lambda name: int(name.rpartition("_")[2].removesuffix(".png")))
    for place, name in enumerate(names):
        found.setdefault(place * THINGS // len(names), set()).add(side_of[name])
    return found


def test_pictures_that_look_the_same_stay_on_one_side(tmp_path: Path) -> None:
    exposures(tmp_path)
    plain, grouped = sides(tmp_path), sides(tmp_path, group_by="look")
    assert plain.keys() == grouped.keys() and len(plain) == 3 * THINGS
    assert any(len(each) > 1 for each in things(tmp_path, plain).values())
    assert all(len(each) == 1 for each in things(tmp_path, grouped).values())
    assert set(grouped.values()) == {"train", "val"}
    (finding,) = (each for each in open_data(tmp_path, group_by="look").findings if each.code == "groups")
    assert finding.severity == "note"
    assert "72 pictures of 72 in 24 groups (--group-by look)" in finding.message


def test_pictures_of_their_own_are_where_they_were(tmp_path: Path) -> None:
    exposures(tmp_path, per_thing=1)
    (tmp_path / "crack" / "broken.png").write_bytes(b"no picture")
    Image.new("L", (60, 60)).save(tmp_path / "dent" / "flat1.png")
    Image.new("L", (60, 60), 3).save(tmp_path / "dent" / "flat2.png")
    assert sides(tmp_path) == sides(tmp_path, group_by="look")


def test_the_pictures_are_read_once_for_both_sides_and_again_where_they_changed(tmp_path: Path, monkeypatch) -> None:
    exposures(tmp_path)
    read = []
    look = groups._look
    monkeypatch.setattr(groups, "_look", lambda path: (read.append(path), look(path))[1])
    sides(tmp_path, group_by="look")
    assert len(read) == 3 * THINGS
    next(tmp_path.rglob("*.png")).write_bytes(b"no picture")
    sides(tmp_path, group_by="look")
    assert len(read) == 6 * THINGS


@pytest.mark.parametrize(
    ("group_by", "key"),
    [
        ("part[0-9]+", lambda name: name.split("_")[0]),
        (r"/(?:left|right)_(\d+)", lambda name: name.split("_")[1]),  # across classes, too
        ("[0-9]{9}", None),
    ],
)
def test_pictures_whose_names_match_the_same_stay_on_one_side(
    tmp_path: Path, group_by: str, key: Callable[[str], str] | None
) -> None:
    names = [f"{side}_{i}_{j}.png" for i in range(30) for j in range(3) for side in ("left", "right")]
    if group_by.startswith("part"):
        names = [f"part{i}_{j}.png" for i in range(30) for j in range(4)]
    for i, name in enumerate(names):
        place = tmp_path / ("cat", "dog")[i % 2] / name
        place.parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8), i).save(place)
    if key is None:
        with pytest.raises(DataError, match=r"group_by='\[0-9\]\{9\}' matches in no name of a picture"):
            open_data(tmp_path, group_by=group_by)
        return
    found = sides(tmp_path, group_by=group_by)
    by_key: dict[str, set[str]] = {}
    for name, side in found.items():
        by_key.setdefault(key(name.partition("/")[2]), set()).add(side)
    assert len(by_key) == 30 and all(len(each) == 1 for each in by_key.values())
    assert {next(iter(each)) for each in by_key.values()} == {"train", "val"}


def test_the_split_without_groups_is_that_of_the_names() -> None:
    names = [f"{i}.jpg" for i in range(500)]
    assert hash_split(names) == hash_split(names, {name: name for name in names})
    train, val = hash_split(names, {name: name[0] for name in names})
    assert {name[0] for name in train}.isdisjoint(name[0] for name in val) and len(train) + len(val) == 500
    assert hash_split(["a", "b"], {"a": "x", "b": "x"}) == (["a", "b"], [])


def test_one_thing_alone_cannot_be_split(tmp_path: Path) -> None:
    made.imagefolder(tmp_path)
    assert len(open_data(tmp_path, group_by="p").pictures) == 12
    with pytest.raises(SplitError, match="12 pictures that group_by p takes for one thing, too few to hold any out"):
        open_data(tmp_path, split="val", group_by="p")


@pytest.mark.parametrize("group_by", ["(", "[a", "*"])
def test_what_is_no_regular_expression_is_refused(tmp_path: Path, group_by: str) -> None:
    with pytest.raises(ValueError, match="must be look or a regular expression"):
        open_data(tmp_path, group_by=group_by)


def test_splits_that_are_given_are_never_changed(tmp_path: Path) -> None:
    made.voc_tree(tmp_path / "voc")
    made.plain_folder(tmp_path / "folder")
    (tmp_path / "folder/splits").mkdir()
    (tmp_path / "folder/splits/train.txt").write_text("p00.jpg\n")
    for name in ("train", "val"):
        made.imagefolder(tmp_path / "classes" / name)
    for name in ("voc", "folder", "classes"):
        with pytest.raises(DataError, match=r"is for data without splits; here they are given: .*train"):
            open_data(tmp_path / name, group_by="look")


def test_check_names_the_cure_and_with_it_finds_nothing(tmp_path: Path, capsys) -> None:
    exposures(tmp_path / "data")
    report = check(tmp_path / "data")
    (leak,) = (each for each in report.findings if each.code == "leak")
    assert "--group-by look goes by their looks" in leak.cure
    assert report.by_hash
    assert cli.main(["check", str(tmp_path / "data")]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"--data {tmp_path / 'data'} --group-by look")
    report = check(tmp_path / "data", group_by="look")
    assert "leak" not in {each.code for each in report.findings}
    assert "groups" in {each.code for each in report.findings}
    # what is made of it needs the option no more
    convert(tmp_path / "data", to="folder", out=tmp_path / "plain", group_by="look")
    assert set(list_splits(tmp_path / "plain")) == {"train", "val"}
    assert sides(tmp_path / "plain") == sides(tmp_path / "data", group_by="look")
    report = check(tmp_path / "plain")
    assert "leak" not in {each.code for each in report.findings} and not report.by_hash


def test_a_run_is_scored_on_its_own_data_as_they_were_split(tmp_path: Path) -> None:
    exposures(tmp_path / "data")
    (tmp_path / "run").mkdir()
    config = TrainConfig.preset("small", data=str(tmp_path / "data"), group_by="look")
    (tmp_path / "run/config.json").write_text(config.to_json())
    assert own_reading(tmp_path / "run", tmp_path / "data", DataOptions()).group_by == "look"
    assert (
        own_reading(str(tmp_path / "run"), tmp_path / "data", DataOptions(others="background")).others == "background"
    )
    assert own_reading(tmp_path / "run", tmp_path / "data", DataOptions(group_by="exp")).group_by == "exp"
    assert own_reading(tmp_path / "run", tmp_path, DataOptions()).group_by == ""
    assert own_reading(None, tmp_path / "data", DataOptions()) == DataOptions()
