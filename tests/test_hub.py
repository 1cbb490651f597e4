"""The folder for the hub, its model card, download and upload; nothing leaves this machine."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import json
import re
import shutil
import textwrap

import huggingface_hub
import numpy as np
import pytest
import torch

import tag2mask
from tag2mask import evaluate
from tag2mask.config import RetrainConfig, RunConfig, TrainConfig
from tag2mask.config.formats import DataOptions
from tag2mask.data import open_data
from tag2mask.inference import hub
from tag2mask.inference.licenses import RANDOM
from tag2mask.inference.segmenter import Segmenter
from tag2mask.jobs.exporting.run import export
from tag2mask.models import build_network
from tag2mask.runs.checkpoints import load_model, save_model
from tag2mask.runs.places import write_record

CLASSES = ("ball", "crate", "donut", "leaf", "starfish")


@pytest.fixture(scope="module")
def run(tmp_path_factory, builtin):
    folder = tmp_path_factory.mktemp("hub") / "run"
    config = TrainConfig.preset(
        "small", data=str(builtin), out=str(folder), backbone="test_resnet", weights="none", image_size=64
    )
    torch.manual_seed(0)
    folder.mkdir()
    save_model(folder / "model.safetensors", build_network(config, CLASSES, pretrained=False), config)
    (folder / "config.json").write_text(config.to_json())
    evaluate(folder, data=builtin, out=folder, device="cpu")
    return folder


@pytest.fixture(scope="module")
def segmenter(run):
    return Segmenter.load(run, device="cpu")


@pytest.fixture(scope="module")
def saved(segmenter, tmp_path_factory):
    return segmenter.save_pretrained(tmp_path_factory.mktemp("saved") / "model")


RGB = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def test_round_trip(segmenter, saved):
    loaded = tag2mask.Segmenter.from_pretrained(saved, device="cpu")
    assert loaded.classes == CLASSES
    np.testing.assert_array_equal(loaded.predict(RGB).probs, segmenter.predict(RGB).probs)
    assert {path.name for path in saved.iterdir()} == {"README.md", "config.json", "model.safetensors"}


def test_no_path_of_this_machine_is_published(run, saved, builtin):
    for file in saved.iterdir():
        for path in (run, builtin, builtin.parent):
            assert str(path).encode() not in file.read_bytes()
    config, model_config = json.loads((saved / "config.json").read_text()), load_model(saved)[1]
    assert config["data"] == model_config.data == builtin.name
    assert model_config.out is None


@pytest.mark.parametrize("home", ["/home/a-person/work", r"C:\Users\a-person\work"])
@pytest.mark.parametrize("kind", [TrainConfig, RetrainConfig])
def test_no_field_publishes_a_path(kind, home, tmp_path):
    """Of a run whose every path lies at home, as one of an older version, or of another system."""
    mark = "\\" if "\\" in home else "/"
    paths = {name: mark.join((home, f"my-{name}")) for name in kind.path_names()}
    assert set(paths) > {"data", "out", "train_split", "val_split", "weights"}
    config = kind.preset("small", backbone="test_resnet", image_size=64, **paths)
    run, split = tmp_path / "a-person" / "run", paths["val_split"]
    run.mkdir(parents=True)
    network = build_network(config, CLASSES, pretrained=False)
    save_model(run / "model.safetensors", network, config, selection=f"best mIoU on {split} at step 7")
    (run / "config.json").write_text(config.to_json())
    protocol = {"data": paths["data"], "split": split, "num_images": 4, "masks_from": mark.join((home, "their-masks"))}
    protocol["model_selection"] = f"best mIoU on {split} at step 7"
    iou = dict.fromkeys(("background", *CLASSES), 0.5)
    (run / "evaluation.json").write_text(json.dumps({"miou": 0.5, "iou": iou, "protocol": protocol}))
    with pytest.raises(ValueError, match=r"license of my-weights, with which .*state the license"):
        export(run, format="hub", out=tmp_path / "hub", limit=1)
    done = export(run, format="hub", out=tmp_path / "hub", limit=1, license="mit")
    for file in done.out.rglob("*"):
        assert b"a-person" not in file.read_bytes(), file
    shared = load_model(done.out)
    assert {name: getattr(shared[1], name) for name in paths if name != "out"} == {
        name: f"my-{name}" for name in paths if name != "out"
    }
    assert shared[2]["selection"] == "best mIoU on my-val_split at step 7"
    card = (done.out / "README.md").read_text()
    assert "data my-data; split my-val_split, 4 pictures; masks of their-masks" in card
    assert "weights kept: best mIoU on my-val_split at step 7" in card


def test_words_that_are_no_paths_stay():
    for config in (TrainConfig.preset("small"), RetrainConfig.preset("small")):
        assert hub.without_paths(config) == config
    for selection in ("last step", "best mIoU on val at step 7", "published: a/b"):
        assert hub.named_selection(selection) == selection


@pytest.mark.parametrize("kind", [TrainConfig, RetrainConfig])
def test_every_field_that_names_a_file_is_marked(kind):
    """What its docstring calls a folder or a file is marked as a path, or would be published."""
    told = {}
    for each in (DataOptions, RunConfig, kind):
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        for field, text in itertools.pairwise(body.body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                told[field.target.id] = text.value.value
    assert {f.name for f in dataclasses.fields(kind)} == set(told) - {"kind"}
    files = {name for name, text in told.items() if re.search(r"\b(folder|file)\b", text, re.IGNORECASE)}
    assert files | {"val_split"} == set(kind.path_names())


@pytest.mark.parametrize("kind", [TrainConfig, RetrainConfig])
def test_paths_may_be_path_objects(kind, tmp_path):
    config = kind(**dict.fromkeys(kind.path_names(), tmp_path))
    assert kind.from_json(config.to_json()) == config
    assert config.val_split == str(tmp_path)


def test_card_says_what_the_model_is(run, tmp_path, builtin):
    done = export(run, format="hub", out=tmp_path / "hub")
    card = huggingface_hub.ModelCard.load(done.out / "README.md")
    scores = json.loads((run / "evaluation.json").read_text())
    assert card.data.library_name == "tag2mask"
    assert card.data.pipeline_tag == "image-segmentation"
    result = card.data.eval_results[0]
    assert result.metric_value == pytest.approx(scores["miou"], abs=1e-4)
    assert result.dataset_name == builtin.name
    for text in (
        "| 5 | starfish |",
        f"| **mIoU** | {scores['miou']:.4f} |",
        f"data {builtin.name}; split val, 4 pictures",
        "preset small, profile clean",
        "## License",
        'from_pretrained("owner/name")',
    ):
        assert text in card.content, text
    assert done.parity.max_difference == 0


def test_card_says_how_many_pictures_taught_it(run, builtin, tmp_path):
    """Of a run whose list is there; and that masks taught it where some did."""
    data, held_out = open_data(builtin, split="train"), open_data(builtin, split="val")
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    config = load_model(run)[1].replace(masks_for_some=str(tmp_path / "some"))
    save_model(copy / "model.safetensors", build_network(config, CLASSES, pretrained=False), config)
    write_record(copy, config, data, held_out, None)
    card = (export(copy, format="hub", limit=1).out / "README.md").read_text()
    untagged = sum(not each.tags for each in data.pictures)
    assert f"- {len(data.pictures)} pictures taught it, {untagged} of them without any tag; 4 were held out" in card
    for index, name in enumerate(data.classes):
        count = sum(index in each.tags for each in data.pictures)
        assert f"| {index + 1} | {name} | {count} |" in card
    assert "from image-level tags and the true masks of some pictures (some)" in card
    (copy / "pictures.json").write_text("[]")
    again = export(copy, format="hub", out=tmp_path / "again", limit=1).out
    assert "pictures taught it" not in (again / "README.md").read_text()


def test_card_without_scores_says_so(saved):
    card = huggingface_hub.ModelCard.load(saved / "README.md")
    assert "Not given." in card.content
    assert card.data.eval_results is None


def test_card_of_a_second_step_with_odd_class_names():
    config = RetrainConfig.preset("small", masks="/b/masks")
    scores = {"miou": 0.5, "iou": {"background": None, 'a "b": c': 0.5}, "protocol": {}}
    card = huggingface_hub.ModelCard(hub.model_card(config, ('a "b": c',), stride=16, first=RANDOM, evaluation=scores))
    assert card.data.model_name == 'small: a "b": c'
    assert "second step: deeplab-v2 trained on masks made from tags" in card.content
    assert "| background | - |" in card.content


def test_bad_evaluation(run, tmp_path):
    (tmp_path / "e.json").write_text('{"miou": 1}')
    with pytest.raises(ValueError, match=r"e\.json holds no scores.*evaluate RUN --out DIR"):
        export(run, format="hub", out=tmp_path / "hub", evaluation=tmp_path / "e.json")
    assert not (tmp_path / "hub").exists()


def test_folders_are_not_overwritten(segmenter, saved):
    with pytest.raises(FileExistsError, match="not empty"):
        segmenter.save_pretrained(saved)


def test_download(saved, segmenter, monkeypatch):
    calls = []

    def snapshot_download(name, *, revision, allow_patterns):
        calls.append((name, revision, sorted(allow_patterns)))
        return str(saved)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    loaded = Segmenter.load("hf://me/model-1", device="cpu")
    np.testing.assert_array_equal(loaded.predict(RGB).probs, segmenter.predict(RGB).probs)
    for name in ("hf://me/model-1", "me/model-1"):
        Segmenter.from_pretrained(name, device="cpu")
    tag2mask.Segmenter.load("hf://me/model.1@v2", device="cpu")
    tag2mask.Segmenter.from_pretrained("me/model.1@v2", device="cpu")
    files = ["config.json", "model.safetensors"]
    assert calls == [("me/model-1", None, files)] * 3 + [("me/model.1", "v2", files)] * 2


def test_a_path_that_is_there_is_no_name_of_the_hub(saved, tmp_path, monkeypatch):
    """`load` asks the hub for "hf://owner/name" alone, `from_pretrained` for "owner/name" too where it is no path."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"me.model"):
        Segmenter.load("me/model")
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        Segmenter.from_pretrained("me/model.safetensors")
    shutil.copytree(saved, tmp_path / "me" / "model")
    assert Segmenter.from_pretrained("me/model", device="cpu").classes == CLASSES


def test_download_of_something_else(saved, tmp_path, monkeypatch):
    shutil.copy(saved / "config.json", tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: str(tmp_path))
    with pytest.raises(ValueError, match=r"no model of tag2mask: it has no model\.safetensors"):
        tag2mask.Segmenter.load("hf://me/model")


def test_download_without_connection():
    with pytest.raises(ValueError, match=r"hf://me/model: the download from the hub failed.*connection"):
        tag2mask.Segmenter.load("hf://me/model")


@pytest.mark.parametrize("address", ["hf://model", "hf://a/b/c", "hf://a/b@", "hf://"])
def test_bad_addresses(address):
    with pytest.raises(ValueError, match='"hf://owner/name"'):
        tag2mask.Segmenter.load(address)


def test_push(segmenter, monkeypatch):
    seen = {}

    def create_repo(name, *, private, exist_ok):
        seen["repo"] = (name, private, exist_ok)
        return "address of the repository"

    def upload_folder(*, repo_id, folder_path, commit_message):
        seen["files"] = {path.name for path in folder_path.iterdir()}
        seen["probs"] = Segmenter.load(folder_path, device="cpu").predict(RGB).probs

    monkeypatch.setattr(huggingface_hub, "create_repo", create_repo)
    monkeypatch.setattr(huggingface_hub, "upload_folder", upload_folder)
    assert segmenter.push_to_hub("me/model", private=True) == "address of the repository"
    assert seen["repo"] == ("me/model", True, True)
    assert seen["files"] == {"README.md", "config.json", "model.safetensors"}
    np.testing.assert_array_equal(seen["probs"], segmenter.predict(RGB).probs)
    with pytest.raises(ValueError, match="\"owner/name\", got 'model'"):
        segmenter.push_to_hub("model")


def test_push_that_fails(segmenter, monkeypatch):
    def refuse(*args, **options):
        raise OSError("401 Unauthorized\nmore")

    monkeypatch.setattr(huggingface_hub, "create_repo", refuse)
    with pytest.raises(ValueError, match=r"me/model: the upload to the hub failed: 401 Unauthorized\..*log in"):
        segmenter.push_to_hub("me/model")
