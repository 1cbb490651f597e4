"""Published files of weights: MXNet's format, names, strictness, training from them, complete models (method 1.3)."""

from __future__ import annotations

import json
import logging
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import nn

from tag2mask import cli
from tag2mask.config import TrainConfig
from tag2mask.data.readers.voc import VOC_CLASSES
from tag2mask.inference.licenses import first_weights
from tag2mask.inference.segmenter import Segmenter
from tag2mask.jobs.converting.run import convert
from tag2mask.models import build_network
from tag2mask.models.mxnet_params import read_mxnet_params
from tag2mask.models.published import (
    BACKBONE,
    CLASSIFIER,
    IMAGENET,
    RRM,
    RRM_ATTENTION,
    kind_of,
    network_tensors,
    published_shapes,
)
from tag2mask.models.wide_resnet38 import Block, WideResNet38
from tag2mask.runs.checkpoints import load_model, save_model

GOLDEN = Path(__file__).parent / "golden"
NORM = ("weight", "bias", "running_mean", "running_var")
TORCH_KINDS = {"res38_cls.pth": CLASSIFIER, "RRM_final.pth": RRM, "RRM(attention)_final.pth": RRM_ATTENTION}


# -- the published files, after the tables of method 1.1 to 1.3 --------------------------------------------------------


def backbone_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"conv1a.weight": (64, 3, 3, 3)}

    def norm(name, channels):
        shapes.update({f"{name}.{last}": (channels,) for last in NORM})

    before = 64
    for stage, repeats, mid, out in ((2, 3, 128, 128), (3, 3, 256, 256), (4, 6, 512, 512), (5, 3, 512, 1024)):
        for k in range(repeats):
            block = f"b{stage}_{k}" if k else f"b{stage}"
            norm(f"{block}.bn_branch2a", before)
            shapes[f"{block}.conv_branch2a.weight"] = (mid, before, 3, 3)
            norm(f"{block}.bn_branch2b1", mid)
            shapes[f"{block}.conv_branch2b1.weight"] = (out, mid, 3, 3)
            if k == 0:
                shapes[f"{block}.conv_branch1.weight"] = (out, before, 1, 1)
            before = out
    for block, out in (("b6", 2048), ("b7", 4096)):
        norm(f"{block}.bn_branch2a", before)
        shapes[f"{block}.conv_branch2a.weight"] = (out // 4, before, 1, 1)
        norm(f"{block}.bn_branch2b1", out // 4)
        shapes[f"{block}.conv_branch2b1.weight"] = (out // 2, out // 4, 3, 3)
        norm(f"{block}.bn_branch2b2", out // 2)
        shapes[f"{block}.conv_branch2b2.weight"] = (out, out // 2, 1, 1)
        shapes[f"{block}.conv_branch1.weight"] = (out, before, 1, 1)
        before = out
    norm("bn7", 4096)
    return shapes


HEADS = {
    "fc8.weight": ("classifier.weight", (20, 4096, 1, 1)),
    "fc8_seg_conv1.weight": ("segmenter.0.weight", (512, 4096, 3, 3)),
    "fc8_seg_conv1.bias": ("segmenter.0.bias", (512,)),
    "fc8_seg_conv2.weight": ("segmenter.2.weight", (21, 512, 3, 3)),
    "fc8_seg_conv2.bias": ("segmenter.2.bias", (21,)),
    "GAU_w1.weight": ("attention.query.weight", (256, 4096, 1, 1)),
    "GAU_w2.weight": ("attention.key.weight", (256, 4096, 1, 1)),
    "GAU_w3.weight": ("attention.value.weight", (256, 4096, 1, 1)),
    "fc8_seg_conv3.weight": ("attention.fuse.weight", (256, 512, 3, 3)),
    "fc8_seg_conv4.weight": ("attention.score.weight", (21, 256, 3, 3)),
}
HOW_MANY_HEADS = {BACKBONE: 0, CLASSIFIER: 1, RRM: 5, RRM_ATTENTION: 10}


def published_table(kind) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Published name to (name here, shape)."""
    own = {name: (f"backbone.{name}", shape) for name, shape in backbone_shapes().items()}
    return own | dict(list(HEADS.items())[: HOW_MANY_HEADS[kind]])


def mxnet_name(name: str) -> str:
    """The name in `ilsvrc-cls_rna-a1_cls1000_ep-0001.params` of a tensor of the backbone."""
    if name == "conv1a.weight":
        return "arg:conv1a_weight"
    place, last = name.rsplit(".", 1)
    last = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_var"}[last]
    which = "aux" if last.startswith("moving") else "arg"
    if place == "bn7":
        return f"{which}:bn7_{last}"
    block, layer = place.split(".")
    stage, _, k = block[1:].partition("_")
    block = f"{stage}b{k}" if k else f"{stage}a"
    kind, branch = layer.split("_")
    return f"{which}:bn{block}_{branch}_{last}" if kind == "bn" else f"arg:res{block}_{branch}_weight"


def meta(shapes) -> dict[str, torch.Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


# -- MXNet's format ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["0_9", "0_11", "1_9"])
def test_reads_what_mxnet_wrote(version):
    """Files that `mxnet.nd.save` of 0.9.5, 0.11.0 and 1.9.1 wrote: the old, V1 and V2 forms of arrays."""
    arrays = read_mxnet_params(GOLDEN / f"mxnet_{version}.params")
    assert {name: tuple(array.shape) for name, array in arrays.items()} == {
        "arg:conv1a_weight": (2, 3, 2, 1),
        "arg:linear1000_weight": (3, 2),
        "aux:bn7_moving_mean": (3,),
    }
    assert all(array.dtype == torch.float32 for array in arrays.values())
    assert torch.equal(arrays["arg:conv1a_weight"].flatten(), torch.arange(12) / 4)
    assert torch.equal(arrays["arg:linear1000_weight"].flatten(), torch.arange(6) - 7.5)
    assert torch.equal(arrays["aux:bn7_moving_mean"], torch.tensor([-1.5, 2.0, 1e-30]))


@pytest.mark.parametrize("version", ["0_9", "0_11", "1_9"])
def test_every_cut_and_every_extra_byte_is_an_error(version, tmp_path):
    whole, path = (GOLDEN / f"mxnet_{version}.params").read_bytes(), tmp_path / "cut.params"
    path.write_bytes(whole)
    with path.open("r+b") as file:
        for end in reversed(range(len(whole))):
            file.truncate(end)
            with pytest.raises(ValueError, match=r"cut\.params is damaged.*Get the file again"):
                read_mxnet_params(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(ValueError, match="1 bytes follow the last name"):
        read_mxnet_params(path)


@pytest.mark.parametrize("version", ["0_9", "0_11", "1_9"])
def test_forged_sizes_never_cost_memory(version, tmp_path, monkeypatch):
    """Every byte set to 255 in turn: an error or values, and nothing larger than the file is asked for."""
    from tag2mask.models import mxnet_params

    asked = []
    monkeypatch.setattr(mxnet_params, "bytearray", lambda n: (asked.append(n), bytearray(n))[1], raising=False)
    whole, path = (GOLDEN / f"mxnet_{version}.params").read_bytes(), tmp_path / "forged.params"
    path.write_bytes(whole)
    errors = 0
    with path.open("r+b", buffering=0) as file:
        for place in range(len(whole)):
            file.seek(place)
            file.write(b"\xff")
            try:
                read_mxnet_params(path)
            except ValueError as error:
                errors += 1
                assert "forged.params" in str(error)
            file.seek(place)
            file.write(whole[place : place + 1])
    assert max(asked) <= len(whole) and errors > len(whole) // 4


V2 = struct.Struct("<QQQ I i I q ii i f Q Q1s")
"""A file of one V2 array of shape (1,): its fields up to a name of one letter."""


def forged(**changes) -> bytes:
    fields = {
        "magic": 0x112, "reserved": 0, "count": 1, "form": 0xF993FAC9, "storage": 0, "dims": 1, "size": 1, "device": 1,
        "number": 0, "type": 0, "value": 2.5, "names": 1, "length": 1, "name": b"w",
    } | changes  # fmt: skip
    return V2.pack(*fields.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"magic": 0x113}, r"no MXNet \.params file: it begins with 0x113, needed 0x112"),
        ({"count": 2**60}, "it claims 1152921504606846976 arrays, [0-9]+ bytes are left"),
        ({"names": 2**40}, "it claims 1099511627776 names"),
        ({"names": 0}, "1 arrays but 0 names"),
        ({"size": 2**62}, "array 1 of 1 needs 18446744073709551616 bytes"),
        ({"size": 0}, r"array 1 of 1 has the shape \(0,\), needed sizes of at least 1"),
        ({"size": -1}, r"has the shape \(-1,\)"),
        ({"dims": 2**31}, "array 1 of 1 has 2147483648 dimensions, needed 1 to 32"),
        ({"dims": 0}, "has 0 dimensions"),
        ({"form": 0xF993FACA}, "MXNet's NumPy form"),
        ({"form": 0xF993FACB}, "begins with 0xf993facb, which is no form of arrays"),
        ({"storage": 2}, "has compressed sparse rows storage, needed: dense"),
        ({"storage": 9}, r"has unknown \(9\) storage"),
        ({"type": 2}, "holds float16 values, needed: float32"),
        ({"type": 77}, r"holds unknown type \(77\) values"),
        ({"length": 2**63}, "name 1 of 1 needs 9223372036854775808 bytes"),
        ({"name": b"\xff"}, "name 1 of 1 is no UTF-8 text"),
    ],
)
def test_other_files_say_what_came_and_what_is_needed(changes, message, tmp_path):
    path = tmp_path / "other.params"
    path.write_bytes(forged())
    assert read_mxnet_params(path)["w"].tolist() == [2.5]
    path.write_bytes(forged(**changes))
    with pytest.raises(ValueError, match=rf"other\.params.*{message}"):
        read_mxnet_params(path)


def test_sparse_arrays_and_names_twice_are_refused(tmp_path):
    with pytest.raises(ValueError, match="array 1 of 1 has row sparse storage, needed: dense"):
        read_mxnet_params(GOLDEN / "mxnet_1_9_sparse.params")
    one = forged()
    path = tmp_path / "twice.params"
    path.write_bytes(struct.pack("<QQQ", 0x112, 0, 2) + one[24:60] * 2 + struct.pack("<Q", 2) + one[68:] * 2)
    with pytest.raises(ValueError, match="arrays of the same name: w"):
        read_mxnet_params(path)


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TORCH_KINDS.values(), ids=TORCH_KINDS)
def test_every_published_name_and_shape_has_its_place(kind):
    table = published_table(kind)
    state = meta({name: shape for name, (_, shape) in table.items()})
    assert kind_of(state) is kind
    wanted = published_shapes(kind)
    tensors = network_tensors(state, kind, wanted)
    assert {name: tensors[here] is state[name] for name, (here, _) in table.items()} == dict.fromkeys(table, True)
    assert set(tensors) == {name for name in wanted if not name.endswith("num_batches_tracked")}
    counts = {f"{name[:-7]}.num_batches_tracked": () for name in table if ".bn_" in name and name.endswith(".weight")}
    assert network_tensors(state | meta(counts), kind, wanted).keys() == tensors.keys()


def test_totals_of_the_published_models():
    """Method 1.2 and 9: 124,124,501 and 128,498,261 parameters (without the statistics of the norms)."""
    for kind, total in ((RRM, 124_124_501), (RRM_ATTENTION, 128_498_261)):
        table = published_table(kind)
        assert sum(np.prod(s) for n, (_, s) in table.items() if "running" not in n) == total


def test_mxnet_names_have_their_places_and_the_imagenet_classifier_is_left_out():
    shapes = backbone_shapes()
    state = meta({mxnet_name(name): shape for name, shape in shapes.items()})
    assert {"arg:res4b5_branch2b1_weight", "aux:bn2a_branch2a_moving_var", "arg:res7a_branch1_weight"} <= set(state)
    heads = meta({"arg:linear1000_weight": (1000, 4096), "arg:linear1000_bias": (1000,)})
    assert kind_of(state | heads) is IMAGENET
    tensors = network_tensors(state | heads, IMAGENET, published_shapes(IMAGENET))
    assert {n: tensors.pop(f"backbone.{n}") is state[mxnet_name(n)] for n in shapes} == dict.fromkeys(shapes, True)
    assert not tensors
    short = {name.split(":")[1].replace("moving_", ""): tensor for name, tensor in state.items()}
    assert len(network_tensors(short, IMAGENET, published_shapes(IMAGENET))) == len(shapes)


@pytest.mark.parametrize("kind", TORCH_KINDS.values(), ids=TORCH_KINDS)
def test_unknown_missing_and_misshapen_tensors_are_named(kind):
    state = meta({name: shape for name, (_, shape) in published_table(kind).items()})
    del state["b4_5.conv_branch2a.weight"]
    state |= {
        "aff_conv.weight": torch.empty(1, device="meta"),
        "bn7.num_batches": torch.empty((), device="meta"),
        "fc8.weight": torch.empty(21, 4096, 1, 1, device="meta"),
        "conv1a.weight": torch.empty(64, 3, 3, 3, device="meta", dtype=torch.int64),
    }
    with pytest.raises(ValueError) as caught:
        network_tensors(state, kind, published_shapes(kind))
    assert kind.title in str(caught.value)
    assert (
        "2 unknown: aff_conv.weight, bn7.num_batches; 1 missing: b4_5.conv_branch2a.weight; "
        "1 of another shape: fc8.weight (21, 4096, 1, 1) instead of (20, 4096, 1, 1); "
        "1 without real numbers: conv1a.weight (torch.int64)" in str(caught.value)
    )


def test_two_mxnet_arrays_for_one_place_are_refused():
    state = meta({mxnet_name(name): shape for name, shape in backbone_shapes().items()})
    state["aux:bn7_mean"] = state["aux:bn7_moving_mean"]
    with pytest.raises(ValueError, match="1 unknown: aux:bn7_mean"):
        network_tensors(state, IMAGENET, published_shapes(IMAGENET))


def test_other_files_are_no_published_ones():
    assert kind_of([]) is None
    assert kind_of(["layer1.0.conv1.weight", "fc.weight"]) is None
    assert kind_of(["backbone.b2.conv_branch2a.weight", "classifier.weight"]) is None
    assert kind_of(backbone_shapes()) is BACKBONE


# -- files with values: a stand-in of few channels ---------------------------------------------------------------------


@pytest.fixture
def thin(monkeypatch):
    """WideResNet-38 of 8 channels and 4 blocks, still at stride 8, instead of 420 MB."""

    def build(self):
        nn.Module.__init__(self)
        self.conv1a = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        for name in ("b2", "b3", "b4"):
            setattr(self, name, Block(8, 8, stride=2))
        self.b4_1 = Block(8, 8)
        self.bn7 = nn.BatchNorm2d(8)

    monkeypatch.setattr(WideResNet38, "__init__", build)
    monkeypatch.setattr(WideResNet38, "channels", 8)


def values(kind, seed=0) -> dict[str, torch.Tensor]:
    """A published file of the stand-in: random values, no counts of batches."""
    generator = torch.Generator().manual_seed(seed)
    places = {here: name for name, (here, _) in HEADS.items()}
    return {
        places.get(name, name.removeprefix("backbone.")): torch.rand(tensor.shape, generator=generator)
        - 0.3 * (not name.endswith("running_var"))
        for name, tensor in published_shapes(kind).items()
        if not name.endswith("num_batches_tracked")
    }


def write_params(path: Path, arrays: dict[str, torch.Tensor]) -> None:
    """As MXNet 0.9 writes arrays."""
    data = struct.pack("<QQQ", 0x112, 0, len(arrays))
    for array in arrays.values():
        data += struct.pack(f"<I{array.ndim}Iiii", array.ndim, *array.shape, 1, 0, 0) + array.numpy().tobytes()
    data += struct.pack("<Q", len(arrays))
    for name in arrays:
        data += struct.pack("<Q", len(name)) + name.encode()
    path.write_bytes(data)


def start(weights, classes=VOC_CLASSES, seed=1):
    torch.manual_seed(seed)
    config = TrainConfig(backbone="wide_resnet38", output_stride=8, weights=str(weights))
    return build_network(config, classes)


def same(network, expected) -> bool:
    own = network.state_dict()
    return all(torch.equal(own[name], tensor) for name, tensor in expected.items())


def said(caplog) -> str:
    return "\n".join(record.getMessage() for record in caplog.records)


@pytest.fixture
def log(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("tag2mask"), "propagate", True)  # the command line switches it off
    caplog.set_level(logging.INFO, logger="tag2mask")
    return caplog


@pytest.mark.parametrize("form", ["zip", "old", "parallel"])
def test_the_tag_classifier_starts_a_run(form, thin, tmp_path, log):
    """As today's and old PyTorch write files, and from DataParallel."""
    state, path = values(CLASSIFIER), tmp_path / "res38_cls.pth"
    stored = {f"module.{name}": tensor for name, tensor in state.items()} if form == "parallel" else state
    torch.save(stored, path, _use_new_zipfile_serialization=form != "old")
    network = start(path)
    assert same(network, {f"backbone.{n}": t for n, t in state.items() if n != "fc8.weight"})
    assert torch.equal(network.classifier.weight, state["fc8.weight"])
    assert CLASSIFIER.title in said(log)
    assert "taken: backbone, tag classifier (20 of 20 classes, by name); left out: nothing" in said(log)
    assert torch.equal(network.segmenter[0].weight, start("none").segmenter[0].weight)  # random, from the run's seed


def test_classes_are_matched_by_name(thin, tmp_path, log):
    state, path = values(CLASSIFIER), tmp_path / "res38_cls.pth"
    torch.save(state, path)
    some = start(path, ("sheep", "bird", "cat"))
    rows = [VOC_CLASSES.index(name) for name in ("sheep", "bird", "cat")]
    assert torch.equal(some.classifier.weight, state["fc8.weight"][rows])
    assert "tag classifier (3 of 20 classes, by name)" in said(log)
    other = start(path, ("sheep", "ball"))
    assert torch.equal(other.backbone.conv1a.weight, state["conv1a.weight"])
    assert torch.equal(other.classifier.weight, start("none", ("sheep", "ball")).classifier.weight)
    assert "left out: tag classifier (made for other classes: ball not among them)" in said(log)


def test_final_weights_start_a_run_without_their_segmentation(thin, tmp_path, log):
    state, path = values(RRM), tmp_path / "RRM_final.pth"
    torch.save(state, path)
    network = start(path)
    assert torch.equal(network.classifier.weight, state["fc8.weight"])
    assert torch.equal(network.segmenter[2].bias, start("none").segmenter[2].bias)
    assert "left out: segmentation branch" in said(log)


def test_imagenet_weights_start_a_run(thin, tmp_path, log):
    state, path = values(IMAGENET), tmp_path / "ilsvrc.params"
    arrays = {mxnet_name(name): tensor for name, tensor in state.items()}
    write_params(path, arrays | {"arg:linear1000_weight": torch.ones(1000, 8), "arg:linear1000_bias": torch.ones(1000)})
    assert same(start(path), {f"backbone.{name}": tensor for name, tensor in state.items()})
    assert "left out: arg:linear1000_weight, arg:linear1000_bias" in said(log)
    path.rename(tmp_path / "renamed")  # found by its first bytes too
    assert same(start(tmp_path / "renamed"), {f"backbone.{name}": tensor for name, tensor in state.items()})


def test_a_converted_start_is_the_file_itself(thin, tmp_path, log):
    source, out = tmp_path / "res38_cls.pth", tmp_path / "new" / "res38_cls.safetensors"
    torch.save(values(CLASSIFIER), source)
    result = convert(source, to="safetensors", out=out)
    assert (result.title, result.parts) == (CLASSIFIER.title, ("backbone", "classifier"))
    assert not result.complete and not result.left_out
    with safe_open(out, framework="pt") as file:
        assert json.loads(file.metadata()["classes"]) == list(VOC_CLASSES)
    converted = start(out, ("cow", "boat"))
    assert same(converted, start(source, ("cow", "boat")).state_dict())
    assert said(log).count(CLASSIFIER.title) == 2  # the converted file still says what it is
    assert said(log).count("taken: backbone, tag classifier (2 of 20 classes, by name)") == 2


@pytest.mark.parametrize("kind", [IMAGENET, CLASSIFIER], ids=["imagenet", "classifier"])
def test_a_start_has_the_license_of_its_repository_also_converted(kind, thin, tmp_path):
    source, out = tmp_path / "any-name", tmp_path / "new.safetensors"
    if kind is IMAGENET:
        write_params(source, {mxnet_name(name): tensor for name, tensor in values(kind).items()})
    else:
        torch.save(values(kind), source)
    convert(source, to="safetensors", out=out)
    for file in (source, out):
        first = first_weights(TrainConfig.preset("voc-rrm", weights=str(file)))
        assert (first.license, first.what) == (kind.license, kind.title)
    assert (IMAGENET.license, CLASSIFIER.license) == ("apache-2.0", "mit")


def test_the_published_models_need_a_license_that_somebody_chose(thin, tmp_path):
    source, out = tmp_path / "RRM_final.pth", tmp_path / "rrm.safetensors"
    torch.save(values(RRM), source)
    convert(source, to="safetensors", out=out)
    segmenter = Segmenter.load(out, device="cpu")
    with pytest.raises(
        ValueError, match=r"license of RRM of the AAAI 2020 paper .*not known \(its publishers state none\)"
    ):
        segmenter.save_pretrained(tmp_path / "hub")
    segmenter.save_pretrained(tmp_path / "hub", license="mit")
    for file, license in ((source, None), (out, None), (tmp_path / "hub", "mit")):
        assert first_weights(TrainConfig.preset("voc-rrm", weights=str(file))).license == license


@pytest.mark.parametrize("kind", [RRM, RRM_ATTENTION], ids=["rrm", "attention"])
def test_final_weights_become_a_model_that_loads_alone(kind, thin, tmp_path):
    source, out = tmp_path / "final.pth", tmp_path / "final.safetensors"
    state = values(kind)
    torch.save(state, source)
    result = convert(source, to="safetensors", out=out)
    assert result.complete and result.parts == kind.parts
    network, config, metadata = load_model(out)
    assert (config.preset_name, config.backbone, config.output_stride) == (kind.preset, "wide_resnet38", 8)
    assert config.image_size is None and network.classes == VOC_CLASSES
    assert kind.title in metadata["selection"]
    names = {name: here for name, (here, _) in HEADS.items()}
    assert same(network, {names.get(name, f"backbone.{name}"): tensor for name, tensor in state.items()})
    rgb = np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)
    prediction = Segmenter.load(out, device="cpu").predict(rgb)
    x = (torch.from_numpy(rgb).permute(2, 0, 1)[None] / 255 - torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)) / (
        torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    )
    scores = published_scores(network.backbone(x), state, attention=kind is RRM_ATTENTION)
    scores = nn.functional.interpolate(scores, rgb.shape[:2], mode="bilinear", align_corners=False)
    np.testing.assert_allclose(prediction.probs, scores.softmax(1)[0].detach(), atol=2e-5)
    assert len(np.unique(prediction.mask)) > 1


def published_scores(features, state, *, attention):
    """The segmentation heads of method 1.2 and 9 on the published tensors."""
    conv = nn.functional.conv2d
    local = conv(features, state["fc8_seg_conv1.weight"], state["fc8_seg_conv1.bias"], padding=12, dilation=12).relu()
    local = conv(local, state["fc8_seg_conv2.weight"], state["fc8_seg_conv2.bias"], padding=12, dilation=12)
    if not attention:
        return local
    query, key, value = (conv(features, state[f"GAU_w{i}.weight"]).flatten(2)[0] for i in (1, 2, 3))
    weights = (query.T @ key).softmax(dim=0)  # over the index of the query
    both = torch.cat([value @ weights, value]).view(1, -1, *features.shape[2:])
    both = conv(both, state["fc8_seg_conv3.weight"], padding=1).relu()
    return (local + conv(both, state["fc8_seg_conv4.weight"], padding=1)) / 2


def test_what_cannot_be_converted_says_why(thin, tmp_path):
    source, out = tmp_path / "RRM_final.pth", tmp_path / "out.safetensors"
    state = values(RRM)
    torch.save(state, source)
    with pytest.raises(ValueError, match=r"to onnx .*formats: safetensors"):
        convert(source, to="onnx", out=out)
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        convert(source, to="safetensors", out=tmp_path / "out.pth")
    del state["fc8_seg_conv2.bias"]
    torch.save(state, source)
    with pytest.raises(ValueError, match=r"RRM_final\.pth: .*RRM_final\), but 1 missing: fc8_seg_conv2.bias"):
        convert(source, to="safetensors", out=out)
    state["fc8_seg_conv2.bias"] = torch.full((21,), float("nan"))
    torch.save(state, source)
    with pytest.raises(ValueError, match=r"segmenter\.2\.bias hold values that are not finite"):
        convert(source, to="safetensors", out=out)
    torch.save({"fc.weight": torch.zeros(1)}, source)
    with pytest.raises(ValueError, match=r"holds 1 tensors with names of no published file. Known are: ResNet-38"):
        convert(source, to="safetensors", out=out)
    with pytest.raises(ValueError, match="There is no weights file"):
        convert(tmp_path / "nowhere.pth", to="safetensors", out=out)
    assert list(tmp_path.iterdir()) == [source]
    out.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"exists\. Choose another name"):
        convert(source, to="safetensors", out=out)
    assert out.read_bytes() == b"mine"


def test_a_published_file_needs_its_backbone(thin, tmp_path):
    torch.save(values(CLASSIFIER), tmp_path / "res38_cls.pth")
    with pytest.raises(ValueError, match=r"got --backbone resnet18; use --backbone wide_resnet38"):
        build_network(TrainConfig(backbone="resnet18", weights=str(tmp_path / "res38_cls.pth")), ["cat"])


def test_a_model_of_a_run_starts_another_run(tmp_path, log):
    config = TrainConfig.preset("small", backbone="test_resnet", weights="none", image_size=64)
    torch.manual_seed(4)
    first = build_network(config, ("ball", "leaf", "cat"))
    save_model(tmp_path / "model.safetensors", first, config)
    again = build_network(config.replace(weights=str(tmp_path / "model.safetensors")), ("cat", "ball"))
    assert torch.equal(again.classifier.weight, first.classifier.weight[[2, 0]])
    assert all(torch.equal(a, b) for a, b in zip(again.backbone.parameters(), first.backbone.parameters(), strict=True))
    assert "a model of tag2mask" in said(log) and "left out: segmentation branch" in said(log)


# -- the command -------------------------------------------------------------------------------------------------------


def call(*arguments):
    return cli.main([str(a) for a in arguments])


def test_convert_and_predict_on_the_command_line(thin, tmp_path, capsys):
    source, out = tmp_path / "RRM_final.pth", tmp_path / "rrm.safetensors"
    torch.save(values(RRM), source)
    assert call("convert", source, "--to", "safetensors", "--out", out) == 0
    assert RRM.title in capsys.readouterr().out
    assert call("convert", source, "--to", "safetensors", "--out", out) == 1
    assert "exists" in capsys.readouterr().err
    again = tmp_path / "again.safetensors"
    assert call("convert", source, "--to", "safetensors", "--out", again, "--json") == 0
    assert json.loads(capsys.readouterr().out)["complete"] is True
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    assert call("predict", out, tmp_path / "a.png", "--out", tmp_path / "masks") == 0
    assert np.array(Image.open(tmp_path / "masks" / "masks" / "a.png")).shape == (40, 48)
    assert call("convert", source, "--to", "png", "--out", out) == 2


# -- full size ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_final_weights_at_full_size(tmp_path):
    """128 million parameters in and out: every value arrives, and the model predicts."""
    source, out = tmp_path / "RRM(attention)_final.pth", tmp_path / "final.safetensors"
    torch.manual_seed(0)
    state = {name: torch.rand(shape) * 0.02 for name, (_, shape) in published_table(RRM_ATTENTION).items()}
    torch.save(state, source)
    convert(source, to="safetensors", out=out)
    network, _, _ = load_model(out)
    assert same(network, {here: state[name] for name, (here, _) in published_table(RRM_ATTENTION).items()})
    assert Segmenter.load(out, device="cpu").predict(np.zeros((48, 64, 3), np.uint8)).mask.shape == (48, 64)
    params = tmp_path / "ilsvrc.params"
    write_params(params, {mxnet_name(name): state[name] for name in backbone_shapes()})
    assert same(start(params), {f"backbone.{name}": state[name] for name in backbone_shapes()})
