"""Scores against hand counts and torchmetrics; pseudo labels and explanations on a tiny network."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.classification import MulticlassJaccardIndex
from torchmetrics.functional.classification import binary_average_precision

from tag2mask.data import open_data, read_mask
from tag2mask.inference.segmenter import Segmenter
from tag2mask.jobs.explanation import explain
from tag2mask.jobs.pseudo_labels import pseudo_label
from tag2mask.models import build_network
from tag2mask.scoring import evaluation as ev
from tag2mask.scoring.label_quality import THRESHOLDS, CamSweep, LabelCounter, score_cams, score_reliable_labels
from tag2mask.scoring.report import confusion_matrix, model_codes, report_from_confusion, report_lines, score_lines
from tag2mask.scoring.tags import average_precision, judge_tags

CLASSES = ("ball", "crate", "donut", "leaf", "starfish")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    from tag2mask.data.builtin.shapes import write_builtin

    return write_builtin(tmp_path_factory.mktemp("set") / "data", train=5, val=5, size=64, seed=1)


def test_iou_by_hand():
    truth = torch.tensor([[0, 0, 1, 1], [2, 2, 255, 1]])
    predicted = torch.tensor([[0, 1, 1, 1], [0, 2, 2, 1]])
    confusion = confusion_matrix(predicted, truth, 4)
    assert confusion.tolist() == [[1, 1, 0, 0], [0, 3, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    report = report_from_confusion(confusion, ("a", "b", "c"), 1, {})
    assert report.iou == {
        "background": pytest.approx(1 / 3),
        "a": pytest.approx(3 / 4),
        "b": pytest.approx(1 / 2),
        "c": None,
    }
    assert report.miou == pytest.approx((1 / 3 + 3 / 4 + 1 / 2) / 3)
    assert report.protocol["labels_not_scored"] == ["c"]


def test_a_class_that_is_only_predicted_counts_as_zero():
    confusion = confusion_matrix(torch.tensor([0, 1]), torch.tensor([0, 0]), 2)
    assert report_from_confusion(confusion, ("a",), 1, {}).iou == {"background": 0.5, "a": 0.0}


def test_the_tables_show_each_label_with_its_own_score():
    one = report_from_confusion(np.array([[90, 10, 0], [10, 30, 0], [0, 0, 0]]), ("cat", "dog"), 1, {})
    two = report_from_confusion(np.array([[50, 0, 0], [0, 10, 30], [0, 0, 10]]), ("cat", "dog"), 1, {})
    assert [line.split() for line in score_lines({"a": one, "b": two})] == [
        ["a", "b"],
        ["background", "0.8182", "1.0000"],  # 90 / 110, 50 / 50
        ["cat", "0.6000", "0.2500"],  # 30 / 50, 10 / 40
        ["dog", "-", "0.2500"],  # nowhere; 10 / 40
        ["mIoU", "0.7091", "0.5000"],
    ]
    told = [line.split() for line in report_lines(two)]
    assert told[3:7] == [["background", "1.0000"], ["cat", "0.2500"], ["dog", "0.2500"], ["mean", "0.5000"]]


def test_miou_equals_torchmetrics():
    torch.manual_seed(0)
    truth, predicted = torch.randint(0, 4, (2, 50, 60)), torch.randint(0, 4, (2, 50, 60))
    truth[:, :5] = 255
    metric = MulticlassJaccardIndex(4, ignore_index=255)
    metric.update(predicted, truth)
    total = sum(confusion_matrix(p, t, 4) for p, t in zip(predicted, truth, strict=True))
    assert report_from_confusion(total, ("a", "b", "c"), 2, {}).miou == pytest.approx(metric.compute().item(), abs=1e-6)


def test_evaluate_equals_a_loop_over_predictions(segmenter, data):
    report = ev.evaluate(segmenter, data=data)
    pictures = open_data(data, split="val")
    expected = np.zeros((6, 6), dtype=np.int64)
    for picture in pictures.pictures:
        truth = read_mask(picture.mask, pictures.mask_codes)
        mask = segmenter.predict(picture.path).mask
        np.add.at(expected, (truth.astype(int), mask.astype(int)), 1)
    np.testing.assert_array_equal(report.confusion, expected)
    assert (expected.sum(0) > 0).sum() > 1  # the network does not predict one label everywhere
    assert report.num_images == 5
    assert report.protocol["crf"] is None
    assert report.protocol["split"] == "val"
    assert report.protocol["model_selection"] == "last step"
    json.dumps(report.as_dict(), allow_nan=False)


def test_evaluate_options_reach_the_network_and_the_protocol(segmenter, data):
    plain = ev.evaluate(segmenter, data=data)
    flipped = ev.evaluate(segmenter, data=data, flip=True, scales=(1.0, 0.5))
    refined = ev.evaluate(segmenter, data=data, crf="aaai_inference")
    assert (flipped.confusion != plain.confusion).any()
    assert (refined.confusion != plain.confusion).any()
    assert flipped.protocol["flip"] is True
    assert flipped.protocol["scales"] == [1.0, 0.5]
    assert refined.protocol["crf"]["gaussian_sxy"] == 4.0


def test_true_tags_leave_no_foreign_class(segmenter, data):
    pictures = open_data(data, split="val")
    report = ev.score_pictures(segmenter, pictures, with_tags=True)
    for row, name in enumerate(CLASSES, start=1):
        together = {i for p in pictures.pictures if CLASSES.index(name) in p.tags for i in p.tags}
        for column in range(len(CLASSES)):
            if report.confusion[row, column + 1]:
                assert column in together
    assert report.protocol["label_prior"] == "true tags"


def test_masks_equal_to_the_truth_score_one(data):
    report = ev.evaluate(masks=data / "masks", data=data)
    assert report.miou == 1.0
    assert report.protocol["unlabeled_share"] == 0.0


def test_masks_with_255_count_nowhere_and_are_reported(data, tmp_path):
    pictures, unlabeled, total = open_data(data, split="val"), 0, 0
    for picture in pictures.pictures:
        labels = read_mask(picture.mask, pictures.mask_codes).copy()
        labels[:7] = 255
        unlabeled, total = unlabeled + labels[:7].size, total + labels.size
        Image.fromarray(labels).save(tmp_path / f"{picture.path.stem}.png")
    report = ev.evaluate(masks=tmp_path, data=data)
    assert report.miou == 1.0
    assert report.protocol["unlabeled_share"] == pytest.approx(unlabeled / total)


def test_masks_that_do_not_fit(data, tmp_path):
    with pytest.raises(ValueError, match="There is no mask"):
        ev.evaluate(masks=tmp_path, data=data)
    for picture in open_data(data, split="val").pictures:
        labels = np.full(np.array(Image.open(picture.mask)).shape, 9, np.uint8)
        Image.fromarray(labels).save(tmp_path / f"{picture.path.stem}.png")
    with pytest.raises(ValueError, match="no label"):
        ev.evaluate(masks=tmp_path, data=data)
    with pytest.raises(ValueError, match="either a run or"):
        ev.evaluate(data=data)
    with pytest.raises(ValueError, match="belong to a network"):
        ev.evaluate(masks=tmp_path, data=data, flip=True)


def test_classes_are_matched_by_name(segmenter, data):
    reordered = ("starfish", "leaf", "zebra")
    model = build_network(segmenter.config, reordered)
    pictures = open_data(data, split="val")
    codes = model_codes(reordered, pictures)
    assert codes[:6].tolist() == [0, 255, 255, 255, 2, 1]
    report = ev.score_pictures(Segmenter(model, segmenter.config), pictures)
    assert report.protocol["classes_counted_as_255"] == ["ball", "crate", "donut"]
    with pytest.raises(ValueError, match="no class in common"):
        model_codes(("zebra",), pictures)


def test_tag_map_by_hand():
    scores = torch.tensor([[0.9, 0.1, 0.5], [0.8, 0.9, 0.5], [0.1, 0.2, 0.5]])
    tags = torch.tensor([[1, 0, 0], [0, 1, 0], [1, 0, 0]]).bool()
    assert average_precision(scores[:, 0], tags[:, 0]) == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert average_precision(scores[:, 1], tags[:, 1]) == 1.0
    found, by_chance = judge_tags("abc", scores, tags)
    assert [each.ap for each in found] == [pytest.approx((1 / 1 + 2 / 3) / 2), 1.0, None]
    assert [each.chance for each in found] == [pytest.approx(2 / 3), pytest.approx(1 / 3), None]
    assert by_chance is None


def test_average_precision_with_ties_equals_torchmetrics():
    torch.manual_seed(0)
    for size in range(1, 60):
        scores, tags = (torch.rand(size) * 10).round() / 10, torch.rand(size) < 0.3
        tags[size // 2] = True
        assert average_precision(scores, tags) == float(binary_average_precision(scores, tags.long()))


def test_a_label_that_is_none_is_refused():
    with pytest.raises(ValueError, match="labels must be less than 3, or 255"):
        confusion_matrix(torch.tensor([0, 3]), torch.tensor([0, 1]), 3)
    with pytest.raises(ValueError, match="differ in size"):
        confusion_matrix(np.zeros(3, np.uint8), np.zeros(4, np.uint8), 3)


def test_cam_sweep_equals_thresholding_one_by_one():
    torch.manual_seed(0)
    sweep, cams, truth = CamSweep(4), torch.rand(2, 3, 20, 30), torch.randint(0, 4, (2, 20, 30))
    cams[0, 0, 0] = 0.5  # ties with a threshold: not above it
    truth[:, -2:] = 255
    for c, t in zip(cams, truth, strict=True):
        sweep.update(c, t)
    for i, threshold in enumerate(THRESHOLDS):
        value, winner = cams.max(1)
        labels = torch.where(value > np.float32(threshold), winner + 1, 0)
        expected = sum(confusion_matrix(p, t, 4) for p, t in zip(labels, truth, strict=True))
        np.testing.assert_array_equal(sweep.confusion(i), expected)
    best = max(sweep.reports(("a", "b", "c"), 2, {}), key=lambda report: report.miou)
    assert best.protocol["background_threshold"] in THRESHOLDS


def test_cam_sweep_finds_the_threshold():
    truth = torch.zeros(10, 10, dtype=torch.long)
    truth[:5] = 1
    cams = torch.where(truth == 1, 0.45, 0.31)[None]
    sweep = CamSweep(2)
    sweep.update(cams, truth)
    best = max(sweep.reports(("a",), 1, {}), key=lambda report: report.miou)
    assert best.miou == 1.0
    assert 0.31 < best.protocol["background_threshold"] < 0.45


def test_label_quality_by_hand():
    counter = LabelCounter(3)
    counter.update(torch.tensor([0, 1, 1, 255, 255]), torch.tensor([0, 1, 2, 2, 255]))
    quality = counter.quality(("a", "b"))
    assert quality.coverage == pytest.approx(3 / 4)
    assert quality.precision == pytest.approx(2 / 3)
    assert quality.precision_per_label == {"background": 1.0, "a": 0.5, "b": None}
    assert quality.recall_per_label == {"background": 1.0, "a": 1.0, "b": 0.0}


def test_cam_and_reliable_scores_on_pictures(segmenter, data):
    pictures = open_data(data, split="val")
    report = score_cams(segmenter, pictures, scales=(1.0,))
    truth = sum(np.bincount(read_mask(p.mask, pictures.mask_codes).ravel(), minlength=6) for p in pictures.pictures)
    np.testing.assert_array_equal(report.confusion.sum(1), truth)
    quality = score_reliable_labels(segmenter, pictures, limit=2)
    assert quality.num_images == 2
    assert 0 < quality.coverage <= 1


def test_pseudo_labels_respect_the_tags_and_score(segmenter, data, tmp_path):
    out = tmp_path / "masks"
    summary = pseudo_label(segmenter, data=data, out=out, split="val", min_confidence=0.4)
    pictures = open_data(data, split="val")
    ignored = total = 0
    for picture in pictures.pictures:
        labels = np.array(Image.open(out / f"{picture.path.stem}.png"))
        assert labels.shape == np.array(Image.open(picture.path)).shape[:2]
        assert set(np.unique(labels)) <= {0, 255, *(i + 1 for i in picture.tags)}
        probs = segmenter.predict(picture.path, tags=[CLASSES[i] for i in picture.tags]).probs
        np.testing.assert_array_equal(labels == 255, probs.max(0) < 0.4)
        ignored, total = ignored + (labels == 255).sum(), total + labels.size
    assert summary.ignored_share == pytest.approx(ignored / total)
    assert json.loads((out / "pseudo_labels.json").read_text())["min_confidence"] == 0.4
    assert ev.evaluate(masks=out, data=data).num_images == 5


def test_the_confidence_of_pseudo_labels_is_the_networks_own(segmenter, data, tmp_path):
    options = {"data": data, "split": "val", "crf": True}
    pseudo_label(segmenter, out=tmp_path / "all", **options)
    pseudo_label(segmenter, out=tmp_path / "sure", min_confidence=0.4, **options)
    pictures = open_data(data, split="val")
    ignored = 0
    for picture in pictures.pictures:
        name, tags = f"{picture.path.stem}.png", [CLASSES[i] for i in picture.tags]
        labels, sure = (np.array(Image.open(tmp_path / kind / name)) for kind in ("all", "sure"))
        probs = segmenter.predict(picture.path, tags=tags).probs
        own = np.take_along_axis(probs, labels[None].astype(np.intp), 0)[0]
        np.testing.assert_array_equal(sure, np.where(own < 0.4, 255, labels))
        ignored += (sure == 255).sum()
    assert ignored > 0


def test_pseudo_labels_read_tags_from_masks_only_when_asked(segmenter, data, tmp_path):
    bare = shutil.copytree(data, tmp_path / "bare")
    (bare / "tags.csv").unlink()
    (bare / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    with pytest.raises(ValueError, match=r"tags\.csv"):
        pseudo_label(segmenter, data=bare, out=tmp_path / "out", split="val")
    pseudo_label(segmenter, data=bare, out=tmp_path / "out", split="val", tags_from="masks")
    pseudo_label(segmenter, data=data, out=tmp_path / "same", split="val")
    for path in (tmp_path / "same").glob("*.png"):
        np.testing.assert_array_equal(np.array(Image.open(path)), np.array(Image.open(tmp_path / "out" / path.name)))
    assert json.loads((tmp_path / "out" / "pseudo_labels.json").read_text())["tags_from"] == "masks"


def test_pseudo_labels_never_replace_true_masks(segmenter, data):
    before = sorted((p.name, p.stat().st_mtime_ns) for p in (data / "masks").iterdir())
    with pytest.raises(ValueError, match="own masks"):
        pseudo_label(segmenter, data=data, out=data / "masks")
    assert sorted((p.name, p.stat().st_mtime_ns) for p in (data / "masks").iterdir()) == before


def test_explain_writes_a_sheet_and_consistent_numbers(segmenter, data, tmp_path):
    picture = next(p for p in open_data(data, split="val").pictures if p.tags)
    names = [CLASSES[i] for i in picture.tags]
    result = explain(segmenter, picture.path, tmp_path, tags=names)
    assert Image.open(result.sheet).width > 1000
    steps = json.loads(result.json.read_text())
    assert steps["classes"] == names
    for key in ("foreground_vote", "background_vote", "reliable_labels", "prediction"):
        assert sum(steps[key].values()) == pytest.approx(1)
        assert set(steps[key]) <= {"background", "ignored", *names}
    mask = segmenter.predict(picture.path, tags=names).mask
    assert steps["prediction"].get("background", 0) == pytest.approx((mask == 0).mean())
    free = explain(segmenter, picture.path, tmp_path / "free", crf=None).steps
    scores = free["tag_scores"]
    assert free["classes"] == ([n for n in scores if scores[n] > 0.5] or [max(scores, key=scores.get)])
    assert "prediction_with_crf" not in free
