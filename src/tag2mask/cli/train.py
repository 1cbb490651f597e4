"""The commands train and retrain: a config's fields as options."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import tyro

from tag2mask.base.share import Share
from tag2mask.cli.advice import after_training
from tag2mask.cli.common import ALL_OPTIONS, MAIN_OPTIONS, Misuse, Result, parsed, suggest, with_main_options
from tag2mask.config import RetrainConfig, RunConfig, TrainConfig, load_config
from tag2mask.config.fields import from_dict


@dataclasses.dataclass(frozen=True, kw_only=True)
class _TrainCommand(TrainConfig):
    """TrainConfig as options, with those that are no part of a config."""

    resume: str | None = None
    """Run folder to go on with; everything comes from its config.json."""
    json: bool = False
    """Print one JSON object on stdout and nothing else."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _RetrainCommand(RetrainConfig):
    """RetrainConfig as options, with those that are no part of a config."""

    resume: str | None = None
    """Run folder to go on with; everything comes from its config.json."""
    json: bool = False
    """Print one JSON object on stdout and nothing else."""


def train_command(rest: Sequence[str]) -> Result:
    """Tags to a segmentation model: train PRESET --data PATH, or train --resume RUN."""

    def run(config: TrainConfig, resume: Path | None) -> Path:
        from tag2mask.training.first_step import train

        return train(config, resume=resume)

    return _command(rest, TrainConfig, _TrainCommand, _TRAIN_HELP, "--data PATH", run)


def retrain_command(rest: Sequence[str]) -> Result:
    """Masks to a supervised model: retrain PRESET --data PATH --masks DIR, or retrain --resume RUN."""

    def run(config: RetrainConfig, resume: Path | None) -> Path:
        from tag2mask.training.second_step import retrain

        return retrain(config, resume=resume)

    return _command(rest, RetrainConfig, _RetrainCommand, _RETRAIN_HELP, "--data PATH --masks DIR", run)


_TRAIN_HELP = "Tags to a segmentation model. Presets: {presets}."
_RETRAIN_HELP = "Masks to a supervised model. Presets: {presets}."
_MAIN = frozenset(
    (
        *("data", "data_format", "train_split", "masks", "own_masks", "masks_for_some", "out", "profile"),
        *("architecture", "backbone", "weights", "image_size", "batch_size"),
        *("tag_steps", "joint_steps", "supervised_steps", "device", "workers", "seed", "resume", "json"),
    )
)
"""Fields that --help shows."""


def _command(
    rest: Sequence[str],
    kind: type[Any],
    command: type[Any],
    description: str,
    usage: str,
    run: Callable[[Any, Path | None], Path],
) -> Result:
    """Parse a preset and the fields of its config, and run it."""
    verb, presets = kind.kind, kind.presets()
    preset, options = (rest[0], rest[1:]) if rest and not rest[0].startswith("-") else (None, rest)
    resume = _option(options, "--resume")
    if preset is not None and preset not in presets:
        raise Misuse(f"there is no preset {preset!r}; presets: {', '.join(presets)}.{suggest(preset, presets)}")
    help_asked = {"--help", "-h"} & set(options)
    if preset is None and resume is None and not help_asked | ({ALL_OPTIONS} & set(options)):
        raise Misuse(f"{verb} needs a preset ({', '.join(presets)}) as in: tag2mask {verb} {presets[0]} {usage}")
    if resume is not None:
        start = load_config(Path(resume))
        if not isinstance(start, kind):
            raise Misuse(
                f"{resume} is a run of `tag2mask {start.kind}`; "
                f"use tag2mask {start.kind} --resume {shlex.quote(resume)}"
            )
    else:
        profile = _option(options, "--profile") if kind is TrainConfig else None
        known = profile in ("official", "paper", "clean")
        start = kind.preset(preset or presets[0], profile=profile if known else None)
    shown, about = _offered(command, start), description.format(presets=", ".join(presets))
    if help_asked:
        shown = with_main_options(shown, _MAIN)
        about += f"\n\n{MAIN_OPTIONS.format(f'{verb} PRESET')}"
    values = parsed(
        verb,
        shown,
        options,
        default=shown(),
        prog=f"tag2mask {verb} " + (preset or "PRESET"),
        description=about,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    given = dataclasses.asdict(values)
    config: RunConfig = from_dict(kind, {each.name: given[each.name] for each in dataclasses.fields(kind)}, verb)
    if resume is not None:
        from tag2mask.runs.places import moved

        where = {name: old for name, (old, _) in moved(start, config).items()}
        _refuse_conflicts(start, config.replace(**where), preset)
    elif not config.data:
        raise Misuse(f"{verb} needs --data PATH: a folder of pictures and tags, or a PASCAL VOC tree.")
    folder = run(config, None if resume is None else Path(resume))
    if Share.of_environment().index > 0:
        return {}, [], 0  # of the processes that torchrun starts one speaks for all
    from tag2mask.runs.learned import nothing_learned

    about = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    findings = [each.as_dict() for each in nothing_learned(folder)]
    result = {"run": str(folder), "data": about.get("data", {})} | ({"findings": findings} if findings else {})
    return result, [f"run folder: {folder}", after_training(folder, config)], 0


def _offered(options: type[Any], start: Any) -> type[Any]:
    """The dataclass `options` with the values of `start` as defaults; what is no option is hidden and fixed."""
    kinds, fields = get_type_hints(options), []
    for each in dataclasses.fields(start):
        kind, value = kinds[each.name], getattr(start, each.name)
        if dataclasses.is_dataclass(value):
            kind = _offered(type(value), value)
            value = kind()
        if not each.metadata.get("option", True):
            kind = Annotated[kind, tyro.conf.Fixed, tyro.conf.Suppress]
        fields.append((each.name, kind, dataclasses.field(default=value)))
    return dataclasses.make_dataclass(options.__name__, fields, bases=(options,), frozen=True, kw_only=True)


def _option(options: Sequence[str], name: str) -> str | None:
    """The value of an option that decides on the defaults of the others, read before tyro sees them."""
    for i, word in enumerate(options):
        if word.startswith(f"{name}="):
            return word.split("=", 1)[1]
        if word == name and i + 1 < len(options):
            return options[i + 1]
    return None


def _refuse_conflicts(saved: RunConfig, asked: RunConfig, preset: str | None) -> None:
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
