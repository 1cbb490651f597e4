"""Pictures of labels: colors, files and layout."""

import numpy as np
import pytest
from PIL import Image

from tag2mask.base.files import write_atomically
from tag2mask.data import voc_palette
from tag2mask.outputs import render

RGB = np.full((60, 80, 3), 100, np.uint8)


def test_masks_are_indexed_png_with_the_voc_palette(tmp_path):
    labels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image.open(render.save_mask(tmp_path / "sub" / "m.png", labels))
    assert (image.mode, image.format) == ("P", "PNG")
    np.testing.assert_array_equal(np.array(image), labels)
    # the published palette: aeroplane, bicycle, bird, person, void
    colors = np.array(image.convert("RGB")).reshape(256, 3)
    assert colors[[1, 2, 3, 15, 255]].tolist() == [
        [128, 0, 0],
        [0, 128, 0],
        [128, 128, 0],
        [192, 128, 128],
        [224, 224, 192],
    ]
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["m.png"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def half(temporary):
        temporary.write_text("ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, half)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_color_labels():
    colors = render.color_labels(np.array([[0, 2], [255, 255]]))
    assert colors[0].tolist() == [[0, 0, 0], voc_palette()[2].tolist()]
    assert len({tuple(c) for c in render.color_labels(np.full((20, 20), 255)).reshape(-1, 3).tolist()}) == 2  # hatched


def test_blend_tints_objects_dims_background_and_outlines():
    labels = np.zeros((60, 80), np.uint8)
    labels[:, 40:] = 1
    out = render.blend_labels(RGB, labels, alpha=0.5)
    assert out[30, 10].tolist() == [82, 82, 82]
    assert out[30, 60].tolist() == [114, 50, 50]  # half of 100 and half of (128, 0, 0)
    assert out[30, 39].tolist() == [255, 255, 255]
    assert (RGB == 100).all()


def test_heat_map_runs_from_dark_to_bright():
    strip = render.heat_map(np.zeros((1, 11, 3), np.uint8), np.linspace(0, 1, 11)[None], alpha=1.0)
    assert strip[0, 0].tolist() == [24, 12, 60]
    assert strip[0, -1].tolist() == [252, 244, 150]
    assert (np.diff(strip.astype(int).sum(-1)) > 0).all()


def test_overlay_keeps_the_picture_above_the_legend():
    labels = np.zeros((300, 400), np.uint8)
    labels[:10] = 1
    image = render.overlay(np.full((300, 400, 3), 100, np.uint8), labels, ("cat", "dog"), {"cat": 0.9, "dog": 0.1})
    assert image.width == 400
    assert image.height > 300
    np.testing.assert_array_equal(
        np.array(image)[:300], render.blend_labels(np.full((300, 400, 3), 100, np.uint8), labels)
    )
    legend = np.array(image)[300:].reshape(-1, 3)
    assert (legend == [128, 0, 0]).all(1).any()  # cat
    assert not (legend == [0, 128, 0]).all(1).any()  # dog does not occur


def test_sample_sheet_leaves_out_columns_without_content():
    labels, cams = np.ones((60, 80), np.int64), np.ones((2, 60, 80), np.float32)
    narrow = render.sample_sheet([render.SampleRow(name="a", rgb=RGB, tags=())], ("cat", "dog"), cell=100)
    full = render.SampleRow(
        name="b", rgb=RGB, tags=("cat",), cams=cams, foreground_vote=labels, background_vote=labels,
        reliable=labels * 255, prediction=labels, truth=labels,
    )  # fmt: skip
    wide = render.sample_sheet([full, full], ("cat", "dog"), title="step 1", cell=100)
    assert narrow.width == 8 + 108
    assert wide.width == 8 + 7 * 108
    # CAM 1 everywhere: its column shows the brightest color of the heat map over grey
    column = np.array(wide)[60:100, 8 + 108 + 10 : 8 + 108 + 90]
    assert (column == render.heat_map(RGB, cams[0])[0, 0]).all()
    with pytest.raises(ValueError, match="at least one row"):
        render.sample_sheet([], ("cat",))


def test_captioned_grid_holds_each_picture():
    cells = [(f"{i}", np.full((20, 20, 3), 40 * i, np.uint8)) for i in range(1, 6)]
    sheet = render.captioned_grid(cells, columns=3, title="t", labels=("dog",), classes=("cat", "dog"), cell=50)
    assert sheet.width == 10 + 3 * 60
    pixels = np.array(sheet).reshape(-1, 3)
    for i in range(1, 6):
        assert (pixels == 40 * i).all(1).sum() >= 50 * 50
    assert (pixels == [0, 128, 0]).all(1).any()
    with pytest.raises(ValueError, match="at least one"):
        render.captioned_grid([], columns=2)
