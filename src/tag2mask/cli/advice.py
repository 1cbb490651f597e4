"""The last line of a command: the next sensible one, ready to paste. Opens no data set, imports no torch."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tag2mask.base.files import model_metadata
from tag2mask.config import RetrainConfig, RunConfig, TrainConfig, load_config, parse_config
from tag2mask.config.formats import DataOptions

if TYPE_CHECKING:
    from tag2mask.jobs.pseudo_labels import PseudoLabelSummary

_USUAL = {"split": "val", "data_format": "auto", "others": "ignore", "tags_from": "tags"}
"""What these options are anyway."""
_BEST_MASKS: dict[str, dict[str, object]] = {"segmentation": {"crf": True, "scales": 1.5}, "evidence": {}}
"""What `pseudo-label` is told for masks to train on (docs/results.md), by what they are drawn from."""


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


def unless_dead(run: str | Path, line: str) -> str:
    """`line`; of a run that has learned nothing another try, as nothing is built on such a model (the log says why)."""
    from tag2mask.runs.health import nothing_learned

    return _another_try(Path(run)) if nothing_learned(run) else line


def _another_try(run: Path) -> str:
    """Twice the steps that learn tags, all else as it was; a look at the data where there were none.

    A run of the tag phase alone goes on; one that has begun its joint phase begins anew.
    """
    from tag2mask.runs.health import longer_tag_phase

    config = load_config(run) if run.is_dir() else parse_config(model_metadata(run)["config"])
    if not isinstance(config, TrainConfig) or config.tag_steps == 0:
        return next_command("check", config.data, **DataOptions.of(config).asked())
    steps = longer_tag_phase(config)
    if config.joint_steps == 0 and (run / "last" / "state.pt").is_file():
        return next_command("train", resume=run, tag_steps=steps)
    preset = type(config).preset(config.preset_name, profile=config.profile)
    settings: dict[str, Any] = {}
    for name, value in differing(preset, config, also=("profile",)).items():
        if value is False:  # an option that is on by itself
            above, dot, last = name.rpartition(".")
            settings[f"{above}{dot}no-{last}"] = True
        elif name not in ("out", "tag_phase", "tag_steps"):
            settings[name] = "None" if value is None else value
    return next_command("train", config.preset_name, **settings, tag_steps=steps)


def differing(one: Any, two: Any, prefix: str = "", also: Sequence[str] = ()) -> dict[str, Any]:
    """The fields in which two configs differ, those of their records too, and the fields `also`; values of `two`."""
    found: dict[str, Any] = {}
    for each in dataclasses.fields(one):
        old, new, name = getattr(one, each.name), getattr(two, each.name), f"{prefix}{each.name}"
        if dataclasses.is_dataclass(old):
            found |= differing(old, new, f"{name}.")
        elif old != new or name in also:
            found[name] = new
    return found


def _masks_to_train_on(run: str | Path, data: str | Path, reading: DataOptions, split: str | None = None) -> str:
    config, out = _config_of(run), beside(run, "masks")
    best = _BEST_MASKS[config.masks_from if isinstance(config, TrainConfig) else "segmentation"]
    return next_command("pseudo-label", run, data=data, split=split, **reading.asked(), **best, out=out)


def after_training(run: Path, config: RunConfig) -> str:
    """Scores where the run was validated on true masks; else what the first or the second step is for."""
    reading = DataOptions.of(config)
    if (run / "validation" / "scores.json").is_file():
        line = next_command("evaluate", run, data=config.data, split=config.val_split, **reading.asked())
    elif isinstance(config, RetrainConfig):
        line = next_command("export", run, data=None if reading.asked() else config.data)
    else:
        line = _masks_to_train_on(run, config.data, reading, config.train_split)
    return unless_dead(run, line)


def after_predicting(
    run: str, sources: Sequence[str], out: Path, formats: Sequence[str], *, tools: bool, ranked: bool
) -> str:
    """The ranked list on the page, masks for a tool to correct them in, or which pictures to look at first."""
    folder = sources[0] if len(sources) == 1 and Path(sources[0]).is_dir() else None
    if ranked and folder is not None:
        line = next_command("ui", run, ranked=out, pictures=folder)
    elif "png" in formats and not tools:
        line = next_command("convert", out, to="coco", images=folder, out=beside(out, "coco.json"))
    elif ranked:
        line = next_command("ui", run)
    else:
        line = next_command("predict", run, *sources, out=beside(out, "ranked"), rank=True)
    return unless_dead(run, line)


def after_scoring(run: str, data: Path, reading: DataOptions) -> str:
    """The second step for a run of the first on the data that taught it; else the model for use elsewhere."""
    config = _config_of(run)
    if isinstance(config, TrainConfig) and Path(config.data).resolve() == data.resolve():
        from tag2mask.runs.places import own_reading

        return unless_dead(run, _masks_to_train_on(run, data, own_reading(run, data, reading)))
    return unless_dead(run, next_command("export", run, data=None if reading.asked() else data))


def _second_preset(run: str | Path | None) -> str:
    """The preset of the second step after a run: `fine` after `fine`, else `small`."""
    config = None if run is None else _config_of(run)
    return "fine" if config is not None and config.preset_name == "fine" else "small"


def _config_of(run: str | Path) -> RunConfig | None:
    """The config of a run folder; None of a file, whose run is not looked for."""
    try:
        return load_config(Path(run))
    except (ValueError, OSError):
        return None


def after_scoring_masks(masks: Path, data: Path, reading: DataOptions, split: str) -> str:
    """The second step on what `pseudo-label` wrote; of other masks the scores in full, as a file."""
    try:
        made = json.loads((masks / "pseudo_labels.json").read_text(encoding="utf-8"))
        made_of, run = made["split"], made.get("run")
    except (OSError, ValueError, KeyError, TypeError):
        out = beside(masks, "scores")
        return next_command("evaluate", masks=masks, data=data, split=split, **reading.asked(), boundary=True, out=out)
    preset = _second_preset(run)
    line = next_command("retrain", preset, data=data, **reading.asked(), train_split=made_of, masks=masks)
    return line if run is None else unless_dead(run, line)


def after_pseudo_labeling(
    run: str, result: PseudoLabelSummary, data: Path, reading: DataOptions, split: str | None
) -> str:
    """The second step, or a look at the data where the masks show nothing."""
    used = {**reading.asked(), "train_split": split}
    if result.shows_nothing:
        return unless_dead(run, next_command("check", data, **used, out="check.html"))
    preset = _second_preset(run)
    same = result.backbone == RetrainConfig.preset(preset).backbone
    start = run if same and Path(run).exists() else None  # a model of the hub is no file to start from
    return unless_dead(run, next_command("retrain", preset, data=data, **used, masks=result.out, weights=start))


def after_exporting(format: str, out: Path, run: str, data: Path | None) -> str:
    """The exported model at work on pictures of the data set, or of the one that the run was trained on."""
    if format == "torch":
        code = (
            f"import torch; model = torch.export.load({str(out)!r}).module(); "
            "print(model(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))['mask'].shape)"
        )
        return unless_dead(run, f"next: {shlex.join(['python', '-c', code])}")
    config = _config_of(run)
    root = data or (None if config is None else Path(config.data))
    places = [] if root is None else [root / name for name in ("images", "JPEGImages")]
    for folder in (each for each in places if each.is_dir()):
        return unless_dead(run, next_command("predict", out, folder, out=beside(out, "masks")))
    return unless_dead(run, next_command("ui", out))
