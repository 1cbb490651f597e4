"""Frame, style and pieces of our one-file HTML pages: readable on a telephone and on paper. Imports no torch."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

from PIL import Image

STYLE = """
:root { --ink: #1c2028; --faint: #616875; --line: #e2e5ea; --tint: #f6f7f9; --accent: #1f5fbf; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: #fff; line-height: 1.5;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; font-size: 16px; }
main { max-width: 1120px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 8px; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 40px 0 10px; padding-top: 14px; border-top: 1px solid var(--line); }
p { margin: 0 0 12px; max-width: 72ch; } .faint { color: var(--faint); font-size: .9rem; }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; margin: 20px 0 0; }
.tile { flex: 1 1 150px; background: var(--tint); border-radius: 10px; padding: 12px 16px; }
.tile b { display: block; font-size: 1.6rem; line-height: 1.25; } .tile span { color: var(--faint); font-size: .9rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 6px 10px; border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--faint); font-size: .9rem; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; } tr.total td { font-weight: 700; border-top: 2px solid var(--ink); }
td.best { color: var(--accent); font-weight: 700; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 20px; }
.charts svg { width: 100%; height: auto; display: block; }
figure { margin: 0 0 24px; } figcaption { color: var(--faint); font-size: .9rem; margin-bottom: 6px; }
figure img { display: block; width: 100%; min-width: 760px; border: 1px solid var(--line); border-radius: 6px; }
details { border: 1px solid var(--line); border-radius: 8px; padding: 8px 14px; margin: 10px 0; }
summary { cursor: pointer; font-weight: 600; }
details td { text-align: left; font-size: .85rem; font-family: ui-monospace, Menlo, Consolas, monospace;
  overflow-wrap: anywhere; }
h3 { font-size: 1rem; margin: 24px 0 8px; }
.bars { display: grid; gap: 5px 10px; max-width: 720px;
  grid-template-columns: minmax(70px, max-content) minmax(60px, 1fr) minmax(0, max-content);
  align-items: center; font-variant-numeric: tabular-nums; font-size: .92rem; }
.bars .name { overflow-wrap: anywhere; max-width: 38vw; } .bars .count { text-align: right; }
.bars svg { width: 100%; height: 14px; display: block; }
figure.narrow { margin-top: 24px; } figure.narrow img { min-width: 0; }
.confusion td { text-align: center; border: 1px solid #fff; padding: 5px; min-width: 42px;
  print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.confusion th { text-align: center; } .confusion td:first-child, .confusion th:first-child { text-align: left; }
.confusion .none { color: var(--faint); }
@media (max-width: 480px) { main { padding: 20px 14px 40px; } h1 { font-size: 1.4rem; }
  th, td { padding: 6px; font-size: .9rem; } }
@media print { main { padding: 0; max-width: none; } figure img { min-width: 0; } .wide { overflow: visible; }
  h2, h3 { break-after: avoid; } figure, .charts svg, .bars, table, tr { break-inside: avoid; }
  .bars svg { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  .tile, body { print-color-adjust: exact; } }
"""


def html_page(title: str, sections: Iterable[str], *, summary: str = "", style: str = "") -> str:
    """A whole page that needs no other file.

    Args:
        title: Heading and title, plain text.
        sections: HTML, in order; empty ones are left out.
        summary: A sentence or two below the heading, plain text.
        style: CSS after the common one.
    """
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escaped(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}{style}</style></head><body><main><h1>{escaped(title)}</h1>"
        + (f"<p>{escaped(summary)}</p>" if summary else "")
        + "\n".join(filter(None, sections))
        + "</main></body></html>\n"
    )


def escaped(value: object) -> str:
    """Any text, safe between tags and in quoted attributes."""
    return html.escape(str(value))


def html_tiles(tiles: Mapping[str, str]) -> str:
    """Numbers to see first, by caption."""
    cells = "".join(f'<div class="tile"><b>{escaped(v)}</b><span>{escaped(k)}</span></div>' for k, v in tiles.items())
    return f'<div class="tiles">{cells}</div>'


def html_table(values: Mapping[str, str]) -> str:
    """A table of names and values."""
    rows = "".join(f"<tr><td>{escaped(key)}</td><td>{escaped(value)}</td></tr>" for key, value in values.items())
    return f"<table><tbody>{rows}</tbody></table>"


def image_tag(image: Image.Image | Path, alt: str) -> str:
    """An img element that holds the picture itself: a PNG or JPEG file as it is, anything else as JPEG."""
    if isinstance(image, Path):
        data = image.read_bytes()
    else:
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, format="JPEG", quality=85)
        data = buffer.getvalue()
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    return f'<img alt="{escaped(alt)}" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'
