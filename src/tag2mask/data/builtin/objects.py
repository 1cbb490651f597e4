"""The objects of the built-in data set: five kinds of things, rendered with numpy. Imports no torch.

Each renderer maps a square grid of object coordinates to what is seen there. `x` and `y` are float32 [n, n] in about
[-1, 1] (x right, y down); the light is a unit vector (x right, y down, z to the viewer) in the same frame.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[np.floating[Any]]
"""float32 or, where a product widened it, float64."""


class Surface(NamedTuple):
    """What a renderer gives."""

    inside: NDArray[np.bool_]
    """[n, n], where the object is."""
    rgb: Array
    """[n, n, 3], 0-1, anything outside."""


Renderer = Callable[[Array, Array, Array, np.random.Generator], Surface]


def noise(
    rng: np.random.Generator, shape: tuple[int, int], cells: float, octaves: int = 3, stretch: float = 1
) -> Array:
    """Value noise in about [0, 1]: octaves of bicubically enlarged random grids; the coarsest has `cells` cells.

    `stretch` divides the number of cells along x, which draws the noise out into grain.
    """
    total = np.zeros(shape, np.float32)
    weight = 0.0
    for octave in range(octaves):
        rows = max(2, round(cells * 2**octave) + 1)
        columns = max(2, round(cells * 2**octave / stretch) + 1)
        grid = Image.fromarray(rng.random((rows, columns), dtype=np.float32))
        total += np.asarray(grid.resize(shape[::-1], Image.Resampling.BICUBIC)) * 0.5**octave
        weight += 0.5**octave
    return np.asarray(total / weight, dtype=np.float32)


def color(hue: float, saturation: float, value: float) -> Array:
    """float32 [3], 0-1, of a hue that wraps around."""
    return np.array(colorsys.hsv_to_rgb(hue % 1, min(saturation, 1.0), min(value, 1.0)), np.float32)


def shade(
    rgb: Array, normal: tuple[Array, Array, Array], light: Array, *, gloss: float, ambient: float = 0.35
) -> Array:
    """Lambert shading with a Blinn highlight; `normal` need not have unit length."""
    length = np.sqrt(sum(n * n for n in normal)) + 1e-6
    diffuse = np.clip(sum(n * l for n, l in zip(normal, light, strict=True)) / length, 0, None)  # noqa: E741
    half = light + np.array([0, 0, 1], np.float32)
    half = half / np.linalg.norm(half)
    facing = np.clip(sum(n * h for n, h in zip(normal, half, strict=True)) / length, 0, 1)
    lit = rgb * (ambient + (1 - ambient) * diffuse)[..., None] + (gloss * facing**40)[..., None]
    return np.asarray(lit, dtype=np.float32)


def relief(height: Array, strength: float) -> tuple[Array, Array, Array]:
    """Normals of a height field; `strength` is in grid steps per unit of height."""
    down, right = np.gradient(height * strength)
    return -right, -down, np.ones_like(height)


def ball(x: Array, y: Array, light: Array, rng: np.random.Generator) -> Surface:
    """A beach ball: a shaded sphere with six or eight coloured gores and two caps."""
    square = x * x + y * y
    z = np.sqrt(np.clip(1 - square, 0, None))
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0].astype(np.float32)
    px, py, pz = (turn[i, 0] * x + turn[i, 1] * y + turn[i, 2] * z for i in range(3))
    gores = int(rng.choice((6, 8)))
    hue = rng.random()
    colors = np.stack(
        [
            color(hue, rng.uniform(0.6, 0.95), rng.uniform(0.6, 0.95)),
            color(hue, 0.05, rng.uniform(0.85, 1)),
            color(hue + rng.uniform(0.25, 0.75), rng.uniform(0.6, 0.95), rng.uniform(0.6, 0.95)),
            color(hue, 0.05, rng.uniform(0.85, 1)),
        ]
    )
    longitude = (np.arctan2(py, px) / (2 * np.pi) + 0.5) * gores
    rgb = colors[longitude.astype(np.int64) % 4]
    seam = np.abs(longitude - np.rint(longitude)) * np.sqrt(px * px + py * py) < 0.04
    rgb[seam] *= 0.75
    rgb[np.abs(pz) > 0.94] = colors[0] * 0.9
    rgb = rgb * (0.85 + 0.25 * noise(rng, x.shape, 4))[..., None]
    return Surface(square < 1, shade(rgb, (x, y, z), light, gloss=rng.uniform(0.25, 0.6)))


def crate(x: Array, y: Array, light: Array, rng: np.random.Generator) -> Surface:
    """A wooden box in perspective: planks with grain, a frame and a brace on each face."""
    yaw, pitch = rng.uniform(0.35, 1.2), rng.uniform(0.3, 0.75)
    cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    turn = np.array([[cy, 0, sy], [sp * sy, cp, -sp * cy], [-cp * sy, sp, cp * cy]], np.float32)
    edges = np.array([1, rng.uniform(0.7, 1.0), rng.uniform(0.8, 1.0)], np.float32)
    distance = 5.0
    ray = np.stack([x * 1.6 / distance, y * 1.6 / distance, -np.ones_like(x)], -1) @ turn
    eye = np.array([0, 0, distance], np.float32) @ turn
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = (np.stack([-edges, edges]) - eye)[:, None, None] / ray
    enter, leave = ends.min(0), ends.max(0)
    near = enter.max(-1)
    inside = near < leave.min(-1)
    face = enter.argmax(-1)
    point = (eye + np.where(inside, near, 0)[..., None] * ray) / edges
    across = np.where(face == 0, point[..., 2], point[..., 0])
    along = np.where(face == 1, point[..., 2], point[..., 1])
    rgb = _planks(across, along, face, rng)
    outward = np.take_along_axis(-np.sign(ray), face[..., None], -1)[..., 0]
    normals = outward[..., None] * turn.T[face]
    nx, ny, nz = (np.asarray(normals[..., i], np.float32) for i in range(3))
    return Surface(inside, shade(rgb, (nx, ny, nz), light, gloss=0.0, ambient=0.3))


def _planks(across: Array, along: Array, face: NDArray[np.int64], rng: np.random.Generator) -> Array:
    """Wood of a face with coordinates in [-1, 1]: boards along x, grain, gaps, frame and brace."""
    base = color(rng.uniform(0.05, 0.13), rng.uniform(0.3, 0.65), rng.uniform(0.6, 0.9))
    grain = noise(rng, (256, 256), 24, 3, stretch=8)
    frame = np.maximum(np.abs(across), np.abs(along)) > 0.76
    brace = (np.abs(across - along * rng.choice((-1, 1))) < 0.2) & ~frame
    turned = (frame & (np.abs(across) > np.abs(along))) | brace
    u, v = np.where(turned, along, across), np.where(turned, across, along)
    boards = int(rng.integers(4, 6))
    board = np.floor((v + 1) / 2 * boards)
    rows = ((v * 0.5 + 0.5) * 255 + 37 * face).astype(np.int64) % 256
    columns = ((u * 0.5 + 0.5) * 255 + 53 * board + 90 * turned).astype(np.int64) % 256
    tone = 0.55 + 0.6 * grain[rows, columns] + 0.06 * np.sin(board * 2.4 + face)
    gap = (np.abs(v * boards / 2 - np.rint(v * boards / 2 + boards / 2) + boards / 2) < 0.06) & ~turned & ~frame
    edge = (np.abs(np.maximum(np.abs(across), np.abs(along)) - 0.76) < 0.03) | (
        np.abs(np.abs(across - along) - 0.2) < 0.03
    ) & brace
    tone = np.where(gap | edge, tone * 0.45, tone * np.where(frame | brace, 1.1, 0.9))
    return np.asarray(base * tone[..., None], np.float32)


def leaf(x: Array, y: Array, light: Array, rng: np.random.Generator) -> Surface:
    """A leaf: a bent, serrated blade with midrib, side veins and a stalk."""
    bend, fold = rng.uniform(-0.35, 0.35), rng.uniform(0.3, 0.9)
    side = x - bend * (y * y - 0.4)
    base = np.clip(1 - (y / 0.88) ** 2, 0, None)
    teeth = 1 + 0.07 * ((y * rng.uniform(7, 11)) % 1 - 0.5)
    width = rng.uniform(0.48, 0.66) * base**0.75 * (1 + 0.35 * y) * teeth
    blade = (np.abs(side) < width) & (np.abs(y) < 0.88)
    stalk = (np.abs(side) < 0.035) & (y > 0) & (y < 1)
    vein = (y + np.abs(side) * 0.9) * rng.uniform(4.5, 7)
    ridge = np.abs(vein - np.rint(vein))
    veins = (ridge < 0.07) | (np.abs(side) < 0.028)
    hue = rng.choice((rng.uniform(0.22, 0.38), rng.uniform(0.22, 0.38), rng.uniform(0.0, 0.14)))
    inner = color(hue, rng.uniform(0.55, 0.9), rng.uniform(0.5, 0.8))
    outer = color(hue - rng.uniform(0.02, 0.1), rng.uniform(0.6, 0.9), rng.uniform(0.35, 0.6))
    mix = np.clip(0.25 + np.abs(side) / 0.6 + 0.9 * (noise(rng, x.shape, 5) - 0.5), 0, 1)[..., None]
    rgb = inner * (1 - mix) + outer * mix
    rgb = np.where(veins[..., None], rgb * 0.6 + 0.4 * color(hue - 0.03, 0.35, 0.9), rgb)
    rgb = np.where((stalk & ~blade)[..., None], outer * 0.8, rgb)
    swell = 0.35 * np.sin(ridge * np.pi)
    normal = (fold * np.sign(side) * (0.4 + np.abs(side)) + 0 * y, swell - 0.2 * y, np.ones_like(x))
    return Surface(blade | stalk, shade(np.asarray(rgb, np.float32), normal, light, gloss=0.15, ambient=0.4))


def donut(x: Array, y: Array, light: Array, rng: np.random.Generator) -> Surface:
    """A glazed ring with sprinkles; the hole shows what is behind it."""
    squash = rng.uniform(0.7, 1.0)
    y = np.asarray(y / squash, np.float32)
    radius = np.sqrt(x * x + y * y) + 1e-6
    middle = rng.uniform(0.6, 0.68)
    tube = (radius - middle) / (1 - middle)
    z = np.sqrt(np.clip(1 - tube * tube, 0, None))
    wobble = noise(rng, x.shape, 7, 2)
    dough = color(rng.uniform(0.07, 0.1), rng.uniform(0.45, 0.65), rng.uniform(0.65, 0.85))
    glaze = color(rng.random(), rng.uniform(0.15, 0.75), rng.uniform(0.35, 0.95))
    iced = np.abs(tube) < 0.55 + 0.5 * wobble
    rgb = np.where(iced[..., None], glaze, dough * (0.75 + 0.5 * noise(rng, x.shape, 20, 2))[..., None])
    for _ in range(int(rng.integers(30, 55))):
        angle, ring, turn = rng.uniform(0, 2 * np.pi), middle + 0.2 * rng.uniform(-1, 1), rng.uniform(0, np.pi)
        dx, dy = x - ring * math.cos(angle), y - ring * math.sin(angle)
        along = np.abs(dx * math.cos(turn) + dy * math.sin(turn))
        across = np.abs(dy * math.cos(turn) - dx * math.sin(turn))
        rgb[(along < 0.06) & (across < 0.024)] = color(rng.random(), 0.75, 0.95)
    normal = (tube * x / radius, tube * y / radius, z)
    gloss = np.where(iced, 0.4, 0.05).astype(np.float32)
    lit = shade(np.asarray(rgb, np.float32), normal, light, gloss=0.0)
    glow = shade(np.zeros_like(lit), normal, light, gloss=1.0)
    return Surface(np.abs(tube) < 1, lit + gloss[..., None] * glow)


def starfish(x: Array, y: Array, light: Array, rng: np.random.Generator) -> Surface:
    """Five tapering, bent arms with rows of bumps."""
    radius = np.sqrt(x * x + y * y) + 1e-6
    angle = np.arctan2(y, x) + rng.uniform(-0.7, 0.7) * radius
    arm = (angle * 5 / (2 * np.pi)) % 1 - 0.5
    away = radius * np.sin(np.abs(arm) * 2 * np.pi / 5)
    ahead = radius * np.cos(arm * 2 * np.pi / 5)
    width = rng.uniform(0.27, 0.36) * np.clip(1.02 - ahead, 0, None) ** 0.6
    inside = (away < width) & (ahead < 1)
    height = np.sqrt(np.clip(1 - (away / (width + 1e-6)) ** 2, 0, 1)) * (1.1 - 0.7 * np.clip(radius, 0, 1))
    pitch = rng.uniform(0.09, 0.13)
    dots = np.cos(ahead * 2 * np.pi / pitch) * np.cos(away * 2 * np.pi / pitch)
    bumps = np.clip(dots - 0.1, 0, 1)
    base = color(rng.choice((rng.uniform(-0.05, 0.12), rng.random())), rng.uniform(0.5, 0.9), rng.uniform(0.55, 0.9))
    rgb = base * (0.75 + 0.4 * noise(rng, x.shape, 8))[..., None]
    rgb = rgb + (bumps[..., None] > 0.35) * (0.85 - rgb) * 0.55
    step = 1 / (x[0, 1] - x[0, 0]) if x.shape[1] > 1 else 1.0
    normal = relief(np.asarray(0.3 * height + 0.025 * bumps, np.float32), abs(float(step)))
    return Surface(inside, shade(np.asarray(rgb, np.float32), normal, light, gloss=0.12))


OBJECTS: dict[str, Renderer] = {"ball": ball, "crate": crate, "donut": donut, "leaf": leaf, "starfish": starfish}
"""Renderer of each class, in the order of the labels."""
