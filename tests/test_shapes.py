"""The built-in set: exact masks, all classes, negatives, and the same bytes from the same seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tag2mask.data import open_data, read_mask, read_picture
from tag2mask.data.builtin.objects import OBJECTS
from tag2mask.data.builtin.shapes import BUILTIN_CLASSES, _layers, builtin_scene, render_scene, write_builtin


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_builtin(tmp_path_factory.mktemp("built") / "in", train=40, val=10, size=96)


def test_it_is_a_plain_folder_with_both_splits_and_all_classes(built: Path) -> None:
    for split, count in (("train", 40), ("val", 10)):
        pictures = open_data(built, split=split)
        assert len(pictures.pictures) == count and pictures.classes == BUILTIN_CLASSES
        assert sum(not p.tags for p in pictures.pictures) == count // 10  # negatives
        assert {tag for p in pictures.pictures for tag in p.tags} == set(range(len(BUILTIN_CLASSES)))
    assert len(BUILTIN_CLASSES) >= 4
    assert any(len(p.tags) > 1 for p in pictures.pictures)


def test_tags_are_what_the_masks_show(built: Path) -> None:
    pictures = open_data(built)
    for picture in pictures.pictures:
        assert picture.mask is not None
        mask = read_mask(picture.mask, pictures.mask_codes, read_picture(picture.path).shape[:2])
        assert sorted(set(np.unique(mask).tolist()) - {0}) == [tag + 1 for tag in picture.tags]


def test_one_seed_gives_one_set(tmp_path: Path) -> None:
    sets = [
        contents(write_builtin(tmp_path / n, train=3, val=2, seed=s, size=64))
        for n, s in (("a", 5), ("b", 5), ("c", 6))
    ]
    assert sets[0] == sets[1]
    assert sets[0]["images/train_0000.jpg"] != sets[2]["images/train_0000.jpg"]
    assert sets[0]["images/train_0000.jpg"] != sets[0]["images/val_0000.jpg"]


def test_a_picture_does_not_depend_on_the_others() -> None:
    before = builtin_scene(0, 0, 4, 64)
    builtin_scene(0, 0, 5, 64)
    after = builtin_scene(0, 0, 4, 64)
    np.testing.assert_array_equal(before.rgb, after.rgb)


@pytest.mark.parametrize("label", range(1, len(BUILTIN_CLASSES) + 1))
def test_objects_are_shaded_and_textured_not_flat(label: int) -> None:
    spreads = []
    for seed in range(6):
        scene = render_scene(np.random.default_rng(seed), (128, 128), (label,))
        inside = scene.mask == label
        assert 0.02 < inside.mean() < 0.6
        assert set(np.unique(scene.mask)) == {0, label}
        spreads.append(scene.rgb[inside].astype(float).std(0).mean())
    assert min(spreads) > 12


def test_outlines_are_exact() -> None:
    y, x = np.meshgrid(*[np.linspace(-1, 1, 65, dtype=np.float32)] * 2, indexing="ij")
    light = np.array([0, 0, 1], np.float32)
    surfaces = {name: render(x, y, light, np.random.default_rng(1)) for name, render in OBJECTS.items()}
    assert all(np.isfinite(s.rgb[s.inside]).all() and s.rgb.shape == (65, 65, 3) for s in surfaces.values())
    np.testing.assert_array_equal(surfaces["ball"].inside, x * x + y * y < 1)
    ring = surfaces["donut"].inside
    assert not ring[32, 32] and ring[32].any()  # what shows in the hole is background


def test_objects_hide_each_other_but_stay_in_sight() -> None:
    shares = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        layers = _layers(rng, (96, 96), (1, 2, 3), np.array([0, 0, 1], np.float32))
        mask = np.zeros((96, 96), int)
        for layer in layers:
            mask[layer.alpha > 0.5] = layer.label
        shares += [(mask == layer.label).sum() / (layer.alpha > 0.5).sum() for layer in layers]
    assert min(shares) >= 0.4
    assert sum(share < 0.95 for share in shares) >= 3 and len(shares) >= 30


def test_bad_calls(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="train and val must be at least 1"):
        write_builtin(tmp_path / "a", train=0)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    with pytest.raises(ValueError, match="not an empty folder"):
        write_builtin(tmp_path / "full", train=1, val=1)
