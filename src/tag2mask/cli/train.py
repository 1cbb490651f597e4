"""The command train, and what it shares with retrain: a config's fields as options."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import tyro

import tag2mask
from tag2mask.base.share import Share
from tag2mask.cli.advice import after_training, differing
from tag2mask.cli.common import ALL_OPTIONS, MAIN_OPTIONS, Json, Misuse, Result, parsed, suggest
from tag2mask.config import RunConfig, TrainConfig, load_config
from tag2mask.config.fields import from_dict


def command(rest: Sequence[str]) -> Result:
    """Tags to a segmentation model: train PRESET --data PATH, or train --resume RUN."""
    return config_command(rest, TrainConfig, "Tags to a segmentation model.", "--data PATH")


_MAIN = frozenset(
    (
        *("data", "data_format", "train_split", "masks", "own_masks", "masks_for_some", "out", "profile"),
        *("architecture", "backbone", "weights", "image_size", "batch_size"),
        *("tag_steps", "joint_steps", "supervised_steps", "device", "workers", "seed"),
    )
)
"""Fields that --help shows."""


def config_command(rest: Sequence[str], kind: type[Any], about: str, usage: str) -> Result:
    """Parse a preset and the fields of its config, and run it."""
    preset, options = (rest[0], rest[1:]) if rest and not rest[0].startswith("-") else (None, rest)
    start = _start(kind, preset, options, usage)
    values = _parsed(kind, preset, options, start, about)
    given = dataclasses.asdict(values)
    config: RunConfig = from_dict(
        kind, {field.name: given[field.name] for field in dataclasses.fields(kind)}, kind.kind
    )
    resume = None if values.resume is None else Path(values.resume)
    if resume is not None:
        _refuse_conflicts(resume, start, config, preset)
    elif not config.data:
        raise Misuse(f"{kind.kind} needs --data PATH: a folder of pictures and tags, or a PASCAL VOC tree.")
    folder = getattr(tag2mask, kind.kind)(config, resume=resume)
    if Share.of_environment().index > 0:
        return {}, [], 0  # of the processes that torchrun starts one speaks for all
    from tag2mask.runs.health import nothing_learned

    environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    findings = [each.as_dict() for each in nothing_learned(folder)]
    result = {"run": str(folder), "data": environment.get("data", {})} | ({"findings": findings} if findings else {})
    return result, [f"run folder: {folder}", after_training(folder, config)], 0


def _start(kind: type[Any], preset: str | None, options: Sequence[str], usage: str) -> Any:
    """The config whose values the options change: that of the run that goes on, or a preset."""
    verb, presets = kind.kind, kind.presets()
    if preset is not None and preset not in presets:
        raise Misuse(f"there is no preset {preset!r}; presets: {', '.join(presets)}.{suggest(preset, presets)}")
    resume = _value_of("--resume", options)
    if resume is None:
        if preset is None and not {"--help", "-h", ALL_OPTIONS} & set(options):
            raise Misuse(f"{verb} needs a preset ({', '.join(presets)}) as in: tag2mask {verb} {presets[0]} {usage}")
        profile = _value_of("--profile", options) if kind is TrainConfig else None
        known = profile in ("official", "paper", "clean")
        return kind.preset(preset or presets[0], profile=profile if known else None)
    start = load_config(Path(resume))
    if not isinstance(start, kind):
        again = f"tag2mask {start.kind} --resume {shlex.quote(resume)}"
        raise Misuse(f"{resume} is a run of `tag2mask {start.kind}`; use {again}")
    return start


def _value_of(name: str, options: Sequence[str]) -> str | None:
    """The value of an option that decides on the defaults of the others, read before tyro sees them."""
    for i, word in enumerate(options):
        if word.startswith(f"{name}="):
            return word.split("=", 1)[1]
        if word == name and i + 1 < len(options):
            return options[i + 1]
    return None


def _parsed(kind: type[Any], preset: str | None, options: Sequence[str], start: Any, about: str) -> Any:
    """The fields of a config and the options that are no part of it; --help shows the main ones alone."""
    short, offered = bool({"--help", "-h"} & set(options)), _offered(kind, start)
    resume = tyro.conf.arg(help="Run folder to go on with; everything comes from its config.json.")
    more: dict[str, tuple[Any, Any]] = {"resume": (Annotated[str | None, resume], None), "json": (Json, False)}
    if short:
        shown = get_type_hints(offered, include_extras=True)
        hidden = [each for each in dataclasses.fields(offered) if each.name not in _MAIN]
        more |= {each.name: (Annotated[shown[each.name], tyro.conf.Suppress], each.default) for each in hidden}
    fields = [(name, each, dataclasses.field(default=value)) for name, (each, value) in more.items()]
    command = dataclasses.make_dataclass(kind.__name__, fields, bases=(offered,), frozen=True, kw_only=True)
    about += f" Presets: {', '.join(kind.presets())}."
    return parsed(
        kind.kind,
        command,
        options,
        default=command(),
        prog=f"tag2mask {kind.kind} {preset or 'PRESET'}",
        description=about + (f"\n\n{MAIN_OPTIONS.format(f'{kind.kind} PRESET')}" if short else ""),
        config=(tyro.conf.FlagCreatePairsOff,),
    )


def _offered(kind: type[Any], start: Any) -> type[Any]:
    """The dataclass `kind` with the values of `start` as defaults; a field that is no option is hidden and fixed."""
    kinds, fields = get_type_hints(kind, include_extras=True), []
    for each in dataclasses.fields(start):
        shown, value = kinds[each.name], getattr(start, each.name)
        if dataclasses.is_dataclass(value):
            shown = _offered(type(value), value)
            value = shown()
        if not each.metadata.get("option", True):
            shown = Annotated[shown, tyro.conf.Fixed, tyro.conf.Suppress]
        fields.append((each.name, shown, dataclasses.field(default=value, metadata=each.metadata)))
    return dataclasses.make_dataclass(kind.__name__, fields, bases=(kind,), frozen=True, kw_only=True)


def _refuse_conflicts(run: Path, saved: RunConfig, asked: RunConfig, preset: str | None) -> None:
    """Going on takes everything from config.json, so an option with another value would be a silent lie."""
    from tag2mask.runs.places import as_before, moved

    asked = asked.replace(**{name: old for name, (old, _) in moved(saved, asked).items()})
    changed, told = differing(saved, asked), ""
    if changed.keys() & {"tag_steps", "optim.lr"}:
        from tag2mask.runs.checkpoints import load_state

        step = load_state(run)["step"]
        changed = differing(saved, as_before(saved, asked, step))
        told = (
            " Only more --tag-steps, and with them --optim.lr, may be given while the joint phase has not begun; this "
            f"run stands at step {step}."
        )
    names = [f"--{name.replace('_', '-')}" for name in changed]
    if preset is not None and preset != saved.preset_name:
        names.append(f"preset {preset}")
    if names:
        raise Misuse(
            f"--resume takes every setting from the run's config.json, which differs in {', '.join(names)}. "
            f"Leave these out, or start a new run.{told}"
        )
