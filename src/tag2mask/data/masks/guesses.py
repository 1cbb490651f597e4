"""What ids and colors that stand for nothing may stand for, by the tags of the pictures that show them.

Only messages use these guesses; no mask is ever read by them. Imports no torch.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np

from tag2mask.config import BACKGROUND, IGNORE
from tag2mask.data.dataset import UNNAMED, LabelMap
from tag2mask.data.masks.counts import MaskCounts
from tag2mask.data.storage.labelmap import packed
from tag2mask.data.storage.pictures import open_picture, opened

_ALIKE = 0.8
"""Jaccard index of the pictures with an id and those with a tag from which on one may stand for the other."""


def guessed_classes(counts: MaskCounts) -> dict[int, int]:
    """Class of ids whose pictures are (nearly) those with its tag, or where the order leaves no other."""
    background = _background(counts)
    free = [number for number in (*counts.foreign, *([IGNORE] if counts.ignored else [])) if number != background]
    wanted = list(counts.absent)
    if background is not None and 0 < (label := int(counts.codes.table[background])) <= len(counts.classes):
        wanted = sorted({*wanted, label - 1})
    ids = [number for number in np.flatnonzero(counts.pixels).tolist() if number not in (BACKGROUND, background)]
    both = counts.together[ids][:, wanted]
    alike = both / np.maximum(counts.in_masks[ids, None] + counts.tagged[wanted] - both, 1)
    found = dict[int, int]()
    for row, column in zip(*np.nonzero(alike >= _ALIKE), strict=True):
        best = alike[row, column]
        if (alike[row] >= best).sum() == (alike[:, column] >= best).sum() == 1:
            found[ids[row]] = wanted[column]
    if wanted and len(found) == len(wanted):
        return found
    wanted = wanted or [i for i in range(len(counts.classes)) if not counts.labels[i + 1]]
    order = counts.foreign if len(counts.foreign) == len(wanted) else free
    return dict(zip(order, wanted, strict=True)) if len(order) == len(wanted) and background is None else found


def guessed_mask_ids(counts: MaskCounts) -> str:
    """What --mask-ids may have to say, quoted for a shell; "" where nothing can be guessed."""
    background, guesses = _background(counts), guessed_classes(counts)
    words = [f"{number}={counts.classes[i]}" for number, i in guesses.items()]
    first = [f"{background}=background"] if background is not None and background not in guesses else []
    return shlex.join([*first, *words])


def guessed_labelmap(counts: MaskCounts) -> list[str]:
    """Lines of a labelmap.txt: `cat:128,0,0::`."""
    return [f"{counts.classes[i]}:{_color(counts, number)}::" for number, i in guessed_classes(counts).items()]


def unnamed_colors(colors: LabelMap, path: Path) -> list[str]:
    """Colors of a mask that labelmap.txt does not name, the most frequent first: `128,0,0`."""
    with open_picture(path) as file, opened(file) as image:
        values, counts = np.unique(packed(np.asarray(image.convert("RGB"))), return_counts=True)
    strange = colors.ids_of(values.astype(np.uint32)) == UNNAMED
    order = values[strange][np.argsort(-counts[strange])][:3].tolist()
    return [f"{color >> 16},{color >> 8 & 255},{color & 255}" for color in order]


def _background(counts: MaskCounts) -> int | None:
    """The one id that is in every mask, though 0 is in none and it is no class that all pictures have as tag."""
    index = counts.codes.table.astype(int) - 1
    tagged = np.pad(counts.tagged, (0, 256))[index] * (index >= 0)  # of the class of each id
    found = np.flatnonzero((counts.in_masks == counts.masks) & (tagged < counts.masks)).tolist()
    if counts.masks < 2 or counts.pixels[BACKGROUND] or len(found) != 1 or np.count_nonzero(counts.pixels) == 1:
        return None
    return int(found[0])


def _color(counts: MaskCounts, number: int) -> str:
    """The color of an id in a mask where it occurs: of its palette, else grey."""
    path = counts.examples.get(number)
    if path is not None:
        with open_picture(path) as file, opened(file, None) as image:
            palette = image.getpalette("RGB") if image.mode == "P" else None
        if palette is not None and 3 * number + 2 < len(palette):
            return ",".join(map(str, palette[3 * number : 3 * number + 3]))
    return ",".join([str(number)] * 3)
