"""Networks of the second step: sizes, counted by hand; shapes; what trains; weights from files; smp."""

import importlib.util
import itertools
import sys

import pytest
import timm
import torch
from torch import nn

from tag2mask.config import AugmentConfig, RetrainConfig, TrainConfig, load_config
from tag2mask.models import build_network
from tag2mask.models.base import tag_logits_of_map
from tag2mask.models.deeplab import ASPP, DeepLabV2
from tag2mask.models.largefov import VGG16, LargeFOV, load_vgg16
from tag2mask.models.weights import packaged_lite0_state
from tag2mask.runs.checkpoints import save_model
from tag2mask.training.second_step import retrain

CLASSES = ("bird", "cat", "dog")
LITE0 = "tf_efficientnet_lite0"
needs_smp = pytest.mark.skipif(
    importlib.util.find_spec("segmentation_models_pytorch") is None, reason="segmentation-models-pytorch is missing"
)
NETWORKS = {
    "deeplab": ("deeplab-v2", "test_efficientnet", 16),
    "deeplab-resnet": ("deeplab-v2", "resnet18", 8),
    "largefov": ("largefov-vgg16", "", 8),
    "smp-unet": ("smp:unet", "resnet18", 32),
    "smp-deeplabv3plus": ("smp:deeplabv3plus", LITE0, 16),
    "smp-pan": ("smp:pan", "resnet18", 16),
}


def build(architecture="deeplab-v2", backbone="test_efficientnet", stride=16, **changes):
    torch.manual_seed(0)
    options = {"weights": "none", "dilate": backbone == "resnet18"} | changes
    return build_network(
        RetrainConfig(architecture=architecture, backbone=backbone, output_stride=stride, **options), CLASSES
    )


@pytest.fixture(
    scope="module", params=[pytest.param(n, marks=needs_smp if n.startswith("smp") else ()) for n in NETWORKS]
)
def network(request):
    return build(*NETWORKS[request.param])


def pictures(*size, n=2):
    return torch.randint(0, 256, (n, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_deeplab_resnet101_has_the_published_size():
    def norm(channels):
        return 2 * channels

    def bottleneck(inputs, width, project):
        convs = inputs * width + 9 * width * width + width * 4 * width
        shortcut = inputs * 4 * width + norm(4 * width) if project else 0
        return convs + norm(width) + norm(width) + norm(4 * width) + shortcut

    def stage(inputs, width, blocks):
        return bottleneck(inputs, width, True) + (blocks - 1) * bottleneck(4 * width, width, False)

    body = 3 * 64 * 49 + norm(64) + stage(64, 64, 3) + stage(256, 128, 4) + stage(512, 256, 23) + stage(1024, 512, 3)
    aspp = 4 * (2048 * 21 * 9 + 21)
    assert (body, aspp) == (42_500_160, 1_548_372)
    backbone = timm.create_model("resnet101", num_classes=0, output_stride=8)
    for name, value in {"stride": 8, "cell": 8, "channels": 2048, "mean": (0.0,) * 3, "std": (1.0,) * 3}.items():
        setattr(backbone, name, value)
    with torch.device("meta"):
        network = DeepLabV2(backbone, tuple(map(str, range(20))))
    assert count(network) == body + aspp
    assert [branch.dilation for branch in network.aspp.branches] == [(6, 6), (12, 12), (18, 18), (24, 24)]


def test_largefov_has_the_published_size():
    widths = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
    convs = sum(9 * a * b + b for a, b in itertools.pairwise(widths))
    head = (9 * 512 * 1024 + 1024) + (1024 * 1024 + 1024) + (1024 * 21 + 21)
    assert (convs, head) == (14_714_688, 5_790_741)
    with torch.device("meta"):
        network = LargeFOV(tuple(map(str, range(20))))
    assert count(network) == convs + head == 20_505_429


def test_a_score_of_largefov_sees_as_far_as_its_layers_reach():
    """By hand: fc6 reaches 24 cells of 8 pixels, average pool 2, pool5 2, conv5 3 x 4, pool4 2, conv4 3 x 2;

    pool3 2 and conv3 3 x 2 of 4 pixels; pool2 2 and conv2 2 x 2 of 2; pool1 2 and conv1 2 x 2 of 1.
    """
    reach = 8 * (24 + 2 + 2 + 12 + 2 + 6) + 4 * (2 + 6) + 2 * (2 + 4) + (2 + 4) + 1
    network = LargeFOV(("cat",)).eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1e-3)
        if isinstance(module, nn.MaxPool2d):  # the largest of equal values would be the first alone
            module.forward = nn.AvgPool2d(3, module.stride, 1).forward
    images = torch.ones(1, 3, 16, 8 * 63 + 1, requires_grad=True)
    network(images).seg_logits[0, 0, 1, 31].backward()
    columns = images.grad.abs().sum((0, 1, 2)).nonzero().flatten()
    assert columns[-1] - columns[0] + 1 == reach == 435


@pytest.mark.parametrize("size", [(65, 97), (17, 33), (64, 64)])
def test_any_size_gives_a_map_of_the_picture(network, size):
    with torch.no_grad():
        output = network.eval()(network.normalize(pictures(*size)))
    assert output.tag_logits.shape == (2, 3)
    assert output.seg_logits.shape[:2] == (2, 4)
    assert output.tag_logits.isfinite().all() and output.seg_logits.isfinite().all()
    cells = tuple(-(-side // network.stride) for side in size)
    h, w = output.seg_logits.shape[2:]
    if isinstance(network, DeepLabV2 | LargeFOV):
        assert output.features.shape[2:] == (h, w) == cells
    else:
        height, width = (max(network.smallest, n * network.stride) for n in cells)
        assert height % h == 0 and height // h == width // w <= network.stride


def test_every_trainable_parameter_gets_a_gradient_and_one_group(network):
    network.train().zero_grad()
    network(network.normalize(pictures(64, 96))).seg_logits.square().sum().backward()
    trainable = {id(p) for p in network.parameters() if p.requires_grad}
    assert trainable == {id(p) for p in network.parameters() if p.grad is not None}
    groups = network.parameter_groups()
    listed = [id(p) for group in groups.values() for p in group]
    assert len(listed) == len(set(listed)) and set(listed) == trainable
    assert all(p.ndim >= 2 for name in ("old_weights", "new_weights") for p in groups[name])
    assert all(p.ndim < 2 for name in ("old_biases", "new_biases") for p in groups[name])


def test_new_weights_are_the_head_and_old_ones_the_pretrained_part(network):
    groups = network.parameter_groups()
    old = network.get_submodule("model.encoder" if hasattr(network, "model") else "backbone")
    inside = {id(p) for p in old.parameters()}
    assert all(id(p) in inside for name in ("old_weights", "old_biases") for p in groups[name])
    assert not any(id(p) in inside for name in ("new_weights", "new_biases") for p in groups[name])
    assert groups["old_weights"] and groups["new_weights"] and groups["new_biases"]


def test_only_pretrained_batch_norms_are_frozen(network):
    network.train()
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            frozen = name.startswith(network.pretrained_prefix)
            assert module.training is not frozen
            assert module.weight.requires_grad is not frozen or not module.weight.requires_grad


def test_evaluation_repeats_and_survives_a_state_dict(network, request):
    images = network.normalize(pictures(64, 64))
    other = build(*NETWORKS[request.node.callspec.params["network"]])
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1)
        expected = network.eval()(images)
        other.load_state_dict(network.state_dict())
        again = other.eval()(images)
    assert torch.equal(expected.tag_logits, again.tag_logits)
    assert torch.equal(expected.seg_logits, again.seg_logits)


def test_without_segmentation_the_tags_stay(network):
    images = network.normalize(pictures(64, 64))
    with torch.no_grad():
        whole, part = network.eval()(images), network(images, segment=False)
    assert part.seg_logits is None and torch.equal(part.tag_logits, whole.tag_logits)


def test_aspp_is_the_sum_of_its_branches():
    aspp = ASPP(5, 4, stride=8, rates=(1, 2))
    features = torch.randn(1, 5, 7, 6)
    expected = torch.zeros(1, 4, 7, 6)
    padded = nn.functional.pad(features, (2, 2, 2, 2))
    for rate, branch in zip((1, 2), aspp.branches, strict=True):
        expected += branch.bias.view(1, 4, 1, 1)
        for i in range(3):
            for j in range(3):
                y, x = 2 + (i - 1) * rate, 2 + (j - 1) * rate
                expected += torch.einsum("kd,bdhw->bkhw", branch.weight[:, :, i, j], padded[:, :, y : y + 7, x : x + 6])
    torch.testing.assert_close(aspp(features), expected)


@pytest.mark.parametrize(
    ("stride", "dilations"), [(8, (6, 12, 18, 24)), (16, (3, 6, 9, 12)), (32, (2, 3, 5, 6)), (4, (12, 24, 36, 48))]
)
def test_rates_span_the_same_pixels_at_every_stride(stride, dilations):
    assert tuple(branch.dilation[0] for branch in ASPP(2, 3, stride=stride).branches) == dilations


def test_scores_move_with_the_rates():
    network = build().eval()
    images = network.normalize(pictures(96, 96))
    with torch.no_grad():
        before = network(images).seg_logits
        for branch in network.aspp.branches:
            branch.dilation = branch.padding = (1, 1)
        after = network(images).seg_logits
    assert (before - after).abs().max() > 0.1 * before.std()


def test_tag_logits_are_the_largest_probability_of_a_class():
    logits = torch.randn(2, 4, 5, 6, dtype=torch.float64) * 3
    largest = logits.softmax(1)[:, 1:].flatten(2).amax(2)
    torch.testing.assert_close(tag_logits_of_map(logits).sigmoid(), largest, rtol=1e-10, atol=0)
    torch.testing.assert_close(tag_logits_of_map(logits), largest.log() - (1 - largest).log(), rtol=1e-8, atol=1e-8)


def test_tag_logits_end_where_probabilities_do_and_leave_padding_out():
    logits = torch.zeros(1, 3, 2, 4)
    logits[0, 1, :, :2] = 200.0
    assert tag_logits_of_map(logits)[0, 0] == pytest.approx(16.1, abs=0.05)
    assert tag_logits_of_map(logits)[0, 1].sigmoid() == pytest.approx(1 / 3)
    valid = torch.zeros(1, 16, 32, dtype=torch.bool)
    valid[:, :, 16:] = True
    torch.testing.assert_close(tag_logits_of_map(logits, valid).sigmoid(), torch.full((1, 2), 1 / 3))
    nothing = tag_logits_of_map(logits, torch.zeros_like(valid))
    assert nothing.isfinite().all() and nothing.sigmoid().max() == 0


def test_default_weights_are_those_of_the_backbone():
    network = build(backbone=LITE0, weights="default", freeze_stride=4)
    state = packaged_lite0_state()
    for name in ("conv_stem.weight", "conv_head.weight", "bn2.running_var"):
        assert torch.equal(network.backbone.body.state_dict()[name], state[name])
    assert not network.backbone.body.conv_stem.weight.requires_grad
    assert network.backbone.body.conv_head.weight.requires_grad


def test_it_starts_from_the_backbone_of_a_first_step(tmp_path):
    config = TrainConfig(backbone="test_efficientnet", weights="none")
    first = build_network(config, ("a", "b"))
    save_model(tmp_path / "run" / "model.safetensors", first, config)
    for weights in (tmp_path / "run", tmp_path / "run" / "model.safetensors"):
        second = build(backbone="test_efficientnet", weights=str(weights))
        wanted = first.backbone.state_dict()
        assert second.backbone.state_dict().keys() == wanted.keys()
        for name, tensor in second.backbone.state_dict().items():
            assert torch.equal(tensor, wanted[name]), name
    with pytest.raises(ValueError, match=r"nothing/model\.safetensors; give a file"):
        (tmp_path / "nothing").mkdir()
        build(backbone="test_efficientnet", weights=str(tmp_path / "nothing"))


def vgg16_file(path, *, head, prefix="features."):
    with torch.random.fork_rng():
        state = {f"{prefix}{name}": torch.randn_like(t) for name, t in VGG16().state_dict().items()}
    torch.save(state | {f"{head}.weight": torch.zeros(2, 2), f"{head}.bias": torch.zeros(2)}, path)
    return state


def test_vgg16_names_are_those_of_timm():
    with torch.device("meta"):
        theirs = {k: v.shape for k, v in timm.create_model("vgg16").state_dict().items() if k.startswith("features.")}
        assert {f"features.{k}": v.shape for k, v in VGG16().state_dict().items()} == theirs


@pytest.mark.parametrize("head", ["classifier.0", "pre_logits.fc1"])
def test_vgg16_loads_from_a_file(tmp_path, head):
    state = vgg16_file(tmp_path / "vgg16.pth", head=head)
    network = build("largefov-vgg16", "", 8, weights=str(tmp_path / "vgg16.pth"))
    assert all(torch.equal(t, state[f"features.{name}"]) for name, t in network.backbone.state_dict().items())


def test_vgg16_refuses_what_does_not_fit(tmp_path):
    file = tmp_path / "vgg16.pth"
    state = vgg16_file(file, head="head.fc")
    with pytest.raises(ValueError, match="no default weights"):
        load_vgg16(VGG16(), "default")
    torch.save({k: v for k, v in state.items() if k != "features.28.bias"}, file)
    with pytest.raises(ValueError, match=r"1 missing: 28\.bias.*torchvision"):
        load_vgg16(VGG16(), str(file))
    torch.save(state | {"features.30.running_mean": torch.zeros(512)}, file)
    with pytest.raises(ValueError, match=r"1 unknown: 30\.running_mean"):
        load_vgg16(VGG16(), str(file))
    torch.save(state | {"features.28.bias": torch.full((512,), torch.nan)}, file)
    with pytest.raises(ValueError, match=r"vgg16\.pth is damaged: 28\.bias hold values that are not finite"):
        load_vgg16(VGG16(), str(file))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("deeplab-v3", LITE0, 16), "deeplab-v2, largefov-vgg16, smp:NAME"),
        (("largefov-vgg16", "", 16), "use --output-stride 8"),
        (("deeplab-v2", "resnet99", 8), "did you mean"),
    ],
)
def test_what_cannot_be_built_names_the_cure(options, message):
    with pytest.raises(ValueError, match=message):
        build(*options)


def test_missing_smp_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(ValueError, match=r"pip install 'tag2mask\[smp\]'"):
        build("smp:unet", "resnet18", 32)


@needs_smp
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("smp:unett", "resnet18", 32), "it has smp:unet, "),
        (("smp:unet", "resnet19", 32), "did you mean.*resnet18"),
        (("smp:deeplabv3", "resnet18", 32), "output stride 8 or 16, got 32"),
    ],
)
def test_smp_refusals_name_the_cure(options, message):
    with pytest.raises(ValueError, match=message):
        build(*options)


@needs_smp
@pytest.mark.parametrize(
    ("architecture", "encoder"), [("unet", LITE0), ("fpn", f"timm-{LITE0}"), ("pspnet", f"tu-{LITE0}")]
)
def test_smp_takes_the_packaged_weights_and_their_normalization(architecture, encoder):
    network = build(f"smp:{architecture}", encoder, 16, weights="default")
    packaged = packaged_lite0_state()
    held = {name.removeprefix("model."): t for name, t in network.model.encoder.state_dict().items()}
    assert len(held) > 90 and all(torch.equal(t, packaged[name]) for name, t in held.items())
    white = network.normalize(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8))
    torch.testing.assert_close(white, torch.ones(1, 3, 2, 2))


@needs_smp
@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet18", "convnext_atto"])
def test_smp_encoders_load_the_files_of_timm(tmp_path, encoder):
    file = tmp_path / "weights.pth"
    state = timm.create_model(encoder.removeprefix("tu-"), pretrained=False).state_dict()
    state = {name: torch.rand_like(t) if t.is_floating_point() else t for name, t in state.items()}
    torch.save(state, file)
    held = build("smp:fpn", encoder, 32, weights=str(file)).model.encoder.state_dict()
    flat = {name.replace(".", "_"): t for name, t in state.items()}
    assert all(torch.equal(t, flat[name.removeprefix("model.").replace(".", "_")]) for name, t in held.items())
    torch.save(state | {"layer5.weight": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match=r"1 unknown: layer5\.weight"):
        build("smp:fpn", encoder, 32, weights=str(file))
    state.pop(next(iter(state)))
    torch.save(state, file)
    with pytest.raises(ValueError, match="1 missing"):
        build("smp:fpn", encoder, 32, weights=str(file))


@needs_smp
def test_smp_weights_that_cannot_be_had_name_both_ways_out(monkeypatch):
    import segmentation_models_pytorch as smp

    class Offline(smp.Unet):
        def __init__(self, *args, encoder_weights, **options):
            if encoder_weights is not None:
                raise OSError("no route to the hub")
            super().__init__(*args, encoder_weights=None, **options)

    monkeypatch.setitem(smp.MODEL_ARCHITECTURES_MAPPING, "unet", Offline)
    with pytest.raises(ValueError, match=r"no route to the hub.*--weights FILE.*--weights none"):
        build("smp:unet", "resnet18", 32, weights="default")


@needs_smp
def test_scores_of_smp_models_are_those_of_smp():
    """Only the last resizing is left out: applied to our scores it gives what the model's own forward gives."""
    import segmentation_models_pytorch as smp

    network = build("smp:fpn", "resnet18", 32).eval()
    theirs = smp.FPN("resnet18", encoder_weights=None, classes=4).eval()
    theirs.load_state_dict(network.model.state_dict())
    images = network.normalize(pictures(64, 96))
    with torch.no_grad():
        ours = nn.functional.interpolate(network(images).seg_logits, (64, 96), mode="bilinear", align_corners=True)
        torch.testing.assert_close(ours, theirs(images), rtol=1e-4, atol=1e-5)


@needs_smp
def test_one_picture_per_step_is_refused_where_a_norm_would_see_one_value(builtin, tmp_path):
    base = {
        "data": str(builtin), "own_masks": True, "backbone": "resnet18", "weights": "none", "image_size": 64,
        "augment": AugmentConfig(crop_size=64), "supervised_steps": 1, "workers": 0, "val_split": "none", "batch_size": 1,
        "trackers": (),
    }  # fmt: skip
    config = RetrainConfig.preset("small", **base, architecture="smp:deeplabv3", out=str(tmp_path / "run"))
    with pytest.raises(ValueError, match=r"batch_size=1 leaves one picture per step.*Use batch_size=2 or more"):
        retrain(config)
    assert not (tmp_path / "run").exists()
    assert (retrain(config.replace(batch_size=2)) / "model.safetensors").is_file()
    plain = config.replace(architecture="smp:unet", out=str(tmp_path / "unet"))
    assert (retrain(plain) / "model.safetensors").is_file(), "a decoder that pools nothing takes one picture"
    auto = retrain(config.replace(batch_size="auto", out=str(tmp_path / "auto")))
    assert load_config(auto).batch_size >= 2
