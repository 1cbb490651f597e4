"""A run measures on held-out tags whether it learns; one that does not says so, in every place, and stops."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import shlex
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tag2mask import cli
from tag2mask.batch import IGNORE
from tag2mask.cli.advice import after_predicting, after_scoring, after_scoring_masks, after_training
from tag2mask.config import OptimConfig, RetrainConfig, TrainConfig, load_config
from tag2mask.config.formats import DataOptions
from tag2mask.config.run import MAX_STEPS
from tag2mask.data import Picture, PictureSet, open_data
from tag2mask.data.builtin.shapes import write_builtin
from tag2mask.data.dataset import label_codes
from tag2mask.inference.first_step import one_look
from tag2mask.inference.segmenter import Segmenter
from tag2mask.jobs.pseudo_labels import pseudo_label
from tag2mask.method import _background_share
from tag2mask.runs import health as rules
from tag2mask.runs.health import ClassHealth, Health, nothing_learned
from tag2mask.runs.places import as_before, check_record, recorded_aside
from tag2mask.scoring.tags import judge_tags
from tag2mask.training import loop
from tag2mask.training.first_step import train
from tag2mask.training.health import KnownTags, known_tags, measure, set_aside, stratified
from tag2mask.training.loop import TrainingStopped
from tag2mask.training.page import write_report
from tag2mask.training.second_step import retrain


def health(**changes):
    """Of a network that knows one class well, with `changes`."""
    cat = ClassHealth(name="cat", num_images=20, ap=0.9, chance=0.3, by_chance=0.001)
    well = {"source": "pictures", "num_images": 64, "classes": (cat,), "by_chance": 0.001, "empty_cams": 0.1}
    return Health(**well | {"num_tags": 20, "background_only": 0.1} | changes)


UNKNOWN = (ClassHealth(name="cat", num_images=20, ap=0.33, chance=0.3, by_chance=0.3),)
DEAD = {"classes": UNKNOWN, "by_chance": 0.6, "empty_cams": 1.0, "background_only": None}


@pytest.fixture
def dead(monkeypatch):
    """Whatever is measured has learned nothing; a list that is emptied brings the network back to life."""
    found = [health(**DEAD)]
    look = loop.measure
    monkeypatch.setattr(loop, "measure", lambda *args, **kwargs: found[0] if found else look(*args, **kwargs))
    return found


@pytest.fixture
def dead_run(tiny_config, dead):
    return train(tiny_config.replace(validate_pictures=1))


def rows(run):
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def pictures_with(tags, masks=()):
    found = tuple(Picture(Path(f"{i}.jpg"), f"{i}.jpg", each, Path("m.png") if i in masks else None)
                  for i, each in enumerate(tags))  # fmt: skip
    classes = tuple(f"c{i}" for i in range(1 + max((tag for each in tags for tag in each), default=0)))
    return PictureSet(classes, found, label_codes(len(classes), others="ignore"), Path(), "train", "folder")


# the judgement


def test_perfect_chance_constant_and_few_scores_are_told_apart():
    tags = torch.zeros(40, 4, dtype=torch.bool)
    tags[:8, 0], tags[::4, 1], tags[3:5, 2] = True, True, True
    scores = torch.rand(40, 4, generator=torch.Generator().manual_seed(5))
    scores[:, 0] = tags[:, 0].float()
    scores[:, 1] = 0.5
    (known, equal, few, none), whole = judge_tags("abcd", scores, tags)
    assert (known.ap, known.chance, known.verdict) == (1.0, 0.2, "")
    assert (equal.ap, equal.by_chance, equal.verdict) == (0.25, 1.0, "no better than chance")
    assert (few.num_images, few.by_chance, few.verdict) == (2, None, "too few pictures to judge")
    assert (none.ap, none.chance, none.verdict) == (None, None, "no picture")
    assert whole < 0.05, "one class that is known is enough"
    _, whole = judge_tags("abcd", torch.full((40, 4), 0.3), tags)
    assert whole == 1.0
    assert judge_tags("a", torch.rand(4, 1), torch.tensor([[1], [0], [1], [1]]).bool())[1] is None
    assert judge_tags("a", torch.full((3, 1), 0.3), torch.tensor([[1], [0], [1]]).bool())[1] == 1.0, "however few"
    assert judge_tags("a", torch.zeros(0, 1), torch.zeros(0, 1).bool()) == (
        (ClassHealth(name="a", num_images=0),),
        None,
    )


def test_random_scores_pass_as_often_as_the_level_says():
    """The test itself: 5 % of random scores may look better than chance, and equal ones never change the answer."""
    generator = torch.Generator().manual_seed(0)
    tags = torch.rand(60, 1, generator=generator) < 0.25
    drawn = [judge_tags("a", torch.rand(60, 1, generator=generator), tags)[1] for _ in range(200)]
    assert 2 <= sum(value <= 0.05 for value in drawn) <= 20
    assert np.mean(drawn) == pytest.approx(0.5, abs=0.07)
    again = torch.rand(60, 1, generator=generator)
    assert judge_tags("a", again, tags) == judge_tags("a", again, tags)


@pytest.mark.parametrize(
    ("values", "word"),
    [({"classes": UNKNOWN, "by_chance": 0.3}, "no better than chance (mAP 0.33, by chance 0.30)"), ({"empty_cams": 0.97}, "of the tags are empty"), ({"background_only": 1.0}, "all background")],
)  # fmt: skip
def test_each_sign_is_enough(values, word):
    assert health().reasons == ()
    (found,) = health(**values).findings()
    assert word in found.message
    assert health(by_chance=None).findings() == (), "what cannot be judged is not held against a run"


def test_when_a_run_stops(tmp_path):
    config = TrainConfig.preset("small", tag_steps=300)
    assert health().stop(tmp_path, config) is None
    assert f"train --resume {tmp_path} --tag-steps 600`" in health(**DEAD).stop(tmp_path, config)
    for sign in ({"classes": UNKNOWN, "by_chance": 1.0}, {"empty_cams": 1.0}):
        assert health(**sign).stop(tmp_path, config)
    assert health(by_chance=0.06).stop(tmp_path, config) is None, (
        "of few pictures a high mAP may be chance, and is hope"
    )
    assert health(background_only=1.0).stop(tmp_path, config) is None, "masks come later"
    assert health(**DEAD).stop(tmp_path, config.replace(tag_steps=49)) is None, "no chance to learn"
    assert health(empty_cams=1.0, num_tags=4).stop(tmp_path, config) is None, "too few tags"
    assert f"--tag-steps {MAX_STEPS}`" in health(**DEAD).stop(tmp_path, config.replace(tag_steps=MAX_STEPS - 1))


def test_the_table_names_every_class():
    weak = ClassHealth(name="a crack", num_images=9, ap=0.1, chance=0.12, by_chance=0.4)
    told = health(classes=(*health().classes, weak, ClassHealth(name="dog", num_images=0))).lines()
    assert told[0] == "tags of 64 pictures: mean average precision 0.500, by chance 0.210; empty CAMs 10%"
    assert [line.split("  ")[1].strip() for line in told[1:]] == ["class", "cat", "a crack", "dog"]
    assert [line.split()[-1] for line in told[1:]] == ["chance", "0.300", "chance", "picture"]


# the look


def test_one_look_sees_what_prediction_and_cams_give(segmenter, builtin):
    picture = open_data(builtin).pictures[0]
    rgb = np.asarray(Image.open(picture.path).convert("RGB"))
    names = [segmenter.classes[0], segmenter.classes[2]]
    maps, scores, peaks = one_look(segmenter, rgb, names)
    whole, expected = segmenter.score_maps([rgb], allowed=[segmenter.allowed_labels(names)])[0]
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    np.testing.assert_allclose(maps.probs(), whole.probs(), atol=1e-5)
    np.testing.assert_allclose(peaks, segmenter.class_activation_maps(rgb, names).max((1, 2)), atol=0.02)


def test_a_network_without_knowledge_is_seen(segmenter, builtin):
    """A classifier of zeros gives every picture the same scores and no map."""
    known = KnownTags(open_data(builtin), "pictures")
    weights = segmenter.model.classifier.weight.data
    before = weights.clone()
    weights.zero_()
    try:
        found = measure(segmenter, known)
    finally:
        weights.copy_(before)
    assert found.by_chance == 1.0
    assert found.empty_cams == 1.0
    assert found.num_images == 12
    assert found.num_tags == sum(len(picture.tags) for picture in known.pictures.pictures)
    assert found.tag_map == pytest.approx(found.tag_map_chance)
    assert len(found.reasons) >= 2


def test_scores_and_maps_that_are_no_numbers_are_nothing(segmenter, builtin, monkeypatch):
    def nan(segmenter, rgb, names):
        maps, scores, peaks = one_look(segmenter, rgb, names)
        return maps, np.full_like(scores, np.nan), np.full_like(peaks, np.nan)

    monkeypatch.setattr("tag2mask.training.health.one_look", nan)
    found = measure(segmenter, KnownTags(open_data(builtin), "pictures"), masks=False)
    assert (found.empty_cams, found.by_chance, found.background_only) == (1.0, 1.0, None)


def test_pictures_that_cannot_be_read_are_named(segmenter, builtin):
    pictures = open_data(builtin)
    lost = dataclasses.replace(pictures.pictures[0], path=Path("lost.jpg"))
    few = dataclasses.replace(pictures, pictures=(lost, *pictures.pictures[1:3]))
    broken = {}
    assert measure(segmenter, KnownTags(few, "pictures"), broken=broken).num_images == 2
    assert list(broken) == [lost.name]


# held-out tags


def set_apart(tags, masks=(), **changes):
    config = TrainConfig.preset("small", **changes)
    rest, aside = set_aside(config, pictures_with(tags, masks), None)
    return rest, () if aside is None else aside.pictures


def test_a_part_is_set_aside_that_no_class_misses():
    generator = np.random.default_rng(0)
    tags = [(0,)] * 200 + [(1,)] * 16 + [(2,)] * 14 + [()] * 300 + [(0, 1)] * 4
    tags = [tags[i] for i in generator.permutation(len(tags))]
    rest, aside = set_apart(tags)
    counts = Counter(tag for picture in aside for tag in picture.tags)
    whole = Counter(tag for each in tags for tag in each)
    assert not {picture.name for picture in aside} & {picture.name for picture in rest.pictures}
    assert len(rest.pictures) + len(aside) == len(tags)
    assert counts[1] >= 3, "a rare class can be judged"
    assert counts[2] == 0, "a class of fewer than fifteen pictures keeps them"
    assert all(counts[kind] <= whole[kind] // 5 for kind in whole)
    assert sum(not picture.tags for picture in aside) == 30
    turned = pictures_with(tags)
    turned = dataclasses.replace(turned, pictures=turned.pictures[::-1])
    _, other = set_aside(TrainConfig.preset("small"), turned, None)
    assert {picture.name for picture in other.pictures} == {picture.name for picture in aside}, "by the name alone"


def test_nothing_is_set_aside_where_it_would_not_help():
    tags = [(0,)] * 40 + [()] * 60
    assert len(set_apart(tags)[1]) == 10
    assert set_apart(tags[:9] + tags[-10:])[1] == (), "fewer than twenty pictures"
    assert set_apart([(i // 14,) for i in range(70)])[1] == (), "no class has three to spare"
    held_out = pictures_with([(0,)])
    pictures = pictures_with(tags)
    assert set_aside(TrainConfig.preset("small"), pictures, held_out) == (pictures, None), "val has tags"
    assert set_aside(TrainConfig.preset("small"), pictures, pictures_with([()]))[1] is not None, "val has none"
    assert set_aside(RetrainConfig.preset("small"), pictures, None) == (pictures, None)


def test_true_masks_that_teach_are_never_set_aside():
    tags = [(0,)] * 40 + [()] * 60
    _, aside = set_apart(tags, masks=range(0, 100, 2), masks_for_some="masks")
    assert aside
    assert all(picture.mask is None for picture in aside)
    _, measuring = set_apart(tags, masks=range(100))
    assert len(measuring) == 10, "masks that only measure do not matter"


def test_a_run_that_goes_on_keeps_what_it_has_set_aside():
    pictures = pictures_with([(0,)] * 40 + [()] * 60)
    config = TrainConfig.preset("small")
    _, aside = set_aside(config, pictures, None, {"3.jpg", "70.jpg", "gone.jpg"})
    assert [picture.name for picture in aside.pictures] == ["3.jpg", "70.jpg"]
    assert set_aside(config, pictures, None, ()) == (pictures, None), "an older run has set nothing aside"


def test_the_sample_has_every_rare_class_and_no_order():
    tags = [(0,)] * 3000 + [(1,)] * 40 + [(2,)] * 5 + [()] * 2000
    pictures = pictures_with(tags).pictures
    chosen = stratified(pictures, most=200)
    counts = Counter(tag for picture in chosen for tag in picture.tags or (None,))
    assert len(chosen) == 200
    assert (counts[1], counts[2]) == (40, 5)
    assert min(counts[0], counts[None]) >= 70
    assert stratified(pictures[:7], most=200) == list(pictures[:7])
    many = known_tags(pictures_with([(i % 80,) for i in range(4000)]), None, None)
    assert min(Counter(picture.tags[0] for picture in many.pictures.pictures).values()) >= 6


def test_which_pictures_a_run_is_judged_by():
    pictures, val = pictures_with([(0,)] * 9), dataclasses.replace(pictures_with([(0,)]), split="held")
    assert known_tags(pictures, val, None).source == "pictures of split held"
    assert known_tags(pictures, pictures_with([()]), val).source == "training pictures that were set aside"
    assert known_tags(pictures, None, None).source == "training pictures"


def test_a_run_without_validation_trains_without_its_held_out_tags(tiny_config, tmp_path):
    data = write_builtin(tmp_path / "data", train=60, val=2, size=64, seed=1)
    config = tiny_config.replace(data=str(data), val_split="none", tag_steps=2, joint_steps=0, batch_size=20)
    run = train(config)
    aside, record = recorded_aside(run), json.loads((run / "pictures.json").read_text(encoding="utf-8"))
    assert aside
    assert not aside & record["train"].keys()
    assert len(aside) + len(record["train"]) == 60
    pictures = open_data(data)
    rest, out = set_aside(config, pictures, None, aside)
    assert check_record(run, config, rest, None, out) == []
    assert "pictures of those set aside are missing" in check_record(run, config, rest, None, None)[0]
    log = (run / "log.txt").read_text(encoding="utf-8")
    assert f"measured on {len(aside)} training pictures that were set aside" in log
    about = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    assert about["data"]["train"]["num_set_aside"] == len(aside)
    with pytest.raises(ValueError, match="training pictures aside, which this run would train on"):
        train(config.replace(out=str(tmp_path / "no"), val_split="val", joint_steps=1, tag_phase=str(run)))
    # twenty pictures a step: an epoch would have shown them
    longer = train(config.replace(tag_steps=3), resume=run)
    assert recorded_aside(longer) == aside


# what is shown


def test_health_is_in_the_table_the_summary_and_the_report(tiny_config):
    run = train(tiny_config)
    found = {row["step"]: row for row in rows(run)}
    for step in ("3", "6"):  # the end of the tag phase, and of the run
        assert 0 <= float(found[step]["tag_map"]) <= 1
        assert 0 < float(found[step]["tag_map_chance"]) < 1
        assert 0 <= float(found[step]["empty_cams"]) <= 1
    assert found["1"]["tag_map"] == found["4"]["tag_map"] == ""
    assert found["6"]["miou"]
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))["health"]
    assert [each["name"] for each in summary["classes"]] == list(open_data(tiny_config.data).classes)
    assert summary["source"] == "pictures of split val"
    assert summary["tag_map"] == pytest.approx(float(found["6"]["tag_map"]), rel=1e-4)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "<h2>Tags</h2>" in page
    assert "Mean average precision of the tags" in page
    log = (run / "log.txt").read_text(encoding="utf-8")
    assert log.count("tags of 4 pictures of split val: mean average precision") == 2


def test_the_share_of_background_by_hand(tiny_config, monkeypatch):
    labels = torch.tensor([[0, 0, 0, 2, IGNORE]])
    from tag2mask.base.team import ALONE

    assert _background_share(labels, ALONE) == 0.75
    assert _background_share(torch.full((1, 3), IGNORE), ALONE) is None
    from tag2mask.training import first_step

    losses = first_step.training_losses
    shares = []

    def noted(*args, **kwargs):
        found = losses(*args, **kwargs)
        shares.append(found.background_share)
        return found

    monkeypatch.setattr(first_step, "training_losses", noted)
    run = train(tiny_config.replace(tag_steps=1, joint_steps=2))
    assert shares[0] is None
    assert [row["background_share"] for row in rows(run)][1:] == [f"{share:.6g}" for share in shares[1:]]


# a dead tag phase


def test_a_dead_tag_phase_stops_the_run_and_goes_on_with_more_steps(tiny_config, dead, monkeypatch, capsys):
    monkeypatch.setattr(rules, "_LEAST_STEPS", 3)
    with pytest.raises(TrainingStopped, match=r"there also with another optim\.lr") as stopped:
        train(tiny_config)
    command = re.search(r"`tag2mask (train --resume .*? --tag-steps 6)`", str(stopped.value))[1]
    run = Path(tiny_config.out)
    assert not (run / "model.safetensors").exists()
    assert [row["step"] for row in rows(run)] == ["1", "2", "3"]
    assert "ERROR TrainingStopped" in (run / "log.txt").read_text(encoding="utf-8")
    assert cli.main(["train", "--resume", str(run)]) == 1, "as it stands it may not go on"
    told = capsys.readouterr().err
    assert command in told
    assert "--optim.lr" in told
    dead.clear()
    assert cli.main([*shlex.split(command), "--optim.lr", "0.004", "--joint-steps", "3"]) == 0
    assert "next: tag2mask" in capsys.readouterr().out
    saved = load_config(run)
    assert (saved.tag_steps, saved.joint_steps, saved.optim.lr) == (6, 3, 0.004)
    found = rows(run)
    assert [row["step"] for row in found] == [str(i) for i in range(1, 10)]
    assert [row["phase"] for row in found] == ["tags"] * 6 + ["joint"] * 3
    expected = [0.004 * (1 - t / 6) ** 0.9 for t in (3, 4, 5)]
    assert [float(row["lr"]) for row in found[3:6]] == pytest.approx(expected, rel=1e-4)
    assert "has 6 steps instead of 3; from step 3" in (run / "log.txt").read_text(encoding="utf-8")


def test_only_a_run_before_its_joint_phase_takes_more_tag_steps(tiny_config, capsys):
    saved = tiny_config.replace(tag_steps=4)
    asked = saved.replace(tag_steps=8, optim=dataclasses.replace(saved.optim, lr=0.1))
    assert as_before(saved, asked, 4) == as_before(saved, asked, 2) == saved
    assert as_before(saved, asked, 5) == asked
    assert as_before(saved, saved.replace(tag_steps=3), 2).tag_steps == 3, "fewer never"
    lr = saved.replace(optim=dataclasses.replace(saved.optim, lr=0.1))
    assert as_before(saved, lr, 3) == saved
    assert as_before(saved, lr, 4) == lr, "no step is left for it"
    assert as_before(saved, asked.replace(seed=7), 4) == saved.replace(seed=7)
    run = train(tiny_config.replace(tag_steps=1, joint_steps=1))
    capsys.readouterr()
    assert cli.main(["train", "--resume", str(run), "--tag-steps", "9"]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "differs in --tag-steps." in told
    assert "this run stands at step 2" in told
    with pytest.raises(ValueError, match="while the joint phase has not begun"):
        train(load_config(run).replace(tag_steps=9), resume=run)


def test_a_dead_run_of_tags_alone_fails_when_it_is_complete_and_goes_on(tiny_config, dead, monkeypatch, capsys):
    monkeypatch.setattr(rules, "_LEAST_STEPS", 3)
    with pytest.raises(TrainingStopped, match="The run is saved, but there is nothing to learn masks from") as stopped:
        train(tiny_config.replace(joint_steps=0))
    run = Path(tiny_config.out)
    assert nothing_learned(run)
    assert (run / "report.html").is_file()
    command = re.search(r"`tag2mask (train --resume .*? --tag-steps 6)`", str(stopped.value))[1]
    assert cli.main(["train", "--resume", str(run)]) == 1, "it has learned nothing since"
    assert command in capsys.readouterr().err
    dead.clear()
    assert cli.main(shlex.split(command)) == 0
    assert not nothing_learned(run)


def test_a_dead_tag_phase_that_is_taken_over_stops_too(tiny_config, tmp_path, dead, monkeypatch):
    tags = train(tiny_config.replace(joint_steps=0, out=str(tmp_path / "tags")))
    assert nothing_learned(tags)
    line = after_training(tags, load_config(tags))
    assert shlex.split(line) == ["next:", "tag2mask", "train", "--resume", str(tags), "--tag-steps", "6"]
    monkeypatch.setattr(rules, "_LEAST_STEPS", 3)
    with pytest.raises(TrainingStopped):
        train(tiny_config.replace(tag_phase=str(tags)))
    dead.clear()
    run = train(load_config(tiny_config.out).replace(tag_steps=4), resume=tiny_config.out)
    assert load_config(run).tag_phase is None, "its own tag phase is longer now"
    assert [row["step"] for row in rows(run)] == ["4", "5", "6", "7"]


def test_a_short_tag_phase_is_warned_of_and_a_class_is_named(tiny_config, dead):
    weak = ClassHealth(name="leaf", num_images=9, ap=0.1, chance=0.12, by_chance=0.4)
    dead[0] = health(**DEAD | {"classes": (*health().classes, weak)})
    log = (train(tiny_config) / "log.txt").read_text(encoding="utf-8")
    assert log.count("WARNING after the tag phase: nothing is learned so far") == 1
    assert "no better than chance: leaf (AP 0.10, by chance 0.12). Train longer on tags (--tag-steps)" in log


# a dead model


def test_a_dead_run_says_so_everywhere(dead_run, builtin, tmp_path, capsys):
    summary = json.loads((dead_run / "summary.json").read_text(encoding="utf-8"))
    assert summary["health"]["findings"][0]["code"] == "nothing_learned"
    log = (dead_run / "log.txt").read_text(encoding="utf-8")
    assert log.count("WARNING This model has learned nothing") == 1
    assert "has learned nothing" in write_report(dead_run).read_text(encoding="utf-8")
    (found,) = nothing_learned(dead_run / "model.safetensors")
    assert nothing_learned(str(dead_run)) == (found,)
    assert nothing_learned(tmp_path) == ()
    result = pseudo_label(dead_run, data=builtin, out=tmp_path / "masks")
    assert found in result.findings
    assert "next: tag2mask train" in after_scoring_masks(tmp_path / "masks", builtin, DataOptions(), "train")
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
    method = dataclasses.replace(load_config(dead_run).method, pool_valid=False)
    odd = load_config(dead_run).replace(method=method, image_size=None, trackers=(), dropout=0.0, freeze_stride=0)
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
