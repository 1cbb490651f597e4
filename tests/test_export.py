"""Exports: the same masks as the network elsewhere, ONNX prediction without torch."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import resize

import tag2mask
from tag2mask import cli
from tag2mask.batch import Outputs
from tag2mask.config import RetrainConfig, TrainConfig
from tag2mask.inference.onnx_backend import OnnxBackend
from tag2mask.inference.prediction import Prediction, one_part
from tag2mask.inference.score_maps import NUMPY, ScoreMaps
from tag2mask.inference.segmenter import Segmenter
from tag2mask.inference.tiles import labels_of, network_size
from tag2mask.inference.torch_backend import TORCH, TorchBackend
from tag2mask.jobs.exporting import run as exporting
from tag2mask.jobs.exporting.deployed import resize_picture
from tag2mask.jobs.exporting.parity import compare
from tag2mask.jobs.exporting.run import export, export_program, same_padding
from tag2mask.models import build_network
from tag2mask.models.base import SegmentationNetwork
from tag2mask.runs.checkpoints import save_model

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

CLASSES = ("cat", "dog", "cow")
OPENED: list[Segmenter] = []
"""What forked children of a test inherit."""
DOCS = Path(__file__).parents[1] / "docs" / "export.md"
SIZES = ((50, 90), (90, 50), (1, 1), (1, 70), (70, 1), (64, 64), (211, 160), (31, 47))


def write_run(folder, config, seed):
    """A run with random weights, its scores spread so that masks hold several labels."""
    torch.manual_seed(seed)
    network = build_network(config, CLASSES, pretrained=False)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.shape[0] == len(CLASSES) + 1 and parameter.ndim == 4:
                assert name.startswith(("segmenter.", "aspp.", "head."))
                parameter.mul_(100)
    folder.mkdir()
    save_model(folder / "model.safetensors", network, config, selection="best mIoU on val at step 7")
    (folder / "config.json").write_text(config.to_json())
    return folder


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    paths = {name: f"/home/me/{name}" for name in TrainConfig.path_names()}
    config = TrainConfig.preset("small", backbone="test_resnet", image_size=64, **paths | {"weights": "none"})
    return write_run(tmp_path_factory.mktemp("export") / "first", config, seed=3)


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    config = RetrainConfig.preset(
        "small", backbone="test_efficientnet", weights="none", image_size=None, data="photos", own_masks=True
    )
    return write_run(tmp_path_factory.mktemp("export") / "second", config, seed=4)


@pytest.fixture(scope="module")
def network(first):
    return Segmenter.load(first, device="cpu")


@pytest.fixture(scope="module")
def summary(first):
    return export(first, format="onnx")


@pytest.fixture(scope="module")
def onnx(summary):
    return Segmenter.load(summary.out, device="cpu")


@pytest.fixture(scope="module")
def program_file(first):
    done = export(first, format="torch")
    assert done.parity.good
    return done.out


@pytest.fixture(scope="module")
def session(summary):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(summary.out, options)


def mask_of(path):
    return Segmenter.load(path, device="cpu").predict(picture((90, 120)), crf=True).mask


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_onnx_models_predict_in_forked_children(summary, onnx, monkeypatch):
    """Each child opens the file anew, or goes on with what its parent has opened and used."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    here = mask_of(summary.out)
    OPENED[:] = [onnx]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        there = pool.map_async(mask_of, [summary.out] * 2).get(timeout=60)
        again = pool.map_async(mask_of_opened, range(2)).get(timeout=60)
    assert all((here == each).all() for each in (*there, *again))


def mask_of_opened(_):
    return OPENED[0].predict(picture((90, 120)), crf=True).mask


def picture(size, seed=0):
    """Smooth patches with noise, uint8 [H, W, 3]."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    fine = np.asarray(coarse.resize((size[1], size[0]), Image.Resampling.BICUBIC), dtype=np.int64)
    return (fine + rng.integers(-9, 10, fine.shape)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("size", "new"),
    [
        ((50, 90), (32, 64)),
        ((37, 51), (320, 448)),
        ((375, 500), (240, 320)),
        ((640, 320), (320, 160)),
        ((64, 64), (64, 64)),
        ((1, 5), (16, 64)),
        ((700, 20), (64, 16)),
    ],
)
def test_resizing_is_torchvisions_to_the_bit(size, new):
    rgb = torch.from_numpy(picture(size)).permute(2, 0, 1)[None]
    wanted = resize(rgb, list(new), antialias=True).float()
    got = resize_picture(rgb, *new)
    if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") and max(size) <= 8 * min(new):
        assert torch.equal(got, wanted)
    else:  # torch resizes in floating point there, or sums need more digits than float32 has
        assert (got - wanted).abs().max() <= 1
        assert (got != wanted).float().mean() < 0.25


def test_onnx_gives_the_networks_masks_for_every_size_and_batch(session, network):
    labels = set()
    for number, size in enumerate(SIZES):
        batch = np.stack([picture(size, seed) for seed in range(1 + number % 3)])
        mask, probs, tag_scores, logits = session.run(None, {"rgb": batch})
        for i, wanted in enumerate(network.predict(list(batch))):
            np.testing.assert_allclose(probs[i], wanted.probs, atol=1e-4)
            assert (mask[i] == wanted.mask).mean() >= 0.999
            np.testing.assert_allclose(tag_scores[i], list(wanted.tag_scores.values()), atol=1e-5)
            labels |= set(np.unique(wanted.mask))
        assert mask.dtype == np.uint8
        h, w = network_size(size, 64, network.model.stride)
        assert logits.shape == (len(batch), 4, h // network.model.stride, w // network.model.stride)
    assert len(labels) >= 3  # else equal masks would say little


def test_onnx_inputs_scale_and_size_have_defaults(session, network):
    rgb = picture((50, 90))
    assert [each.name for each in session.get_inputs()] == ["rgb"]
    assert [each.name for each in session.get_outputs()] == ["mask", "probs", "tag_scores", "logits"]
    scaled = session.run(["probs"], {"rgb": rgb[None], "scale": np.array(1.5)})[0]
    np.testing.assert_allclose(scaled[0], network.predict(rgb, scales=(1.5,)).probs, atol=1e-4)
    feeds = {"rgb": rgb[None], "size": np.array([20, 0])}
    mask, probs, logits = session.run(["mask", "probs", "logits"], feeds)
    assert mask.shape == (1, 20, 90)
    maps = ScoreMaps(logits=(logits[0],), size=(20, 90))
    np.testing.assert_allclose(probs[0], maps.probs(), atol=1e-5)


def test_onnx_says_what_it_is(session, summary, network):
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == list(CLASSES)
    assert json.loads(metadata["image_size"]) == 64
    assert json.loads(metadata["stride"]) == network.model.stride == 16
    assert metadata["version"] == tag2mask.__version__
    assert metadata["selection"] == "best mIoU on val at step 7"
    assert str(exporting.__file__).encode() not in summary.out.read_bytes()  # no traces of this machine
    assert b"site-packages" not in summary.out.read_bytes()


def test_parity_is_measured_on_generated_pictures_of_several_sizes(summary, first):
    assert summary.out == first / "model.onnx"
    assert summary.size_bytes == summary.out.stat().st_size
    parity = summary.parity
    assert parity.pictures == "generated"
    assert parity.num_images == len(set(parity.sizes)) == 6
    assert parity.good
    assert 0 < parity.max_difference < 1e-4
    assert 0.999 <= parity.least_equal <= parity.equal_pixels <= 1


def test_second_step_exports_at_the_pictures_own_size(second, tmp_path):
    done = export(second, format="onnx", out=tmp_path / "second.onnx")
    assert done.parity.good
    network, onnx = Segmenter.load(second, device="cpu"), tag2mask.Segmenter.load(done.out)
    assert onnx.backend.image_size is None
    rgb = picture((75, 120))
    for options in ({}, {"scales": (0.5, 1.25), "flip": True}):
        one, two = network.predict(rgb, **options), onnx.predict(rgb, **options)
        np.testing.assert_allclose(two.probs, one.probs, atol=1e-4)
        assert two.tag_scores == pytest.approx(one.tag_scores, abs=1e-5)


def test_torch_program(program_file, network):
    extra = {"tag2mask.json": ""}
    program = torch.export.load(program_file, extra_files=extra).module()
    assert json.loads(json.loads(extra["tag2mask.json"])["classes"]) == list(CLASSES)
    for size in ((1, 70), (120, 33)):
        rgb = picture(size)
        out = program(torch.from_numpy(np.stack([rgb, rgb[:, ::-1]])))
        assert not out["probs"].requires_grad
        np.testing.assert_allclose(out["probs"][0].numpy(), network.predict(rgb).probs, atol=1e-5)
    assert b"site-packages" not in program_file.read_bytes()


@pytest.mark.parametrize(
    "options",
    [{}, {"scales": (1.0, 0.5, 1.5)}, {"flip": True}, {"tags": ["dog"]}, {"tags": [], "flip": True, "scales": (0.75,)}],
    ids=str,
)
def test_onnx_segmenter_predicts_what_the_network_predicts(onnx, network, options):
    for size in ((50, 90), (1, 33), (150, 120)):
        rgb = picture(size)
        one, two = network.predict(rgb, **options), onnx.predict(rgb, **options)
        np.testing.assert_allclose(two.probs, one.probs, atol=1e-4)
        assert two.probs.dtype == np.float32
        assert two.mask.dtype == np.uint8
        assert (two.mask == one.mask).mean() >= 0.999
        np.testing.assert_array_equal(two.mask, two.probs.argmax(0))
        assert two.tag_scores == pytest.approx(one.tag_scores, abs=1e-5)
        assert two.overlay().size == one.overlay().size


def test_onnx_segmenter_refines_by_the_same_crf(onnx, network):
    rgb = picture((40, 60))
    for tags in (None, ["cow"]):
        one, two = (each.predict(rgb, crf="aaai_inference", tags=tags) for each in (network, onnx))
        np.testing.assert_allclose(two.probs, one.probs, atol=1e-3)
        assert (two.mask == one.mask).mean() >= 0.99
    assert not two.probs[1:3].any()


def test_onnx_segmenter_keeps_the_order_of_a_list(onnx):
    pictures = [picture((50, 90), 1), picture((30, 40), 2), picture((50, 90), 3), picture((30, 40), 4)]
    tags = [["cat"], [], ["dog"], ["cat", "cow"]]
    single = [onnx.predict(rgb, tags=names) for rgb, names in zip(pictures, tags, strict=True)]
    for size in (2, 4):
        many = onnx.predict(pictures, tags=tags, batch_size=size)
        for a, b in zip(single, many, strict=True):
            np.testing.assert_allclose(a.probs, b.probs, atol=1e-5)


def test_the_arithmetic_of_numpy_equals_that_of_torch(monkeypatch):
    rng = np.random.default_rng(0)
    maps = tuple(rng.normal(size=(3, *size)).astype(np.float32) for size in ((5, 7), (1, 4)))
    fields = {"logits": maps, "size": (41, 67), "allowed": np.array([True, False, True])}
    monkeypatch.setattr("tag2mask.inference.score_maps._STRIP", 67 * 4)
    wanted, got = ScoreMaps(**fields, arithmetic=TORCH), ScoreMaps(**fields)
    for part in ((slice(None), slice(None)), (slice(7, 20), slice(3, 50))):
        np.testing.assert_allclose(got.probs(*part), wanted.probs(*part), atol=1e-6)
    np.testing.assert_array_equal(labels_of(got.parts(), got.size), labels_of(wanted.parts(), wanted.size))
    np.testing.assert_allclose(NUMPY.mean(maps[:1] * 2), TORCH.mean(maps[:1] * 2), atol=1e-6)


BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "torchvision", "timm", "accelerate", "torchmetrics", "onnx", "onnxscript"}:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Block())
import numpy as np
import tag2mask
from tag2mask.cli import main
model, picture, out = sys.argv[1:]
segmenter = tag2mask.Segmenter.load(model)
assert isinstance(segmenter, tag2mask.Segmenter)
plain = segmenter.predict(picture)
refined = segmenter.predict(picture, crf=True, scales=(1.0, 0.5), flip=True, tags=["cat"])
refined.overlay()
assert main(["predict", model, picture, "--out", out]) == 0
assert "torch" not in sys.modules
np.savez(out + ".npz", plain=plain.probs, refined=refined.probs)
"""


def test_onnx_predicts_where_torch_cannot_be_imported(summary, network, tmp_path):
    Image.fromarray(picture((50, 90))).save(tmp_path / "a.png")
    command = [sys.executable, "-c", BLOCKED, str(summary.out), str(tmp_path / "a.png"), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    saved = np.load(tmp_path / "out.npz")
    wanted = network.predict(tmp_path / "a.png")
    np.testing.assert_allclose(saved["plain"], wanted.probs, atol=1e-4)
    refined = network.predict(tmp_path / "a.png", crf=True, scales=(1.0, 0.5), flip=True, tags=["cat"])
    np.testing.assert_allclose(saved["refined"], refined.probs, atol=1e-3)
    mask = np.array(Image.open(tmp_path / "out" / "masks" / "a.png"))
    assert (mask == wanted.mask).mean() >= 0.999


def test_the_front_gives_the_right_kind(first, summary, network):
    front = tag2mask.Segmenter
    assert isinstance(front.load(first, device="cpu").backend, TorchBackend)
    exported = front.load(str(summary.out))
    assert isinstance(exported.backend, OnnxBackend)
    assert type(exported) is type(network) is front
    assert front.load(exported) is exported
    built = front(network.model, network.config)
    assert built.classes == CLASSES
    for use in (lambda: exported.model, lambda: exported.config, lambda: exported.network.first_step()):
        with pytest.raises(ValueError, match="a segmenter of an exported model, which only predicts"):
            use()
    assert exported.class_activation_maps(picture((20, 20)), ["cat"]) is None
    with pytest.raises(ValueError, match=r"Segmenter\(model, config\)"):
        front(network.model)


def test_unusable_onnx_files(tmp_path, summary, monkeypatch):
    with pytest.raises(FileNotFoundError, match="--format onnx"):
        tag2mask.Segmenter.load(tmp_path / "none.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"broken\.onnx is no ONNX model"):
        tag2mask.Segmenter.load(tmp_path / "broken.onnx")
    helper = pytest.importorskip("onnx").helper
    value = helper.make_tensor_value_info("x", 1, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value], [])
    graph.output.append(helper.make_tensor_value_info("y", 1, [1]))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (tmp_path / "foreign.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="something else"):
        tag2mask.Segmenter.load(tmp_path / "foreign.onnx")
    with pytest.raises(ValueError, match=r"'mps' is not available.*auto or cpu"):
        tag2mask.Segmenter.load(summary.out, device="mps")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r"pip install 'tag2mask\[onnx\]'"):
        tag2mask.Segmenter.load(summary.out)


@pytest.mark.parametrize(
    ("words", "cure"),
    [
        (["evaluate", "MODEL", "--data", "nowhere"], "score them with --masks"),
        (["pseudo-label", "MODEL", "--data", "nowhere", "--out", "o"], "--tags FILE"),
        (["explain", "MODEL", "nowhere.jpg", "--out", "o"], "tag2mask predict MODEL PICTURE"),
        (["export", "MODEL"], "exported already"),
    ],
)
@pytest.mark.parametrize("name", ["model.onnx", "model.pt2"])
def test_commands_that_need_the_network_refuse_exported_models(words, cure, name, tmp_path, monkeypatch, capsys):
    """Before anything else is read: neither the data nor the picture is there."""
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(b"")
    assert cli.main([name if word == "MODEL" else word for word in words]) == 1
    told = capsys.readouterr().err
    assert f"{words[0]} needs the network itself, got {name}, " in told
    assert "Give the run folder or .safetensors file" in told and cure in told
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_functions_that_need_the_network_refuse_an_onnx_segmenter(onnx, tmp_path):
    for call in (
        lambda: tag2mask.evaluate(onnx, data="nowhere"),
        lambda: tag2mask.pseudo_label(onnx, data="nowhere", out=tmp_path),
        lambda: tag2mask.explain(onnx, "nowhere.jpg", tmp_path),
    ):
        with pytest.raises(ValueError, match="needs the network itself, got a segmenter of an exported model"):
            call()


def test_the_masks_of_an_onnx_file_are_scored_as_those_of_its_run(first, summary, tmp_path):
    """The way round that the refusal of `evaluate` names."""
    data = tmp_path / "data"
    for folder in ("images", "masks", "splits"):
        (data / folder).mkdir(parents=True)
    truth = np.random.default_rng(1).integers(0, 4, (3, 40, 56), dtype=np.uint8)
    for i, labels in enumerate(truth):
        Image.fromarray(picture((40, 56), seed=i)).save(data / "images" / f"{i}.png")
        Image.fromarray(labels).save(data / "masks" / f"{i}.png")
    (data / "classes.txt").write_text("\n".join(CLASSES))
    (data / "splits" / "val.txt").write_text("0.png\n1.png\n2.png\n")
    (data / "tags.csv").write_text("file_name,tags\n0.png,cat\n1.png,dog\n2.png,cow\n")
    tag2mask.predict(summary.out, data / "images", tmp_path / "out")
    masks = tag2mask.evaluate(masks=tmp_path / "out" / "masks", data=data)
    expected = tag2mask.evaluate(first, data=data)
    assert expected.confusion.sum() == truth.size and np.count_nonzero(expected.confusion.sum(0)) > 1
    assert masks.confusion.tolist() == expected.confusion.tolist()


def test_crf_without_the_compiled_core(onnx, monkeypatch):
    monkeypatch.setitem(sys.modules, "tag2mask._core", None)
    with pytest.raises(ValueError, match="compiler"):
        onnx.predict(picture((20, 20)), crf=True)


def test_compare_by_hand():
    """One picture of 2 x 3 alone, one with its mirror image: 1 of 6 pixels differs, then 2 of 12."""

    class Stub:
        def predict(self, batch):
            probs = np.zeros((2, 2, 3), np.float32)
            return [Stub.result(probs) for _ in batch]

        @staticmethod
        def result(probs):
            return Prediction(
                rgb=None,
                mask=np.zeros((2, 3), np.uint8),
                tag_scores={},
                classes=(),
                compute_parts=lambda: one_part(probs),
            )

    seen = []

    def predict(batch):
        seen.append(batch)
        masks, probs = np.zeros((len(batch), 2, 3), np.uint8), np.full((len(batch), 2, 2, 3), 0.25, np.float32)
        masks[:, 0, 0] = 1
        return masks, probs

    rgb = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    parity = compare(Stub(), predict, [rgb, rgb], origin="here")
    assert [len(batch) for batch in seen] == [1, 2]
    np.testing.assert_array_equal(seen[1][1], rgb[:, ::-1])
    assert parity.max_difference == 0.25
    assert parity.equal_pixels == pytest.approx(15 / 18)
    assert parity.least_equal == pytest.approx(5 / 6)
    assert not parity.good
    nan = compare(Stub(), lambda b: (predict(b)[0], np.full((1, 2, 2, 3), np.nan, np.float32)), [rgb], origin="here")
    assert nan.max_difference == 1
    with pytest.raises(ValueError, match="no picture"):
        compare(Stub(), predict, [], origin="here")


def test_command(first, builtin, tmp_path, capsys, monkeypatch):
    def call(*arguments):
        return cli.main(["export", str(first), "--format", "hub", *map(str, arguments)])

    assert call("--out", tmp_path / "a", "--data", builtin, "--limit", 3, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["format"] == "hub"
    assert result["parity"]["num_images"] == 3
    assert result["parity"]["equal_pixels"] == 1
    assert result["parity"]["pictures"] == f"{builtin}, split val"
    assert call("--out", tmp_path / "b") == 0
    told = capsys.readouterr().out
    assert "max |Δ| of probabilities 0, equal pixels 100 %" in told
    assert "next: " in told
    assert call("--out", tmp_path / "b") == 1  # nothing is overwritten
    assert "is not empty" in capsys.readouterr().err

    def wrong(segmenter):
        right = by_segmenter(segmenter)
        return lambda rgb: (right(rgb)[0] ^ 1, right(rgb)[1])

    by_segmenter = exporting._by_segmenter
    monkeypatch.setattr(exporting, "_by_segmenter", wrong)
    assert call("--out", tmp_path / "c") == 1
    assert "less than 99.9 %: do not use" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"format": "tflite"}, ValueError, "onnx, torch, hub.*'tflite'"),
        ({"format": "onnx", "out": "model.pb"}, ValueError, r"model\.onnx"),
        ({"format": "torch", "out": "model.pt"}, ValueError, r"model\.pt2"),
        ({"format": "hub", "out": "x", "evaluation": "none.json"}, FileNotFoundError, "none.json"),
    ],
)
def test_misuse(first, options, error, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=words):
        export(first, **options)
    assert not list(tmp_path.iterdir())


def test_files_are_not_replaced_and_a_network_in_memory_needs_a_place(first, summary, network):
    with pytest.raises(FileExistsError, match=r"model\.onnx exists"):
        export(first, format="onnx")
    with pytest.raises(ValueError, match="out=PATH"):
        export(network, format="onnx")


def test_export_leaves_the_network_as_it_was(network, tmp_path, monkeypatch):
    network.model.train()
    training = {name: p.requires_grad for name, p in network.model.named_parameters()}
    monkeypatch.setattr(exporting, "export_torch", lambda segmenter, path: segmenter.model.half())
    monkeypatch.setattr(exporting, "_by_program", lambda path: lambda rgb: (None, None))
    monkeypatch.setattr(exporting, "compare", lambda *a, **k: None)
    (tmp_path / "m.pt2").mkdir()
    monkeypatch.setattr(exporting, "_new_place", lambda *a: tmp_path / "m.pt2")
    export(network, format="torch")
    assert network.model.training
    assert {name: p.requires_grad for name, p in network.model.named_parameters()} == training
    assert {p.dtype for p in network.model.parameters()} == {torch.float32}
    network.model.eval()


def test_a_network_that_cannot_be_exported_says_so(network, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("Could not guard on u0\nand more") from ValueError("the root")

    monkeypatch.setattr(torch.export, "export", fail)
    with pytest.raises(ValueError, match=r"test_resnet.*any size: the root\. Use the run itself"):
        export(network, format="torch", out=tmp_path / "m.pt2")
    assert not list(tmp_path.iterdir())


def test_missing_packages(network, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ValueError, match=r"tag2mask\[onnx\]"):
        export(network, format="onnx", out=tmp_path / "m.onnx")


def test_code_of_the_docs_runs(first, summary, program_file, tmp_path, monkeypatch, capsys):
    assert {summary.out, program_file} == {first / "model.onnx", first / "model.pt2"}
    shutil.copytree(first, tmp_path / "runs" / "photos")
    Image.fromarray(picture((50, 90))).save(tmp_path / "cat.jpg")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", DOCS.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    offline = [block for block in blocks if "push_to_hub(" not in block]
    assert (len(blocks), len(offline)) == (5, 4)
    for block in offline:
        exec(block, {})
    assert (tmp_path / "cat_overlay.png").is_file()
    assert "'cat': " in capsys.readouterr().out
    assert (tmp_path / "photos-hub" / "README.md").is_file()


def test_no_path_of_this_machine_is_exported(summary, program_file, network):
    homes = [b"/home/me", str(Path(exporting.__file__).parents[1]).encode(), str(Path(torch.__file__).parent).encode()]
    with zipfile.ZipFile(program_file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    for name, content in {summary.out.name: summary.out.read_bytes(), **parts}.items():
        assert not [home for home in homes if home in content], name
    chosen = Segmenter(network.model, network.config, selection="best mIoU on /home/me/val.txt at step 7")
    assert exporting.metadata(chosen)["selection"] == "best mIoU on val.txt at step 7"


def test_padding_in_whole_numbers_is_timms():
    from timm.layers.padding import get_same_padding

    for size in range(1, 40):
        for case in ((1, 1, 1), (3, 1, 1), (3, 2, 1), (5, 2, 1), (3, 2, 2), (7, 4, 1)):
            assert same_padding(size, *case) == get_same_padding(size, *case)


def test_a_single_column_is_taken_from_the_middle():
    """The middle of 0 1 2 3 is 1.5; `pytorch_half_pixel` would give 0."""
    parser = pytest.importorskip("onnx").parser
    model = parser.parse_model(
        '<ir_version: 9, opset_import: ["": 18]> g (float[1,1,1,4] x, int64[4] s) => (float[1,1,1,1] y) '
        '{ y = Resize<mode="linear", coordinate_transformation_mode="pytorch_half_pixel">(x, , , s) }'
    )
    model.graph.node[0].metadata_props.add(key="stack_trace", value="/home/me/network.py")
    exporting._correct(model)
    assert b"/home/me" not in model.SerializeToString()
    session = onnxruntime.InferenceSession(model.SerializeToString())
    feeds = {"x": np.arange(4, dtype=np.float32).reshape(1, 1, 1, 4), "s": np.array([1, 1, 1, 1])}
    assert session.run(None, feeds)[0].item() == 1.5


class SamePadded(SegmentationNetwork):
    """Two strided convolutions with TensorFlow's padding, as in the default backbone."""

    def __init__(self):
        from timm.layers import Conv2dSame

        super().__init__(("a",), stride=4, mean=(127.0,) * 3, std=(128.0,) * 3)
        self.body = torch.nn.Sequential(Conv2dSame(3, 4, 3, stride=2), torch.nn.ReLU(), Conv2dSame(4, 2, 5, stride=2))

    def forward(self, images, valid=None, *, segment=True):
        features = self.body(images)
        return Outputs(features, features.mean((2, 3))[:, :1], features)


def test_same_padding_exports_for_every_size():
    torch.manual_seed(0)
    config = TrainConfig.preset("small", image_size=32)
    segmenter = Segmenter(SamePadded().requires_grad_(False).eval(), config)
    program = export_program(segmenter, with_options=False).module()
    for size in ((20, 31), (64, 9)):
        rgb = picture(size)
        out = program(torch.from_numpy(rgb[None]))
        np.testing.assert_allclose(out["probs"][0].numpy(), segmenter.predict(rgb).probs, atol=1e-5)
