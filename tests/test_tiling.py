"""Large pictures: tiles equal the whole away from their borders, limits of size, memory."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

import tag2mask
from tag2mask import cli
from tag2mask.base import arrays
from tag2mask.base.arrays import stored
from tag2mask.config import CRFParams, TrainConfig
from tag2mask.data import PictureError, read_picture
from tag2mask.data.storage.pictures import PictureTooLarge, opened
from tag2mask.inference import tiles as tiling
from tag2mask.inference.segmenter import Segmenter
from tag2mask.inference.tiles import Grid, blended_map, resized, tile_side, whole
from tag2mask.jobs.predicting.run import predict
from tag2mask.models import build_network
from tag2mask.outputs import render
from tag2mask.runs.checkpoints import save_model

CLASSES = ("cat", "dog", "cow")


def network(image_size: int | None, seed: int = 5) -> Segmenter:
    """Random weights, scores spread so that masks hold several labels; nothing in it looks at the whole picture."""
    config = TrainConfig.preset(
        "small", backbone="test_resnet", weights="none", image_size=image_size, segment_dilation=1
    )
    torch.manual_seed(seed)
    model = build_network(config, CLASSES)
    model.segmenter[-1].weight.data.mul_(20)
    return Segmenter(model, config, device="cpu")


def blobs(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """A picture uint8 [H, W, 3] of smooth blobs with a little noise."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (max(2, size[0] // 24), max(2, size[1] // 24), 3), dtype=np.uint8)
    large = np.asarray(Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC)).astype(int)
    return (large + rng.integers(-12, 13, large.shape)).clip(0, 255).astype(np.uint8)


def means(stride: int):
    """A network that sees no further than a cell: the mean color of each, and the largest red."""

    def run(tile: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        h, w = tile.shape[0] // stride, tile.shape[1] // stride
        cells = tile.reshape(h, stride, w, stride, 3).astype(np.float32).mean((1, 3))
        return cells.transpose(2, 0, 1), np.array([tile[..., 0].max()], dtype=np.float32)

    return run


SHAPES = [
    ((96, 96), 64, None, 16),
    ((501, 333), 128, None, 16),
    ((64, 777), 100, None, 8),
    ((130, 90), 64, 96, 32),
    ((257, 129), 200, 64, 16),
    ((333, 500), 64, None, 32),
]


@pytest.mark.parametrize(("size", "side", "image_size", "stride"), SHAPES)
def test_the_map_of_tiles_is_that_of_the_whole_where_no_cell_sees_its_neighbors(size, side, image_size, stride):
    rgb = blobs(size)
    grid = Grid.of(size, side, image_size, stride)
    assert len(grid) > 1 and all(n % stride == 0 for n in (*grid.size, *grid.tile, *grid.tops, *grid.lefts))
    assert grid.tops[-1] + grid.tile[0] == grid.size[0] and grid.lefts[-1] + grid.tile[1] == grid.size[1]
    found, tags = blended_map(rgb, grid, means(stride))
    picture = resized(rgb, grid.size, (0, 0), grid.size)
    expected, tag = means(stride)(picture)
    # a tile that is resized alone may differ by a level in some of its values
    np.testing.assert_allclose(found, expected, atol=1e-3 if picture.shape == rgb.shape else 0.2)
    assert abs(tags[0] - tag[0]) <= 1


@pytest.mark.parametrize(("size", "side", "image_size", "stride"), SHAPES)
def test_weights_sum_to_one_at_every_cell(size, side, image_size, stride):
    grid = Grid.of(size, side, image_size, stride)

    def ones(tile):
        return np.ones((2, tile.shape[0] // stride, tile.shape[1] // stride), np.float32), np.zeros(1, np.float32)

    total, _ = blended_map(blobs(size), grid, ones)
    np.testing.assert_allclose(total, 1, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "new"), [((301, 200), (96, 64)), ((97, 131), (97, 64)), ((50, 61), (160, 192)), ((640, 481), (320, 240))]
)
def test_parts_of_a_resized_picture_are_those_of_the_whole(size, new):
    rgb = blobs(size, seed=1)
    expected = np.asarray(Image.fromarray(rgb).resize(new[::-1], Image.Resampling.BILINEAR)).astype(int)
    for corner, part in (
        ((0, 0), new),
        ((16, 16), (32, 32)),
        ((new[0] - 48, 0), (48, 48)),
        ((0, new[1] - 33), (31, 33)),
    ):
        found = resized(rgb, new, corner, part)
        there = expected[corner[0] : corner[0] + part[0], corner[1] : corner[1] + part[1]]
        assert found.shape == (*part, 3) and found.dtype == np.uint8
        assert np.abs(found - there).max() <= 1
        assert (found != there).mean() < 0.001


def reach_of(segmenter: Segmenter, side: int = 640) -> int:
    """How far a cell of the map sees, in pixels, from the gradient of one in the middle."""
    images = torch.randn(1, 3, side, side, requires_grad=True)
    with torch.enable_grad():
        logits = segmenter.model.eval()(images).seg_logits
        cell = logits.shape[-1] // 2
        logits[0, :, cell, cell].abs().sum().backward()
    seen = images.grad[0].abs().sum(0).nonzero()
    stride = segmenter.model.stride
    return int(max((cell * stride - seen.min()), (seen.max() - (cell + 1) * stride + 1)))


def far_from_borders(grid: Grid, reach: int) -> np.ndarray:
    """bool [h, w] in pixels of the network: no border of a tile inside the picture is nearer than `reach`."""
    kept = [np.ones(n, dtype=bool) for n in grid.size]
    for line, starts, tile, size in zip(kept, (grid.tops, grid.lefts), grid.tile, grid.size, strict=True):
        for border in {edge for start in starts for edge in (start, start + tile)} - {0, size}:
            line[max(0, border - reach) : border + reach] = False
    return kept[0][:, None] & kept[1]


@pytest.mark.parametrize(("image_size", "size", "side"), [(None, (592, 1104), 640), (640, (296, 553), 320)])
def test_a_network_says_the_same_away_from_the_borders_of_tiles(image_size, size, side):
    """The bound that docs/tiling.md states: 1e-5 in a probability beyond the network's reach."""
    segmenter, rgb = network(image_size), blobs(size)
    grid = Grid.of(size, side, image_size, segmenter.model.stride)
    assert len(grid) > 1
    same_size = (max(size) / side,) if image_size else (1.0,)
    expected = segmenter.predict(rgb, scales=same_size, flip=True)
    found = segmenter.predict(rgb, tile=side, flip=True)
    stride = segmenter.model.stride
    far = far_from_borders(grid, reach_of(segmenter) + 2 * stride)  # two cells more, for the upsampling of the map
    rows, columns = (np.arange(n) * m // n for n, m in zip(size, grid.size, strict=True))
    kept = far[rows][:, columns]
    assert kept.mean() > 0.05
    assert len(np.unique(expected.mask[kept])) > 1
    difference = np.abs(found.probs - expected.probs).max(0)
    assert difference[kept].max() <= (1e-5 if image_size is None else 0.02)  # resized tiles may differ by a level
    assert difference[~kept].max() > 1e-3  # so that the test would see an error
    assert (found.mask == expected.mask).mean() > 0.9


def test_large_pictures_are_cut_unasked_where_they_keep_their_size(monkeypatch):
    keeps, shrinks = network(None), network(64)
    rgb = blobs((150, 200))
    asked = keeps.predict(rgb, tile=96)
    shrunk = shrinks.predict(rgb)
    monkeypatch.setattr(arrays, "LARGE", 150 * 200 - 1)
    monkeypatch.setattr(tiling, "TILE", 96)
    np.testing.assert_array_equal(keeps.predict(rgb).probs, asked.probs)
    np.testing.assert_array_equal(shrinks.predict(rgb).mask, shrunk.mask)
    assert keeps.class_activation_maps(rgb, ["cat"]) is None
    assert tile_side((150, 200), None, None) == 96
    assert tile_side((150, 199), None, None) is None
    assert tile_side((150, 200), 200, None) is None, "it fits into one tile"
    assert tile_side((150, 200), 199, 64) == 199
    np.testing.assert_array_equal(shrinks.predict(rgb, tile=4000).mask, shrunk.mask)


def test_tiles_in_a_list_with_small_pictures_keep_their_place():
    segmenter = network(64)
    pictures = [blobs((60, 50)), blobs((90, 260), seed=2), blobs((60, 50), seed=3)]
    single = [segmenter.predict(each, tile=100, tags=["cat"]) for each in pictures]
    for one, many in zip(single, segmenter.predict(pictures, tile=100, tags=["cat"], batch_size=3), strict=True):
        np.testing.assert_allclose(many.probs, one.probs, atol=1e-5)
        assert many.tag_scores == pytest.approx(one.tag_scores, abs=1e-5)


def test_the_crf_of_a_large_picture_goes_square_by_square(monkeypatch):
    segmenter, rgb = network(64), blobs((150, 200))
    crf = CRFParams(bilateral_sxy=8.0, bilateral_srgb=13.0, iterations=5)
    expected = segmenter.predict(rgb, crf=crf, tags=["cat", "cow"])
    plain = segmenter.predict(rgb, tags=["cat", "cow"])
    monkeypatch.setattr(arrays, "LARGE", 1000)
    monkeypatch.setattr(tiling, "CRF_SIDE", 64)
    found = segmenter.predict(rgb, crf=crf, tags=["cat", "cow"])
    assert "probs" not in found.__dict__, "probabilities only on request"
    pieces = list(found.parts())
    assert len(pieces) == 3 * 4
    np.testing.assert_array_equal(whole(iter(pieces), (150, 200)), found.probs)
    np.testing.assert_array_equal(found.mask, found.probs.argmax(0))
    moved = np.abs(expected.probs - plain.probs).max(0)
    difference = np.abs(found.probs - expected.probs).max(0)
    # the cells of the lattice lie elsewhere in each square, so single pixels between two labels tip over
    assert np.quantile(moved, 0.95) > 0.3
    assert np.quantile(difference, 0.95) < 0.001
    assert (found.mask != expected.mask).mean() < 0.002
    assert not found.probs[2].any()


def test_many_numbers_live_in_a_temporary_file(monkeypatch):
    rgb, grid = blobs((150, 200)), Grid.of((150, 200), 96, None, 16)
    expected, _ = blended_map(rgb, grid, means(16))
    monkeypatch.setattr(arrays, "_IN_MEMORY", 0)
    found, _ = blended_map(rgb, grid, means(16))
    assert isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, expected)
    assert not stored((3, 2), np.float16).any()


def test_overlays_by_strips_equal_the_whole(monkeypatch):
    rgb = blobs((310, 640))
    labels = (blobs((310, 640), seed=9)[..., 0] // 64).astype(np.uint8)
    labels[:40, :90] = 255
    expected = render.blend_labels(rgb, labels)
    monkeypatch.setattr(render, "_STRIP", 640 * 7)
    np.testing.assert_array_equal(render.blend_labels(rgb, labels), expected)
    monkeypatch.setattr(arrays, "_STRIP", 640 * 3)
    np.testing.assert_array_equal(arrays.label_counts(labels), np.bincount(labels.ravel(), minlength=256))


def test_an_overlay_that_no_jpeg_holds_becomes_smaller(monkeypatch, tmp_path):
    monkeypatch.setattr(render, "_JPEG_SIDE", 100)
    with Image.open(render.save_picture(tmp_path / "a.jpg", Image.new("RGB", (250, 40)))) as image:
        assert image.size == (84, 14)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"tile": 63}, "tile must be at least 64"), ({"max_pixels": 0}, "max_pixels must be at least 1")],
)
def test_misuse(options, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        network(64).predict(blobs((20, 30)), **options)
    Image.fromarray(blobs((20, 30))).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=words):
        predict(network(64), tmp_path / "a.png", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def head_of_png(path, height: int, width: int):
    """A PNG file of a few bytes that claims a size, with no pixel in it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    return path


def test_one_limit_of_size_instead_of_two(tmp_path):
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for size in ((10_000, 10_000), (10_000, 20_000)):  # Pillow would warn, and refuse
            with opened(head_of_png(tmp_path / "a.png", *size)) as image:
                assert image.size == size[::-1]
        for size in ((20_001, 10_000), (60_000, 60_000)):
            with pytest.raises(PictureTooLarge, match=rf"a\.png.*{size[0]} x {size[1]}.*200000000.*--max-pixels"):
                read_picture(head_of_png(tmp_path / "a.png", *size))
        with pytest.raises(PictureError, match="cannot be read"):
            read_picture(head_of_png(tmp_path / "a.png", 10, 10))
    assert limit == Image.MAX_IMAGE_PIXELS


def test_pictures_above_the_limit_are_left_out_and_counted(tmp_path, capsys):
    segmenter = network(64)
    (tmp_path / "in").mkdir()
    for name, size in (("a", (20, 30)), ("b", (40, 30)), ("c", (41, 30))):
        Image.fromarray(blobs(size)).save(tmp_path / f"in/{name}.png")
    (tmp_path / "in" / "d.png").write_bytes(b"no picture")
    summary = predict(segmenter, tmp_path / "in", tmp_path / "out", max_pixels=40 * 30)
    assert summary.written == ("a", "b")
    assert len(summary.errors) == 2
    assert summary.too_large == 1
    save_model(tmp_path / "model.safetensors", segmenter.model, segmenter.config, selection="last step")
    words = ["predict", str(tmp_path / "model.safetensors"), str(tmp_path / "in"), "--out", str(tmp_path / "more")]
    assert cli.main([*words, "--max-pixels", "1200", "--tile", "64"]) == 1
    out, err = capsys.readouterr()
    assert "2 pictures done, 2 failed (1 of them above --max-pixels 1200)" in out
    assert "41 x 30 (height x width) are 1230 pixels" in err
    with pytest.raises(PictureTooLarge):
        segmenter.predict(Image.fromarray(blobs((41, 30))), max_pixels=1200)
    assert segmenter.predict(blobs((41, 30)), max_pixels=1200).mask.shape == (41, 30), "it is in memory already"


def test_probabilities_of_a_large_picture_are_written_as_they_come(monkeypatch, tmp_path):
    segmenter, rgb = network(64), blobs((150, 200))
    expected = segmenter.predict(rgb).probs
    monkeypatch.setattr(arrays, "LARGE", 1000)
    monkeypatch.setattr(arrays, "_IN_MEMORY", 0)
    monkeypatch.setattr("tag2mask.inference.score_maps._STRIP", 200 * 7)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    predict(segmenter, tmp_path / "a.png", tmp_path / "out", formats=("npz",))
    with np.load(tmp_path / "out/probs/a.npz") as file:
        np.testing.assert_allclose(file["probs"], expected, atol=5e-4)


def test_onnx_makes_the_same_of_tiles_and_large_pictures(monkeypatch, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from tag2mask.jobs.exporting.run import export_onnx

    segmenter = network(96)
    onnx = tag2mask.Segmenter.load(export_onnx(segmenter, tmp_path / "model.onnx"))
    rgb, crf = blobs((150, 333)), CRFParams(bilateral_sxy=8.0, iterations=2)
    for options in ({"tile": 100, "flip": True}, {"tile": 64, "scales": (1.0, 1.5)}, {"crf": crf, "tags": ["dog"]}, {}):
        if "tile" not in options:
            monkeypatch.setattr(arrays, "LARGE", 1000)
            monkeypatch.setattr(tiling, "CRF_SIDE", 64)
        one, two = segmenter.predict(rgb, **options), onnx.predict(rgb, **options)
        # large pictures are resized by Pillow here, whose levels differ from torch's by one here and there
        np.testing.assert_allclose(two.probs, one.probs, atol=1e-5 if "tile" in options else 0.01)
        assert (one.mask == two.mask).mean() > 0.999
        assert two.tag_scores == pytest.approx(one.tag_scores, abs=1e-3)


SIDE = 10_000
_MEASURED = """
import json, resource, sys, time
from tag2mask.cli import main
began = time.monotonic()
code = main(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
seconds = {"seconds": time.monotonic() - began, "cpu_seconds": used.ru_utime + used.ru_stime}
print(json.dumps({"code": code, "gib": used.ru_maxrss / 2**20} | seconds))
"""


@pytest.mark.large
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit elsewhere")
@pytest.mark.parametrize(
    ("image_size", "kind", "options"),
    [
        (None, "run", ("--crf", "--format", "png", "coco")),
        (320, "run", ("--crf", "--format", "png", "coco")),
        (320, "onnx", ()),
    ],
    ids=["tiles-crf-coco", "whole-crf-coco", "onnx"],
)
def test_a_picture_of_100_megapixels_takes_less_than_4_gib(image_size, kind, options, tmp_path, capsys):
    segmenter, model = network(image_size), tmp_path / "model.safetensors"
    save_model(model, segmenter.model, segmenter.config, selection="last step")
    if kind == "onnx":
        from tag2mask.jobs.exporting.run import export_onnx

        model = export_onnx(segmenter, tmp_path / "model.onnx")
    colors = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    large = Image.fromarray(colors).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    large.save(tmp_path / "large.jpg", quality=90)
    words = ["predict", str(model), str(tmp_path / "large.jpg"), "--out", str(tmp_path / "out"), *options]
    done = subprocess.run([sys.executable, "-c", _MEASURED, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    with capsys.disabled():
        print(f"\n{' '.join(options) or kind}, image_size {image_size}: {found}")
    assert found["code"] == 0, done.stderr[-2000:]
    assert found["gib"] < 4
    with opened(tmp_path / "out/masks/large.png") as mask, opened(tmp_path / "out/overlays/large.jpg") as overlay:
        assert mask.size == (SIDE, SIDE)
        assert overlay.size[0] == SIDE
    if "coco" in options:
        annotations = json.loads((tmp_path / "out/coco.json").read_text())["annotations"]
        assert len(annotations) > 1
        assert all(each["segmentation"]["size"] == [SIDE, SIDE] for each in annotations)
