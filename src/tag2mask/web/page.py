"""The layout of the page, in Gradio."""

from __future__ import annotations

import html
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from tag2mask.data.storage.suffixes import PICTURE_SUFFIXES
from tag2mask.inference.segmenter import Segmenter
from tag2mask.web.actions import RankedPicture, look, save

log = logging.getLogger("tag2mask")

MAX_FILES = 20
"""Pictures that may lie on the page at a time."""
CSS = """
.gradio-container { max-width: 1200px !important; margin: 0 auto !important; }
footer { display: none !important; }
#picture-choice label, #ranked-choice label { overflow-wrap: anywhere; }
#files button .wrap { min-height: 0 !important; padding-top: 28px; }
#steps, #steps .gallery-container, #steps .grid-wrap { height: auto !important; min-height: 0 !important; }
#steps .grid-container { padding-top: 36px; }
#steps .caption-label { max-width: 100%; white-space: normal; }
@media (max-width: 640px) {
  .gradio-container { padding: 10px !important; }
  #controls, #results { display: contents !important; }
  #body > *, #controls > *, #results > * { flex: 1 1 100% !important; }
  #scores { order: 1; }
}
"""
"""On a telephone the two columns become one, with the tag scores below the mask instead of above it."""
THEME = gr.themes.Soft(
    primary_hue="blue",
    neutral_hue="slate",
    font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
    font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"],
)
"""With the fonts of the reader's machine; none is fetched."""

_NO_FILE = gr.update(value=None, interactive=False)
_NOTHING: tuple[Any, ...] = (None, [], None, _NO_FILE, _NO_FILE, _NO_FILE)


def build_page(
    segmenter: Segmenter, title: str, folder: Path, ranked: Sequence[RankedPicture] = (), *, uploads: Path
) -> gr.Blocks:
    """The page of one model of the name `title`.

    Below `folder`, nothing else, is what the page may hand out; only pictures in `uploads`, those that were dropped,
    and `ranked`, those to look at first, are ever read.
    """
    places = {each.title: each.path for each in ranked}

    def show(path: str | None, crf: bool, tags: list[str]) -> tuple[Any, ...]:
        if not path:
            return _NOTHING
        place = Path(path).resolve()
        if not place.is_relative_to(uploads.resolve()) and place not in places.values():
            raise gr.Error("This picture was not dropped here. Drop it onto the page.")
        try:
            seen = look(segmenter, path, crf=crf, tags=tags)
            files = save(folder, Path(path).name, seen.prediction)
        except (ValueError, OSError) as error:
            # gradio puts the text into the page as HTML
            raise gr.Error(html.escape(f"{Path(path).name}: {str(error).replace(str(path), 'the file')}")) from error
        buttons = (gr.update(value=str(file), interactive=True) for file in (files.mask, files.coco, files.overlay))
        return seen.overlay, seen.steps, seen.scores, *buttons

    def choose(files: list[str] | None) -> tuple[Any, None, str | None]:
        if files and len(files) > MAX_FILES:
            raise gr.Error(f"{len(files)} pictures are too many for the page; drop at most {MAX_FILES}.")
        names = [(Path(file).name, file) for file in files or ()]
        path = names[0][1] if names else None
        return gr.Radio(choices=names, value=path, visible=len(names) > (0 if ranked else 1)), None, path

    def rank(title: str | None) -> Any:
        # gradio also sends None where the list is only passed with the tabulator
        return (gr.skip(), gr.skip()) if title is None else (None, str(places[title]))

    page: gr.Blocks
    with gr.Blocks(title=f"tag2mask: {title}", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.Markdown("# tag2mask\nWhat is in a picture, and where. Everything stays on this machine.")
        current = gr.State(None)
        with gr.Row(elem_id="body"):
            files, choice, first, crf, tags, scores = _controls(segmenter.classes, list(places))
            overlay, mask_file, coco_file, overlay_file, steps = _results()
        shown = [overlay, steps, scores, mask_file, coco_file, overlay_file]
        # only what a person does, so that one list can be cleared when the other is used
        files.change(choose, files, [choice, first, current], api_visibility="private")
        choice.input(lambda path: (None, path), choice, [first, current], api_visibility="private")
        first.input(rank, first, [choice, current], api_visibility="private")
        once: Any = {"api_visibility": "private", "concurrency_limit": 1, "show_progress": "minimal"}
        for control in (current, crf, tags):
            control.change(show, [current, crf, tags], shown, **once)
    return page


def _controls(classes: Sequence[str], ranked: list[str]) -> tuple[Any, ...]:
    """The left column: files, two lists of pictures, CRF, tags, tag scores."""
    with gr.Column(scale=1, min_width=280, elem_id="controls"):
        return (
            gr.File(
                label="Pictures: drop or choose",
                file_count="multiple",
                file_types=sorted(PICTURE_SUFFIXES),
                type="filepath",
                height=150,
                elem_id="files",
            ),
            gr.Radio(label="Picture", choices=[], visible=False, elem_id="picture-choice"),
            gr.Dropdown(
                label="Look at these first", choices=ranked, value=None, visible=bool(ranked), elem_id="ranked-choice"
            ),
            gr.Checkbox(label="Refine the outline (dense CRF)", value=False, elem_id="crf"),
            gr.CheckboxGroup(
                label="Classes known to be in it (none: all are open)", choices=list(classes), elem_id="tags"
            ),
            gr.Label(label="Tag scores", num_top_classes=min(8, len(classes)), elem_id="scores"),
        )


def _results() -> tuple[Any, ...]:
    """The right column: mask, three files to save, the steps to it."""
    files = (("Save mask (PNG)", "save-mask"), ("Save COCO (JSON)", "save-coco"), ("Save picture", "save-overlay"))
    full: Any = ["fullscreen"]
    with gr.Column(scale=2, min_width=280, elem_id="results"):
        overlay = gr.Image(label="Mask", type="pil", interactive=False, buttons=full, elem_id="overlay", format="png")
        with gr.Row():
            buttons = [gr.DownloadButton(label, size="sm", elem_id=name, interactive=False) for label, name in files]
        steps = gr.Gallery(
            label="How the method sees it", columns=2, height=None, object_fit="contain", elem_id="steps", buttons=full
        )
    return overlay, *buttons, steps
