"""The command line: one verb per public function. tyro is used here only, and nothing here imports torch for --help.

Exit codes: 0 done, 1 failed (one line on stderr; the traceback with TAG2MASK_DEBUG=1), 2 misused.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from tag2mask import __version__
from tag2mask.config import PRESETS, TrainConfig, load_config
from tag2mask.console import Bar, score_lines

Result = tuple[dict[str, Any], list[str], int]
"""The object for --json, the lines for people, the exit code."""
Preset = Literal["inference", "aaai_inference"]
_TYRO = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    verb, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if verb in ("--help", "-h", "help"):
        print(_help())
        return 0
    if verb == "--version":
        print(f"tag2mask {__version__}")
        return 0
    if verb not in VERBS:
        return _misused(f"there is no command {verb!r}.{_suggest(verb, VERBS)}")
    _log_to_stderr()
    try:
        with contextlib.redirect_stdout(sys.stderr) if "--json" in rest else contextlib.nullcontext():
            values, lines, code = VERBS[verb](rest)
    except SystemExit as stop:  # tyro: 0 after --help, 2 after a misuse that it has explained
        return int(stop.code or 0)
    except KeyboardInterrupt as stop:
        return _failed(str(stop) or "stopped by Ctrl-C", stop)
    except BrokenPipeError:  # the reader of a pipe has gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError) as error:
        return _failed(str(error), error)
    except RuntimeError as error:
        if not type(error).__module__.startswith("tag2mask"):
            raise
        return _failed(str(error), error)
    print(json.dumps(values) if "--json" in rest else "\n".join(lines))
    return code


def _failed(message: str, error: BaseException) -> int:
    if os.environ.get("TAG2MASK_DEBUG") == "1":
        traceback.print_exception(error)
    print(f"tag2mask: error: {' '.join(message.split())}", file=sys.stderr)
    return 1


def _misused(message: str) -> int:
    print(f"tag2mask: {message}\nSee tag2mask --help.", file=sys.stderr)
    return 2


class _Misuse(SystemExit):
    """Ends the command with code 2 after saying why."""

    def __init__(self, message: str) -> None:
        super().__init__(_misused(message))


def _suggest(word: str, known: Sequence[str] | dict[str, Any]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


def _help() -> str:
    verbs = "\n".join(f"  {verb:<14}{(run.__doc__ or '').splitlines()[0]}" for verb, run in VERBS.items())
    return (
        "tag2mask: image-level tags in, pixel masks out.\n\nusage: tag2mask COMMAND ...\n\n"
        f"{verbs}\n\ntag2mask COMMAND --help lists a command's options; tag2mask --version prints the version.\n"
        "Exit codes: 0 done, 1 failed, 2 misused. TAG2MASK_DEBUG=1 shows tracebacks."
    )


class _Stderr(logging.Handler):
    """Log lines to whatever sys.stderr is now, so that they do not tear a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


def _log_to_stderr() -> None:
    log = logging.getLogger("tag2mask")
    log.setLevel(logging.INFO)
    log.propagate = False
    if not any(isinstance(handler, _Stderr) for handler in log.handlers):
        log.addHandler(_Stderr(logging.INFO))


def _parse(verb: str, command: Callable[..., Result], rest: Sequence[str]) -> Result:
    return tyro.cli(command, args=list(rest), prog=f"tag2mask {verb}", config=_TYRO)


def _jsonable(value: Any) -> Any:
    """Results as plain JSON values: dataclasses by field, paths as text."""
    if hasattr(value, "as_dict"):
        return value.as_dict()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _jsonable(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _jsonable(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def _crf(crf: bool, preset: Preset | None) -> bool | Preset | None:
    return preset or (True if crf else None)


Run = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]


def _demo(out: str | None = None, json: bool = False) -> Result:
    """Whole job on the built-in data set: no downloads, no GPU, a few minutes.

    Args:
        out: New folder for data, run and report.html; default runs/demo, then -2, -3 ...
        json: Print one JSON object on stdout and nothing else.
    """
    from tag2mask.demonstration import demo

    result = demo(out)
    table = score_lines({"segmentation": result.segmentation, "CAM with true tags": result.cam})
    lines = [*table, f"{result.seconds:.0f} s in all", f"report: {result.report}", f"run folder: {result.run}"]
    return _jsonable(result), lines, 0


def _predict(
    run: Run,
    sources: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="SOURCE...")],
    *,
    out: Path,
    format: tuple[Literal["png", "npz"], ...] = ("png",),
    crf: bool = False,
    crf_preset: Preset | None = None,
    scales: tuple[float, ...] = (1.0,),
    flip: bool = False,
    tags: Path | None = None,
    device: str = "auto",
    json: bool = False,
) -> Result:
    """Write masks for files, folders and globs: OUT/masks, OUT/overlays, OUT/scores.csv.

    Args:
        run: Run folder or .safetensors file.
        sources: Pictures, folders (with their sub-folders), globs.
        out: Folder for the results.
        format: png: palette masks and overlays; npz: probabilities.
        crf: Refine with the dense CRF at the picture's size.
        crf_preset: Parameters of that CRF (implies --crf): today's published code, or that of the AAAI paper.
        scales: Factors on the network's picture size, averaged.
        flip: Average with the mirrored picture.
        tags: Table like a data set's tags.csv of the classes known to be in the pictures.
        device: auto, cpu, cuda or mps.
        json: Print one JSON object on stdout and nothing else.
    """
    if not sources:
        raise _Misuse("predict needs at least one picture, folder or glob after RUN.")
    from tag2mask.segmenter import predict

    with Bar("predict") as bar:
        result = predict(
            run,
            sources,
            out,
            formats=format,
            crf=_crf(crf, crf_preset),
            scales=scales,
            flip=flip,
            tags=tags,
            device=device,
            progress=bar.update,
        )
    for message in result.errors.values():
        print(f"tag2mask: error: {message}", file=sys.stderr)
    lines = [f"{len(result.written)} pictures done, {len(result.errors)} failed: {result.out}"]
    return _jsonable(result), lines, 1 if result.errors else 0


def _evaluate(
    run: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="RUN")] = None,
    *,
    data: Path,
    masks: Path | None = None,
    split: str = "val",
    crf: bool = False,
    crf_preset: Preset | None = None,
    scales: tuple[float, ...] = (1.0,),
    flip: bool = False,
    data_format: Literal["auto", "folder", "voc"] = "auto",
    others: Literal["ignore", "background"] = "ignore",
    limit: int = 0,
    device: str = "auto",
    json: bool = False,
) -> Result:
    """Score a run, or a folder of masks (--masks), against true masks: mIoU, IoU per class, protocol.

    Args:
        run: Run folder or .safetensors file; left out with --masks.
        data: Data set with masks.
        masks: Folder of indexed PNG files NAME.png with labels of the data's class list.
        split: Name of a split, or a file with one picture per line.
        crf: Refine with the dense CRF at the picture's size.
        crf_preset: Parameters of that CRF (implies --crf).
        scales: Factors on the network's picture size, averaged.
        flip: Average with the mirrored picture.
        data_format: Format of --data when looking is not enough.
        others: Mask ids outside the class list become 255, or 0.
        limit: Score only the first so many pictures; 0 for all.
        device: auto, cpu, cuda or mps.
        json: Print one JSON object on stdout and nothing else.
    """
    if (run is None) == (masks is None):
        raise _Misuse("evaluate needs either RUN or --masks DIR.")
    from tag2mask.evaluation import evaluate

    with Bar("evaluate") as bar:
        report = evaluate(
            run,
            masks=masks,
            data=data,
            split=split,
            crf=_crf(crf, crf_preset),
            scales=scales,
            flip=flip,
            data_format=data_format,
            others=others,
            limit=limit,
            device=device,
            progress=bar.update,
        )
    protocol = [f"{key}: {value}" for key, value in report.protocol.items()]
    return report.as_dict(), [*score_lines({"IoU": report}), "", *protocol], 0


def _pseudo_label(
    run: Run,
    *,
    data: Path,
    out: Path,
    split: str | None = None,
    crf: bool = False,
    crf_preset: Preset | None = None,
    scales: tuple[float, ...] = (1.0,),
    flip: bool = False,
    min_confidence: float = 0.0,
    data_format: Literal["auto", "folder", "voc"] = "auto",
    tags_from: Literal["tags", "masks"] = "tags",
    device: str = "auto",
    json: bool = False,
) -> Result:
    """Write training masks for a second network, limited to each picture's tags.

    Args:
        run: Run folder or .safetensors file.
        data: Data set with tags.
        out: Folder of the masks.
        split: Name of a split, or a file with one picture per line; default the split to train on.
        crf: Refine with the dense CRF at the picture's size.
        crf_preset: Parameters of that CRF (implies --crf).
        scales: Factors on the network's picture size, averaged.
        flip: Average with the mirrored picture.
        min_confidence: Pixels whose best probability is lower become 255.
        data_format: Format of --data when looking is not enough.
        tags_from: `masks` reads the tags from the masks; never done unless asked.
        device: auto, cpu, cuda or mps.
        json: Print one JSON object on stdout and nothing else.
    """
    from tag2mask.pseudo_labels import pseudo_label

    with Bar("pseudo-label") as bar:
        result = pseudo_label(
            run,
            data=data,
            out=out,
            split=split,
            crf=_crf(crf, crf_preset),
            scales=scales,
            flip=flip,
            min_confidence=min_confidence,
            data_format=data_format,
            tags_from=tags_from,
            device=device,
            progress=bar.update,
        )
    for message in result.errors.values():
        print(f"tag2mask: error: {message}", file=sys.stderr)
    lines = [f"{result.num_images} masks, {result.ignored_share:.1%} of their pixels ignored: {result.out}"]
    return _jsonable(result), lines, 1 if result.errors else 0


def _explain(
    run: Run,
    image: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="IMAGE")],
    *,
    out: Path,
    tags: tuple[str, ...] | None = None,
    crf_preset: Preset = "inference",
    device: str = "auto",
    json: bool = False,
) -> Result:
    """Show one picture step by step: CAM, CRF votes, reliable labels, prediction; a PNG and a JSON.

    Args:
        run: Run folder or .safetensors file.
        image: The picture.
        out: Folder for NAME.png and NAME.json.
        tags: Classes known to be in the picture; default those that the tag scores name.
        crf_preset: CRF of the last step.
        device: auto, cpu, cuda or mps.
        json: Print one JSON object on stdout and nothing else.
    """
    from tag2mask.explanation import explain

    result = explain(run, image, out, tags=tags, crf=crf_preset, device=device)
    return _jsonable(result), [f"{key}: {value}" for key, value in (("sheet", result.sheet), ("json", result.json))], 0


def _bench(
    *,
    only: tuple[str, ...] = (),
    rounds: int | None = None,
    quick: bool = False,
    plots: Path | None = None,
    json: bool = False,
) -> Result:
    """Speed of the kernels and of a training step on this machine, against pydensecrf if it is installed.

    Args:
        only: Measurements to make: pair-l3, pair-l5, pair-l21, cold-l3, batch-8, inference-l21, energy-160,
            energy-224, twin-l3, cuda-batch-8, training-step, pixels, labels; default all.
        rounds: Counted rounds of each contender; default 7, 2 with --quick.
        quick: Small pictures and few rounds: shows that everything works, no measurement.
        plots: Folder for plots of cost against pixels and against labels.
        json: Print one JSON object on stdout and nothing else.
    """
    from tag2mask.benchmark import bench, check_arguments, table_lines

    try:
        check_arguments(only, rounds, plots)
    except ValueError as error:
        raise _Misuse(f"bench: {error}") from error

    def tell(done: int, total: int, name: str) -> None:
        # lines, no bar: what redraws a bar would run beside, and count into, what is measured
        print(f"bench {done}/{total}  {name}", file=sys.stderr, flush=True)

    report = bench(only, rounds=rounds, quick=quick, plots=plots, progress=tell)
    return _jsonable(report), table_lines(report), 0


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


def _train_command(rest: Sequence[str]) -> Result:
    """Tags to a segmentation model: train PRESET --data PATH, or train --resume RUN."""
    preset, options = (rest[0], rest[1:]) if rest and not rest[0].startswith("-") else (None, rest)
    resume = _option(options, "--resume")
    if preset is not None and preset not in PRESETS:
        raise _Misuse(f"there is no preset {preset!r}; presets: {', '.join(PRESETS)}.{_suggest(preset, PRESETS)}")
    if preset is None and resume is None and not {"--help", "-h"} & set(options):
        raise _Misuse(f"train needs a preset ({', '.join(PRESETS)}) as in: tag2mask train small --data PATH")
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
        raise _Misuse("train needs --data PATH: a folder of pictures and tags, or a PASCAL VOC tree.")
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
        raise _Misuse(
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


def _verb(name: str, command: Callable[..., Result]) -> Callable[[Sequence[str]], Result]:
    def run(rest: Sequence[str]) -> Result:
        return _parse(name, command, rest)

    run.__doc__ = command.__doc__
    return run


VERBS: dict[str, Callable[[Sequence[str]], Result]] = {
    "demo": _verb("demo", _demo),
    "train": _train_command,
    "predict": _verb("predict", _predict),
    "evaluate": _verb("evaluate", _evaluate),
    "pseudo-label": _verb("pseudo-label", _pseudo_label),
    "explain": _verb("explain", _explain),
    "bench": _verb("bench", _bench),
}
