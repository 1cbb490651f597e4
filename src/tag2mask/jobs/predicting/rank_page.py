"""rank.html: the pictures that a person should look at first, with their masks. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tag2mask.base.files import write_text
from tag2mask.base.html import escaped, html_page, html_tiles, image_tag
from tag2mask.data.storage.pictures import PictureError, opened, read_picture
from tag2mask.jobs.predicting.ranking import Ranked
from tag2mask.outputs import render

_SHOWN = 60
_THUMBNAIL = 320

_STYLE = """
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(260px, 1fr)); gap: 18px; margin-top: 24px; }
.card { border: 1px solid var(--line); border-radius: 10px; padding: 10px; overflow-wrap: anywhere;
  break-inside: avoid; }
.card img { width: 100%; border-radius: 6px; display: block; margin-bottom: 8px; }
.card b { font-size: 1.05rem; } .card p { margin: 4px 0 0; font-size: .92rem; }
"""


def write_page(path: Path, order: Sequence[Ranked], classes: Sequence[str]) -> Path:
    """Write rank.html: the first pictures of the list with their masks, and why they are there."""
    shown = order[:_SHOWN]
    cards = "".join(_card(number, each, classes) for number, each in enumerate(shown, start=1))
    more = f" The first {len(shown)} of {len(order)} are shown; rank.csv has all." if len(order) > len(shown) else ""
    tiles = {"pictures": str(len(order))}
    if order:
        tiles |= {"highest score": f"{order[0].review.score:.2f}", "median": f"{_median(order):.2f}"}
    summary = (
        "Pictures that a person should look at first: mask, tags and class activation maps disagree, or the network is "
        f"not sure. Scores lie in 0 to 1.{more}"
    )
    body = [html_tiles(tiles), f'<div class="cards">{cards}</div>']
    return write_text(path, html_page("What to look at first", body, summary=summary, style=_STYLE))


def _median(order: Sequence[Ranked]) -> float:
    return float(np.median([each.review.score for each in order]))


def _card(number: int, each: Ranked, classes: Sequence[str]) -> str:
    r = each.review
    parts = f"margin {r.margin:.2f}, tags {r.tags:.2f}" + ("" if r.cam is None else f", CAM {r.cam:.2f}")
    return (
        f'<div class="card">{_thumbnail(each, classes)}<b>{number}. {escaped(each.file)}</b>'
        f'<p>{escaped(r.reason)}</p><p class="faint">score {r.score:.2f}: {parts}</p></div>'
    )


def _thumbnail(each: Ranked, classes: Sequence[str]) -> str:
    try:
        picture = Image.fromarray(read_picture(each.path))
        with opened(each.mask) as file:
            labels = np.asarray(file.resize(_fitted(picture.size), Image.Resampling.NEAREST))
    except (PictureError, OSError):
        return ""
    small = np.asarray(picture.resize(_fitted(picture.size), Image.Resampling.BILINEAR))
    return image_tag(render.overlay(small, labels, classes), f"{each.file} with its mask")


def _fitted(size: tuple[int, int]) -> tuple[int, int]:
    factor = min(1.0, _THUMBNAIL / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))
