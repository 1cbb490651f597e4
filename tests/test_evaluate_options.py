"""CAM curves, reliable labels, boundaries, protocol line, averaging: each against a computation of its own."""

import dataclasses
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchmetrics import JaccardIndex

from tag2mask import cli
from tag2mask.batch import Outputs
from tag2mask.config import CRFParams, TrainConfig
from tag2mask.config.inference import Inference
from tag2mask.data import Picture, PictureSet, open_data, read_mask, read_picture
from tag2mask.data.dataset import label_codes
from tag2mask.inference.first_step import predicted_tags, tag_vector
from tag2mask.inference.segmenter import Segmenter
from tag2mask.models import build_network
from tag2mask.models.base import SegmentationNetwork
from tag2mask.runs.checkpoints import save_model
from tag2mask.runs.protocol import crf_words, protocol_line
from tag2mask.scoring import evaluation as ev
from tag2mask.scoring.label_quality import (
    THRESHOLDS,
    CamSweep,
    LabelCounter,
    cam_curves,
    score_cams,
    score_reliable_labels,
)
from tag2mask.scoring.report import confusion_matrix, report_from_confusion
from tag2mask.teacher import teacher_rule

CLASSES = ("ball", "crate", "donut", "leaf", "starfish")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    from tag2mask.data.builtin.shapes import write_builtin

    return write_builtin(tmp_path_factory.mktemp("set") / "data", train=3, val=4, size=64, seed=1)


class Stub(SegmentationNetwork):
    """One class, one cell per pixel; `score(images)` is its logit against 0 of the background."""

    def __init__(self, score):
        super().__init__(("a",), stride=1, mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0))
        self.score, self.weight = score, torch.nn.Parameter(torch.zeros(1))

    def forward(self, images, valid=None, *, segment=True):
        score = self.score(images)
        logits = torch.stack([torch.zeros_like(score), score], 1)
        return Outputs(images, torch.zeros(len(images), 1), logits)


def stub_segmenter(score):
    config = TrainConfig.preset("small").replace(image_size=None)
    return Segmenter(Stub(score), config, device="cpu")


def confusion_by_hand(predicted, truth, labels):
    """Rows truth, columns prediction, a pixel at a time."""
    matrix = np.zeros((labels, labels), dtype=np.int64)
    for t, p in zip(truth.ravel().tolist(), predicted.ravel().tolist(), strict=True):
        if t != 255 and p != 255:
            matrix[t, p] += 1
    return matrix


# scores


@pytest.mark.parametrize("seed", range(4))
def test_miou_equals_a_confusion_by_hand_and_torchmetrics(seed):
    rng, labels = np.random.default_rng(seed), 7
    occurring = [0, 2, 3, 6] if seed % 2 else [1, 2, 5]  # the others are in no mask
    truth, predicted = (rng.choice(occurring, (3, 40, 50)).astype(np.uint8) for _ in range(2))
    predicted[rng.random(truth.shape) < 0.5] = occurring[0]
    truth[rng.random(truth.shape) < 0.1] = 255
    names = tuple("abcdef")
    total = sum(
        confusion_matrix(torch.from_numpy(p), torch.from_numpy(t), labels)
        for p, t in zip(predicted, truth, strict=True)
    )
    by_hand = confusion_by_hand(predicted, truth, labels)
    np.testing.assert_array_equal(total, by_hand)
    report = report_from_confusion(total, names, 3, {})
    expected = {}
    for label, name in enumerate(("background", *names)):
        union = by_hand[label].sum() + by_hand[:, label].sum() - by_hand[label, label]
        expected[name] = by_hand[label, label] / union if union else None
    assert report.iou == pytest.approx(expected)
    assert [name for name, value in report.iou.items() if value is not None] == [
        ("background", *names)[label] for label in occurring
    ]
    assert report.miou == pytest.approx(np.mean([v for v in expected.values() if v is not None]))
    metric = JaccardIndex(task="multiclass", num_classes=labels, ignore_index=255, average="macro")
    metric.update(torch.from_numpy(predicted).long(), torch.from_numpy(truth).long())
    assert report.miou == pytest.approx(metric.compute().item(), abs=1e-6)


def test_boundary_of_masks(data, tmp_path):
    report = ev.evaluate(masks=data / "masks", data=data, boundary=True)
    assert report.boundary_f.mean == 1.0
    assert report.protocol["boundary_tolerance"] == 0.0075
    pictures = open_data(data, split="val")
    for picture in pictures.pictures:
        labels = np.roll(read_mask(picture.mask, pictures.mask_codes), 6, axis=1)
        Image.fromarray(labels).save(tmp_path / f"{picture.path.stem}.png")
    moved = ev.evaluate(masks=tmp_path, data=data, boundary=True)
    assert 0 < moved.boundary_f.mean < 0.6
    assert "boundary_f" not in ev.evaluate(masks=tmp_path, data=data).as_dict()
    assert moved.as_dict()["boundary_f"]["per_label"].keys() == report.iou.keys()


def test_boundary_of_a_run(segmenter, data):
    pictures = open_data(data, split="val")
    from tag2mask.scoring.boundary import BoundaryCounter

    counter = BoundaryCounter(6)
    for picture in pictures.pictures:
        counter.update(segmenter.predict(picture.path).mask, read_mask(picture.mask, pictures.mask_codes))
    assert ev.evaluate(segmenter, data=data, boundary=True).boundary_f == counter.score(CLASSES)


# CAM


def test_cam_curves_equal_thresholding_one_by_one(segmenter, data):
    pictures = open_data(data, split="val")
    thresholds = (0.6, 0.1, 0.3)
    curves = cam_curves(
        segmenter, pictures, scales=[(1.0,), (1.0, 0.5)], thresholds=thresholds, tags=("true", "predicted")
    )
    assert [(c.tags, c.scales) for c in curves] == [
        ("true", (1.0,)),
        ("true", (1.0, 0.5)),
        ("predicted", (1.0,)),
        ("predicted", (1.0, 0.5)),
    ]
    for curve in curves:
        assert curve.thresholds == (0.1, 0.3, 0.6)
        for threshold, miou in zip(curve.thresholds, curve.miou, strict=True):
            total = np.zeros((6, 6), dtype=np.int64)
            for picture in pictures.pictures:
                rgb, truth = read_picture(picture.path), read_mask(picture.mask, pictures.mask_codes)
                tags = tag_vector(segmenter, [CLASSES[i] for i in picture.tags])
                if curve.tags == "predicted":
                    scores = segmenter.predict(rgb).tag_scores
                    tags = torch.tensor([scores[name] > 0.5 for name in CLASSES])
                cams = F.interpolate(segmenter.network.cams(rgb, tags, curve.scales)[0], truth.shape, mode="bilinear")
                value, winner = cams[0].max(0)
                total += confusion_by_hand(torch.where(value > threshold, winner + 1, 0).numpy(), truth, 6)
            assert miou == pytest.approx(report_from_confusion(total, CLASSES, 4, {}).miou)
        assert curve.best.miou == max(curve.miou)
        assert curve.best.protocol["background_threshold"] == curve.thresholds[np.argmax(curve.miou)]
        assert curve.best.protocol["scales"] == list(curve.scales)
    assert curves[0].miou != curves[1].miou
    assert curves[0].miou != curves[2].miou
    assert curves[2].best.protocol["label_prior"] == "predicted tags (score above 0.5)"
    assert score_cams(segmenter, pictures, scales=(1.0, 0.5)).miou >= curves[1].best.miou  # more thresholds to choose


def test_without_predicted_tags_all_is_background(segmenter, data, monkeypatch):
    pictures = open_data(data, split="val")
    monkeypatch.setattr("tag2mask.inference.first_step.TAG_SCORE", 1.0)
    assert not predicted_tags(segmenter, read_picture(pictures.pictures[0].path)).any()
    curve = cam_curves(segmenter, pictures, tags=["predicted"], thresholds=[0.0, 0.5])[0]
    assert curve.best.confusion[:, 1:].sum() == 0


@pytest.mark.parametrize("thresholds", [(), (-0.1,), (0.5, 1.5)])
def test_bad_thresholds(thresholds):
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        CamSweep(3, thresholds)


def test_the_lowest_of_equal_thresholds_is_named():
    sweep = CamSweep(2, (0.2, 0.3, 0.3, 0.9))
    sweep.update(torch.tensor([[[0.5, 0.0]]]), torch.tensor([[1, 0]]))
    best = max(sweep.reports(("a",), 1, {}), key=lambda report: report.miou)
    assert best.protocol["background_threshold"] == 0.2
    assert [r.miou for r in sweep.reports(("a",), 1, {})] == [1.0, 1.0, 0.25]


def test_a_network_without_cam_says_so(tmp_path):
    pictures = picture_folder(tmp_path, [16])
    own = stub_segmenter(lambda images: images[:, 0])
    for options in ({"cam": True}, {"reliable": True}):
        with pytest.raises(ValueError, match="second step"):
            ev.evaluate(own, data=pictures, **options)
    with pytest.raises(ValueError, match="true or predicted"):
        cam_curves(own_first_step(), open_data(pictures, split="val"), tags=["all"])
    with pytest.raises(ValueError, match="belong to a network"):
        ev.evaluate(masks=tmp_path, data=pictures, cam=True)


def own_first_step():
    config = TrainConfig.preset("small", backbone="test_resnet", weights="none", image_size=32)
    return Segmenter(build_network(config, ("a",)), config)


# reliable labels


def test_label_quality_per_label_by_hand():
    counter = LabelCounter(3)
    #                            right right wrong none none foreign truth
    counter.update(torch.tensor([0, 1, 1, 255, 255, 2]), torch.tensor([0, 1, 2, 2, 1, 255]))
    quality = counter.quality(("a", "b"), {"split": "val"})
    assert quality.coverage == pytest.approx(3 / 5)
    assert quality.coverage_per_label == {"background": 1.0, "a": 1 / 2, "b": 1 / 2}
    assert quality.precision_per_label == {"background": 1.0, "a": 1 / 2, "b": None}
    assert quality.recall_per_label == {"background": 1.0, "a": 1 / 2, "b": 0.0}
    assert quality.recall == pytest.approx(2 / 5)
    assert quality.object_recall == pytest.approx(1 / 4)
    assert quality.protocol == {"split": "val"}
    empty = LabelCounter(2).quality(("a",))
    assert (empty.coverage, empty.precision, empty.recall, empty.object_recall) == (0.0, None, None, None)


@pytest.mark.parametrize(("tags", "named"), [(("true", "guessed"), "got 'guessed'"), ((), "got none")])
def test_unknown_cam_tags_are_named(segmenter, data, tags, named):
    with pytest.raises(ValueError, match=f"cam tags must be true or predicted, {named}"):
        cam_curves(segmenter, open_data(data, split="val"), tags=tags)


def test_reliable_labels_bring_their_protocol(segmenter, data):
    quality = score_reliable_labels(segmenter, open_data(data, split="val"))
    assert quality.protocol["rules"] == dataclasses.asdict(teacher_rule(segmenter.config.method, 1.0))
    assert quality.protocol["scales"] == list(segmenter.config.method.cam_scales)
    assert quality.protocol["num_images"] == quality.num_images == 4
    line = protocol_line(quality.protocol)
    assert "reliable labels; scored at the network's size" in line
    assert "label prior: true tags" in line


# averaging


def picture_folder(root, sizes):
    """Square grey ramps with masks that are 1 on the right half; a plain folder whose pictures are all in val."""
    for part in ("images", "masks", "splits"):
        (root / part).mkdir(exist_ok=True)
    names = []
    for size in sizes:
        ramp = np.repeat(np.linspace(0, 255, size).astype(np.uint8)[None], size, 0)
        Image.fromarray(np.repeat(ramp[..., None], 3, 2)).save(root / "images" / f"{size}.png")
        Image.fromarray((np.arange(size)[None].repeat(size, 0) >= size // 2).astype(np.uint8)).save(
            root / "masks" / f"{size}.png"
        )
        names.append(f"{size}.png")
    (root / "splits" / "val.txt").write_text("\n".join(names) + "\n")
    (root / "splits" / "train.txt").write_text(names[0] + "\n")
    (root / "classes.txt").write_text("a\n")
    (root / "tags.csv").write_text("file_name,tags\n" + "".join(f"{name},a\n" for name in names))
    return root


def test_flip_leaves_an_equivariant_network_alone_and_averages_any_other():
    rgb = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    color = stub_segmenter(lambda images: 8 * images[:, 0] - 4)
    np.testing.assert_allclose(color.predict(rgb, flip=True).probs, color.predict(rgb).probs, atol=1e-6)
    level = rgb[..., 0] / 255
    np.testing.assert_allclose(color.predict(rgb).probs[1], 1 / (1 + np.exp(4 - 8 * level)), atol=1e-5)

    place = stub_segmenter(lambda images: torch.arange(images.shape[-1]) - 3.0 + 0 * images[:, 0])
    x = np.arange(20)
    expected = (1 / (1 + np.exp(3.0 - x)) + 1 / (1 + np.exp(3.0 - x[::-1]))) / 2  # of probabilities, not of logits
    np.testing.assert_allclose(place.predict(rgb, flip=True).probs[1], np.tile(expected, (12, 1)), atol=1e-5)


def test_evaluate_averages_probabilities_over_scales_and_flips(tmp_path):
    # The mean of these logits is below 0, the mean of their probabilities above 1/2.
    logits = {16: -8.0, 32: 2.0, 48: 2.0}

    def score(images):
        return logits[images.shape[-1]] + 0 * images[:, 0]

    folder, own = picture_folder(tmp_path, [32]), stub_segmenter(score)
    scales = (0.5, 1.0, 1.5)
    probs = own.predict(folder / "images" / "32.png", scales=scales, flip=True).probs
    expected = np.mean([1 / (1 + np.exp(-logit)) for logit in logits.values()])
    assert expected > 0.5 > 1 / (1 + np.exp(-np.mean(list(logits.values()))))
    np.testing.assert_allclose(probs[1], expected, atol=1e-6)
    report = ev.evaluate(own, data=folder, scales=scales, flip=True)
    assert report.confusion.tolist() == [[0, 512], [0, 512]]
    assert ev.evaluate(own, data=folder, scales=(0.5,)).confusion.tolist() == [[512, 0], [512, 0]]

    # A map that depends on the column: only with its mirror image does every pixel get the same.
    ramp = stub_segmenter(lambda images: torch.arange(images.shape[-1]) - 15.5 + 0 * images[:, 0])
    plain = ev.evaluate(ramp, data=folder)
    assert plain.confusion.tolist() == [[512, 0], [0, 512]]
    np.testing.assert_allclose(ramp.predict(folder / "images" / "32.png", flip=True).probs, 0.5, atol=1e-6)


# protocol


def test_protocol_line_spells_everything(tmp_path):
    folder = picture_folder(tmp_path, [16, 32])
    own = stub_segmenter(lambda images: images[:, 0])
    report = ev.evaluate(own, data=folder, crf="aaai_inference", scales=(1, 0.5), flip=True)
    assert report.protocol_line == (
        f"data {folder}; split val, 2 pictures; scored at original size; network input at the picture's size; "
        "scales 1, 0.5; with flip; CRF aaai_inference (Gaussian 4/3, bilateral 83/5/3, 10 iterations); "
        "label prior: none; weights: last step; ignored: 255 and every id outside the class list"
    )
    assert report.as_dict()["protocol_line"] == report.protocol_line
    masks = ev.evaluate(masks=folder / "masks", data=folder)
    assert f"masks of {folder / 'masks'}, 0.0 % of the pixels unlabeled" in masks.protocol_line


def test_protocol_line_names_what_is_left_out(segmenter, data):
    model = build_network(segmenter.config, ("starfish", "leaf", "zebra"))
    report = ev.score_pictures(Segmenter(model, segmenter.config), open_data(data, split="val"))
    assert "outside the class list, and the classes ball, crate, donut" in report.protocol_line
    assert "network input 64 px; scale 1; no flip; no CRF" in report.protocol_line


def test_protocol_line_names_labels_outside_the_mean():
    report = report_from_confusion(np.diag([4, 0, 3]).astype(np.int64), ("a", "b"), 1, {"split": "val"})
    assert report.protocol_line == "split val, ? pictures; not in the mean: a"


def test_crf_words():
    assert crf_words(dataclasses.asdict(CRFParams.inference())).startswith(
        "CRF inference (Gaussian 3/3, bilateral 83/5/4"
    )
    assert crf_words(dataclasses.asdict(CRFParams(iterations=3))).startswith("CRF custom (")
    assert crf_words(None) == "no CRF"


def test_protocol_of_a_set_whose_other_ids_are_background(tmp_path):
    root = picture_folder(tmp_path, [16])
    codes = label_codes(1, others="background")
    own = stub_segmenter(lambda images: images[:, 0])
    picture = Picture(root / "images" / "16.png", "16.png", (0,), root / "masks" / "16.png")
    report = ev.score_pictures(own, PictureSet(("a",), (picture,), codes, root, "val", "folder"))
    assert report.protocol_line.endswith("ignored: 255")


# the command


def test_a_run_folder_keeps_its_newest_evaluation(segmenter, data, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    save_model(run / "model.safetensors", segmenter.model, segmenter.config)
    (run / "config.json").write_text(segmenter.config.to_json())
    for limit in (1, 2):
        report = ev.evaluate(run, data=data, limit=limit, scales=(1.0, 0.5), data_format="folder")
        assert json.loads((run / "evaluation.json").read_text()) == json.loads(json.dumps(report.as_dict()))
    assert cli.main(["evaluate", str(run), "--data", str(data), "--limit", "1"]) == 0
    assert str(run / "evaluation.json") in capsys.readouterr().out
    kept = (run / "evaluation.json").read_bytes()
    assert json.loads(kept)["protocol"]["num_images"] == 1

    ev.evaluate(run, data=data, limit=2, out=tmp_path / "other")
    ev.evaluate(Segmenter.load(run), data=data, limit=2)
    ev.evaluate(run / "model.safetensors", data=data, limit=2)
    assert (run / "evaluation.json").read_bytes() == kept
    assert json.loads((tmp_path / "other" / "evaluation.json").read_text())["num_images"] == 2
    assert cli.main(["evaluate", str(run / "model.safetensors"), "--data", str(data), "--limit", "1"]) == 0
    assert "no file was written, as there is no run folder" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "run"]


def test_options_of_the_network_by_name_or_as_a_record(segmenter, data):
    record = Inference(scales=(0.5,), flip=True)
    one = ev.evaluate(segmenter, data=data, limit=2, inference=record)
    assert one == ev.evaluate(segmenter, data=data, limit=2, scales=(0.5,), flip=True)
    assert ev.evaluate(segmenter, data=data, limit=2, tile=64).protocol["network_input"].endswith("in tiles of 64")
    with pytest.raises(TypeError, match="unknown argument blip"):
        ev.evaluate(segmenter, data=data, blip=1)
    with pytest.raises(ValueError, match="takes no tags"):
        ev.evaluate(segmenter, data=data, tags=["ball"])


def test_command_writes_prints_and_equals_the_function(segmenter, data, tmp_path, capsys):
    run = tmp_path / "model.safetensors"
    save_model(run, segmenter.model, segmenter.config)
    words = ["evaluate", run, "--data", data, "--boundary", "--reliable", "--cam-scales", "1", "1,0.5", "--out"]
    words = [str(word) for word in [*words, tmp_path / "o", "--cam-thresholds", "0.1", "0.3", "--limit", "2"]]
    assert cli.main([*words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    expected = ev.evaluate(
        run,
        data=data,
        boundary=True,
        cam=True,
        cam_scales=[[1], [1, 0.5]],
        cam_thresholds=(0.1, 0.3),
        reliable=True,
        limit=2,
    )
    assert result == json.loads(json.dumps(expected.as_dict()))
    assert [curve["name"] for curve in result["cam"]] == ["CAM 1, true tags", "CAM 1+0.5, true tags"]
    assert len(result["cam"][0]["miou"]) == 2
    assert json.loads((tmp_path / "o" / "evaluation.json").read_text()) == result
    assert (tmp_path / "o" / "cam.svg").read_text().count("CAM 1") >= 2
    assert Image.open(tmp_path / "o" / "cam.png").width > 500
    assert cli.main(words) == 0
    told = capsys.readouterr().out
    assert result["protocol_line"] in told
    for word in ("boundary F", "CAM 1+0.5, true tags", "precision", "coverage", "recall", f"mIoU {result['miou']:.4f}"):
        assert word in told
    rows = [line.split() for line in told.splitlines()]
    for label, iou in result["iou"].items():  # the first table: IoU, and the boundary F-score
        row = next(row for row in rows if row[:1] == [label])
        assert row[1] == ("-" if iou is None else f"{iou:.4f}")
    first = (tmp_path / "o" / "cam.svg").read_bytes()
    assert cli.main(words) == 0
    assert (tmp_path / "o" / "cam.svg").read_bytes() == first


def test_cam_of_the_run_is_the_default(segmenter, data):
    report = ev.evaluate(segmenter, data=data, cam=True, limit=1)
    assert [curve.scales for curve in report.cam] == [tuple(segmenter.config.method.cam_scales)]
    assert report.cam[0].thresholds == THRESHOLDS
    assert report.reliable is None


def test_misuse(data, tmp_path, capsys):
    assert cli.main(["evaluate", "run", "--data", str(data), "--cam-scales", "1;2"]) == 2
    assert "--cam-scales takes words like" in capsys.readouterr().err


def test_progress_counts_every_pass(segmenter, data):
    seen = []
    ev.evaluate(segmenter, data=data, cam=True, reliable=True, limit=2, progress=lambda done, n: seen.append((done, n)))
    assert seen == [(i, 6) for i in range(1, 7)]


def test_a_negative_limit_is_refused(builtin, segmenter):
    with pytest.raises(ValueError, match="limit must be 0"):
        ev.evaluate(segmenter, data=builtin, limit=-1)
