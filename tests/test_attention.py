"""The attention head and the class distance of the journal extension (method 9)."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from test_training import padded_batch
from torch.nn import functional as F

from tag2mask.config import MethodConfig, OptimConfig, TrainConfig
from tag2mask.inference.segmenter import Segmenter
from tag2mask.losses import class_distance_loss
from tag2mask.method import Moment, training_losses
from tag2mask.models import build_network
from tag2mask.models.attention import AttentionHead, attend
from tag2mask.models.network import Network
from tag2mask.models.wide_resnet38 import WideResNet38
from tag2mask.runs.checkpoints import load_model, save_model
from tag2mask.training.optim import parameter_groups


@pytest.fixture
def tiny(tiny_config) -> TrainConfig:
    """The toy run with attention, class distance and the published learning rates of the extension."""
    return tiny_config.replace(
        attention=True,
        tag_steps=1,
        joint_steps=2,
        optim=OptimConfig(lr=0.01, joint_lr=0.01, new_parts="classifier"),
        method=dataclasses.replace(MethodConfig.of("official"), class_distance=1.0),
    )


def qkv(cells: int, *, width: int = 8, batch: int = 2, scale: float = 1.0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(cells)
    return [scale * torch.randn(batch, width, cells, generator=generator, dtype=torch.float64) for _ in range(3)]


def test_columns_of_the_attention_sum_to_one_and_rows_do_not():
    query, key, _ = qkv(12)
    one = torch.eye(12, dtype=torch.float64).expand(2, 12, 12)
    weights = attend(query, key, one)  # value = identity, so the result is A itself
    torch.testing.assert_close(weights.sum(1), torch.ones(2, 12, dtype=torch.float64), rtol=1e-12, atol=0)
    assert (weights.sum(2) - 1).abs().max() > 0.1
    constant = attend(query, key, torch.full((2, 3, 12), 7.0, dtype=torch.float64))
    torch.testing.assert_close(constant, torch.full_like(constant, 7.0), rtol=1e-12, atol=0)


def test_attention_by_loops_without_scaling():
    query, key, value = qkv(7, batch=1)
    want = np.zeros((8, 7))
    for j in range(7):
        scores = np.exp([float((query[0, :, i] * key[0, :, j]).sum()) for i in range(7)])
        for i in range(7):
            want[:, j] += scores[i] / scores.sum() * value[0, :, i].numpy()
    torch.testing.assert_close(attend(query, key, value)[0], torch.from_numpy(want), rtol=1e-10, atol=1e-12)
    inputs = [x[:, :2, :4].clone().requires_grad_() for x in (query, key, value)]
    assert torch.autograd.gradcheck(attend, inputs)


def test_attention_keeps_its_digits_under_autocast_and_holds_large_scores():
    query, key, value = (x.float() for x in qkv(30, scale=6.0))
    exact = attend(query, key, value)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(attend(query, key, value), exact)
    assert torch.isfinite(exact).all()


def test_head_by_hand():
    torch.manual_seed(0)
    head, features = AttentionHead(5, 3).double(), torch.randn(2, 5, 4, 6, dtype=torch.float64)
    scores, mixed = head(features)
    flat = features.flatten(2)
    query, key, value = (getattr(head, name).weight[:, :, 0, 0] @ flat for name in ("query", "key", "value"))
    spread = value @ (query.mT @ key).softmax(dim=1)
    want = torch.cat([spread, value], dim=1).reshape(2, 512, 4, 6)
    torch.testing.assert_close(mixed, want, rtol=1e-10, atol=1e-12)
    fused = F.conv2d(want, head.fuse.weight, padding=1).relu()
    torch.testing.assert_close(scores, F.conv2d(fused, head.score.weight, padding=1), rtol=1e-10, atol=1e-12)


def test_wide_resnet38_has_the_published_size_names_and_widths():
    with torch.device("meta"):
        network = Network(WideResNet38(), tuple(map(str, range(20))), attention=True)
        outputs = network(torch.empty(1, 3, 321, 321))
    assert sum(p.numel() for p in network.parameters()) == 128_498_261
    shapes = {name: tuple(p.shape) for name, p in network.named_parameters() if name.startswith("attention.")}
    assert shapes == {
        "attention.query.weight": (256, 4096, 1, 1),
        "attention.key.weight": (256, 4096, 1, 1),
        "attention.value.weight": (256, 4096, 1, 1),
        "attention.fuse.weight": (256, 512, 3, 3),
        "attention.score.weight": (21, 256, 3, 3),
    }
    assert outputs.seg_logits.shape == (1, 21, 41, 41)
    assert outputs.distance_features.shape == (1, 1024, 41, 41)


def test_scores_are_the_mean_of_both_heads(tiny):
    network = build_network(tiny, ("a", "b")).eval()
    images = torch.randn(2, 3, 64, 64)
    outputs = network(images)
    local = network.segmenter(outputs.features)
    scores, mixed = network.attention(outputs.features)
    torch.testing.assert_close(outputs.seg_logits, (local + scores) / 2)
    hidden = network.segmenter[0](outputs.features).relu()
    torch.testing.assert_close(outputs.distance_features, torch.cat([hidden, mixed], 1))
    tags_only = network(images, segment=False)
    assert tags_only.seg_logits is None and tags_only.distance_features is None
    plain = build_network(tiny.replace(attention=False, method=MethodConfig()), ("a", "b"))
    assert plain(images).distance_features is None
    assert not any(name.startswith("attention") for name in plain.state_dict())


def test_class_distance_is_a_weighted_part_of_the_joint_loss_alone(tiny):
    network, batch = build_network(tiny, ("a", "b")), padded_batch(2)
    seen = {}
    network.register_forward_hook(
        lambda module, args, outputs: seen.update(outputs=outputs) if outputs[2] is not None else None
    )
    method = dataclasses.replace(tiny.method, class_distance=0.25)
    at = Moment(model=network, network=network)
    parts = training_losses(at, batch, method).parts
    want = class_distance_loss(seen["outputs"].seg_logits, seen["outputs"].distance_features)
    assert want > 0 and torch.equal(parts["class_distance"], 0.25 * want)
    parts["class_distance"].backward()
    assert network.attention.query.weight.grad.abs().max() > 0
    assert network.attention.fuse.weight.grad is None  # behind the features: labels carry no gradient
    assert "class_distance" not in training_losses(dataclasses.replace(at, phase="tags"), batch, method).parts
    assert "class_distance" not in training_losses(at, batch, MethodConfig()).parts
    with pytest.raises(ValueError, match=r"method\.class_distance .*attention"):
        tiny.replace(attention=False)
    with pytest.raises(ValueError, match=r"method\.class_distance must be 0 or more"):
        MethodConfig(class_distance=-1.0)


def test_only_the_classifier_is_new_in_the_extension(tiny):
    network = build_network(tiny, ("a", "b"))
    names = {id(p): name for name, p in network.named_parameters()}
    told = {group: {names[id(p)] for p in ps} for group, ps in parameter_groups(network, tiny.optim).items()}
    assert told["new_weights"] == {"classifier.weight"} and told["new_biases"] == set()
    assert {"segmenter.0.weight", "segmenter.2.weight", "attention.query.weight"} <= told["old_weights"]
    assert {"segmenter.0.bias", "segmenter.2.bias"} <= told["old_biases"]
    heads = parameter_groups(network, OptimConfig())
    assert {names[id(p)].partition(".")[0] for p in heads["new_weights"]} == {"classifier", "segmenter", "attention"}
    assert sum(map(len, told.values())) == sum(map(len, heads.values()))


def test_new_parts_needs_a_classifier():
    class Headless(torch.nn.Module):
        def parameter_groups(self):
            return {"old_weights": [], "old_biases": [], "new_weights": [], "new_biases": []}

    with pytest.raises(ValueError, match=r"optim\.new_parts 'classifier' .* got Headless"):
        parameter_groups(Headless(), OptimConfig(new_parts="classifier"))


def test_a_run_trains_saves_loads_and_predicts(tiny, tmp_path, builtin):
    from tag2mask.training.first_step import train

    run = train(tiny)
    header, *rows = (run / "metrics.csv").read_text().splitlines()
    column = header.split(",").index("class_distance_loss")
    assert [bool(row.split(",")[column]) for row in rows] == [False, True, True]
    segmenter = Segmenter.load(run, device="cpu")
    assert segmenter.model.attention is not None and segmenter.config.attention
    picture = next((builtin / "images").iterdir())
    prediction = segmenter.predict(picture)
    assert prediction.probs.shape[0] == len(segmenter.classes) + 1
    save_model(tmp_path / "copy.safetensors", segmenter.model, segmenter.config)
    again, _, _ = load_model(tmp_path / "copy.safetensors")
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(again(images).seg_logits, segmenter.model(images).seg_logits)
