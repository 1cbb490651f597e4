"""The PASCAL VOC tree."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tag2mask.data import VOC_CLASSES, DataError, MissingDataError, SplitError, open_data, read_mask
from tag2mask.data.dataset import MaskCodes
from tag2mask.data.masks.labels import codes_by_name
from tag2mask.data.readers.voc import mask_classes

IDS = ("2007_000001", "2007_000002", "2007_000003")


def tree(root: Path, **lists: tuple[str, ...]) -> Path:
    (root / "JPEGImages").mkdir(parents=True)
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    for name in IDS:
        Image.new("RGB", (4, 3)).save(root / "JPEGImages" / f"{name}.jpg")
    for split, ids in lists.items():
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(ids) + "\n")
    return root


def annotate(root: Path, name: str, *objects: str) -> None:
    (root / "Annotations").mkdir(exist_ok=True)
    body = "".join(f"<object><name>{o}</name><part><name>head</name></part></object>" for o in objects)
    (root / f"Annotations/{name}.xml").write_text(f"<annotation>\n{body}</annotation>")


def names(pictures: object) -> list[str]:
    return [p.name for p in pictures.pictures]  # type: ignore[attr-defined]


def test_default_split_is_train_aug_if_there_and_named_splits_are_exact(tmp_path: Path) -> None:
    root = tree(tmp_path, train=IDS[:1], train_aug=IDS[:2], val=IDS[2:])
    (root / "tags.csv").write_text("file_name,tags\n" + "".join(f"{i}.jpg,cat\n" for i in IDS))
    assert names(open_data(root)) == [f"{i}.jpg" for i in IDS[:2]]
    assert open_data(root).split == "train_aug"
    assert names(open_data(root, split="train")) == [f"{IDS[0]}.jpg"]
    assert names(open_data(root, split="val")) == [f"{IDS[2]}.jpg"]
    (root / "ImageSets/Segmentation/train_aug.txt").unlink()
    assert names(open_data(root)) == [f"{IDS[0]}.jpg"]
    with pytest.raises(SplitError, match="no split 'test'; splits: train, val"):
        open_data(root, split="test")
    with pytest.raises(SplitError, match="'test'"):
        open_data(root, split="test")
    (tmp_path / "mine.txt").write_text(f"/JPEGImages/{IDS[1]}.jpg /SegmentationClassAug/{IDS[1]}.png\n")
    assert names(open_data(root, split=tmp_path / "mine.txt")) == [f"{IDS[1]}.jpg"]


def test_missing_train_aug_says_what_to_add(tmp_path: Path) -> None:
    root = tree(tmp_path, train=IDS[:1], val=IDS[2:])
    with pytest.raises(SplitError) as caught:
        open_data(root, split="train_aug")
    told = str(caught.value)
    for part in ("train_aug.txt", "splits: train, val", "10,582", "one picture id per line", "Annotations/*.xml",
                 "tags.csv", "masks are not needed", "train_split train"):  # fmt: skip
        assert part in told
    annotate(root, IDS[0], "cat")
    assert names(open_data(root, split="train")) == [f"{IDS[0]}.jpg"]
    (root / "ImageSets/Segmentation/train_aug.txt").write_text(f"{IDS[0]}\n")
    assert names(open_data(root, split="train_aug")) == [f"{IDS[0]}.jpg"]


def test_tags_csv_wins_over_annotations_and_rows_outside_the_list_are_ignored(tmp_path: Path) -> None:
    root = tree(tmp_path, train=IDS[:2])
    for name in IDS:
        annotate(root, name, "cow")
    rows = [f"{IDS[0]}.jpg,dog;cat", f"JPEGImages/{IDS[1]}.jpg,", "other.jpg,unicorn", "other.jpg,unicorn"]
    (root / "tags.csv").write_text("\n".join(["file_name,tags", *rows]))
    pictures = open_data(root)
    assert pictures.classes == VOC_CLASSES
    assert [p.tags for p in pictures.pictures] == [(VOC_CLASSES.index("cat"), VOC_CLASSES.index("dog")), ()]


def test_tags_from_annotations(tmp_path: Path) -> None:
    root = tree(tmp_path, train=IDS[:2])
    annotate(root, IDS[0], "dog", "person", "dog", "car")
    annotate(root, IDS[1], "sofa")
    (root / "classes.txt").write_text("person\ndog\n")
    # car and sofa are VOC classes that classes.txt leaves out: no tag, no error; parts of objects do not count
    assert [p.tags for p in open_data(root).pictures] == [(0, 1), ()]
    annotate(root, IDS[1], "unicorn")
    with pytest.raises(DataError, match=rf"{IDS[1]}\.xml: unknown class 'unicorn'"):
        open_data(root)
    (root / f"Annotations/{IDS[1]}.xml").write_text("<annotation>\n<object>")
    with pytest.raises(DataError, match=rf"{IDS[1]}\.xml line 2: not valid XML"):
        open_data(root)
    (root / f"Annotations/{IDS[1]}.xml").unlink()
    with pytest.raises(MissingDataError, match=rf"{IDS[1]}\.xml"):
        open_data(root)


def test_errors(tmp_path: Path) -> None:
    root = tree(tmp_path, train=IDS[:2], twice=(*IDS, IDS[0]), gone=(IDS[0], "2007_000009"), out=("../x",))
    with pytest.raises(MissingDataError, match=r"neither tags\.csv nor Annotations.*tags_from='masks'"):
        open_data(root)
    assert [p.tags for p in open_data(root, need_tags=False).pictures] == [(), ()]
    (root / "tags.csv").write_text(f"file_name,tags\n{IDS[0]}.jpg,cat\n")
    with pytest.raises(DataError, match=rf"train\.txt line 2: '{IDS[1]}' has no row in .*tags\.csv"):
        open_data(root)
    with pytest.raises(DataError, match=r"twice\.txt line 4: .* already on line 1"):
        open_data(root, split="twice")
    with pytest.raises(FileNotFoundError, match=r"gone\.txt line 2: there is no picture .*2007_000009\.jpg"):
        open_data(root, split="gone")
    with pytest.raises(DataError, match="leaves the picture folder"):
        open_data(root, split="out")
    (root / "tags.csv").write_text(f"file_name,tags\n{IDS[0]}.jpg,cat\n{IDS[1]}.jpg,cats\n")
    with pytest.raises(DataError, match=r"tags\.csv line 3: unknown class 'cats'.*Did you mean 'cat'"):
        open_data(root)


def voc_codes(classes: tuple[str, ...], *, others: str) -> np.ndarray:
    return MaskCodes.of(codes_by_name(mask_classes(classes), classes), others=others).table


def test_mask_ids_are_mapped_by_class_name(caplog: pytest.LogCaptureFixture) -> None:
    codes = voc_codes(("dog", "aeroplane"), others="ignore")
    # VOC ids: aeroplane 1, dog 12, tvmonitor 20
    np.testing.assert_array_equal(codes[[0, 1, 12, 20, 2, 100, 255]], [0, 2, 1, 255, 255, 255, 255])
    codes = voc_codes(("dog", "aeroplane"), others="background")
    np.testing.assert_array_equal(codes[[0, 1, 12, 20, 2, 100, 255]], [0, 2, 1, 0, 0, 0, 255])
    np.testing.assert_array_equal(voc_codes(VOC_CLASSES, others="ignore")[:21], np.arange(21))
    np.testing.assert_array_equal(voc_codes(("nail", "screw"), others="ignore")[[0, 1, 2, 3, 255]], [0, 1, 2, 255, 255])
    with caplog.at_level(logging.WARNING):
        voc_codes(("dog", "unicorn"), others="ignore")
    assert "unicorn" in caplog.text


def test_masks_come_from_the_augmented_folder_first(tmp_path: Path) -> None:
    root = tree(tmp_path, val=IDS)
    for folder, ids in (("SegmentationClass", IDS[:2]), ("SegmentationClassAug", IDS[:1])):
        (root / folder).mkdir()
        for name in ids:
            image = Image.fromarray(np.array([[0, 12, 255]], np.uint8), mode="P")
            image.putpalette([0] * 768)
            image.save(root / folder / f"{name}.png")
    pictures = open_data(root, split="val", need_tags=False)
    expected = [root / f"SegmentationClassAug/{IDS[0]}.png", root / f"SegmentationClass/{IDS[1]}.png", None]
    assert [p.mask for p in pictures.pictures] == expected
    (root / "ImageSets/Segmentation/two.txt").write_text("\n".join(IDS[:2]))
    assert [p.tags for p in open_data(root, split="two", tags_from="masks").pictures] == [(11,), (11,)]


REAL = Path(os.environ.get("TAG2MASK_DATA", Path(__file__).parents[1].parent / "shared/data/voc12_animals"))


@pytest.mark.skipif(not REAL.is_dir(), reason="the real pictures are not here")
def test_real_tree() -> None:
    train, val = open_data(REAL), open_data(REAL, split="val")
    assert (len(train.pictures), len(open_data(REAL, split="train").pictures), len(val.pictures)) == (3131, 437, 225)
    assert train.classes == ("cat", "cow", "dog", "horse", "person", "sheep")
    assert all(p.mask is not None and p.tags for p in (*train.pictures, *val.pictures))
    # VOC ids of the six classes
    np.testing.assert_array_equal(train.mask_codes[[0, 8, 10, 12, 13, 15, 17, 1, 255]], [0, 1, 2, 3, 4, 5, 6, 255, 255])
    for picture in val.pictures[:20]:
        assert picture.mask is not None
        seen = set(np.unique(read_mask(picture.mask, val.mask_codes))) - {0, 255}
        assert seen == {tag + 1 for tag in picture.tags}
