"""Configs: presets, JSON round trip, refusals in the user's words."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from tag2mask.config import CRFParams, MethodConfig, OptimConfig, ReliableConfig, TrainConfig, tag_phase_settings


@pytest.mark.parametrize("name", TrainConfig.presets())
@pytest.mark.parametrize("profile", ["official", "paper", "clean"])
def test_presets_survive_json(name, profile):
    config = TrainConfig.preset(name, profile=profile, data="photos", train_split="train", image_size=None)
    assert TrainConfig.from_json(config.to_json()) == config


def test_unknown_and_ill_typed_keys_are_refused_by_name():
    values = json.loads(TrainConfig().to_json())
    values["method"]["reliable"]["kep"] = 0.5
    with pytest.raises(ValueError, match=r"config\.method\.reliable has unknown keys kep"):
        TrainConfig.from_json(json.dumps(values))
    with pytest.raises(ValueError, match=r"config\.batch_size must be int, got 'many'"):
        TrainConfig.from_json('{"batch_size": "many"}')
    with pytest.raises(ValueError, match=r"config\.precision must be one of fp32, bf16, fp16, got 'fp8'"):
        TrainConfig.from_json('{"precision": "fp8"}')
    with pytest.raises(ValueError, match="not JSON"):
        TrainConfig.from_json("{")


def test_a_key_of_an_older_version_may_have_the_value_that_still_means_the_same():
    values = json.loads(TrainConfig().to_json())
    values["method"]["cam_flip"] = False
    assert TrainConfig.from_json(json.dumps(values)) == TrainConfig()
    values["method"]["cam_flip"] = True
    with pytest.raises(
        ValueError, match=r"config\.method\.cam_flip is no setting any more; only False is read, not True"
    ):
        TrainConfig.from_json(json.dumps(values))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OptimConfig(accumulate=0), r"optim\.accumulate must be 1 to 65536, got 0"),
        (lambda: OptimConfig(momentum=1.0), r"optim\.momentum must lie in \[0, 1\), got 1\.0"),
        (lambda: ReliableConfig(keep=0.0), r"method\.reliable\.keep must lie in \(0, 1\], got 0\.0"),
        (lambda: OptimConfig(lr=0.0), r"optim\.lr must be greater than 0, got 0\.0"),
        (lambda: TrainConfig(seed=-1), r"seed must be 0 or more, got -1"),
        (lambda: CRFParams(iterations=-1), r"CRFParams\.iterations must be 0 or more, got -1"),
    ],
)
def test_numbers_lie_within_what_their_field_says(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_the_tag_phase_does_not_read_is_left_out_of_its_settings():
    config = TrainConfig.preset("voc-rrm-init", data="photos")
    alike = config.replace(joint_steps=3, workers=9, masks_for_some="m", profile="paper", out="elsewhere")
    assert tag_phase_settings(alike) == tag_phase_settings(config)
    assert tag_phase_settings(config).joint_steps == 0
    for other in (config.replace(seed=1), config.replace(optim=dataclasses.replace(config.optim, lr=1.0))):
        assert tag_phase_settings(other) != tag_phase_settings(config)


def test_unknown_preset_field_and_profile():
    with pytest.raises(ValueError, match="There is no preset 'smal'; presets: small"):
        TrainConfig.preset("smal")
    with pytest.raises(ValueError, match="no field dat"):
        TrainConfig.preset("small", dat="photos")
    with pytest.raises(ValueError, match="official, paper or clean"):
        MethodConfig.of("best")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ReliableConfig(keep=0), "method.reliable.keep"),
        (lambda: ReliableConfig(foreground_power=5, background_power=4), "background_power"),
        (lambda: CRFParams(bilateral_srgb=0), "bilateral_srgb"),
        (lambda: TrainConfig(tag_steps=0, joint_steps=0), "not both 0"),
        (lambda: TrainConfig(select="miou"), "validate_every"),
        (lambda: TrainConfig(output_stride=4), "output_stride"),
        (lambda: MethodConfig(cam_scales=(0.5, 1.0)), "start with 1.0"),
        (lambda: OptimConfig(lr=0), "optim.lr"),
    ],
)
def test_contradictions_are_refused_in_the_words_of_the_flags(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_published_crf_presets():
    fields = ("gaussian_sxy", "gaussian_compat", "bilateral_sxy", "bilateral_srgb", "bilateral_compat", "iterations")
    values = lambda params: tuple(getattr(params, name) for name in fields)  # noqa: E731
    assert values(CRFParams.mining()) == (3, 3, 80, 13, 10, 10)
    assert values(CRFParams.inference()) == (3, 3, 83, 5, 4, 10)
    assert values(CRFParams.aaai_inference()) == (4, 3, 83, 5, 3, 10)


def test_another_profile_brings_its_method_and_paths_may_be_paths():
    config = TrainConfig(data=Path("photos")).replace(profile="official")
    assert config.method == MethodConfig.of("official")
    assert config.replace(profile="paper", method=MethodConfig()).method == MethodConfig()
    assert TrainConfig.from_json(config.to_json()) == config
    assert CRFParams(4, 3, 83, 5, 3, 10) == CRFParams.aaai_inference()


def test_configs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value"),
    [("gaussian_compat", float("nan")), ("bilateral_compat", float("inf")), ("bilateral_srgb", float("inf"))],
)
def test_crf_parameters_are_finite(name, value):
    with pytest.raises(ValueError, match=rf"CRFParams\.{name} must be .*, got (nan|inf)"):
        CRFParams(**{name: value})
