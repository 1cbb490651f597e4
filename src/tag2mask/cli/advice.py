"""The last line of a command: the next sensible one, ready to paste. Imports no torch."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tag2mask.base.files import model_metadata
from tag2mask.config import RetrainConfig, RunConfig, TrainConfig, load_config, parse_config
from tag2mask.config.formats import DataOptions

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
        if value is not False and value not in (None, "", _USUAL.get(name)):  # 0 is not False
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


def unless_dead(run: str | Path, line: str) -> str:
    """`line`; of a run that has learned nothing another try, as nothing is built on such a model (the log says why)."""
    from tag2mask.runs.learned import nothing_learned

    return _another_try(Path(run)) if nothing_learned(run) else line


def _another_try(run: Path) -> str:
    """Twice the steps that learn tags, all else as it was; a look at the data where there were none."""
    config = load_config(run) if run.is_dir() else parse_config(model_metadata(run)["config"])
    if not isinstance(config, TrainConfig) or config.tag_steps == 0:
        return next_command("check", config.data, **DataOptions.of(config).asked())
    settings = _settings(type(config).preset(config.preset_name, profile=config.profile), config)
    settings = {name: value for name, value in settings.items() if name not in ("out", "tag_phase", "tag_steps")}
    return next_command("train", config.preset_name, **settings, tag_steps=2 * config.tag_steps)


def _settings(preset: Any, config: Any, prefix: str = "") -> dict[str, Any]:
    """Options by which a config differs from its preset."""
    found: dict[str, Any] = {}
    for each in dataclasses.fields(config):
        one, two = getattr(preset, each.name), getattr(config, each.name)
        if dataclasses.is_dataclass(one):
            found |= _settings(one, two, f"{prefix}{each.name}.")
        elif one != two or each.name == "profile":
            found[f"{prefix}{each.name}"] = str(two) if two in (None, False) and type(two) not in (int, float) else two
    return found


def after_training(run: Path, config: RunConfig) -> str:
    """Scores where there are true masks; else what the first or the second step is for."""
    return unless_dead(run, _after_training(run, config))


def _after_training(run: Path, config: RunConfig) -> str:
    reading = DataOptions.of(config)
    held_out = None if config.held_out is None else pictures_of(config.data, split=config.held_out, options=reading)
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
    return unless_dead(run, _after_predicting(run, sources, out, formats, tools=tools, ranked=ranked))


def _after_predicting(
    run: str, sources: Sequence[str], out: Path, formats: Sequence[str], *, tools: bool, ranked: bool
) -> str:
    folder = sources[0] if len(sources) == 1 and Path(sources[0]).is_dir() else None
    if ranked and folder is not None:
        return next_command("ui", run, ranked=out, pictures=folder)
    if "png" in formats and not tools:
        place = beside(out, "coco.json")
        return next_command("convert", out, to="coco", images=folder, out=place)
    if ranked:
        return next_command("ui", run)
    return next_command("predict", run, *sources, out=beside(out, "ranked"), rank=True)


def after_scoring(run: str, data: Path, reading: DataOptions) -> str:
    """The second step for a run of the first on tagged data; else the model for use elsewhere."""
    return unless_dead(run, _after_scoring(run, data, reading))


def _after_scoring(run: str, data: Path, reading: DataOptions) -> str:
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
    if train is not None and _teach(masks, train):
        return next_command("retrain", "small", data=data, **reading.asked(), masks=masks)
    out = beside(masks, "scores")
    return next_command("evaluate", masks=masks, data=data, split=split, **reading.asked(), boundary=True, out=out)


def _teach(masks: Path, pictures: PictureSet) -> bool:
    """Whether a folder has a mask of every picture, in classes that can teach."""
    from tag2mask.data.masks.labels import MaskFiles, given_codes

    files = MaskFiles(masks)
    try:
        given_codes(masks, pictures.classes)
    except ValueError:
        return False
    return all(files.find(each.name) is not None for each in pictures.pictures)


def after_exporting(format: str, out: Path, run: str, data: Path | None, split: str) -> str:
    """The exported model at work on pictures of the data set, or of the one that the run was trained on."""
    return unless_dead(run, _after_exporting(format, out, run, data, split))


def _after_exporting(format: str, out: Path, run: str, data: Path | None, split: str) -> str:
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
