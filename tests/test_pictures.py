"""Pictures as people have them: the expectation is always written down, not computed by the reader."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tag2mask.data import PictureError, read_mask, read_picture
from tag2mask.data.dataset import label_codes

ROWS = np.arange(24, dtype=np.uint8).reshape(2, 4, 3) * 10
"""A picture of 2 x 4 in which every value is another."""


def save(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def grey_png(path: Path, rows: list[bytes], width: int, bits: int) -> Path:
    """A grey PNG written by hand, so that no library stands between the values and the file."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, len(rows), bits, 0, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b""))
    return path


def test_rgb_is_unchanged_contiguous_and_writable(tmp_path: Path) -> None:
    rgb = read_picture(save(Image.fromarray(ROWS), tmp_path / "a.png"))
    np.testing.assert_array_equal(rgb, ROWS)
    assert rgb.dtype == np.uint8 and rgb.flags.c_contiguous and rgb.flags.writeable


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (1, ROWS),
        (2, ROWS[:, ::-1]),
        (3, ROWS[::-1, ::-1]),
        (4, ROWS[::-1]),
        (5, ROWS.transpose(1, 0, 2)),
        (6, np.rot90(ROWS, -1)),
        (7, ROWS[::-1, ::-1].transpose(1, 0, 2)),
        (8, np.rot90(ROWS, 1)),
    ],
)
def test_exif_rotation(tmp_path: Path, orientation: int, expected: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(Image.fromarray(ROWS), tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_picture(path), expected)


def test_damaged_exif_data_loses_no_picture(tmp_path: Path) -> None:
    flat = Image.new("RGB", (8, 8), (50, 100, 150))
    rgb = read_picture(save(flat, tmp_path / "a.jpg", exif=b"Exif\0\0garbage", quality=100, subsampling=0))
    assert rgb.shape == (8, 8, 3) and np.abs(rgb.astype(int) - (50, 100, 150)).max() <= 2


def test_grey_and_bilevel(tmp_path: Path) -> None:
    grey = read_picture(save(Image.fromarray(np.array([[0, 7, 255]], np.uint8)), tmp_path / "a.png"))
    np.testing.assert_array_equal(grey, np.repeat(np.array([[[0], [7], [255]]]), 3, axis=2))
    bits = read_picture(save(Image.fromarray(np.array([[True, False]])), tmp_path / "b.png"))
    np.testing.assert_array_equal(bits[..., 0], [[255, 0]])


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    rgba = np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [100, 50, 0, 51]]], np.uint8)
    rgb = read_picture(save(Image.fromarray(rgba), tmp_path / "a.png"))
    # 51/255 = 0.2: 0.2 * (100, 50, 0) + 0.8 * 255
    np.testing.assert_allclose(rgb, [[[200, 0, 0], [255, 255, 255], [224, 214, 204]]], atol=1)
    grey = read_picture(save(Image.fromarray(np.array([[[80, 255], [80, 0]]], np.uint8), "LA"), tmp_path / "b.png"))
    np.testing.assert_array_equal(grey[..., 1], [[80, 255]])


def test_palette_with_and_without_transparency(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), mode="P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    expected = np.array([[[10, 20, 30], [40, 50, 60], [70, 80, 90]]])
    np.testing.assert_array_equal(read_picture(save(image, tmp_path / "a.png")), expected)
    expected[0, 1] = 255
    np.testing.assert_array_equal(read_picture(save(image, tmp_path / "b.png", transparency=1)), expected)


def test_cmyk(tmp_path: Path) -> None:
    flat = Image.new("CMYK", (8, 8), (255, 0, 0, 0))  # cyan ink on white paper
    rgb = read_picture(save(flat, tmp_path / "a.jpg", quality=100))
    assert np.abs(rgb.astype(int) - (0, 255, 255)).max() <= 3


def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    values = [0, 255, 257, 64250, 65535]  # 257 = one level, 64250 = 250 levels
    path = grey_png(tmp_path / "a.png", [struct.pack(">5H", *values)], width=5, bits=16)
    np.testing.assert_array_equal(read_picture(path)[0, :, 2], [0, 1, 1, 250, 255])
    tiff = save(Image.fromarray(np.array([values], np.uint16)), tmp_path / "a.tif")
    np.testing.assert_array_equal(read_picture(tiff)[0, :, 2], [0, 1, 1, 250, 255])


def test_a_dark_16_bit_picture_stays_dark(tmp_path: Path) -> None:
    path = grey_png(tmp_path / "a.png", [struct.pack(">2H", 0, 514)], width=2, bits=16)
    assert read_picture(path).max() == 2


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 25700, 65535, -5]], np.int32), [0, 100, 255, 0]),
        (np.array([[0, 2**31 - 1]], np.int32), [0, 255]),
        (np.array([[0.0, 0.2, 1.0]], np.float32), [0, 51, 255]),
        (np.array([[0.0, 51.0, 255.0]], np.float32), [0, 51, 255]),
        (np.array([[0.0, 25700.0, 65535.0]], np.float32), [0, 100, 255]),
        (np.array([[np.nan, 0.5]], np.float32), [0, 128]),
    ],
)
def test_wide_grey_is_scaled_from_its_range(tmp_path: Path, values: np.ndarray, expected: list[int]) -> None:
    path = save(Image.fromarray(values), tmp_path / "a.tif")
    np.testing.assert_array_equal(read_picture(path)[0, :, 0], expected)


@pytest.mark.parametrize("size", [(1, 1), (5000, 1), (1, 5000)])
def test_extreme_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    rgb = read_picture(save(Image.new("RGB", size, (1, 2, 3)), tmp_path / "a.png"))
    assert rgb.shape == (size[1], size[0], 3) and (rgb == (1, 2, 3)).all()


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), c) for c in ((255, 0, 0), (0, 0, 255))]
    path = save(frames[0], tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (read_picture(path) == (255, 0, 0)).all()


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    whole = save(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)), tmp_path / "w.jpg")
    body = whole.read_bytes()
    cases = {"empty.jpg": b"", "cut.jpg": body[: len(body) // 2], "text.png": b"not a picture", "head.jpg": body[:30]}
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(PictureError, match=name):
            read_picture(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read_picture(tmp_path / "none.jpg")


def palette_mask(path: Path, ids: np.ndarray) -> Path:
    image = Image.fromarray(ids, mode="P")
    image.putpalette([255, 0, 0] * 256)  # colours say nothing: only the indices count
    return save(image, path)


def test_mask_ids_become_labels_and_other_ids_are_ignored(tmp_path: Path) -> None:
    path = palette_mask(tmp_path / "m.png", np.array([[0, 1, 2], [3, 200, 255]], np.uint8))
    np.testing.assert_array_equal(read_mask(path, label_codes(2, others="ignore")), [[0, 1, 2], [255, 255, 255]])
    np.testing.assert_array_equal(read_mask(path, label_codes(2, others="background")), [[0, 1, 2], [0, 0, 255]])


def test_grey_mask_of_8_bits_and_small_palettes(tmp_path: Path) -> None:
    ids = np.array([[0, 1], [2, 255]], np.uint8)
    codes = label_codes(2, others="ignore")
    np.testing.assert_array_equal(read_mask(save(Image.fromarray(ids), tmp_path / "m.png"), codes), ids)
    small = Image.fromarray(np.array([[0, 1, 2, 1]], np.uint8), mode="P")
    small.putpalette([0, 0, 0, 9, 9, 9, 5, 5, 5])
    np.testing.assert_array_equal(read_mask(save(small, tmp_path / "s.png", bits=2), codes), [[0, 1, 2, 1]])


def test_masks_that_hold_no_ids_are_refused(tmp_path: Path) -> None:
    codes = label_codes(2, others="ignore")
    with pytest.raises(PictureError, match=r"rgb\.png is RGB.*palette"):
        read_mask(save(Image.new("RGB", (2, 2)), tmp_path / "rgb.png"), codes)
    save(Image.new("L", (8, 8), 1), tmp_path / "lossy.jpg").rename(tmp_path / "lossy.png")
    with pytest.raises(PictureError, match="JPEG"):
        read_mask(tmp_path / "lossy.png", codes)
    with pytest.raises(PictureError, match="fewer than 8 bits"):
        read_mask(grey_png(tmp_path / "two.png", [bytes([0b00011011])], width=4, bits=2), codes)
    (tmp_path / "cut.png").write_bytes(palette_mask(tmp_path / "m.png", np.zeros((9, 9), np.uint8)).read_bytes()[:60])
    with pytest.raises(PictureError, match=r"cut\.png"):
        read_mask(tmp_path / "cut.png", codes)


def test_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    path = palette_mask(tmp_path / "m.png", np.zeros((2, 4), np.uint8))
    assert read_mask(path, label_codes(1, others="ignore"), (2, 4)).shape == (2, 4)
    with pytest.raises(PictureError, match=r"2 x 4.*4 x 2"):
        read_mask(path, label_codes(1, others="ignore"), (4, 2))


def test_a_forged_length_takes_no_memory(tmp_path):
    """Python reserves what it is asked to read; a part of four gigabytes in a file of a hundred bytes asks for that."""
    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(path)
    good = path.read_bytes()
    at = good.index(b"IDAT") - 4
    path.write_bytes(good[:at] + (0xF0000000).to_bytes(4, "big") + good[at + 4 :])
    tracemalloc.start()
    try:
        with contextlib.suppress(PictureError):  # Pillow may have had all it needs before the end
            assert read_picture(path).shape == (8, 8, 3)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
