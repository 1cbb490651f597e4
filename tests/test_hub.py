"""The folder for the hub, its model card, download and upload; nothing leaves this machine."""

from __future__ import annotations

import json
import shutil

import huggingface_hub
import numpy as np
import pytest
import torch

import tag2mask
from tag2mask import evaluate, hub
from tag2mask.config import RetrainConfig, TrainConfig
from tag2mask.exporting import export
from tag2mask.models import build_network
from tag2mask.runs import load_model, save_model
from tag2mask.segmenter import Segmenter

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


def test_paths_become_names():
    config = RetrainConfig.preset("small", data="/a/photos", masks="/b/masks", weights="/c/w.safetensors")
    named = hub.without_paths(config)
    assert (named.data, named.masks, named.weights, named.val_split) == ("photos", "masks", "w.safetensors", "val")


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
        'from_pretrained("hf://owner/name")',
    ):
        assert text in card.content, text
    assert done.parity.max_difference == 0


def test_card_without_scores_says_so(saved):
    card = huggingface_hub.ModelCard.load(saved / "README.md")
    assert "Not given." in card.content
    assert card.data.eval_results is None


def test_card_of_a_second_step_with_odd_class_names():
    config = RetrainConfig.preset("small", masks="/b/masks")
    scores = {"miou": 0.5, "iou": {"background": None, 'a "b": c': 0.5}, "protocol": {}}
    card = huggingface_hub.ModelCard(hub.model_card(config, ('a "b": c',), stride=16, evaluation=scores))
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
    for load in (tag2mask.Segmenter.load, tag2mask.Segmenter.from_pretrained, Segmenter.load):
        loaded = load("hf://me/model-1", device="cpu")
        np.testing.assert_array_equal(loaded.predict(RGB).probs, segmenter.predict(RGB).probs)
    tag2mask.Segmenter.load("hf://me/model.1@v2", device="cpu")
    files = ["config.json", "model.safetensors"]
    assert calls == [("me/model-1", None, files)] * 3 + [("me/model.1", "v2", files)]


def test_download_of_something_else(saved, tmp_path, monkeypatch):
    shutil.copy(saved / "config.json", tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: str(tmp_path))
    with pytest.raises(ValueError, match=r"no model of tag2mask: it has no model\.safetensors"):
        tag2mask.Segmenter.load("hf://me/model")


def test_download_without_connection():
    with pytest.raises(ValueError, match=r"hf://me/model could not be had from the hub.*connection"):
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
    with pytest.raises(ValueError, match=r"me/model could not be uploaded to the hub: 401 Unauthorized\..*logged in"):
        segmenter.push_to_hub("me/model")
