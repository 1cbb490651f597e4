"""True masks of some pictures: what they teach, and which are refused."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

from tag2mask.batch import IGNORE, Batch
from tag2mask.config import TrainConfig
from tag2mask.data import open_data
from tag2mask.method import training_labels
from tag2mask.outputs.render import save_mask
from tag2mask.reliable import reliable_labels
from tag2mask.runs.checkpoints import load_model
from tag2mask.training.first_step import train, with_some_masks


def test_true_labels_replace_reliable_ones_of_their_picture_alone():
    torch.manual_seed(0)
    rgb = torch.randint(0, 255, (3, 3, 24, 24), dtype=torch.uint8)
    mask = torch.full((3, 24, 24), IGNORE)
    mask[1, :5] = 2
    tags = torch.tensor([[True, False], [True, True], [False, True]])
    batch = Batch(rgb, torch.ones(3, 24, 24, dtype=torch.bool), tags, mask, ("a", "b", "c"))
    cams = torch.rand(3, 2, 24, 24) * tags[:, :, None, None]
    rule = TrainConfig.preset("small").method.reliable
    plain = reliable_labels(rgb, cams, tags, rule, batch.valid)
    labels, votes, by_mask = training_labels(cams, batch, rule, with_masks=True)
    assert by_mask.tolist() == [False, True, False]
    assert len(votes.low) == 2, "no CRF runs for a picture with its true mask"
    assert torch.equal(labels[1], mask[1]), "its ignored pixels teach nothing"
    assert torch.equal(labels[[0, 2]], plain[[0, 2]])
    assert torch.equal(training_labels(cams, batch, rule, with_masks=False)[0], plain), "masks of the data only measure"


def some_masks(config, folder, names=None, shift=0):
    pictures = open_data(config.data).pictures
    for picture in pictures if names is None else [p for p in pictures if p.name in names]:
        with Image.open(picture.mask) as mask:
            labels = np.asarray(mask)
        save_mask(folder / f"{picture.name.rsplit('.', 1)[0]}.png", (labels + shift).astype(np.uint8))
    return folder


def test_a_run_learns_from_them_and_resumes_exactly(tiny_config, tmp_path):
    names = [p.name for p in open_data(tiny_config.data).pictures[:6]]
    folder = some_masks(tiny_config, tmp_path / "true", names)
    config = tiny_config.replace(joint_steps=5, masks_for_some=str(folder), val_split="none")
    whole = train(config.replace(out=str(tmp_path / "whole")))
    plain = train(config.replace(out=str(tmp_path / "plain"), masks_for_some=""))
    tensors = [load_model(run)[0].state_dict() for run in (whole, plain)]
    assert any(not torch.equal(tensors[0][key], tensors[1][key]) for key in tensors[0])
    saved = json.loads((whole / "config.json").read_text(encoding="utf-8"))
    assert saved["masks_for_some"] == str(folder.resolve())


def test_only_the_given_masks_are_seen(tiny_config, tmp_path):
    pictures = open_data(tiny_config.data)
    name = pictures.pictures[2].name
    found = with_some_masks(pictures, some_masks(tiny_config, tmp_path / "true", [name]))
    assert [p.name for p in found.pictures if p.mask is not None] == [name]
    assert found.pictures[2].mask.parent == tmp_path / "true"
    assert len(found.pictures) == len(pictures.pictures)


def test_masks_that_cannot_be_used_are_refused_before_any_training(tiny_config, tmp_path):
    def start(folder):
        train(dataclasses.replace(tiny_config, masks_for_some=str(folder)))

    with pytest.raises(FileNotFoundError, match="is no folder"):
        start(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="has no mask of any of the"):
        start(tmp_path / "empty")
    first = open_data(tiny_config.data).pictures[0]
    stem = first.name.rsplit(".", 1)[0]
    save_mask(tmp_path / "small" / f"{stem}.png", np.zeros((3, 3), np.uint8))
    with pytest.raises(ValueError, match="Draw the mask on the picture"):
        start(tmp_path / "small")
    with Image.open(first.mask) as mask:
        wrong = np.full((mask.height, mask.width), 77, np.uint8)
    save_mask(tmp_path / "wrong" / f"{stem}.png", wrong)
    with pytest.raises(ValueError, match="has the label 77"):
        start(tmp_path / "wrong")
    assert not (tmp_path / "run").exists(), "nothing was begun"
