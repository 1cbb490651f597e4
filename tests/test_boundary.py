"""Boundary F-score against its definition written as loops, and by hand."""

import math

import numpy as np
import pytest

from tag2mask.scoring.boundary import BoundaryCounter, close_bands, label_boundary, near

NAMES = ("a", "b", "c")


def loops_boundary(labels, label):
    """Pixels of `label` with a direct neighbour of another label that is not 255."""
    h, w = labels.shape
    out = set()
    for y, x in zip(*np.nonzero(labels == label), strict=True):
        for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if 0 <= v < h and 0 <= u < w and labels[v, u] not in (label, 255):
                out.add((y, x))
    return out


def loops_closed(labels, distance):
    """Each 255 becomes its nearest label within `distance`; of equally near ones the nearest column, left, upper."""
    out = labels.copy()
    known = list(zip(*np.nonzero(labels != 255), strict=True))
    for y, x in zip(*np.nonzero(labels == 255), strict=True):
        found = [((v - y) ** 2 + (u - x) ** 2, abs(u - x), u > x, v > y, labels[v, u]) for v, u in known]
        if found and min(found)[0] <= distance**2:
            out[y, x] = min(found)[-1]
    return out


def loops_counts(predicted, truth, label, distance):
    closed = loops_closed(truth, distance)
    ours = loops_boundary(predicted, label)
    theirs = {(y, x) for y, x in loops_boundary(closed, label) if predicted[y, x] != 255}
    strict = loops_boundary(np.where(truth == 255, 255, predicted), label)

    def close_to(point, others):
        return any(math.dist(point, other) <= distance for other in others)

    right = {p for p in ours if close_to(p, theirs)}
    return [len(right | strict), len(right), len(theirs), sum(close_to(p, ours) for p in theirs)]


def random_labels(rng, shape):
    """Blocks of labels with an ignored band, an ignored block and noise."""
    labels = np.kron(rng.integers(0, 4, (3, 4)), np.ones((5, 4), int)).astype(np.uint8)[: shape[0], : shape[1]]
    labels[rng.random(shape) < 0.05] = rng.integers(0, 4)
    row = rng.integers(0, shape[0] - 2)
    labels[row : row + 2] = 255
    labels[2:10, 1:8] = np.where(rng.random() < 0.5, 255, labels[2:10, 1:8])
    return labels


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("tolerance", [0.04, 0.1, 0.2])  # 1, 2.05 and 4.1 pixels
def test_counts_equal_the_definition(seed, tolerance):
    rng, shape = np.random.default_rng(seed), (13, 16)
    truth, predicted = random_labels(rng, shape), random_labels(rng, shape)
    if seed % 2:
        predicted[predicted == 255] = 1
    counter = BoundaryCounter(4, tolerance)
    counter.update(predicted, truth)
    distance = max(1.0, tolerance * math.hypot(*shape))
    np.testing.assert_array_equal(close_bands(truth, distance), loops_closed(truth, distance))
    expected = [loops_counts(predicted, truth, label, distance) for label in range(4)]
    assert counter.counts.T.tolist() == expected
    assert np.sum(expected) > 0


def test_near_is_a_disk():
    points = np.zeros((11, 11), bool)
    points[5, 5] = True
    y, x = np.mgrid[:11, :11] - 5
    for distance in (1.0, 1.42, 2.0, 2.5, 3.7, 5.0, 40.0):
        np.testing.assert_array_equal(near(points, distance), y**2 + x**2 <= distance**2)
    assert not near(np.zeros((4, 5), bool), 3.0).any()


def test_equal_masks_score_one_and_labels_without_boundary_are_not_scored():
    labels = np.zeros((40, 40), np.uint8)
    labels[10:20, 10:20] = 1
    whole = np.full((40, 40), 2, np.uint8)  # fills its picture: no boundary
    counter = BoundaryCounter(4)
    counter.update(labels, labels)
    counter.update(whole, whole)
    score = counter.score(NAMES)
    assert score.per_label == {"background": 1.0, "a": 1.0, "b": None, "c": None}
    assert score.mean == 1.0
    assert BoundaryCounter(4).score(NAMES).mean is None


def test_shifted_square_by_hand():
    truth, predicted = np.zeros((2, 40, 40), np.uint8)
    truth[10:20, 10:20] = 1
    predicted[10:20, 13:23] = 1  # three pixels to the right; the tolerance is one pixel
    counter = BoundaryCounter(2, tolerance=0.001)
    counter.update(predicted, truth)
    # Both outlines have 36 pixels. Within one pixel of the other lie, in rows 10 and 19, seven shared columns and the
    # next one; on the side inside the other square, the two pixels beside those rows.
    right = 2 * 8 + 2
    assert counter.counts[:, 1].tolist() == [36, right, 36, right]
    assert counter.score(("a",)).per_label["a"] == pytest.approx(right / 36)


def test_a_label_on_one_side_only_scores_zero():
    truth, predicted = np.zeros((2, 20, 20), np.uint8)
    truth[5:10, 5:10] = 1
    predicted[5:10, 5:10] = 2
    counter = BoundaryCounter(3)
    counter.update(predicted, truth)
    assert counter.score(("a", "b")).per_label == {"background": 1.0, "a": 0.0, "b": 0.0}
    assert counter.score(("a", "b")).mean == pytest.approx(1 / 3)


def test_band_around_an_object_is_its_boundary():
    y, x = np.mgrid[:375, :500]
    distance = np.hypot(y - 180, x - 240)
    truth = np.where(distance < 100, 1, 0).astype(np.uint8)
    exact = truth.copy()
    truth[np.abs(distance - 100) < 2.5] = 255  # as VOC draws it
    small = np.where(distance < 90, 1, 0).astype(np.uint8)
    scores = []
    for predicted in (exact, small):
        counter = BoundaryCounter(2)
        counter.update(predicted, truth)
        scores.append(counter.score(("a",)).mean)
    assert scores == [1.0, 0.0]


def test_nothing_inside_an_ignored_region_counts():
    truth = np.zeros((100, 100), np.uint8)
    truth[10:30, 10:30] = 1
    truth[50:90, 50:90] = 255
    clean, noisy = np.where(truth == 255, 0, truth), np.where(truth == 255, 0, truth)
    noisy[50:90, 50:90] = 1  # its outline runs along the edge of the ignored region
    noisy[60:70, 60:80] = 0
    counts = []
    for predicted in (clean, noisy):
        counter = BoundaryCounter(2)
        counter.update(predicted, truth)
        counts.append(counter.counts)
    np.testing.assert_array_equal(counts[0], counts[1])
    assert counts[0][:, 1].tolist() == [76, 76, 76, 76]


def test_boundary_leaves_out_the_border_and_ignored_neighbours():
    labels = np.array([[1, 1, 255, 0], [1, 1, 0, 0], [1, 1, 1, 1]], np.uint8)
    assert np.argwhere(label_boundary(labels, 1)).tolist() == [[1, 1], [2, 2], [2, 3]]
    assert np.argwhere(label_boundary(labels, 0)).tolist() == [[1, 2], [1, 3]]


def test_what_cannot_be_counted():
    with pytest.raises(ValueError, match="differ in size"):
        BoundaryCounter(2).update(np.zeros((2, 3)), np.zeros((3, 2)))
    for tolerance in (0.0, 1.0, -0.1):
        with pytest.raises(ValueError, match="share of the diagonal"):
            BoundaryCounter(2, tolerance)
