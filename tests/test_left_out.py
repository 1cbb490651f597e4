"""What is left out of a data set, or taken for what it may not be, is counted and named: by `check`, in the log of a
training and in --json, in every format, as the table of docs/data.md has it."""

from __future__ import annotations

import io
import json
import re
import shutil
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import data_formats as made
import pytest
from data_formats import CLASSES, TAGS, write_json, write_picture, write_pictures

from tag2mask import cli
from tag2mask.data import DataError, MissingDataError, detect_format, list_splits, open_data
from tag2mask.data.findings import Finding
from tag2mask.data.readers.webdataset import read_shard

DATA_PAGE = Path(__file__).parents[1] / "docs" / "data.md"
STEPS = [
    *("--backbone", "test_efficientnet", "--weights", "none", "--image-size", "32", "--augment.crop-size", "32"),
    *("--batch-size", "2", "--joint-batch-size", "2", "--tag-steps", "1", "--joint-steps", "1", "--workers", "0"),
    *("--sample-every", "0", "--trackers"),
]


def tags_of(root: Path, **options: object) -> dict[str, tuple[str, ...]]:
    """Tags of the pictures of all splits, or of the halves by hash."""
    splits = list_splits(root, **options) or ("train", "val")
    sets = [open_data(root, split=split, need_tags=False, **options) for split in splits]
    return {p.name: tuple(sorted(each.classes[i] for i in p.tags)) for each in sets for p in each.pictures}


def findings(root: Path, **options: object) -> dict[str, Finding]:
    """Findings by code; none comes twice."""
    splits = list_splits(root, **options) or ("train",)
    found = open_data(root, split=splits[0], need_tags=False, **options).findings
    assert len({each.code for each in found}) == len(found)
    return {each.code: each for each in found}


def call(capsys, *words: object) -> dict[str, object]:
    """The object that a command prints with --json; it must end well."""
    code = cli.main([*map(str, words), "--json"])
    told = capsys.readouterr()
    assert code == 0, told.err
    return json.loads(told.out)


# -- data sets in which something is left out --------------------------------------------------------------------------


def one_more_picture(folder: Path) -> None:
    write_picture(folder / "p99.jpg")


def plain_folder(root: Path) -> None:
    made.plain_folder(root)
    one_more_picture(root / "images")


def imagefolder(root: Path) -> None:
    """A picture in no class folder, a class folder of files that nobody reads, one that is called like results."""
    made.imagefolder(root)
    one_more_picture(root)
    (root / "bird").mkdir()
    (root / "bird" / "a.raw").write_bytes(b"x")
    write_picture(root / "predictions" / "p98.jpg")


def metadata(root: Path) -> None:
    made.metadata_csv(root)
    one_more_picture(root)


def voc(root: Path) -> None:
    """A picture of the list without XML file, one in no list, an id twice, a class that classes.txt leaves out."""
    made.voc_tree(root)
    shutil.copy(root / "JPEGImages" / "p03.jpg", root / "JPEGImages" / "p03.jpeg")
    one_more_picture(root / "JPEGImages")
    (root / "classes.txt").write_text("\n".join(CLASSES))
    (root / "Annotations" / "p01.xml").unlink()
    file = root / "Annotations" / "p02.xml"
    file.write_text(file.read_text().replace("<name>cat<", "<name>bird<"))


def coco(root: Path) -> None:
    """Two empty pictures, one more file, captions, two ids for cat; classes.txt leaves out dog."""
    made.coco(root)
    one_more_picture(root / "images")
    content = made.coco_json()
    content["categories"].append({"id": 99, "name": "cat"})  # type: ignore[attr-defined]
    write_json(root / "annotations" / "instances_default.json", content)
    write_json(root / "annotations" / "captions_default.json", {**made.coco_json(), "categories": []})
    (root / "classes.txt").write_text("horse\ncat")


def cvat_with(*tags: str) -> str:
    """Boxes, and image tags on p03.jpg, which has no box."""
    told = "".join(f'<tag label="{tag}"/>' for tag in tags)
    text = made.cvat_xml("box").replace('name="p03.jpg" width="8" height="6">', f'name="p03.jpg">{told}')
    return text.replace("<labels>", "<labels><label><name>blurry</name></label>")


def cvat(root: Path) -> None:
    """One picture with a stray tag and one that the task does not declare, ten with boxes, one in no task."""
    write_pictures(root / "images", [*TAGS, "p99.jpg"])
    (root / "annotations.xml").write_text(cvat_with("blurry", "cow"))
    (root / "splits").mkdir()
    (root / "splits" / "train.txt").write_text("\n".join(TAGS))


def cvat_of_shapes(root: Path) -> None:
    made.cvat(root)
    (root / "annotations.xml").write_text(made.cvat_xml("box"))


def result(control: str, kind: str, **value: object) -> dict[str, object]:
    return {"from_name": control, "to_name": "image", "type": kind, "value": value}


def box(label: str) -> dict[str, object]:
    return result("box", "rectanglelabels", x=1, y=1, width=9, height=9, rectanglelabels=[label])


def task(number: int, name: str, *results: dict[str, object], **more: object) -> dict[str, object]:
    return {"id": number, "data": {"image": name}, "annotations": [{"id": number, "result": list(results)}], **more}


def studio_tasks(with_choices: bool = True) -> list[dict[str, object]]:
    """Boxes, and on every picture the choices of quality; one more picture with a prediction only, one skipped."""
    tasks = []
    for i, (name, tags) in enumerate(TAGS.items()):
        choices = [result("quality", "choices", choices=["good" if i % 2 else "bad"])] if with_choices else []
        tasks.append(task(i, name, *choices, *map(box, tags), result("stars", "rating", rating=3)))
    tasks.append({"id": 90, "data": {"image": "p90.jpg"}, "annotations": [], "predictions": [{"result": [box("cat")]}]})
    tasks.append({"id": 91, "data": {"image": "p91.jpg"}, "annotations": [{"was_cancelled": True, "result": []}]})
    return tasks


def label_studio(root: Path) -> None:
    write_pictures(root / "images", [*TAGS, "p90.jpg", "p91.jpg", "p99.jpg"])
    tasks = studio_tasks()
    tasks[0]["annotations"][0]["result"].append(result("place", "choices", choices=["zoo"]))  # type: ignore[index]
    write_json(root / "tasks.json", tasks)
    (root / "classes.txt").write_text("good\nbad")


def label_studio_of_shapes(root: Path) -> None:
    write_pictures(root / "images", [*TAGS, "p90.jpg", "p91.jpg"])
    write_json(root / "tasks.json", studio_tasks(with_choices=False))


def yolo(root: Path) -> None:
    """Two pictures without label file, a label file without picture, a split and a folder that data.yaml misses."""
    made.yolo(root)
    one_more_picture(root / "more")
    (root / "labels" / "gone.txt").write_text("0 0.5 0.5 1 1\n")
    (root / "data.yaml").write_text("train: images\nval: ../elsewhere\nnames: [horse, dog, cat, cat]\n")
    (root / "classes.txt").write_text("cat\nhorse\n")


def hf_dataset(root: Path) -> None:
    datasets = pytest.importorskip("datasets")
    write_pictures(root.with_name("loose"))
    numbers = [CLASSES.index(tags[0]) if tags else -1 for tags in TAGS.values()]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    rows = {"image": [str(root.with_name("loose") / name) for name in TAGS], "label": numbers}
    datasets.Dataset.from_dict(rows, features).save_to_disk(str(root))
    (root / "classes.txt").write_text("cat\nhorse")


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def shard_members(suffix: str = "", tag_suffix: str = "") -> tuple[list[tuple[str, bytes]], list[tuple[str, bytes]]]:
    """(pictures, tags) of the twelve, as members KEY.SUFFIXjpg and KEY.TAG_SUFFIXtxt."""
    pictures, tags = [], []
    for name, each in TAGS.items():
        key, kind = name.split(".")
        buffer = io.BytesIO()
        made.Image.fromarray(made.pixels(name)).save(buffer, "PNG")
        pictures.append((f"{key}.{suffix}{kind}", buffer.getvalue()))
        tags.append((f"{key}.{tag_suffix}txt", ";".join(each).encode()))
    return pictures, tags


def webdataset(root: Path) -> None:
    """All pictures, then all tags: two have none, one belongs to no picture; and captions beside."""
    pictures, tags = shard_members()
    more = [("gone.txt", b"cat"), ("p00.caption.txt", b"a cat; on a mat"), ("p01.meta.json", b'{"width": 8}')]
    write_tar(root / "0.tar", [*pictures, *tags[2:], *more, ("p00.txt", b"cat")])
    one_more_picture(root)


Writer = Callable[[Path], None]
LEFT_OUT: dict[str, list[tuple[Writer, list[str], set[str]]]] = {
    "folder": [(plain_folder, [], {"missing_tags"})],
    "voc": [(voc, ["--unlabeled", "skip"], {"unlabeled", "unlisted", "other_tags", "same_id"})],
    "imagefolder": [(imagefolder, [], {"outside_classes", "empty_folders", "odd_classes"})],
    "hf-imagefolder": [(metadata, [], {"unlisted"})],
    "coco": [(coco, [], {"same_name", "other_files", "unlisted", "other_tags", "unlabeled"})],
    "cvat": [
        (cvat, [], {"both_kinds", "unlisted", "other_tags", "unlabeled"}),
        (cvat_of_shapes, [], {"shapes_as_tags"}),
    ],
    "label-studio": [
        (label_studio, [], {"both_kinds", "several_controls", "unread", "unlabeled", "unlisted", "other_tags"}),
        (label_studio_of_shapes, [], {"shapes_as_tags"}),
    ],
    "yolo": [(yolo, [], {"same_name", "without_picture", "missing_split", "unlisted", "other_tags", "unlabeled"})],
    "hf-dataset": [(hf_dataset, [], {"unlabeled", "other_tags"})],
    "webdataset": [(webdataset, [], {"unlabeled", "without_picture", "unread", "unlisted"})],
}
"""By format: data sets, options of the commands, and the codes of all that is counted."""


def page_rows() -> dict[str, set[str]]:
    """The codes of each format in the table of docs/data.md."""
    known = set(re.findall(r"^\| `(\w+)`", (DATA_PAGE.parent / "check.md").read_text(encoding="utf-8"), re.MULTILINE))
    text = DATA_PAGE.read_text(encoding="utf-8").partition("| format | taken | left out")[2]
    lines = [line for line in text.partition("\n\n")[0].splitlines() if line.startswith("| `")]
    rows = {line.split("`")[1]: set(re.findall(r"`(\w+)`", line)) & known for line in lines}
    assert len(rows) == 10
    return rows


@pytest.mark.parametrize("data_format", LEFT_OUT)
def test_the_page_names_all_that_is_counted(data_format: str) -> None:
    assert page_rows()[data_format] == set().union(*(codes for _, _, codes in LEFT_OUT[data_format]))


@pytest.mark.parametrize(
    ("data_format", "number"), [(each, i) for each in LEFT_OUT for i in range(len(LEFT_OUT[each]))]
)
def test_left_out_is_counted_everywhere(data_format: str, number: int, tmp_path: Path, capsys) -> None:
    """`check`, `convert` and a training say the same findings, with count and names."""
    if data_format == "hf-dataset":
        pytest.importorskip("datasets")
    write, options, codes = LEFT_OUT[data_format][number]
    write(tmp_path / "data")
    report = call(capsys, "check", tmp_path / "data", *options)
    assert report["data_format"] == data_format
    told = {each["code"]: each for each in report["findings"]}
    assert codes <= told.keys()
    for code in codes:
        assert told[code]["count"] >= len(told[code]["names"]) > 0
        assert re.search(r"\d|no image tags", told[code]["message"])
        assert told[code]["cure"]
    converted = call(capsys, "convert", tmp_path / "data", "--to", "folder", "--out", tmp_path / "out", *options)
    messages = {each["message"] for each in converted["findings"]}
    words = ["train", "small", "--data", tmp_path / "data", "--out", tmp_path / "run", *STEPS, *options]
    assert cli.main([*map(str, words)]) == 0
    log = (tmp_path / "run" / "log.txt").read_text(encoding="utf-8")
    about = json.loads((tmp_path / "run" / "environment.json").read_text(encoding="utf-8"))
    kept = {each["message"] for split in about["data"].values() for each in split["findings"]}
    for code in codes:
        assert told[code]["message"] in messages & kept
        assert told[code]["message"] in log
    capsys.readouterr()


# -- unlabeled, or empty -----------------------------------------------------------------------------------------------


def test_unlabeled_pictures_are_negatives_or_left_out(tmp_path: Path) -> None:
    """The format's own way, then both others: which of the pictures without labels are there."""
    for name, write, lacking, auto in (
        ("voc", voc, {"p01.jpg"}, None),
        ("coco", made.coco, {"p03.jpg", "p10.jpg"}, True),
        ("cvat", made.cvat, {"p03.jpg", "p10.jpg"}, True),
        ("label-studio", label_studio, {"p90.jpg", "p91.jpg"}, False),
        ("yolo", made.yolo, {"p03.jpg", "p10.jpg"}, True),
        ("webdataset", webdataset, {"p01.jpg"}, False),
    ):
        root = tmp_path / name
        write(root)
        if auto is None:
            with pytest.raises(MissingDataError, match=r"p01\.xml.*unlabeled='skip' or unlabeled='negative'"):
                open_data(root)
        else:
            assert lacking <= tags_of(root).keys() if auto else not lacking & tags_of(root).keys()
            assert findings(root)["unlabeled"].count == len(lacking)
        assert not lacking & tags_of(root, unlabeled="skip").keys()
        negatives = tags_of(root, unlabeled="negative")
        assert [negatives[each] for each in sorted(lacking)] == [()] * len(lacking)
        for value, word in (("skip", "left out"), ("negative", "taken as negatives")):
            told = findings(root, unlabeled=value)["unlabeled"]
            assert (told.severity, told.count) == ("note", len(lacking))
            assert word in told.message


def test_a_huge_share_without_labels_is_a_warning(tmp_path: Path) -> None:
    made.yolo(tmp_path / "yolo")
    assert findings(tmp_path / "yolo")["unlabeled"].severity == "warning"
    for name in ("p03", "p10"):
        (tmp_path / "yolo" / "labels" / f"{name}.txt").write_text("")
    assert "unlabeled" not in findings(tmp_path / "yolo")
    made.coco(tmp_path / "coco")
    assert findings(tmp_path / "coco")["unlabeled"].severity == "note"
    write_json(tmp_path / "coco" / "annotations" / "instances_default.json", made.coco_json(dict.fromkeys(TAGS, ())))
    assert findings(tmp_path / "coco")["unlabeled"].severity == "warning"


@pytest.mark.parametrize("write", [made.plain_folder, made.imagefolder, made.metadata_csv])
def test_options_that_mean_nothing_are_refused(tmp_path: Path, write: Writer) -> None:
    write(tmp_path)
    for options, message in (
        ({"unlabeled": "skip"}, "unlabeled='skip' is for voc, .*Leave it out"),
        ({"tags_from": "shapes"}, "tags_from='shapes' is for .* has no shapes. Leave it out"),
    ):
        with pytest.raises(DataError, match=message):
            open_data(tmp_path, **options)


def test_voc_shapes_or_table(tmp_path: Path) -> None:
    made.voc_tree(tmp_path)
    (tmp_path / "tags.csv").write_text("file_name,tags\n" + "".join(f"{name},cat\n" for name in TAGS))
    assert set(tags_of(tmp_path).values()) == {("cat",)}
    assert tags_of(tmp_path, tags_from="shapes") == TAGS
    shutil.rmtree(tmp_path / "Annotations")
    with pytest.raises(MissingDataError, match=r"no Annotations/\*\.xml\. Leave tags_from='shapes' out"):
        open_data(tmp_path, tags_from="shapes")


# -- tags and shapes ---------------------------------------------------------------------------------------------------


def test_one_stray_tag_does_not_hide_the_shapes_silently(tmp_path: Path) -> None:
    write_pictures(tmp_path / "images")
    (tmp_path / "annotations.xml").write_text(cvat_with("blurry"))
    told = findings(tmp_path)["both_kinds"]
    assert (told.severity, told.count) == ("warning", 10)
    assert "1 of 12 pictures with image tags (blurry 1), 10 with shapes (cat 5, dog 5, horse 4)" in told.message
    assert tags_of(tmp_path, tags_from="shapes") == TAGS
    told = findings(tmp_path, tags_from="shapes")["both_kinds"]
    assert (told.severity, told.names) == ("note", ("p03.jpg",))
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "train.txt").write_text("p00.jpg\np01.jpg\n")
    with pytest.raises(DataError, match=r"none of the 2 pictures .* has a tag .*10 with shapes .*tags_from='shapes'"):
        open_data(tmp_path)


def test_tags_and_shapes_that_agree_are_a_note(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    tasks = [
        task(i, name, *map(box, tags), result("kind", "choices", choices=list(tags)))
        for i, (name, tags) in enumerate(TAGS.items())
    ]
    write_json(tmp_path / "tasks.json", tasks)
    told = findings(tmp_path)["both_kinds"]
    assert (told.severity, tags_of(tmp_path)) == ("note", TAGS)
    assert "they agree" in told.message


@pytest.mark.parametrize("kind", ["polygonlabels", "brushlabels", "keypointlabels", "ellipselabels"])
def test_quality_beside_regions_of_any_kind(tmp_path: Path, kind: str) -> None:
    write_pictures(tmp_path)
    tasks = []
    for i, (name, tags) in enumerate(TAGS.items()):
        regions = [result("region", kind, **{kind: [tag]}) for tag in tags]
        tasks.append(task(i, name, result("quality", "choices", choices=["good"]), *regions))
    write_json(tmp_path / "tasks.json", tasks)
    told = findings(tmp_path)["both_kinds"]
    assert (told.severity, told.count) == ("warning", 10)
    assert tags_of(tmp_path, tags_from="shapes") == TAGS


def test_quality_beside_boxes_in_json_min(tmp_path: Path) -> None:
    """Choices there are plain text, in a field of any name."""
    rows = [
        {"image": name, "box": [{"rectanglelabels": [tag]} for tag in tags], "quality": "good", "annotation_id": i}
        for i, (name, tags) in enumerate(TAGS.items())
    ]
    rows.append({"image": "p99.jpg", "annotation_id": None})
    write_pictures(tmp_path)
    write_json(tmp_path / "tasks.json", rows)
    assert tags_of(tmp_path) == TAGS
    told = findings(tmp_path)
    assert (told["unread"].severity, told["unread"].names) == ("warning", ("quality",))
    assert told["unlabeled"].names == ("p99.jpg",)


def test_shapes_are_decided_for_all_files_together(tmp_path: Path) -> None:
    """A stray choice in one file must not make the splits speak of different things."""
    tasks = studio_tasks(with_choices=False)
    for split, half in (("train", tasks[:6]), ("val", tasks[6:12])):
        write_pictures(tmp_path / split, [each["data"]["image"] for each in half])  # type: ignore[index]
        write_json(tmp_path / split / "tasks.json", half)
    assert {Path(name).name: tags for name, tags in tags_of(tmp_path).items()} == TAGS
    tasks[0]["annotations"][0]["result"].append(result("q", "choices", choices=["good"]))  # type: ignore[index]
    write_json(tmp_path / "train" / "tasks.json", tasks[:6])
    assert set(tags_of(tmp_path).values()) == {(), ("good",)}
    assert findings(tmp_path)["both_kinds"].count == 10


def test_no_shapes_to_take(tmp_path: Path) -> None:
    made.cvat(tmp_path)
    with pytest.raises(DataError, match=r"has no shape with a label\. Leave tags_from='shapes' out"):
        open_data(tmp_path, tags_from="shapes")


def test_several_controls_and_the_cure(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    tasks = [
        task(i, name, result("animal", "choices", choices=list(tags)), result("quality", "choices", choices=["good"]))
        for i, (name, tags) in enumerate(TAGS.items())
    ]
    write_json(tmp_path / "tasks.json", tasks)
    assert findings(tmp_path)["several_controls"].names == ("animal: cat 5, dog 5, horse 4", "quality: good 12")
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    assert tags_of(tmp_path) == TAGS
    assert findings(tmp_path)["other_tags"].names == ("good: 12 pictures",)


def test_results_that_are_not_read(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    tasks = [task(0, "p00.jpg", result("kind", "choices", choices=["cat"]), result("stars", "rating", rating=3))]
    tasks.append(task(1, "p01.jpg", result("tree", "taxonomy", taxonomy=[["animal", "dog"]])))
    write_json(tmp_path / "tasks.json", tasks)
    told = findings(tmp_path)["unread"]
    assert (told.severity, told.names) == ("warning", ("p01.jpg",))
    assert "rating 1, taxonomy 1" in told.message


def test_predictions_alone_are_no_tags(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    tasks = [{"id": 1, "data": {"image": name}, "annotations": [], "predictions": [{"result": []}]} for name in TAGS]
    write_json(tmp_path / "tasks.json", tasks)
    with pytest.raises(
        DataError, match=r"no tag at all.*12 of 12 .* \(12 of them with predictions, which are not read"
    ):
        open_data(tmp_path)


# -- shards ------------------------------------------------------------------------------------------------------------


def test_members_are_grouped_wherever_they_lie(tmp_path: Path) -> None:
    pictures, tags = shard_members()
    for name, members in (
        ("apart", [*pictures, *tags]),
        ("tags first", [*reversed(tags), *pictures]),
        ("mixed", [*pictures[::2], *tags[1::2], *pictures[1::2], *tags[::2]]),
    ):
        write_tar(tmp_path / name / "0.tar", members)
        assert tags_of(tmp_path / name) == TAGS
        assert findings(tmp_path / name) == {}


@pytest.mark.parametrize(
    ("suffix", "tag_suffix"), [("input.", ""), ("input.", "input."), ("input.", "label."), ("", "tags.")]
)
def test_names_with_several_dots(tmp_path: Path, suffix: str, tag_suffix: str) -> None:
    pictures, tags = shard_members(suffix, tag_suffix)
    write_tar(tmp_path / "0.tar", [*pictures, *tags])
    assert {name.partition(".")[0]: each for name, each in tags_of(tmp_path).items()} == {
        name.partition(".")[0]: each for name, each in TAGS.items()
    }


def test_pictures_without_tags_say_what_was_there(tmp_path: Path) -> None:
    webdataset(tmp_path)
    told = findings(tmp_path)
    assert told["unlabeled"].message.endswith("1 of 12 pictures without tags (beside them: meta.json 1): left out.")
    assert told["without_picture"].names == ("0.tar/gone.txt",)
    assert told["unread"].names == ("caption.txt: 1",)
    write_tar(tmp_path / "b" / "0.tar", [("a.input.jpg", b"x"), ("a.target.png", b"x"), ("a.txt", b"cat")])
    with pytest.raises(DataError, match=r"sample a has the pictures input\.jpg, target\.png.*up to the first dot"):
        open_data(tmp_path / "b")
    write_tar(tmp_path / "c" / "0.tar", [("a.jpg", b"x"), ("a.txt", b"cat"), ("a.jpg", b"y")])
    with pytest.raises(DataError, match=r"has the member 'a\.jpg' twice"):
        open_data(tmp_path / "c")
    pictures, _ = shard_members()
    write_tar(tmp_path / "d" / "0.tar", [*pictures, *((name + ".json", b"{}") for name, _ in pictures)])
    with pytest.raises(DataError, match=r"no tag at all.*12 of 12 pictures without tags \(beside them: "):
        open_data(tmp_path / "d")


@pytest.mark.parametrize("unknown", [("p00.cls", b"-1"), ("p00.json", b'{"label": "cat"}')])
def test_tags_that_are_not_known(tmp_path: Path, unknown: tuple[str, bytes]) -> None:
    pictures, tags = shard_members()
    write_tar(tmp_path / "0.tar", [*pictures, *tags[1:], unknown])
    assert findings(tmp_path)["unlabeled"].names == ("p00.jpg",)
    assert tags_of(tmp_path, unlabeled="negative") == {**TAGS, "p00.jpg": ()}


def test_a_shard_of_many_members_takes_little_memory(tmp_path: Path) -> None:
    """Only offsets are kept until the end of the shard, in the worst order too."""
    count = 800
    names = [f"{i:06d}" for i in range(count)]
    shard = write_tar(tmp_path / "0.tar", [(f"{n}.jpg", b"x") for n in names] + [(f"{n}.txt", b"cat") for n in names])
    tracemalloc.start()
    samples = sum(1 for _ in read_shard(shard))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert samples == count
    assert peak < 900 * count


# -- YOLO --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("names: [yes, no, null]", ("yes", "no", "null")),
        ("names:\n- on\n- off\n- ~", ("on", "off", "~")),
        ("names: {0: 1.0, 1: 007, 2: 2020-01-01}", ("1.0", "007", "2020-01-01")),
        ("names:\n  2: 'n'\n  0: True\n  1: 0x1F", ("True", "0x1F", "n")),
    ],
)
def test_names_are_read_as_written(tmp_path: Path, text: str, names: tuple[str, ...]) -> None:
    made.yolo(tmp_path)
    (tmp_path / "data.yaml").write_text(text)
    train = open_data(tmp_path)
    assert train.classes == names
    other = dict(zip(CLASSES, names, strict=True))
    assert tags_of(tmp_path) == {name: tuple(sorted(other[tag] for tag in tags)) for name, tags in TAGS.items()}


def test_a_number_with_two_names(tmp_path: Path) -> None:
    made.yolo(tmp_path)
    (tmp_path / "data.yaml").write_text("names: {0: horse, 1: dog, 0: cat, 2: cow}")
    with pytest.raises(DataError, match=r"0 is 'horse' and 'cat'\. Give each name a number of its own"):
        open_data(tmp_path)


def cvat_yolo(root: Path, prefix: str) -> None:
    """As CVAT's "Ultralytics YOLO" lays it out: images/train, labels/train, and a list with paths of its own."""
    made.yolo(root / "made")
    for kind in ("images", "labels"):
        (root / kind).mkdir(parents=True)
        (root / "made" / kind).rename(root / kind / "train")
    shutil.rmtree(root / "made")
    (root / "train.txt").write_text("".join(f"{prefix}images/train/{name}\n" for name in TAGS))
    (root / "data.yaml").write_text("names: {0: horse, 1: dog, 2: cat}\npath: .\ntrain: train.txt\n")


@pytest.mark.parametrize("prefix", ["data/", "./", "/home/me/pets/", "C:\\pets\\", "../pets/"])
def test_lists_with_the_paths_of_another_machine(tmp_path: Path, prefix: str) -> None:
    cvat_yolo(tmp_path, prefix)
    assert tags_of(tmp_path) == {f"train/{name}": tags for name, tags in TAGS.items()}


def test_a_list_does_not_find_the_picture_of_another_split(tmp_path: Path) -> None:
    cvat_yolo(tmp_path, "data/")
    (tmp_path / "train.txt").write_text("data/images/val/p00.jpg\n")
    with pytest.raises(MissingDataError, match=r"is not there \(images/train/p00\.jpg is of another split\)"):
        open_data(tmp_path)


def test_path_of_the_yaml(tmp_path: Path) -> None:
    """coco8.yaml beside the folder coco8, as Ultralytics has it."""
    made.yolo(tmp_path / "coco8")
    (tmp_path / "coco8" / "data.yaml").unlink()
    (tmp_path / "coco8.yml").write_text("path: ../datasets/coco8\ntrain: images\nnames: [horse, dog, cat]\n")
    assert tags_of(tmp_path) == {f"coco8/images/{name}": tags for name, tags in TAGS.items()}


def darknet(root: Path, pictures: str = "obj_train_data") -> None:
    """YOLO 1.1 as CVAT and datumaro write it."""
    (root / "obj_train_data").mkdir(parents=True)
    write_pictures(root / pictures)
    for name, tags in TAGS.items():
        lines = [f"{CLASSES.index(tag)} 0.5 0.5 0.2 0.2\n" for tag in tags]
        (root / "obj_train_data" / name).with_suffix(".txt").write_text("".join(lines))
    (root / "obj.names").write_text("\n".join(CLASSES) + "\n")
    (root / "obj.data").write_text("classes = 3\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n")
    (root / "train.txt").write_text("".join(f"data/obj_train_data/{name}\n" for name in TAGS))


@pytest.mark.parametrize("pictures", ["obj_train_data", "images", "obj_train_data/images"])
def test_yolo_1_1(tmp_path: Path, pictures: str) -> None:
    darknet(tmp_path, pictures)
    assert detect_format(tmp_path) == "yolo"
    assert {Path(name).name: tags for name, tags in tags_of(tmp_path).items()} == TAGS
    assert open_data(tmp_path).classes == CLASSES
    assert findings(tmp_path) == {}  # an empty label file is a negative
    (tmp_path / "obj_train_data" / "p05.txt").unlink()
    assert findings(tmp_path)["unlabeled"].names == (f"{pictures}/p05.jpg",)


def test_yolo_1_1_without_its_list(tmp_path: Path) -> None:
    darknet(tmp_path)
    for name in ("train.txt", "obj.data"):
        (tmp_path / name).unlink()
    assert tags_of(tmp_path) == {f"obj_train_data/{name}": tags for name, tags in TAGS.items()}


@pytest.mark.formats
@pytest.mark.parametrize("kind", ["yolo", "coco_stuff"])
def test_as_datumaro_writes_it(tmp_path: Path, kind: str) -> None:
    dm = pytest.importorskip("datumaro")
    write_pictures(tmp_path / "loose")
    items = []
    for name, tags in TAGS.items():
        boxes = [dm.Bbox(1, 1, 3, 3, label=CLASSES.index(tag), id=i, group=i) for i, tag in enumerate(tags, 1)]
        media = dm.Image.from_file(str(tmp_path / "loose" / name))
        items.append(dm.DatasetItem(id=Path(name).stem, subset="train", annotations=boxes, media=media))
    data = dm.Dataset.from_iterable(items, categories=list(CLASSES), media_type=dm.Image)
    data.export(str(tmp_path / "out"), kind, save_media=True)
    assert {Path(name).name: tags for name, tags in tags_of(tmp_path / "out").items()} == TAGS


def test_label_files_of_segments_poses_and_rotated_boxes(tmp_path: Path) -> None:
    made.yolo(tmp_path)
    lines = [
        "0 0.1 0.1 0.9 0.1 0.9 0.9",
        "1 0.5 0.5 0.2 0.2 0.5 0.5 2 0.4 0.4 1",
        "2.0 0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.2",
    ]
    (tmp_path / "labels" / "p05.txt").write_text("\n".join(lines))
    assert tags_of(tmp_path)["p05.jpg"] == ("cat", "dog", "horse")


def test_classification_folders_of_ultralytics(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        for name in ("p00.jpg", "p01.jpg"):
            write_picture(tmp_path / split / TAGS[name][0] / name)
    assert detect_format(tmp_path) == "imagefolder"
    assert set(list_splits(tmp_path)) == {"train", "val", "test"}


@pytest.mark.parametrize("write", [made.yolo, made.coco, made.cvat, made.label_studio])
def test_images_may_be_a_link_to_another_disk(tmp_path: Path, write: Writer) -> None:
    """And links in it still may not lead out; the cure of the message works."""
    write(tmp_path / "data")
    (tmp_path / "data" / "images").rename(tmp_path / "disk")
    (tmp_path / "data" / "images").symlink_to(tmp_path / "disk")
    assert tags_of(tmp_path / "data") == TAGS
    (tmp_path / "disk" / "p05.jpg").rename(tmp_path / "p05.jpg")
    (tmp_path / "disk" / "p05.jpg").symlink_to(tmp_path / "p05.jpg")
    with pytest.raises(DataError, match=r"leaves the data folder.*Copy the pictures into it"):
        open_data(tmp_path / "data")
    (tmp_path / "disk" / "p05.jpg").unlink()
    (tmp_path / "p05.jpg").rename(tmp_path / "disk" / "p05.jpg")
    assert tags_of(tmp_path / "data") == TAGS


# -- COCO --------------------------------------------------------------------------------------------------------------


def test_two_categories_with_one_id(tmp_path: Path) -> None:
    made.coco(tmp_path)
    content = made.coco_json()
    content["categories"].append({"id": 5, "name": "mouse"})  # type: ignore[attr-defined]
    write_json(tmp_path / "annotations" / "instances_default.json", content)
    with pytest.raises(DataError, match="the categories 'horse' and 'mouse' have the same id 5"):
        open_data(tmp_path)


@pytest.mark.parametrize("task", ["person_keypoints", "stuff", "labels", "panoptic", "instances"])
def test_other_tasks_of_coco_are_read(tmp_path: Path, task: str) -> None:
    made.coco(tmp_path)
    content = made.coco_json()
    if task == "panoptic":
        by_image: dict[object, list[object]] = {}
        for each in content["annotations"]:  # type: ignore[attr-defined]
            by_image.setdefault(each["image_id"], []).append(each["category_id"])
        content["annotations"] = [
            {"image_id": key, "file_name": "x.png", "segments_info": [{"id": i, "category_id": i} for i in ids]}
            for key, ids in by_image.items()
        ]
    (tmp_path / "annotations" / "instances_default.json").unlink()
    write_json(tmp_path / "annotations" / f"{task}_val2017.json", content)
    (tmp_path / "images").rename(tmp_path / "val2017")
    assert tags_of(tmp_path) == {f"val2017/{name}": tags for name, tags in TAGS.items()}
    write_json(tmp_path / "annotations" / "captions_val2017.json", {"images": [], "annotations": [{"caption": "a"}]})
    assert findings(tmp_path)["other_files"].names == ("annotations/captions_val2017.json",)


def test_files_of_two_tasks(tmp_path: Path) -> None:
    write_pictures(tmp_path / "images")
    for task in ("panoptic", "stuff"):
        write_json(tmp_path / "annotations" / f"{task}_train.json", made.coco_json())
    with pytest.raises(DataError, match=r"of panoptic_ and of stuff_: .*Keep those of one kind"):
        open_data(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("captions_val.json", {"images": [], "annotations": [{"caption": "a"}]}, "captions, which name no class"),
        (
            "mine.json",
            {"annotations": [{"image_id": 1, "caption": "a"}], "images": []},
            "captions, which name no class",
        ),
        ("image_info_test.json", {"info": {}, "images": [], "categories": []}, "pictures without annotations"),
        ("x.json", {"images": [], "annotations": []}, "no categories"),
    ],
)
def test_files_without_classes_are_called_by_their_name(tmp_path: Path, name: str, content: object, told: str) -> None:
    write_pictures(tmp_path / "images")
    write_json(tmp_path / "annotations" / name, content)
    for data_format in ("auto", "coco"):
        with pytest.raises(MissingDataError, match=f"no COCO file with classes: annotations/{name} holds {told}"):
            open_data(tmp_path, data_format=data_format)


@pytest.mark.parametrize("first", ["version", "info", "licenses", "dataset_name"])
def test_any_key_may_come_first(tmp_path: Path, first: str) -> None:
    write_pictures(tmp_path / "images")
    write_json(tmp_path / "x.json", {first: "1", **made.coco_json()})
    assert detect_format(tmp_path) == "coco"
    assert tags_of(tmp_path) == TAGS


# -- addresses ---------------------------------------------------------------------------------------------------------

ODD_NAMES = ("a+b 01.jpg", "scan#1_02.jpg", "50% 03.jpg", "what?04.jpg", "x&y=z05.jpg", "50%25 06.jpg", "größe07.jpg")
ENCODED = {
    "as it stands": lambda name: name,
    "encoded": lambda name: "".join(
        c if c.isalnum() and c.isascii() else "".join(f"%{b:02X}" for b in c.encode()) for c in name
    ),
}


@pytest.mark.parametrize("spelling", ENCODED)
@pytest.mark.parametrize(
    "address",
    ["/data/local-files/?d=pets/{}", "s3://bucket/pets/{}", "https://host/pets/{}", "/data/upload/3/{}", "{}"],
)
def test_addresses_are_taken_as_they_stand_then_decoded(tmp_path: Path, address: str, spelling: str) -> None:
    for name in ODD_NAMES:
        write_picture(tmp_path / "pets" / name)
    tasks = [
        task(i, address.format(ENCODED[spelling](name)), result("kind", "choices", choices=[f"class {i}"]))
        for i, name in enumerate(ODD_NAMES)
    ]
    write_json(tmp_path / "tasks.json", tasks)
    assert tags_of(tmp_path) == {f"pets/{name}": (f"class {i}",) for i, name in enumerate(ODD_NAMES)}


def test_the_text_as_it_stands_comes_first(tmp_path: Path) -> None:
    for name in ("a%20b01.jpg", "a b01.jpg", "c+d02.jpg", "c d02.jpg"):
        write_picture(tmp_path / name)
    names = ["https://host/a%20b01.jpg", "/data/local-files/?d=c+d02.jpg"]
    tasks = [task(i, name, result("kind", "choices", choices=["cat"])) for i, name in enumerate(names)]
    write_json(tmp_path / "tasks.json", tasks)
    assert set(tags_of(tmp_path)) == {"a%20b01.jpg", "c+d02.jpg"}
    assert findings(tmp_path)["unlisted"].names == ("a b01.jpg", "c d02.jpg")


def test_uploads_are_found_under_the_name_they_had(tmp_path: Path) -> None:
    """Label Studio stores `my cat (1).jpg` as 0a1b2c3d-my_cat_1.jpg."""
    names = {"my cat (1)01.jpg": "my_cat_101.jpg", "a+b02.jpg": "ab02.jpg"}
    tasks = []
    for i, (name, stored) in enumerate(names.items()):
        write_picture(tmp_path / name)
        tasks.append(task(i, f"/data/upload/1/0a1b2c3d-{stored}", result("kind", "choices", choices=["cat"])))
    write_json(tmp_path / "tasks.json", tasks)
    assert set(tags_of(tmp_path)) == set(names)


def test_coco_names_that_are_encoded(tmp_path: Path) -> None:
    write_picture(tmp_path / "images" / "my cat01.jpg")
    write_picture(tmp_path / "images" / "dog02.jpg")
    content = made.coco_json({"my%20cat01.jpg": ("cat",), "https://host/x/dog02.jpg?size=2#top": ("dog",)})
    write_json(tmp_path / "x.json", content)
    assert tags_of(tmp_path) == {"my cat01.jpg": ("cat",), "dog02.jpg": ("dog",)}


# -- exports as strangers have them ------------------------------------------------------------------------------------


def test_tag_background_hides_no_shapes(tmp_path: Path) -> None:
    """Boxes, and the tag background where there is none: the boxes are the tags, and background is a negative."""
    write_pictures(tmp_path / "images")
    (tmp_path / "annotations.xml").write_text(cvat_with("Background"))
    tags = tags_of(tmp_path)
    assert tags == tags_of(tmp_path, tags_from="shapes") == {n: tuple(sorted(t)) for n, t in TAGS.items()}
    assert "p03.jpg" in tags_of(tmp_path, unlabeled="skip")
    assert "p10.jpg" not in tags_of(tmp_path, unlabeled="skip")
    assert findings(tmp_path)["shapes_as_tags"].severity == "note"
    assert "both_kinds" not in findings(tmp_path)


def test_cure_of_undeclared_labels_is_true(tmp_path: Path) -> None:
    write_pictures(tmp_path / "images")
    file = tmp_path / "annotations.xml"
    file.write_text(cvat_with("cow"))
    assert findings(tmp_path, tags_from="tags")["other_tags"].cure.endswith(f"add the class to the labels in {file}.")
    file.write_text(cvat_with("cow").replace("<labels>", "<labels><label><name>cow</name></label>"))
    assert "other_tags" not in findings(tmp_path, tags_from="tags")


def test_yolo_folders_of_splits_without_yaml(tmp_path: Path) -> None:
    """Roboflow's folders: pictures of test/ are not mixed into the training."""
    for split in ("train", "valid", "test"):
        write_picture(tmp_path / split / "images" / "p01.jpg")
        (tmp_path / split / "labels").mkdir()
        (tmp_path / split / "labels" / "p01.TXT").write_text("0 0.5 0.5 0.1 0.1\n")
    (tmp_path / "classes.txt").write_text("cat\n")
    assert set(list_splits(tmp_path)) == {"train", "val", "test"}
    assert tags_of(tmp_path) == {f"{split}/images/p01.jpg": ("cat",) for split in ("train", "valid", "test")}
    assert not {"unlabeled", "without_picture"} & set(findings(tmp_path))


def test_coco_with_addresses_alone(tmp_path: Path) -> None:
    """LVIS has no file names."""
    write_picture(tmp_path / "train2017" / "p01.jpg")
    image = {"id": 1, "coco_url": "http://images.cocodataset.org/train2017/p01.jpg"}
    content = {"images": [image], "annotations": [{"id": 1, "image_id": 1, "category_id": 1}]}
    write_json(tmp_path / "lvis_v1_train.json", {**content, "categories": [{"id": 1, "name": "cat"}]})
    found = open_data(tmp_path, split=next(iter(list_splits(tmp_path)), "train"))
    assert [(each.name, each.tags) for each in found.pictures] == [("train2017/p01.jpg", (0,))]


def test_licence_is_no_picture_passed_over(tmp_path: Path) -> None:
    made.plain_folder(tmp_path)
    for name in ("LICENSE", "README", "p0"):
        (tmp_path / "images" / name).write_text("x")
    assert findings(tmp_path)["passed_over"].names == ("p0",)


def test_beside_shards(tmp_path: Path) -> None:
    webdataset(tmp_path)
    shutil.copy(next(tmp_path.glob("*.tar")), tmp_path / "more.TAR.gz")
    one_more_picture(tmp_path)
    told = findings(tmp_path)
    assert told["unlisted"].names == ("p99.jpg",)
    assert told["passed_over"].names == ("more.TAR.gz",)
    assert "gunzip" in told["passed_over"].cure


def test_second_picture_of_a_task_is_named(tmp_path: Path) -> None:
    """Label Studio's pairs of pictures: the first is taken."""
    write_pictures(tmp_path / "images")
    tasks = made.label_studio_tasks()
    for task in tasks:
        task["data"] = {**task["data"], "other": "p00.jpg", "note": "left"}  # type: ignore[dict-item]
    write_json(tmp_path / "project.json", tasks)
    assert "the text of other not read" in findings(tmp_path)["unread"].message
