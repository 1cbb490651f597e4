"""The command train: a config's fields as options."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from tag2mask.cli.common import Misuse, Result, suggest
from tag2mask.config import PRESETS, TrainConfig, load_config


@dataclasses.dataclass(frozen=True, kw_only=True)
class _TrainCommand(TrainConfig):
    """TrainConfig as options, with those that are no part of a config."""

    preset_name: tyro.conf.Suppress[str] = "small"
    resume: str | None = None
    """Run folder to go on with; everything comes from its config.json."""
    json: bool = False
    """Print one JSON object on stdout and nothing else."""

    def config(self) -> TrainConfig:
        """The settings alone."""
        return TrainConfig(**{field.name: getattr(self, field.name) for field in dataclasses.fields(TrainConfig)})


def train_command(rest: Sequence[str]) -> Result:
    """Tags to a segmentation model: train PRESET --data PATH, or train --resume RUN."""
    preset, options = (rest[0], rest[1:]) if rest and not rest[0].startswith("-") else (None, rest)
    resume = _option(options, "--resume")
    if preset is not None and preset not in PRESETS:
        raise Misuse(f"there is no preset {preset!r}; presets: {', '.join(PRESETS)}.{suggest(preset, PRESETS)}")
    if preset is None and resume is None and not {"--help", "-h"} & set(options):
        raise Misuse(f"train needs a preset ({', '.join(PRESETS)}) as in: tag2mask train small --data PATH")
    if resume is not None:
        start = load_config(Path(resume))
    else:
        profile = _option(options, "--profile")
        known = profile in ("official", "paper", "clean")
        start = TrainConfig.preset(preset or "small", profile=profile if known else None)  # type: ignore[arg-type]
    defaults = {field.name: getattr(start, field.name) for field in dataclasses.fields(start)}
    command = tyro.cli(
        _TrainCommand,
        args=list(options),
        default=_TrainCommand(**defaults),
        prog="tag2mask train " + (preset or "PRESET"),
        description=_TRAIN_HELP.format(presets=", ".join(PRESETS)),
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    config = command.config()
    if resume is not None:
        _refuse_conflicts(start, config, preset)
    elif not config.data:
        raise Misuse("train needs --data PATH: a folder of pictures and tags, or a PASCAL VOC tree.")
    from tag2mask.training import train

    run = train(config, resume=None if resume is None else Path(resume))
    lines = [f"run folder: {run}", f"next: tag2mask evaluate {run} --data {config.data}"]
    return {"run": str(run)}, lines, 0


_TRAIN_HELP = """Tags to a segmentation model. Presets: {presets}.

tag2mask train PRESET --data PATH [--field value ...] starts a run; tag2mask train --resume RUN goes on with one."""


def _option(options: Sequence[str], name: str) -> str | None:
    """The value of an option that decides on the defaults of the others, read before tyro sees them."""
    for i, word in enumerate(options):
        if word.startswith(f"{name}="):
            return word.split("=", 1)[1]
        if word == name and i + 1 < len(options):
            return options[i + 1]
    return None


def _refuse_conflicts(saved: TrainConfig, asked: TrainConfig, preset: str | None) -> None:
    """Going on takes everything from config.json, so an option with another value would be a silent lie."""
    differing = _differing(saved, asked)
    if preset is not None and preset != saved.preset_name:
        differing.append(f"preset {preset}")
    if differing:
        raise Misuse(
            f"--resume takes every setting from the run's config.json, which differs in {', '.join(differing)}. "
            "Leave these out, or start a new run."
        )


def _differing(saved: Any, asked: Any, prefix: str = "--") -> list[str]:
    """Names of the options whose values differ."""
    names = []
    for field in dataclasses.fields(saved):
        one, two = getattr(saved, field.name), getattr(asked, field.name)
        name = prefix + field.name.replace("_", "-")
        if dataclasses.is_dataclass(one):
            names += _differing(one, two, f"{name}.")
        elif one != two:
            names.append(name)
    return names
