"""How a training run begins: what is checked, its folder, and where one that was interrupted goes on."""

from __future__ import annotations

import json
import logging
import statistics
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, set_seed

from tag2mask.base.files import check_folder, check_new_folder, write_text
from tag2mask.base.team import Team, leave, timeout, together
from tag2mask.config import RunConfig, TrainConfig, load_config
from tag2mask.data import PictureSet
from tag2mask.data.findings import log_findings
from tag2mask.data.storage.pictures import PictureError, shown_size
from tag2mask.data.training.sampling import fitting_sampling, tag_frequencies
from tag2mask.models import build_network
from tag2mask.models.base import SegmentationNetwork
from tag2mask.models.network import Network
from tag2mask.runs.checkpoints import load_state, tag_phase_place
from tag2mask.runs.folder import environment, errors_only, log_to, new_run_folder
from tag2mask.runs.health import nothing_learned
from tag2mask.runs.places import OLDER, RECORD, check_record, going_on, located, moved, recorded_aside, write_record
from tag2mask.training.batch_fitting import with_fitting_batches
from tag2mask.training.health import has_tags, known_tags, set_aside
from tag2mask.training.loop import Job, Objective, fit
from tag2mask.training.records import check_trackers
from tag2mask.training.watching import validation_pictures

log = logging.getLogger("tag2mask")
_Config = TypeVar("_Config", bound=RunConfig)
_MEASURED = 50
"""About so many pictures are measured for the log."""


@together()
def run_training(
    config: RunConfig,
    pictures: PictureSet,
    objective: Objective,
    *,
    resume: Path | None = None,
    start: Path | None = None,
) -> Path:
    """Train a network and write its run folder, which is returned.

    Args:
        config: Everything about the run, checked.
        pictures: What it learns from.
        objective: What it learns.
        resume: Run folder to go on with, exactly where its last save was; `config` must be the folder's own.
        start: Run folder whose tag phase the new run takes over.

    Raises:
        ProcessLost: another process that shares the batches ended or does not answer; other errors as of `train`.
    """
    relocated: dict[str, tuple[str, str]] = {}
    saved, state = None, None
    check_trackers(config)
    accelerator = _accelerator(config)
    team = Team(accelerator.process_index, accelerator.num_processes, accelerator.device)
    if resume is not None:
        team.gather(None)  # the main process may still be saving
        saved, state = load_config(resume), load_state(resume)
        config = going_on(resume, config, _step_of(state))
        relocated = moved(saved, config)
    _check_share(config, team)
    held_out, why_none = validation_pictures(config, goes_on=resume is not None)
    before = resume or start
    pictures, aside = set_aside(config, pictures, held_out, None if before is None else recorded_aside(before))
    differing = [] if resume is None else _differing(resume, config, pictures, held_out, aside, relocated)
    if start is not None:
        _check_aside(start, held_out)
        state = load_state(start, tag_phase_place(start))
    if before is not None and state is not None:
        _check_classes(before, state, pictures)
    set_seed(config.seed)
    network = build_network(config, pictures.classes, pretrained=resume is None)
    _check_smallest_batch(config, network, team)
    if resume is None:
        config = located(with_fitting_batches(config, network, pictures, objective, accelerator))
        config = _with_draws(config, pictures, network)
        run = team.from_main(lambda: _new_run(config, team, pictures, held_out, aside))
        config = config.replace(out=str(run))
    else:
        run = resume
        if config != saved and team.is_main:
            write_text(run / "config.json", config.to_json())
    known = known_tags(pictures, held_out, aside)
    job = Job(config, run, accelerator, team, pictures, held_out, known, objective)
    with log_to(run) if team.is_main else errors_only(), together():
        _log_beginning(job, relocated, differing, why_none)
        _log_longer(saved, config, state)
        fit(job, network.to(accelerator.device), state)
        leave()
    return run


def given_run(kind: type[_Config], config: _Config | None, resume: str | Path | None) -> tuple[_Config, Path | None]:
    """The config, or where a run goes on without one that of its folder; and that folder.

    Raises:
        ValueError: neither is given, or the folder is a run of another kind.
    """
    folder = None if resume is None else Path(resume)
    if config is not None:
        return config, folder
    if folder is None:
        raise ValueError(f"tag2mask.{kind.kind} needs a config, or resume=RUN, a run folder to go on with")
    saved = load_config(folder)
    if not isinstance(saved, kind):
        raise ValueError(f"{folder} is a run of tag2mask.{saved.kind}, not of tag2mask.{kind.kind}")
    return saved, folder


def _median_side(pictures: PictureSet) -> int:
    """The median of the longer sides of some pictures, in pixels; 0 where none can be read."""
    sides = []
    for picture in pictures.pictures[:: max(1, len(pictures.pictures) // _MEASURED)]:
        with suppress(OSError, PictureError):
            sides.append(max(shown_size(picture.path)))
    return round(statistics.median(sides)) if sides else 0


def _with_draws(config: _Config, pictures: PictureSet, network: SegmentationNetwork) -> _Config:
    """`config` with a kind of draws where it says auto; the network is told how often its classes come."""
    sampling = fitting_sampling(pictures)[0] if config.sampling == "auto" else config.sampling
    if isinstance(network, Network):
        network.expect(torch.from_numpy(tag_frequencies(pictures, sampling)))
    return config.replace(sampling=sampling)


def _differing(
    run: Path,
    config: RunConfig,
    pictures: PictureSet,
    held_out: PictureSet | None,
    aside: PictureSet | None,
    relocated: dict[str, tuple[str, str]],
) -> list[str]:
    """What the data of a run that goes on differs in; nothing may, where it is said to lie at another place now."""
    differing = check_record(run, config, pictures, held_out, aside)
    if differing and relocated:
        places = " ".join(f"--{name.replace('_', '-')} {new}" for name, (_, new) in relocated.items())
        raise ValueError(
            f"{places} does not hold what {run} began with: {'; '.join(differing)}. Give the place where the same "
            "files lie now, or start a new run"
        )
    return differing


def _step_of(state: dict[str, Any]) -> int:
    """Where a saved state stands; 0 where it is damaged, which loading it says."""
    return state["step"] if isinstance(state["step"], int) else 0


def _check_aside(start: Path, held_out: PictureSet | None) -> None:
    """Refuse a tag phase that was trained without some pictures, for a run that would train it with them."""
    if has_tags(held_out) and (names := recorded_aside(start)):
        raise ValueError(
            f"--tag-phase {start} had no validation split and set {len(names)} of its training pictures aside, which "
            "this run would train on; give both the same --val-split"
        )


def _check_classes(run: Path, state: dict[str, Any], pictures: PictureSet) -> None:
    """Refuse the state of a run that was trained with other classes: the network knows them by their place only."""
    own = tuple(state.get("classes", pictures.classes))  # older states do not say
    if own != pictures.classes:
        raise ValueError(
            f"{run} was trained with the classes {', '.join(own)}, in this order; those of the data set are "
            f"{', '.join(pictures.classes)}. Write the first list into the data set's classes.txt, or start a new run"
        )


def check_out(config: RunConfig) -> None:
    """Refuse a place for the run before anything is read; see `new_run_folder`, which makes it."""
    if config.out is None:
        check_folder(Path("runs"), "the default --out")
    else:
        check_new_folder(Path(config.out))


def _new_run(
    config: RunConfig, team: Team, pictures: PictureSet, held_out: PictureSet | None, aside: PictureSet | None
) -> Path:
    """Make the run folder with what is known before training."""
    run = new_run_folder(config.out, config.preset_name)
    write_text(run / "config.json", config.replace(out=str(run)).to_json())
    data: dict[str, dict[str, Any]] = {
        each.split: {"num_images": len(each.pictures), "findings": [finding.as_dict() for finding in each.findings]}
        for each in (pictures, held_out)
        if each is not None
    }
    if aside is not None:
        data[pictures.split]["num_set_aside"] = len(aside.pictures)
    write_record(run, config, pictures, held_out, aside)
    about = environment() | {"processes": team.count, "data": data}
    write_text(run / "environment.json", json.dumps(about, indent=2) + "\n")
    return run


def _check_share(config: RunConfig, team: Team) -> None:
    for phase in config.phases:
        if isinstance(phase.batch_size, str):
            if team.count > 1:
                raise ValueError(
                    f"the {phase.name} phase has {phase.batch_size!r} pictures per step, which is for one process; "
                    f"{team.count} processes share a batch: give it a number"
                )
        elif phase.batch_size < team.count:
            raise ValueError(
                f"the {phase.name} phase has {phase.batch_size} pictures per step, which {team.count} processes cannot "
                "share; start fewer processes or raise the batch size"
            )


def _check_smallest_batch(config: RunConfig, model: SegmentationNetwork, team: Team) -> None:
    """Refuse shares of a batch in which a norm of the network would see a single value; auto finds a size that fits."""
    for phase, name in zip(config.phases, config.batch_fields, strict=True):
        if isinstance(phase.batch_size, str) or phase.batch_size // team.count > 1:
            continue
        if (least := model.smallest_batch(config.augment.crop_size)) > 1:
            option, each = f"--{name.replace('_', '-')}", f" of {team.count} processes" if team.count > 1 else ""
            raise ValueError(
                f"{option} {phase.batch_size} leaves one picture per step{each}, too few for this network: its norms "
                f"average over a picture that it has pooled to one cell. Use {option} {least * team.count} or more."
            )


def _accelerator(config: RunConfig) -> Accelerator:
    from tag2mask.inference.torch_backend import resolve_device

    device = resolve_device(config.device)
    if config.precision == "fp16" and device.type == "cpu":
        raise ValueError("--precision fp16 needs a GPU; on the CPU use --precision bf16 or fp32")
    AcceleratorState._reset_state(True)  # a process may train twice, with another precision
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="no" if config.precision == "fp32" else config.precision,
        gradient_accumulation_steps=config.optim.accumulate,
        kwargs_handlers=[
            InitProcessGroupKwargs(timeout=timeout()),
            DistributedDataParallelKwargs(find_unused_parameters=True),  # the tag phase leaves a branch out
        ],
    )


def _log_beginning(job: Job, relocated: dict[str, tuple[str, str]], differing: list[str], why_none: str) -> None:
    config, held_out = job.config, job.held_out
    log.info("run folder: %s", job.run)
    for name, (old, new) in relocated.items():
        log.info("--%s has moved from %s to %s", name.replace("_", "-"), old, new)
    if relocated:
        same = "the same by name, size and tags"
        log.info("its pictures are %s", same if (job.run / RECORD).is_file() else OLDER)
    if differing:
        log.warning("the data is not what this run began with: %s", "; ".join(differing))
    log.info("%d training pictures, classes: %s", len(job.pictures.pictures), ", ".join(job.pictures.classes))
    if side := _median_side(job.pictures):
        cell = config.cell_side(side)
        log.info("a cell of the map covers %.0f x %.0f pixels of a picture whose longer side has %d", cell, cell, side)
    log.info("draws: %s; %s", config.sampling, fitting_sampling(job.pictures)[1])
    if held_out is None:
        log.log(logging.INFO if config.held_out is None else logging.WARNING, "no validation: %s", why_none)
    count, source = len(job.known.pictures.pictures), job.known.source
    log.info("whether the network learns its tags is measured on %d %s", count, source)
    log_findings(dict.fromkeys((*job.pictures.findings, *(held_out.findings if held_out else ()))), log)
    for dead in nothing_learned(config.weights):
        log.warning("--weights %s: %s %s", config.weights, dead.message, dead.cure)


def _log_longer(saved: RunConfig | None, config: RunConfig, state: dict[str, Any] | None) -> None:
    """Say what a run that goes on does otherwise from here on."""
    if state is None or not isinstance(saved, TrainConfig) or not isinstance(config, TrainConfig):
        return
    step = _step_of(state)
    if config.tag_steps != saved.tag_steps:
        told = "the tag phase has %d steps instead of %d; from step %d its learning rate follows the new length"
        log.info(told, config.tag_steps, saved.tag_steps, step)
    if config.optim.lr != saved.optim.lr:
        log.info("--optim.lr is %g instead of %g from step %d", config.optim.lr, saved.optim.lr, step)
