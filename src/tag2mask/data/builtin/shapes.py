"""The built-in data set: rendered objects that shade and hide each other over cluttered backgrounds. Imports no torch.

Everything follows from the seed; nothing is downloaded. The result is a plain folder as in docs/data.md.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from tag2mask.data.builtin.objects import OBJECTS, Array, color, noise
from tag2mask.data.dataset import voc_palette

BUILTIN_CLASSES = tuple(OBJECTS)
"""Classes of the built-in set; class `i` has label `i + 1`."""
_SUPERSAMPLE = 2
_NEGATIVE_EVERY = 10
_MIN_VISIBLE = 0.4
"""Share of an object that must stay in sight for the picture to be used."""


class Scene(NamedTuple):
    """One rendered picture."""

    rgb: NDArray[np.uint8]
    """uint8 [H, W, 3]."""
    mask: NDArray[np.uint8]
    """uint8 [H, W] in {0..C}: the object in sight at each pixel."""


class _Layer(NamedTuple):
    label: int
    alpha: Array
    rgb: Array


def write_builtin(out: str | Path, *, train: int = 400, val: int = 80, seed: int = 0, size: int = 160) -> Path:
    """Render the built-in set as a plain folder.

    Args:
        out: New or empty folder.
        train: Pictures of the train split.
        val: Pictures of the val split.
        seed: 0 or more; one seed gives one set.
        size: Longer side of the pictures in pixels, at least 32.

    Returns:
        The folder: images/*.jpg, masks/*.png, tags.csv, classes.txt, splits/train.txt, splits/val.txt.

    Raises:
        ValueError: a number is too small, or the folder holds something already.
    """
    if train < 1 or val < 1 or seed < 0 or size < 32:
        raise ValueError(f"train and val must be at least 1, seed 0, size 32; got {train}, {val}, {seed}, {size}")
    root = Path(out)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ValueError(f"{root} exists and is not an empty folder. Give a new folder.")
    for folder in ("images", "masks", "splits"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    rows: list[tuple[str, str]] = []
    for part, (split, count) in enumerate((("train", train), ("val", val))):
        names = []
        for index in range(count):
            name = f"{split}_{index:04d}"
            scene = builtin_scene(seed, part, index, size)
            tags = [BUILTIN_CLASSES[label - 1] for label in np.unique(scene.mask) if label]
            _save(root, name, scene)
            rows.append((f"{name}.jpg", ";".join(tags)))
            names.append(f"{name}.jpg")
        (root / "splits" / f"{split}.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    (root / "classes.txt").write_text("\n".join(BUILTIN_CLASSES) + "\n", encoding="utf-8")
    with (root / "tags.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("file_name", "tags"), *rows])
    return root


def _save(root: Path, name: str, scene: Scene) -> None:
    Image.fromarray(scene.rgb).save(root / "images" / f"{name}.jpg", quality=93, subsampling=0)
    mask = Image.fromarray(scene.mask, mode="P")
    mask.putpalette(voc_palette().tobytes())
    mask.save(root / "masks" / f"{name}.png")


def builtin_scene(seed: int, part: int, index: int, size: int) -> Scene:
    """Picture `index` of a split (0 train, 1 val): every tenth is negative, the others turn through the classes."""
    rng = np.random.default_rng((seed, part, index))
    short = 3 * size // 4
    shape = ((size, size), (short, size), (size, short))[int(rng.integers(3))]
    if index % _NEGATIVE_EVERY == _NEGATIVE_EVERY - 1:
        return render_scene(rng, shape, ())
    first = index % len(BUILTIN_CLASSES) + 1
    others = rng.integers(1, len(BUILTIN_CLASSES) + 1, size=int(rng.choice(3, p=(0.2, 0.4, 0.4))))
    return render_scene(rng, shape, (first, *(int(label) for label in others)))


def render_scene(rng: np.random.Generator, shape: tuple[int, int], labels: Sequence[int]) -> Scene:
    """A picture of `shape` (height, width) with one object per label; later ones may hide parts of earlier ones."""
    light = _light(rng)
    canvas = background(rng, shape)
    mask = np.zeros(shape, np.uint8)
    for layer in _layers(rng, shape, labels, light):
        canvas = canvas * (1 - _shadow(layer.alpha, light, shape))[..., None]
        canvas = canvas + layer.alpha[..., None] * (layer.rgb - canvas)
        mask[layer.alpha > 0.5] = layer.label
    haze = 1 + rng.uniform(-0.3, 0.3) * (noise(rng, shape, 1, 1) - 0.5)
    canvas = (canvas * haze[..., None]) ** rng.uniform(0.7, 1.1)
    canvas = canvas + rng.uniform(0.005, 0.025) * rng.standard_normal(canvas.shape, dtype=np.float32)
    return Scene(np.asarray(np.clip(np.rint(canvas * 255), 0, 255), np.uint8), mask)


def _light(rng: np.random.Generator) -> Array:
    """A light from above, more or less to one side."""
    direction = np.array([rng.uniform(-0.8, 0.8), rng.uniform(-0.9, -0.2), rng.uniform(0.6, 1.2)], np.float32)
    return np.asarray(direction / np.linalg.norm(direction), np.float32)


def _layers(rng: np.random.Generator, shape: tuple[int, int], labels: Sequence[int], light: Array) -> list[_Layer]:
    """Objects from back to front, enough of each in sight; ones that find no place are left out."""
    layers: list[_Layer] = []
    for label in labels:
        for _ in range(6):
            layer = _object(rng, shape, label, light, crowd=len(labels))
            if _all_visible([*layers, layer]):
                layers.append(layer)
                break
    return layers


def _all_visible(layers: Sequence[_Layer]) -> bool:
    hidden = np.zeros(layers[0].alpha.shape, bool)
    for layer in reversed(layers):
        solid = layer.alpha > 0.5
        if (solid & ~hidden).sum() < _MIN_VISIBLE * max(1, solid.sum()):
            return False
        hidden |= solid
    return True


def _object(rng: np.random.Generator, shape: tuple[int, int], label: int, light: Array, *, crowd: int) -> _Layer:
    """One object on an empty canvas: 25-75 % of the longer side (less in company), turned, its center inside."""
    height, width = shape
    name = BUILTIN_CLASSES[label - 1]
    radius = 0.5 * max(shape) * rng.uniform(0.25, 0.75 if crowd == 1 else 0.62)
    center = rng.uniform(0.2, 0.8) * height, rng.uniform(0.2, 0.8) * width
    # a crate stands, the rest lies at any angle
    angle = rng.uniform(-0.15, 0.15) if name == "crate" else rng.uniform(0, 2 * np.pi)
    top, left = (int(np.floor(c - radius - 1)) for c in center)
    side = int(np.ceil(2 * radius + 3))
    grid = (np.arange(side * _SUPERSAMPLE, dtype=np.float32) + 0.5) / _SUPERSAMPLE
    y, x = np.meshgrid((grid + top - center[0]) / radius, (grid + left - center[1]) / radius, indexing="ij")
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    turned = np.array([cos * light[0] + sin * light[1], cos * light[1] - sin * light[0], light[2]], np.float32)
    surface = OBJECTS[name](cos * x + sin * y, cos * y - sin * x, turned, rng)
    alpha = _shrink(surface.inside.astype(np.float32))
    rgb = _shrink(np.clip(surface.rgb, 0, 1) * surface.inside[..., None]) / np.maximum(alpha, 1e-3)[..., None]
    full_alpha, full_rgb = np.zeros(shape, np.float32), np.zeros((*shape, 3), np.float32)
    rows = slice(max(0, top), min(height, top + side))
    columns = slice(max(0, left), min(width, left + side))
    inner = (slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))
    full_alpha[rows, columns], full_rgb[rows, columns] = alpha[inner], rgb[inner]
    return _Layer(label, full_alpha, full_rgb)


def _shrink(values: Array) -> Array:
    """Means of blocks of supersampled pixels (strided sums: much faster than a mean over a reshaped array)."""
    offsets = range(_SUPERSAMPLE)
    total = sum(values[row::_SUPERSAMPLE, column::_SUPERSAMPLE] for row in offsets for column in offsets)
    return np.asarray(total / np.float32(_SUPERSAMPLE**2), np.float32)


def _shadow(alpha: Array, light: Array, shape: tuple[int, int]) -> Array:
    """Soft shadow on what lies behind, away from the light."""
    reach = 0.07 * max(shape)
    moved = Image.fromarray(np.asarray(alpha * 255, np.uint8)).transform(
        shape[::-1], Image.Transform.AFFINE, (1, 0, float(light[0]) * reach, 0, 1, float(light[1]) * reach)
    )
    blurred = moved.filter(ImageFilter.GaussianBlur(0.025 * max(shape)))
    return np.asarray(np.asarray(blurred, np.float32) * (0.55 / 255), np.float32)


def background(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Clutter, float32 [H, W, 3] in 0-1: a mottled or striped ground under distracting patches of all colours."""
    first = color(rng.random(), rng.uniform(0.05, 0.6), rng.uniform(0.45, 1))
    second = color(rng.random(), rng.uniform(0.05, 0.6), rng.uniform(0.25, 0.95))
    canvas = _blend(first, second, _pattern(rng, shape))
    for _ in range(int(rng.integers(5, 14))):
        rows, columns, cover = _patch(rng, shape)
        hue, value = rng.random(), rng.uniform(0.2, 0.95)
        dark = color(hue + 0.05, rng.uniform(0.1, 0.8), 0.6 * value)
        texture = _blend(color(hue, rng.uniform(0.1, 0.8), value), dark, _pattern(rng, cover.shape))
        canvas[rows, columns] += cover[..., None] * (texture - canvas[rows, columns])
    fine = noise(rng, shape, 0.3 * max(shape), 1) - 0.5
    slope = 1 + rng.uniform(-0.3, 0.3) * np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None]
    lit = canvas * (slope * (1 + rng.uniform(0.05, 0.35) * fine))[..., None]
    return np.asarray(np.clip(lit, 0, 1), np.float32)


def _blend(first: Array, second: Array, mix: Array) -> Array:
    return np.asarray(first + mix[..., None] * (second - first), np.float32)


def _pattern(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """A texture in [0, 1]: clouds, mottles, grain, or wavy stripes."""
    kind = int(rng.integers(4))
    clouds = noise(rng, shape, rng.uniform(2, 8), 4)
    if kind == 0:
        return np.asarray(np.clip(1.6 * clouds - 0.3, 0, 1), np.float32)
    if kind == 1:
        return np.asarray(np.clip((clouds - 0.5) * rng.uniform(6, 20) + 0.5, 0, 1), np.float32)
    if kind == 2:
        return noise(rng, shape, rng.uniform(10, 30), 2, stretch=rng.uniform(1, 8))
    angle, period = rng.uniform(0, math.pi), rng.uniform(0.04, 0.2) * max(shape)
    rows, columns = np.indices(shape, dtype=np.float32)
    phase = (rows * math.cos(angle) + columns * math.sin(angle)) / period + 1.5 * clouds
    return np.asarray(np.clip(0.5 + rng.uniform(0.6, 3) * np.sin(2 * math.pi * phase), 0, 1), np.float32)


def _patch(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[slice, slice, Array]:
    """Cover of one distractor in [0, 1], in a box of the canvas: polygon, ellipse or bar, more or less out of focus."""
    cy, cx, reach = rng.random() * shape[0], rng.random() * shape[1], rng.uniform(0.05, 0.3) * max(shape)
    kind = int(rng.integers(3))
    extent = reach * (rng.uniform(1, 3) if kind == 2 else 1.2) + 6
    rows, columns = (
        slice(max(0, int(c - extent)), min(side, int(c + extent) + 1)) for c, side in zip((cy, cx), shape, strict=True)
    )
    image = Image.new("L", (columns.stop - columns.start, rows.stop - rows.start))
    drawing = ImageDraw.Draw(image)
    cx, cy = cx - columns.start, cy - rows.start
    if kind == 0:
        angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 8))))
        radii = reach * rng.uniform(0.5, 1.2, len(angles))
        drawing.polygon(
            [(cx + r * np.cos(a), cy + r * np.sin(a)) for a, r in zip(angles, radii, strict=True)], fill=255
        )
    elif kind == 1:
        rx, ry = reach * rng.uniform(0.3, 1), reach * rng.uniform(0.3, 1)
        drawing.ellipse((cx - rx, cy - ry, cx + rx, cy + ry), fill=255)
    else:
        angle = rng.uniform(0, np.pi)
        dx, dy = (extent - 6) * np.cos(angle), (extent - 6) * np.sin(angle)
        drawing.line((cx - dx, cy - dy, cx + dx, cy + dy), fill=255, width=int(rng.integers(2, 3 + int(reach / 4))))
    blurred = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 2)))
    return rows, columns, np.asarray(np.asarray(blurred, np.float32) * (rng.uniform(0.6, 1) / 255), np.float32)
