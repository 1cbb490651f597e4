"""rank.html: the pictures that a person should look at first, with their masks. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from tag2mask.base import html
from tag2mask.data.storage.pictures import PictureError, opened, read_picture
from tag2mask.jobs.predicting.ranking import Ranked
from tag2mask.outputs import render

_SHOWN = 60
_THUMBNAIL = 320
"""Longer side in pixels."""


def write_page(path: Path, order: Sequence[Ranked], classes: Sequence[str]) -> Path:
    """Write rank.html: the first pictures of the list with their masks, and why they are there."""
    shown = order[:_SHOWN]
    more = f" The first {len(shown)} of {len(order)} are shown; rank.csv has all." if len(order) > len(shown) else ""
    numbers = {"pictures": str(len(order))}
    if order:
        scores = [each.review.score for each in order]
        numbers |= {"highest score": f"{scores[0]:.2f}", "median": f"{median(scores):.2f}"}
    return html.write_page(
        path,
        "jobs/predicting/rank.html",
        title="What to look at first",
        summary="Pictures that a person should look at first: mask, tags and class activation maps disagree, or the "
        f"network is not sure. Scores lie in 0 to 1.{more}",
        numbers=numbers,
        cards=[(each.file, _with_mask(each, classes), each.review) for each in shown],
    )


def _with_mask(each: Ranked, classes: Sequence[str]) -> Image.Image | None:
    """The picture under its mask, small; None where either cannot be read."""
    try:
        picture = Image.fromarray(read_picture(each.path))
        factor = min(1.0, _THUMBNAIL / max(picture.size))
        size = max(1, round(picture.width * factor)), max(1, round(picture.height * factor))
        with opened(each.mask) as file:
            labels = np.asarray(file.resize(size, Image.Resampling.NEAREST))
    except (PictureError, OSError):
        return None
    small = np.asarray(picture.resize(size, Image.Resampling.BILINEAR))
    return render.overlay(small, labels, classes)
