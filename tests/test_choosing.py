"""Sheets show each class, and few pictures without any."""

from __future__ import annotations

import itertools
import random

import pytest
import torch

from tag2mask.base.choosing import some_of_each
from tag2mask.batch import IGNORE, Batch
from tag2mask.training.watching import _Scores, extremes


def test_classes_take_turns_in_the_order_of_preference():
    assert some_of_each([(0,), (0,), (0,), (1,), (2,)], 4) == [0, 3, 4, 1]
    assert some_of_each([(), (0,), (), (1,), (0,), (1,)], 4) == [1, 3, 4, 0], "one without a class"
    assert some_of_each([(), (), (), (5,)], 4) == [3], "where there is only little else there are fewer rows"
    assert some_of_each([(), ()], 4) == [0], "a sheet shows something"
    assert some_of_each([(0, 1), (1,), (0,)], 2) == [0, 1]


@pytest.mark.parametrize("seed", range(20))
def test_never_more_than_a_quarter_is_without_a_class(seed):
    draw = random.Random(seed)
    for count, most in itertools.product((3, 16, 40), (1, 4, 8)):
        classes = [draw.sample(range(5), draw.choice((0, 0, 0, 1, 2))) for _ in range(count)]
        chosen = some_of_each(classes, most)
        empty = sum(not classes[i] for i in chosen)
        assert len(chosen) == len(set(chosen)) <= most
        assert empty <= len(chosen) / 4 or not any(classes)
        shown = {each for i in chosen for each in classes[i]}
        assert shown == {each for kinds in classes for each in kinds} or len(chosen) >= most - 1


def test_rows_of_a_batch():
    rgb = torch.arange(3, dtype=torch.uint8).reshape(3, 1, 1, 1).expand(3, 3, 2, 2)
    mask, valid = torch.full((3, 2, 2), IGNORE), torch.ones(3, 2, 2).bool()
    batch = Batch(rgb, valid, torch.eye(3).bool(), mask, ("a", "b", "c")).rows([2, 0])
    assert batch.names == ("c", "a")
    assert batch.rgb[:, 0, 0, 0].tolist() == [2, 0]
    assert batch.tags.tolist() == [[False, False, True], [True, False, False]]


def test_the_best_and_worst_pictures_are_those_of_each_class():
    """Negatives without a fault have mIoU 1 and would fill the sheet of the best."""
    scores = {f"negative {i}": _Scores(1.0, {}) for i in range(50)}
    scores |= {f"cat {i}": _Scores(0.9, {"cat": 0.80 + i / 100}) for i in range(9)}
    scores |= {"dog 1": _Scores(0.5, {"dog": 0.1}), "dog 2": _Scores(0.6, {"dog": 0.4})}
    scores |= {"both": _Scores(0.7, {"cat": 0.05, "dog": 0.95}), "false alarm": _Scores(0.4, {})}
    best, worst = extremes(scores, 4, best=True), extremes(scores, 4)
    assert list(best) == ["both", "cat 8", "dog 2", "negative 0"]
    assert list(best.values()) == ["both: dog 0.95", "cat 8: cat 0.88", "dog 2: dog 0.40", "negative 0: mIoU 1.00"]
    assert list(worst) == ["both", "dog 1", "cat 0", "false alarm"]
    assert worst["both"] == "both: cat 0.05"
    assert extremes({}, 4) == {}


def test_the_scores_of_one_picture():
    import numpy as np

    found = _Scores.of(np.array([[6, 2, 0], [1, 1, 0], [0, 0, 0]]), ("cat", "dog"))
    assert found.iou == {"cat": 0.25}
    assert found.miou == pytest.approx((6 / 9 + 0.25) / 2)
