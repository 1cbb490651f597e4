"""The second step: masks in, a supervised run out, with everything that a run of the first step has."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tag2mask import Segmenter, evaluate, pseudo_label, retrain, train
from tag2mask.base.team import ALONE
from tag2mask.batch import IGNORE, Batch
from tag2mask.config import AugmentConfig, OptimConfig, RetrainConfig, TrainConfig
from tag2mask.data import open_data
from tag2mask.losses import balanced_cross_entropy, cross_entropy, dice_cross_entropy
from tag2mask.method import Moment
from tag2mask.models import build_network
from tag2mask.training import loop
from tag2mask.training.second_step import _MaskObjective, with_training_masks


@pytest.fixture
def second(builtin, tmp_path):
    """A second step on the built-in set's own masks that takes seconds."""
    return RetrainConfig.preset(
        "small",
        data=str(builtin),
        own_masks=True,
        out=str(tmp_path / "second"),
        backbone="test_efficientnet",
        weights="none",
        image_size=64,
        batch_size=3,
        supervised_steps=4,
        workers=0,
        log_every=1,
        sample_every=2,
        save_every=2,
        trackers=(),
        augment=AugmentConfig(crop_size=64),
        optim=OptimConfig(lr=0.01),
    )


def test_two_steps_from_tags_to_a_second_network(tiny_config, second, builtin, tmp_path):
    first = train(tiny_config)
    masks = tmp_path / "masks"
    pseudo_label(first, data=builtin, out=masks)
    run = retrain(second.replace(masks=str(masks), own_masks=False))
    assert {"config.json", "metrics.csv", "model.safetensors", "last", "report.html"} <= {p.name for p in run.iterdir()}
    assert len(list((run / "samples").iterdir())) == 2
    assert json.loads((run / "config.json").read_text())["kind"] == "retrain"
    segmenter = Segmenter.load(run / "model.safetensors")
    picture = next((builtin / "images").iterdir())
    result = segmenter.predict(picture)
    assert np.allclose(result.probs.sum(0), 1, atol=1e-5)
    assert all(0 <= score <= 1 for score in result.tag_scores.values())
    report = evaluate(run, data=builtin)
    assert 0 <= report.miou <= 1
    assert report.protocol["model_selection"] == "last step"


def test_resume_equals_an_uninterrupted_run(second, tmp_path, monkeypatch):
    whole = retrain(second)
    save = loop.save_state

    def save_then_die(run, state):
        save(run, state)
        raise RuntimeError("power cut")

    monkeypatch.setattr(loop, "save_state", save_then_die)
    config = second.replace(out=str(tmp_path / "broken"))
    with pytest.raises(RuntimeError, match="power cut"):
        retrain(config)
    monkeypatch.setattr(loop, "save_state", save)
    resumed = retrain(config, resume=tmp_path / "broken")
    one, two = load_file(whole / "model.safetensors"), load_file(resumed / "model.safetensors")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_it_learns_its_masks(second, builtin):
    """On one colour per label a few steps must lower the loss by much, and beat a network that says background."""
    run = retrain(
        second.replace(supervised_steps=40, sample_every=0, log_every=5, optim=OptimConfig(name="adamw", lr=1e-3))
    )
    losses = [float(line.split(",")[4]) for line in (run / "metrics.csv").read_text().splitlines()[1:]]
    assert losses[-1] < 0.7 * losses[0]


LOSSES = {"plain": cross_entropy, "balanced": balanced_cross_entropy, "dice": dice_cross_entropy}


@pytest.mark.parametrize("loss", LOSSES)
def test_the_loss_is_that_of_the_config(second, loss):
    torch.manual_seed(0)
    config = second.replace(loss=loss)
    network = build_network(config, ("a", "b")).eval()
    mask = torch.zeros(2, 64, 64, dtype=torch.int64)
    mask[:, :8], mask[0, :, :4], mask[1, -4:] = 2, IGNORE, 1
    rgb, all_valid = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8), torch.ones(2, 64, 64, dtype=torch.bool)
    batch = Batch(rgb, all_valid, torch.zeros(2, 2, dtype=torch.bool), mask, ("x", "y"))
    at = Moment(model=network, network=network, average=None, phase="supervised", progress=0.0, team=ALONE)
    with torch.no_grad():
        got = _MaskObjective(config).losses(at, batch).total
        scores = network(network.normalize(rgb, all_valid), all_valid).seg_logits
        each = {name: f(scores, mask).item() for name, f in LOSSES.items()}
    assert got.item() == pytest.approx(each[loss], rel=1e-6)
    assert len(set(each.values())) == len(each) == 3


def test_the_papers_second_step_has_its_plain_loss():
    for name in ("deeplab-v2-resnet101", "deeplab-v2-vgg16"):
        assert RetrainConfig.preset(name).loss == "plain"


def test_masks_are_read_as_labels_of_the_data(second, builtin, tmp_path):
    masks = tmp_path / "masks"
    pictures = open_data(builtin)
    for picture in pictures.pictures:
        place = (masks / picture.name).with_suffix(".png")
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 2, np.uint8)).save(place)
    with_masks = with_training_masks(pictures, second.replace(masks=str(masks), own_masks=False))
    assert all(p.mask == (masks / p.name).with_suffix(".png") for p in with_masks.pictures)
    assert with_masks.mask_codes[2] == 2
    assert with_masks.mask_codes[200] == 255
    (masks / pictures.pictures[3].name).with_suffix(".png").unlink()
    with pytest.raises(ValueError, match=r"lacks the masks of 1 of 12 pictures.*pseudo-label"):
        retrain(second.replace(masks=str(masks), own_masks=False))


def test_what_it_learns_from_must_be_said_once(second, tmp_path):
    with pytest.raises(ValueError, match="either masks=DIR"):
        retrain(second.replace(own_masks=False))
    with pytest.raises(ValueError, match="either masks=DIR"):
        retrain(second.replace(masks="masks"))
    with pytest.raises(FileNotFoundError, match="pseudo-label"):
        retrain(second.replace(masks=str(tmp_path / "none"), own_masks=False))
    assert not (tmp_path / "second").exists()


def test_data_without_masks_cannot_show_the_ceiling(second, builtin, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(builtin, data)
    shutil.rmtree(data / "masks")
    with pytest.raises(ValueError, match=r"No picture of split .* has a mask"):
        retrain(second.replace(data=str(data)))


def test_a_run_of_the_other_kind_is_refused(second, tiny_config):
    run = retrain(second)
    with pytest.raises(ValueError, match="`retrain` run, not of a `train` run"):
        TrainConfig.from_json((run / "config.json").read_text())
    with pytest.raises(ValueError, match="second step"):
        train(tiny_config.replace(tag_phase=str(run)))
    with pytest.raises(ValueError, match="no class activation maps"):
        Segmenter.load(run).network.first_step()
