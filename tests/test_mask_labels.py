"""Masks and what stands in them: class lists, foreign ids, colors, file names, and what is refused before any work."""

from __future__ import annotations

import json
import logging
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tag2mask
from tag2mask import cli
from tag2mask.config import RetrainConfig, load_config
from tag2mask.data import DataError, PictureError, open_data, read_mask, voc_palette
from tag2mask.data.masks.labels import MaskFiles, given_codes, mask_list, parsed_mask_ids
from tag2mask.data.masks.survey import survey, with_measuring_masks
from tag2mask.data.readers.voc import VOC_CLASSES
from tag2mask.data.storage.labelmap import packed, read_labelmap
from tag2mask.data.storage.pictures import shown_size
from tag2mask.jobs.converting.run import convert
from tag2mask.jobs.predicting.run import predict
from tag2mask.jobs.pseudo_labels import pseudo_label
from tag2mask.outputs.render import save_mask
from tag2mask.runs.checkpoints import save_model
from tag2mask.scoring.evaluation import evaluate
from tag2mask.training.first_step import train, with_some_masks
from tag2mask.training.second_step import retrain

CLASSES = ("ball", "crate", "leaf")
SIDE = 24


def a_set(root: Path, ids=lambda label: label, *, mode: str = "P", classes=CLASSES, count: int = 12) -> Path:
    """Pictures with one class each and a square of it in the mask; every fifth is a negative. val: the last third."""
    rng = np.random.default_rng(0)
    rows, names = ["file_name,tags"], [f"{i:02d}.png" for i in range(count)]
    for i, name in enumerate(names):
        label = 0 if i % 5 == 4 else 1 + i % len(classes)
        rgb = rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
        (root / "images").mkdir(parents=True, exist_ok=True)
        Image.fromarray(rgb).save(root / "images" / name)
        labels = np.zeros((SIDE, SIDE), np.uint8)
        labels[4:14, 6:18] = label
        write_mask(root / "masks" / name, np.vectorize(lambda x: ids(x) if x else 0)(labels).astype(np.uint8), mode)
        rows.append(f"{name},{classes[label - 1] if label else ''}")
    (root / "tags.csv").write_text("\n".join(rows) + "\n")
    (root / "classes.txt").write_text("\n".join(classes) + "\n")
    (root / "splits").mkdir()
    (root / "splits" / "train.txt").write_text("\n".join(names[: count * 2 // 3]) + "\n")
    (root / "splits" / "val.txt").write_text("\n".join(names[count * 2 // 3 :]) + "\n")
    return root


COLORS = {0: (0, 0, 0), 1: (250, 50, 10), 2: (0, 200, 40), 3: (20, 30, 240), 255: (224, 224, 192)}


def write_mask(path: Path, ids: np.ndarray, mode: str = "P") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if mode == "P":
        save_mask(path, ids)
    elif mode == "L":
        Image.fromarray(ids).save(path)
    else:
        table = np.zeros((256, 3), np.uint8)
        for label, color in COLORS.items():
            table[label] = color
        if mode == "RGB":
            Image.fromarray(table[ids]).save(path)
        else:  # a palette of those colors in another order than the labels
            image = Image.fromarray((255 - ids).astype(np.uint8), mode="L")
            image.putpalette(table[::-1].tobytes())
            image.save(path)


def labelmap(folder: Path, names=CLASSES, colors=COLORS) -> None:
    lines = [f"{name}:{','.join(map(str, colors[i]))}::" for i, name in enumerate(names, start=1)]
    (folder / "labelmap.txt").write_text("\n".join(["# label:color_rgb:parts:actions", "background:0,0,0::", *lines]))


def codes_of(findings) -> set[str]:
    return {each.code for each in findings}


def tiny(data: Path, out: Path, **changes) -> RetrainConfig:
    from tag2mask.config import AugmentConfig

    config = RetrainConfig.preset("small", data=str(data), out=str(out))
    return config.replace(
        backbone="test_efficientnet", weights="none", image_size=64, batch_size=2, supervised_steps=1, workers=0,
        sample_every=0, augment=AugmentConfig(crop_size=64), own_masks="masks" not in changes, **changes,
    )  # fmt: skip


# -- masks travel with their class list ----------------------------------------------------------------------------------


@pytest.fixture
def reordered(segmenter, builtin, tmp_path):
    """The built-in set with the run's classes in another order, in files and masks alike."""
    data = tmp_path / "reordered"
    shutil.copytree(builtin, data)
    names = list(segmenter.classes)
    (data / "classes.txt").write_text("\n".join(names[::-1]) + "\n")
    table = np.arange(256, dtype=np.uint8)
    table[1 : len(names) + 1] = np.arange(len(names), 0, -1)
    for path in (data / "masks").rglob("*.png"):
        save_mask(path, table[np.asarray(Image.open(path))])
    return data


def test_masks_of_a_run_score_as_the_run_whatever_the_order_of_classes(segmenter, builtin, reordered, tmp_path):
    predict(segmenter, [reordered / "images"], tmp_path / "o", formats=("png", "ids"))
    whole = evaluate(segmenter, data=builtin)
    for folder in ("masks", "ids"):
        for data in (builtin, reordered):
            report = evaluate(masks=tmp_path / "o" / folder, data=data)
            assert report.miou == pytest.approx(whole.miou)
            assert report.iou == pytest.approx(whole.iou)
            labels = report.protocol["labels"]
            order = [labels.index(name) for name in whole.protocol["labels"]]
            np.testing.assert_array_equal(report.confusion[np.ix_(order, order)], whole.confusion)
    report = evaluate(segmenter, data=reordered)
    assert report.protocol["labels"] == ["background", *segmenter.classes], "the rows of its confusion"


def test_a_run_and_its_masks_agree_on_classes_that_only_one_side_has(segmenter, builtin, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(builtin, data)
    (data / "classes.txt").write_text("starfish\nleaf\nzebra\n")
    predict(segmenter, [data / "images"], tmp_path / "o")
    (data / "tags.csv").unlink()
    one, two = evaluate(segmenter, data=data), evaluate(masks=tmp_path / "o/masks", data=data)
    assert two.iou == pytest.approx(one.iou)
    assert two.miou == pytest.approx(one.miou)
    assert two.protocol["classes_counted_as_255"] == one.protocol["classes_counted_as_255"] == ["zebra"]
    (tmp_path / "o/classes.txt").write_text("wolf\n")
    with pytest.raises(DataError, match=r"No class in common: by .*classes.txt the classes of the masks are wolf"):
        evaluate(masks=tmp_path / "o/masks", data=data)


def test_pseudo_labels_teach_by_name(segmenter, builtin, reordered, tmp_path):
    pseudo_label(segmenter, data=reordered, out=tmp_path / "p")
    assert (tmp_path / "p/classes.txt").read_text().split() == list(segmenter.classes)[::-1]
    (tmp_path / "p/classes.txt").unlink()
    for _ in range(2):  # by pseudo_labels.json, as an older call left it, then by classes.txt
        codes = given_codes(tmp_path / "p", open_data(builtin).classes)
        assert codes[:6].tolist() == [0, 5, 4, 3, 2, 1]
        assert given_codes(tmp_path / "p", open_data(reordered).classes)[:6].tolist() == [0, 1, 2, 3, 4, 5]
        (tmp_path / "p/pseudo_labels.json").unlink(missing_ok=True)
        (tmp_path / "p/classes.txt").write_text("\n".join(reversed(segmenter.classes)))


def test_masks_that_do_not_know_a_class_do_not_teach(tmp_path):
    data = a_set(tmp_path / "data")
    shutil.copytree(data / "masks", tmp_path / "m")
    (tmp_path / "m/classes.txt").write_text("leaf\nball\n")
    match = r"do not know crate: by .*classes.txt their classes are leaf, ball, those of the data set ball, crate, leaf"
    with pytest.raises(DataError, match=match):
        retrain(tiny(data, tmp_path / "r", masks=str(tmp_path / "m")))
    with pytest.raises(DataError, match=match):
        with_some_masks(open_data(data), tmp_path / "m")
    (tmp_path / "m/classes.txt").write_text("wolf\nleaf\nball\ncrate\n")
    assert given_codes(tmp_path / "m", CLASSES)[:6].tolist() == [0, 255, 3, 1, 2, 255]
    assert with_some_masks(open_data(data), tmp_path / "m").mask_codes[2] == 3
    assert not (tmp_path / "r").exists()


def test_own_masks_may_have_a_list_of_their_own(tmp_path):
    data = a_set(tmp_path / "data", lambda label: 4 - label)
    (data / "masks/classes.txt").write_text("leaf\ncrate\nball\n")
    pictures = open_data(data)
    assert pictures.mask_codes[:4].tolist() == [0, 3, 2, 1]
    tally = survey(pictures, pictures.pictures)
    assert not tally.findings()
    out = convert(data, to="folder", out=tmp_path / "plain")
    assert out.findings == ()
    again = open_data(tmp_path / "plain")
    for one, two in zip(pictures.pictures, again.pictures, strict=True):
        np.testing.assert_array_equal(read_mask(one.mask, pictures.mask_codes), read_mask(two.mask, again.mask_codes))


def test_convert_goes_by_name_as_well(tmp_path):
    data = a_set(tmp_path / "data")
    place = tmp_path / "names.txt"

    def areas(text: str, out: str) -> dict[str, int]:
        place.write_text(text)
        convert(data / "masks", to="coco", out=tmp_path / out, classes=place)
        found = json.loads((tmp_path / out).read_text())
        names = {each["id"]: each["name"] for each in found["categories"]}
        return {names[each["category_id"]]: each["image_id"] for each in found["annotations"]}

    usual = areas("ball\ncrate\nleaf\n", "a.json")
    assert areas("leaf\nball\ncrate\n", "b.json") == usual
    renamed = areas("Ball\nKiste\nBlatt\n", "c.json")
    assert list(renamed.values()) == list(usual.values()) and set(renamed) == {"Ball", "Kiste", "Blatt"}
    with pytest.raises(DataError, match=r"the classes of the masks are ball, crate, leaf, by classes=.* leaf, ball"):
        areas("leaf\nball\n", "d.json")


def test_a_run_does_not_go_on_with_classes_in_another_order(tiny_config, builtin, tmp_path):
    data, names = tmp_path / "data", open_data(builtin).classes
    shutil.copytree(builtin, data)
    config = tiny_config.replace(data=str(data))
    first = train(config.replace(joint_steps=0, out=str(tmp_path / "first")))
    run = train(config.replace(out=str(tmp_path / "run")))
    (data / "classes.txt").write_text("\n".join(reversed(names)))
    match = f"was trained with the classes {', '.join(names)}, in this order; .*Write the first list"
    with pytest.raises(ValueError, match=match):
        train(config.replace(tag_phase=str(first), out=str(tmp_path / "next")))
    assert not (tmp_path / "next").exists()
    with pytest.raises(ValueError, match=match):
        train(load_config(run), resume=run)


def test_folders_of_voc_have_vocs_ids(segmenter, tmp_path):
    for name in ("SegmentationClass", "SegmentationClassAug", "comp6_val_cls"):
        (tmp_path / name).mkdir()
        codes = given_codes(tmp_path / name, ("dog", "cat"))
        assert (codes[VOC_CLASSES.index("dog") + 1], codes[VOC_CLASSES.index("cat") + 1]) == (1, 2)
        assert codes[1] == 255
        assert 1 in codes.known, "an aeroplane is left out on purpose"
    assert mask_list(tmp_path) is None


# -- foreign ids ---------------------------------------------------------------------------------------------------------

ODD = {
    "0/255": (lambda label: 255, "L", ("ball",), "255=ball"),
    "times 40": (lambda label: 40 * label, "L", CLASSES, "40=ball 80=crate 120=leaf"),
    "times 40 indexed": (lambda label: 40 * label, "P", CLASSES, "40=ball 80=crate 120=leaf"),
}


@pytest.mark.parametrize("case", ODD)
def test_masks_in_which_no_id_is_a_class_are_refused_with_a_cure_that_works(case, segmenter, tmp_path, capsys):
    ids, mode, classes, cure = ODD[case]
    data = a_set(tmp_path / "data", ids, mode=mode, classes=classes)
    run = tmp_path / "model.safetensors"
    save_model(run, segmenter.model, segmenter.config)
    for call in (
        lambda **more: evaluate(segmenter, data=data, split="train", **more),
        lambda **more: retrain(tiny(data, tmp_path / "r", **more)),
        lambda **more: open_data(data, tags_from="masks", **more),
    ):
        with pytest.raises(DataError, match=rf"No mask of the split .* shows a class\. .*mask_ids {cure}"):
            call()
        call(mask_ids=tuple(cure.split()))
    assert load_config(tmp_path / "r").mask_ids == tuple(cure.split()), "a resumed run reads them the same way"
    report = tag2mask.check(data, min_images=1)
    assert "absent_in_masks" in codes_of(report.findings)
    cures = [each.cure for each in report.findings if each.code == "masks_and_tags"]
    assert cures and not any("None needed" in cure for cure in cures)
    cured = tag2mask.check(data, min_images=1, mask_ids=tuple(cure.split()))
    assert not {"absent_in_masks", "foreign_ids"} & codes_of(cured.findings)
    assert cli.main(["evaluate", str(run), "--data", str(data), "--split", "train", "--json"]) == 1
    assert f"--mask-ids {cure}" in capsys.readouterr().err
    words = ["--mask-ids", *cure.split()]
    assert cli.main(["evaluate", str(run), "--data", str(data), "--split", "train", "--json", *words]) == 0
    assert json.loads(capsys.readouterr().out)["protocol"]["findings"] == []


def test_one_class_as_255_is_named(segmenter, tmp_path, caplog):
    data = a_set(tmp_path / "data", lambda label: 255 if label == 2 else label)
    report = evaluate(segmenter, data=data, split="train")
    assert codes_of_dicts(report.protocol["findings"]) == {"absent_in_masks"}
    found = report.protocol["findings"][0]
    assert found["names"] == ["crate: tagged in 2 pictures with mask"]
    assert "% of all pixels are 255, which is ignored" in found["message"]
    assert "--mask-ids 255=crate" in found["cure"]
    assert "--mask-ids 255=crate" in caplog.text
    cured = evaluate(segmenter, data=data, split="train", mask_ids=("255=crate",)).protocol
    assert not cured["findings"]
    assert cured["ignored_ids"] == "every id outside the class list"


def codes_of_dicts(findings) -> set[str]:
    return {each["code"] for each in findings}


ORDERS = {
    "another order": (lambda ids: np.array([0, 2, 3, 1])[ids], CLASSES, {"absent_in_masks"}, "1=leaf 2=ball 3=crate"),
    "1 is background": (lambda ids: ids + 1, CLASSES[:1], {"foreign_ids"}, "1=background 2=ball"),
    "254 is background": (lambda ids: np.where(ids, ids, 254), CLASSES, {"foreign_ids"}, "254=background"),
    "0 and 1 swapped": (lambda ids: 1 - ids, CLASSES[:1], set(), ""),
    "smoothed": (lambda ids: np.where(ids, ids, 3 * (np.roll(ids, 2, 0) > 0)), CLASSES, set(), ""),
}


@pytest.mark.parametrize("case", ORDERS)
def test_masks_unlike_the_tags_are_named_before_they_measure_or_teach(case, segmenter, tmp_path):
    change, classes, codes, cure = ORDERS[case]
    data = a_set(tmp_path / "data", classes=classes)
    if len(classes) == 1:  # more negatives than pictures with the class
        rows = (data / "tags.csv").read_text().splitlines()
        (data / "tags.csv").write_text("\n".join([*rows[:3], *(row.replace("ball", "") for row in rows[3:])]) + "\n")
        for path in sorted((data / "masks").iterdir())[2:]:
            write_mask(path, np.zeros((SIDE, SIDE), np.uint8))
    assert not with_measuring_masks(open_data(data)).findings
    for path in (data / "masks").iterdir():
        write_mask(path, change(np.asarray(Image.open(path))).astype(np.uint8))
    codes = codes if case == "254 is background" else {*codes, "masks_and_tags"}
    report = evaluate(segmenter, data=data, split="train")
    assert codes_of_dicts(report.protocol["findings"]) == codes
    assert codes <= codes_of(tag2mask.check(data, min_images=1).findings)
    retrain(tiny(data, tmp_path / "r"))
    saved = json.loads((tmp_path / "r/environment.json").read_text())["data"]["train"]["findings"]
    assert codes_of_dicts(saved) == codes
    if cure:
        assert any(each["cure"].rstrip(".").endswith(f"--mask-ids {cure}") for each in saved)
        assert not with_measuring_masks(open_data(data, mask_ids=tuple(cure.split()))).findings


def test_masks_that_teach_are_held_against_the_tags_where_no_list_names_their_ids(tmp_path):
    data = a_set(tmp_path / "data")
    shutil.copytree(data / "masks", tmp_path / "given")
    for path in (tmp_path / "given").iterdir():
        write_mask(path, np.array([0, 2, 3, 1], np.uint8)[np.asarray(Image.open(path))])
    retrain(tiny(data, tmp_path / "r", masks=str(tmp_path / "given")))
    saved = json.loads((tmp_path / "r/environment.json").read_text())["data"]["train"]["findings"]
    assert codes_of_dicts(saved) == {"absent_in_masks", "masks_and_tags"}


def test_the_cure_can_be_pasted_into_a_shell(tmp_path):
    classes = ("it's", "two words", "a=b")
    data = a_set(tmp_path / "data", lambda label: label * 40, classes=classes)
    with pytest.raises(DataError) as caught:
        with_measuring_masks(open_data(data), strict=True)
    words = shlex.split(str(caught.value).partition("--mask-ids ")[2])
    assert words == ["40=it's", "80=two words", "120=a=b"]
    assert not with_measuring_masks(open_data(data, mask_ids=tuple(words))).findings


def test_background_and_ignore_are_known_in_any_spelling(tmp_path):
    assert parsed_mask_ids(("7=Background", "8=_background_", "9=Ignored"), CLASSES) == {7: 0, 8: 0, 9: 255}
    path = tmp_path / "labelmap.txt"
    path.write_text("_background_:0,0,0::\n__ignore__:9,9,9::\nball:1,2,3::\n")
    listed = read_labelmap(path)
    assert listed.names == ("ball",)
    assert listed.ids_of(np.array([0, 0x090909, 0x010203], np.uint32)).tolist() == [0, 255, 1]


def test_ids_that_are_no_label_are_counted_and_named(segmenter, tmp_path, caplog):
    data = a_set(tmp_path / "data", lambda label: 9 if label == 3 else label)
    with caplog.at_level(logging.INFO, logger="tag2mask"):
        retrain(tiny(data, tmp_path / "r"))
    assert "ids that are no label: 9 (" in caplog.text
    assert "3 leaf" in caplog.text and "--mask-ids 9=leaf" in caplog.text
    saved = json.loads((tmp_path / "r/environment.json").read_text())["data"]["train"]["findings"]
    assert {"foreign_ids", "absent_in_masks"} <= codes_of_dicts(saved)
    found = next(each for each in saved if each["code"] == "foreign_ids")
    assert found["count"] == 2 and found["names"] == ["02.png", "05.png"]
    assert codes_of_dicts(evaluate(segmenter, data=data).protocol["findings"]) == {"foreign_ids", "absent_in_masks"}
    wide = tag2mask.check(data, min_images=1, others="background")
    assert {each.severity for each in wide.findings if each.code == "foreign_ids"} == {"note"}
    out = convert(data, to="folder", out=tmp_path / "plain")
    assert codes_of(out.findings) == {"foreign_ids", "absent_in_masks"}


def test_tags_from_masks_say_what_they_did_not_understand(tmp_path):
    data = a_set(tmp_path / "data", lambda label: 9 if label == 3 else label)
    pictures = open_data(data, tags_from="masks")
    assert codes_of(pictures.findings) == {"foreign_ids"}
    (data / "masks/01.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"1 mask is no source of tags: .*01\.png cannot be read"):
        open_data(data, tags_from="masks")
    (data / "masks/01.png").unlink()
    (data / "masks/02.png").unlink()
    with pytest.raises(DataError, match=r"01\.png has no mask to read tags from, nor have 1 others"):
        open_data(data, tags_from="masks")


def test_other_ids_of_voc_are_no_surprise(tmp_path):
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("a\nb\n")
    for name, number in (("a", 8), ("b", 15)):  # a cat, and a person, which is no class here
        Image.new("RGB", (9, 9)).save(tmp_path / f"JPEGImages/{name}.jpg")
        write_mask(tmp_path / f"SegmentationClass/{name}.png", np.full((9, 9), number, np.uint8))
    (tmp_path / "tags.csv").write_text("file_name,tags\na.jpg,cat\nb.jpg,\n")
    assert with_measuring_masks(open_data(tmp_path)).findings == ()
    write_mask(tmp_path / "SegmentationClass/b.png", np.full((9, 9), 77, np.uint8))
    assert codes_of(with_measuring_masks(open_data(tmp_path)).findings) == {"foreign_ids"}
    assert with_measuring_masks(open_data(tmp_path, mask_ids=("77=dog",))).findings == ()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("ball",), "takes words like 255=ball"),
        (("256=ball",), "takes words like"),
        (("-1=ball",), "takes words like"),
        (("1=cow",), "there is no class 'cow'; the classes are ball, crate, leaf"),
        (("7=ball", "7=leaf"), "two classes"),
    ],
)
def test_mask_ids_that_are_none(words, message, tmp_path):
    with pytest.raises(DataError, match=message):
        open_data(a_set(tmp_path / "d"), mask_ids=words)


def test_mask_ids_take_several_ids_per_class_and_the_two_words():
    found = parsed_mask_ids(("7=ball", "8=ball", "1=background", "9=ignore", "255=leaf"), CLASSES)
    assert found == {7: 1, 8: 1, 1: 0, 9: 255, 255: 3}


def test_predictions_of_0_and_255_do_not_score_one(tmp_path, caplog):
    data = a_set(tmp_path / "data", classes=("ball",))
    for path in (data / "masks").iterdir():
        write_mask(tmp_path / "m" / path.name, np.asarray(Image.open(path)) * 255, "L")
    with pytest.raises(ValueError, match=r"Nothing is left to score.*labelmap.txt.*ball:255,255,255::"):
        evaluate(masks=tmp_path / "m", data=data)
    with pytest.raises(DataError, match=r"Nothing to learn from.*ball:255,255,255::"):
        retrain(tiny(data, tmp_path / "r", masks=str(tmp_path / "m")))
    (tmp_path / "m/labelmap.txt").write_text("ball:255,255,255::\n")
    assert evaluate(masks=tmp_path / "m", data=data).iou == {"background": 1.0, "ball": 1.0}
    retrain(tiny(data, tmp_path / "r", masks=str(tmp_path / "m")))


def test_a_class_that_is_255_in_every_prediction_is_named(tmp_path, caplog):
    data = a_set(tmp_path / "data")
    for path in (data / "masks").iterdir():
        ids = np.asarray(Image.open(path)).copy()
        ids[ids == 2] = 255
        write_mask(tmp_path / "m" / path.name, ids)
    report = evaluate(masks=tmp_path / "m", data=data)
    assert codes_of_dicts(report.protocol["findings"]) == {"unlabeled"}
    assert report.protocol["findings"][0]["names"] == ["crate"]
    assert "none counts. (crate)" in caplog.text


@pytest.mark.parametrize("mode", ["P", "L"])
def test_numbers_in_given_masks_that_are_no_label_are_refused_with_a_cure_that_works(mode, tmp_path):
    data = a_set(tmp_path / "data")
    for path in (data / "masks").iterdir():
        write_mask(tmp_path / "m" / path.name, np.asarray(Image.open(path)) * 40, mode)
    with pytest.raises(ValueError, match=r"holds numbers that are no label: 40, 80, 120; known are 0 backgr") as stop:
        evaluate(masks=tmp_path / "m", data=data, split="train")
    with pytest.raises(DataError, match=r"has the label 40, but there are 3 classes"):
        retrain(tiny(data, tmp_path / "r", masks=str(tmp_path / "m")))
    assert not (tmp_path / "r").exists()
    lines = str(stop.value).rpartition("a line each: ")[2].replace(" and ", "\n")
    (tmp_path / "m/labelmap.txt").write_text(lines + "\n")
    assert evaluate(masks=tmp_path / "m", data=data, split="train").miou == 1.0
    with_some_masks(open_data(data), tmp_path / "m")


def test_masks_that_are_background_all_over_measure_but_do_not_teach(tmp_path):
    data = a_set(tmp_path / "data")
    for path in (data / "masks").iterdir():
        write_mask(tmp_path / "m" / path.name, np.zeros((SIDE, SIDE), np.uint8))
    assert evaluate(masks=tmp_path / "m", data=data).iou["leaf"] == 0.0
    with pytest.raises(DataError, match=r"Nothing to learn from\. All masks of masks=.* are background"):
        retrain(tiny(data, tmp_path / "r", masks=str(tmp_path / "m")))


def test_smooth_edges_are_no_classes(tmp_path):
    data = a_set(tmp_path / "data")
    for path in (data / "masks").iterdir():
        Image.fromarray(np.arange(SIDE * SIDE, dtype=np.uint16).astype(np.uint8).reshape(SIDE, SIDE)).save(path)
    found = next(f for f in with_measuring_masks(open_data(data)).findings if f.code == "foreign_ids")
    assert "without smoothing" in found.cure
    assert "245 more" in found.message


# -- colors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "palette"])
@pytest.mark.parametrize("beside", [False, True])
def test_colors_are_read_by_labelmap_txt(mode, beside, tmp_path):
    plain, data = a_set(tmp_path / "plain"), a_set(tmp_path / "data", mode=mode)
    if mode == "RGB":
        with pytest.raises(PictureError, match=r"12 masks|4 masks.*is RGB.*labelmap\.txt"):
            evaluate(masks=plain / "masks", data=data)
    labelmap(data if beside else data / "masks", names=CLASSES)
    pictures, expected = open_data(data), open_data(plain)
    for one, two in zip(pictures.pictures, expected.pictures, strict=True):
        np.testing.assert_array_equal(
            read_mask(one.mask, pictures.mask_codes), read_mask(two.mask, expected.mask_codes)
        )
    assert open_data(data, tags_from="masks").pictures[0].tags == expected.pictures[0].tags
    assert evaluate(masks=plain / "masks", data=data).miou == 1.0
    assert evaluate(masks=data / "masks", data=plain).miou == 1.0
    retrain(tiny(data, tmp_path / "own"))
    retrain(tiny(plain, tmp_path / "given", masks=str(data / "masks")))
    assert not {"broken_masks", "absent_in_masks"} & codes_of(tag2mask.check(data, min_images=1).findings)
    converted = convert(data / "masks", to="coco", out=tmp_path / "o.json")
    assert converted.classes == CLASSES


def test_a_color_that_is_not_named_is(segmenter, tmp_path):
    data = a_set(tmp_path / "data", mode="RGB")
    labelmap(data, names=("ball", "crate"))
    found = with_measuring_masks(open_data(data)).findings
    assert "20,30,240" in next(f for f in found if f.code == "foreign_ids").cure
    with pytest.raises(DataError, match=r"do not know leaf"):
        retrain(tiny(data, tmp_path / "r", masks=str(data / "masks")))
    with pytest.raises(DataError, match=r"No class in common"):
        labelmap(data, names=("wolf", "fox", "cow"))
        open_data(data)


def test_indexed_masks_beside_a_labelmap_of_other_colors_keep_their_ids(tmp_path):
    data = a_set(tmp_path / "data")
    labelmap(data)
    pictures = open_data(data)
    assert np.unique(read_mask(pictures.pictures[0].mask, pictures.mask_codes)).tolist() == [0, 1]
    assert with_measuring_masks(pictures).findings == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# nothing\n", "names no class"),
        ("ball:1,2\n", "line 1: must be 'name:r,g,b::'"),
        ("ball:1,2,3::\ncrate:::\n", "line 2: must be 'name:r,g,b::'"),
        ("ball:1,2,300::\n", "line 1: must be"),
        ("ball:1,2,3::\nleaf:1,2,3::\n", "line 2: .* already above"),
        ("ball:1,2,3::\nball:1,2,4::\n", "line 2: .* already above"),
    ],
)
def test_a_labelmap_that_is_none(text, message, tmp_path):
    (tmp_path / "labelmap.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        read_labelmap(tmp_path / "labelmap.txt")


def test_a_labelmap_as_datumaro_writes_it(tmp_path):
    (tmp_path / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\na:b:1,2,3:head,tail:run\nignored:9,9,9::\ncat: 4, 5, 6\n"
    )
    found = read_labelmap(tmp_path / "labelmap.txt")
    assert found.names == ("a:b", "cat")
    assert found.ids_of(np.array([0, 0x010203, 0x040506, 0x090909, 0xE0E0C0, 7], np.uint32)).tolist() == [
        0, 1, 2, 255, 255, 254,
    ]  # fmt: skip


def test_a_labelmap_without_colors_has_those_of_the_palette(tmp_path):
    (tmp_path / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:::\ncat:::\na:b:::head:\n")
    found = read_labelmap(tmp_path / "labelmap.txt")
    assert found.names == ("cat", "a:b")
    assert found.ids_of(packed(voc_palette()[[0, 1, 2, 3, 255]])).tolist() == [0, 1, 2, 254, 255]


@pytest.mark.parametrize("to", ["voc", "cvat"])
def test_our_own_exports_come_back_as_masks(to, tmp_path):
    data = a_set(tmp_path / "data")
    out = tmp_path / ("tree" if to == "voc" else "tree.zip")
    convert(data / "masks", to=to, out=out)
    if to == "cvat":
        shutil.unpack_archive(out, tmp_path / "tree")
    assert evaluate(masks=tmp_path / "tree/SegmentationClass", data=data).miou == 1.0
    assert with_some_masks(open_data(data), tmp_path / "tree/SegmentationClass").has_masks


# -- masks that teach are looked at first --------------------------------------------------------------------------------


def spoil(path: Path, how: str) -> None:
    if how == "RGB":
        Image.new("RGB", (SIDE, SIDE)).save(path)
    elif how == "size":
        Image.new("L", (SIDE + 1, SIDE), 1).save(path)
    else:
        path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize("how", ["RGB", "size", "cut"])
@pytest.mark.parametrize("own", [True, False])
def test_masks_that_cannot_be_used_do_not_teach_in_silence(how, own, tmp_path, caplog):
    data = a_set(tmp_path / "data")
    folder = data / "masks" if own else Path(shutil.copytree(data / "masks", tmp_path / "m"))
    more = {} if own else {"masks": str(folder)}
    spoil(folder / "01.png", how)
    retrain(tiny(data, tmp_path / "some", **more))
    assert "1 mask of" in caplog.text and "cannot be used. (01.png: " in caplog.text
    assert json.loads((tmp_path / "some/environment.json").read_text())["data"]["train"]["num_images"] == 7
    for path in folder.iterdir():
        spoil(path, how)
    with pytest.raises(DataError, match=r"Nothing to learn from\. None of the 8 masks"):
        retrain(tiny(data, tmp_path / "none", **more))
    assert not (tmp_path / "none").exists()


def test_the_same_goes_for_masks_for_some(tiny_config, tmp_path):
    first = open_data(tiny_config.data).pictures[0]
    stem = Path(first.name).stem
    Image.new("RGB", Image.open(first.mask).size).save(tmp_path / f"{stem}.png")
    with pytest.raises(DataError, match=r"1 mask of masks_for_some=.* cannot be used: .*is RGB"):
        train(tiny_config.replace(masks_for_some=str(tmp_path)))


def test_a_validation_passes_over_what_it_cannot_score_and_says_so(tmp_path, caplog):
    data = a_set(tmp_path / "data")
    spoil(data / "masks/09.png", "RGB")
    retrain(tiny(data, tmp_path / "r"))
    saved = json.loads((tmp_path / "r/environment.json").read_text())["data"]
    assert codes_of_dicts(saved["val"]["findings"]) == {"broken_masks"}
    with pytest.raises(PictureError, match="1 mask of the split 'val' cannot be scored"):
        retrain(tiny(data, tmp_path / "s", select="miou", validate_every=1))
    with pytest.raises(PictureError, match="1 mask of the split 'val' cannot be scored"):
        evaluate(tmp_path / "r", data=data)


def test_masks_for_nothing_but_negatives_may_teach(tmp_path):
    data = a_set(tmp_path / "data")
    (tmp_path / "m").mkdir()
    shutil.copy(data / "masks/04.png", tmp_path / "m/04.png")
    assert with_some_masks(open_data(data), tmp_path / "m").has_masks


# -- names of mask files -------------------------------------------------------------------------------------------------


def test_names_of_masks(tmp_path):
    for name in ("a.PNG", "b.jpg.png", "c.tif.PNG", "d_mask.png", "e.tif", "sub/f.png", "g.png", "classes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    files = MaskFiles(tmp_path)
    found = {name: files.find(name) for name in ("a.jpg", "b.jpg", "c.tif", "d.jpg", "e.jpg", "sub/f.jpg", "g.webp")}
    assert {name: None if path is None else path.name for name, path in found.items()} == {
        "a.jpg": "a.PNG", "b.jpg": "b.jpg.png", "c.tif": "c.tif.PNG", "d.jpg": None, "e.jpg": None,
        "sub/f.jpg": "f.png", "g.webp": "g.png",
    }  # fmt: skip
    assert files.strays(found) == ["d_mask.png", "e.tif"]
    (tmp_path / "cafe\u0301.png").touch()
    assert MaskFiles(tmp_path).find("caf\u00e9.jpg") == tmp_path / "cafe\u0301.png"


def test_masks_under_other_names_are_named_with_the_name_they_should_have(segmenter, tmp_path, caplog):
    data = a_set(tmp_path / "data")
    shutil.copytree(data, tmp_path / "strange")
    strange = tmp_path / "strange"
    for path in (strange / "masks").iterdir():
        path.rename(path.with_name(f"{path.stem}_mask.png"))
    with pytest.raises(ValueError, match=r"has no masks.*The mask of 08\.png would be masks/08\.png"):
        evaluate(segmenter, data=strange)
    found = open_data(strange).findings
    assert codes_of(found) == {"stray_masks"}
    assert found[0].cure == "The mask of 00.png would be called 00.png."
    assert found[0].names[0] == "00_mask.png" and found[0].count == 12
    assert "stray_masks" in codes_of(tag2mask.check(strange, min_images=1).findings)
    with pytest.raises(ValueError, match=r"There is no mask .*08\.png .*belong to no picture: 00_mask\.png"):
        evaluate(masks=strange / "masks", data=data)
    with pytest.raises(ValueError, match=r"would be 00\.png \(these files belong to no picture: 00_mask\.png"):
        retrain(tiny(data, tmp_path / "r", masks=str(strange / "masks")))
    with pytest.raises(ValueError, match=r"would be called 00\.png \(these files belong"):
        with_some_masks(open_data(data), strange / "masks")


def test_the_folder_above_the_masks_is_no_folder_of_masks(tmp_path):
    data = a_set(tmp_path / "data")
    with pytest.raises(ValueError, match=r"There is no mask .*\(did you mean .*data/masks\?\)"):
        evaluate(masks=data, data=data)
    with pytest.raises(ValueError, match=r"lacks the masks of 8 .*\(did you mean .*data/masks\?\)"):
        retrain(tiny(data, tmp_path / "r", masks=str(data)))


def test_masks_of_other_splits_are_no_strays(tmp_path):
    data = a_set(tmp_path / "data")
    for i in range(8):
        (data / f"masks/{i:02d}.png").unlink()
    assert open_data(data).findings == open_data(data, split="val").findings == ()


def test_a_mask_of_two_pictures_is_named(tmp_path):
    data = a_set(tmp_path / "data")
    shutil.copy(data / "images/00.png", data / "images/00.bmp")
    (data / "tags.csv").write_text((data / "tags.csv").read_text() + "00.bmp,ball\n")
    (data / "splits/train.txt").write_text("00.png\n00.bmp\n01.png\n")
    (found,) = (each for each in open_data(data).findings if each.code == "shared_masks")
    assert found.names == ("00.png and 00.bmp",)
    (data / "masks/00.png").rename(data / "masks/00.png.png")
    shutil.copy(data / "masks/01.png", data / "masks/00.bmp.png")
    assert [each.mask.name for each in open_data(data).pictures] == ["00.png.png", "00.bmp.png", "01.png"]
    convert(data, to="folder", out=tmp_path / "plain", splits=("train",))
    again = open_data(tmp_path / "plain").pictures
    assert [each.mask.name for each in again] == ["00.png.png", "00.bmp.png", "01.png"]
    assert np.asarray(Image.open(again[0].mask)).max() == 1 and np.asarray(Image.open(again[1].mask)).max() == 2


# -- grey masks, palettes elsewhere, sizes -------------------------------------------------------------------------------


def test_format_ids_writes_the_same_labels_in_grey(segmenter, builtin, tmp_path):
    predict(segmenter, [builtin / "images"], tmp_path, formats=("png", "ids"))
    files = sorted((tmp_path / "ids").rglob("*.png"))
    assert len(files) == 16
    for path in files:
        with Image.open(path) as grey, Image.open(tmp_path / "masks" / path.relative_to(tmp_path / "ids")) as indexed:
            assert grey.mode == "L"
            np.testing.assert_array_equal(np.asarray(grey), np.asarray(indexed))


def reading_lines() -> list[tuple[str, str, str]]:
    """(library, file, expression) of the table of formats.md; a cell in words says which expression holds instead."""
    page = (Path(__file__).parents[1] / "docs" / "formats.md").read_text(encoding="utf-8")
    table = page.partition("| library | `masks/NAME.png`")[2].partition("\n\n")[0].splitlines()[2:]
    rows = []
    for library, indexed, grey in (map(str.strip, line.strip("|").split(" | ")) for line in table):
        rows += [(library, "masks", indexed.strip("` "))] if indexed.startswith("`") else []
        rows.append((library, "ids", (indexed if grey.startswith("the same") else grey).strip("` |")))
    return rows


@pytest.mark.parametrize(("library", "folder", "line"), reading_lines())
def test_lines_of_the_page_read_masks(library, folder, line, tmp_path):
    names = {"Pillow": "PIL", "OpenCV": "cv2", "scikit-image": "skimage.io", "imageio": "imageio.v3",
             "matplotlib": "matplotlib.pyplot", "torchvision": "torchvision.io"}  # fmt: skip
    module = pytest.importorskip(names[library])
    labels = np.array([[0, 1, 2], [3, 255, 254]], np.uint8)
    path = str(save_mask(tmp_path / "m.png", labels, palette=folder == "masks"))
    known = {"np": np, "Image": Image, "path": path, "plt": module, names[library].split(".")[0]: sys.modules[
        names[library].split(".")[0]]}  # fmt: skip
    got = eval(line, known)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, labels)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_sizes_are_those_that_are_shown(suffix, orientation, tmp_path):
    image = Image.new("RGB", (20, 10))
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / f"a.{suffix}", exif=exif)
    assert shown_size(tmp_path / f"a.{suffix}") == ((20, 10) if orientation > 4 else (10, 20))
