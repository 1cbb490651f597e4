"""The smallest regions that carry the evidence of a tag, on pictures whose objects and network are known."""

from __future__ import annotations

import json
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tag2mask import Segmenter, pseudo_label
from tag2mask.batch import Outputs
from tag2mask.cli.advice import after_training
from tag2mask.config import RetrainConfig, load_config
from tag2mask.data import open_data
from tag2mask.evidence import EXPONENTS, Evidence, class_exponents, erased, evidence_labels, tag_evidence
from tag2mask.models import build_network
from tag2mask.models.network import Network
from tag2mask.runs.health import nothing_learned
from tag2mask.training.first_step import train

SIDE = 96


class Eye:
    """A network that sees a dot where a pixel is black, and a stain where a twentieth of the picture is red."""

    def normalize(self, rgb: Tensor) -> Tensor:
        return rgb.float()

    def __call__(self, images: Tensor, *, segment: bool) -> Outputs:
        assert not segment
        black = (images.amax(1) < 40).flatten(1).any(1).float()
        red = ((images[:, 0] > images[:, 1] + 60).flatten(1).float().mean(1) > 0.05).float()
        return Outputs(images, 8 * torch.stack([black, red], dim=1) - 4, None, None)


NETWORK = cast(Network, Eye())


def disc(radius: float, row: float = SIDE / 2, column: float = SIDE / 2) -> Tensor:
    at = torch.arange(SIDE).float()
    return (at[:, None] - row) ** 2 + (at - column) ** 2 <= radius**2


def painted(where: Tensor, color: tuple[int, int, int]) -> Tensor:
    rgb = torch.full((3, SIDE, SIDE), 128, dtype=torch.uint8)
    rgb += torch.randint(0, 8, rgb.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    rgb[:, where] = torch.tensor(color, dtype=torch.uint8)[:, None]
    return rgb


def spot(width: float = 14.0) -> Tensor:
    """The same activation for any object in the middle: as wide as the network's field of view."""
    at = torch.arange(SIDE).float() - SIDE / 2
    return torch.exp(-(at[:, None] ** 2 + at**2) / (2 * width**2))


def cams(label: int) -> Tensor:
    maps = torch.zeros(2, SIDE, SIDE)
    maps[label] = spot()
    return maps


def iou(one: Tensor, other: Tensor) -> float:
    return float((one & other).sum() / (one | other).sum())


def test_what_surrounds_a_region_fills_it_and_the_rest_stays():
    hole = disc(5)
    rgb = painted(hole, (0, 0, 0))
    clean = erased(rgb[None], hole[None])[0]
    assert int(clean.min()) > 110, "nothing black is left"
    far = ~disc(5 + 15)
    assert torch.equal(clean[:, far], rgb[:, far])
    inside = clean[:, disc(4)].float()
    assert abs(float(inside.mean()) - 131) < 3 and float(inside.std()) > 0.5, (
        "as bright and as rough as the surroundings"
    )


def test_a_region_at_the_border_and_one_that_is_everything_are_filled():
    corner = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    corner[:20, :20] = True
    rgb = painted(corner, (255, 0, 0))
    everything = torch.ones_like(corner)
    filled, black = erased(torch.stack([rgb, rgb]), torch.stack([corner, everything]))
    assert int(filled[0].max()) < 160 and int(black.max()) == 0


def test_the_region_that_is_evidence_of_a_tag_is_its_object_small_or_large():
    dot, stain = disc(3), disc(20)
    of_dot = tag_evidence(NETWORK, painted(dot, (0, 0, 0)), cams(0), [0])
    of_stain = tag_evidence(NETWORK, painted(stain, (200, 90, 90)), cams(1), [1])
    assert of_dot.regions.shape == (1, len(EXPONENTS), SIDE, SIDE) and of_dot.left.shape == (1, len(EXPONENTS))
    areas = of_dot.regions[0].flatten(1).sum(1).tolist()
    assert areas == sorted(areas), "a larger exponent gives a larger region"
    places = class_exponents({0: [of_dot.left[0]], 1: [of_stain.left[0]]})
    labels, unknown = evidence_labels(of_dot, places)
    assert not unknown and iou(labels == 1, dot) > 0.6
    labels, unknown = evidence_labels(of_stain, places)
    assert not unknown and iou(labels == 2, stain) > 0.6


def test_a_class_has_the_smallest_exponent_that_does_most_of_what_the_best_does():
    steps = torch.linspace(1.0, 0.2, len(EXPONENTS))  # removes up to 0.8; 60 % of it are 0.48
    first = int((steps <= 0.52 + 1e-6).nonzero()[0])
    assert class_exponents({3: [steps], 1: []}) == {3: first}
    few = torch.ones(len(EXPONENTS))
    few[2:] = 0.0
    assert class_exponents({0: [few, few, torch.ones_like(few)]}) == {0: 2}, "one picture in three does not decide"
    assert class_exponents({0: [torch.ones_like(few)]}) == {0: 0}, "no exponent removes anything"


def evidence(*rows: tuple[int, dict[int, Tensor], float]) -> Evidence:
    """Tags with their regions from a place on, and what is left without them."""
    regions = torch.zeros(len(rows), len(EXPONENTS), SIDE, SIDE, dtype=torch.bool)
    left = torch.ones(len(rows), len(EXPONENTS))
    for row, (_, given, rest) in enumerate(rows):
        for place, region in given.items():
            regions[row, place:], left[row, place:] = region, rest
    return Evidence(tuple(tag for tag, *_ in rows), regions, left)


def test_beyond_a_small_object_is_background_and_around_a_large_one_nothing_is_said():
    small, middle, wide = disc(4), disc(15), disc(30)
    labels, unknown = evidence_labels(evidence((1, {1: small, 7: wide}, 0.1)), {1: 1})
    assert not unknown and torch.equal(labels == 2, small) and torch.equal(labels == 0, ~small)
    labels, unknown = evidence_labels(evidence((1, {4: middle, 7: wide}, 0.1)), {1: 4})
    assert not unknown and torch.equal(labels == 2, middle)
    assert torch.equal(labels == 255, wide & ~middle) and torch.equal(labels == 0, ~wide)


def test_a_picture_with_a_large_object_teaches_no_background_where_others_do():
    """Of half a stain the rest would be background, and the network would learn that stains are none."""
    one = evidence((1, {4: disc(15), 7: disc(30)}, 0.1), (0, {1: disc(4, 10, 10)}, 0.1))
    labels, _ = evidence_labels(one, {1: 4, 0: 1}, others_teach=True)
    assert torch.equal(labels == 2, disc(15)) and torch.equal(labels == 1, disc(4, 10, 10))
    assert not bool((labels == 0).any())
    small = evidence((1, {1: disc(4)}, 0.1))
    labels, _ = evidence_labels(small, {1: 1}, others_teach=True)
    assert torch.equal(labels == 0, ~disc(4))


def test_a_region_that_is_no_evidence_teaches_nothing():
    wide = disc(30)
    labels, unknown = evidence_labels(evidence((0, {1: wide}, 0.9)), {0: 1})
    assert unknown == (0,) and torch.equal(labels == 255, wide) and torch.equal(labels == 0, ~wide)
    labels, unknown = evidence_labels(evidence((0, {}, 1.0)), {0: 1})
    assert unknown == (0,) and bool((labels == 255).all()), "an empty map says nothing of any pixel"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_smaller_object_lies_on_top_of_a_larger_one(order):
    rows: dict[int, Any] = {0: (0, {1: disc(4)}, 0.0), 1: (1, {1: disc(20)}, 0.0)}
    labels, _ = evidence_labels(evidence(*(rows[i] for i in order)), {0: 1, 1: 1})
    assert torch.equal(labels == 1, disc(4)) and torch.equal(labels == 2, disc(20) & ~disc(4))


def test_a_picture_without_tags_is_background():
    none = tag_evidence(NETWORK, painted(disc(3), (0, 0, 0)), torch.zeros(2, SIDE, SIDE), [])
    labels, unknown = evidence_labels(none, {})
    assert not unknown and not bool(labels.any())


@pytest.fixture
def few(builtin, tmp_path):
    """A list of six pictures of the built-in set, one without tags among them."""
    pictures = open_data(builtin).pictures
    untagged = [picture.name for picture in pictures if not picture.tags][:1]
    names = [picture.name for picture in pictures if picture.tags][: 6 - len(untagged)] + untagged
    (tmp_path / "few.txt").write_text("\n".join(names) + "\n")
    return str(tmp_path / "few.txt")


def test_masks_from_evidence_have_only_the_tags_and_say_how_they_were_made(segmenter, builtin, few, tmp_path):
    summary = pseudo_label(segmenter, data=builtin, out=tmp_path / "masks", split=few, source="evidence")
    made = json.loads((tmp_path / "masks/pseudo_labels.json").read_text())
    assert summary.source == made["source"] == "evidence" and made["scales"] == list(segmenter.config.method.cam_scales)
    pictures = open_data(builtin, split=few)
    tagged = sorted({pictures.classes[tag] for picture in pictures.pictures for tag in picture.tags})
    assert sorted(made["exponents"]) == tagged and set(made["exponents"].values()) <= set(EXPONENTS)
    for picture in pictures.pictures:
        mask = np.asarray(Image.open(tmp_path / f"masks/{picture.name.rpartition('.')[0]}.png"))
        with Image.open(picture.path) as image:
            assert mask.shape[::-1] == image.size
        assert set(np.unique(mask)) <= {0, 255, *(tag + 1 for tag in picture.tags)}
        assert picture.tags or not mask.any()
    without = [each for each in summary.findings if each.code == "tags_without_evidence"]
    assert all(each.count and ": " in each.names[0] for each in without)


@pytest.mark.parametrize("options", [{"crf": True}, {"scales": (1.0, 1.5)}, {"flip": True}, {"min_confidence": 0.5}])
def test_options_of_the_segmentation_are_refused_for_evidence(options, segmenter, builtin, tmp_path):
    with pytest.raises(ValueError, match=r"source evidence draws .*leave out crf.*source segmentation"):
        pseudo_label(segmenter, data=builtin, out=tmp_path / "masks", source="evidence", **options)
    assert not (tmp_path / "masks").exists()


def test_a_network_of_the_second_step_has_no_evidence(builtin, tmp_path):
    config = RetrainConfig(data=str(builtin), weights="none", image_size=64)
    second = Segmenter(build_network(config, open_data(builtin).classes), config)
    with pytest.raises(ValueError, match="network of the second step"):
        pseudo_label(second, data=builtin, out=tmp_path / "masks", source="evidence")


def test_a_run_that_learned_tags_alone_draws_from_evidence_and_says_so(
    tiny_config, builtin, few, tmp_path, caplog, monkeypatch
):
    """Its segmentation branch is random, and whatever that draws is wrong without a word."""
    run = train(tiny_config.replace(tag_steps=2, joint_steps=0))
    with caplog.at_level("WARNING"):
        segmenter = Segmenter.load(run)
    assert "has learned tags only; the masks of its segmentation branch mean nothing" in caplog.text
    assert [each.code for each in segmenter.findings if each.code != "nothing_learned"] == ["untrained_segmentation"]
    assert pseudo_label(run, data=builtin, split=few, out=tmp_path / "own").source == "evidence"
    with pytest.raises(ValueError, match="learned tags only"):
        pseudo_label(run, data=builtin, split=few, out=tmp_path / "other", source="segmentation")
    copy = segmenter.save_pretrained(tmp_path / "hub")
    again = [each.code for each in Segmenter.load(copy).findings]
    assert again.count("untrained_segmentation") == 1, "said once, of a copy too"
    assert {each.code for each in nothing_learned(copy)} <= {"nothing_learned"}, "a copy is no dead run for it"
    monkeypatch.setattr("tag2mask.runs.health.nothing_learned", lambda run: ())
    line = after_training(run, load_config(run))
    assert "tag2mask pseudo-label" in line and "--crf" not in line
