"""The layout of the page, in Gradio."""

from __future__ import annotations

import html
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from tag2mask.data.pictures import PICTURE_SUFFIXES
from tag2mask.prediction import Segmenter
from tag2mask.web.actions import RankedPicture, look, save

log = logging.getLogger("tag2mask")

MAX_FILES = 20
"""Pictures that may lie on the page at a time."""
CSS = """
.gradio-container { max-width: 1200px !important; margin: 0 auto !important; }
footer { display: none !important; }
#picture-choice label, #ranked-choice label { overflow-wrap: anywhere; }
@media (max-width: 640px) { .gradio-container { padding: 10px !important; } }
"""
THEME = gr.themes.Soft(
    primary_hue="blue",
    neutral_hue="slate",
    font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
    font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"],
)
"""With the fonts of the reader's machine; none is fetched."""

_NOTHING: tuple[Any, ...] = (None, [], None, None, None, None)


def build_page(
    segmenter: Segmenter, title: str, folder: Path, ranked: Sequence[RankedPicture] = (), *, uploads: Path
) -> gr.Blocks:
    """The page of one model.

    Args:
        segmenter: The model.
        title: Name of the model.
        folder: For the files that are saved; below it, nothing else, is what the page may hand out.
        ranked: Pictures to look at first.
        uploads: Folder of the pictures that were dropped; only these and `ranked` are ever read.
    """
    classes, places = list(segmenter.classes), {each.title: each.path for each in ranked}

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
        return seen.overlay, seen.steps, seen.scores, str(files.mask), str(files.coco), str(files.overlay)

    def choose(files: list[str] | None) -> Any:
        if files and len(files) > MAX_FILES:
            raise gr.Error(f"{len(files)} pictures are too many for the page; drop at most {MAX_FILES}.")
        names = [(Path(file).name, file) for file in files or ()]
        return gr.Radio(choices=names, value=names[0][1] if names else None, visible=len(names) > 1)

    def rank(title: str | None) -> str | None:
        return None if title is None else str(places[title])

    page: gr.Blocks
    with gr.Blocks(title=f"tag2mask: {title}", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.Markdown("# tag2mask\nWhat is in a picture, and where. Everything stays on this machine.")
        current = gr.State(None)
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                files = gr.File(
                    label="Pictures: drop or choose",
                    file_count="multiple",
                    file_types=sorted(PICTURE_SUFFIXES),
                    type="filepath",
                    height=150,
                    elem_id="files",
                )
                choice = gr.Radio(label="Picture", choices=[], visible=False, elem_id="picture-choice")
                if ranked:
                    first = gr.Dropdown(
                        label="Look at these first", choices=list(places), value=None, elem_id="ranked-choice"
                    )
                crf = gr.Checkbox(label="Refine the outline (dense CRF)", value=False, elem_id="crf")
                tags = gr.CheckboxGroup(label="Classes known to be in it (none: all are open)", choices=classes)
                scores = gr.Label(label="Tag scores", num_top_classes=min(8, len(classes)))
            with gr.Column(scale=2, min_width=280):
                overlay = gr.Image(
                    label="Mask", type="pil", interactive=False, buttons=["fullscreen"], elem_id="overlay", format="png"
                )
                with gr.Row():
                    mask_file = gr.DownloadButton("Save mask (PNG)", size="sm", elem_id="save-mask")
                    coco_file = gr.DownloadButton("Save COCO (JSON)", size="sm", elem_id="save-coco")
                    overlay_file = gr.DownloadButton("Save picture", size="sm", elem_id="save-overlay")
                steps = gr.Gallery(
                    label="How the method sees it", columns=2, height=None, object_fit="contain", elem_id="steps",
                    buttons=["fullscreen"],
                )  # fmt: skip
        shown = [overlay, steps, scores, mask_file, coco_file, overlay_file]
        files.change(choose, files, choice, api_visibility="private")
        choice.change(lambda path: path, choice, current, api_visibility="private")
        if ranked:
            first.change(rank, first, current, api_visibility="private")
        for control in (current, crf, tags):
            control.change(
                show,
                [current, crf, tags],
                shown,
                api_visibility="private",
                concurrency_limit=1,
                show_progress="minimal",
            )
    return page
