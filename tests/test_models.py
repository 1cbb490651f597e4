"""Networks on any backbone: sizes, strides, geometry, normalization, pooling, weights, what trains."""

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision.transforms.v2.functional as TF
from torch import nn

from tag2mask.config import TrainConfig
from tag2mask.models import build_network
from tag2mask.models.backbones import TimmBackbone, build_backbone
from tag2mask.models.network import masked_mean, segmentation_branch
from tag2mask.models.weights import load_weights, packaged_lite0_state

CLASSES = ("bird", "cat", "dog")
LITE0 = "tf_efficientnet_lite0"
BACKBONES = {
    LITE0: 16,
    "resnet18": 16,
    "mobilenetv3_small_100": 16,
    "convnext_atto": 32,
    "vit_tiny_patch16_224": 16,
    "deit_tiny_patch16_224": 16,
}


def build(backbone=LITE0, stride=None, seed=0, **changes):
    torch.manual_seed(seed)
    config = TrainConfig(backbone=backbone, weights="none", output_stride=stride or BACKBONES[backbone])
    return build_network(config.replace(**changes), CLASSES)


@pytest.fixture(scope="module", params=BACKBONES)
def network(request):
    return build(request.param)


@pytest.fixture(scope="module")
def lite0():
    return build()


def pictures(*size, n=2, seed=0):
    return torch.randint(0, 256, (n, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(64, 96), (65, 47), (17, 33), (1, 70)])
def test_any_size_gives_the_promised_map(network, size):
    stride = network.stride
    cells = (-(-size[0] // stride), -(-size[1] // stride))
    with torch.no_grad():
        output = network.eval()(network.normalize(pictures(*size)))
    assert output.features.shape == (2, network.backbone.channels, *cells)
    assert output.tag_logits.shape == (2, 3)
    assert output.seg_logits.shape == (2, 4, *cells)
    assert all(t.isfinite().all() for t in output[:3])
    assert network.cam(output.features).shape == (2, 3, *cells)


def test_every_trainable_parameter_gets_a_gradient_and_one_group(network):
    network.train().zero_grad()
    output = network(network.normalize(pictures(64, 64)))
    (output.tag_logits.sum() + output.seg_logits.square().sum()).backward()
    trainable = {id(p) for p in network.parameters() if p.requires_grad}
    assert trainable == {id(p) for p in network.parameters() if p.grad is not None}
    groups = network.parameter_groups()
    listed = [id(p) for group in groups.values() for p in group]
    assert len(listed) == len(set(listed)) and set(listed) == trainable
    assert all(p.ndim >= 2 for name in ("old_weights", "new_weights") for p in groups[name])
    assert all(p.ndim < 2 for name in ("old_biases", "new_biases") for p in groups[name])
    assert {id(p) for p in groups["new_weights"]} == {
        id(m.weight) for m in (network.classifier, network.segmenter[0], network.segmenter[2])
    }
    assert [p.shape[0] for p in groups["new_biases"]] == [network.segmenter[0].out_channels, 4]


def test_batch_norm_stays_frozen_in_training_mode(network):
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert network.train() is network and network.training and network.dropout.training
    assert not any(m.training for m in norms)
    assert not any(p.requires_grad for m in norms for p in m.parameters())
    before = [m.running_mean.clone() for m in norms]
    with torch.no_grad():
        network(network.normalize(pictures(64, 64)))
    assert all(torch.equal(m.running_mean, b) for m, b in zip(norms, before, strict=True))


def test_evaluation_is_deterministic_and_survives_a_file(network, tmp_path, request):
    images = network.normalize(pictures(48, 80))
    with torch.no_grad():
        first, second = network.eval()(images), network(images)
    assert all(torch.equal(a, b) for a, b in zip(first[:3], second[:3], strict=True))
    safetensors.torch.save_file(network.state_dict(), tmp_path / "model.safetensors")
    twin = build(request.node.callspec.params["network"], seed=1).eval()
    twin.load_state_dict(safetensors.torch.load_file(tmp_path / "model.safetensors"))
    with torch.no_grad():
        assert all(
            torch.equal(a, b) for a, b in zip(twin(twin.normalize(pictures(48, 80)))[:3], first[:3], strict=True)
        )


def test_random_weights_follow_the_global_seed(lite0):
    same, other = build(seed=0).state_dict(), build(seed=1).state_dict()
    own = lite0.state_dict()
    assert all(torch.equal(own[k], same[k]) for k in own)
    assert not torch.equal(own["classifier.weight"], other["classifier.weight"])
    assert not torch.equal(own["backbone.body.conv_stem.weight"], other["backbone.body.conv_stem.weight"])


@pytest.mark.parametrize("dilate", [False, True])
@pytest.mark.parametrize("stride", [8, 16, 32])
@pytest.mark.parametrize("backbone", [LITE0, "resnet18", "test_resnet"])
def test_stride_options(backbone, stride, dilate):
    torch.manual_seed(0)
    made = TimmBackbone(backbone, output_stride=stride, dilate=dilate).eval()
    with torch.no_grad():
        assert made(torch.zeros(1, 3, 100, 64)).shape[2:] == (-(-100 // stride), 64 // stride)
    late = [
        m for m in made.body.modules() if isinstance(m, nn.Conv2d) and m.kernel_size[0] > 1 and m.dilation != (1, 1)
    ]
    assert bool(late) == (dilate and stride < 32)


def test_dropping_a_stride_keeps_every_weight():
    assert {k: v.shape for k, v in build(stride=8).state_dict().items() if "backbone" in k} == {
        k: v.shape for k, v in build(stride=32).state_dict().items() if "backbone" in k
    }


def test_a_stride_that_cannot_be_dropped_names_the_cure(monkeypatch):
    with pytest.raises(ValueError, match=r"downsample.*--output-stride 16; use --dilate or --output-stride 32"):
        build("convnext_atto", 16)
    assert build("convnext_atto", 16, dilate=True).stride == 16
    monkeypatch.setattr("tag2mask.models.backbones.drop_strides", lambda *_: None)
    with pytest.raises(ValueError, match="gives stride 32, not --output-stride 16; use --output-stride 32 or --dilate"):
        build("test_resnet", 16)


def test_plain_vit_keeps_its_patch_size():
    assert [build("vit_tiny_patch16_224", s, dilate=s == 8).stride for s in (8, 32)] == [16, 16]


def test_vit_tokens_lie_row_by_row_without_the_class_token():
    """The token of a cell answers to its own patch: only the patch embedding is left, no position, no attention."""
    net = build("vit_tiny_patch16_224").eval()
    net.backbone.body.blocks = nn.Sequential()
    nn.init.zeros_(net.backbone.body.pos_embed)
    images = torch.zeros(1, 3, 48, 80)
    with torch.no_grad():
        blank = net(images).features
        images[:, :, 16:32, 64:80] = torch.randn(3, 16, 16)
        changed = (net(images).features != blank).any(1)[0]
    assert changed.nonzero().tolist() == [[1, 4]]


def test_unknown_and_rigid_backbones_are_refused_with_a_cure():
    with pytest.raises(ValueError, match=r"did you mean.*resnet18"):
        build("resnet181", 16)
    with pytest.raises(ValueError, match=r"vit_relpos_small_patch16_224 takes only pictures of 224x224"):
        build("vit_relpos_small_patch16_224", 16)
    with pytest.raises(ValueError, match="at least one class"):
        build_network(TrainConfig(weights="none"), [])


def test_lite0_normalizes_once_and_pads_with_zero(lite0):
    rgb = pictures(8, 8)
    valid = torch.ones(2, 8, 8, dtype=torch.bool)
    valid[:, 5:] = False
    images = lite0.normalize(rgb, valid)
    assert torch.equal(images[:, :, :5], ((rgb.float() - 127) / 128)[:, :, :5])
    assert images[:, :, 5:].eq(0).all()
    assert lite0.mean_rgb == (127, 127, 127)
    assert not any(name in lite0.state_dict() for name in ("mean", "std"))


def test_other_backbones_bring_their_own_normalization():
    net = build("resnet18")
    rgb = pictures(8, 8)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    assert torch.allclose(net.normalize(rgb), (rgb / 255 - mean) / std, atol=1e-6)
    assert net.mean_rgb == (124, 116, 104)
    assert build("vit_tiny_patch16_224").mean_rgb == (128, 128, 128)


def test_pooling_counts_a_cell_by_its_valid_share():
    features = torch.tensor([[[[1.0, 2.0], [4.0, 1e4]]]])
    valid = torch.zeros(1, 8, 8, dtype=torch.bool)
    valid[:, :4, :4] = True
    valid[:, :4, 4:6] = True
    assert masked_mean(features, valid).item() == pytest.approx((1 * 1 + 0.5 * 2) / 1.5)
    assert masked_mean(features).item() == pytest.approx(features.mean().item())
    assert masked_mean(features, torch.zeros(1, 8, 8, dtype=torch.bool)).item() == 0
    valid = torch.zeros(1, 8, 8, dtype=torch.bool)
    valid[:, 0, 0] = True
    assert masked_mean(features, valid).item() == pytest.approx(1.0)


def test_a_small_object_survives_the_generalized_mean():
    features = torch.zeros(1, 1, 10, 10)
    features[0, 0, 3, 3] = 8.0
    valid = torch.ones(1, 80, 80, dtype=torch.bool)
    valid[:, :, 40:] = False
    assert masked_mean(features).item() == pytest.approx(0.08)
    assert masked_mean(features, None, 3.0).item() == pytest.approx((8.0**3 / 100) ** (1 / 3), rel=1e-4)
    assert masked_mean(features, valid, 3.0).item() == pytest.approx((8.0**3 / 50) ** (1 / 3), rel=1e-4)
    assert masked_mean(-features, None, 3.0).item() == pytest.approx(1e-4), "below 0 counts as nothing"
    empty = torch.zeros(1, 1, 4, 4, requires_grad=True)
    masked_mean(empty, torch.zeros(1, 8, 8, dtype=torch.bool), 3.0).sum().backward()
    assert torch.isfinite(empty.grad).all()


def test_the_prior_is_added_to_scores_and_no_part_of_the_map():
    plain, told = build(), build(prior=True)
    told.expect(torch.tensor([0.5, 0.1, 0.0]))
    images = told.normalize(pictures(64, 64))
    with torch.no_grad():
        shift = told.eval()(images).tag_logits - plain.eval()(images).tag_logits
        assert torch.equal(told.cam(told(images).features), plain.cam(plain(images).features))
    assert shift[0].tolist() == pytest.approx([0, np.log(1 / 9), np.log(1e-4 / (1 - 1e-4))], abs=1e-5)
    assert "prior" in told.state_dict()
    assert "prior" not in plain.state_dict(), "files of networks without it stay as they are"


@pytest.mark.parametrize("backbone", [LITE0, "resnet18", "convnext_atto"])
@pytest.mark.parametrize("cell", [4, 8])
def test_a_decoder_draws_a_finer_map_and_every_part_of_it_learns(backbone, cell):
    net = build(backbone, decoder_stride=cell)
    images = net.normalize(pictures(96, 70)).requires_grad_()
    outputs = net(images)
    rows, columns = -(-96 // net.stride) * net.stride // cell, -(-70 // net.stride) * net.stride // cell
    assert outputs.features.shape == (2, net.backbone.channels, rows, columns)
    assert outputs.seg_logits.shape[-2:] == (rows, columns)
    assert (outputs.features >= 0).all()
    (outputs.tag_logits.sum() + outputs.seg_logits.sum()).backward()
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)
    groups = net.parameter_groups()
    new = {id(p) for name in ("new_weights", "new_biases") for p in groups[name]}
    assert {id(p) for p in net.backbone.decoder.parameters()} <= new, "its weights are new, though in the backbone"


@pytest.mark.parametrize("given", [8, 0])
def test_a_decoder_starts_anew_where_the_file_has_another(given, tmp_path, caplog):
    """The second step of `fine` has a finer decoder than the first, whose backbone it starts from."""
    file = tmp_path / "first.safetensors"
    first = build(seed=1, decoder_stride=given)
    safetensors.torch.save_file(first.state_dict(), file)
    body = build_backbone(LITE0, output_stride=16, dilate=False, decoder_stride=4)
    before = body.decoder.mix[0].weight.clone()
    with caplog.at_level("INFO"):
        load_weights(body, LITE0, str(file))
    assert torch.equal(body.decoder.mix[0].weight, before) and "the decoder starts anew" in caplog.text
    for name, value in body.body.state_dict().items():
        assert torch.equal(value, first.backbone.body.state_dict()[name]), name


def test_a_decoder_needs_maps_of_its_stride():
    with pytest.raises(ValueError, match="no map of stride 4 beside coarser ones"):
        build("vit_tiny_patch16_224", decoder_stride=4)
    with pytest.raises(ValueError, match="has no decoder"):
        build("wide_resnet38", stride=8, decoder_stride=4)


def test_tag_scores_ignore_features_of_padding(lite0):
    net = lite0.eval()
    valid = torch.ones(1, 64, 64, dtype=torch.bool)
    valid[:, :, 32:] = False
    features = net.backbone(net.normalize(pictures(64, 64, n=1)))
    other = features.clone()
    other[..., 2:] = 7.0
    scores = []
    for f in (features, other):
        net.backbone = Fixed(net.backbone, f)
        scores.append((net(torch.zeros(1, 3, 64, 64), valid).tag_logits, net(torch.zeros(1, 3, 64, 64)).tag_logits))
        net.backbone = net.backbone.real
    assert torch.equal(scores[0][0], scores[1][0])
    assert not torch.allclose(scores[0][1], scores[1][1])


class Fixed(nn.Module):
    """A backbone that always gives the same features."""

    def __init__(self, real, features):
        super().__init__()
        self.real, self.features = real, features

    def forward(self, images):
        return self.features


def test_cam_is_the_classifier_on_features_before_dropout(lite0):
    features = torch.randn(2, 1280, 3, 4)
    weight = lite0.classifier.weight[:, :, 0, 0]
    want = torch.einsum("cd,bdhw->bchw", weight, features).clamp_min(0)
    assert torch.allclose(lite0.train().cam(features), want, atol=1e-5)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert lite0.cam(features).dtype == torch.float32
        output = lite0.eval()(lite0.normalize(pictures(32, 32)))
    assert output.tag_logits.dtype == output.seg_logits.dtype == torch.float32
    # The tag score is the average of the signed map.
    signed = torch.einsum("cd,bdhw->bchw", weight, output.features.float())
    assert torch.allclose(output.tag_logits, signed.mean((2, 3)), atol=1e-5)


def test_segmentation_is_left_out_on_request_and_trains_the_backbone(lite0):
    images = lite0.normalize(pictures(32, 32))
    assert lite0(images, segment=False).seg_logits is None
    lite0.zero_grad()
    lite0(images).seg_logits.square().sum().backward()
    assert lite0.backbone.body.conv_stem.weight.grad.abs().sum() > 0
    assert lite0.classifier.weight.grad is None


@pytest.mark.parametrize(
    ("channels", "stride", "asked", "width", "dilation"),
    [(4096, 8, None, 512, 12), (1280, 16, None, 256, 6), (192, 32, None, 256, 3), (1280, 16, 1, 256, 1)],
)
def test_segmentation_branch_follows_width_and_stride(channels, stride, asked, width, dilation):
    first, _, second = segmentation_branch(channels, 4, stride, asked)
    assert first.weight.shape == (width, channels, 3, 3) and second.weight.shape == (4, width, 3, 3)
    assert first.dilation == second.dilation == first.padding == (dilation,) * 2
    bound = (6 / (9 * (channels + width))) ** 0.5
    assert 0.99 * bound < first.weight.abs().max() <= bound


# -- weights -----------------------------------------------------------------------------------------------------------


def test_default_weights_recognize_photos():
    """The packaged ImageNet weights under timm's names and this package's normalization, class by class."""
    data = pytest.importorskip("skimage.data")
    torch.manual_seed(0)
    net = build_network(TrainConfig(output_stride=32), CLASSES).eval()
    state = packaged_lite0_state()
    model = timm.create_model(LITE0)
    model.load_state_dict(state)
    model.eval()
    for photo, wanted in {"chelsea": {281, 282, 285}, "coffee": {967, 968, 504}, "rocket": {657, 744}}.items():
        rgb = torch.from_numpy(np.array(getattr(data, photo)())).permute(2, 0, 1)
        rgb = TF.resize(TF.center_crop(rgb, [min(rgb.shape[1:])] * 2), [224, 224], antialias=True)[None]
        with torch.no_grad():
            images = net.normalize(rgb)
            features = net(images, segment=False).features.mean((2, 3))
            ours = features @ state["classifier.weight"].T + state["classifier.bias"]
            for scores in (model(images), ours):
                top = set(scores[0].topk(5).indices.tolist())
                assert wanted <= top, (photo, top)


def test_looking_at_a_backbone_leaves_its_batch_statistics():
    net = build("resnet18", 8)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.num_batches_tracked == 0
            assert module.running_mean.eq(0).all() and module.running_var.eq(1).all()


def test_default_weights_are_in_place_and_need_no_network(monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was used"))
    net = build_network(TrainConfig(), CLASSES)
    assert torch.equal(net.backbone.body.conv_head.weight, packaged_lite0_state()["conv_head.weight"])
    assert not any(name.startswith("backbone.body.classifier") for name in net.state_dict())


def test_packaged_weights_of_another_order_are_refused(monkeypatch):
    from tag2mask.models import weights

    state = dict(reversed(packaged_lite0_state().items()))
    monkeypatch.setattr(weights, "_read", lambda path: (state, {}))
    with pytest.raises(ValueError, match=r"do not fit.*--weights none"):
        build_network(TrainConfig(), CLASSES)
    monkeypatch.setattr(weights, "_read", lambda path: ({}, {}))
    with pytest.raises(ValueError, match="hold 0 tensors"):
        build_network(TrainConfig(), CLASSES)


def test_weights_that_cannot_be_had_name_both_ways_out(monkeypatch):
    def offline(*_, **__):
        raise OSError("no route to host\nmore")

    monkeypatch.setattr("timm.models.load_pretrained", offline)
    with pytest.raises(ValueError, match=r"resnet18 \(no route to host\).*--weights FILE.*--weights none"):
        build("resnet18", weights="default")
    with pytest.raises(ValueError, match=r"no weights file nowhere.pth.*--weights none"):
        build("resnet18", weights="nowhere.pth")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_from_a_file(tmp_path, suffix):
    torch.manual_seed(5)
    source, path = timm.create_model("mobilenetv3_small_100", num_classes=7).state_dict(), tmp_path / f"w{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": source, "epoch": 3}, path)
    else:
        safetensors.torch.save_file(source, path)
    net = build("mobilenetv3_small_100", weights=str(path))
    loaded = net.backbone.body.state_dict()
    assert len(loaded) > 200 and all(torch.equal(value, source[key]) for key, value in loaded.items())
    assert not any(key.startswith(("conv_head", "classifier")) for key in loaded)
    fresh = build("mobilenetv3_small_100", weights=str(path), seed=3)
    assert not torch.equal(fresh.classifier.weight, net.classifier.weight)


def test_weights_that_do_not_fit_are_named(tmp_path):
    state = timm.create_model("resnet18", num_classes=0).state_dict()
    state["stranger"] = torch.zeros(1)
    del state["layer1.0.conv1.weight"]
    state["conv1.weight"] = torch.zeros(64, 1, 7, 7)
    torch.save(state, tmp_path / "bad.pth")
    with pytest.raises(
        ValueError,
        match=r"1 unknown: stranger; 1 missing: layer1.0.conv1.weight; 1 of another shape: conv1.weight \(64, 1",
    ):
        build("resnet18", weights=str(tmp_path / "bad.pth"))


def test_a_file_that_runs_code_is_refused(tmp_path):
    torch.save({"weight": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(ValueError, match=r"trap.pth cannot be read as weights"):
        build("resnet18", weights=str(tmp_path / "trap.pth"))
    assert not Trap.sprung
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="no table of named tensors"):
        build("resnet18", weights=str(tmp_path / "list.pth"))


class Trap:
    """Unpickling this sets `sprung`."""

    sprung = False

    def __reduce__(self):
        return (setattr, (Trap, "sprung", True))
