"""Segmenter and predict: sizes, inputs, averaging and priors against direct computations."""

import csv
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from tag2mask.config import CRFParams, TrainConfig
from tag2mask.config.inference import Inference, resolve_crf
from tag2mask.data import voc_palette
from tag2mask.inference.score_maps import NUMPY, ScoreMaps
from tag2mask.inference.segmenter import Segmenter
from tag2mask.inference.sources import search
from tag2mask.inference.tiles import labels_of, network_size, whole
from tag2mask.inference.torch_backend import TORCH, resolve_device
from tag2mask.jobs.predicting.run import predict
from tag2mask.models import build_network
from tag2mask.runs.checkpoints import save_model

CLASSES = ("cat", "dog", "cow")


@pytest.fixture(scope="module")
def config():
    return TrainConfig.preset("small", backbone="test_resnet", weights="none", image_size=64)


@pytest.fixture(scope="module")
def segmenter(config):
    torch.manual_seed(3)
    return Segmenter(build_network(config, CLASSES), config, device="cpu")


@pytest.fixture
def rgb():
    return np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)


def test_load_round_trip(segmenter, config, rgb, tmp_path):
    save_model(tmp_path / "model.safetensors", segmenter.model, config, selection="best mIoU on val at step 7")
    (tmp_path / "config.json").write_text(config.to_json())
    for source in (tmp_path, str(tmp_path / "model.safetensors")):
        loaded = Segmenter.load(source, device="cpu")
        assert loaded.classes == CLASSES
        assert loaded.selection == "best mIoU on val at step 7"
        np.testing.assert_array_equal(loaded.predict(rgb).probs, segmenter.predict(rgb).probs)


@pytest.mark.parametrize(("source", "words"), [("m.pt2", "torch.export"), ("hf://a/b", "hub")])
def test_other_sources_are_refused_by_name(source, words):
    with pytest.raises(ValueError, match=words):
        Segmenter.load(source)


def test_missing_run():
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Segmenter.load("nowhere")


def test_network_size_is_longer_side_rounded_to_the_stride(segmenter, rgb):
    assert network_size((500, 375), 64, 16) == (64, 48)
    assert network_size((375, 500), 64, 16, 1.5) == (64, 96)  # 72 rounds to 64 (72/16 = 4.5, to even)
    assert network_size((1, 5000), 64, 16) == (16, 64)
    assert network_size((100, 201), None, 16) == (96, 208)
    assert segmenter.network.resized(rgb).shape == (3, 32, 64)


def test_probs_are_the_softmax_of_the_resized_logits(segmenter, rgb):
    out = segmenter.predict(rgb)
    with torch.no_grad():
        segmenter.model.eval()
        logits = segmenter.model(segmenter.model.normalize(segmenter.network.resized(rgb)[None])).seg_logits
    expected = F.interpolate(logits, (50, 90), mode="bilinear", align_corners=False).softmax(1)[0]
    assert out.probs.dtype == np.float32
    assert out.probs.shape == (4, 50, 90)
    np.testing.assert_allclose(out.probs, expected.numpy(), atol=2e-6)
    np.testing.assert_array_equal(out.mask, out.probs.argmax(0))
    assert out.mask.dtype == np.uint8


def test_flip_and_scales_average_probabilities(segmenter, rgb):
    one = segmenter.predict(rgb).probs
    half = segmenter.predict(rgb, scales=(0.5,)).probs
    np.testing.assert_allclose(segmenter.predict(rgb, scales=(1.0, 0.5)).probs, (one + half) / 2, atol=2e-6)
    mirrored = segmenter.predict(rgb[:, ::-1]).probs[:, :, ::-1]
    np.testing.assert_allclose(segmenter.predict(rgb, flip=True).probs, (one + mirrored) / 2, atol=1e-5)


def test_tags_say_which_object_it_is_and_the_background_stays(segmenter, rgb):
    free = segmenter.predict(rgb).probs
    one = segmenter.predict(rgb, tags=["dog"]).probs
    assert not one[[1, 3]].any()
    np.testing.assert_allclose(one[0], free[0], atol=2e-6)
    np.testing.assert_allclose(one[2], free[1:].sum(0), atol=2e-6)
    two = segmenter.predict(rgb, tags=["dog", "cow"]).probs
    np.testing.assert_allclose(two[0], free[0], atol=2e-6)
    np.testing.assert_allclose(two[[2, 3]], free[[2, 3]] * (1 - free[0]) / free[[2, 3]].sum(0), atol=2e-6)
    np.testing.assert_allclose(segmenter.predict(rgb, tags=CLASSES).probs, free, atol=2e-6)
    none = segmenter.predict(rgb, tags=[]).probs
    assert (none[0] == 1).all()
    assert not none[1:].any()


@pytest.mark.parametrize("arithmetic", [NUMPY, TORCH])
@pytest.mark.parametrize("scores", [[-500.0, 500.0, 0.0], [500.0, -500.0, 0.0], [0.0, 500.0, -500.0]])
def test_impossible_labels_never_leave_a_hole(scores, arithmetic):
    logits = np.ones((3, 3, 3), np.float32) * np.float32(scores)[:, None, None]
    for allowed in np.array([[True, False, False], [True, False, True], [True, True, True]]):
        probs = ScoreMaps(logits=(logits,), size=(6, 6), allowed=allowed, arithmetic=arithmetic).probs()
        assert (probs.sum(0) == 1).all()
        assert not probs[~allowed].any()


@pytest.mark.parametrize("arithmetic", [NUMPY, TORCH])
def test_probabilities_by_strips_equal_the_whole(arithmetic, monkeypatch):
    rng = np.random.default_rng(0)
    logits = tuple(rng.normal(size=(3, *size)).astype(np.float32) for size in ((5, 7), (3, 4)))
    maps = ScoreMaps(logits=logits, size=(41, 67), arithmetic=arithmetic)
    monkeypatch.setattr("tag2mask.inference.score_maps._STRIP", 67 * 4)
    # torch rounds the last numbers of an array differently, so where a strip ends matters
    np.testing.assert_allclose(whole(maps.parts(), maps.size), maps.probs(), atol=1e-6)
    np.testing.assert_array_equal(labels_of(maps.parts(), maps.size), maps.probs().argmax(0))


def test_lists_keep_order_whatever_the_batch(segmenter, rgb):
    pictures = [rgb, rgb[:, ::-1].copy(), rgb[:30], rgb[::-1].copy()]
    single = [segmenter.predict(p) for p in pictures]
    for size in (1, 3, 8):
        many = segmenter.predict(pictures, batch_size=size)
        assert isinstance(many, list)
        for a, b in zip(single, many, strict=True):
            np.testing.assert_allclose(a.probs, b.probs, atol=1e-5)
            assert a.tag_scores == pytest.approx(b.tag_scores, abs=1e-5)


def test_tags_per_picture_in_a_list(segmenter, rgb):
    cat, none = segmenter.predict([rgb, rgb], tags=[["cat"], []])
    assert set(np.unique(cat.mask)) <= {0, 1}
    assert (none.mask == 0).all()
    both = segmenter.predict([rgb, rgb], tags=["dog"])
    assert all(not p.probs[1].any() for p in both)


def test_tag_scores_are_sigmoids_by_name(segmenter, rgb):
    with torch.no_grad():
        logits = segmenter.model.eval()(segmenter.model.normalize(segmenter.network.resized(rgb)[None])).tag_logits[0]
    expected = dict(zip(CLASSES, logits.sigmoid().tolist(), strict=True))
    assert segmenter.predict(rgb).tag_scores == pytest.approx(expected, abs=1e-6)


def test_exif_rotation_gives_the_upright_size(segmenter, rgb, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rgb).save(tmp_path / "a.png", exif=exif)
    upright = np.rot90(rgb, -1)
    from_file, from_image = segmenter.predict([tmp_path / "a.png", Image.open(tmp_path / "a.png")])
    assert from_file.mask.shape == from_image.mask.shape == (90, 50)
    np.testing.assert_array_equal(from_file.rgb, upright)
    np.testing.assert_array_equal(from_image.rgb, upright)


def test_grey_and_rgba_arrays(segmenter, rgb):
    grey = rgb[..., 0]
    same = segmenter.predict(np.repeat(grey[..., None], 3, 2)).probs
    np.testing.assert_array_equal(segmenter.predict(grey).probs, same)
    opaque = np.concatenate([rgb, np.full((50, 90, 1), 255, np.uint8)], 2)
    np.testing.assert_array_equal(segmenter.predict(opaque).probs, segmenter.predict(rgb).probs)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((4, 4, 5), np.uint8), r"H, W, 3.*\(4, 4, 5\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), "H, W, 3"),
        (np.zeros((4, 4, 3), np.float32), "uint8"),
        (np.zeros((0, 4, 3), np.uint8), "not empty"),
        (torch.zeros(3, 4, 4), "Tensor"),
    ],
)
def test_unusable_arrays(segmenter, array, words):
    with pytest.raises(ValueError, match=words):
        segmenter.predict(array)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tags": ["cta"]}, "'cta'.*cat, dog, cow"),
        ({"tags": "cat"}, r"\['cat'\]"),
        ({"scales": (0.0,)}, "positive"),
        ({"scales": ()}, "positive"),
        ({"crf": "best"}, "inference, aaai_inference"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_misuse(segmenter, rgb, options, words):
    with pytest.raises(ValueError, match=words):
        segmenter.predict(rgb, **options)


def test_options_replace_those_of_the_record(segmenter, rgb):
    record = Inference(scales=(0.5,), flip=True)
    expected = segmenter.predict(rgb, scales=(0.5,), flip=True, tags=["cat"])
    assert segmenter.predict(rgb, record, tags=["cat"]) == expected
    with pytest.raises(TypeError, match="no option flipped; there are crf, scales, flip"):
        segmenter.predict(rgb, flipped=True)


def test_threads_predict_the_same_masks_as_one(segmenter, rgb):
    """With a network in training mode, whose dropout would be seen."""
    segmenter.model.train()
    pictures = [np.roll(rgb, i, axis=1) for i in range(12)]
    options = {"flip": True, "crf": CRFParams(iterations=1)}
    expected = [segmenter.predict(each, **options) for each in pictures]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda each: segmenter.predict(each, **options), pictures))
    assert found == expected
    assert segmenter.model.training
    segmenter.model.eval()


def test_to_moves_the_network(segmenter, rgb):
    assert segmenter.to("cpu") is segmenter
    assert segmenter.network.device.type == "cpu"
    with pytest.raises(ValueError, match="auto or cpu"):
        segmenter.to("cuda:99")


def test_a_prediction_is_saved_whole_and_plotted(segmenter, rgb, tmp_path):
    out = segmenter.predict(rgb, tags=["dog", "cow"])
    assert out.save(tmp_path / "new" / "a.png") == tmp_path / "new" / "a.png"
    with Image.open(tmp_path / "new/a.png") as mask:
        assert mask.mode == "P"
        np.testing.assert_array_equal(np.asarray(mask), out.mask)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]
    with pytest.raises(ValueError, match=r"name it a\.png"):
        out.save(tmp_path / "a.jpg")
    pytest.importorskip("matplotlib").use("Agg")
    axes = out.plot()
    assert axes.images[0].get_array().shape == rgb.shape
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == [f"{CLASSES[i - 1]} (tag {out.tag_scores[CLASSES[i - 1]]:.2f})" for i in np.unique(out.mask) if i]
    assert segmenter.predict(rgb, tags=[]).plot(axes) is axes


def test_extreme_shapes(segmenter):
    for size in ((1, 1), (1, 3000), (300, 2)):
        out = segmenter.predict(np.full((*size, 3), 200, np.uint8))
        assert out.mask.shape == size
        assert np.isfinite(out.probs).all()
        out.overlay()


def test_crf_runs_at_the_pictures_size_with_the_prior(segmenter, rgb):
    from tag2mask.crf import dense_crf

    out = segmenter.predict(rgb, crf=True, tags=["cow"])
    plain = torch.from_numpy(segmenter.predict(rgb, tags=["cow"]).probs)[None]
    expected = dense_crf(
        torch.from_numpy(rgb).permute(2, 0, 1)[None],
        plain,
        params=CRFParams.inference(),
        present=torch.tensor([[True, False, False, True]]),
    )[0]
    np.testing.assert_allclose(out.probs, expected.numpy(), atol=1e-5)
    assert not out.probs[1:3].any()


def test_crf_choices():
    assert resolve_crf(None) is None
    assert resolve_crf(False) is None
    assert resolve_crf(True) == CRFParams.inference()
    assert resolve_crf("aaai_inference") == CRFParams.aaai_inference()
    mine = CRFParams(iterations=3)
    assert resolve_crf(mine) is mine


def test_prediction_leaves_the_networks_mode(segmenter, rgb):
    segmenter.model.train()
    first = segmenter.predict(rgb).probs
    assert segmenter.model.training
    np.testing.assert_array_equal(first, segmenter.predict(rgb).probs)  # dropout is off


def test_unknown_device():
    with pytest.raises(ValueError, match="auto or cpu"):
        resolve_device("cuda:99")


def test_predict_writes_masks_overlays_scores_and_goes_on_after_a_broken_file(segmenter, rgb, tmp_path):
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.jpg", "a.png", "sub/a.jpg", "b.png"):
        Image.fromarray(rgb).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"no picture")
    out = tmp_path / "out"
    summary = predict(segmenter, folder, out, formats=("png", "npz"))
    assert sorted(summary.written) == ["a.jpg", "a.png", "b", "sub/a"]
    assert list(summary.errors) == [str(folder / "broken.jpg")]
    assert "broken.jpg" in summary.errors[str(folder / "broken.jpg")]
    mask = Image.open(out / "masks" / "b.png")
    assert mask.mode == "P"
    expected = segmenter.predict(folder / "b.png")
    np.testing.assert_array_equal(np.array(mask), expected.mask)
    assert np.array(mask.convert("RGB"))[0, 0].tolist() == voc_palette()[expected.mask[0, 0]].tolist()
    assert (out / "overlays" / "sub" / "a.jpg").is_file()
    np.testing.assert_allclose(np.load(out / "probs" / "b.npz")["probs"], expected.probs, atol=1e-3)
    rows = list(csv.DictReader((out / "scores.csv").open()))
    assert [row["file_name"] for row in rows] == ["a.jpg", "a.png", "b.png", "sub/a.jpg"]
    assert float(rows[2]["dog"]) == pytest.approx(expected.tag_scores["dog"], abs=1e-6)
    assert not list(out.rglob("*.part*"))


def test_predict_with_a_table_of_tags(segmenter, rgb, tmp_path):
    Image.fromarray(rgb).save(tmp_path / "a.png")
    (tmp_path / "tags.csv").write_text("file_name,tags\na.png,\n")
    predict(segmenter, tmp_path / "a.png", tmp_path / "out", tags=tmp_path / "tags.csv")
    assert not np.array(Image.open(tmp_path / "out/masks/a.png")).any()
    (tmp_path / "tags.csv").write_text("file_name,cat,dog,cow\na.png,0,1,0\n")
    predict(segmenter, tmp_path / "a.png", tmp_path / "columns", tags=tmp_path / "tags.csv")
    expected = segmenter.predict(rgb, tags=["dog"]).mask
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "columns/masks/a.png")), expected)
    for table, words in (
        ("file_name,tags\na.png,cta\n", r"line 2: .*'cta'.*'cat'"),
        ("file_name,tags\na.png,cat\na.png,dog\n", "already on line 2"),
        ("name,tags\n", "file_name"),
    ):
        (tmp_path / "tags.csv").write_text(table)
        with pytest.raises(ValueError, match=words):
            predict(segmenter, tmp_path / "a.png", tmp_path / "out", tags=tmp_path / "tags.csv")


def test_bad_scales_are_found_before_any_picture(segmenter, rgb, tmp_path):
    Image.fromarray(rgb).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="positive"):
        predict(segmenter, tmp_path / "a.png", tmp_path / "out", scales=(-1.0,))
    assert not (tmp_path / "out").exists()


def test_find_pictures_names_are_unique_and_files_come_once(tmp_path):
    for name in ("one/a.jpg", "two/a.jpg", "two/B.jpg", "two/b.png", "two/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = search([tmp_path / "one", tmp_path / "two", tmp_path / "one" / "a.jpg"]).pictures
    assert [p.name for p in found] == ["one/a", "two/B.jpg", "two/a", "two/b.png"]
    assert [p.file_name for p in found] == ["one/a.jpg", "two/B.jpg", "two/a.jpg", "two/b.png"]
    globbed = search([str(tmp_path / "*" / "a.jpg")]).pictures
    assert [p.name for p in globbed] == ["one/a", "two/a"]
    with pytest.raises(FileNotFoundError, match="No file matches"):
        search([str(tmp_path / "*.tif")])
    with pytest.raises(FileNotFoundError, match=r"nothing\.jpg"):
        search([tmp_path / "nothing.jpg"])


def test_a_file_whose_name_looks_like_a_glob(tmp_path):
    (tmp_path / "a[1].jpg").write_bytes(b"")
    assert [p.name for p in search([tmp_path / "a[1].jpg"]).pictures] == ["a[1]"]
