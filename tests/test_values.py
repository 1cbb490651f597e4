"""Results as values: pickled, copied and compared."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import pickle
import pkgutil

import numpy as np
import pytest

import tag2mask
from tag2mask.base.values import equal
from tag2mask.data import open_data
from tag2mask.inference.prediction import Prediction, one_part
from tag2mask.scoring.report import CamCurve, report_from_confusion


def prediction(mask=((0, 1), (2, 1)), first=0.5, classes=("cat", "dog")):
    probs = np.full((3, 2, 2), first, np.float32)
    return Prediction(
        rgb=np.zeros((2, 2, 3), np.uint8),
        mask=np.array(mask, np.uint8),
        tag_scores={"cat": 0.5, "dog": 0.25},
        classes=classes,
        compute_parts=lambda: one_part(probs),
    )


@pytest.mark.parametrize("made", [pickle.dumps, copy.copy, copy.deepcopy])
@pytest.mark.parametrize("options", [{}, {"tile": 64}, {"crf": True}, {"tags": ["ball"]}])
def test_a_prediction_goes_to_another_process_and_is_the_same(segmenter, made, options):
    rgb = np.random.default_rng(0).integers(0, 255, (80, 100, 3), dtype=np.uint8)
    first = segmenter.predict(rgb, **options)
    back = made(first)
    back = pickle.loads(back) if isinstance(back, bytes) else back
    assert back == first
    np.testing.assert_array_equal(back.probs, first.probs)
    np.testing.assert_array_equal(back.overlay(), first.overlay())
    assert pickle.loads(pickle.dumps(back)) == first
    assert len(list(back.parts())) == 1


def test_predictions_are_equal_when_all_of_them_is():
    assert prediction() == prediction()
    for other in (prediction(mask=((0, 1), (2, 2))), prediction(first=0.25), prediction(classes=("cat", "cow")), 1):
        assert prediction() != other
        assert other != prediction()
    with pytest.raises(TypeError, match="unhashable"):
        hash(prediction())


def test_reports_are_values_too(builtin):
    def report(cell=1):
        made = report_from_confusion(np.array([[4, cell], [0, 2]]), ("cat",), 3, {"split": "val"})
        curve = CamCurve(scales=(1.0,), tags="true", thresholds=(0.1,), miou=(float("nan"),), best=made)
        return dataclasses.replace(made, cam=(curve,))

    assert report() == report()
    assert report() != report(cell=2)
    assert pickle.loads(pickle.dumps(report())) == report()
    empty = report_from_confusion(np.zeros((2, 2), int), ("cat",), 0, {})
    assert pickle.loads(pickle.dumps(empty)) == empty, "its mIoU is no number"
    pictures = open_data(builtin)
    assert pickle.loads(pickle.dumps(pictures)).pictures == pictures.pictures


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        (np.zeros(2), np.zeros(2), True),
        (np.zeros(2), np.zeros(3), False),
        (np.zeros(2), np.zeros(2, int), False),
        (np.array([np.nan]), np.array([np.nan]), True),
        (np.zeros(2), [0.0, 0.0], False),
        ({"a": np.zeros(2)}, {"a": np.zeros(2)}, True),
        ({"a": np.zeros(2)}, {"b": np.zeros(2)}, False),
        ((1, np.ones(1)), (1, np.ones(1)), True),
        ((1,), [1], False),
        (float("nan"), float("nan"), True),
        (np.array(["a"]), np.array(["a"]), True),
    ],
)
def test_equality_of_what_results_hold(one, two, same):
    assert equal(one, two) is same
    assert equal(two, one) is same


def test_no_dataclass_compares_arrays_as_if_they_were_numbers():
    words = ("NDArray", "Tensor", "Labels", "Rgb")
    names = [each.name for each in pkgutil.walk_packages(tag2mask.__path__, "tag2mask.", onerror=lambda name: None)]
    wrong = []
    for name in names:
        if name.endswith("__main__") or name == "tag2mask.web.page":
            continue
        for kind in vars(importlib.import_module(name)).values():
            if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__dataclass_params__.eq:
                wrong += [kind for each in dataclasses.fields(kind) if any(word in str(each.type) for word in words)]
    assert not wrong
