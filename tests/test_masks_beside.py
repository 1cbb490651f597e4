"""Masks among the pictures, told by names and pixels, and classes that are called as if there were nothing to find."""

from __future__ import annotations

import io
from pathlib import Path

import data_formats as made
import numpy as np
import pytest
from data_formats import write_mask, write_pair
from PIL import Image

from tag2mask import check, cli
from tag2mask.data import DataError, open_data
from tag2mask.data.readers import masks_beside
from tag2mask.data.readers.class_names import names_of_nothing

ENDINGS = [
    (".jpg", ".png"),
    (".jpg", "_mask.png"),
    (".jpg", "_gt.png"),
    (".jpg", "_label.png"),
    (".png", "_mask.png"),
    (".jpg", ".bmp"),
    (".jpg", ".jpg.png"),
    (".jpg", "_mask.jpg"),
    (".png", ".jpg"),  # by the names alone the pictures would be the masks
]


def pairs(root: Path, picture: str = ".jpg", mask: str = ".png") -> Path:
    """Eight pictures of two classes with their masks; those of `free` are all 0."""
    for i in range(8):
        write_pair(root / ("crack", "free")[i % 2] / f"a{i:02}", picture, mask, shown=i % 2 == 0)
    return root


def photo(path: Path, seed: int) -> None:
    """Smooth and noisy, as photographs are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((160, 120), Image.BICUBIC)
    noisy = np.asarray(coarse) + random.normal(0, 4, (120, 160, 3))
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path)


@pytest.mark.parametrize(("picture", "mask"), ENDINGS)
@pytest.mark.parametrize("below", ["", "train/"])
def test_pictures_and_masks_side_by_side_are_refused_with_the_cure(
    tmp_path: Path, picture: str, mask: str, below: str
) -> None:
    pairs(tmp_path / below, picture, mask)
    with pytest.raises(DataError, match=rf"lie side by side.*a00{mask} is the mask of .*a00{picture}") as told:
        open_data(tmp_path)
    assert f"becomes masks/{below}crack/a00.png" in str(told.value)
    report = check(tmp_path)
    assert not report.fit
    assert report.reason is not None and "lie side by side (8 pairs)" in report.reason


def test_masks_that_a_table_lists_like_pictures_are_refused(tmp_path: Path) -> None:
    """Else they would be trained on."""
    pairs(tmp_path / "images")
    names = sorted(path.relative_to(tmp_path / "images").as_posix() for path in tmp_path.rglob("a*.*"))
    rows = "\n".join(f"{name},{'crack' if 'crack' in name else ''}" for name in names)
    (tmp_path / "tags.csv").write_text(f"file_name,tags\n{rows}")
    with pytest.raises(DataError, match=r"becomes masks/crack/a00\.png"):
        open_data(tmp_path)
    content = made.coco_json({f"images/{name}": ("crack",) for name in names}, ("crack",))
    made.write_json(tmp_path / "instances.json", content)
    with pytest.raises(DataError, match=r"becomes masks/crack/a00\.png"):
        open_data(tmp_path, data_format="coco")


def test_masks_that_were_moved_are_masks(tmp_path: Path) -> None:
    """What the message says is done, and the data set is fit."""
    pairs(tmp_path)
    for mask in sorted(tmp_path.rglob("*.png")):
        place = tmp_path / "masks" / mask.relative_to(tmp_path)
        place.parent.mkdir(parents=True, exist_ok=True)
        mask.rename(place)
    (tmp_path / "classes.txt").write_text("crack")
    found = [*open_data(tmp_path).pictures, *open_data(tmp_path, split="val", need_tags=False).pictures]
    assert sorted(each.name for each in found if each.tags) == [f"crack/a0{i}.jpg" for i in range(0, 8, 2)]
    assert len(found) == 8 and all(each.mask is not None for each in found)


@pytest.mark.parametrize("others", [(".jpg", ".png"), (".jpg", ".bmp"), (".png", ".webp")])
def test_two_photographs_of_one_stem_are_no_picture_and_mask(tmp_path: Path, others: tuple[str, str]) -> None:
    for i in range(8):
        for j, suffix in enumerate(others):
            photo(tmp_path / ("cat", "dog")[i % 2] / f"{i}{suffix}", 2 * i + j)
    assert open_data(tmp_path).classes == ("cat", "dog")
    for i in range(8):  # the same picture in both formats
        place = tmp_path / ("cat", "dog")[i % 2]
        Image.open(place / f"{i}{others[0]}").save(place / f"{i}{others[1]}")
    assert open_data(tmp_path).classes == ("cat", "dog")


def test_a_drawing_in_two_formats_is_no_picture_and_mask(tmp_path: Path) -> None:
    for i in range(8):
        write_mask(tmp_path / ("cat", "dog")[i % 2] / f"{i}.png", (90 + i, 120))
        Image.open(tmp_path / ("cat", "dog")[i % 2] / f"{i}.png").save(tmp_path / ("cat", "dog")[i % 2] / f"{i}.jpg")
    open_data(tmp_path)


def test_masks_of_several_labels_and_of_anti_aliased_edges_are_masks(tmp_path: Path) -> None:
    for i in range(6):
        photo(tmp_path / ("cat", "dog")[i % 2] / f"{i}.jpg", i)
        labels = np.zeros((120, 160), dtype=np.uint8)
        labels[10:60, 20:90], labels[70:100, 100:150], labels[5:20, 120:140] = 1, 2, 255
        image = Image.fromarray(labels)
        if i % 3 == 1:
            image = Image.fromarray((labels == 1).astype(np.uint8) * 255).resize((80, 60), Image.BICUBIC)
        elif i % 3 == 2:
            image = image.convert("P")
        image.save(tmp_path / ("cat", "dog")[i % 2] / f"{i}.png")
    with pytest.raises(DataError, match="lie side by side"):
        open_data(tmp_path)


def test_few_pictures_are_opened_and_none_without_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    entropy = masks_beside._entropy
    monkeypatch.setattr(masks_beside, "_entropy", lambda path: (opened.append(path), entropy(path))[1])
    made.imagefolder(tmp_path / "plain")
    open_data(tmp_path / "plain")
    assert not opened
    for i in range(40):
        photo(tmp_path / "twice" / ("cat", "dog")[i % 2] / f"{i}.jpg", 7)
        photo(tmp_path / "twice" / ("cat", "dog")[i % 2] / f"{i}.png", 8)
    open_data(tmp_path / "twice")
    assert len(opened) == 2 * 8


def test_a_broken_file_among_pairs_is_left_to_whoever_reads_it(tmp_path: Path) -> None:
    for i in range(4):
        photo(tmp_path / ("cat", "dog")[i % 2] / f"{i}.jpg", i)
        (tmp_path / ("cat", "dog")[i % 2] / f"{i}.png").write_bytes(b"no picture")
    open_data(tmp_path)


def test_the_layout_of_mvtec_is_refused_with_what_to_do(tmp_path: Path) -> None:
    for i in range(9):
        part, kind = ("train", "good") if i < 3 else ("test", ("good", "broken", "scratched")[i % 3])
        photo(tmp_path / part / kind / f"{i:03}.png", i)
        if kind != "good":
            write_mask(tmp_path / "ground_truth" / kind / f"{i:03}_mask.png", (120, 160))
    with pytest.raises(DataError, match=r"laid out as MVTec AD: train/ shows good alone.*docs/data\.md"):
        open_data(tmp_path)
    assert not check(tmp_path).fit
    photo(tmp_path / "train" / "broken" / "9.png", 9)  # there is something to learn: not its layout any more
    assert open_data(tmp_path).classes == ("broken", "good", "scratched")


# -- classes called as if there were nothing to find ---------------------------------------------------------------


@pytest.mark.parametrize(
    "word",
    ["free", "Good", "OK", "normal", "none", "negative", "negatives", "no defect", "no_defect", "No-Defect", "NoDefect",
     "defect-free", "defect free", "background_2", "empty", "clean", "HEALTHY", "without defects", "no_damage"],
)  # fmt: skip
def test_a_class_without_anything_to_find_is_offered_as_negatives(tmp_path: Path, word: str, capsys) -> None:
    for i in range(12):
        photo(tmp_path / ("crack", word, "dent")[i % 3] / f"{i}.jpg", i)
    finding = next(each for each in open_data(tmp_path).findings if each.code == "empty_classes")
    assert finding.names == (word,)
    assert f"write those into {tmp_path / 'classes.txt'}, one per line (crack, dent);" in finding.cure
    assert finding.severity == "warning"  # in the log of a training too
    (tmp_path / "classes.txt").write_text("crack\ndent")
    pictures = open_data(tmp_path)
    assert pictures.classes == ("crack", "dent")
    assert {Path(each.name).parent.name for each in pictures.pictures if not each.tags} == {word}
    assert "empty_classes" not in {each.code for each in pictures.findings}
    assert cli.main(["check", str(tmp_path)]) == 0
    assert "are negatives" in " ".join(capsys.readouterr().out.split())


def test_what_all_classes_begin_with_does_not_matter() -> None:
    assert names_of_nothing(["MT_Blowhole", "MT_Crack", "MT_Free"]) == ["MT_Free"]
    assert names_of_nothing(["tile good", "tile crack"]) == ["tile good"]
    assert names_of_nothing(["freezer", "goods", "cleaner", "Okapi", "normal map", "healthy food"]) == []
    assert names_of_nothing(["a_1", "a_2"]) == names_of_nothing([]) == []


def test_a_tag_without_anything_to_find_is_said_where_classes_may_not_be_left_out(tmp_path: Path) -> None:
    tagged = made.Tagged({"p00.jpg": ("crack",), "p01.jpg": ("good",), "p02.jpg": ("crack",)}, ("crack", "good"))
    made.plain_folder(tmp_path / "table", tagged)
    finding = next(each for each in open_data(tmp_path / "table").findings if each.code == "empty_classes")
    assert finding.cure.startswith("Leave the tag away, or call it background")
    made.coco(tmp_path / "coco", tagged)
    finding = next(each for each in open_data(tmp_path / "coco").findings if each.code == "empty_classes")
    assert f"{tmp_path / 'coco' / 'classes.txt'}, one per line (crack);" in finding.cure


def test_masks_as_jpeg_are_masks(tmp_path: Path) -> None:
    """Of any quality: what a JPEG adds to two values is little."""
    random = np.random.default_rng(0)
    for quality in (30, 75, 95):
        for size in ((60, 80), (500, 700)):
            coarse = Image.fromarray((random.random((6, 8)) > 0.7).astype(np.uint8) * 255)
            file = io.BytesIO()
            coarse.resize(size[::-1], Image.NEAREST).save(file, "JPEG", quality=quality)
            (tmp_path / "mask.jpg").write_bytes(file.getvalue())
            photo(tmp_path / "photo.jpg", quality)
            names = ("mask.jpg", "photo.jpg")
            assert masks_beside._mask_and_picture(*names, tmp_path.joinpath) == names
