"""WideResNet-38 against the published totals, sizes and names (method 1.1-1.3)."""

import pytest
import torch
from torch import nn

from tag2mask.config import TrainConfig
from tag2mask.models import build_network
from tag2mask.models.network import Network
from tag2mask.models.wide_resnet38 import Block, Bottleneck, WideResNet38


@pytest.fixture(scope="module")
def network() -> Network:
    with torch.device("meta"):
        return Network(WideResNet38(), tuple(f"class {n}" for n in range(20)))


def count(modules, kind):
    return sum(p.numel() for m in modules for k in [m] if isinstance(k, kind) for p in k.parameters(recurse=False))


def test_parameter_totals_are_the_published_ones(network):
    backbone = list(network.backbone.modules())
    assert count(backbone, nn.Conv2d) == 105_023_168
    assert count(backbone, nn.BatchNorm2d) == 47_744
    assert network.classifier.weight.numel() == 81_920
    assert count([network.segmenter[0]], nn.Conv2d) == 18_874_880
    assert count([network.segmenter[2]], nn.Conv2d) == 96_789
    assert sum(p.numel() for p in network.parameters()) == 124_124_501


@pytest.mark.parametrize(
    ("size", "cells"),
    [
        ((321, 321), (41, 41)),
        ((448, 448), (56, 56)),
        ((160, 160), (20, 20)),
        ((481, 642), (61, 81)),
        ((500, 375), (63, 47)),
    ],
)
def test_feature_sizes(network, size, cells):
    features = network.backbone(torch.empty(2, 3, *size, device="meta"))
    assert features.shape == (2, 4096, *cells)
    assert network.segmenter(features).shape == (2, 21, *cells)


def test_names_are_those_of_the_published_files(network):
    names = {name for name in network.backbone.state_dict() if not name.endswith("num_batches_tracked")}
    blocks = {"b2": 3, "b3": 3, "b4": 6, "b5": 3}
    norm = ("weight", "bias", "running_mean", "running_var")
    expected = {"conv1a.weight", *(f"bn7.{n}" for n in norm)}
    for stage, repeats in blocks.items():
        for block in [stage] + [f"{stage}_{k}" for k in range(1, repeats)]:
            expected |= {f"{block}.conv_branch{c}.weight" for c in ("2a", "2b1")}
            expected |= {f"{block}.bn_branch{c}.{n}" for c in ("2a", "2b1") for n in norm}
        expected.add(f"{stage}.conv_branch1.weight")
    for block in ("b6", "b7"):
        expected |= {f"{block}.conv_branch{c}.weight" for c in ("1", "2a", "2b1", "2b2")}
        expected |= {f"{block}.bn_branch{c}.{n}" for c in ("2a", "2b1", "2b2") for n in norm}
    assert names == expected


def test_strides_dilations_and_dropout_follow_the_table():
    with torch.device("meta"):
        net = WideResNet38()
    first = {name: (b.conv_branch2a, b.conv_branch2b1) for name, b in net.named_children() if isinstance(b, Block)}
    assert [name for name, (a, _) in first.items() if a.stride == (2, 2)] == ["b2", "b3", "b4"]
    dilations = {name: (a.dilation[0], b.dilation[0]) for name, (a, b) in first.items() if b.dilation != (1, 1)}
    assert dilations == {"b5": (1, 2), "b5_1": (2, 2), "b5_2": (2, 2)}
    for block, p in ((net.b6, 0.3), (net.b7, 0.5)):
        assert block.conv_branch2b1.dilation == (4, 4) and block.dropout.p == p
    assert all(m.bias is None for m in net.modules() if isinstance(m, nn.Conv2d))


def test_first_convolution_trains_and_no_batch_norm_does(network):
    groups = network.parameter_groups()
    assert any(p is network.backbone.conv1a.weight for p in groups["old_weights"])
    assert groups["old_biases"] == []
    assert sum(p.numel() for p in groups["old_weights"]) == 105_023_168


def test_block_adds_the_shortcut_of_the_activated_input():
    torch.manual_seed(0)
    block, x = Block(4, 6, stride=2).eval(), torch.randn(1, 4, 8, 8)
    nn.init.zeros_(block.conv_branch2b1.weight)
    want = nn.functional.conv2d(x.relu() / (1 + 1e-5) ** 0.5, block.conv_branch1.weight, stride=2)
    assert torch.allclose(block(x), want, atol=1e-6)
    same = Block(4, 4).eval()
    nn.init.zeros_(same.conv_branch2b1.weight)
    assert torch.equal(same(x), x)  # no shape change: the raw input, not the activated one
    neck = Bottleneck(4, 8, dilation=4, dropout=0.9).eval()
    nn.init.zeros_(neck.conv_branch2b2.weight)
    assert torch.allclose(
        neck(x), nn.functional.conv2d(x.relu() / (1 + 1e-5) ** 0.5, neck.conv_branch1.weight), atol=1e-6
    )


def test_output_is_relu_of_the_last_norm():
    """A thin net: every layer but the last norm is silenced, so the output is that norm's own bias, if positive."""
    with torch.device("meta"):
        net = WideResNet38()
    small = torch.nn.Module.to_empty(net.bn7, device="cpu")
    for child in [name for name, _ in net.named_children() if name != "bn7"]:
        setattr(net, child, nn.Identity())
    nn.init.zeros_(small.weight), nn.init.normal_(small.bias), small.reset_running_stats()
    output = net.eval()(torch.randn(1, 4096, 2, 2))
    assert torch.equal(output, small.bias.relu().view(1, -1, 1, 1).expand(1, 4096, 2, 2))


def test_errors_name_the_way_out():
    config = TrainConfig(backbone="wide_resnet38", output_stride=16)
    with pytest.raises(ValueError, match="--output-stride 8"):
        build_network(config, ["cat"])
    with torch.device("meta"), pytest.raises(ValueError, match=r"--weights FILE.*--weights none"):
        build_network(config.replace(output_stride=8), ["cat"])
