"""The copy of a network that predicts on the CPU: the same outputs, and never those of old weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tag2mask import Segmenter
from tag2mask.config import RetrainConfig, TrainConfig
from tag2mask.inference.folding import folded
from tag2mask.models import build_network


def network_of(config):
    """With weights and statistics that are not those of a new network."""
    torch.manual_seed(0)
    network = build_network(config, ("cat", "dog"), pretrained=False)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return network.eval()


CONFIGS = {
    "small": TrainConfig.preset("small"),
    "fine": TrainConfig.preset("fine"),
    "second step of fine": RetrainConfig.preset("fine"),
    "resnet": TrainConfig(backbone="resnet18", weights="none"),
    "vgg": RetrainConfig.preset("deeplab-v2-vgg16"),
}


@pytest.mark.parametrize("name", ["small", "fine", "second step of fine", "resnet", "vgg"])
def test_the_copy_says_the_same(name):
    network = network_of(CONFIGS[name])
    quick = folded(network)
    images = network.normalize(torch.randint(0, 256, (2, 3, 96, 128), dtype=torch.uint8))
    with torch.no_grad():
        before, after = network(images), quick(images)
    for one, other in ((before.seg_logits, after.seg_logits), (before.tag_logits, after.tag_logits)):
        if one is not None:
            np.testing.assert_allclose(other, one, atol=1e-4 * float(one.abs().max()), rtol=0)
    norms = [sum(isinstance(each, nn.BatchNorm2d) for each in one.modules()) for one in (network, quick)]
    assert (quick is network) == (norms[0] == 0), "nothing to fold, nothing to copy"
    if norms[0]:
        assert norms[1] < norms[0] / 10, "they are in the convolutions now"
        assert not any(each.requires_grad for each in quick.parameters())


def test_a_network_that_it_would_change_stays_itself(monkeypatch):
    network = network_of(CONFIGS["small"])
    monkeypatch.setattr("tag2mask.inference.folding._fold", lambda convolution, norm: True)  # drops the factor
    assert folded(network) is network


def test_new_weights_are_never_missed():
    """Whoever trains on, or loads other weights into the model, gets masks of these."""
    config = TrainConfig.preset("small").replace(image_size=96)
    segmenter = Segmenter(network_of(config), config, device="cpu")
    rgb = np.random.default_rng(0).integers(0, 256, (70, 96, 3), np.uint8)

    def agrees():
        found = segmenter.predict(rgb).tag_scores
        with torch.no_grad():
            images = segmenter.model.normalize(segmenter.network.resized(rgb)[None])
            wanted = segmenter.model.eval()(images).tag_logits[0].sigmoid().tolist()
        assert list(found.values()) == pytest.approx(wanted, abs=1e-5)
        return found

    first = agrees()
    with torch.no_grad():
        next(iter(segmenter.model.parameters())).mul_(1.3)
    second = agrees()
    assert second != first
    other = network_of(config)
    nn.init.normal_(other.classifier.weight)
    segmenter.model.load_state_dict(other.state_dict())
    assert agrees() != second
    norm = next(each for each in segmenter.model.modules() if isinstance(each, nn.BatchNorm2d))
    norm.running_mean.add_(0.5)
    agrees()
    segmenter.model.classifier.weight = nn.Parameter(torch.zeros_like(segmenter.model.classifier.weight))
    agrees()
