"""`check --run`: which tags a model contradicts, by confident learning."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tag2mask
from tag2mask import cli
from tag2mask.data import open_data
from tag2mask.jobs.checking.wrong_tags import contradictions, suspicious_tags

CLASSES = ("cat", "dog")
TRUTH = [("cat",), ("dog",), ("cat", "dog"), ()]
"""Picture i shows TRUTH[i % 4]."""
PLANTED = {("08.png", "cat"), ("13.png", "cat"), ("18.png", "dog")}
"""One tag missing, one too many, one missing of two."""


class Judge:
    """Stands in for a model: the red of a picture is its score for cat, the green its score for dog."""

    classes = CLASSES

    def score_maps(self, pictures):
        return [(None, (rgb[0, 0, :2] / 255).astype(np.float32)) for rgb in pictures]


def _score(random: np.random.Generator, shown: bool, *, sure: bool) -> int:
    """In 0..255."""
    if sure:
        return 250 if shown else 4
    return random.integers(185, 245) if shown else random.integers(10, 70)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """40 pictures of which 32 train; three tags are wrong."""
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    (root / "splits").mkdir()
    random = np.random.default_rng(0)
    rows, names = ["file_name,tags"], [f"{i:02d}.png" for i in range(40)]
    for i, name in enumerate(names):
        scores = [_score(random, each in TRUTH[i % 4], sure=(name, each) in PLANTED) for each in CLASSES]
        blue = random.integers(0, 256, (48, 64, 1), dtype=np.uint8)
        flat = np.broadcast_to(np.array(scores, np.uint8), (48, 64, 2))
        Image.fromarray(np.concatenate([flat, blue], -1)).save(root / "images" / name)
        tags = [each for each in CLASSES if (each in TRUTH[i % 4]) != ((name, each) in PLANTED)]
        rows.append(f"{name},{';'.join(tags)}")
    (root / "tags.csv").write_text("\n".join(rows))
    (root / "splits/train.txt").write_text("\n".join(names[:32]))
    (root / "splits/val.txt").write_text("\n".join(names[32:]))
    return root


@pytest.fixture
def judge(monkeypatch) -> Judge:
    judge = Judge()
    monkeypatch.setattr("tag2mask.jobs.checking.Segmenter.load", lambda run, device: judge)
    return judge


def confident_joint(scores: np.ndarray, tags: np.ndarray) -> np.ndarray:
    """As in the paper, a class at a time with the labels no and yes: bool [N, C] of what is off the diagonal."""
    off = np.zeros(tags.shape, dtype=bool)
    for column in range(tags.shape[1]):
        given = tags[:, column].astype(int)
        probs = np.stack([1 - scores[:, column], scores[:, column]], axis=1)
        thresholds = [probs[given == label, label].mean() for label in (0, 1)]
        for i in range(len(given)):
            confident = [label for label in (0, 1) if probs[i, label] >= thresholds[label]]
            if confident:
                off[i, column] = max(confident, key=lambda label: probs[i, label]) != given[i]
    return off


@pytest.mark.parametrize("seed", range(5))
def test_contradictions_are_those_of_the_confident_joint(seed):
    random = np.random.default_rng(seed)
    tags = random.random((200, 4)) < (0.1, 0.3, 0.5, 0.8)
    logits = np.where(tags, 1.0, -1.5) + random.normal(size=tags.shape) * 1.5
    scores = 1 / (1 + np.exp(-logits))
    judged, contradicted, usual = contradictions(scores, tags)
    assert judged.all()
    assert contradicted.any(0).all()
    assert (contradicted == confident_joint(scores, tags)).all()
    assert usual[tags[:, 2], 2] == pytest.approx(scores[tags[:, 2], 2].mean())
    assert usual[~tags[:, 2], 2] == pytest.approx(scores[~tags[:, 2], 2].mean())


def test_a_class_that_the_model_does_not_know_is_not_judged():
    random = np.random.default_rng(1)
    tags = np.zeros((100, 5), dtype=bool)
    tags[:30, :3], tags[0, 3] = True, True  # of the last two classes one picture and none
    scores = np.where(tags, 0.9, 0.1) + random.normal(size=tags.shape) * 0.02
    scores[:, 0] = 0.3  # the same for all
    scores[:, 1] = random.random(100)
    judged, contradicted, usual = contradictions(scores, tags)
    assert judged.tolist() == [False, False, True, False, False]
    assert not contradicted[:, ~judged].any()
    assert np.isfinite(usual[tags]).all()


def test_wrong_tags_come_first_and_right_ones_not_at_all(data):
    sets = {name: open_data(data, split=name) for name in ("train", "val")}
    seen = []
    found = suspicious_tags(Judge(), sets, run="r", progress=lambda *told: seen.append(told))
    assert {(each.file_name, each.class_name) for each in found.tags} == PLANTED
    assert found.num_images == 40 and found.not_judged == {}
    assert [each.doubt for each in found.tags] == sorted((each.doubt for each in found.tags), reverse=True)
    for each in found.tags:
        assert each.given == (each.file_name == "13.png")
        assert each.doubt == pytest.approx(abs(each.score - each.usual))
        assert (each.score < 0.3 < 0.6 < each.usual) if each.given else (each.usual < 0.4 < 0.7 < each.score)
    usual = {each.file_name: each.usual for each in found.tags}
    assert usual["08.png"] == pytest.approx(_mean_of_cat(data, tagged=False))
    assert usual["13.png"] == pytest.approx(_mean_of_cat(data, tagged=True))
    assert seen[-1][:2] == (40, 40)


def _mean_of_cat(data: Path, *, tagged: bool) -> float:
    rows = [line.split(",") for line in (data / "tags.csv").read_text().splitlines()[1:]]
    reds = [np.asarray(Image.open(data / "images" / n))[0, 0, 0] for n, tags in rows if ("cat" in tags) == tagged]
    return float(np.mean(reds) / 255)


def test_pictures_count_once_and_broken_ones_not(data):
    (data / "images/08.png").write_bytes(b"broken")
    sets = {"train": open_data(data), "again": open_data(data, split=str(data / "splits/train.txt"))}
    found = suspicious_tags(Judge(), sets)
    assert found.num_images == 31
    assert {each.file_name for each in found.tags} == {"13.png", "18.png"}
    assert {each.split for each in found.tags} == {"train"}


def test_the_verdict_and_findings_stay_as_they_are(data, judge, tmp_path):
    plain, judged = tag2mask.check(data), tag2mask.check(data, run="runs/r", out=tmp_path / "check.html")
    assert (judged.verdict, judged.findings, judged.fit) == (plain.verdict, plain.findings, plain.fit)
    assert plain.suspicious is None and plain.as_dict()["suspicious"] is None
    with (tmp_path / "suspicious_tags.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["file_name"], r["class"], r["given"], r["split"]) for r in rows] == [
        (each.file_name, each.class_name, "yes" if each.given else "no", each.split) for each in judged.suspicious.tags
    ]
    page = (tmp_path / "check.html").read_text()
    assert page.count('class="card"') == 3
    assert "13.png</b>\n<p>cat is given, its score is" in page
    assert "Probably wrong: 3 tags of 40 pictures, by runs/r." in page
    tag2mask.check(data, out=tmp_path / "plain.html")
    assert "Probably wrong" not in (tmp_path / "plain.html").read_text()


def test_the_command_lists_them_and_leads_to_their_pictures(data, judge, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["check", str(data), "--run", "runs/r"]) == 0
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("Probably wrong: 3 tags of 40 pictures, by runs/r.")
    assert lines[start + 1].split() == ["picture", "class", "given", "score", "usual"]
    assert {tuple(line.split()[:3]) for line in lines[start + 2 : start + 5]} == {
        ("08.png", "cat", "no"),
        ("13.png", "cat", "yes"),
        ("18.png", "dog", "no"),
    }
    assert lines[-1] == f"next: tag2mask check {data} --run runs/r --out check.html"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
    assert cli.main(["check", str(data), "--run", "runs/r", "--out", "check.html"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == ["page: check.html; list: suspicious_tags.csv", f"next: tag2mask train small --data {data}"]
    assert cli.main(["check", str(data), "--run", "runs/r", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["suspicious"]
    assert {(each["file_name"], each["class_name"]) for each in told["tags"]} == PLANTED
    assert (told["run"], told["num_images"], told["not_judged"]) == ("runs/r", 40, {})


def test_a_long_list_is_cut_on_the_terminal_only(data, judge, capsys, monkeypatch):
    monkeypatch.setattr("tag2mask.jobs.checking.results.MOST_TAGS", 2)
    assert cli.main(["check", str(data), "--run", "runs/r"]) == 0
    assert (
        "and 1 more: --out FILE.html writes all into suspicious_tags.csv, --json shows them" in capsys.readouterr().out
    )


def test_an_unfit_data_set_stays_unfit(data, judge, capsys):
    text = (data / "tags.csv").read_text()
    (data / "tags.csv").write_text(text + "\nmissing.png,cat")
    assert cli.main(["check", str(data), "--run", "runs/r"]) == 1
    assert "missing.png" in capsys.readouterr().out


def test_classes_are_matched_by_name(data, judge):
    judge.classes = ("dog", "horse")  # its second score is then for horse
    found = suspicious_tags(judge, {"train": open_data(data)})
    assert {each.class_name for each in found.tags} <= {"dog"}
    assert found.not_judged["cat"] == "the model does not know it"
    judge.classes = ("horse", "cow")
    with pytest.raises(ValueError, match=r"runs/r knows none of the classes of the data \(cat, dog\)"):
        tag2mask.check(data, run="runs/r")


def test_a_run_of_the_package_judges(tiny_config, builtin, capsys):
    """A whole way with a network of a few steps, which knows nothing and says so, or lists what it thinks."""
    run = tag2mask.train(tiny_config.replace(val_split="none"))
    assert cli.main(["check", str(builtin), "--run", str(run), "--crop-size", "64", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["fit"] and told["suspicious"]["num_images"] == 16
    assert cli.main(["check", str(builtin), "--run", str(run) + "-nowhere"]) == 1
    assert "nowhere" in capsys.readouterr().err
