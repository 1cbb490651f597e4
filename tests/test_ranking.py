"""Which pictures to look at first, and what they look like."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from PIL import Image

from tag2mask.cli import main
from tag2mask.inference.prediction import Prediction, one_part
from tag2mask.jobs.predicting.ranking import COLUMNS, Ranked, Review, ranked, review
from tag2mask.jobs.predicting.run import predict
from tag2mask.runs.checkpoints import save_model


def prediction(mask, sure=1.0, scores=(0.9, 0.1)):
    mask = np.asarray(mask, dtype=np.uint8)
    probs = np.full((3, *mask.shape), (1 - sure) / 3, np.float32)
    np.put_along_axis(probs, mask[None].astype(np.int64), sure + (1 - sure) / 3, axis=0)
    return Prediction(
        rgb=np.zeros((*mask.shape, 3), np.uint8),
        mask=mask,
        tag_scores=dict(zip(("cat", "dog"), scores, strict=True)),
        classes=("cat", "dog"),
        compute_parts=lambda: one_part(probs),
    )


HALF_CAT = [[1, 1, 0, 0]] * 4


def test_a_sure_prediction_that_agrees_scores_zero():
    sure = prediction(HALF_CAT, scores=(1.0, 0.0))
    found = review(sure, ["cat"], lambda rgb, names: np.float32([[[1.0, 1.0, 0.0, 0.0]] * 4]))
    assert found.score == pytest.approx(0, abs=1e-6)
    assert found.margin == pytest.approx(0, abs=1e-6)
    assert (found.tags, found.cam) == (0, 0)


@pytest.mark.parametrize(
    ("given", "scores", "tags", "reason"),
    [
        (["cat", "dog"], (0.9, 0.1), 1.0, "dog is not in the mask, but in the picture (known)"),
        (["dog"], (0.9, 0.1), 1.0, "cat is in the mask, but not in the picture (known)"),
        (["cat"], (0.9, 0.8), 0.8, "dog is no given tag, its score is 0.80"),
        (["cat"], (0.05, 0.1), 0.95, "cat is a given tag, its score is 0.05"),
        (None, (0.3, 0.1), 0.7, "cat is in the mask, but not in the picture (its tag score says)"),
        (None, (0.9, 0.8), 0.8, "dog is not in the mask, but in the picture (its tag score says)"),
    ],
)
def test_tags_that_the_mask_does_not_show(given, scores, tags, reason):
    found = review(prediction(HALF_CAT, scores=scores), given)
    assert found.tags == pytest.approx(tags)
    assert found.reason == reason
    assert found.score == pytest.approx(tags / 2, abs=1e-6), "mean of margin 0 and tags; there is no CAM"


def test_unsure_pixels_and_maps_that_differ():
    unsure = review(prediction(HALF_CAT, sure=0.25), ["cat"])
    assert unsure.margin == pytest.approx(0.75)
    assert unsure.reason == "the network is not sure of many pixels"
    other = review(prediction(HALF_CAT), ["cat"], lambda rgb, names: np.float32([[[0.0, 0.4, 0.9, 0.1]] * 4]))
    assert other.cam == pytest.approx(1 - 1 / 3)
    assert other.reason == "mask and class activation map of cat differ"
    assert review(prediction(HALF_CAT), [], lambda rgb, names: None).cam is None


def test_equal_scores_are_ordered_by_name(tmp_path):
    def one(file, score):
        return Ranked(file, tmp_path, tmp_path, Review(score, 0, 0, None, ""))

    assert [each.file for each in ranked([one("b", 0.5), one("c", 0.9), one("a", 0.5)])] == ["c", "a", "b"]


def test_predict_writes_the_list_and_the_page(segmenter, tmp_path, capsys):
    save_model(tmp_path / "model.safetensors", segmenter.model, segmenter.config)
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for i in range(4):
        rgb = rng.integers(0, 255, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(rgb).save(tmp_path / "pictures" / f"<b>{i}.png")
    names = "".join(f"<b>{i}.png,{segmenter.classes[0] if i else ''}\n" for i in range(3))
    (tmp_path / "tags.csv").write_text(f"file_name,tags\n{names}")
    out = tmp_path / "out"
    command = ["predict", str(tmp_path / "model.safetensors"), str(tmp_path / "pictures"), "--out", str(out), "--rank"]
    assert main([*command, "--tags", str(tmp_path / "tags.csv"), "--device", "cpu", "--format", "npz"]) == 0
    assert "rank.html" in capsys.readouterr().out
    with (out / "rank.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [int(row["rank"]) for row in rows] == [1, 2, 3, 4]
    assert sorted(row["file"] for row in rows) == [f"<b>{i}.png" for i in range(4)]
    values = [float(row["score"]) for row in rows]
    assert values == sorted(values, reverse=True)
    assert all(0 <= value <= 1 for value in values)
    assert all(row["cam"] for row in rows if row["file"] in ("<b>1.png", "<b>2.png"))
    page = (out / "rank.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") == 4
    assert "<b>0.png" not in page.replace("&lt;b&gt;", "")
    assert not (out / ".masks").exists()


def test_probabilities_are_computed_once_for_the_ranking_and_for_npz(segmenter, tmp_path, monkeypatch):
    parts, computed = Prediction.parts, []

    def counted(self):
        computed.append(self)
        return parts(self)

    monkeypatch.setattr(Prediction, "parts", counted)
    Image.new("RGB", (20, 20), "red").save(tmp_path / "a.png")
    predict(segmenter, tmp_path / "a.png", tmp_path / "out", formats=("npz",), rank=True)
    assert len(computed) == 1
    with (tmp_path / "out" / "rank.csv").open(newline="", encoding="utf-8") as file:
        margin = next(csv.DictReader(file))["margin"]
    assert margin == f"{review(segmenter.predict(tmp_path / 'a.png')).margin:.4f}"


def test_a_model_without_maps_ranks_too(tmp_path, segmenter):
    class Plain(type(segmenter)):
        def class_activation_maps(self, rgb, names):
            return None

    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    plain = Plain(segmenter.model, segmenter.config, device="cpu")
    predict(plain, tmp_path / "a.png", tmp_path / "out", rank=True)
    with (tmp_path / "out" / "rank.csv").open(newline="", encoding="utf-8") as file:
        assert next(csv.DictReader(file))["cam"] == ""
