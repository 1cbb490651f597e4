"""The joint transform: what stays together, and what padding may never touch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from tag2mask.config import AugmentConfig
from tag2mask.data.training.transforms import Crop, Draw, draw, joint_transform

FILL = (123, 117, 104)
PALETTE = np.array([[0, 0, 0], [250, 10, 20], [30, 240, 60], [20, 80, 230]], np.uint8)
"""Colour of each label; no mixture of two is a third."""
STILL = Draw(
    scale=1.0,
    flip=False,
    row=0.0,
    column=0.0,
    brightness=1.0,
    contrast=1.0,
    saturation=1.0,
    hue=0.0,
    order=(0, 1, 2, 3),
)


def apply(rgb: np.ndarray, mask: np.ndarray | None, drawn: Draw, crop: int, image_size: int | None = None) -> Crop:
    return joint_transform(rgb, mask, drawn, crop_size=crop, image_size=image_size, fill_rgb=FILL)


def quarters(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture whose colour tells its mask: four quarters with labels 0 1 / 2 3."""
    mask = np.zeros((height, width), np.uint8)
    mask[:, width // 2 :] += 1
    mask[height // 2 :] += 2
    return PALETTE[mask], mask


def seen_labels(crop: Crop) -> tuple[torch.Tensor, torch.Tensor]:
    """Label that the colour tells at each pixel, and where the colour is pure."""
    match = (crop.rgb.permute(1, 2, 0)[:, :, None] == torch.from_numpy(PALETTE)).all(-1)
    return match.long().argmax(-1), match.any(-1) & crop.valid


sizes = st.integers(1, 90)


@settings(deadline=None, max_examples=80)
@given(
    height=sizes,
    width=sizes,
    seed=st.integers(0, 2**31),
    crop=st.integers(2, 80),
    image_size=st.one_of(st.none(), st.integers(1, 120)),
)
def test_padding_and_alignment(height: int, width: int, seed: int, crop: int, image_size: int | None) -> None:
    rgb, mask = quarters(height, width)
    drawn = draw(np.random.default_rng(seed), AugmentConfig(crop_size=crop, jitter=(0, 0, 0, 0), scale=(0.5, 2)))
    out = apply(rgb, mask, drawn, crop, image_size)
    assert (out.rgb.shape, out.mask.shape, out.valid.shape) == ((3, crop, crop), (crop, crop), (crop, crop))
    assert (out.rgb.dtype, out.mask.dtype, out.valid.dtype) == (torch.uint8, torch.int64, torch.bool)
    assert all(type(t) is torch.Tensor for t in out)
    rows, columns = (out.valid.any(d).nonzero().flatten() for d in (1, 0))
    assert len(rows) >= 2 and len(columns) >= 2
    assert out.valid[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    for index in (rows, columns):
        assert index[0] % 2 == 0 and (len(index) % 2 == 0 or len(index) == crop)
    assert (out.mask[~out.valid] == 255).all() and (out.mask[out.valid] != 255).all()
    assert (out.rgb[:, ~out.valid] == torch.tensor(FILL, dtype=torch.uint8)[:, None]).all()
    told, pure = seen_labels(out)
    assert (told[pure] == out.mask[pure]).all()


@settings(deadline=None, max_examples=30)
@given(height=sizes, width=sizes, seed=st.integers(0, 2**31), crop=st.sampled_from((64, 65)))
def test_half_size_mixes_no_padding(height: int, width: int, seed: int, crop: int) -> None:
    drawn = draw(np.random.default_rng(seed), AugmentConfig())
    valid = apply(*quarters(height, width), drawn, crop).valid[None, None].float()
    half = functional.interpolate(valid, scale_factor=0.5, mode="bilinear", align_corners=False)
    assert set(half.unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(half, functional.interpolate(valid, scale_factor=0.5, mode="nearest"))


def test_most_pixels_stay_pure_so_the_alignment_test_sees_them() -> None:
    rgb, mask = quarters(60, 80)
    out = apply(rgb, mask, Draw(**{**vars(STILL), "scale": 0.9, "flip": True}), 64)
    told, pure = seen_labels(out)
    assert pure.sum() > 0.8 * out.valid.sum()
    assert set(told[pure].tolist()) == {0, 1, 2, 3}


def test_identity_and_flip() -> None:
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (8, 8, 3), np.uint8)
    mask = rng.integers(0, 4, (8, 8), np.uint8)
    same = apply(rgb, mask, STILL, 8)
    np.testing.assert_array_equal(same.rgb.permute(1, 2, 0), rgb)
    np.testing.assert_array_equal(same.mask, mask)
    assert same.valid.all()
    mirrored = apply(rgb, mask, Draw(**{**vars(STILL), "flip": True}), 8)
    np.testing.assert_array_equal(mirrored.rgb.permute(1, 2, 0), rgb[:, ::-1])
    np.testing.assert_array_equal(mirrored.mask, mask[:, ::-1])
    upside_down = apply(rgb, mask, Draw(**{**vars(STILL), "vertical_flip": True}), 8)
    np.testing.assert_array_equal(upside_down.rgb.permute(1, 2, 0), rgb[::-1])
    np.testing.assert_array_equal(upside_down.mask, mask[::-1])


def test_crop_reaches_every_place() -> None:
    ramp = np.arange(10, dtype=np.uint8)
    rgb = np.stack([np.add.outer(10 * ramp, ramp)] * 3, -1)
    corners = {
        int(apply(rgb, None, Draw(**{**vars(STILL), "row": row, "column": column}), 4).rgb[0, 0, 0])
        for row in (0.0, 0.999)
        for column in (0.0, 0.5, 0.999)
    }
    assert corners == {0, 3, 6, 60, 63, 66}  # 10 - 4 = 6 is the last place


def test_the_published_crop_is_halved_as_published() -> None:
    """321 to 160: the last row and column of the crop take no part, those of a smaller picture do."""
    rows = np.broadcast_to((np.arange(330) % 256).astype(np.uint8)[:, None, None], (330, 330, 3)).copy()
    for side, kept in ((330, 321), (321, 321), (320, 320), (319, 318)):
        out = apply(rows[:side, :side], None, STILL, 321)
        assert out.rgb.shape == (3, 321, 321) and int(out.valid.any(1).sum()) == kept
        half = functional.interpolate(out.rgb[None].float(), scale_factor=0.5, mode="nearest")[0, 0, :, 0]
        assert len(half) == 160
        assert torch.equal(half[: kept // 2], torch.arange(0, 2 * (kept // 2), 2).float() % 256)
    last = apply(rows[:300, :300], None, Draw(**{**vars(STILL), "row": 0.999}), 321)
    assert last.valid.any(1).nonzero().flatten()[[0, -1]].tolist() == [20, 319]


def test_a_smaller_picture_lands_on_every_even_place_and_loses_its_odd_row() -> None:
    rgb = np.full((3, 2, 3), 9, np.uint8)
    tops = set()
    for row in np.linspace(0, 0.999, 30):
        out = apply(rgb, None, Draw(**{**vars(STILL), "row": float(row)}), 8)
        assert out.valid.sum() == 4  # 2 x 2 of 3 x 2
        assert (out.mask == 255).all()
        tops.add(int(out.valid.any(1).nonzero()[0]))
    assert tops == {0, 2, 4, 6}


def test_image_size_and_scale_act_together() -> None:
    rgb, mask = quarters(50, 100)
    out = apply(rgb, mask, Draw(**{**vars(STILL), "scale": 1.5}), 64, image_size=40)
    assert (int(out.valid.any(1).sum()), int(out.valid.any(0).sum())) == (30, 60)


def test_jitter_changes_colours_and_never_padding_or_mask() -> None:
    rgb, mask = quarters(20, 20)
    plain = apply(rgb, mask, STILL, 32)
    bright = apply(rgb, mask, Draw(**{**vars(STILL), "brightness": 0.5}), 32)
    np.testing.assert_array_equal(bright.rgb[:, bright.valid], plain.rgb[:, plain.valid] // 2)
    assert (bright.rgb[:, ~bright.valid] == plain.rgb[:, ~plain.valid]).all()
    assert torch.equal(bright.mask, plain.mask)
    grey = apply(rgb, mask, Draw(**{**vars(STILL), "saturation": 0.0}), 32).rgb[:, plain.valid].int()
    assert (grey.amax(0) - grey.amin(0)).max() <= 1
    turned = apply(np.full((2, 2, 3), (255, 0, 0), np.uint8), None, Draw(**{**vars(STILL), "hue": 1 / 3}), 2)
    np.testing.assert_allclose(turned.rgb[:, 0, 0], (0, 255, 0), atol=3)  # a third of a turn: red to green


def test_draws_stay_in_their_ranges_and_follow_the_generator() -> None:
    augment = AugmentConfig(scale=(0.7, 1.3), jitter=(0.3, 0.2, 0.1, 0.05))
    draws = [draw(np.random.default_rng(seed), augment) for seed in range(300)]
    assert draws[7] == draw(np.random.default_rng(7), augment)
    for name, low, high in (
        ("scale", 0.7, 1.3),
        ("brightness", 0.7, 1.3),
        ("contrast", 0.8, 1.2),
        ("saturation", 0.9, 1.1),
        ("hue", -0.05, 0.05),
        ("row", 0, 1),
        ("column", 0, 1),
    ):
        values = [getattr(d, name) for d in draws]
        assert low <= min(values) < low + 0.1 * (high - low) and high - 0.1 * (high - low) < max(values) <= high
    assert 110 <= sum(d.flip for d in draws) <= 190
    assert not any(d.vertical_flip for d in draws)
    flipped = [draw(np.random.default_rng(i), replace(augment, vertical_flip=0.5)) for i in range(300)]
    assert 110 <= sum(d.vertical_flip for d in flipped) <= 190
    assert [replace(d, vertical_flip=False) for d in flipped] == draws, "the other numbers stay as they were"
    assert len({d.order for d in draws}) == 24
