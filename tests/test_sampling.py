"""Which pictures training draws, and how fast it learns from a small batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tag2mask.config import TrainConfig
from tag2mask.data.dataset import Picture, PictureSet, label_codes
from tag2mask.data.training.sampling import (
    MOST_NEGATIVES,
    BalancedOrder,
    UniformOrder,
    fitting_sampling,
    tag_frequencies,
)


def picture_set(*tags: tuple[int, ...], classes: int = 3) -> PictureSet:
    pictures = tuple(Picture(Path(f"{i}.jpg"), f"{i}.jpg", own, None) for i, own in enumerate(tags))
    names = tuple("abcdefgh"[:classes])
    return PictureSet(names, pictures, label_codes(classes, others="ignore"), Path(), "train", "folder")


RARE = picture_set(*[(0,)] * 40, *[(1,)] * 8, *[(0, 1)] * 2, *[(2,)] * 3, *[()] * 150)


def drawn(order, count: int) -> list[int]:
    return [next(order.candidates(n)) for n in range(count)]


def test_balanced_draws_take_each_class_equally_often_and_few_negatives():
    order = BalancedOrder(RARE, seed=0)
    tags = [RARE.pictures[i].tags for i in drawn(order, 9 * 40)]
    counts = [sum(c in own for own in tags) for c in range(3)]
    assert counts[2] == 2 * 40, "two of the nine draws of a round are of the rarest class"
    assert min(counts[:2]) >= 2 * 40
    assert sum(not own for own in tags) / len(tags) == pytest.approx(MOST_NEGATIVES)


def test_pictures_of_a_class_follow_each_other_in_epochs():
    rare = [i for i in drawn(BalancedOrder(RARE, seed=1), 9 * 30) if 2 in RARE.pictures[i].tags]
    for start in range(0, len(rare) - 2, 3):
        assert len(set(rare[start : start + 3])) == 3, "each once before any comes again"
    assert {tuple(rare[i : i + 3]) for i in range(0, 30, 3)} != {tuple(rare[:3])}, "in another order each time"


@pytest.mark.parametrize("kind", [BalancedOrder, UniformOrder])
def test_a_draw_depends_on_seed_and_number_alone(kind):
    order, again, other = kind(RARE, 5), kind(RARE, 5), kind(RARE, 6)
    expected = drawn(order, 100)
    assert [next(again.candidates(n)) for n in reversed(range(100))] == expected[::-1]
    assert drawn(other, 100) != expected


@pytest.mark.parametrize("kind", [BalancedOrder, UniformOrder])
def test_every_picture_may_stand_in_for_one_that_cannot_be_read(kind):
    candidates = list(kind(RARE, 0).candidates(7))
    assert sorted(candidates) == list(range(len(RARE.pictures)))


@pytest.mark.parametrize("tags", [[()] * 4, [(0,)] * 4, [(0,), (1,), (2,), ()]])
def test_balanced_draws_of_any_set(tags):
    order = BalancedOrder(picture_set(*tags), 0)
    assert set(drawn(order, 200)) == set(range(4))


def test_auto_balances_unequal_classes_and_many_negatives():
    assert fitting_sampling(RARE) == ("balanced", "74% of the pictures have no tag")
    unequal = picture_set(*[(0,)] * 11, *[(1,)] * 2)
    assert fitting_sampling(unequal) == ("balanced", "a has 11 pictures, b has 2")
    equal = picture_set(*[(0,)] * 10, *[(1,)] * 2, *[()] * 12)
    assert fitting_sampling(equal)[0] == "uniform", "a class without pictures does not count, nor half of negatives"


def test_frequencies_are_those_of_the_draws():
    for sampling, order in (("balanced", BalancedOrder(RARE, 0)), ("uniform", UniformOrder(RARE, 0))):
        length = 9 * 600 if sampling == "balanced" else len(RARE.pictures)
        shown = np.mean([[c in RARE.pictures[i].tags for c in range(3)] for i in drawn(order, length)], axis=0)
        assert tag_frequencies(RARE, sampling) == pytest.approx(shown, abs=0.01)


def test_the_learning_rate_follows_a_batch_smaller_than_the_presets():
    def rates(**changes):
        return [phase.lr for phase in TrainConfig.preset("small", data="x", **changes).phases]

    assert rates() == [0.01, 0.002]
    assert rates(batch_size=8, joint_batch_size=4) == [0.005, 0.001]
    assert rates(batch_size=64) == [0.01, 0.002], "never above what the preset has"
    published = TrainConfig.preset("voc-rrm", data="x", joint_batch_size=2)
    assert [phase.lr for phase in published.phases] == [0.0007]
