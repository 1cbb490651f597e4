"""Tags that are known when masks are made, from a table or a data set in any format: `predict --tags`, `evaluate
--with-tags`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import data_formats as made
import numpy as np
import pytest
import torch
from data_formats import CLASSES, SINGLE, TAGS, WRITERS, write_picture, write_pictures
from docs_world import _shards
from PIL import Image

from tag2mask import cli, evaluate, predict
from tag2mask.config import TrainConfig
from tag2mask.data import DataError
from tag2mask.data.readers.known_tags import read_known_tags
from tag2mask.inference.segmenter import Segmenter
from tag2mask.inference.sources import search
from tag2mask.jobs.predicting.plan import _known_tags
from tag2mask.models import build_network

FORMATS: dict[str, Callable[[Path], None]] = {
    "folder": made.plain_folder,
    "voc": made.voc_tree,
    "imagefolder": made.imagefolder,
    **{name: write for name, (_, write) in WRITERS.items()},
}


@pytest.fixture(scope="module")
def pets() -> Segmenter:
    torch.manual_seed(0)
    config = TrainConfig.preset("small", backbone="test_resnet", weights="none", image_size=64)
    model = build_network(config, CLASSES)
    model.segmenter[-1].weight.data.mul_(20)
    return Segmenter(model, config, device="cpu")


def known(data: Path, *sources: Path, classes: tuple[str, ...] = CLASSES) -> tuple[dict[str, set[str]], set[str]]:
    """Tags by the base name of the picture, and the codes of what is said."""
    pictures = search(sources).pictures
    tags, findings = _known_tags(data, classes, pictures, pictures)
    return {Path(name).name: set(each) for name, each in tags.items()}, {each.code for each in findings}


@pytest.mark.parametrize("name", FORMATS)
def test_tags_of_every_format_belong_to_their_pictures(name: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    FORMATS[name](root)
    expected = {key: set(tags) - {"background"} for key, tags in (SINGLE if name == "imagefolder" else TAGS).items()}
    assert known(root, root)[0] == expected
    # pictures elsewhere, by their names
    if name == "imagefolder":  # a name with its folder means a picture in a folder of that name
        shutil.copytree(root, tmp_path / "archive")
    else:
        write_pictures(tmp_path / "archive")
    assert known(root, tmp_path / "archive")[0] == expected


@pytest.mark.parametrize("name", ["folder", "voc", "imagefolder", "coco", "metadata.csv"])
def test_the_splits_of_the_data_set_do_not_matter(name: str, tmp_path: Path) -> None:
    FORMATS[name](tmp_path / "data")
    (tmp_path / "data/splits").mkdir()
    (tmp_path / "data/splits/train.txt").write_text("cat/p00.jpg" if name == "imagefolder" else "p00.jpg")
    assert len(known(tmp_path / "data", tmp_path / "data")[0]) == len(TAGS)


def test_tags_of_shards(tmp_path: Path) -> None:
    _shards(tmp_path / "shards")
    rows, _ = read_known_tags(tmp_path / "shards" / "00{0..4}.tar")
    assert [row.tags for row in rows.values()] == [("cat",), ("dog",), (), ("cat",), ("dog",)]
    assert len(read_known_tags(tmp_path / "shards")[0]) == 100
    pictures = search([tmp_path / "shards" / "001.tar"]).pictures
    assert list(_known_tags(tmp_path / "shards", CLASSES, pictures, pictures)[0].values()) == [("dog",)]


def test_one_name_in_two_class_folders_is_told_by_the_file(tmp_path: Path) -> None:
    """By names alone `1.jpg` in the folder of one class may be either."""
    for name in ("cat/p01.jpg", "dog/p01.jpg", "p01.jpg"):
        write_picture(tmp_path / "data" / name)
    pictures = search([tmp_path / "data"]).pictures
    tags, findings = _known_tags(tmp_path / "data", CLASSES, pictures, pictures)
    assert tags == {"cat/p01.jpg": ("cat",), "dog/p01.jpg": ("dog",)}
    said = {each.code: each for each in findings}
    assert said["pictures_without_row"].names == ("p01.jpg",)
    assert "1 picture without tags in" in said["pictures_without_row"].message
    (tmp_path / "data/p01.jpg").unlink()
    write_picture(tmp_path / "in/cat/p01.jpg")
    assert known(tmp_path / "data", tmp_path / "in/cat")[0] == {"p01.jpg": {"cat"}}
    write_picture(tmp_path / "other/p01.jpg")
    with pytest.raises(DataError, match="has no picture for any of the pictures"):
        known(tmp_path / "data", tmp_path / "other")


def test_a_folder_of_good_things_is_known_to_show_nothing_and_an_unknown_class_is_refused(tmp_path: Path) -> None:
    for i, kind in enumerate(("cat", "good", "dog", "background")):
        write_picture(tmp_path / "data" / kind / f"p0{i}.jpg")
    tags, said = known(tmp_path / "data", tmp_path / "data")
    assert tags == {"p00.jpg": {"cat"}, "p01.jpg": set(), "p02.jpg": {"dog"}, "p03.jpg": set()}
    assert "background" in said
    assert known(tmp_path / "data", tmp_path / "data", classes=("cat", "dog", "good"))[0]["p01.jpg"] == {"good"}
    (tmp_path / "data/good").rename(tmp_path / "data/unknown")  # not known is not nothing
    with pytest.raises(DataError, match=r"unknown class 'unknown'; the classes are horse, dog, cat"):
        known(tmp_path / "data", tmp_path / "data")
    (tmp_path / "data/classes.txt").write_text("dog\ncat")  # as data sets leave classes out
    assert known(tmp_path / "data", tmp_path / "data")[0]["p01.jpg"] == set()


@pytest.mark.parametrize("name", ["folder", "imagefolder", "coco"])
def test_masks_show_only_what_is_known(name: str, pets: Segmenter, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("tag2mask.inference.segmenter.Segmenter.load", lambda *_, **__: pets)
    FORMATS[name](tmp_path / "data")
    words = ["predict", "run", tmp_path / "data", "--out", tmp_path / "out", "--tags", tmp_path / "data", "--json"]
    assert cli.main([str(word) for word in words]) == 0
    written = json.loads(capsys.readouterr().out)["written"]
    assert len(written) == len(TAGS)
    tags = {Path(key).stem: each for key, each in (SINGLE if name == "imagefolder" else TAGS).items()}
    for each in written:
        labels = set(np.unique(np.asarray(Image.open(tmp_path / "out/masks" / f"{each}.png"))))
        own = tags[Path(each).name]
        assert labels <= {0, *(CLASSES.index(tag) + 1 for tag in own if tag in CLASSES)}


def test_a_call_with_other_tags_does_not_go_on(pets: Segmenter, tmp_path: Path) -> None:
    """The tags decide what is written: those of a data set, whose folder is no file, too."""
    made.imagefolder(tmp_path / "data")
    predict(pets, tmp_path / "data", tmp_path / "out", tags=tmp_path / "data", formats=("ids",))
    moved = tmp_path / "data/dog/p00.jpg"
    shutil.move(tmp_path / "data/cat/p00.jpg", moved)
    predict(pets, tmp_path / "data", tmp_path / "out", tags=tmp_path / "data", formats=("ids",))
    assert set(np.unique(np.asarray(Image.open(tmp_path / "out/ids/dog/p00.png")))) <= {0, CLASSES.index("dog") + 1}


def test_annotations_are_given_by_their_folder(tmp_path: Path) -> None:
    made.coco(tmp_path)
    with pytest.raises(DataError, match=rf"no table like tags\.csv.*--tags {tmp_path / 'annotations'}"):
        read_known_tags(tmp_path / "annotations" / "instances_default.json")
    assert read_known_tags(tmp_path)[0]["p00.jpg"].tags == ("cat",)


# -- evaluate --with-tags ------------------------------------------------------------------------------------------


def test_evaluate_with_tags_tells_the_network_and_the_protocol_says_so(builtin, segmenter, capsys, monkeypatch) -> None:
    monkeypatch.setattr("tag2mask.inference.segmenter.Segmenter.load", lambda *_, **__: segmenter)
    told = []
    own = segmenter.predict
    monkeypatch.setattr(segmenter, "predict", lambda *args, **more: (told.append(more["tags"]), own(*args, **more))[1])
    without = evaluate(segmenter, data=builtin)
    assert told and set(told) == {None}
    told.clear()
    report = evaluate(segmenter, data=builtin, with_tags=True)
    assert all(isinstance(tags, list) for tags in told) and any(told)
    assert (report.confusion != without.confusion).any()
    assert report.protocol["label_prior"] == "true tags" and without.protocol["label_prior"] == "none"
    assert cli.main(["evaluate", "run", "--data", str(builtin), "--with-tags"]) == 0
    assert "label prior: true tags" in " ".join(capsys.readouterr().out.split())


def test_with_tags_needs_a_network(builtin, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="with_tags belong to a network"):
        evaluate(masks=builtin / "masks", data=builtin, with_tags=True)
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(ValueError, match=rf"predict MODEL PICTURES --tags {builtin} --out DIR"):
        evaluate(tmp_path / "model.onnx", data=builtin, with_tags=True)
