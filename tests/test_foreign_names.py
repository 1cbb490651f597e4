"""Folders, files, tags and lists as strangers have them: taken as they are meant, refused, or counted and named."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import data_formats as made
import numpy as np
import pytest
from data_formats import TAGS, WRITERS
from PIL import Image
from test_every_format import TRAINING

from tag2mask import check, cli, convert
from tag2mask.base.spelling import class_name, existing, is_background, stored_classes, twin_key
from tag2mask.data import DataError, MissingDataError, PictureSet, list_splits, open_data, read_picture
from tag2mask.data.findings import Finding
from tag2mask.data.readers.class_names import name_findings
from tag2mask.data.readers.companions import masks_among
from tag2mask.data.readers.lists import read_list
from tag2mask.data.readers.voc import listed_ids, picture_id
from tag2mask.data.storage.suffixes import FORMATS
from tag2mask.inference.sources import as_rgb

NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
PETS = tuple(f"{name}/{name}{i}.jpg" for name in ("cat", "dog") for i in range(3))
SPLITS = tuple(f"{split}/{name}" for split in ("train", "val") for name in PETS)
H = "file_name,tags\n"


def files(root: Path, *names: str, **texts: str) -> Path:
    """Pictures, and text files: `tags__csv` is tags.csv, `splits___a__txt` splits/a.txt."""
    for i, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".jpg", ".png", ".gif", ".webp"):
            Image.fromarray(np.random.default_rng(i).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
        else:
            path.write_text("x")
    for key, text in texts.items():
        path = root / key.replace("___", "/").replace("__", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def codes(pictures: PictureSet) -> dict[str, Finding]:
    found = {each.code: each for each in pictures.findings}
    assert len(found) == len(pictures.findings)
    return found


def tags_of(*sets: PictureSet) -> dict[str, tuple[str, ...]]:
    return {p.name: tuple(each.classes[i] for i in p.tags) for each in sets for p in each.pictures}


def everything(root: Path, **options: object) -> dict[str, tuple[str, ...]]:
    """Tags of the pictures of all splits."""
    splits = list_splits(root, **options) or ("train", "val")
    return tags_of(*(open_data(root, split=split, need_tags=False, **options) for split in splits))


# -- one folder per class ----------------------------------------------------------------------------------------------


def test_a_class_folder_without_pictures_is_said(tmp_path: Path) -> None:
    (tmp_path / "owl").mkdir()
    pictures = open_data(files(tmp_path, *PETS, "fox/a.raw", "fox/b.RAW", "emu/c"))
    assert pictures.classes == ("cat", "dog")
    assert codes(pictures)["empty_folders"].names == ("emu (no suffix 1)", "fox (.raw 2)", "owl (no file)")
    assert ".raw 2, no suffix 1" in codes(pictures)["passed_over"].message


@pytest.mark.parametrize("also", ["preview/x.jpg", "x.jpg", "train/x.jpg", "test/x.jpg"])
def test_what_lies_outside_of_the_class_folders_is_no_class(tmp_path: Path, also: str) -> None:
    files(tmp_path, *SPLITS, also)
    pictures = open_data(tmp_path)
    assert pictures.classes == ("cat", "dog")
    assert list_splits(tmp_path) == ("train", "val")
    assert len(everything(tmp_path)) == len(SPLITS)
    assert codes(pictures)["outside_classes"].names == (also,)


def test_splits_that_are_called_sets(tmp_path: Path) -> None:
    names = [name.replace("train/", "training_set/").replace("val/", "Test-Set/") for name in SPLITS]
    assert list_splits(files(tmp_path, *names)) == ("test", "train")
    assert open_data(tmp_path).classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("train/a.jpg", "test/b.jpg"), "pictures lie directly in test and train, which are called like splits"),
        (("Train/a.jpg", "Validation/b.jpg", "preview/c.jpg"), "pictures lie directly in Train and Validation"),
        (("train/a.jpg", "train/b.jpg"), "pictures lie directly in train, which is called like splits"),
        ((*SPLITS[:6], "preview/x.jpg"), r"train/ holds folders \(cat and dog\) as a split would, but preview beside"),
        (("original/a.jpg", "groundtruth/a.png"), "groundtruth and original look like pictures and what belongs"),
        (("imgs/a.jpg", "masks/a.png", "labels/a.png"), "imgs, labels and masks look like pictures"),
        (tuple(f"pets/{name}" for name in PETS), r"holds one folder, pets/, and the data set lies in that: give data"),
        (tuple(f"pets/{name}" for name in SPLITS), r"holds one folder, pets/"),
        (tuple(f"{s}/{s}/{n}" for s in ("train", "val") for n in PETS), "no known data set"),
    ],
)
def test_folders_that_are_no_classes_are_refused(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    files(tmp_path, *names)
    with pytest.raises(DataError, match=message):
        open_data(tmp_path)
    try:
        assert not check(tmp_path).fit
    except DataError as error:  # no format is recognised
        assert "holds one folder" in str(error) or "no known data set" in str(error)


def test_a_data_set_in_a_folder_of_its_own_is_named(tmp_path: Path) -> None:
    made.coco(tmp_path / "coco")
    with pytest.raises(DataError, match=f"give data={tmp_path / 'coco'}"):
        open_data(tmp_path)
    assert len(everything(tmp_path / "coco")) == 12
    files(tmp_path / "pets", *(f"cat/deeper/{i}.jpg" for i in range(3)))
    with pytest.raises(DataError, match=r"only folder is cat/.*lie in folders in it \(deeper\)"):
        open_data(tmp_path / "pets", data_format="imagefolder")


@pytest.mark.parametrize("mask", ["{}.png", "{}_mask.png", "{}_mask.jpg", "{}.jpg.png", "masks/{}.png", "{}-gt.gif"])
def test_masks_beside_pictures_are_left_out(tmp_path: Path, mask: str) -> None:
    masks = [f"{Path(name).parent}/{mask.format(Path(name).stem)}" for name in PETS]
    files(tmp_path, *PETS, *masks)
    assert set(everything(tmp_path)) == set(PETS)
    assert codes(open_data(tmp_path))["mask_files"].names == tuple(sorted(masks))


def test_a_folder_of_masks_beside_the_classes_is_left_out_and_one_of_face_masks_is_a_class(tmp_path: Path) -> None:
    files(tmp_path / "a", *PETS, *(f"gt/{Path(name).stem}.png" for name in PETS))
    pictures = open_data(tmp_path / "a")
    assert pictures.classes == ("cat", "dog")
    assert codes(pictures)["mask_files"].count == 6
    files(tmp_path / "b", *(f"{name}/{i}.png" for name in ("mask", "no_mask") for i in range(3)))
    pictures = open_data(tmp_path / "b")
    assert pictures.classes == ("mask", "no_mask")
    assert codes(pictures)["odd_classes"].names == ("mask",)


@pytest.mark.parametrize("write", [made.plain_folder, made.metadata_csv, made.coco])
def test_masks_that_are_listed_like_pictures_are_said(tmp_path: Path, write: Callable[..., None]) -> None:
    tagged = made.Tagged({"p00.jpg": ("cat",), "p00.png": ("cat",), "p01.jpg": ("dog",)}, ("cat", "dog"))
    write(tmp_path, tagged)
    assert len(everything(tmp_path)) == 3
    finding = codes(open_data(tmp_path))["mask_files"]
    assert finding.names == ("p00.png",)
    assert "used like any other" in finding.message


def test_pictures_in_two_formats_of_photographs_are_no_masks() -> None:
    assert masks_among(["a.jpg", "a.webp", "b.png", "c.png", "c/a.png", "label_b.txt.jpg"]) == []
    assert masks_among(["s (1).png", "s (1)_mask.png", "s (1)_mask_1.png"]) == ["s (1)_mask.png", "s (1)_mask_1.png"]
    assert masks_among(["a/x.tif", "a/x.png", "y.png", "mask_y.png"]) == ["a/x.png", "mask_y.png"]


def test_splits_with_numbers(tmp_path: Path) -> None:
    names = [name.replace("train/", "train2017/").replace("val/", "Test1/") for name in SPLITS]
    assert list_splits(files(tmp_path / "a", *names)) == ("test", "train")
    with pytest.raises(DataError, match="test1 and train, which are called like splits"):
        open_data(files(tmp_path / "b", "train/a.jpg", "test1/b.jpg"))


def test_results_and_folders_of_the_system_are_no_classes(tmp_path: Path) -> None:
    results = ("runs/small/samples/1.jpg", "runs/small/config.json", "o/masks/1.png", "o/scores.csv")
    system = ("__MACOSX/cat/1.jpg", "cat/@eaDir/2.jpg", "cat/.ipynb_checkpoints/3.jpg")
    pictures = open_data(files(tmp_path, *PETS, *results, *system))
    assert pictures.classes == ("cat", "dog")
    assert set(everything(tmp_path)) == set(PETS)
    assert codes(pictures)["outside_classes"].names == ("o/masks/1.png", "runs/small/samples/1.jpg")


@pytest.mark.parametrize(
    ("names", "code", "told"),
    [
        (("cat/1.jpg", "Cat/2.jpg", "dog/3.jpg"), "spellings", ("Cat / cat",)),
        (("0/1.jpg", "1/2.jpg"), "numbered_classes", ("0", "1")),
        (("cat/1.jpg", "cat/2.jpg"), "one_class", ("cat",)),
        (("cat/1.jpg", "predictions/2.jpg", "train/3.jpg"), "odd_classes", ("predictions", "train")),
        (("2021/cat/1.jpg", "2021/dog/2.jpg", "2022/cat/3.jpg", "2022/dog/4.jpg"), "odd_classes", ("2021", "2022")),
    ],
)
def test_odd_classes_are_said(tmp_path: Path, names: tuple[str, ...], code: str, told: tuple[str, ...]) -> None:
    files(tmp_path, *names)
    assert codes(open_data(tmp_path))[code].names == told
    assert code in {each.code for each in check(tmp_path).findings}


def test_classes_in_the_picture_folder_and_folders_without_pictures_are_named(tmp_path: Path) -> None:
    files(tmp_path / "a", *(f"images/{name}" for name in PETS))
    with pytest.raises(MissingDataError, match=rf"\(cat and dog\) are the classes: data={tmp_path / 'a' / 'images'}"):
        open_data(tmp_path / "a")
    assert open_data(tmp_path / "a/images").classes == ("cat", "dog")
    with pytest.raises(MissingDataError, match=r"2 files in .* passed over by suffix: \.raw 2"):
        open_data(files(tmp_path / "b", "cat/1.raw", "dog/2.raw"))


# -- files passed over -------------------------------------------------------------------------------------------------

READ = {".heic": "HEIF", ".hif": "HEIF", ".avif": "AVIF", ".jfif": "JPEG", ".jpe": "JPEG", ".jp2": "JPEG2000",
        ".j2k": "JPEG2000", ".ppm": "PPM", ".pnm": "PPM", ".dib": "BMP", ".apng": "PNG"}  # fmt: skip


@pytest.mark.parametrize("suffix", READ)
def test_pictures_of_phones_and_archives_are_read(tmp_path: Path, suffix: str) -> None:
    if READ[suffix] not in FORMATS:
        pytest.skip("not decoded on this machine")
    if READ[suffix] == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    seen = np.full((16, 24, 3), (200, 60, 20), np.uint8)
    seen[:8] = (20, 60, 200)
    for name in ("cat/a", "dog/b", "dog/C"):
        (tmp_path / "pets" / name).parent.mkdir(parents=True, exist_ok=True)
        place = tmp_path / "pets" / f"{name}{suffix.upper() if name == 'dog/C' else suffix}"
        Image.fromarray(seen).save(place, format=READ[suffix])
    pictures = [*open_data(tmp_path / "pets").pictures, *open_data(tmp_path / "pets", split="val").pictures]
    assert len(pictures) == 3
    for picture in pictures:
        assert np.abs(read_picture(picture.path).astype(int) - seen).mean() < 8
    report = check(tmp_path / "pets")
    assert sum(each.num_broken for each in report.splits.values()) == 0


def folder_with(root: Path, *extra: str) -> None:
    made.plain_folder(root)
    files(root / "images", *extra)


@pytest.mark.parametrize(
    ("write", "where"),
    [
        (folder_with, ""),
        (lambda root, *extra: (made.voc_tree(root), files(root / "JPEGImages", *extra)), ""),
        (lambda root, *extra: (made.imagefolder(root), files(root, *extra)), "cat/"),
        *(
            (lambda root, *extra, write=write: (write(root), files(root, *extra)), "")
            for name, (_, write) in WRITERS.items()
        ),
    ],
)
def test_every_reader_counts_what_it_passes_over(tmp_path: Path, write: Callable[..., object], where: str) -> None:
    write(tmp_path, f"{where}a.raw", f"{where}b.raw", f"{where}c", f"{where}notes.txt", f"{where}.hidden.raw")
    finding = codes(open_data(tmp_path))["passed_over"]
    assert finding.count == 3 and finding.severity == "warning"
    assert "3 files in" in finding.message and ".raw 2, no suffix 1" in finding.message
    assert "passed_over" in {each.code for each in check(tmp_path).findings}


# -- tags --------------------------------------------------------------------------------------------------------------


def table(root: Path, *cells: str, header: str = H) -> Path:
    """A plain folder with a picture per tag cell."""
    names = [f"{i}.jpg" for i in range(len(cells))]
    rows = "".join(f'{name},"{cell}"\n' for name, cell in zip(names, cells, strict=True))
    return files(root, *(f"images/{name}" for name in names), tags__csv=header + rows)


@pytest.mark.parametrize(
    ("cell", "separator", "typed"),
    [
        ("cat, dog", ",", ","),
        ("cat|dog", "|", "'|'"),
        ("cat/dog", "/", "'/'"),
        ("cat dog", " ", "' '"),
        ("cat & dog", "&", "'&'"),
        ("cat+dog", "+", "'+'"),
    ],
)
def test_a_class_of_several_tags_is_said_and_the_cure_works(
    tmp_path: Path, cell: str, separator: str, typed: str
) -> None:
    table(tmp_path, cell, "cat", "dog", "")
    found = codes(open_data(tmp_path))["joined_classes"]
    assert found.count == 1
    assert f"--tag-separator {typed} " in found.cure
    assert everything(tmp_path, tag_separator=separator) == {"0.jpg": ("cat", "dog"), "1.jpg": ("cat",),
                                                            "2.jpg": ("dog",), "3.jpg": ()}  # fmt: skip
    assert check(tmp_path, tag_separator=separator).classes == ("cat", "dog")


@pytest.mark.parametrize(("cell", "separator"), [("cat\tdog", r"\t"), ("cat\ndog", r"\n")])
def test_tags_between_tabs_or_line_breaks_are_refused_and_the_cure_works(
    tmp_path: Path, cell: str, separator: str
) -> None:
    table(tmp_path, cell, "cat", "dog", "")
    with pytest.raises(DataError, match=r"several tags, say what stands between them, as in tag_separator='\\t'"):
        open_data(tmp_path)
    assert everything(tmp_path, tag_separator=separator)["0.jpg"] == ("cat", "dog")


@pytest.mark.parametrize(
    ("classes", "joined"),
    [
        (("traffic light", "traffic sign", "stop sign"), ()),
        (("cat", "dog", "cat dog", "dog cat", "hot dog"), ("cat dog", "dog cat")),
        (("cat/dog", "dog/cat"), ("cat/dog", "dog/cat")),
        (("indoor", "n/a"), ()),
        (("ball_pen", "ball", "pen"), ("ball_pen",)),
        (("[cat]", "x;y"), ("[cat]", "x;y")),
        (("cat", "dog", "cat AND dog", "dog, "), ("cat AND dog", "dog, ")),
        (("chat", "chien", "chat et chien", "chat: chien"), ("chat et chien", "chat: chien")),
        (("猫", "犬", "猫、犬", "馬，牛"), ("猫、犬", "馬，牛")),
        (("'cat'", "“dog”", "bird's nest", "7'' plate"), ("'cat'", "“dog”")),
        (("hot dog", "dog", "t-shirt", "salt/pepper", "bed and breakfast", "C++", "C#", "cat (white)"), ()),
    ],
)
def test_which_names_look_like_several_tags(classes: tuple[str, ...], joined: tuple[str, ...]) -> None:
    found = [each.names for each in name_findings(classes) if each.code == "joined_classes"]
    assert found == ([joined] if joined else [])


@pytest.mark.parametrize(
    "cell",
    ["['cat', 'dog']", '[""cat"", ""dog""]', "('cat', 'dog')", "[ 'cat','dog', ]", "cat;\u200bdog\ufeff;cat\u00a0"],
)
def test_lists_and_blanks_that_nobody_sees(tmp_path: Path, cell: str) -> None:
    table(tmp_path, cell, "[]", "\u200b", "['dog']", "cat")
    assert everything(tmp_path) == {
        "0.jpg": ("cat", "dog"),
        "1.jpg": (),
        "2.jpg": (),
        "3.jpg": ("dog",),
        "4.jpg": ("cat",),
    }


@pytest.mark.parametrize("word", ["none", "NULL", "nan", "n/a", "unknown", "no_tag", "void", "__ignore__", "?", "#N/A",
                                  "#NAME?", "(none)", "No Finding", "BACKGROUND_Google", "N.A."])  # fmt: skip
def test_a_class_that_means_nothing_is_said(tmp_path: Path, word: str) -> None:
    assert codes(open_data(table(tmp_path, word, "cat", "dog", "")))["empty_classes"].names == (word,)


def test_two_texts_without_a_comma_are_no_list(tmp_path: Path) -> None:
    """As NumPy prints them; Python itself reads 'catdog'."""
    assert codes(open_data(table(tmp_path, "['cat' 'dog']", "cat", "dog", "")))["joined_classes"].count == 1


@pytest.mark.parametrize(
    ("text", "cure"),
    [
        ("file_name;tags\na.jpg;cat\n", "commas between columns"),
        ('"file_name";"tags"\n"a.jpg";"cat;dog"\n', "commas between columns"),
        ("file_name\ttags\na.jpg\tcat\n", "commas between columns"),
        ("sep=;\nfile_name;tags\na.jpg;cat\n", "Remove this line, which is for Excel alone"),
    ],
)
def test_tables_with_other_separators_of_columns_are_refused(tmp_path: Path, text: str, cure: str) -> None:
    files(tmp_path, "images/a.jpg", tags__csv=text)
    with pytest.raises(DataError, match=cure):
        open_data(tmp_path)


def cells_of(root: Path, write: Callable[..., None], separator: str) -> None:
    """A data set of a format, with `separator` between the tags of a cell."""
    write(root)
    for path in [*root.glob("*.csv"), *root.glob("*.jsonl")]:
        if path.suffix == ".csv":
            path.write_text(path.read_text().replace(";", separator))
            continue
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("\n".join(json.dumps({**row, "tags": separator.join(row["tags"])}) for row in rows))


@pytest.mark.parametrize("write", [made.plain_folder, made.metadata_csv, made.metadata_jsonl])
def test_the_separator_in_every_format_with_cells(tmp_path: Path, write: Callable[..., None]) -> None:
    cells_of(tmp_path, write, "|")
    assert open_data(tmp_path).classes != ("cat", "dog", "horse")
    truth = {name: tuple(sorted(tags)) for name, tags in TAGS.items()}
    assert everything(tmp_path, tag_separator="|") == truth
    with pytest.raises(ValueError, match="tag_separator must be at least one character"):
        open_data(tmp_path, tag_separator="")


def test_a_separator_for_tags_that_are_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="tag_separator is for tags that are text, which imagefolder has not"):
        open_data(files(tmp_path, *PETS), tag_separator=",")


def test_the_separator_on_the_command_line(tmp_path: Path, capsys) -> None:
    table(tmp_path / "data", "cat dog", "cat", "dog", "")
    for words in (["check", str(tmp_path / "data")], ["train", "small", "--data", str(tmp_path / "data"), *TRAINING]):
        more = [] if words[0] == "check" else ["--out", str(tmp_path / "run"), "--val-split", "none"]
        assert cli.main([*words, *more, "--tag-separator", " ", "--json"]) in (0, 1)
        told = json.loads(capsys.readouterr().out)
        assert "joined_classes" not in str(told)
    assert open_data(tmp_path / "data", tag_separator=" ").classes == ("cat", "dog")
    assert '"tag_separator": " "' in (tmp_path / "run/config.json").read_text()


def test_the_separator_in_shards_voc_label_studio_and_data_sets_of_the_library(tmp_path: Path) -> None:
    import io
    import tarfile

    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards/a.tar", "w") as tar:
        for name, data in (("a.jpg", b"x"), ("a.txt", b"cat|dog"), ("b.jpg", b"x"), ("b.json", b'{"tags": "cat|cow"}')):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    assert open_data(tmp_path / "shards", tag_separator="|").classes == ("cat", "cow", "dog")
    made.voc_tree(tmp_path / "voc")
    rows = "".join(f"{name},{'|'.join(tags)}\n" for name, tags in TAGS.items())
    (tmp_path / "voc/tags.csv").write_text(H + rows)
    found = everything(tmp_path / "voc", tag_separator="|")
    assert found == {name: tuple(sorted(tags)) for name, tags in TAGS.items()}
    files(
        tmp_path / "studio",
        "p00.jpg",
        "p01.jpg",
        csv__csv="image,annotation_id,choice\np00.jpg,1,cat|dog\np01.jpg,2,cat\n",
    )
    assert open_data(tmp_path / "studio", tag_separator="|", need_tags=False).classes == ("cat", "dog")
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "tags": datasets.Value("string")})
    picture = str(tmp_path / "studio/p00.jpg")
    rows = {"image": [picture, picture], "tags": ["cat|dog", "cow"]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "hf")
    assert open_data(tmp_path / "hf", tag_separator="|").classes == ("cat", "cow", "dog")


# -- background --------------------------------------------------------------------------------------------------------

BACKGROUND = made.Tagged(
    {"p00.jpg": ("Background",), "p01.jpg": ("cat", "BACKGROUND"), "p02.png": ("cat",), "p03.jpg": ("dog",),
     "p04.jpg": ("background",), "p05.jpg": ("dog",), "p06.png": ()},
    ("background", "cat", "dog", "BACKGROUND", "Background"),
)  # fmt: skip
TRUE_TAGS = {"p00": (), "p01": ("cat",), "p02": ("cat",), "p03": ("dog",), "p04": (), "p05": ("dog",), "p06": ()}


def columns(root: Path, tagged: made.Tagged) -> None:
    """A 0/1 table with a column `Background`."""
    tagged.write_all(root / "images")
    rows = [
        f"{name},{int(any(tag.lower() == 'background' for tag in tags))},{int('cat' in tags)},{int('dog' in tags)}\n"
        for name, tags in tagged.tags.items()
    ]
    (root / "tags.csv").write_text("file_name,Background,cat,dog\n" + "".join(rows))


def voc_table(root: Path, tagged: made.Tagged) -> None:
    made.voc_tree(root, tagged)
    made.write_table(root / "tags.csv", tagged)


@pytest.mark.parametrize(
    "write", [made.plain_folder, columns, made.voc_tree, voc_table, *(write for name, (_, write) in WRITERS.items())]
)
def test_background_is_no_class_in_any_format_and_comes_back_from_convert(
    tmp_path: Path, write: Callable[..., None]
) -> None:
    write(tmp_path / "in", BACKGROUND)
    assert not any(is_background(name) for name in open_data(tmp_path / "in").classes)
    found = {Path(name).stem: tags for name, tags in everything(tmp_path / "in").items()}
    assert found == TRUE_TAGS
    assert "background" in codes(open_data(tmp_path / "in"))
    convert(tmp_path / "in", to="folder", out=tmp_path / "out")
    again = {Path(name).stem: tags for name, tags in everything(tmp_path / "out").items()}
    assert again == TRUE_TAGS


def test_the_finding_counts_background(tmp_path: Path) -> None:
    made.plain_folder(tmp_path, BACKGROUND)
    finding = codes(open_data(tmp_path))["background"]
    assert (finding.count, finding.names) == (3, ("p01.jpg", "p00.jpg", "p04.jpg"))
    assert (
        "2 pictures are tagged so alone and negative; on 1 picture with other tags it says nothing" in finding.message
    )


def test_background_of_other_tools(tmp_path: Path) -> None:
    assert [is_background(word) for word in ("__background__", "_Background_", "background", "bg", "void")] == [
        *(True, True, True, False, False)
    ]
    table(tmp_path, "_background_", "cat", "dog", "cat")
    assert open_data(tmp_path).classes == ("cat", "dog")


def test_background_in_a_list_of_classes(tmp_path: Path) -> None:
    table(tmp_path / "a", "cat", "dog", "cat")
    (tmp_path / "a/classes.txt").write_text("background\ncat\ndog\n")
    with pytest.raises(DataError, match=r"line 1: background is label 0 .*Remove the line; the classes after it then"):
        open_data(tmp_path / "a")
    (tmp_path / "a/classes.txt").write_text("cat\nBackground\ndog\n")
    with pytest.raises(DataError, match=r"line 2: Background is label 0 .*masks that hold 2 where they show nothing"):
        open_data(tmp_path / "a")
    # numbers of label files count it
    files(tmp_path / "b", "images/1.jpg", "images/2.jpg", classes__txt="background\ncat\ndog\n")
    files(tmp_path / "b", labels___1__txt="1 0.5 0.5 0.1 0.1\n", labels___2__txt="2 0.5 0.5 0.1 0.1\n")
    assert everything(tmp_path / "b") == {"1.jpg": ("cat",), "2.jpg": ("dog",)}


def test_convert_leaves_no_folder_that_reads_differently(tmp_path: Path) -> None:
    files(tmp_path / "in", "a;b/1.jpg", "tags/2.jpg", "cat/3.jpg")
    with pytest.raises(DataError, match="cannot be written as tags"):
        convert(tmp_path / "in", to="folder", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


# -- composed and decomposed -------------------------------------------------------------------------------------------


def test_one_form_of_names() -> None:
    assert class_name(f" \u200b{NFD}\ufeff\u00a0") == NFC
    assert class_name("traffic\u00a0light") == "traffic light"
    assert twin_key("Cat\u200d") == twin_key("ＣＡＴ") == twin_key("c-a_t")
    assert stored_classes([NFD, "dog"]) == (NFC, "dog")
    assert stored_classes([NFD, NFC]) == (NFD, NFC)  # a model that learnt them as two


@pytest.mark.parametrize("disk", [NFC, NFD])
@pytest.mark.parametrize("text", [NFC, NFD])
def test_pictures_masks_and_lists_are_found_in_either_form(tmp_path: Path, disk: str, text: str) -> None:
    files(tmp_path, f"images/{disk}/{disk}_0.jpg", "images/b.jpg")
    (tmp_path / "masks" / disk).mkdir(parents=True)
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(tmp_path / "masks" / disk / f"{disk}_0.png")
    files(
        tmp_path,
        tags__csv=f"{H}{text}/{text}_0.jpg,{text}\nb.jpg,{disk}\n",
        splits___train__txt=f"{text}/{text}_0\nb\n",
    )
    pictures = open_data(tmp_path)
    assert pictures.classes == (NFC,)
    assert [picture.name for picture in pictures.pictures] == [f"{NFC}/{NFC}_0.jpg", "b.jpg"]
    assert read_picture(pictures.pictures[0].path).shape == (40, 40, 3)
    assert pictures.pictures[0].mask is not None and pictures.pictures[0].mask.is_file()
    assert not pictures.findings


@pytest.mark.parametrize("disk", [NFC, NFD])
@pytest.mark.parametrize("text", [NFC, NFD])
@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "coco", "cvat", "label-studio-min", "voc", "yolo"])
def test_every_format_finds_either_form(tmp_path: Path, disk: str, text: str, name: str) -> None:
    tagged = made.Tagged({f"{text}_{i:02d}.jpg": (text,) if i % 2 else ("dog",) for i in range(4)}, (text, "dog"))
    write = made.voc_tree if name == "voc" else WRITERS[name][1]
    write(tmp_path, tagged)
    if name == "voc":
        (tmp_path / "classes.txt").write_text(f"{disk}\ndog\n")
    for path in sorted((*tmp_path.rglob("*.jpg"), *tmp_path.glob("labels/*.txt"))):
        path.rename(path.with_name(path.name.replace(text, disk)))
    assert everything(tmp_path) == {f"{NFC}_{i:02d}.jpg": (NFC,) if i % 2 else ("dog",) for i in range(4)}


def test_class_folders_in_both_forms_are_one_class(tmp_path: Path) -> None:
    files(tmp_path, f"{NFD}/1.jpg", f"{NFC}/2.jpg", "dog/3.jpg")
    assert open_data(tmp_path).classes == (NFC, "dog")
    assert len(everything(tmp_path)) == 3
    files(tmp_path, f"{NFC}/1.jpg")
    with pytest.raises(DataError, match="one name is composed, the other decomposed"):
        open_data(tmp_path)


def test_twins_in_a_folder_are_an_error(tmp_path: Path) -> None:
    files(tmp_path, f"images/{NFD}.jpg", f"images/{NFC}.jpg", tags__csv=f"{H}{NFC}.jpg,cat\n")
    with pytest.raises(DataError, match="one name is composed, the other decomposed"):
        open_data(tmp_path)
    assert not check(tmp_path).fit


def test_check_sees_spellings_that_look_alike(tmp_path: Path) -> None:
    table(tmp_path, "Cat", "ＣＡＴ", "c\u200dat", "dog", "")
    (found,) = (each for each in check(tmp_path).findings if each.code == "spellings")
    assert found.count == 1 and found.names[0].count("/") == 2


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    files(tmp_path, f"{NFD}/{NFC}.jpg")
    assert existing(tmp_path, f"{NFC}/{NFD}.jpg") == tmp_path / NFD / f"{NFC}.jpg"
    assert existing(tmp_path, f"{NFC}/x.jpg") is None
    assert existing(tmp_path / "none", f"{NFC}.jpg") is None


def test_tags_that_users_give_in_either_form(segmenter, monkeypatch) -> None:
    monkeypatch.setattr(segmenter.model, "classes", (NFC, *segmenter.model.classes[1:]))
    picture = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    masks = [segmenter.predict(picture, tags=[text]).mask for text in (NFC, NFD, f"{NFD}\u200b")]
    assert set(np.unique(masks[0])) <= {0, 1}
    np.testing.assert_array_equal(masks[0], masks[1])
    np.testing.assert_array_equal(masks[0], masks[2])
    assert segmenter.allowed_labels([NFD]).tolist()[:2] == [True, True]


@pytest.mark.parametrize(("disk", "text"), [(NFC, NFD), (NFD, NFC)])
def test_a_picture_that_is_named_in_either_form(tmp_path: Path, disk: str, text: str) -> None:
    files(tmp_path, f"{disk}.png")
    assert as_rgb(tmp_path / f"{text}.png").shape == (40, 40, 3)
    with pytest.raises(FileNotFoundError):
        as_rgb(tmp_path / "x" / f"{text}.png")


# -- lists -------------------------------------------------------------------------------------------------------------


def listed(root: Path, *lines: str) -> Path:
    return files(root, list__txt="\n".join(lines) + "\n") / "list.txt"


def test_names_with_blanks_and_without_suffix(tmp_path: Path) -> None:
    names = ["my photo 1.jpg", "my photo 2.jpg", "b.webp", "sub/c d.png"]
    files(tmp_path, *(f"images/{name}" for name in names), tags__csv=H + "".join(f"{name},cat\n" for name in names))
    path = listed(tmp_path, "my photo 1", "my photo 2.jpg", "b", "images/sub/c d.png")
    assert [picture.name for picture in open_data(tmp_path, split=path).pictures] == names
    with pytest.raises(DataError, match="line 2: 'my' is no picture"):
        open_data(tmp_path, split=listed(tmp_path, "b", "my"))
    with pytest.raises(DataError, match=r"line 2: 'b\.webp' is already on line 1"):
        open_data(tmp_path, split=listed(tmp_path, "b", "b.webp"))
    files(tmp_path, "images/b.jpg", tags__csv=H + "".join(f"{name},cat\n" for name in (*names, "b.jpg")))
    with pytest.raises(DataError, match=r"line 1: 'b' could be b\.webp or b\.jpg\. Write it with its suffix"):
        open_data(tmp_path, split=listed(tmp_path, "b"))


@pytest.mark.parametrize("start", ["/home/me/pets/images/", "C:\\pets\\images\\", "../images/", "data/images/", "./"])
def test_lists_of_another_machine(tmp_path: Path, start: str) -> None:
    files(tmp_path, "images/a.jpg", "images/s/b.jpg", tags__csv=f"{H}a.jpg,cat\ns/b.jpg,dog\n")
    pictures = open_data(tmp_path, split=listed(tmp_path, f"{start}a.jpg", f"{start}s/b"))
    assert [picture.name for picture in pictures.pictures] == ["a.jpg", "s/b.jpg"]
    with pytest.raises(DataError, match="leaves the picture folder"):
        open_data(tmp_path, split=listed(tmp_path, f"../{start}other.jpg"))


def test_a_line_that_is_no_picture_names_the_likely_one(tmp_path: Path) -> None:
    files(tmp_path, *PETS)
    with pytest.raises(
        DataError, match=r"'cat/CAT0.png' is no picture of this data set\. Did you mean 'cat/cat0\.jpg'"
    ):
        open_data(tmp_path, split=listed(tmp_path, "cat/CAT0.png"))


def test_lists_that_are_not_read_are_said(tmp_path: Path) -> None:
    files(tmp_path, *PETS, train__txt="cat/cat0.jpg", notes__txt="x", splits___val__csv="x")
    found = codes(open_data(tmp_path))["unused_lists"]
    assert found.names == ("splits/val.csv", "train.txt")
    assert "by the hash" in found.message
    files(tmp_path, splits___train__TXT="cat/cat0\ndog/dog0")
    assert list_splits(tmp_path) == ("train",)
    assert codes(open_data(tmp_path))["unused_lists"].names == ("splits/val.csv",)


@pytest.mark.parametrize("name", ["tags.csv", "metadata.csv", "metadata.jsonl"])
def test_other_columns_are_said(tmp_path: Path, name: str) -> None:
    rows = [("a.jpg", "cat", "train"), ("b.jpg", "dog", "val")]
    lines = ["file_name,tags,split", *map(",".join, rows)]
    if name.endswith("jsonl"):
        lines = [json.dumps(dict(zip(("file_name", "tags", "split"), row, strict=True))) for row in rows]
    files(tmp_path, "images/a.jpg", "images/b.jpg")
    (tmp_path / name).write_text("\n".join(lines))
    if name != "tags.csv":
        (tmp_path / "images").rename(tmp_path / "x")
        (tmp_path / name).rename(tmp_path / "x" / name)
    assert codes(open_data(tmp_path if name == "tags.csv" else tmp_path / "x"))["other_columns"].names == ("split",)


def test_a_column_of_tags_by_another_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"got 'cat'\. A column of tags is called 'tags'"):
        open_data(table(tmp_path, "cat", "dog", header="file_name,label\n"))


def test_pictures_in_no_list_are_said(tmp_path: Path) -> None:
    files(tmp_path, "images/a.jpg", "images/b.jpg", "images/c.jpg", tags__csv=f"{H}a.jpg,cat\nb.jpg,dog\nc.jpg,\n")
    files(tmp_path, splits___train__txt="a", splits___val__txt="b.jpg")
    assert codes(open_data(tmp_path))["in_no_split"].names == ("c.jpg",)


def test_lists_of_a_voc_tree(tmp_path: Path) -> None:
    names = ["2008 01.jpg", "2008 02.jpg", "b.webp", "c.v1.PNG"]
    files(tmp_path, *(f"JPEGImages/{name}" for name in names), tags__csv=H + "".join(f"{n},cat\n" for n in names))
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    for lines in (["2008 01", "2008 02", "b", "c.v1"], names, [f"{Path(n).stem}  1" for n in names]):
        pictures = open_data(tmp_path, split=listed(tmp_path, *lines))
        assert [picture.name for picture in pictures.pictures] == names
    (tmp_path / "list.txt").rename(tmp_path / "ImageSets/Segmentation/train.txt")
    assert check(tmp_path).splits["train"].num_images == 4
    pair = "/JPEGImages/2008 01.jpg /SegmentationClass/2008 01.png"
    assert [p.name for p in open_data(tmp_path, split=listed(tmp_path, pair)).pictures] == names[:1]
    with pytest.raises(MissingDataError, match=r"there is no picture .*2008 03\.jpg"):
        open_data(tmp_path, split=listed(tmp_path, "2008 01", "2008 03"))


def test_lists_per_class_name_all_pictures_and_say_so(tmp_path: Path) -> None:
    files(tmp_path, "JPEGImages/a.jpg", "JPEGImages/b.jpg", tags__csv=f"{H}a.jpg,cat\nb.jpg,dog\n")
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    pictures = open_data(tmp_path, split=listed(tmp_path, "a  1", "b -1"))
    assert [picture.name for picture in pictures.pictures] == ["a.jpg", "b.jpg"]
    assert codes(pictures)["list_columns"].names == ("a 1", "b -1")


def test_ids_of_lists_alone(tmp_path: Path) -> None:
    """As `predict --list` reads them."""
    assert list(listed_ids(listed(tmp_path, "my photo", "x.heic.jpg", "JPEGImages/y.tif"))) == [
        "my photo",
        "x.heic",
        "y",
    ]
    assert list(listed_ids(listed(tmp_path, "a 1", "b -1"))) == ["a", "b"]
    assert list(listed_ids(listed(tmp_path, "a 1", "a 2"), {"a 1", "a 2"})) == ["a 1", "a 2"]
    assert list(read_list(listed(tmp_path, "p 1 1", "p 2 1"), {"p 1", "p 2"}.__contains__)[0]) == ["p 1", "p 2"]
    assert picture_id(f"JPEGImages/{NFD}.WEBP") == NFC


def test_several_pictures_of_one_id_are_said(tmp_path: Path) -> None:
    files(tmp_path, "JPEGImages/a.png", "JPEGImages/a.jpg", "JPEGImages/b.jpg", tags__csv=f"{H}a.jpg,cat\nb.jpg,dog\n")
    files(tmp_path, ImageSets___Segmentation___train__txt="a\nb\n")
    pictures = open_data(tmp_path)
    assert [picture.name for picture in pictures.pictures] == ["a.jpg", "b.jpg"]
    assert codes(pictures)["same_id"].names == ("a.jpg / a.png",)


# -- said once ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "write", [made.plain_folder, made.voc_tree, *(write for name, (_, write) in WRITERS.items() if name != "yolo")]
)
def test_a_picture_that_nothing_lists_is_said_once(tmp_path: Path, write: Callable[..., None]) -> None:
    """As a mask where it is called like one, else as a picture without tags; `check` says the same."""
    write(tmp_path)
    folder = next((tmp_path / name for name in ("images", "JPEGImages") if (tmp_path / name).is_dir()), tmp_path)
    files(folder, "p00_mask.png", "new.jpg", f"{NFD}.jpg")
    expected = {"p00_mask.png": True, "new.jpg": False, f"{NFC}.jpg": False}
    for found in (open_data(tmp_path).findings, check(tmp_path).findings):
        told = [(Path(name).name, each.code == "mask_files") for each in found for name in each.names]
        assert sorted(each for each in told if each[0] in expected) == sorted(expected.items())
        assert all(path.is_file() for each in found for paths in each.files for path in paths)


def test_masks_that_are_used_and_masks_that_are_left_out_are_one_finding(tmp_path: Path) -> None:
    tagged = made.Tagged({"p00.jpg": ("cat",), "p00.png": ("cat",), "p01.jpg": ("dog",)}, ("cat", "dog"))
    for number, write in enumerate((made.plain_folder, made.coco)):
        root = tmp_path / str(number)
        write(root, tagged)
        files(root / "images", "p01_mask.png")
        finding = codes(open_data(root))["mask_files"]
        assert finding.names == ("p00.png", "p01_mask.png")
        assert finding.message.endswith("1 used like any other, 1 left out.")


def test_a_list_that_cannot_be_read_makes_no_picture_unlisted(tmp_path: Path) -> None:
    made.voc_tree(tmp_path)
    files(tmp_path / "JPEGImages", "new.jpg")
    assert codes(open_data(tmp_path))["unlisted"].names == ("new.jpg",)
    lists = tmp_path / "ImageSets/Segmentation"
    (lists / "empty.txt").write_text("")
    assert codes(open_data(tmp_path))["unlisted"].names == ("new.jpg",)
    (lists / "mine.txt").write_text("new\nnew\n")
    assert "unlisted" not in codes(open_data(tmp_path))
    assert any("already on line 1" in each.message for each in check(tmp_path).findings)


def test_files_of_other_suffixes_that_a_split_names_are_not_passed_over(tmp_path: Path) -> None:
    for split in ("train", "val"):
        files(tmp_path, f"{split}/{split}0.jpg")
        (tmp_path / split / f"{split}0.jpg").rename(tmp_path / split / f"{split}0.xyz")
        content = made.coco_json({f"{split}0.xyz": ("cat",)})
        (tmp_path / split / "_annotations.coco.json").write_text(json.dumps(content))
    for split in ("train", "val"):
        assert "passed_over" not in codes(open_data(tmp_path, split=split))
    files(tmp_path, "train/other.xyz")
    assert codes(open_data(tmp_path))["passed_over"].names == ("train/other.xyz",)


def test_class_lists_and_kinds_are_compared_in_one_form(tmp_path: Path) -> None:
    """Two numbers of one name, and tags beside shapes, whichever form each is in."""
    content = made.coco_json({"a00.jpg": (NFC,), "a01.jpg": (NFD,), "a02.jpg": ("dog",)}, (NFC, NFD, "dog"))
    files(tmp_path / "coco", "a00.jpg", "a01.jpg", "a02.jpg")
    (tmp_path / "coco/x.json").write_text(json.dumps(content))
    pictures = open_data(tmp_path / "coco")
    assert set(pictures.classes) == {NFC, "dog"}
    assert codes(pictures)["same_name"].count == 1
    files(tmp_path / "cvat", "a.jpg", "b.jpg")
    (tmp_path / "cvat/annotations.xml").write_text(
        "<annotations>"
        f'<image id="0" name="a.jpg"><tag label="{NFC}"/><box label="{NFD}"/></image>'
        f'<image id="1" name="b.jpg"><tag label="dog"/></image></annotations>',
        encoding="utf-8",
    )
    assert codes(open_data(tmp_path / "cvat"))["both_kinds"].severity == "note"


@pytest.mark.parametrize("text", [NFC, NFD])
@pytest.mark.parametrize("disk", [NFC, NFD])
def test_lists_labels_and_addresses_of_tools_find_either_form(tmp_path: Path, text: str, disk: str) -> None:
    root = tmp_path / "yolo"
    files(root, f"images/{disk}/{disk}.jpg", f"images/{disk}/b.jpg")
    files(root, data__yaml=f"train: {text}.txt\nval: images/{text}\nnames: [cat, dog]\n")
    files(root, **{f"{disk}__txt": f"data/images/{text}/{text}.jpg\ndata/images/{text}/b.jpg\n"})
    files(root / "labels" / disk, **{f"{disk}__txt": "0 0.5 0.5 1 1", "b__txt": "1 0.5 0.5 1 1"})
    found = open_data(root)
    assert tags_of(found) == {f"{NFC}/{NFC}.jpg": ("cat",), f"{NFC}/b.jpg": ("dog",)}
    assert not found.findings
    encoded = "".join(f"%{byte:02X}" for byte in text.encode())
    files(tmp_path / "studio", f"{disk} 1.jpg")
    for address in (f"s3://bucket/{encoded}%201.jpg", f"/data/local-files/?d=x/{encoded}+1.jpg", f"{encoded}%201.jpg"):
        task = {"data": {"image": address}, "annotations": [{"result": [{"value": {"choices": ["cat"]}}]}]}
        (tmp_path / "studio/tasks.json").write_text(json.dumps([task]))
        assert tags_of(open_data(tmp_path / "studio")) == {f"{NFC} 1.jpg": ("cat",)}


# -- everywhere --------------------------------------------------------------------------------------------------------


def strange_folder(root: Path) -> set[str]:
    """A plain folder with one of each kind, and the codes of what is said of it."""
    table(root, "cat, dog", "none", "background", "Cat", "cat", "dog", "")
    files(root / "images", "a.raw", "5_mask.png", "new.jpg")
    lines = "\n".join(f"{i}.jpg {i % 2}" for i in range(6))
    files(root, splits___train__txt=lines)
    return {"joined_classes", "empty_classes", "background", "spellings", "passed_over", "mask_files", "missing_tags",
            "list_columns", "in_no_split"}  # fmt: skip


def strange_classes(root: Path) -> set[str]:
    """One folder per class with one of each kind, and the codes of what is said of it."""
    (root / "owl").mkdir(parents=True)
    files(root, *PETS, "x.jpg", "cat/cat0.png", "results/1.jpg", "cat/y.raw")
    return {"empty_folders", "outside_classes", "mask_files", "odd_classes", "passed_over"}


@pytest.mark.parametrize("write", [strange_folder, strange_classes])
def test_check_the_log_and_json_say_all_of_it(tmp_path: Path, write: Callable[[Path], set[str]], capsys) -> None:
    expected = write(tmp_path / "data")

    def told(*words: object) -> dict[str, object]:
        assert cli.main([*map(str, words), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    data = ["--data", tmp_path / "data"]
    trained = told("train", "small", *data, "--out", tmp_path / "run", *TRAINING, "--val-split", "none")
    assert expected <= {each["code"] for each in trained["data"]["train"]["findings"]}
    log = (tmp_path / "run/log.txt").read_text(encoding="utf-8")
    for each in trained["data"]["train"]["findings"]:
        assert each["message"] in log
    assert expected <= {each["code"] for each in told("check", tmp_path / "data")["findings"]}
    made_of = told("convert", tmp_path / "data", "--to", "folder", "--out", tmp_path / "plain")
    assert expected <= {each["code"] for each in made_of["findings"]}
