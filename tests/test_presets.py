"""The published recipes: their numbers, their learning rates, and what they need to start."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_training import padded_batch

from tag2mask.cam import multi_scale_cam
from tag2mask.config import AugmentConfig, MethodConfig, RetrainConfig, TrainConfig
from tag2mask.config.presets import PRESETS
from tag2mask.method import class_activation_maps
from tag2mask.models.network import Network
from tag2mask.models.wide_resnet38 import WideResNet38
from tag2mask.reliable import reliable_labels
from tag2mask.training.first_step import train
from tag2mask.training.optim import learning_rates

PUBLISHED = ("voc-rrm", "voc-rrm-init", "voc-rrm-attention")


def poly(lr: float, t: int, steps: int, factors: tuple[float, float, float, float]) -> dict[str, float]:
    """Learning rates of the four groups by method 5's formula."""
    names = ("old_weights", "old_biases", "new_weights", "new_biases")
    return {name: factor * lr * (1 - t / steps) ** 0.9 for name, factor in zip(names, factors, strict=True)}


GROUPS, EQUAL = (1.0, 2.0, 10.0, 20.0), (1.0, 1.0, 1.0, 1.0)
SCHEDULES = {
    "voc-rrm": {t: poly(0.0007, t, 20_000, GROUPS) for t in (0, 5_000, 10_000, 19_999)},
    "voc-rrm-init": {
        0: poly(0.01, 0, 15_864, GROUPS),
        7_932: poly(0.01, 7_932, 15_864, GROUPS),
        15_863: poly(0.01, 15_863, 15_864, GROUPS),
        15_864: poly(0.0007, 0, 15_864, EQUAL),  # T/2: the second phase starts anew, without factors
        31_727: poly(0.0007, 15_863, 15_864, EQUAL),
    },
    "voc-rrm-attention": {t: poly(0.001, t, 40_000, GROUPS) for t in (0, 10_000, 20_000, 39_999)},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_learning_rates_at_the_start_a_quarter_half_and_the_end(name):
    config, want = TrainConfig.preset(name), SCHEDULES[name]
    assert {0, config.steps // 4, config.steps // 2, config.steps - 1} <= set(want)
    got = {step: learning_rates(config, step) for step in want}
    table = "\n".join(
        f"{name} step {step}: " + ", ".join(f"{g} {got[step][g]:.3e} (formula {want[step][g]:.3e})" for g in want[step])
        for step in want
    )
    for step in want:
        assert got[step] == pytest.approx(want[step], rel=1e-9), table


def test_numbers_of_the_published_runs():
    told = {
        name: (
            c.batch_size, c.joint_batch_size, c.tag_steps, c.joint_steps, c.augment.crop_size, c.optim.weight_decay,
            c.optim.momentum, c.optim.new_parts, c.attention, c.method.class_distance,
        )
        for name in PUBLISHED
        for c in [TrainConfig.preset(name)]
    }  # fmt: skip
    assert told == {
        "voc-rrm": (4, 4, 0, 20_000, 321, 1e-5, 1e-5, "heads", False, 0.0),
        "voc-rrm-init": (8, 8, 15_864, 15_864, 448, 5e-4, 5e-4, "heads", False, 0.0),
        "voc-rrm-attention": (8, 8, 0, 40_000, 321, 1e-5, 1e-5, "classifier", True, 1.0),
    }
    still = AugmentConfig(crop_size=321, scale=(0.7, 1.3), scale_per="batch", flip=0.5, jitter=(0, 0, 0, 0))
    assert TrainConfig.preset("voc-rrm").augment == TrainConfig.preset("voc-rrm-attention").augment == still
    init = TrainConfig.preset("voc-rrm-init").augment
    assert (init.scale, init.flip, init.jitter) == ((1.0, 1.0), 0.5, (0.3, 0.3, 0.3, 0.1))


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_the_published_runs_share(name):
    c = TrainConfig.preset(name)
    assert (c.profile, c.backbone, c.output_stride, c.image_size) == ("official", "wide_resnet38", 8, None)
    assert (c.train_split, c.val_split, c.dropout, c.segment_dilation, c.freeze_stride) == (
        "train_aug", "val", 0.5, None, 0,
    )  # fmt: skip
    assert (c.optim.name, c.optim.poly_power, c.optim.warmup, c.optim.clip_norm) == ("sgd", 0.9, 0, 0.0)
    assert (c.method.cam_scales, c.method.cam_mode, c.method.ema) == ((1.0, 0.5, 1.5, 2.0), "train", 0.0)
    assert (c.method.energy.weight, c.method.energy.gradient) == (1e-7, "surrogate")
    assert c.select == "last" and c.precision == "fp32"


def test_another_profile_keeps_the_class_distance_of_the_attention():
    config = TrainConfig.preset("voc-rrm-attention", profile="clean")
    assert config.method.class_distance == 1.0 and config.method.reliable == MethodConfig().reliable


@pytest.mark.parametrize("kind", [TrainConfig, RetrainConfig])
def test_every_preset_is_made_and_bears_its_name(kind):
    assert [kind.preset(name).preset_name for name in kind.presets()] == list(PRESETS[kind.kind])


def voc(root: Path, split: str = "train_aug") -> Path:
    """A VOC tree of three pictures."""
    for folder in ("JPEGImages", "Annotations", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    ids = ("2007_000001", "2007_000002", "2007_000003")
    for name in ids:
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8)).save(root / "JPEGImages" / f"{name}.jpg")
        (root / f"Annotations/{name}.xml").write_text(
            "<annotation><object><name>cat</name></object></annotation>", encoding="utf-8"
        )
    (root / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(ids), encoding="utf-8")
    return root


@pytest.mark.parametrize(
    ("name", "file", "project"),
    [
        ("voc-rrm", "res38_cls.pth", "psa"),
        ("voc-rrm-init", "ilsvrc-cls_rna-a1_cls1000_ep-0001.params", "ademxapp"),
        ("voc-rrm-attention", "res38_cls.pth", "psa"),
    ],
)
def test_without_weights_nothing_starts_and_the_error_says_how(name, file, project, tmp_path):
    data = voc(tmp_path / "VOC2012")
    with pytest.raises(ValueError) as caught:
        train(TrainConfig.preset(name, data=str(data), out=str(tmp_path / "run")))
    assert f"the project {project}" in str(caught.value)
    assert f"tag2mask train {name} --data {data} --weights {file}" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_without_train_aug_nothing_starts_and_the_error_says_how(tmp_path):
    data = voc(tmp_path / "VOC2012", split="train")
    with pytest.raises(ValueError, match=r"no train_aug\.txt.*10,582.*train_split train"):
        train(TrainConfig.preset("voc-rrm", data=str(data), weights="none", out=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("name", "batch"), [("voc-rrm", 1), ("voc-rrm-init", 2), ("voc-rrm-attention", 3)])
def test_recipes_run_on_a_voc_tree_with_a_toy_backbone(name, batch, tmp_path):
    """All of the recipe but backbone, steps and batch size; the published code fails on single pictures."""
    config = TrainConfig.preset(name, data=str(voc(tmp_path / "VOC2012")), out=str(tmp_path / "run"))
    steps = {"tag_steps": min(config.tag_steps, 1), "joint_steps": 1}
    toy: dict[str, object] = {
        "backbone": "test_efficientnet",
        "output_stride": 16,
        "weights": "none",
        "workers": 0,
        "batch_size": batch,
    }
    run = train(config.replace(**toy, **steps, joint_batch_size=batch, sample_every=0))
    last = (run / "metrics.csv").read_text().splitlines()
    row = dict(zip(last[0].split(","), last[-1].split(","), strict=True))
    assert row["phase"] == "joint" and row["skipped_steps"] == "0" and np.isfinite(float(row["total_loss"]))
    assert TrainConfig.from_json((run / "config.json").read_text()).augment == config.augment


class Noisy(torch.nn.Module):
    """A backbone of one convolution and dropout."""

    channels, stride, cell, mean, std = 4, 4, 4, (124.0, 116.0, 104.0), (58.0, 57.0, 57.0)

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.dropout = torch.nn.Conv2d(3, 4, 4, 4), torch.nn.Dropout2d(0.5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.conv(images).relu())


def test_cams_feel_the_dropout_in_the_official_profile_alone():
    torch.manual_seed(0)
    network, batch = Network(Noisy(), ("a", "b")), padded_batch(2)
    images = network.normalize(batch.rgb, batch.valid)
    for profile, noisy in (("official", True), ("paper", True), ("clean", False)):
        one, two = (class_activation_maps(network, images, batch, MethodConfig.of(profile)) for _ in range(2))
        assert torch.equal(one, two) is not noisy, profile
        assert network.training and network.backbone.training
    # the pass at scale 1 is that of the training step, noise and all, but not where CAMs shall have none
    first = torch.randn(2, 4, 16, 16).relu()
    for profile, taken in (("official", True), ("clean", False)):
        method = dataclasses.replace(MethodConfig.of(profile), cam_scales=(1.0,), cam_precision="same")
        got = class_activation_maps(network, images, batch, method, first)
        want = multi_scale_cam(network, images, batch.tags, (1.0,), batch.valid, features=first)
        assert torch.equal(got, want) is taken, profile


def test_labels_and_cams_leave_their_arguments_alone():
    torch.manual_seed(0)
    network, batch = Network(Noisy(), ("a", "b")).eval(), padded_batch(2)
    images = network.normalize(batch.rgb, batch.valid)
    cams = multi_scale_cam(network, images, batch.tags, valid=batch.valid)
    given = (images, cams, batch.rgb, batch.tags, batch.valid)
    before = [x.clone() for x in given]
    multi_scale_cam(network, images, batch.tags, valid=batch.valid, features=network(images).features)
    for profile in ("official", "paper", "clean"):
        reliable_labels(batch.rgb, cams, batch.tags, MethodConfig.of(profile).reliable, batch.valid)
    assert all(torch.equal(x, y) for x, y in zip(given, before, strict=True))


def test_the_published_crop_gives_the_published_map():
    with torch.device("meta"):
        backbone = WideResNet38()
        for crop, cells in ((TrainConfig.preset("voc-rrm").augment.crop_size, 41), (448, 56)):
            assert backbone(torch.empty(1, 3, crop, crop)).shape == (1, 4096, cells, cells)
