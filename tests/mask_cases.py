"""Masks that are hard to write, with the names that are, for the tests of the output formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("kitty", "sheep dog", "größe")


def blobs(rng: np.random.Generator, size: tuple[int, int], labels: int, free: float = 0.7) -> np.ndarray:
    """Smooth random regions that touch each other and have holes; background where nothing is above `free`."""
    h, w = size
    coarse = rng.random((labels, h // 4 + 2, w // 4 + 2)).astype(np.float32)
    fields = np.stack([np.asarray(Image.fromarray(f).resize((w, h), Image.Resampling.BICUBIC)) for f in coarse])
    return np.where(fields.max(0) < free, 0, fields.argmax(0) + 1).astype(np.uint8)


def hard_masks() -> dict[str, np.ndarray]:
    """Labels by name; names have blanks, other alphabets, dots and sub-folders."""
    rng = np.random.default_rng(5)
    masks = {
        "blobs": blobs(rng, (61, 83), 3),
        "sub/with blanks": blobs(rng, (40, 33), 3, free=0.0),
        "sub/deep/größe v1.2": rng.integers(0, 4, (19, 23)).astype(np.uint8),
        "写真": np.kron(rng.integers(0, 2, (9, 11)), np.full((3, 2), 3)).astype(np.uint8),
        "whole": np.full((12, 17), 2, np.uint8),
        "empty": np.zeros((8, 5), np.uint8),
        "dot": np.zeros((1, 1), np.uint8) + 1,
        "corners": np.zeros((10, 14), np.uint8),
        "ignored only": np.full((6, 7), 255, np.uint8),
        "rings": np.zeros((31, 31), np.uint8),
    }
    for y, x in ((0, 0), (0, 13), (9, 0), (9, 13), (4, 4), (5, 5)):
        masks["corners"][y, x] = 1
    distance = np.abs(np.mgrid[-15:16, -15:16]).max(0)
    masks["rings"][distance % 4 < 2] = 2  # rings in the holes of rings
    masks["blobs"][20:30, 10:70] = 255
    masks["sub/with blanks"][0, :] = 255
    return masks


def write_masks(folder: Path, masks: dict[str, np.ndarray], classes: tuple[str, ...] = CLASSES) -> Path:
    """FOLDER/masks/NAME.png and FOLDER/classes.txt, written with Pillow alone; gives the folder of the masks."""
    for name, labels in masks.items():
        path = folder / "masks" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(labels)
        image.putpalette(list(range(256)) * 3)
        image.save(path)
    (folder / "classes.txt").write_text("\n".join(classes), encoding="utf-8")
    return folder / "masks"


def even_odd(polygons: list, size: tuple[int, int]) -> np.ndarray:
    """bool [H, W]: pixels whose center an odd number of edges has on its left. Polygons are [n, 2], (x, y)."""
    h, w = size
    inside = np.zeros((h, w), bool)
    for polygon in polygons:
        points = np.asarray(polygon, float)
        for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
            for row in range(h):
                y = row + 0.5 + 1e-6  # slits run through the very middle of a row
                if (y0 <= y) != (y1 <= y):
                    x = x0 + (y - y0) / (y1 - y0) * (x1 - x0)
                    inside[row] ^= np.arange(w) + 0.5 > x
    return inside


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union; 1 for two empty ones."""
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 1.0
