"""Every format that `open_data` reads: the same twelve pictures in each, found by looking, with equal tags."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import data_formats as made
import numpy as np
import pytest
from data_formats import CLASSES, TAGS, WRITERS, write_json, write_picture, write_pictures
from PIL import Image

from tag2mask import convert
from tag2mask.cli import main
from tag2mask.config import AugmentConfig, TrainConfig
from tag2mask.data import DataError, MissingDataError, PictureSet, SplitError, list_splits, open_data, read_picture
from tag2mask.data.findings import Finding
from tag2mask.data.training.loading import TrainingPictures
from tag2mask.jobs.converting.folders import ConvertedData

SORTED = tuple(sorted(CLASSES))
FORMATS = sorted(WRITERS)


def tags_of(*sets: PictureSet) -> dict[str, tuple[str, ...]]:
    return {p.name: tuple(sorted(each.classes[i] for i in p.tags)) for each in sets for p in each.pictures}


def said(root: Path, code: str, **options: object) -> Finding:
    """The one finding of the training split with this code."""
    (found,) = [each for each in open_data(root, **options).findings if each.code == code]
    return found


def both(root: Path, **options: object) -> tuple[PictureSet, PictureSet]:
    """The halves by hash."""
    return open_data(root, **options), open_data(root, split="val", need_tags=False, **options)


def check(root: Path, data_format: str, classes: tuple[str, ...], names: dict[str, tuple[str, ...]] = TAGS) -> None:
    """Tags, classes and pixels, found by looking and by name."""
    for how in ("auto", data_format):
        train, val = both(root, data_format=how)
        assert (train.data_format, train.classes) == (data_format, classes)
        assert tags_of(train, val) == names
        for picture in (*train.pictures, *val.pictures):
            assert read_picture(picture.path).shape == made.pixels(picture.name).shape
            if picture.name.endswith(".png"):
                np.testing.assert_array_equal(read_picture(picture.path), made.pixels(picture.name))


@pytest.mark.parametrize("name", FORMATS)
def test_formats_of_files(tmp_path: Path, name: str) -> None:
    data_format, write = WRITERS[name]
    write(tmp_path)
    check(tmp_path, data_format, CLASSES if data_format in ("coco", "cvat", "yolo") else SORTED)


@pytest.mark.parametrize("name", FORMATS)
def test_convert_to_a_plain_folder(tmp_path: Path, name: str) -> None:
    data_format, write = WRITERS[name]
    write(tmp_path / "in")
    before = both(tmp_path / "in")
    result = convert(tmp_path / "in", to="folder", out=tmp_path / "out")
    assert isinstance(result, ConvertedData)
    assert (result.data_format, result.num_images, result.num_negatives, result.splits) == (data_format, 12, 2, {})
    after = both(tmp_path / "out")
    assert after[0].data_format == "folder"
    assert [tags_of(each) for each in after] == [tags_of(each) for each in before]  # the halves by hash stay too
    assert after[0].classes == before[0].classes
    for old, new in zip(before[0].pictures, after[0].pictures, strict=True):
        assert old.path.read_bytes() == new.path.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


# -- one folder per class ----------------------------------------------------------------------------------------------


def test_class_folders_agree_with_torchvision(tmp_path: Path) -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    for name, tags in TAGS.items():
        if tags:
            write_picture(tmp_path / tags[0] / "deeper" / name)
    theirs = datasets.ImageFolder(tmp_path)
    train, val = both(tmp_path)
    assert train.data_format == "imagefolder"
    assert list(train.classes) == theirs.classes
    ours = {(str(p.path), p.tags[0]) for each in (train, val) for p in each.pictures}
    assert ours == set(theirs.samples)


def test_class_folders_with_splits_and_a_background_class(tmp_path: Path) -> None:
    for split, names in (("train", list(TAGS)[:8]), ("valid", list(TAGS)[8:])):
        for name in names:
            write_picture(tmp_path / split / made.SINGLE[name][0] / name)
    write_picture(tmp_path / "test" / "p11.jpg")
    assert list_splits(tmp_path) == ("train", "val")
    train, val = both(tmp_path)
    assert train.classes == val.classes == SORTED
    assert tags_of(train, val) == {
        f"{'train' if i < 8 else 'valid'}/{(tags[:1] or ('background',))[0]}/{name}": tags[:1]
        for i, (name, tags) in enumerate(TAGS.items())
    }
    with pytest.raises(SplitError, match=r"no split 'test'; splits: train, val"):
        open_data(tmp_path, split="test")
    assert both(tmp_path, data_format="imagefolder")[0].num_classes == 3


def test_a_class_may_be_called_train_or_masks(tmp_path: Path) -> None:
    for name in ("train/p00.jpg", "car/p01.jpg", "masks/p02.png"):
        write_picture(tmp_path / name)
    write_pictures(tmp_path / "car", list(TAGS)[3:])
    assert open_data(tmp_path).classes == ("car", "masks", "train")
    Image.fromarray(np.array([[0, 1, 255]], np.uint8)).save(tmp_path / "masks" / "x.png")
    (tmp_path / "masks" / "car").mkdir()
    Image.fromarray(np.array([[0, 1, 255]], np.uint8)).save(tmp_path / "masks" / "car" / "p03.png")
    train, val = both(tmp_path)
    assert train.classes == ("car", "train")
    assert [p.name for each in (train, val) for p in each.pictures if p.mask] == ["car/p03.jpg"]


def test_no_class_folders(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    with pytest.raises(MissingDataError, match=r"is no known data set\. Looked for images/ with tags\.csv"):
        open_data(tmp_path)
    with pytest.raises(MissingDataError, match=r"no folder with pictures.*cat/a\.jpg"):
        open_data(tmp_path, data_format="imagefolder")


# -- Hugging Face imagefolder ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_metadata_is_what_the_library_reads(tmp_path: Path, name: str) -> None:
    datasets = pytest.importorskip("datasets")
    WRITERS[name][1](tmp_path / "data")
    folder = str(tmp_path / "data")
    theirs = datasets.load_dataset("imagefolder", data_dir=folder, split="train", cache_dir=str(tmp_path / "cache"))
    rows = theirs.cast_column("image", datasets.Image(decode=False))
    found = {
        Path(row["image"]["path"]).name: sorted(
            row["tags"] if isinstance(row["tags"], list) else (row["tags"] or "").split(";")
        )
        for row in rows
    }
    ours = tags_of(*both(tmp_path / "data"))
    assert {key: [tag for tag in tags if tag] for key, tags in found.items()} == {k: list(t) for k, t in ours.items()}


def test_metadata_per_split_or_of_all_splits(tmp_path: Path) -> None:
    halves = {"train": list(TAGS)[:8], "validation": list(TAGS)[8:]}
    for split, names in halves.items():
        write_pictures(tmp_path / "a" / split, names)
        write_pictures(tmp_path / "b" / split, names)
        rows = "".join(f"{name},{';'.join(TAGS[name])}\n" for name in names)
        (tmp_path / "a" / split / "metadata.csv").write_text(f"file_name,tags\n{rows}")
    lines = [
        json.dumps({"file_name": f"{split}/{name}", "tags": ";".join(TAGS[name]) or None, "note": 1})
        for split, names in halves.items()
        for name in names
    ]
    (tmp_path / "b" / "metadata.jsonl").write_text("\n".join(lines))
    expected = {f"{split}/{name}": TAGS[name] for split, names in halves.items() for name in names}
    for root in (tmp_path / "a", tmp_path / "b"):
        assert list_splits(root) == ("train", "val")
        assert tags_of(*both(root)) == expected


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"metadata.csv": "file_name,tags\np00.jpg,cat", "metadata.jsonl": "{}"}, "metadata.csv and metadata.jsonl"),
        ({"metadata.jsonl": '{"file_name": "p00.jpg", "tags": ["cat"]}\n{"file_name": 1'}, "line 2: not valid JSON"),
        ({"metadata.jsonl": '{"file_name": "p00.jpg", "label": 1}'}, "line 1: needs .* tags, got file_name, label"),
        ({"metadata.jsonl": "[1]"}, "line 1: needs an object with file_name and tags, got list"),
        ({"metadata.jsonl": '{"file_name": "p00.jpg", "tags": [3]}'}, r"line 1: tags must be a list .* got \[3\]"),
        ({"metadata.jsonl": '{"file_name": "../p00.jpg", "tags": []}'}, "leaves the picture folder"),
        ({"metadata.jsonl": '{"file_name": "a.jpg", "tags": ["cat"]}\n' * 2}, "line 2: 'a.jpg' is already on line 1"),
        ({"metadata.jsonl": '{"file_name": "none.jpg", "tags": ["cat"]}'}, r"line 1: .*'none\.jpg' is not there"),
        ({"metadata.csv": "file_name,tags\np00.jpg,", "classes.txt": ""}, "names no class"),
        ({"metadata.csv": "file_name,tags\np00.jpg,cta", "classes.txt": "cat"}, "line 2: unknown class 'cta'.*'cat'"),
        ({"metadata.csv": "file_name,tags\np00.jpg,"}, "has no tag at all"),
        ({"metadata.csv": "file_name,tags\n"}, "has no tag at all"),
        ({"metadata.csv": "file_name,tags\n", "classes.txt": "cat"}, "lists none in split 'train'"),
    ],
)
def test_metadata_errors(tmp_path: Path, files: dict[str, str], message: str) -> None:
    write_pictures(tmp_path)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        open_data(tmp_path)


def test_no_metadata(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"has no metadata\.csv"):
        open_data(tmp_path, data_format="hf-imagefolder")


# -- COCO --------------------------------------------------------------------------------------------------------------


def test_coco_agrees_with_pycocotools(tmp_path: Path) -> None:
    library = pytest.importorskip("pycocotools.coco")
    made.coco(tmp_path)
    theirs = library.COCO(str(tmp_path / "annotations" / "instances_default.json"))
    names = {
        image["file_name"]: tuple(
            sorted({theirs.cats[a["category_id"]]["name"] for a in theirs.imgToAnns[image["id"]]})
        )
        for image in theirs.imgs.values()
    }
    train, val = both(tmp_path)
    assert tags_of(train, val) == names
    assert train.classes == tuple(category["name"] for category in theirs.loadCats(theirs.getCatIds()))


def test_coco_splits_by_file_with_only_one_downloaded(tmp_path: Path) -> None:
    halves = {"train2017": dict(list(TAGS.items())[:8]), "val2017": dict(list(TAGS.items())[8:])}
    write_pictures(tmp_path / "train2017", halves["train2017"])
    for split, tags in halves.items():
        write_json(tmp_path / "annotations" / f"instances_{split}.json", made.coco_json(tags))
        write_json(tmp_path / "annotations" / f"captions_{split}.json", {**made.coco_json(tags), "categories": []})
        write_json(tmp_path / "annotations" / f"person_keypoints_{split}.json", made.coco_json({}))
    assert list_splits(tmp_path) == ("train", "val")
    train = open_data(tmp_path)
    assert tags_of(train) == {f"train2017/{name}": tags for name, tags in halves["train2017"].items()}
    with pytest.raises(MissingDataError, match=r"instances_val2017\.json image 100: .*'p08\.jpg' is not there"):
        open_data(tmp_path, split="val")
    write_pictures(tmp_path / "val2017", halves["val2017"])
    write_picture(
        tmp_path / "val2017" / "p00.jpg"
    )  # the same name in both folders: each file looks beside itself first
    assert len(open_data(tmp_path).pictures) == 8
    assert tags_of(open_data(tmp_path, split="val")) == {f"val2017/{n}": t for n, t in halves["val2017"].items()}


def test_coco_beside_its_pictures_in_split_folders(tmp_path: Path) -> None:
    for split in ("train", "valid"):  # as Roboflow exports
        write_pictures(tmp_path / split)
        write_json(tmp_path / split / "_annotations.coco.json", made.coco_json())
    train, val = both(tmp_path)
    assert train.data_format == "coco"
    assert list_splits(tmp_path) == ("train", "val")
    assert tags_of(train) == {f"train/{name}": tags for name, tags in TAGS.items()}
    assert tags_of(val) == {f"valid/{name}": tags for name, tags in TAGS.items()}


def test_years_that_tell_splits_apart_are_kept(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    for split in ("train2014", "train2017", "val2017"):
        write_json(tmp_path / f"instances_{split}.json", made.coco_json())
    assert list_splits(tmp_path) == ("train2014", "train2017", "val")


def coco_with(**changes: object) -> dict[str, object]:
    return {**made.coco_json(), **changes}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (coco_with(images=3), "images must be a list of objects"),
        (coco_with(categories=[1]), "categories must be a list of objects"),
        (coco_with(annotations=[{"id": 4, "image_id": 1, "category_id": 5}]), "annotation 4: there is no image .* 1"),
        (
            coco_with(annotations=[{"id": 4, "image_id": 100, "category_id": 6}]),
            "category with the id 6; .*5 horse, 12",
        ),
        (coco_with(annotations=[{"id": 4, "image_id": [], "category_id": 6}]), r"no image with the id \[\]"),
        (coco_with(images=[{"id": 1}], annotations=[]), "image 1: file_name must be text, got None"),
        (coco_with(images=[{"file_name": "p00.jpg"}], annotations=[]), "image 'p00.jpg' has no id"),
        (coco_with(images=[{"id": 1, "file_name": "p00.jpg"}] * 2, annotations=[]), "two images have the same id"),
        (
            coco_with(images=[{"id": i, "file_name": "p00.jpg"} for i in (1, 2)], annotations=[]),
            "image 2: 'p00.jpg' is already at .* image 1",
        ),
        (coco_with(images=[{"id": 1, "file_name": "/data/p00.jpg"}], annotations=[]), "leaves the picture folder"),
        (coco_with(images=[{"id": 1, "file_name": "/etc/p00.jpg"}], annotations=[]), "leaves the picture folder"),
        (coco_with(images=[], annotations=[], categories=[]), "has no tag at all"),
    ],
)
def test_coco_errors(tmp_path: Path, value: object, message: str) -> None:
    write_pictures(tmp_path / "images")
    write_json(tmp_path / "instances.json", value)
    with pytest.raises(DataError, match=message):
        open_data(tmp_path)


def test_not_coco(tmp_path: Path) -> None:
    write_pictures(tmp_path / "images")
    (tmp_path / "other.json").write_text('{"images": [')
    with pytest.raises(MissingDataError, match="has no COCO file"):
        open_data(tmp_path, data_format="coco")
    (tmp_path / "other.json").write_text('{"images": [], "annotations": [],\n "categories": [}')
    with pytest.raises(DataError, match=r"other\.json line 2: not valid JSON"):
        open_data(tmp_path)


def test_classes_txt_chooses_from_declared_classes(tmp_path: Path) -> None:
    made.coco(tmp_path)
    (tmp_path / "classes.txt").write_text("cat\nhorse\n")
    train, val = both(tmp_path)
    assert train.classes == ("cat", "horse")
    assert tags_of(train, val) == {name: tuple(t for t in tags if t != "dog") for name, tags in TAGS.items()}
    (tmp_path / "classes.txt").write_text("cat\nhorze\n")
    with pytest.raises(
        DataError, match=r"has no class 'horze'; its classes are horse, dog, cat\. Did you mean 'horse'"
    ):
        open_data(tmp_path)


# -- CVAT --------------------------------------------------------------------------------------------------------------


def test_cvat_shapes_count_only_without_any_tag(tmp_path: Path) -> None:
    write_pictures(tmp_path / "images")
    (tmp_path / "annotations.xml").write_text(made.cvat_xml("box"))
    assert tags_of(*both(tmp_path)) == TAGS
    assert "no image tags: the labels of its shapes are taken" in said(tmp_path, "shapes_as_tags").message
    (tmp_path / "annotations.xml").write_text(
        made.cvat_xml("box").replace('name="p03.jpg" width="8" height="6">', 'name="p03.jpg"><tag label="horse"/>')
    )
    assert tags_of(*both(tmp_path)) == {name: ("horse",) if name == "p03.jpg" else () for name in TAGS}


def test_cvat_subsets_are_splits(tmp_path: Path) -> None:
    text = made.cvat_xml()
    for i, name in enumerate(TAGS):
        subset = "Train" if i < 8 else "Validation"
        text = text.replace(f'name="{name}"', f'name="{name}" subset="{subset}"')
        write_picture(tmp_path / "images" / subset / name)
    (tmp_path / "annotations.xml").write_text(text)
    assert list_splits(tmp_path) == ("train", "val")
    assert list(tags_of(*both(tmp_path)).values()) == list(TAGS.values())
    assert open_data(tmp_path, split="val").pictures[0].name == "Validation/p08.jpg"
    (tmp_path / "annotations.xml").write_text(text.replace('"Train"', '"default"').replace('"Validation"', '"default"'))
    assert list_splits(tmp_path) == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("</annotations>", ""), r"annotations\.xml line \d+: not valid XML"),
        (('name="p00.jpg"', ""), "image 0: file_name must be the name of a picture"),
        (('name="p00.jpg"', 'name="../p00.jpg"'), "image 0: .*leaves the picture folder"),
        (('name="p00.jpg"', 'name="p99.jpg"'), r"image 0: .*'p99\.jpg' is not there"),
        (('<tag label="cat"', '<tag label="cow"'), "unknown class 'cow'|None"),
        (("<image ", '<track label="cat"></track><image '), "CVAT for video"),
    ],
)
def test_cvat_errors(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    write_pictures(tmp_path / "images")
    (tmp_path / "annotations.xml").write_text(made.cvat_xml().replace(*change))
    if "cow" in change[1]:  # a label that the task does not declare
        assert all("cow" not in tags for tags in tags_of(*both(tmp_path)).values())
        return
    with pytest.raises(DataError, match=message):
        open_data(tmp_path)


def test_not_cvat(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"no annotations\.xml of CVAT"):
        open_data(tmp_path, data_format="cvat")
    (tmp_path / "annotations.xml").write_text("<annotations></annotations>")
    with pytest.raises(DataError, match="has no <image>"):
        open_data(tmp_path)
    (tmp_path / "b.xml").write_text("<annotations></annotations>")
    with pytest.raises(DataError, match=r"annotations\.xml and b\.xml of CVAT\. Keep one"):
        open_data(tmp_path)


# -- Label Studio ------------------------------------------------------------------------------------------------------


def test_label_studio_regions_count_only_without_any_choice(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    tasks = []
    for name, tags in TAGS.items():
        results = [
            {"type": "rectanglelabels", "value": {"x": 1, "y": 1, "width": 9, "height": 9, "rectanglelabels": [tag]}}
            for tag in tags
        ]
        tasks.append({"data": {"image": name}, "annotations": [{"result": results}]})
    write_json(tmp_path / "tasks.json", tasks)
    assert tags_of(*both(tmp_path)) == TAGS
    choice = {"type": "choices", "value": {"choices": ["cat"]}}
    tasks[3]["annotations"][0]["result"].append(choice)  # type: ignore[index]
    write_json(tmp_path / "tasks.json", tasks)
    assert tags_of(*both(tmp_path)) == {name: ("cat",) if name == "p03.jpg" else () for name in TAGS}


def test_label_studio_classes_txt_may_leave_choices_out(tmp_path: Path) -> None:
    made.label_studio(tmp_path)
    (tmp_path / "classes.txt").write_text("zebra\ncat\n")
    train, val = both(tmp_path)
    assert train.classes == ("zebra", "cat")
    assert tags_of(train, val) == {name: tuple(t for t in tags if t == "cat") for name, tags in TAGS.items()}


def row(**fields: object) -> list[dict[str, object]]:
    return [{"image": "p00.jpg", "annotation_id": 1, **fields}]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([{"data": {"image": "p00.jpg"}, "annotations": 3}], "task 0: needs data and a list of annotations"),
        ([{"data": {"text": "a"}, "annotations": [{}]}], "task 0: no field holds a picture; fields: text"),
        ([{"data": {"image": "p00.jpg"}, "annotations": [{"result": 3}]}], "result must be a list of objects"),
        (
            [{"data": {"image": "p00.jpg"}, "annotations": [{"result": [{"value": {"choices": 3}}]}]}],
            "choices must be a list of class names, got 3",
        ),
        ([{"data": {"image": "data:image/png;base64,AA"}, "annotations": [{"result": []}]}], "has no tag at all"),
        (row(kind="cat", quality="good"), "which of kind, quality holds the choices"),
        (row(), "has no tag at all"),
        (
            row(image="https://host/x/none.jpg?s=1", choice="cat"),
            "is an address, and nothing is downloaded. Put none.jpg",
        ),
        (row(image="/data/upload/1/0a1b2c3d-none.jpg", choice="cat"), r"Put none\.jpg into"),
        (row(image="data:image/png;base64,AA", choice="cat"), "written into the file itself"),
        (row(image="../p00.jpg", choice="cat"), "leaves the picture folder"),
        ([3, {"annotations": 1}], "has no Label Studio export"),
    ],
)
def test_label_studio_errors(tmp_path: Path, value: object, message: str) -> None:
    write_pictures(tmp_path / "sub")
    write_json(tmp_path / "tasks.json", value)
    with pytest.raises(DataError, match=message):
        open_data(tmp_path, data_format="label-studio")


def test_label_studio_files_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="no Label Studio export"):
        open_data(tmp_path, data_format="label-studio")
    made.label_studio(tmp_path)
    (tmp_path / "b.csv").write_text('annotation_id,image,choice\n1,p00.jpg,"cat')
    with pytest.raises(DataError, match=r"project-1\.json and b\.csv of Label Studio"):
        open_data(tmp_path)
    (tmp_path / "project-1.json").unlink()
    with pytest.raises(DataError, match=r"b\.csv line 2: not valid csv"):
        open_data(tmp_path)


@pytest.mark.slow
def test_label_studio_as_its_own_converter_writes_it(tmp_path: Path) -> None:
    """The JSON export, written as JSON-MIN and CSV by Label Studio's own converter."""
    library = pytest.importorskip("label_studio_sdk.converter")
    write_json(tmp_path / "tasks.json", made.label_studio_tasks()[:-1])
    config = (
        '<View><Image name="image" value="$image"/><Choices name="choice" toName="image" choice="multiple">'
        + "".join(f'<Choice value="{name}"/>' for name in CLASSES)
        + "</Choices></View>"
    )
    converter = library.Converter(config=config, project_dir=None)
    for kind in ("JSON_MIN", "CSV"):
        out = tmp_path / kind
        converter.convert(str(tmp_path / "tasks.json"), str(out), kind, is_dir=False)
        write_pictures(out / "images")
        assert tags_of(*both(out)) == TAGS


# -- YOLO --------------------------------------------------------------------------------------------------------------


def test_yolo_splits_by_folder_as_ultralytics_and_roboflow_lay_them(tmp_path: Path) -> None:
    layouts = {"a": ("images/{}", "labels/{}", "images/{}"), "b": ("{}/images", "{}/labels", "../{}/images")}
    for root, (images, labels, value) in layouts.items():
        for split, names in (("train", list(TAGS)[:8]), ("valid", list(TAGS)[8:])):
            made.yolo(tmp_path / "all")
            write_pictures(tmp_path / root / images.format(split), names)
            for name in names:
                source = (tmp_path / "all" / "labels" / name).with_suffix(".txt")
                if source.is_file():
                    target = tmp_path / root / labels.format(split) / source.name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_text(source.read_text())
            shutil.rmtree(tmp_path / "all")
        text = f"train: {value.format('train')}\nval: {value.format('valid')}\ntest: {value.format('test')}\n"
        (tmp_path / root / "data.yaml").write_text(f"{text}nc: 3\nnames: ['horse', 'dog', 'cat']\n")
        train, val = both(tmp_path / root)
        assert (train.data_format, train.classes, len(train.pictures), len(val.pictures)) == ("yolo", CLASSES, 8, 4)
        assert {Path(name).name: tags for name, tags in tags_of(train, val).items()} == TAGS


def test_yolo_lists_and_classes_txt(tmp_path: Path) -> None:
    made.yolo(tmp_path)
    (tmp_path / "train.txt").write_text("".join(f"./images/{name}\n" for name in list(TAGS)[:8]))
    (tmp_path / "data.yaml").write_text(
        "train: train.txt\nval:\n- images/p08.jpg.d\nnames: {0: horse, 1: dog, 2: cat}\n"
    )
    assert tags_of(open_data(tmp_path)) == dict(list(TAGS.items())[:8])
    assert list_splits(tmp_path) == ("train",)
    (tmp_path / "data.yaml").unlink()
    (tmp_path / "classes.txt").write_text("horse\ndog\ncat\n")  # as Label Studio exports YOLO
    check(tmp_path, "yolo", CLASSES)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"labels/p00.txt": "3 0.5 0.5 1 1"}, r"p00\.txt line 1: there is no class 3; .*data\.yaml names 0 to 2"),
        (
            {"labels/p00.txt": "\n0 1 1 1 1\ncat 1"},
            r"p00\.txt line 3: must start with the number of a class, got 'cat'",
        ),
        ({"data.yaml": "names: 3"}, "names must be a list of class names"),
        ({"data.yaml": "names: {a: cat}"}, "names must be a list of class names"),
        ({"data.yaml": "names: [cat\n"}, r"data\.yaml: not valid YAML"),
        ({"data.yaml": "names: [horse, dog, cat]\ntrain: nowhere"}, "no folder or list 'nowhere' below"),
        ({"data.yaml": "", "a.yaml": "names: [a]", "b.yaml": "names: [a]"}, r"a\.yaml and b\.yaml of YOLO"),
        ({"data.yaml": ""}, r"neither data\.yaml with names nor classes\.txt"),
        (
            {"train.txt": "images/none.jpg", "data.yaml": "names: [a]\ntrain: train.txt"},
            r"train\.txt line 1: .*not there",
        ),
        ({"train.txt": "/abs/none.jpg", "data.yaml": "names: [a]\ntrain: train.txt"}, r"'/abs/none\.jpg' is not there"),
        ({"train.txt": "a/p00.jpg\nb/p00.jpg", "data.yaml": "names: [a]\ntrain: train.txt"}, "both mean images/p00"),
    ],
)
def test_yolo_errors(tmp_path: Path, files: dict[str, str], message: str) -> None:
    made.yolo(tmp_path)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        open_data(tmp_path)


def test_yolo_without_labels_or_pictures(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("names: [a]\n")
    with pytest.raises(MissingDataError, match="has no picture"):
        open_data(tmp_path)
    write_pictures(tmp_path / "images")
    with pytest.raises(MissingDataError, match=r"no label file, for example labels/p00\.txt"):
        open_data(tmp_path)


# -- Hugging Face data set on disk -------------------------------------------------------------------------------------


def hf_rows(root: Path, names: list[str], tags: list[object], kind: object = None, column: str = "tags") -> object:
    datasets = pytest.importorskip("datasets")
    write_pictures(root, names)
    data = datasets.Dataset.from_dict({"image": [str(root / name) for name in names], column: tags})
    data = data.cast_column("image", datasets.Image())
    return data if kind is None else data.cast_column(column, kind)


def test_hf_dataset_with_class_labels(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    kind = datasets.Features({"t": [datasets.ClassLabel(names=list(CLASSES))]})["t"]
    numbers = [[CLASSES.index(tag) for tag in tags] for tags in TAGS.values()]
    data = hf_rows(tmp_path / "pictures", list(TAGS), numbers, kind)
    data.save_to_disk(str(tmp_path / "data"))  # type: ignore[attr-defined]
    shutil.rmtree(tmp_path / "pictures")
    check(tmp_path / "data", "hf-dataset", CLASSES)
    train = open_data(tmp_path / "data")
    samples = TrainingPictures(train, AugmentConfig(crop_size=8), 8, (0, 0, 0), seed=0)
    assert {samples[n].name for n in range(len(train.pictures))} == {p.name for p in train.pictures}
    assert not any(samples[n].broken for n in range(len(train.pictures)))
    result = convert(tmp_path / "data", to="folder", out=tmp_path / "out", link=True)
    assert result.classes == CLASSES  # type: ignore[union-attr]
    assert tags_of(*both(tmp_path / "out")) == TAGS


def test_hf_dataset_dict_with_text_tags_shuffled(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    names = list(TAGS)
    train = hf_rows(tmp_path / "t", names[:8], [";".join(TAGS[name]) for name in names[:8]], column="labels")
    val = hf_rows(
        tmp_path / "v", ["p00.jpg", *names[8:]], [None, *(";".join(TAGS[n]) for n in names[8:])], column="labels"
    )
    both_splits = datasets.DatasetDict({"train": train.shuffle(seed=0), "validation": val})  # type: ignore[attr-defined]
    both_splits.save_to_disk(str(tmp_path / "data"))
    assert list_splits(tmp_path / "data") == ("train", "val")
    first, second = both(tmp_path / "data")
    assert first.classes == SORTED
    assert tags_of(first, second) == TAGS  # the row without tags is left out
    for picture in first.pictures:
        assert read_picture(picture.path).shape == made.pixels(picture.name).shape


def test_hf_dataset_of_images_without_file_names(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    images = [Image.fromarray(made.pixels(name)) for name in TAGS]
    labels = [CLASSES.index(made.SINGLE[n][0]) if TAGS[n] else -1 for n in TAGS]
    features = datasets.Features({"picture": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    datasets.Dataset.from_dict({"picture": images, "label": labels}, features).save_to_disk(str(tmp_path))
    train, val = both(tmp_path)
    expected = {f"{i:06d}.png": tags[:1] for i, tags in enumerate(TAGS.values()) if tags}
    assert tags_of(train, val) == expected
    for picture in (*train.pictures, *val.pictures):
        np.testing.assert_array_equal(read_picture(picture.path), made.pixels(f"p{picture.name[4:6]}.png"))


def test_hf_dataset_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    with pytest.raises(MissingDataError, match=r"has no dataset_dict\.json or state\.json"):
        open_data(tmp_path, data_format="hf-dataset")
    data = hf_rows(tmp_path / "p", ["p00.jpg"], ["cat"], column="caption")
    data.save_to_disk(str(tmp_path / "columns"))  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=r"needs a column of type Image and one called tags.*columns: image, caption"):
        open_data(tmp_path / "columns")
    data = hf_rows(tmp_path / "p", ["p00.jpg"], [[1, 0]])
    data.save_to_disk(str(tmp_path / "numbers"))  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=r"row 0: tags must be a list of class names.*got \[1, 0\]"):
        open_data(tmp_path / "numbers")
    (tmp_path / "numbers" / "state.json").write_text("{}")
    with pytest.raises(DataError, match="cannot be read as a Hugging Face data set"):
        open_data(tmp_path / "numbers")
    write_json(tmp_path / "bad" / "dataset_dict.json", {"splits": ["../p"]})
    with pytest.raises(DataError, match="leaves the picture folder"):
        open_data(tmp_path / "bad")
    write_json(tmp_path / "bad" / "dataset_dict.json", [])
    with pytest.raises(DataError, match="must name splits"):
        open_data(tmp_path / "bad")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r'pip install "tag2mask\[hf\]"'):
        open_data(tmp_path / "columns")


# -- what all share ----------------------------------------------------------------------------------------------------


def test_two_formats_in_one_folder(tmp_path: Path) -> None:
    made.coco(tmp_path)
    made.yolo(tmp_path)
    with pytest.raises(DataError, match=r"files of coco and of yolo\. Say which to read with data_format"):
        open_data(tmp_path)
    assert open_data(tmp_path, data_format="yolo").data_format == "yolo"
    (tmp_path / "tags.csv").write_text("file_name,tags\np00.jpg,cat\n")
    assert open_data(tmp_path).data_format == "folder"


def test_a_file_is_not_a_data_set(tmp_path: Path) -> None:
    write_json(tmp_path / "instances.json", made.coco_json())
    with pytest.raises(MissingDataError, match=r"instances\.json is a file\. data takes the folder"):
        open_data(tmp_path / "instances.json")


def test_split_lists_and_masks_work_in_every_format(tmp_path: Path) -> None:
    made.coco(tmp_path)
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "train.txt").write_text("p05.jpg\np00.jpg\n")
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.array([[0, 1, 255], [3, 3, 9]], np.uint8)).save(tmp_path / "masks" / "p05.png")
    train = open_data(tmp_path)
    assert [(p.name, p.mask) for p in train.pictures] == [
        ("p05.jpg", tmp_path / "masks" / "p05.png"),
        ("p00.jpg", None),
    ]
    (tmp_path / "splits" / "train.txt").write_text("p05.jpg\n")
    assert tags_of(open_data(tmp_path, tags_from="masks")) == {"p05.jpg": ("cat", "horse")}
    result = convert(tmp_path, to="folder", out=tmp_path / "out")
    assert (result.num_masks, result.splits) == (1, {"train": 1})  # type: ignore[union-attr]
    after = open_data(tmp_path / "out")
    assert after.has_masks
    np.testing.assert_array_equal(np.array(Image.open(after.pictures[0].mask)), [[0, 1, 255], [3, 3, 255]])


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_links_that_leave_the_folder_are_refused(tmp_path: Path, kind: str) -> None:
    write_pictures(tmp_path / "elsewhere")
    root = tmp_path / "data"
    write_json(root / "instances.json", made.coco_json())
    if kind == "folder":
        (root / "photos").symlink_to(tmp_path / "elsewhere")
    else:
        write_pictures(root / "images", list(TAGS)[1:])
        (root / "images" / "p00.jpg").symlink_to(tmp_path / "elsewhere" / "p00.jpg")
    with pytest.raises(DataError, match=r"p00\.jpg is a link that leaves the data folder"):
        open_data(root)
    (tmp_path / "classes").mkdir()
    (tmp_path / "classes" / "cat").symlink_to(tmp_path / "elsewhere")
    write_picture(tmp_path / "classes" / "dog" / "p01.jpg")
    with pytest.raises(DataError, match=r"cat is a link that leaves the data folder"):
        open_data(tmp_path / "classes")


def test_links_that_stay_in_the_folder_are_fine(tmp_path: Path) -> None:
    made.coco(tmp_path)
    (tmp_path / "images").rename(tmp_path / "jpg")
    (tmp_path / "images").symlink_to(tmp_path / "jpg")
    assert tags_of(*both(tmp_path)) == {f"jpg/{name}": tags for name, tags in TAGS.items()}


def test_a_name_that_could_be_two_pictures(tmp_path: Path) -> None:
    write_json(tmp_path / "instances.json", made.coco_json())
    write_pictures(tmp_path / "a")
    write_picture(tmp_path / "b" / "p00.jpg")
    with pytest.raises(DataError, match=r"'p00\.jpg' could be a/p00\.jpg or b/p00\.jpg"):
        open_data(tmp_path)


def test_opening_reads_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a picture was opened")

    monkeypatch.setattr(Image, "open", refuse)
    for name, (_, write) in WRITERS.items():
        write(tmp_path / name)
        for path in (tmp_path / name).rglob("p*.*g"):
            path.write_bytes(b"")
        both(tmp_path / name)


def test_settings_know_every_format() -> None:
    assert TrainConfig.preset("small", data="x", data_format="coco").data_format == "coco"
    with pytest.raises(ValueError, match=r"data_format must be one of auto, folder, voc, .*, got 'pascal'"):
        TrainConfig.from_json(TrainConfig.preset("small").to_json().replace('"auto"', '"pascal"', 1))


# -- convert -----------------------------------------------------------------------------------------------------------


def test_convert_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made.coco(tmp_path / "in")
    arguments = ["convert", str(tmp_path / "in"), "--to", "folder", "--out", str(tmp_path / "out")]
    assert main([*arguments, "--link", "--data-format", "coco", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["num_images"], result["classes"], result["data_format"]) == (12, list(CLASSES), "coco")
    assert (tmp_path / "in/images/p00.jpg").samefile(tmp_path / "out/images/p00.jpg")
    assert main(arguments) == 1
    assert "exists" in capsys.readouterr().err
    assert main([*arguments[:-1], str(tmp_path / "again")]) == 0
    assert f"next: tag2mask train small --data {tmp_path / 'again'}" in capsys.readouterr().out
    assert not (tmp_path / "in/images/p00.jpg").samefile(tmp_path / "again/images/p00.jpg")


def test_reading_and_converting_import_no_torch(tmp_path: Path) -> None:
    made.coco(tmp_path / "in")
    code = (
        "import sys\nfrom tag2mask.cli import main\n"
        f"code = main(['convert', {str(tmp_path / 'in')!r}, '--to', 'folder', '--out', {str(tmp_path / 'out')!r}])\n"
        "sys.exit(9 if {'torch', 'torchvision', 'datasets'} & set(sys.modules) else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_convert_keeps_splits_and_class_order(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        write_pictures(tmp_path / "in" / split)
        write_json(tmp_path / "in" / split / "_annotations.coco.json", made.coco_json())
    convert(tmp_path / "in", to="folder", out=tmp_path / "out")
    assert list_splits(tmp_path / "out") == ("test", "train", "val")
    assert open_data(tmp_path / "out", split="val").classes == CLASSES
    convert(tmp_path / "in", to="folder", out=tmp_path / "some", splits=["val"])
    assert list(tags_of(open_data(tmp_path / "some", split="val"))) == [f"valid/{name}" for name in TAGS]
    with pytest.raises(SplitError, match="no split 'dev'"):
        convert(tmp_path / "in", to="folder", out=tmp_path / "none", splits=["dev"])


def test_convert_a_voc_tree(tmp_path: Path) -> None:
    for folder in ("ImageSets/Segmentation", "SegmentationClass"):
        (tmp_path / "in" / folder).mkdir(parents=True)
    write_pictures(tmp_path / "in/JPEGImages", ("p00.jpg", "p01.jpg"))
    (tmp_path / "in/ImageSets/Segmentation/train.txt").write_text("p00\n")
    (tmp_path / "in/ImageSets/Segmentation/val.txt").write_text("p01\n")
    (tmp_path / "in/tags.csv").write_text("file_name,tags\np00.jpg,dog\np01.jpg,\n")
    (tmp_path / "in/classes.txt").write_text("cat\ndog\n")
    Image.fromarray(np.array([[0, 8, 12, 15, 255]], np.uint8)).save(tmp_path / "in/SegmentationClass/p01.png")
    convert(tmp_path / "in", to="folder", out=tmp_path / "out")
    val = open_data(tmp_path / "out", split="val", need_tags=False)
    assert tags_of(open_data(tmp_path / "out"), val) == {"p00.jpg": ("dog",), "p01.jpg": ()}
    mask = Image.open(val.pictures[0].mask)
    assert mask.mode == "P"
    np.testing.assert_array_equal(np.array(mask), [[0, 1, 2, 255, 255]])


def test_class_names_with_odd_characters_survive_convert(tmp_path: Path) -> None:
    names = ("a;b", 'say "hi"', "x,y", "größe")
    for name, picture in zip(names, TAGS, strict=False):
        write_picture(tmp_path / "in" / name / picture)
    before = tags_of(*both(tmp_path / "in"))
    convert(tmp_path / "in", to="folder", out=tmp_path / "out")
    assert tags_of(*both(tmp_path / "out")) == before
    (tmp_path / "in" / "x,y").rename(tmp_path / "in" / "two\nlines")
    with pytest.raises(DataError, match="has a line break"):
        convert(tmp_path / "in", to="folder", out=tmp_path / "lines")


def test_a_conversion_that_fails_leaves_nothing(tmp_path: Path) -> None:
    made.coco(tmp_path / "in")
    (tmp_path / "in" / "masks").mkdir()
    (tmp_path / "in" / "masks" / "p05.png").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"p05\.png cannot be read as a mask"):
        convert(tmp_path / "in", to="folder", out=tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
