"""The last line of a command: the next sensible one, ready to paste. Imports no torch."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tag2mask.config import RetrainConfig, RunConfig, load_config
from tag2mask.formats import DataOptions

if TYPE_CHECKING:
    from tag2mask.data import PictureSet

_USUAL = {"split": "val", "data_format": "auto", "others": "ignore", "tags_from": "tags"}
"""What these options are anyway."""
_BEST_MASKS: dict[str, object] = {"crf": True, "scales": 1.5}
"""What `pseudo-label` is told for masks to train on (docs/results.md)."""


def next_command(*words: object, **options: object) -> str:
    """The line `next: tag2mask ...`, quoted for the shell; options that only say their default are left out."""
    line = [*map(str, words)]
    for name, value in options.items():
        if value not in (None, False, "", _USUAL.get(name)):
            line.append(f"--{name.replace('_', '-')}")
            line += [] if value is True else map(str, value) if isinstance(value, tuple) else [str(value)]
    return f"next: {shlex.join(['tag2mask', *line])}"


def beside(path: str | Path, word: str) -> Path:
    """A place named after a run, a file or a folder: runs/photos-WORD."""
    place = Path(path) if not str(path).startswith("hf://") else Path(Path(str(path)).name)
    name = place.stem if place.suffix in (".safetensors", ".onnx") else place.resolve().name
    return place.with_name(f"{name}-{word}") if place.name else Path(f"{name}-{word}")


def pictures_of(
    data: str | Path, *, split: str | None = None, options: DataOptions | None = None, need_tags: bool = False
) -> PictureSet | None:
    """A split of a data set, or None where it cannot be opened: advice never fails a command that is done."""
    from tag2mask.data import open_data

    try:
        return open_data(data, split=split, options=options, need_tags=need_tags)
    except (ValueError, OSError):
        return None


def folder_of_pictures(pictures: PictureSet | None) -> Path | None:
    """A folder that `predict` can search; None where the pictures lie in tar files or tables."""
    folder = None if pictures is None else pictures.pictures[0].path.parent
    return folder if folder is not None and folder.is_dir() else None


def after_training(run: Path, config: RunConfig) -> str:
    """Scores where there are true masks; else what the first or the second step is for."""
    reading = DataOptions.of(config)
    held_out = pictures_of(config.data, split=config.val_split, options=reading)
    if held_out is not None and held_out.has_masks:
        return next_command("evaluate", run, data=config.data, split=config.val_split, **reading.asked())
    if isinstance(config, RetrainConfig):
        return next_command("export", run, data=None if reading.asked() else config.data)
    return next_command(
        *("pseudo-label", run),
        data=config.data,
        split=config.train_split,
        **reading.asked(),
        **_BEST_MASKS,
        out=beside(run, "masks"),
    )


def after_predicting(
    run: str, sources: Sequence[str], out: Path, formats: Sequence[str], *, tools: bool, ranked: bool
) -> str:
    """The ranked list on the page, masks for a tool to correct them in, or which pictures to look at first."""
    folder = sources[0] if len(sources) == 1 and Path(sources[0]).is_dir() else None
    if ranked and folder is not None:
        return next_command("ui", run, ranked=out, pictures=folder)
    if "png" in formats and not tools:
        place = beside(out, "coco").with_suffix(".json")
        return next_command("convert", out, to="coco", images=folder, out=place)
    if ranked:
        return next_command("ui", run)
    return next_command("predict", run, *sources, out=beside(out, "ranked"), rank=True)


def after_scoring(run: str, data: Path, reading: DataOptions) -> str:
    """The second step for a run of the first on tagged data; else the model for use elsewhere."""
    if not _is_second_step(run) and pictures_of(data, options=reading, need_tags=True) is not None:
        out = beside(run, "masks")
        return next_command("pseudo-label", run, data=data, **reading.asked(), **_BEST_MASKS, out=out)
    return next_command("export", run, data=None if reading.asked() else data)


def _is_second_step(run: str) -> bool:
    try:
        return isinstance(load_config(Path(run)), RetrainConfig)
    except (ValueError, OSError):  # a file: what made it is not looked up
        return False


def after_scoring_masks(masks: Path, data: Path, reading: DataOptions, split: str) -> str:
    """The second step where every training picture has its mask in the folder; else the scores in full, as a file."""
    train = pictures_of(data, options=reading)
    if train is not None and all((masks / each.name).with_suffix(".png").is_file() for each in train.pictures):
        return next_command("retrain", "small", data=data, **reading.asked(), masks=masks)
    out = beside(masks, "scores")
    return next_command("evaluate", masks=masks, data=data, split=split, **reading.asked(), boundary=True, out=out)


def after_exporting(format: str, out: Path, run: str, data: Path | None, split: str) -> str:
    """The exported model at work on pictures of the data set, or of the one that the run was trained on."""
    if format == "torch":
        code = (
            f"import torch; model = torch.export.load({str(out)!r}).module(); "
            "print(model(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))['mask'].shape)"
        )
        return f"next: {shlex.join(['python', '-c', code])}"
    try:
        trained_on = load_config(Path(run)).data
    except (ValueError, OSError):
        trained_on = ""
    folder = folder_of_pictures(pictures_of(data or trained_on, split=split)) if data or trained_on else None
    if folder is None:
        return next_command("ui", out)
    return next_command("predict", out, folder, out=beside(out, "masks"))
