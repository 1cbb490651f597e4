"""Class activation maps: against the sum written out, scales, tags, padding."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tag2mask.batch import Outputs
from tag2mask.cam import multi_scale_cam


class TinyNetwork(nn.Module):
    """Stride-2 features of one convolution, and a classifier: enough for CAMs."""

    num_classes = 3

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 5, 3, stride=2, padding=1)
        self.classifier = nn.Conv2d(5, 3, 1, bias=False)

    def cam(self, features):
        return F.relu(F.conv2d(features, self.classifier.weight))

    def forward(self, images, valid=None, *, segment=True):
        features = self.conv(images)
        return Outputs(features, self.classifier(features).mean((2, 3)), None)


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, 12, 16, generator=generator)
    return TinyNetwork().eval(), images, torch.tensor([[True, False, True], [False, True, False]])


def test_one_scale_is_the_plain_cam(case):
    model, images, tags = case
    cams = multi_scale_cam(model, images, tags, scales=(1.0,))
    features = model.conv(images)
    for b, c in ((0, 0), (0, 2), (1, 1)):
        raw = sum(model.classifier.weight[c, d, 0, 0] * features[b, d] for d in range(5)).clamp(min=0)
        up = F.interpolate(raw[None, None], (12, 16), mode="bilinear", align_corners=False)[0, 0]
        torch.testing.assert_close(cams[b, c], up / (up.max() + 1e-5))
    assert cams.shape == (2, 3, 12, 16)
    assert not cams.requires_grad


def test_absent_tags_are_exactly_zero_and_range(case):
    model, images, tags = case
    cams = multi_scale_cam(model, images, tags)
    assert (cams[~tags] == 0).all()
    assert cams.min() >= 0
    assert 0.99 < cams[tags].amax() <= 1


def test_scales_are_averaged_raw_at_the_first_scales_size(case):
    model, images, tags = case
    maps = []
    for scale in (1.0, 0.5, 2.0):
        size = (int(12 * scale), int(16 * scale))
        raw = model.cam(model.conv(F.interpolate(images, size, mode="bilinear", align_corners=False)))
        maps.append(F.interpolate(raw, (6, 8), mode="bilinear", align_corners=False))
    mean = F.interpolate(sum(maps) / 3, (12, 16), mode="bilinear", align_corners=False) * tags[:, :, None, None]
    expected = mean / (mean.amax((2, 3), keepdim=True) + 1e-5)
    torch.testing.assert_close(multi_scale_cam(model, images, tags, (1.0, 0.5, 2.0)), expected)


def test_given_features_save_the_first_pass_and_change_nothing(case):
    model, images, tags = case
    plain = multi_scale_cam(model, images, tags)
    torch.testing.assert_close(multi_scale_cam(model, images, tags, features=model.conv(images)), plain)


def test_padding_takes_no_part_in_the_maximum(case):
    model, images, tags = case
    plain = multi_scale_cam(model, images, tags, scales=(1.0,))
    peak = plain[0, 0].flatten().argmax()
    valid = torch.ones(2, 12, 16, dtype=torch.bool)
    valid[0].view(-1)[peak] = False
    cams = multi_scale_cam(model, images, tags, scales=(1.0,), valid=valid)
    assert (cams[0][:, ~valid[0]] == 0).all()
    torch.testing.assert_close(cams[0, 0].max(), torch.tensor(1.0), atol=1e-3, rtol=0)
    assert plain[0, 0][valid[0]].max() < 1 - 1e-4
    torch.testing.assert_close(cams[1], plain[1])


def test_thin_pictures_and_bad_arguments(case):
    model, _, tags = case
    assert multi_scale_cam(model, torch.randn(1, 3, 1, 40), tags[:1]).shape == (1, 3, 1, 40)
    with pytest.raises(ValueError, match="scales"):
        multi_scale_cam(model, torch.randn(1, 3, 8, 8), tags[:1], scales=())
    with pytest.raises(ValueError, match=r"tags \[B, 3\]"):
        multi_scale_cam(model, torch.randn(1, 3, 8, 8), tags)
