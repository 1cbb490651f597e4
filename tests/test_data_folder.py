"""The plain folder: what is read, and what is refused with file, line and cure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tag2mask.data import DataError, MissingDataError, PictureSet, SplitError, open_data, voc_palette
from tag2mask.data.readers.splits import hash_split

NAMES = ("a.jpg", "b.jpg", "c.jpg", "sub/d.png")


def folder(root: Path, tags: str | bytes | None, names: tuple[str, ...] = NAMES, **texts: str) -> Path:
    """A plain folder; `texts` are further files, with `__` for `/` in their names and `.txt` added."""
    for name in names:
        path = root / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3)).save(path)
    if tags is not None:
        (root / "tags.csv").write_bytes(tags if isinstance(tags, bytes) else tags.encode())
    for key, text in texts.items():
        path = root / f"{key.replace('__', '/')}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return root


def tags_of(pictures: PictureSet) -> dict[str, list[str]]:
    return {p.name: [pictures.classes[i] for i in p.tags] for p in pictures.pictures}


ALL = {"splits__train": "\n".join(NAMES)}
TAGS = "file_name,tags\na.jpg,dog;cat\nb.jpg,\nc.jpg,cat\nsub/d.png,horse\n"


def test_names_and_tags(tmp_path: Path) -> None:
    pictures = open_data(folder(tmp_path, TAGS, **ALL))
    assert pictures.classes == ("cat", "dog", "horse")
    assert tags_of(pictures) == {"a.jpg": ["cat", "dog"], "b.jpg": [], "c.jpg": ["cat"], "sub/d.png": ["horse"]}
    assert pictures.pictures[3].path == tmp_path / "images/sub/d.png"
    assert (pictures.data_format, pictures.split, pictures.num_classes, pictures.has_masks) == (
        "folder",
        "train",
        3,
        False,
    )


def test_one_column_per_class(tmp_path: Path) -> None:
    table = "file_name,dog,cat,cow\na.jpg,1,1,0\nb.jpg,0,0,0\nc.jpg,0,1.0,\nsub/d.png,false,TRUE,0\n"
    pictures = open_data(folder(tmp_path, table, **ALL))
    assert pictures.classes == ("cat", "cow", "dog")
    assert tags_of(pictures) == {"a.jpg": ["cat", "dog"], "b.jpg": [], "c.jpg": ["cat"], "sub/d.png": ["cat"]}


def test_csv_as_spreadsheets_write_it(tmp_path: Path) -> None:
    table = (
        b'\xef\xbb\xbffile_name, tags ,note\r\n"a.jpg"," dog ; cat;dog;",x\r\n\r\nb.jpg,"","one\r\ntwo"\r\n./c.jpg,cat,'
    )
    pictures = open_data(folder(tmp_path, table, splits__train="a.jpg\r\nb.jpg\r\n\r\n./c.jpg"))
    assert tags_of(pictures) == {"a.jpg": ["cat", "dog"], "b.jpg": [], "c.jpg": ["cat"]}


def test_classes_txt_gives_the_order_of_the_labels(tmp_path: Path) -> None:
    pictures = open_data(folder(tmp_path, TAGS, **ALL, classes="horse\ndog\n\ncow\ncat\n"))
    assert pictures.classes == ("horse", "dog", "cow", "cat")
    assert pictures.pictures[0].tags == (1, 3)


def test_masks_lie_beside_images_under_the_same_stem(tmp_path: Path) -> None:
    folder(tmp_path, TAGS, **ALL)
    (tmp_path / "masks/sub").mkdir(parents=True)
    for name in ("a.png", "sub/d.png"):
        Image.new("P", (4, 3)).save(tmp_path / "masks" / name)
    pictures = open_data(tmp_path)
    assert [p.mask for p in pictures.pictures] == [tmp_path / "masks/a.png", None, None, tmp_path / "masks/sub/d.png"]
    assert pictures.has_masks
    np.testing.assert_array_equal(pictures.mask_codes[[0, 1, 2, 3, 4, 254, 255]], [0, 1, 2, 3, 255, 255, 255])
    assert open_data(tmp_path, others="background").mask_codes[4] == 0


def test_tags_from_masks_only_when_asked(tmp_path: Path) -> None:
    folder(tmp_path, None, **ALL, classes="cat\ndog")
    (tmp_path / "masks/sub").mkdir(parents=True)
    for name in NAMES:
        ids = np.array([[0, 2], [255, 7]], np.uint8)
        image = Image.fromarray(ids, mode="P")
        image.putpalette([0] * 768)
        image.save((tmp_path / "masks" / name).with_suffix(".png"))
    with pytest.raises(MissingDataError, match=r"no tags\.csv.*file_name,tags"):
        open_data(tmp_path)
    assert tags_of(open_data(tmp_path, tags_from="masks")) == {name: ["dog"] for name in NAMES}
    (tmp_path / "masks/b.png").unlink()
    with pytest.raises(DataError, match=r"b\.jpg has no mask"):
        open_data(tmp_path, tags_from="masks")


def test_evaluation_needs_no_tags(tmp_path: Path) -> None:
    folder(tmp_path, None, classes="cat", splits__val="c.jpg")
    pictures = open_data(tmp_path, split="val", need_tags=False)
    assert [(p.name, p.tags) for p in pictures.pictures] == [("c.jpg", ())]


def test_split_by_name_by_file_and_unknown(tmp_path: Path) -> None:
    folder(tmp_path, TAGS, splits__train="a.jpg\nc.jpg", splits__mine="sub/d.png\n")
    assert [p.name for p in open_data(tmp_path).pictures] == ["a.jpg", "c.jpg"]
    assert [p.name for p in open_data(tmp_path, split="mine").pictures] == ["sub/d.png"]
    other = tmp_path / "other.lst"
    other.write_text("c.jpg\n")
    assert [p.name for p in open_data(tmp_path, split=other).pictures] == ["c.jpg"]
    with pytest.raises(SplitError, match=r"no split 'val'; splits: mine, train"):
        open_data(tmp_path, split="val")
    assert open_data(tmp_path, split="mine").split == "mine"
    with pytest.raises(SplitError, match="mine"):
        open_data(tmp_path, split="val")


def test_hash_holds_out_a_tenth_and_moves_no_old_picture() -> None:
    names = [f"{i}.jpg" for i in range(3000)]
    train, val = hash_split(names)
    assert sorted(train + val) == sorted(names)
    assert 240 <= len(val) <= 360
    fewer, fewer_val = hash_split(names[:1000])
    assert set(fewer) <= set(train) and set(fewer_val) <= set(val)
    assert hash_split(reversed(names)) == (train, val)
    # of 0.jpg .. 40.jpg, `sha256sum` gives a first 8 bytes divisible by 10 for 33.jpg alone (bc7018976b82eb62)
    assert hash_split(names[:41])[1] == ["33.jpg"]


@given(st.sets(st.text("abcdefgh", min_size=1), min_size=2, max_size=30))
def test_hash_split_leaves_a_picture_on_either_side(names: set[str]) -> None:
    train, val = hash_split(names)
    assert train and val and set(train) | set(val) == names and not set(train) & set(val)


def test_one_picture_trains_and_has_nothing_to_hold_out(tmp_path: Path) -> None:
    folder(tmp_path, "file_name,tags\na.jpg,cat", ("a.jpg",))
    assert len(open_data(tmp_path).pictures) == 1
    with pytest.raises(SplitError, match="too few"):
        open_data(tmp_path, split="val")


@pytest.mark.parametrize(
    ("tags", "texts", "message"),
    [
        (
            TAGS,
            {"classes": "cat\ndogs\nhorse"},
            r"tags\.csv line 2: unknown class 'dog'.*cat, dogs, horse.*'dogs'.*classes\.txt",
        ),
        ("file_name,tags\na.jpg,cat\ne.jpg,cat", {}, r"tags\.csv line 3: there is no picture .*e\.jpg.*remove the row"),
        ("file_name,tags\na.jpg,cat\nb.jpg,\na.jpg,dog", {}, r"tags\.csv line 4: 'a\.jpg' is already on line 2"),
        ("file_name,tags\na.jpg,cat\n./a.jpg,dog", {}, r"line 3: 'a\.jpg' is already on line 2"),
        ("file_name,tags\na.jpg,cat\n../x.jpg,cat", {}, r"line 3: file_name '\.\./x\.jpg' leaves the picture folder"),
        ("file_name,tags\n/etc/a.jpg,cat", {}, r"line 2: .*leaves the picture folder"),
        ("file_name,tags\n..\\a.jpg,cat", {}, r"line 2: .*leaves the picture folder"),
        ("file_name,tags\nC:\\a.jpg,cat", {}, r"line 2: .*leaves the picture folder"),
        ("file_name,tags\n,cat", {}, r"line 2: file_name must be"),
        ("a.jpg,cat\nb.jpg,dog", {}, r"tags\.csv line 1: the header must be 'file_name,tags'"),
        ("file_name;tags\na.jpg;cat", {}, r"line 1: .*separated by commas"),
        ("", {}, r"line 1: the header must be"),
        ("file_name\na.jpg", {}, r"line 1: after 'file_name'"),
        ("file_name,cat,cat\na.jpg,1,0", {}, r"line 1: .*each once"),
        ("file_name,tags\na.jpg,cat,dog", {}, r"line 2: 3 cells, but the header has 2\. Separate tags by ';'"),
        ("file_name,tags\na.jpg", {}, r"line 2: 1 cells"),
        ("file_name,cat\na.jpg,1\nb.jpg,2", {}, r"line 3: column 'cat' must hold 0 or 1, got '2'"),
        ('file_name,tags\na.jpg,"cat', {}, r"tags\.csv line 2: not valid csv"),
        ("file_name,tags\n", {}, "No usable picture"),
        ("file_name,tags\n", {"classes": "cat"}, "No usable picture: .*lists none"),
        ("file_name,tags\na.jpg,\nb.jpg,", {}, "No usable picture: .*no tag at all"),
        ("file_name,tags\na.jpg,\nb.jpg,", {"classes": "cat"}, "No usable picture: none of the .* has a tag of cat"),
        (b"file_name,tags\na.jpg,\xe4\n", {}, r"tags\.csv is not UTF-8"),
        (TAGS, {"splits__train": "a.jpg\n\ne.jpg"}, r"train\.txt line 3: 'e\.jpg' is no picture of this data set"),
        (TAGS, {"splits__train": "a.jpg\na.jpg"}, r"train\.txt line 2: 'a\.jpg' is already on line 1"),
        (TAGS, {"splits__train": "\n"}, r"train\.txt lists no picture"),
        (TAGS, {"classes": "cat\ndog\ncat"}, r"classes\.txt line 3: class 'cat' is already on line 1"),
        (TAGS, {"classes": "background\ncat"}, r"classes\.txt line 1: background is label 0"),
        (TAGS, {"classes": "\n"}, r"classes\.txt names no class"),
        (TAGS, {"classes": "\n".join(map(str, range(255)))}, "at most 254"),
    ],
)
def test_errors_name_file_line_and_cure(tmp_path: Path, tags: str | bytes, texts: dict[str, str], message: str) -> None:
    folder(tmp_path, tags, **texts)
    with pytest.raises(DataError, match=message):
        open_data(tmp_path)


def test_a_missing_picture_is_also_a_file_not_found(tmp_path: Path) -> None:
    folder(tmp_path, "file_name,tags\nnone.jpg,cat")
    with pytest.raises(FileNotFoundError, match=r"none\.jpg"):
        open_data(tmp_path)


def test_unrecognised_folders(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(MissingDataError, match=r"images/.*JPEGImages/.*photos/"):
        open_data(tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder"):
        open_data(tmp_path / "none")
    with pytest.raises(ValueError, match=r"folder, voc, .* or webdataset, got 'pascal'"):
        open_data(tmp_path, data_format="pascal")
    with pytest.raises(ValueError, match="tags_from must be"):
        open_data(tmp_path, tags_from="mask")
    with pytest.raises(ValueError, match="others must be"):
        open_data(tmp_path, others="void")


def test_voc_palette() -> None:
    # colours of the VOC development kit: background, aeroplane, bicycle, bird, tvmonitor, void
    expected = [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 64, 128], [224, 224, 192]]
    np.testing.assert_array_equal(voc_palette()[[0, 1, 2, 3, 20, 255]], expected)


def test_the_picture_folder_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "disk" / "a.png")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "images").symlink_to(tmp_path / "disk")
    (tmp_path / "photos" / "tags.csv").write_text("file_name,tags\na.png,cat\n")
    assert [picture.name for picture in open_data(tmp_path / "photos").pictures] == ["a.png"]
