"""HTML pages that need no other file: readable on a telephone and on paper. Imports no torch.

A page is a Jinja2 template beside the module that writes it; it extends base/templates/page.html, which holds frame and
style. Everything a template NAME.html shows is escaped; other templates make text that is no HTML.
"""

from __future__ import annotations

import base64
import io
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from PIL import Image

from tag2mask.base.files import write_text


def write_page(path: Path, template: str, **values: object) -> Path:
    """Write a page as a whole; see `rendered`. Every page shows `title` and `summary`, a sentence or two or nothing."""
    return write_text(path, rendered(template, **values))


def rendered(template: str, **values: object) -> str:
    """The text of a template with its values; its name is its path in the package, such as "training/report.html"."""
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    package = Path(__file__).parents[1]
    environment = Environment(
        loader=FileSystemLoader(package),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["data_uri"] = data_uri
    return environment


def data_uri(image: Image.Image | Path) -> str:
    """The address that holds the picture itself: a PNG or JPEG file as it is, anything else as JPEG."""
    if isinstance(image, Path):
        data = image.read_bytes()
    else:
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, format="JPEG", quality=85)
        data = buffer.getvalue()
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
