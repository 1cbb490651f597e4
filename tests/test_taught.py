"""What is shown and scored as reliable labels is what the segmentation was taught, with the teacher of the profile."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

import tag2mask.method
import tag2mask.training.watching
from tag2mask.batch import IGNORE
from tag2mask.data import open_data, read_picture
from tag2mask.inference.first_step import picture_taught, tag_vector
from tag2mask.inference.segmenter import Segmenter
from tag2mask.jobs.explanation import explain
from tag2mask.method import taught
from tag2mask.models import build_network
from tag2mask.scoring.label_quality import score_reliable_labels
from tag2mask.teacher import teacher_rule
from tag2mask.training.first_step import train
from tag2mask.web.actions import look


@pytest.fixture
def held_out(builtin):
    return open_data(builtin, split="val")


def with_teacher(segmenter, **changes):
    """The same network in a run of the default profile, whose running average it then is."""
    return Segmenter(segmenter.model, segmenter.config.replace(**changes), device="cpu")


def without_teacher(segmenter):
    return with_teacher(segmenter, method=dataclasses.replace(segmenter.config.method, teacher=0.0))


def test_a_loaded_run_shows_the_teacher_of_its_last_steps(segmenter, held_out):
    picture = held_out.pictures[0]
    rgb, tags = read_picture(picture.path), tag_vector(segmenter, [held_out.classes[i] for i in picture.tags])
    # where CAMs are drawn in bf16, the teacher's pass gives them its finer features
    method = dataclasses.replace(segmenter.config.method, cam_precision="same")
    segmenter = with_teacher(segmenter, method=method)
    lesson = picture_taught(segmenter, rgb, tags)
    assert lesson.teacher_share == method.teacher > 0
    assert lesson.rule == teacher_rule(method, 1.0)
    plain = picture_taught(without_teacher(segmenter), rgb, tags)
    assert plain.teacher is None
    assert torch.equal(plain.cams, lesson.cams)
    assert not torch.equal(plain.labels, lesson.labels)
    labeled, before = ((each.labels != IGNORE).float().mean() for each in (lesson, plain))
    assert labeled > before, "the teacher opens the reliability mask"


def test_a_tag_phase_alone_has_no_teacher(segmenter, held_out):
    tags_only = with_teacher(segmenter, joint_steps=0)
    lesson = picture_taught(tags_only, read_picture(held_out.pictures[0].path), tag_vector(segmenter, []))
    assert lesson.teacher is None
    assert lesson.rule == segmenter.config.method.reliable


def test_evaluate_scores_the_labels_that_were_taught(segmenter, held_out):
    quality, plain = (score_reliable_labels(s, held_out) for s in (segmenter, without_teacher(segmenter)))
    assert quality.coverage > plain.coverage
    assert quality.protocol["teacher_share"] == segmenter.config.method.teacher
    assert quality.protocol["rules"] == dataclasses.asdict(teacher_rule(segmenter.config.method, 1.0))
    assert plain.protocol["teacher_share"] == 0


def test_explain_has_a_cell_and_numbers_of_the_teacher(segmenter, held_out, tmp_path):
    picture = held_out.pictures[0]
    names = [held_out.classes[i] for i in picture.tags]
    steps = explain(segmenter, picture.path, tmp_path, tags=names, crf=None).steps
    lesson = picture_taught(segmenter, read_picture(picture.path), tag_vector(segmenter, names))
    assert steps["teacher_share"] == segmenter.config.method.teacher
    assert set(steps["teacher"]) == set(names)
    assert steps["rule"]["keep"] == 1.0
    ignored = (lesson.labels == IGNORE).float().mean().item()
    assert steps["reliable_labels"].get("ignored", 0.0) == pytest.approx(ignored)
    size = Image.open(tmp_path / f"{picture.path.stem}.png").size
    plain = explain(without_teacher(segmenter), picture.path, tmp_path / "plain", tags=names, crf=None)
    assert plain.steps["teacher"] is None
    assert json.loads(plain.json.read_text(encoding="utf-8"))["teacher_share"] == 0
    if len(names) > 1:
        assert size != Image.open(plain.sheet).size


def test_the_page_shows_the_labels_that_were_taught(segmenter, held_out):
    picture = held_out.pictures[0]
    names = [held_out.classes[i] for i in picture.tags]
    captions = [caption for _, caption in look(segmenter, picture.path, tags=names).steps]
    assert captions == [*(f"CAM: {n}" for n in names), *(f"teacher: {n}" for n in names), captions[-1]]
    one, other = (
        np.asarray(look(s, picture.path, tags=names).steps[-1][0]) for s in (segmenter, without_teacher(segmenter))
    )
    assert not np.array_equal(one, other)


def test_sample_sheets_show_the_moment_of_training(tiny_config, tmp_path, monkeypatch):
    """The same progress, average and masks as the step's own; nothing is decided anew."""
    calls = {"step": [], "sheet": []}

    def noted(name, original):
        def call(*args, **options):
            lesson = original(*args, **options)
            calls[name].append((options["progress"], options["average"], options["with_masks"], lesson))
            return lesson

        return call

    monkeypatch.setattr(tag2mask.method, "taught", noted("step", taught))
    monkeypatch.setattr(tag2mask.training.watching, "taught", noted("sheet", taught))
    train(tiny_config.replace(joint_steps=4, sample_every=1, val_split="none"))
    sheets, steps = calls["sheet"][-4:], calls["step"]
    assert len(steps) == 4
    assert [each[:3] for each in sheets] == [each[:3] for each in steps]
    assert [each[0] for each in steps] == [0.0, 0.25, 0.5, 0.75]
    assert [each[3].teacher is None for each in sheets] == [True, True, False, False]
    assert all(progress == 0.0 for progress, *_ in calls["sheet"][:-4]), "a sheet of the tag phase has no teacher yet"


def test_a_picture_with_its_true_mask_shows_no_votes(tiny_config):
    network = build_network(tiny_config, ("a", "b")).eval()
    rgb = torch.randint(0, 255, (2, 3, 32, 32), dtype=torch.uint8)
    mask = torch.full((2, 32, 32), IGNORE)
    mask[0, :5] = 1
    batch = tag2mask.method.Batch(rgb, torch.ones(2, 32, 32).bool(), torch.ones(2, 2).bool(), mask, ("a", "b"))
    images = network.normalize(rgb)
    lesson = taught(network, images, batch, tiny_config.method, average=network, progress=1.0, with_masks=True)
    assert lesson.votes_of(0) is None
    assert lesson.votes_of(1)[0].shape == (32, 32)
    assert torch.equal(lesson.labels[0], mask[0])
