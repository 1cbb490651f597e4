"""Which pictures sources name, what their results are called, and which rows and lines mean them."""

from __future__ import annotations

import csv
import json
import os
import tarfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from tag2mask import cli
from tag2mask.data.storage.result_names import name_key, result_names
from tag2mask.inference.sources import called, only_listed, search
from tag2mask.jobs.converting.masks import convert_masks
from tag2mask.jobs.predicting.run import predict

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
NFC, NFD = (unicodedata.normalize(form, "café.png") for form in ("NFC", "NFD"))


def picture(path: Path, size: tuple[int, int] = (20, 24)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(str(path))).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, format="PNG")
    return path


def pictures(root: Path, *names: str) -> Path:
    for name in names:
        picture(root / name)
    return root


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def column(path: Path, name: str) -> list[str]:
    with path.open(newline="", encoding="utf-8") as file:
        return [row[name] for row in csv.DictReader(file)]


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file_names", "names"),
    [
        (["a.jpg", "sub/a.jpg", "b.c.png"], ["a", "sub/a", "b.c"]),
        (["a.jpg", "a.png", "b.png"], ["a.jpg", "a.png", "b"]),
        (["a.jpg", "A.png"], ["a.jpg", "A.png"]),
        (["a.jpg", "A.jpg", "a.JPG"], ["a.jpg", "A.jpg-2", "a.JPG-3"]),
        ([NFC, NFD], [NFC, f"{NFD}-2"]),
        ([NFC, NFD.replace("png", "jpg")], [NFC, NFD.replace("png", "jpg")]),
        (["a.jpg", "a.jpg.webp"], ["a", "a.jpg.webp"]),  # a.jpg.png is the mask of a.jpg, were there two called a
        (["a.jpg", "a.png", "a.jpg.png"], ["a.jpg", "a.png", "a.jpg.png"]),
        (["a.jpg", "a.png/b.jpg"], ["a.jpg", "a.png/b"]),  # masks/a.png is a folder
        (["a.png", "A.JPG/b.png"], ["a.png", "A.JPG/b"]),  # overlays/a.jpg is one, on some systems
        (["scan.2024", "scan.2025"], ["scan.2024", "scan.2025"]),
    ],
)
def test_results_are_called_after_one_picture_on_every_file_system(file_names, names):
    assert result_names(file_names) == names
    keys = [name_key(name) for name in names]
    assert len(set(keys)) == len(keys)
    folders = {parent for key in keys for parent in (str(p) for p in Path(key).parents)}
    assert not folders & {key + suffix for key in keys for suffix in (".png", ".jpg", ".npz", ".txt", ".geojson")}


def test_many_names_are_told_apart_quickly():
    names = [f"{i % 100}/{i}.{suffix}" for i in range(20_000) for suffix in ("jpg", "png")]
    assert result_names(names) == names


def test_pictures_of_two_folders_have_one_name_in_every_file(segmenter, tmp_path):
    pictures(tmp_path, "siteA/001.jpg", "siteA/002.jpg", "siteB/001.jpg", "siteB/sub/003.png")
    out = tmp_path / "out"
    formats = ("png", "npz", "coco", "yolo", "label-studio", "cvat", "geojson", "voc")
    summary = predict(segmenter, [tmp_path / "siteA", tmp_path / "siteB"], out, formats=formats, rank=True)
    names = ["siteA/001", "siteA/002", "siteB/001", "siteB/sub/003"]
    files = ["siteA/001.jpg", "siteA/002.jpg", "siteB/001.jpg", "siteB/sub/003.png"]
    assert list(summary.written) == names
    assert column(out / "scores.csv", "file_name") == files
    assert sorted(column(out / "rank.csv", "file")) == files
    coco = COCO(out / "coco.json")
    assert [image["file_name"] for image in coco.imgs.values()] == files
    for folder, suffix in (("masks", ".png"), ("overlays", ".jpg"), ("probs", ".npz"), ("yolo/labels", ".txt"),
                           ("geojson", ".geojson"), ("voc/SegmentationClass", ".png")):  # fmt: skip
        made = [path for path in (out / folder).rglob("*") if path.is_file()]
        assert sorted(path.relative_to(out / folder).as_posix() for path in made) == [f"{n}{suffix}" for n in names]
    assert (out / "voc/ImageSets/Segmentation/default.txt").read_text().split() == names
    tasks = json.loads((out / "label-studio.json").read_text())
    assert [task["data"]["image"].split("?d=")[1] for task in tasks] == files
    # and back: the folder that holds both finds every picture again
    again = convert_masks(out, format="coco", out=tmp_path / "c.json", images=tmp_path)
    assert not [each for each in again.findings if each.severity != "note"]
    back = COCO(tmp_path / "c.json")
    assert sorted(image["file_name"] for image in back.imgs.values()) == files
    assert sorted(a["area"] for a in back.anns.values()) == sorted(a["area"] for a in coco.anns.values())


def test_names_of_several_folders_stay_short_where_they_differ(segmenter, tmp_path):
    pictures(tmp_path, "siteA/001.jpg", "siteB/002.jpg")
    out = tmp_path / "out"
    predict(segmenter, [tmp_path / "siteA", tmp_path / "siteB"], out, formats=("png", "coco"))
    assert column(out / "scores.csv", "file_name") == ["001.jpg", "002.jpg"]
    convert_masks(out, format="coco", out=tmp_path / "c.json", images=tmp_path)
    images = json.loads((tmp_path / "c.json").read_text())["images"]
    assert [image["file_name"] for image in images] == ["siteA/001.jpg", "siteB/002.jpg"]


@pytest.mark.parametrize(
    ("sources", "names"),
    [
        (["x/a.jpg", "y/a.jpg"], ["x/a.jpg", "y/a.jpg"]),
        (["x/a.jpg", "y/b.jpg"], ["a.jpg", "b.jpg"]),
        (["x", "x/deep", "y/a.png"], ["x/a.jpg", "x/deep/c.jpg", "y/a.png"]),  # x/a and y/a would share a
        (["x/deep", "x"], ["c.jpg", "a.jpg"]),
        (["*/a.*"], ["x/a.jpg", "y/a.jpg", "y/a.png"]),
        (["x", "y"], ["x/a.jpg", "x/deep/c.jpg", "y/a.jpg", "y/a.png", "y/b.jpg"]),
    ],
)
def test_names_begin_at_the_source_or_at_the_folder_common_to_all(sources, names, tmp_path):
    pictures(tmp_path, "x/a.jpg", "x/deep/c.jpg", "y/a.jpg", "y/a.png", "y/b.jpg")
    assert [each.file_name for each in search([str(tmp_path / source) for source in sources]).pictures] == names


def test_shards_of_one_name_and_twins_in_a_shard(tmp_path):
    for folder in "xy":
        (tmp_path / folder).mkdir()
        with tarfile.open(tmp_path / folder / "00.tar", "w") as archive:
            archive.add(picture(tmp_path / "a.png"), "a.png")
    found = search([tmp_path / "x/00.tar", tmp_path / "y/00.tar"]).pictures
    assert [each.file_name for each in found] == ["x/00.tar/a.png", "y/00.tar/a.png"]
    with tarfile.open(tmp_path / "x/00.tar", "a") as archive:
        archive.add(tmp_path / "a.png", "a.png")
    with pytest.raises(ValueError, match=r"Two pictures are called '00/a\.png'"):
        search([tmp_path / "x/00.tar"])


def test_letter_case_and_forms_of_accents_never_share_a_mask(segmenter, tmp_path):
    folder = pictures(tmp_path / "in", "a.jpg", "A.jpg", NFC, NFD)
    if len(list(folder.iterdir())) < 4:
        pytest.skip("this file system takes them for the same")
    predict(segmenter, folder, tmp_path / "out", formats=("png", "coco"))
    masks = [path.name for path in (tmp_path / "out/masks").iterdir()]
    assert len({name_key(name) for name in masks}) == 4
    made = convert_masks(tmp_path / "out", format="coco", out=tmp_path / "c.json", images=folder)
    assert made.num_images == 4
    images = {image["file_name"] for image in json.loads((tmp_path / "c.json").read_text())["images"]}
    assert images == {"a.jpg", "A.jpg", NFC, NFD}


def test_a_link_is_called_as_it_is_named(segmenter, tmp_path):
    picture(tmp_path / "store/2f9a.jpg")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/2008_000001.jpg").symlink_to(tmp_path / "store/2f9a.jpg")
    (found,) = search([tmp_path / "in"]).pictures
    assert found.file_name == "2008_000001.jpg"
    assert called({"2008_000001.jpg": "t"}, [found])
    assert not called({"2f9a.jpg": "t"}, [found])


def test_a_name_that_is_no_text_is_refused_before_any_work(segmenter, tmp_path):
    (tmp_path / "in").mkdir()
    path = os.fsencode(tmp_path / "in") + b"/caf\xe9.png"
    try:
        Path(os.fsdecode(path)).write_bytes(picture(tmp_path / "a.png").read_bytes())
    except OSError:
        pytest.skip("this file system takes text only")
    with pytest.raises(ValueError, match="no UTF-8 text"):
        predict(segmenter, tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# -- rows and lines ----------------------------------------------------------------------------------------------------


def meant(names: list[str], root: Path, *sources: str) -> dict[str, str]:
    found = search([root / source for source in sources]).pictures
    chosen = called({name: f"row {i}" for i, name in enumerate(names)}, found)
    return {name: each.path.relative_to(root.resolve()).as_posix() for name, each in chosen.items()}


TREE = (
    "a.jpg",
    "old/a.jpg",
    "old/b.jpg",
    "new/c.jpg",
    "new/old/d.jpg",
    "my cat.v1.webp",
    "e.jpg",
    "e.png",
    " edge .jpg",
)


@pytest.mark.parametrize(
    ("names", "sources", "means"),
    [
        (["a.jpg"], ["."], {"a.jpg": "a.jpg"}),  # and not old/a.jpg
        (["a.jpg", "old/a.jpg"], ["."], {"a.jpg": "a.jpg", "old/a.jpg": "old/a.jpg"}),
        (["b.jpg"], ["."], {"b.jpg": "old/b.jpg"}),
        (["b.jpg", "gone/b.jpg"], ["."], {}),  # b.jpg is not unique in the table
        (["a.jpg", "old/a.jpg"], ["old"], None),
        (["old/a.jpg"], ["old"], {"old/a.jpg": "old/a.jpg"}),
        (["old/a.jpg", "new/a.jpg"], ["old/a.jpg"], {"old/a.jpg": "old/a.jpg"}),
        (["a.jpg", "old/a.jpg"], ["old/a.jpg"], None),
        (["old/d.jpg"], ["."], {"old/d.jpg": "new/old/d.jpg"}),
        (["my cat.v1", "old/b"], ["."], {"my cat.v1": "my cat.v1.webp", "old/b": "old/b.jpg"}),
        (["a"], ["."], None),  # a.jpg or old/a.jpg
        (["a", "old/a.jpg"], ["."], {"a": "a.jpg", "old/a.jpg": "old/a.jpg"}),
        (["e"], ["."], None),
        (["e.png"], ["."], {"e.png": "e.png"}),
        (["e.jpg", "e"], ["."], {"e.jpg": "e.jpg", "e": "e.png"}),
        (["x.jpg"], ["."], {}),
    ],
)
def test_a_name_means_one_picture_or_is_refused(names, sources, means, tmp_path):
    pictures(tmp_path, *TREE)
    if means is not None:
        assert meant(names, tmp_path, *sources) == means
        return
    with pytest.raises(ValueError, match=r"is the name of 2 of the sources|may both mean"):
        meant(names, tmp_path, *sources)


def test_names_are_compared_in_one_form_of_accents(tmp_path):
    picture(tmp_path / "in" / NFD)
    found = search([tmp_path / "in"]).pictures
    assert called({NFC: "t"}, found) == {NFC: found[0]}
    assert only_listed(found, written(tmp_path / "l.txt", NFC[:-4])).pictures == found


def test_a_table_tags_the_pictures_that_it_names_and_the_rest_is_counted(segmenter, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tag2mask.inference.segmenter.Segmenter.load", lambda *_, **__: segmenter)
    folder = pictures(tmp_path / "in", "a.jpg", "old/a.jpg")
    cat = segmenter.classes[0]
    table = written(tmp_path / "tags.csv", f"file_name,tags\na.jpg,\ngone.jpg,{cat}\n")
    words = ["predict", "run", folder, "--out", tmp_path / "out", "--tags", table, "--json"]
    assert cli.main([str(word) for word in words]) == 0
    told = capsys.readouterr()
    found = {each["code"]: each for each in json.loads(told.out)["findings"]}
    assert (found["rows_without_picture"]["count"], found["rows_without_picture"]["names"]) == (1, ["gone.jpg"])
    assert (found["pictures_without_row"]["count"], found["pictures_without_row"]["names"]) == (1, ["old/a.jpg"])
    assert "old/a.jpg" in told.err
    masks = {name: np.asarray(Image.open(tmp_path / "out/masks" / name)) for name in ("a.png", "old/a.png")}
    assert not masks["a.png"].any(), "known to show nothing"
    np.testing.assert_array_equal(masks["old/a.png"], segmenter.predict(folder / "old/a.jpg").mask)


@pytest.mark.parametrize(("row", "words"), [("b.jpg", "has no row for any of the pictures.*'b.jpg'.*'x/a.jpg'"),
                                            ("a.jpg", "'a.jpg' is the name of 2 of the sources: x/a.jpg and y/a.jpg")])  # fmt: skip
def test_a_table_that_fits_nothing_or_too_much_is_refused_before_any_work(row, words, segmenter, tmp_path):
    folder = pictures(tmp_path / "in", "x/a.jpg", "y/a.jpg")
    table = written(tmp_path / "tags.csv", f"file_name,tags\n{row},\n")
    with pytest.raises(ValueError, match=words):
        predict(segmenter, folder, tmp_path / "out", tags=table)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("lines", "names"),
    [
        ("my cat.v1.webp\n", ["my cat.v1.webp"]),
        ("my cat.v1\r\nold/b\r\n", ["my cat.v1.webp", "old/b.jpg"]),
        ("e.png\ne.jpg\n", ["e.png", "e.jpg"]),
        ("a.jpg\nold/a.jpg\n", ["a.jpg", "old/a.jpg"]),
        ("/JPEGImages/a.jpg /SegmentationClass/a.png\n", ["a.jpg"]),
        (" b.jpg \n\n", ["old/b.jpg"]),
        (" edge .jpg\n", [" edge .jpg"]),
        ("a.jpg 1\nold/b.jpg -1\n", ["a.jpg", "old/b.jpg"]),
    ],
)
def test_a_list_names_pictures_with_blanks_and_any_suffix(lines, names, tmp_path):
    found = search([pictures(tmp_path / "in", *TREE)]).pictures
    assert [each.file_name for each in only_listed(found, written(tmp_path / "l.txt", lines)).pictures] == names


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("my\n", "line 1: 'my' is not among the sources"),
        ("b.jpg\nb.jpg\n", "line 2: 'b.jpg' is already on line 1"),
        ("old/b.jpg\nb\n", "line 2: .*'b' are listed by their paths already"),
        ("\n", "lists no picture"),
        ("../a.jpg\n", "leaves the picture folder"),
    ],
)
def test_a_line_that_names_no_one_picture_is_refused(lines, words, tmp_path):
    found = search([pictures(tmp_path / "in", *TREE)]).pictures
    with pytest.raises(ValueError, match=words):
        only_listed(found, written(tmp_path / "l.txt", lines))


# -- what is searched --------------------------------------------------------------------------------------------------


def test_predict_into_its_own_source_is_the_same_twice(segmenter, tmp_path):
    folder = pictures(tmp_path / "photos", "a.jpg", "sub/b.png")
    for out in (folder / "o", folder):
        first = predict(segmenter, folder, out, formats=("png", "npz", "coco", "voc"), rank=True)
        coco = (out / "coco.json").read_bytes()
        again = predict(segmenter, folder, out, formats=("png", "npz", "coco", "voc"), rank=True)
        assert again.written == first.written == ("a", "sub/b")
        assert (out / "coco.json").read_bytes() == coco
        globbed = predict(segmenter, str(folder / "**/*.[jp][pn]g"), tmp_path / "g", formats=("png",))
        assert globbed.written == ("a", "sub/b")
    assert "not_searched" in {each.code for each in again.findings}


def test_results_of_other_commands_and_folders_of_systems_are_no_sources(segmenter, tmp_path):
    pictures(
        tmp_path, "a.jpg", ".hidden/h.jpg", ".b.jpg", "__MACOSX/m.jpg", "@eaDir/a.jpg/thumb.jpg", "run/samples/s.jpg",
        "labels/p.png", "data/images/i.jpg", "data/masks/i.png", "voc/JPEGImages/v.jpg", "voc/SegmentationClass/v.png",
        "own/masks/x.png",
    )  # fmt: skip
    for name in ("run/config.json", "run/metrics.csv", "labels/pseudo_labels.json", "Thumbs.db", "sub.txt"):
        written(tmp_path / name, "")
    found = search([tmp_path])
    assert [each.file_name for each in found.pictures] == [
        "a.jpg", "data/images/i.jpg", "own/masks/x.png", "voc/JPEGImages/v.jpg"
    ]  # fmt: skip
    (finding,) = found.findings
    assert finding.code == "not_searched"
    assert set(finding.names) == {
        "__MACOSX", "@eaDir", "run/samples", "labels", "data/masks", "voc/SegmentationClass"
    }  # fmt: skip
    assert search([tmp_path / "__MACOSX"]).pictures[0].name == "m", "asked for by name"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("*.txt", r"names no picture\. 2 files in .*\.txt 2"),
        ("only", r"names no picture\. It is empty, or all in it is hidden"),
        ("empty", r"names no picture\. It is empty"),
        ("odd", r"names no picture\. 2 files .*\.xcf 2"),
        ("*.png", "No file matches"),
        ("made", r"names no picture\. 3 folders are not searched .*results of tag2mask"),
    ],
)
def test_nothing_to_do_is_an_error_that_says_what_was_looked_at(
    source, words, segmenter, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("tag2mask.inference.segmenter.Segmenter.load", lambda *_, **__: segmenter)
    pictures(tmp_path, "only/.a.jpg", "only/.b/c.jpg", "made/masks/a.png", "made/overlays/a.jpg", "made/manifest/a")
    (tmp_path / "made/manifest/a").rename(tmp_path / "made/manifest/0-of-1.jsonl")
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd").mkdir()
    for name in ("x.txt", "y.txt", "odd/1.xcf", "odd/2.xcf"):
        written(tmp_path / name, "")
    assert cli.main(["predict", "run", str(tmp_path / source), "--out", str(tmp_path / "out")]) == 1
    assert "names no picture" in (said := capsys.readouterr().err) or "No file matches" in said
    with pytest.raises(FileNotFoundError, match=words):
        search([str(tmp_path / source)])
    assert not (tmp_path / "out").exists()


def test_files_passed_over_are_counted_by_suffix(segmenter, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tag2mask.inference.segmenter.Segmenter.load", lambda *_, **__: segmenter)
    folder = pictures(tmp_path / "in", "a.png")
    for name in ("b.xcf", "c.xcf", "d.raw", "notes.txt", ".hidden"):
        written(folder / name, "")
    for source in (folder, folder / "*"):
        words = ["predict", "run", source, "--out", tmp_path / "out", "--json"]
        assert cli.main([str(word) for word in words]) == 0
        told = capsys.readouterr()
        (finding,) = json.loads(told.out)["findings"]
        assert (finding["code"], finding["count"]) == ("passed_over", 3)
        assert ".xcf 2, .raw 1" in finding["message"]
        assert ".xcf 2, .raw 1" in told.err
    made = convert_masks(tmp_path / "out", format="coco", out=tmp_path / "c.json", images=folder)
    assert [each.code for each in made.findings] == ["passed_over"]


def test_a_file_of_a_format_without_reader_says_what_it_needs(tmp_path, monkeypatch):
    from tag2mask.data import read_picture
    from tag2mask.data.storage import suffixes

    monkeypatch.setattr(suffixes, "FORMATS", ("JPEG",))
    (found,) = search([written(tmp_path / "a.heic", "no picture")]).pictures
    with pytest.raises(ValueError, match=r"heic needs pip install .*heif.*\. Replace or remove it"):
        read_picture(found.path)


def test_what_predict_did_not_write_is_never_replaced(segmenter, tmp_path):
    data = pictures(tmp_path / "data", "images/a.png", "masks/a.png")
    written(data / "classes.txt", "cat\n")
    before = (data / "masks/a.png").read_bytes()
    with pytest.raises(FileExistsError, match=r"holds classes\.txt, masks, not written by predict"):
        predict(segmenter, data / "images", data)
    assert (data / "masks/a.png").read_bytes() == before
    (data / "probs").mkdir()
    with pytest.raises(FileExistsError, match=r"holds classes\.txt, probs, not written by predict"):
        predict(segmenter, data / "images", data, formats=("npz",))
    out = tmp_path / "out"
    predict(segmenter, data / "images", out)
    with pytest.raises(FileExistsError, match="is one of the pictures to predict"):
        predict(segmenter, out / "overlays/a.jpg", out)


def test_other_sources_are_not_taken_for_what_was_done(segmenter, tmp_path):
    from tag2mask.runs.checkpoints import save_model

    save_model(tmp_path / "m.safetensors", segmenter.model, segmenter.config)
    pictures(tmp_path, "x/1.png", "x/2.png", "y/1.png", "y/2.png")

    class Stop(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise Stop

    out = tmp_path / "out"
    with pytest.raises(Stop):
        predict(tmp_path / "m.safetensors", tmp_path / "x", out, device="cpu", progress=stop)
    predict(tmp_path / "m.safetensors", tmp_path / "y", out, device="cpu")
    expected = segmenter.predict(tmp_path / "y/1.png").mask
    np.testing.assert_array_equal(np.asarray(Image.open(out / "masks/1.png")), expected)


# -- the same rules in the other commands ------------------------------------------------------------------------------


def two_with_masks(root: Path) -> Path:
    """A COCO-like plain folder where a.jpg and a.png have masks of their own."""
    pictures(root, "images/a.jpg", "images/a.png", "images/b.png")
    written(root / "tags.csv", "file_name,tags\na.jpg,ball\na.png,crate\nb.png,ball\n")
    written(root / "classes.txt", "ball\ncrate\n")
    written(root / "splits.txt", "a.jpg\na.png\nb.png\n")
    return root


def test_pseudo_labels_of_pictures_that_share_a_stem_have_masks_of_their_own(segmenter, tmp_path):
    from tag2mask.jobs.pseudo_labels import pseudo_label

    data = two_with_masks(tmp_path / "data")
    summary = pseudo_label(segmenter, data=data, out=tmp_path / "masks", split=str(data / "splits.txt"))
    assert summary.num_images == 3
    masks = {path.name: set(np.unique(np.asarray(Image.open(path)))) for path in (tmp_path / "masks").glob("*.png")}
    assert set(masks) == {"a.jpg.png", "a.png.png", "b.png"}
    assert masks["a.jpg.png"] <= {0, 1}
    assert masks["a.png.png"] <= {0, 2}


def test_pseudo_labels_of_names_that_some_systems_take_for_one_are_refused(segmenter, tmp_path):
    from tag2mask.jobs.pseudo_labels import pseudo_label

    data = pictures(tmp_path / "data", "images/a.jpg", "images/A.jpg")
    written(data / "tags.csv", "file_name,tags\na.jpg,ball\nA.jpg,crate\n")
    split = written(tmp_path / "list.txt", "a.jpg\nA.jpg\n")
    with pytest.raises(ValueError, match=r"a\.jpg and A\.jpg would share the mask"):
        pseudo_label(segmenter, data=data, out=tmp_path / "masks", split=str(split))
    assert result_names(["a.jpg", "A.jpg"], numbered=False) == ["a.jpg", "A.jpg"]


def test_convert_to_a_folder_keeps_both_masks_of_a_stem(tmp_path):
    from tag2mask.data.dataset import Picture, PictureSet, label_codes
    from tag2mask.data.masks.tally import MaskTally
    from tag2mask.jobs.converting.folders import _write_pictures

    data = two_with_masks(tmp_path / "data")
    for i, name in enumerate(("x", "y")):
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(np.full((20, 24), i + 1, np.uint8)).save(tmp_path / "masks" / f"{name}.png")
    members = [
        Picture(data / "images" / name, name, (0,), tmp_path / "masks" / f"{mask}.png")
        for name, mask in (("a.jpg", "x"), ("a.png", "y"))
    ]
    found = PictureSet(("ball", "crate"), tuple(members), label_codes(2, others="ignore"), data, "train", "coco")
    by_name = {each.name: each for each in members}
    _write_pictures(tmp_path / "out", by_name, found, MaskTally(found), link=False, progress=None)
    for label, name in ((1, "a.jpg.png"), (2, "a.png.png")):
        assert (np.asarray(Image.open(tmp_path / "out/masks" / name)) == label).all()


def test_results_in_a_data_set_are_no_class_and_no_picture(tmp_path):
    from tag2mask.data import open_data
    from tag2mask.jobs.checking import check

    pictures(tmp_path, *(f"{name}/{i}.png" for name in ("cat", "dog") for i in range(3)))
    before = open_data(tmp_path, split="train")
    pictures(tmp_path, "runs/samples/s.png", "o/masks/1.png", "o/overlays/1.jpg", "pl/1.png", "__MACOSX/cat/0.png",
             ".cache/0.png", "@eaDir/0.png")  # fmt: skip
    for name in ("runs/config.json", "runs/metrics.csv", "pl/pseudo_labels.json"):
        written(tmp_path / name, "{}")
    (tmp_path / "o/manifest").mkdir()
    written(tmp_path / "o/manifest/0-of-1.jsonl", "")
    after = open_data(tmp_path, split="train")
    assert (after.classes, after.pictures) == (before.classes, before.pictures)
    (finding,) = (each for each in after.findings if each.code == "not_searched")
    assert set(finding.names) == {
        "runs/samples", "o/manifest", "o/masks", "o/overlays", "pl", "__MACOSX", "@eaDir"
    }  # fmt: skip
    assert "not_searched" in {each.code for each in check(tmp_path).findings}
    plain = two_with_masks(tmp_path / "plain")
    pictures(plain, "images/.thumbs/a.png", "images/@eaDir/a.png", "images/__MACOSX/a.png")
    assert "missing_tags" not in {each.code for each in check(plain).findings}
    (plain / "tags.csv").unlink()
    names = [each.name for each in open_data(plain, split="train", need_tags=False).pictures]
    assert set(names) <= {"a.jpg", "a.png", "b.png"}


def test_only_results_are_no_data_set(tmp_path):
    from tag2mask.data import detect_format

    pictures(tmp_path, "o/masks/1.png", "o/manifest/0.png")
    (tmp_path / "o/manifest/0.png").rename(tmp_path / "o/manifest/0-of-1.jsonl")
    with pytest.raises(FileNotFoundError, match="no known data set"):
        detect_format(tmp_path)


def test_explain_never_replaces_its_picture(segmenter, tmp_path):
    from tag2mask.jobs.explanation import explain

    path = picture(tmp_path / "a.png")
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="would replace the picture"):
        explain(segmenter, path, tmp_path)
    assert path.read_bytes() == before


def test_the_ranked_list_counts_what_it_does_not_show(tmp_path, caplog, monkeypatch):
    import logging

    from tag2mask.web.actions import ranked_list

    monkeypatch.setattr(logging.getLogger("tag2mask"), "propagate", True)
    picture(tmp_path / "in/a.png")
    written(tmp_path / "rank.csv", "rank,file,score,reason\n1,gone.png,0.5,x\n2,a.png,0.25,y\n")
    with caplog.at_level(logging.WARNING):
        assert [each.path.name for each in ranked_list(tmp_path, tmp_path / "in")] == ["a.png"]
    assert "1 pictures of" in caplog.text
    assert "gone.png" in caplog.text


@pytest.mark.parametrize("out", ["s0.1", "a.json", "v1.2.3"])
def test_advice_keeps_the_dots_of_a_folder(out, tmp_path):
    from tag2mask.cli.advice import after_predicting

    said = after_predicting("run", ["photos"], tmp_path / out, ("png",), tools=False, ranked=False)
    assert said.endswith(f"--out {tmp_path / out}-coco.json")


# -- what strangers bring ----------------------------------------------------------------------------------------------


def test_a_list_in_the_form_of_other_systems_and_of_find(tmp_path):
    folder = pictures(tmp_path / "in", "sub/my cat.png", "b.png")
    found = search([folder]).pictures
    for line in ("sub\\my cat.png", ".\\sub\\my cat", "in/sub/my cat.png", f"{folder}/sub/my cat.png"):
        chosen = only_listed(found, written(tmp_path / "l.txt", f"{line}\n")).pictures
        assert [each.file_name for each in chosen] == ["sub/my cat.png"], line
    with pytest.raises(ValueError, match="line 1: '# my list' is not among the sources"):
        only_listed(found, written(tmp_path / "l.txt", "# my list\nb.png\n"))


def test_two_links_to_one_file_are_two_pictures_and_a_link_to_nothing_is_told(segmenter, tmp_path):
    blob = picture(tmp_path / "blobs/2f9a.png")
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).symlink_to(blob)
    (tmp_path / "other").symlink_to(folder)
    assert [each.file_name for each in search([folder, tmp_path / "other"]).pictures] == ["a.png", "b.png"]
    (folder / "gone.png").symlink_to(tmp_path / "never_fetched")
    summary = predict(segmenter, folder, tmp_path / "out")
    assert summary.written == ("a", "b")
    (message,) = summary.errors.values()
    assert "gone.png" in message


def test_an_empty_source_is_not_the_folder_one_is_in(tmp_path, monkeypatch):
    monkeypatch.chdir(pictures(tmp_path, "a.png"))
    with pytest.raises(FileNotFoundError, match="A source is empty"):
        search([""])
    assert search(["."]).pictures


def test_long_names_are_written_or_refused_before_any_work(segmenter, tmp_path):
    long, longer = "x" * 240, "é" * 120 + "x" * 11  # bytes that file systems count
    folder = pictures(tmp_path / "in", f"{long}.png", f"{longer}.png")
    summary = predict(segmenter, folder, tmp_path / "out", formats=("png", "npz", "yolo", "voc"))
    assert not summary.errors
    with pytest.raises(ValueError, match=r"too long for NAME\.geojson"):
        predict(segmenter, folder, tmp_path / "other", formats=("geojson",))
    assert not (tmp_path / "other").exists()


def test_results_of_an_earlier_call_are_counted_and_never_get_other_classes(segmenter, tmp_path):
    pictures(tmp_path, "x/1.png", "x/2.png", "y/2.png")
    out = tmp_path / "out"
    formats = ("png", "coco", "yolo")
    for _ in range(2):
        assert not predict(segmenter, tmp_path / "x", out, formats=formats).findings
    (finding,) = predict(segmenter, tmp_path / "y", out).findings
    assert (finding.code, set(finding.names)) == (
        "earlier_results", {"coco.json", "masks/1.png", "overlays/1.jpg", "yolo/labels/1.txt", "yolo/labels/2.txt"}
    )  # fmt: skip
    written(out / "classes.txt", "cat\ndog\n")
    with pytest.raises(FileExistsError, match=r"of an earlier call.*with the classes cat, dog; this model has"):
        predict(segmenter, tmp_path / "y", out)


def test_predictions_in_a_data_folder_do_not_become_its_annotations(segmenter, tmp_path):
    from tag2mask.data import detect_format, open_data

    pets = pictures(tmp_path / "pets", *(f"{name}/{i}.png" for name in ("cat", "dog") for i in range(3)))
    for formats in (("png", "coco"), ("coco", "label-studio")):
        predict(segmenter, pets, pets, formats=formats)
        (pets / "classes.txt").unlink()  # of another model
        assert open_data(pets, split="train").classes == ("cat", "dog")
    assert detect_format(pets, "coco") == "coco", "who asks for them gets them"
