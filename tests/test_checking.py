"""`tag2mask check`: a clean data set, and one defect at a time."""

from __future__ import annotations

import io
import itertools
import json
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import tag2mask
from tag2mask import cli
from tag2mask.data import DataError
from tag2mask.data.readers.class_names import name_findings
from tag2mask.data.storage.fingerprint import NEAR, bits_apart, fingerprint, near_pairs
from tag2mask.jobs.checking import CheckReport, Finding
from tag2mask.jobs.checking.class_findings import class_findings
from tag2mask.jobs.checking.copies import similar_pictures
from tag2mask.jobs.checking.looking import Look


def picture(seed: int, height: int = 120, width: int = 160) -> Image.Image:
    """A smooth picture like no other seed's."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def folder(root: Path, tags: dict[str, str], val: tuple[str, ...] = (), classes: str | None = None) -> Path:
    """A plain folder with a different picture per name; the names in `val` are held out."""
    (root / "images").mkdir(parents=True)
    (root / "splits").mkdir()
    for seed, name in enumerate(tags):
        picture(seed).save(root / "images" / name)
    table(root, tags)
    (root / "splits/train.txt").write_text("\n".join(name for name in tags if name not in val))
    if val:
        (root / "splits/val.txt").write_text("\n".join(val))
    if classes is not None:
        (root / "classes.txt").write_text(classes)
    return root


def table(root: Path, tags: dict[str, str]) -> None:
    (root / "tags.csv").write_text("file_name,tags\n" + "".join(f"{name},{each}\n" for name, each in tags.items()))


def many(*groups: tuple[str, int]) -> dict[str, str]:
    """Tags for so many pictures of each kind."""
    tags = [each for each, count in groups for _ in range(count)]
    return {f"{i:02d}.jpg": each for i, each in enumerate(tags)}


TAGS = many(("cat", 6), ("dog", 6), ("cat;dog", 2), ("", 2))
VAL = ("00.jpg", "06.jpg", "14.jpg")


def check(root: Path, **options) -> CheckReport:
    return tag2mask.check(root, **{"min_images": 3, **options})


def found(report: CheckReport, code: str, split: str = "") -> Finding:
    """The one finding with this code (that names this split)."""
    (finding,) = [each for each in report.findings if each.code == code and split in each.message]
    return finding


def codes(report: CheckReport) -> set[str]:
    return {finding.code for finding in report.findings}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return folder(tmp_path / "data", TAGS, VAL)


def test_a_clean_set(data: Path) -> None:
    report = check(data)
    assert (report.fit, report.reason) == (True, None)
    assert {(f.severity, f.code) for f in report.findings} == {("note", "negatives"), ("note", "no_masks")}
    assert "1 of 13 pictures" in found(report, "negatives").message  # 15.jpg; 14.jpg is held out
    train, val = report.splits["train"], report.splits["val"]
    assert list(report.splits) == ["train", "val"]
    assert (train.num_images, train.num_broken, train.num_negatives, train.num_masks) == (13, 0, 1, 0)
    assert (train.class_counts, val.class_counts) == ({"cat": 7, "dog": 7}, {"cat": 1, "dog": 1})
    assert (train.heights, train.widths) == ((120, 120, 120), (160, 160, 160))
    assert report.side_histogram == ((128, 16),)  # 160 lies in [128, 181)


def test_the_built_in_set_is_clean(builtin: Path) -> None:
    report = tag2mask.check(builtin, crop_size=64)
    assert report.fit
    assert not codes(report) & {"broken", "duplicates", "near_duplicates", "leak", "broken_masks", "blank"}
    assert found(report, "masks_and_tags", "'train'").message.startswith("12 of 12 masks")


def test_broken_pictures_are_named_with_their_reason(data: Path) -> None:
    images = data / "images"
    (images / "01.jpg").write_bytes(b"")
    (images / "02.jpg").write_text("not a picture")
    (images / "03.jpg").write_bytes((images / "03.jpg").read_bytes()[:-400])
    report = check(data)
    finding = found(report, "broken")
    assert (finding.severity, finding.count, report.fit) == ("warning", 3, True)
    assert finding.names[0] == "01.jpg: the file is empty"
    assert finding.names[1] == "02.jpg: not a picture format that can be read"
    assert finding.names[2].startswith("03.jpg: ") and "truncated" in finding.names[2]
    assert report.splits["train"].num_broken == 3
    assert report.splits["train"].class_counts == {"cat": 4, "dog": 7}  # what cannot be read teaches nothing


def test_nothing_readable_is_an_error(data: Path) -> None:
    for path in (data / "images").iterdir():
        path.write_bytes(b"x")
    report = check(data)
    assert not report.fit
    assert "None of the 0 pictures" in (report.reason or "")
    assert found(report, "broken").severity == "error"


def test_equal_files_and_their_tags(data: Path) -> None:
    images = data / "images"
    shutil.copy(images / "01.jpg", images / "02.jpg")  # both cat
    shutil.copy(images / "03.jpg", images / "07.jpg")  # cat and dog
    report = check(data)
    assert found(report, "duplicates").names == ("01.jpg = 02.jpg", "03.jpg = 07.jpg")
    assert found(report, "contradictions").names == ("03.jpg = 07.jpg",)
    assert not codes(report) & {"near_duplicates", "leak"}


def test_near_duplicates_are_found_through_size_quality_and_brightness(data: Path) -> None:
    images = data / "images"
    original = picture(1)
    original.resize((80, 60)).save(images / "02.jpg", quality=50)
    Image.fromarray((np.asarray(original) * 0.8 + 20).astype(np.uint8)).save(images / "03.jpg")
    report = check(data)
    assert found(report, "near_duplicates").names == ("01.jpg = 02.jpg = 03.jpg",)
    assert "duplicates" not in codes(report)


def test_leaks_are_the_same_an_equal_and_a_near_picture(data: Path) -> None:
    images = data / "images"
    shutil.copy(images / "01.jpg", images / "00.jpg")
    picture(2).save(images / "06.jpg", quality=40)
    (data / "splits/val.txt").write_text("00.jpg\n06.jpg\n14.jpg\n09.jpg")
    finding = found(check(data), "leak")
    assert finding.severity == "warning"
    assert "3 of 4 pictures of the split 'val' (75.0%)" in finding.message
    assert "1 listed in both, 1 copied, 1 nearly the same" in finding.message
    assert finding.names == ("09.jpg: in both lists", "00.jpg: looks like 01.jpg", "06.jpg: looks like 02.jpg")


def test_nested_training_lists_are_no_leak(data: Path) -> None:
    (data / "splits/train_small.txt").write_text("01.jpg\n02.jpg")
    report = check(data)
    assert list(report.splits) == ["train", "train_small", "val"]
    assert not codes(report) & {"leak", "duplicates"}


def test_blank_pictures_are_not_near_duplicates(data: Path) -> None:
    for name, colour in (("01.jpg", "grey"), ("02.jpg", "black"), ("07.jpg", "white")):
        Image.new("RGB", (160, 120), colour).save(data / "images" / name)
    report = check(data)
    assert found(report, "blank").names == ("01.jpg", "02.jpg", "07.jpg")
    assert "near_duplicates" not in codes(report)


def test_every_unknown_tag_is_named_and_pictures_are_checked_all_the_same(tmp_path: Path) -> None:
    tags = many(("cat", 4), ("dgo", 3), ("dog", 3), ("horse", 1))
    data = folder(tmp_path / "data", tags, classes="cat\ndog")
    (data / "images/00.jpg").write_bytes(b"x")
    report = check(data)
    assert not report.fit
    assert "line 6: unknown class 'dgo'" in (report.reason or "")
    assert found(report, "unknown_tags").names == (
        "'dgo': 3 pictures, first on line 6, did you mean 'dog'?",
        "'horse': 1 picture, first on line 12",
    )
    assert list(report.splits) == ["files"]
    assert report.splits["files"].class_counts is None
    assert found(report, "broken").count == 1


def test_missing_rows_and_missing_pictures(data: Path) -> None:
    picture(90).save(data / "images/extra.jpg")
    assert found(check(data), "missing_tags").names == ("extra.jpg",)
    table(data, {**TAGS, "gone.jpg": "cat", "lost.jpg": "dog"})
    report = check(data)
    assert not report.fit
    assert found(report, "missing_pictures").names == ("gone.jpg (line 18)", "lost.jpg (line 19)")
    assert found(report, "unreadable").message.count("gone.jpg") == 1


def test_no_tag_table_at_all(data: Path) -> None:
    (data / "tags.csv").unlink()
    report = check(data)
    assert not report.fit
    assert "no tags.csv" in (report.reason or "")


def test_a_broken_list_is_an_error_for_the_training_split_only(data: Path) -> None:
    (data / "splits/other.txt").write_text("nothing.jpg")
    report = check(data)
    assert report.fit
    assert found(report, "unreadable").severity == "warning"
    report = check(data, train_split="other")
    assert not report.fit
    assert "nothing.jpg" in (report.reason or "")


def test_an_empty_held_out_list_is_said(data: Path) -> None:
    (data / "splits/val.txt").write_text("\n")
    report = check(data)
    assert report.fit
    assert "lists no picture" in found(report, "unreadable").message
    assert "nothing_held_out" in codes(report)


def test_a_folder_per_class_with_splits(tmp_path: Path) -> None:
    for seed in range(12):
        path = tmp_path / ("val" if seed > 9 else "train") / ("cat", "dog")[seed % 2] / f"{seed}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(seed).save(path)
    picture(0).save(tmp_path / "val/cat/again.jpg", quality=60)
    report = check(tmp_path)
    assert (report.data_format, list(report.splits)) == ("imagefolder", ["train", "val"])
    assert report.splits["train"].class_counts == {"cat": 5, "dog": 5}
    (leak,) = found(report, "leak").names
    assert "again.jpg: looks like" in leak and leak.endswith("0.jpg")
    assert report.fit


def test_there_must_be_a_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder"):
        check(tmp_path / "none")
    with pytest.raises(DataError, match="no known data set"):
        check(tmp_path)


def test_a_missing_split_to_train_on(data: Path) -> None:
    report = check(data, train_split="trian")
    assert not report.fit
    assert "no split 'trian'; splits: train, val" in (report.reason or "")
    assert list(report.splits) == ["train", "val"]


def test_held_out_pictures_without_tags(tmp_path: Path) -> None:
    """VOC: rows of val are missing; masks make up for it, nothing does without them."""
    root = tmp_path / "voc"
    lists = root / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (root / "JPEGImages").mkdir()
    (root / "SegmentationClass").mkdir()
    for seed in range(14):
        picture(seed).save(root / f"JPEGImages/{seed:02d}.jpg")
    (lists / "train.txt").write_text("\n".join(f"{i:02d}" for i in range(12)))
    (lists / "val.txt").write_text("12\n13")
    (root / "classes.txt").write_text("cat\ndog")
    table(root, {f"{i:02d}.jpg": ("cat", "dog", "")[i % 3] for i in range(12)} | {"99.jpg": "anything"})
    report = check(root)
    assert report.fit and found(report, "no_tags").severity == "warning"
    assert report.splits["val"].class_counts is None
    for name in ("12", "13"):
        Image.new("P", (160, 120)).save(root / f"SegmentationClass/{name}.png")
    report = check(root)
    assert not codes(report) & {"no_tags", "missing_tags", "unknown_tags"}
    (lists / "train.txt").write_text("\n".join(f"{i:02d}" for i in range(13)))
    report = check(root)
    assert not report.fit
    assert found(report, "missing_tags").names == ("12.jpg",)


def tag_matrix(*rows: tuple[str, int], classes: str = "abc") -> np.ndarray:
    return np.array([[name in tags for name in classes] for tags, count in rows for _ in range(count)], dtype=bool)


def class_codes(*rows: tuple[str, int], classes: str = "abc") -> dict[str, Finding]:
    findings = class_findings(tag_matrix(*rows, classes=classes), tuple(classes), "train", 10)
    assert len({finding.code for finding in findings}) == len(findings)
    return {finding.code: finding for finding in findings}


GOOD = (("a", 20), ("b", 20), ("c", 20), ("abc", 5), ("", 5))


def test_balanced_classes_have_no_finding_but_the_share_of_negatives() -> None:
    found = class_codes(*GOOD)
    assert set(found) == {"negatives"}
    assert "5 of 70 pictures" in found["negatives"].message and "7.1%" in found["negatives"].message


def test_rare_and_absent_classes() -> None:
    found = class_codes(("a", 20), ("b", 9), ("", 3), classes="abc")
    assert found["rare_class"].names == ("b (9)",)
    assert found["absent_class"].names == ("c",)
    assert found["absent_class"].severity == "warning"


def test_pairs_that_always_occur_together_cannot_be_separated() -> None:
    found = class_codes(("ab", 19), ("a", 1), ("c", 20), ("", 5))
    assert found["always_together"].names == ("a and b (19 of 20 pictures)",)  # 19 / 20 is the limit of 95 %
    assert "cannot separate" in found["always_together"].message
    assert "always_together" not in class_codes(("ab", 18), ("a", 1), ("c", 20), ("", 5))


def test_a_class_that_never_occurs_without_another() -> None:
    found = class_codes(("ab", 20), ("b", 40), ("c", 20))
    assert found["never_without"].names == ("a: 20 of 20 pictures also show b",)
    assert "always_together" not in found
    assert "never_without" not in class_codes(("ab", 4), ("b", 40), ("c", 20), ("", 1))  # four pictures are no evidence


def test_a_class_on_every_picture_is_like_the_background() -> None:
    found = class_codes(("ab", 30), ("ac", 30))
    assert found["everywhere"].names == ("a (60 of 60)",)
    assert found["everywhere"].severity == "warning"
    assert "never_without" not in found  # that b and c come with a says nothing beyond


@pytest.mark.parametrize("rows", [(("a", 30),), (("ab", 30),), (("abc", 2),)])
def test_nothing_to_learn_where_every_class_is_on_all_pictures_or_none(rows: tuple[tuple[str, int], ...]) -> None:
    found = class_codes(*rows)
    assert found["nothing_to_learn"].severity == "error"
    assert "negatives" in found["nothing_to_learn"].cure
    assert "everywhere" not in found


def test_one_class_with_negatives_is_fit() -> None:
    assert set(class_codes(("a", 20), ("", 20), classes="a")) == {"negatives"}


def test_mostly_negatives() -> None:
    assert class_codes(("a", 10), ("b", 10), ("c", 10), ("", 300))["negatives"].severity == "warning"


def test_two_spellings_of_one_class() -> None:
    findings = name_findings(("Traffic light", "traffic_light"))
    assert [f.names for f in findings if f.code == "spellings"] == [("Traffic light / traffic_light",)]


def test_a_single_class_without_negatives_ends_with_code_1_and_the_reason(tmp_path: Path, capsys) -> None:
    data = folder(tmp_path / "data", many(("cat", 8)))
    assert cli.main(["check", str(data)]) == 1
    told = capsys.readouterr().out
    assert "NOT fit to train on: 1 error" in told
    assert "because: Every one of the 8 pictures of the split 'train' is tagged cat" in told
    assert "tag2mask train" not in told
    assert told.splitlines()[-1] == f"next: tag2mask check {data} --out check.html"  # once it is corrected


def test_pictures_in_shards_are_looked_at(tmp_path: Path) -> None:
    data = folder(tmp_path / "plain", TAGS)
    with tarfile.open(tmp_path / "0.tar", "w") as shard:
        for name, tags in TAGS.items():
            shard.add(data / "images" / name, name)
            member = tarfile.TarInfo(f"{Path(name).stem}.txt")
            member.size = len(tags)
            shard.addfile(member, io.BytesIO(tags.encode()))
    report = check(tmp_path / "0.tar")
    assert (report.data_format, report.fit) == ("webdataset", True)
    assert sum(split.num_broken for split in report.splits.values()) == 0
    assert report.splits["train"].heights == (120, 120, 120)


def test_classes_that_the_held_out_split_lacks(data: Path) -> None:
    (data / "splits/val.txt").write_text("00.jpg")
    finding = found(check(data), "absent_class", "'val'")
    assert (finding.severity, finding.names) == ("note", ("dog",))


def test_odd_sizes_and_modes(data: Path) -> None:
    images = data / "images"
    picture(50, 40, 50).save(images / "01.jpg")
    picture(51, 60, 300).save(images / "02.jpg")
    picture(52).convert("L").save(images / "03.jpg")
    picture(53).convert("CMYK").save(images / "04.jpg")
    Image.fromarray(np.arange(160 * 120, dtype=np.uint16).reshape(120, 160)).save(images / "05.png")
    rgba = picture(54).convert("RGBA")
    rgba.putalpha(128)
    rgba.save(images / "07.png")
    picture(55).save(images / "08.gif", save_all=True, append_images=[picture(56), picture(57)])
    table(data, {**TAGS, "05.png": "cat", "07.png": "dog", "08.gif": "dog"})
    (data / "splits/train.txt").write_text("\n".join(f"{i:02d}.jpg" for i in range(1, 6)) + "\n05.png\n07.png\n08.gif")
    report = check(data)
    assert found(report, "tiny").names == ("01.jpg (40 x 50)",)
    assert found(report, "elongated").names == ("02.jpg (60 x 300)",)
    assert found(report, "grey").names == ("03.jpg", "05.png")
    assert found(report, "cmyk").names == ("04.jpg",)
    assert found(report, "deep").names == ("05.png",)
    assert found(report, "alpha").names == ("07.png",)
    assert found(report, "animated").names == ("08.gif",)
    assert report.splits["train"].heights == (40, 120, 120)
    assert report.splits["train"].widths == (50, 160, 300)
    assert report.side_histogram == ((45, 1), (64, 0), (91, 0), (128, 9), (181, 0), (256, 1))
    assert "tiny" not in codes(check(data, crop_size=100))


def test_masks_are_counted_against_tags_without_names(data: Path) -> None:
    (data / "masks").mkdir()
    ids = {"01": 1, "02": 2, "03": 0, "07": 2, "00": 1}  # 01, 07 agree, 02 shows dog for cat, 03 lacks cat
    for name, label in ids.items():
        mask = np.zeros((120, 160), np.uint8)
        mask[:40], mask[100:] = label, 255
        Image.fromarray(mask).save(data / f"masks/{name}.png")
    report = check(data)
    finding = found(report, "masks_and_tags", "'train'")
    assert (finding.severity, finding.names) == ("note", ())
    assert "2 of 4 masks of the split 'train' show just the classes" in finding.message
    assert "1 show a class that is no tag, 2 lack a class that is one" in finding.message
    assert report.splits["val"].num_masks == 1
    Image.new("RGB", (160, 120)).save(data / "masks/01.png")
    Image.new("L", (120, 160)).save(data / "masks/07.png")
    report = check(data)
    assert [name.split(":")[0] for name in found(report, "broken_masks").names] == ["01.jpg", "07.jpg"]
    assert found(report, "masks_and_tags", "'train'").severity == "warning"  # none of two agrees


def test_tags_may_come_from_masks(tmp_path: Path) -> None:
    data = folder(tmp_path / "data", TAGS, classes="cat\ndog")
    (data / "tags.csv").unlink()
    (data / "masks").mkdir()
    for i in range(16):
        Image.new("L", (160, 120), i % 3).save(data / f"masks/{i:02d}.png")
    assert not check(data).fit
    report = check(data, tags_from="masks")
    assert report.fit
    assert report.splits["train"].class_counts == {"cat": 5, "dog": 5}


def test_nothing_held_out(tmp_path: Path) -> None:
    assert "nothing_held_out" in codes(check(folder(tmp_path / "data", TAGS)))


def test_first_twenty_names_and_their_number(tmp_path: Path) -> None:
    data = folder(tmp_path / "data", many(("cat", 30), ("dog", 5), ("", 2)))
    for path in sorted((data / "images").iterdir())[:25]:
        path.write_bytes(b"")
    finding = found(check(data), "broken")
    assert (len(finding.names), finding.count) == (20, 25)


def test_threads_and_progress_change_nothing(data: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    one = check(data, jobs=1, progress=lambda *each: seen.append(each))
    assert [(done, total) for done, total, _ in seen] == [(i + 1, 16) for i in range(16)]
    assert check(data, jobs=5).as_dict() == one.as_dict()


@pytest.mark.parametrize("options", [{"min_images": 0}, {"crop_size": 1}, {"jobs": -1}, {"out": "report.txt"}])
def test_bad_options(data: Path, options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        check(data, **options)


def test_command_json_and_page(data: Path, tmp_path: Path, capsys) -> None:
    shutil.copy(data / "images/01.jpg", data / "images/00.jpg")
    (data / "images/02.jpg").write_bytes(b"x")
    page = tmp_path / "pages/check.html"
    assert cli.main(["check", str(data), "--out", str(page), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["fit"] is True and values["reason"] is None
    assert values["splits"]["val"]["class_counts"] == {"cat": 1, "dog": 1}
    assert {each["code"] for each in values["findings"]} >= {"broken", "leak", "duplicates", "negatives"}
    assert set(values["findings"][0]) == {"severity", "code", "message", "cure", "names", "count"}
    assert values["out"] == str(page)
    text = page.read_text()
    assert not re.search(r"https?://|<script", text)
    assert set(re.findall(r'src="(\w+):', text)) == {"data"}
    assert text.count("<img") == 4  # the leak and the duplicates, two pictures each
    assert text.count('class="none"') == 1  # the broken one
    assert "00.jpg: looks like 01.jpg" in text and 'name="viewport"' in text
    assert [p.name for p in page.parent.iterdir()] == ["check.html"]


def test_command_without_out_writes_nothing_and_says_how(data: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(["check", str(data)]) == 0
    told = capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before
    assert re.search(r"^pictures +13 +3$", told, re.MULTILINE)
    assert re.search(r"^cat +7 +1$", told, re.MULTILINE)
    assert "--out check.html" in told and f"next: tag2mask train small --data {data}" in told


def test_names_are_escaped_on_the_page(tmp_path: Path) -> None:
    data = folder(tmp_path / "data", {**many(("<b>cat</b>", 6), ("", 3)), "x&<i>.jpg": "<b>cat</b>"})
    (data / "images/x&<i>.jpg").write_bytes(b"")
    check(data, out=tmp_path / "check.html")
    text = (tmp_path / "check.html").read_text()
    assert "<i>" not in text and "<b>cat" not in text
    assert "x&amp;&lt;i&gt;.jpg: the file is empty" in text


def test_check_does_not_import_torch(data: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom tag2mask.cli import main\n"
        f"code = main(['check', {str(data)!r}, '--out', {str(tmp_path / 'c.html')!r}])\n"
        "sys.exit(9 if 'torch' in sys.modules else code)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120).returncode == 0


def near_by_brute_force(fingerprints: list[int]) -> set[tuple[int, int]]:
    indexed = enumerate(fingerprints)
    return {(i, j) for (i, a), (j, b) in itertools.combinations(indexed, 2) if (a ^ b).bit_count() <= NEAR}


@given(
    st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(0, 5), st.sets(st.integers(0, 63), max_size=NEAR + 2)), max_size=30),
)
def test_near_pairs_are_those_of_all_comparisons(centres: list[int], changes: list[tuple[int, set[int]]]) -> None:
    planted = [centres[i % len(centres)] ^ sum(1 << bit for bit in bits) for i, bits in changes]
    every = list(dict.fromkeys([*centres, *planted]))
    got = {
        (min(i, j), max(i, j))
        for one, two in near_pairs(np.array(every, dtype=np.uint64))
        for i, j in zip(one.tolist(), two.tolist(), strict=True)
    }
    assert got == near_by_brute_force(every)


def test_near_pairs_in_many_chunks(monkeypatch) -> None:
    monkeypatch.setattr("tag2mask.data.storage.fingerprint._CHUNK", 7)
    fingerprints = [0b1111 ^ (1 << i) ^ (1 << j) for i, j in itertools.combinations(range(0, 64, 3), 2)]
    test = np.array(sorted(set(fingerprints)), dtype=np.uint64)
    got = {frozenset(pair) for one, two in near_pairs(test) for pair in zip(one.tolist(), two.tolist(), strict=True)}
    assert got == {frozenset(pair) for pair in near_by_brute_force(test.tolist())}


def test_bits_are_counted_without_numpy_2_too(monkeypatch) -> None:
    one = np.array([0, 1, 2**64 - 1, 2**63 + 5], dtype=np.uint64)
    two = np.array([0, 2, 0, 4], dtype=np.uint64)
    assert bits_apart(one, two).tolist() == [0, 2, 64, 2]
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert bits_apart(one, two).tolist() == [0, 2, 64, 2]


def test_a_fingerprint_ignores_size_and_contrast_and_sees_flat_pictures() -> None:
    bits, flat = fingerprint(np.asarray(picture(7, 240, 320)))
    smaller, _ = fingerprint((np.asarray(picture(7, 120, 160)) * 0.6 + 30).astype(np.uint8))
    other, _ = fingerprint(np.asarray(picture(8)))
    assert not flat
    assert (bits ^ smaller).bit_count() <= 3 < 12 < (bits ^ other).bit_count()
    assert fingerprint(np.full((9, 5, 3), 77, np.uint8))[1]


def test_groups_follow_chains_and_twins_are_near_themselves() -> None:
    steps = [0, 2**5 - 1, 2**10 - 1, 2**15 - 1, 2**63 - 1]  # 5 bits from one to the next, 15 from first to fourth
    looks = [Look(None, bytes([i]), bits, height=1, width=1) for i, bits in enumerate(steps)]
    looks.append(Look("broken"))
    group, twin = similar_pictures(looks, trained=np.array([0, 5]))
    assert group.tolist() == [0, 0, 0, 0, 4, 5]
    assert twin.tolist() == [0, 0, -1, -1, -1, -1]
