"""Reliable labels: golden files of the published rule, thresholds, edge cases, properties."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tag2mask.config import IGNORE, CRFParams, ReliableConfig
from tag2mask.reliable import Votes, background_score, crf_votes, labels_from_votes, reliable_labels

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee"])
def test_official_labels_equal_the_published_function(name):
    golden = np.load(GOLDEN / f"labels_{name}.npz")
    rgb = torch.from_numpy(golden["rgb"]).permute(2, 0, 1)[None]
    cams = torch.zeros(1, 20, *rgb.shape[-2:])
    cams[0, golden["tags"].astype(int)] = torch.from_numpy(golden["cams"].astype(np.float32))
    tags = torch.zeros(1, 20, dtype=torch.bool)
    tags[0, golden["tags"].astype(int)] = True
    labels = reliable_labels(rgb, cams, tags, ReliableConfig.official())[0].numpy()
    assert (labels == golden["labels"]).mean() >= 0.995
    assert set(np.unique(labels)) == set(np.unique(golden["labels"]))


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee"])
def test_votes_equal_the_published_crf(name):
    golden = np.load(GOLDEN / f"labels_{name}.npz")
    rgb = torch.from_numpy(golden["rgb"]).permute(2, 0, 1)[None]
    cams = torch.from_numpy(golden["cams"].astype(np.float32))[None]
    votes = crf_votes(rgb, cams, torch.ones(1, cams.shape[1], dtype=torch.bool), ReliableConfig.official())
    for vote, key in ((votes.low, "crf_alpha4"), (votes.high, "crf_alpha32")):
        want = torch.from_numpy(golden[key]).float()
        assert (vote[0] - want).abs().max() <= 1e-3
        assert (vote[0].argmax(0) == want.argmax(0)).float().mean() >= 0.999


def no_crf(cams, power_low=4.0, power_high=32.0):
    """Votes of a CRF with zero pairwise weight: the scores, normalised over the labels."""
    votes = [torch.cat([background_score(cams, p), cams], 1).clamp(1e-5, 1) for p in (power_low, power_high)]
    return Votes(*[v / v.sum(1, keepdim=True) for v in votes])


def one_class(values):
    """CAMs [1, 1, 1, N] of one present class."""
    return torch.tensor(values, dtype=torch.float32).view(1, 1, 1, -1), torch.tensor([[True]])


def test_thresholds_of_the_background_score():
    # method 3.2: the object beats the background above 0.0770 (power 32), 0.2755 (power 4);
    # a background score of 0.8 needs a CAM below 0.00695 (power 32)
    for power, cam in ((32.0, 0.0770), (4.0, 0.2755)):
        below, above = torch.tensor(cam - 1e-4), torch.tensor(cam + 1e-4)
        score = background_score(torch.stack([below, above]).view(2, 1, 1, 1), power).flatten()
        assert score[0] > below
        assert score[1] < above
    score = background_score(torch.tensor([0.0069, 0.0070]).view(2, 1, 1, 1), 32.0).flatten()
    assert score[0] > 0.8 > score[1]


def test_quantile_keeps_the_best_forty_percent_of_a_ramp():
    # 1000 pixels 0.001 ... 1: of the 900 above 0.1, those strictly above element int(0.6 * 900) are kept: 359
    cams, tags = one_class([(i + 1) / 1000 for i in range(1000)])
    sure = Votes(*[torch.tensor([[0.0, 1.0]]).view(1, 2, 1, 1).expand(1, 2, 1, 1000)] * 2)
    labels = labels_from_votes(cams, sure, tags, ReliableConfig.official())
    kept = (labels == 1).flatten()
    assert int(kept.sum()) == 359
    assert bool(kept[-359:].all())


def test_one_candidate_pixel_gives_no_seed():
    # strict > over a list of one: nothing is above its own quantile, as published
    cams, tags = one_class([0.0, 0.0, 0.9])
    sure = Votes(*[torch.tensor([[0.0, 1.0]]).view(1, 2, 1, 1).expand(1, 2, 1, 3)] * 2)
    assert (labels_from_votes(cams, sure, tags, ReliableConfig.official()) == IGNORE).all()


def test_class_with_an_empty_cam_gets_no_seeds():
    """The published code ends in an IndexError here (no CAM above 0.1)."""
    cams = torch.full((1, 2, 4, 4), 0.09)
    cams[0, 1] = 0
    rgb = torch.randint(0, 256, (1, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for config in (ReliableConfig.official(), ReliableConfig.clean(), ReliableConfig.paper()):
        labels = reliable_labels(rgb, cams, torch.tensor([[True, True]]), config)
        assert not (labels == 2).any()


def test_a_tagged_picture_without_a_seed_teaches_nothing_by_the_clean_rule_alone():
    """An empty CAM has a background score of 1 everywhere, which would teach that the tag is not there."""
    rgb = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    cams, tags = torch.zeros(3, 2, 8, 8), torch.tensor([[True, False], [True, True], [False, False]])
    cams[1, 1, :, :5] = torch.linspace(0.9, 1, 5)  # one of its two tags has a map
    valid = torch.ones(3, 8, 8, dtype=torch.bool)
    valid[:, 6:] = False
    assert (reliable_labels(rgb, cams, tags, ReliableConfig.official(), valid)[0, :6] == 0).all(), "as published"
    assert ReliableConfig.paper().unseeded == "background"
    labels = reliable_labels(rgb, cams, tags, ReliableConfig.clean(), valid)
    assert (labels[0] == IGNORE).all()
    assert (labels[1] == 2).any()
    assert (labels[2, :6] == 0).all(), "a picture without tags is background"
    assert (labels[:, 6:] == IGNORE).all()


def test_negative_picture_is_background_only():
    """The published code ends in a ValueError without tags; here the whole picture is reliable background."""
    rgb = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = reliable_labels(rgb, torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, dtype=torch.bool))
    assert (labels == 0).all()


def test_disagreement_of_cam_and_crf():
    """A pixel that is CAM-sure for class 1 but CRF-labelled 2: kept by the published union, ignored by eq. 7."""
    cams = torch.zeros(1, 2, 1, 5)
    cams[0, 0, 0] = torch.tensor([0.2, 0.3, 0.4, 0.5, 0.9])
    crf = torch.zeros(1, 3, 1, 5)
    crf[:, 2] = 1
    tags = torch.tensor([[True, True]])
    union = labels_from_votes(cams, Votes(crf, crf), tags, ReliableConfig.official())
    assert (union == IGNORE).all()  # class 1 wins no pixel of the vote, so it has no seeds at all
    crf[0, :, 0, 0] = torch.tensor([0.0, 1.0, 0.0])
    union = labels_from_votes(cams, Votes(crf, crf), tags, ReliableConfig.official())
    assert union.flatten().tolist() == [255, 255, 255, 255, 2]
    equal = labels_from_votes(cams, Votes(crf, crf), tags, ReliableConfig.clean())
    assert (equal == IGNORE).all()


def test_where_the_votes_conflict_background_wins_or_the_pixel_is_ignored():
    # low vote: object; high vote: background. conf = max(high[0], low[1:]) >= 0.8, CAM-sure for the class
    cams, tags = one_class([0.2, 0.5, 0.9])
    low = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1).expand(1, 2, 1, 3)
    high = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 3)
    assert labels_from_votes(cams, Votes(low, high), tags, ReliableConfig.official()).flatten().tolist() == [
        255,
        255,
        0,
    ]
    # the other way round nothing is decided
    assert (labels_from_votes(cams, Votes(high, low), tags, ReliableConfig.official()) == IGNORE).all()


def test_padding_gets_no_label_and_changes_nothing():
    generator = torch.Generator().manual_seed(1)
    rgb = torch.randint(0, 256, (1, 3, 12, 16), dtype=torch.uint8, generator=generator)
    cams = torch.rand(1, 2, 12, 16, generator=generator)
    tags = torch.tensor([[True, True]])
    alone = reliable_labels(rgb[..., :12], cams[..., :12], tags)
    valid = torch.ones(1, 12, 16, dtype=torch.bool)
    valid[..., 12:] = False
    padded = reliable_labels(rgb, cams, tags, valid=valid)
    assert (padded[..., 12:] == IGNORE).all()
    assert torch.equal(padded[..., :12], alone)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), classes=st.integers(1, 4), rule=st.sampled_from(["official", "paper", "clean"]))
def test_labels_are_tags_background_or_ignore(seed, classes, rule):
    generator = torch.Generator().manual_seed(seed)
    tags = torch.rand(2, classes, generator=generator) < 0.5
    cams = torch.rand(2, classes, 9, 7, generator=generator) ** 3 * tags[:, :, None, None]
    rgb = torch.randint(0, 256, (2, 3, 9, 7), dtype=torch.uint8, generator=generator)
    labels = reliable_labels(rgb, cams, tags, getattr(ReliableConfig, rule)())
    for b in range(2):
        allowed = {0, IGNORE} | {i + 1 for i, present in enumerate(tags[b].tolist()) if present}
        assert set(labels[b].unique().tolist()) <= allowed


def test_raising_the_bars_never_adds_a_pixel():
    generator = torch.Generator().manual_seed(3)
    cams = torch.rand(1, 2, 16, 16, generator=generator)
    tags = torch.ones(1, 2, dtype=torch.bool)
    votes = no_crf(cams)

    def chosen(**bars):
        return labels_from_votes(cams, votes, tags, ReliableConfig(**bars)) != IGNORE

    base = chosen(min_crf=0.5, keep=0.6)
    for stricter in ({"min_crf": 0.7, "keep": 0.6}, {"min_crf": 0.5, "keep": 0.3}):
        mask = chosen(**stricter)
        assert not (mask & ~base).any()
        assert 0 < mask.sum() < base.sum()


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="cams"):
        reliable_labels(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.zeros(1, 2, 4, 5), torch.zeros(1, 2).bool())


def test_no_pairwise_weight_leaves_the_scores():
    config = ReliableConfig(crf=CRFParams(gaussian_compat=0.0, bilateral_compat=0.0))
    generator = torch.Generator().manual_seed(5)
    cams = torch.rand(1, 2, 8, 8, generator=generator)
    tags = torch.ones(1, 2, dtype=torch.bool)
    rgb = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8, generator=generator)
    expected = labels_from_votes(cams, no_crf(cams), tags, config)
    assert torch.equal(reliable_labels(rgb, cams, tags, config), expected)
