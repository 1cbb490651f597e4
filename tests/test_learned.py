"""A model that has learned nothing says so, in every place, and no command advises to build on it."""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tag2mask import cli
from tag2mask.cli.advice import after_predicting, after_scoring, after_training
from tag2mask.config import OptimConfig, RetrainConfig, load_config
from tag2mask.config.formats import DataOptions
from tag2mask.data import open_data
from tag2mask.inference.segmenter import Segmenter
from tag2mask.jobs.pseudo_labels import pseudo_label
from tag2mask.runs.learned import Learned, nothing_learned
from tag2mask.training.first_step import train
from tag2mask.training.learned import look_at, tag_auc
from tag2mask.training.page import write_report
from tag2mask.training.second_step import retrain


@pytest.fixture
def dead_run(tiny_config):
    """A few steps at a learning rate of nothing."""
    return train(tiny_config.replace(optim=OptimConfig(lr=1e-9, joint_lr=1e-9), validate_pictures=1))


class Colors(Segmenter):
    """A network that knows the pictures by heart, or by the mean alone."""

    def __init__(self, segmenter, pictures, *, alive):
        super().__init__(segmenter.model, segmenter.config)
        self.known, self.alive = iter(pictures.pictures), alive

    def score_maps(self, pictures, **options):
        ((maps, scores),) = super().score_maps(pictures, **options)
        tags = np.zeros(len(self.classes))
        tags[list(next(self.known).tags)] = 1.0
        return [(maps, 0.2 + 0.6 * tags if self.alive else np.full_like(scores, 0.3))]


def test_scores_that_rank_the_pictures_are_learned_and_equal_ones_are_not(segmenter, builtin):
    pictures = open_data(builtin)
    alive, dead = (look_at(Colors(segmenter, pictures, alive=a), pictures) for a in (True, False))
    assert alive.tag_auc == 1.0
    assert alive.reasons == ()
    assert alive.findings() == ()
    assert dead.tag_auc == 0.5
    assert "AUC 0.50" in dead.reasons[0]
    assert [each.code for each in dead.findings()] == ["nothing_learned"]


def test_the_area_and_its_chance_by_hand():
    tags = np.array([[True], [True], [False], [False]])
    auc, chance = tag_auc(np.array([[0.9], [0.5], [0.5], [0.1]]), tags)
    assert auc == pytest.approx((1 + 1 + 1 + 0.5) / 4)
    rng = np.random.default_rng(0)
    drawn = [tag_auc(rng.random((40, 3)), rng.random((40, 3)) < 0.3)[0] for _ in range(400)]
    _, bound = tag_auc(rng.random((40, 3)), rng.random((40, 3)) < 0.3)
    assert np.std(drawn) * 2 == pytest.approx(bound, rel=0.25)
    assert chance > 0.2, "four pictures are too few to judge"
    assert tag_auc(np.zeros((3, 1)), np.ones((3, 1), dtype=bool))[0] is None


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"empty_cams": 0.97}, "maps are empty"),
        ({"background_only": 1.0}, "all background"),
        ({"tag_auc": 0.55}, "AUC"),
    ],
)
def test_each_sign_is_enough(values, word):
    well = {"num_images": 64, "tag_auc": 0.9, "chance": 0.1, "empty_cams": 0.1, "background_only": 0.1}
    assert Learned(**well).reasons == ()
    (found,) = Learned(**well | values).findings()
    assert word in found.message


def test_few_pictures_are_not_judged_by_their_scores():
    few = Learned(num_images=4, tag_auc=0.4, chance=0.3, empty_cams=None, background_only=None)
    assert few.findings() == ()
    tags = np.array([[True], [False], [True]])
    assert tag_auc(np.full((3, 1), 0.3), tags) == (0.5, 0.0), "equal scores are judged however few"


def test_a_dead_run_says_so_everywhere(dead_run, builtin, tmp_path, capsys):
    summary = json.loads((dead_run / "summary.json").read_text(encoding="utf-8"))
    assert summary["learned"]["findings"][0]["code"] == "nothing_learned"
    log = (dead_run / "log.txt").read_text(encoding="utf-8")
    assert log.count("WARNING This model has learned nothing") == 1
    assert log.count("WARNING after the tag phase: nothing is learned so far") == 1
    assert "has learned nothing" in write_report(dead_run).read_text(encoding="utf-8")
    (found,) = nothing_learned(dead_run / "model.safetensors")
    assert nothing_learned(str(dead_run)) == (found,)
    assert nothing_learned(tmp_path) == ()
    result = pseudo_label(dead_run, data=builtin, out=tmp_path / "masks")
    assert found in result.findings
    assert cli.main(["evaluate", str(dead_run), "--data", str(builtin), "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["protocol"]["findings"][-1]["code"] == "nothing_learned"
    assert "has learned nothing" in told.err


def test_what_is_said_goes_with_the_model_file(dead_run, builtin, tmp_path, capsys):
    """Copied out of its run, and published; each command says it once."""
    copy = shutil.copy(dead_run / "model.safetensors", tmp_path / "copy.safetensors")
    hub = Segmenter.load(copy).save_pretrained(tmp_path / "hub")
    assert nothing_learned(copy) == nothing_learned(hub) == nothing_learned(dead_run) != ()
    picture = str(open_data(builtin).pictures[0].path)
    for model in (str(dead_run), str(copy), str(hub)):
        out = str(tmp_path / "out" / Path(model).name)
        for command in (["predict", model, picture], ["explain", model, picture], ["pseudo-label", model, "--data"]):
            capsys.readouterr()
            more = [str(builtin)] if command[-1] == "--data" else []
            assert cli.main([*command, *more, "--out", f"{out}-{command[0]}"]) == 0
            told = capsys.readouterr()
            assert (told.out + told.err).count("has learned nothing") == 1
            assert "next: tag2mask train" in told.out


def test_maps_that_are_no_numbers_are_empty(segmenter, builtin, monkeypatch):
    pictures = open_data(builtin)
    nan = torch.full((1, len(segmenter.classes), 2, 2), float("nan"))
    monkeypatch.setattr("tag2mask.inference.torch_backend.TorchBackend.cams", lambda *_: (nan, None))
    assert look_at(segmenter, pictures, masks=False).empty_cams == 1.0


def test_the_sample_does_not_follow_the_order_of_the_pictures(segmenter, builtin):
    """Every second picture of 128 would be of one class."""
    pictures = open_data(builtin)
    two = [dataclasses.replace(pictures.pictures[i % 2], tags=(i % 2,)) for i in range(128)]
    assert look_at(segmenter, dataclasses.replace(pictures, pictures=tuple(two))).tag_auc is not None


def test_no_advice_builds_on_a_dead_run(dead_run, builtin):
    config = load_config(dead_run)
    lines = [
        after_training(dead_run, config),
        after_scoring(str(dead_run), builtin, DataOptions()),
        after_predicting(str(dead_run / "model.safetensors"), ["a"], dead_run, ["png"], tools=False, ranked=False),
    ]
    for line in lines:
        words = shlex.split(line)
        assert words[:4] == ["next:", "tag2mask", "train", "small"]
        assert words[words.index("--tag-steps") + 1] == str(2 * config.tag_steps)


def test_the_other_try_is_a_command_that_runs(dead_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    odd = load_config(dead_run).replace(image_size=None, trackers=(), dropout=0.0, freeze_stride=0)
    (dead_run / "config.json").write_text(odd.to_json(), encoding="utf-8")
    line = after_training(dead_run, odd)
    assert cli.main([*shlex.split(line)[2:], "--out", "again", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["findings"][0]["code"] == "nothing_learned"
    before, after = load_config(dead_run), load_config(tmp_path / "again")
    assert after.replace(out=before.out, tag_steps=before.tag_steps) == before


def test_weights_of_a_dead_run_are_said(dead_run, tiny_config, tmp_path):
    config = tiny_config.replace(weights=str(dead_run), out=str(tmp_path / "second"), tag_steps=1, joint_steps=0)
    assert "--weights" in next(
        line for line in (train(config) / "log.txt").read_text(encoding="utf-8").splitlines() if "WARNING" in line
    )


def test_a_second_step_that_gives_background_only(tiny_config, builtin, tmp_path):
    """Masks of background, but for a pixel, teach background."""
    for i, picture in enumerate(open_data(builtin).pictures):
        place = tmp_path / "masks" / f"{picture.name.rsplit('.', 1)[0]}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        labels = np.zeros(Image.open(picture.path).size[::-1], np.uint8)
        labels[0, 0] = picture.tags[0] + 1 if i == 0 else 0
        Image.fromarray(labels).save(place)
    fields = {
        f.name: getattr(tiny_config, f.name) for f in dataclasses.fields(RetrainConfig) if hasattr(tiny_config, f.name)
    }
    config = RetrainConfig(
        **fields | {"masks": str(tmp_path / "masks"), "supervised_steps": 12, "val_split": "none", "loss": "plain"}
    )
    run = retrain(config.replace(out=str(tmp_path / "second"), optim=OptimConfig(lr=0.05)))
    (found,) = nothing_learned(run)
    assert "all background" in found.message
    assert "--supervised-steps" in found.cure
    assert shlex.split(after_training(run, config))[:3] == ["next:", "tag2mask", "check"]


def test_masks_of_background_are_counted_and_no_step_is_built_on_them(
    segmenter, builtin, tmp_path, monkeypatch, capsys
):
    with torch.no_grad():
        segmenter.model.segmenter[-1].bias[0] += 1e4
    try:
        result = pseudo_label(segmenter, data=builtin, out=tmp_path / "masks")
    finally:
        with torch.no_grad():
            segmenter.model.segmenter[-1].bias[0] -= 1e4
    tagged = sum(bool(p.tags) for p in open_data(builtin).pictures)
    assert result.background_only == tagged
    assert result.shows_nothing
    assert result.findings[-1].count == tagged
    written = json.loads((tmp_path / "masks" / "pseudo_labels.json").read_text(encoding="utf-8"))
    assert written["background_only"] == tagged
