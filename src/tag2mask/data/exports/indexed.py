"""Masks as PNG: ids, or colors that labelmap.txt or the VOC palette names. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from tag2mask.base.arrays import Size, label_counts
from tag2mask.config import BACKGROUND, IGNORE
from tag2mask.data.dataset import UNNAMED, LabelMap, MaskCodes, voc_palette
from tag2mask.data.exports.drawn import Annotated, Export, LabelOf, Painted
from tag2mask.data.masks.folders import mask_pngs, named_codes
from tag2mask.data.masks.guesses import unnamed_colors
from tag2mask.data.masks.labels import VOC_FOLDERS
from tag2mask.data.storage.labelmap import LABELMAP, packed
from tag2mask.data.storage.pictures import PictureError, file_size, opened, read_ids

_TITLES = {
    "cvat": f"masks in the colors of {LABELMAP} (CVAT's Segmentation mask 1.1)",
    "voc": "masks with the ids or colors of PASCAL VOC",
    "png": "masks with ids",
}


def read_png_masks(folder: Path, classes: Path | None, mask_ids: Sequence[str]) -> Export:
    """NAME.png per picture, as CVAT's "Segmentation mask 1.1" has them in SegmentationClass/, or as label PNG.

    RGB masks without labelmap.txt are in the colors of the VOC palette.

    Args:
        folder: The folder of the masks; their class list is found as `data.masks.folders.named_codes` says.
        classes: `--classes`.
        mask_ids: Words of `--mask-ids`.

    Raises:
        DataError: no masks, or no class list.
    """
    masks, findings = mask_pngs(folder)
    names, codes = named_codes(folder, classes, mask_ids)
    pictures = [
        Annotated(name, str(path), partial(_paint, path, names, codes), partial(file_size, path))
        for name, path in masks.items()
    ]
    kind = "cvat" if codes.colors is not None else "voc" if folder.name in VOC_FOLDERS else "png"
    return Export(kind, _TITLES[kind], folder, pictures, names, findings)


def _paint(path: Path, names: Sequence[str], codes: MaskCodes, size: Size, label_of: LabelOf) -> Painted:
    colors = codes.colors
    if colors is None and _is_rgb(path):
        colors = _voc_colors(path, codes)
    ids = read_ids(path, size, colors)
    counts = label_counts(ids)
    table = np.full(256, IGNORE, dtype=np.uint8)
    foreign: list[str] = []
    for number in np.flatnonzero(counts).tolist():
        label = int(codes.table[number])
        if number not in codes.known:
            foreign += [f"id {number}"] if colors is None or number != UNNAMED else unnamed_colors(colors, path)
        elif label != IGNORE:
            table[number] = label_of(names[label - 1]) if label != BACKGROUND else BACKGROUND
    if colors is not codes.colors and 2 * counts[UNNAMED] > counts.sum():
        raise PictureError(
            f"Mask {path} is in colors that are none of the VOC palette ({', '.join(foreign[:2])}). Name them in "
            f"{LABELMAP} beside the masks, a line 'CLASS:r,g,b::' each."
        )
    return Painted(table[ids], foreign=tuple(foreign))


def _is_rgb(path: Path) -> bool:
    try:
        with path.open("rb") as file, opened(file) as image:
            return image.mode in ("RGB", "RGBA")
    except (OSError, SyntaxError, ValueError):  # who reads the pixels says it
        return False


def _voc_colors(path: Path, codes: MaskCodes) -> LabelMap:
    """The colors of the VOC palette for the ids that stand for something."""
    known = np.array(sorted(codes.known), dtype=np.uint8)
    colors = packed(voc_palette()[known])
    order = np.argsort(colors)
    return LabelMap(path, (), colors[order], known[order])
