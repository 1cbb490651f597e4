"""The training loop: steps of a run's phases, saves, validations. One loop, no callbacks; it knows no losses.

What a step learns is the `Objective` that `train` or `retrain` hands in.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, set_seed
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from tag2mask.base.console import Bar, stop_signal
from tag2mask.base.files import check_folder, check_new_folder, write_text
from tag2mask.base.team import Team, leave, timeout, together
from tag2mask.batch import Batch, Losses
from tag2mask.config import RunConfig, load_config
from tag2mask.data import PictureSet
from tag2mask.data.findings import log_findings
from tag2mask.data.masks.survey import with_measuring_masks
from tag2mask.data.training.loading import TrainingPictures, leave_stops_to_the_parent, named_deaths, named_errors
from tag2mask.inference.segmenter import Segmenter
from tag2mask.models import build_network
from tag2mask.models.base import SegmentationNetwork
from tag2mask.runs.folder import (
    environment,
    errors_only,
    load_model,
    load_state,
    log_to,
    new_run_folder,
    peak_memory,
    save_model,
    save_state,
)
from tag2mask.runs.learned import SUMMARY, nothing_learned
from tag2mask.runs.places import OLDER, RECORD, check_record, going_on, located, moved, write_record
from tag2mask.training.batch_fitting import with_fitting_batches
from tag2mask.training.learned import look_at
from tag2mask.training.objective import Moment, Objective
from tag2mask.training.optim import build_optimizer, learning_rates, set_learning_rates
from tag2mask.training.page import write_report
from tag2mask.training.records import Records, check_trackers, describe
from tag2mask.training.state import TrainingState, own_random_state, require_classes
from tag2mask.training.watching import validate, validation_pictures

log = logging.getLogger("tag2mask")

MAX_NONFINITE = 5
"""Steps in a row with a non-finite loss or gradient after which a run stops with advice."""


class TrainingStopped(RuntimeError):
    """The run cannot go on; the message says why and what to change."""


def run_training(
    config: RunConfig,
    pictures: PictureSet,
    objective: Objective,
    *,
    resume: str | Path | None = None,
    start: Path | None = None,
) -> Path:
    """Train a network and write its run folder.

    Args:
        config: Everything about the run, checked.
        pictures: What it learns from.
        objective: What it learns.
        resume: Run folder to go on with, exactly where its last save was; `config` must be the folder's own.
        start: Run folder whose saved state the new run starts from.

    Returns:
        The run folder: config.json, environment.json, metrics.csv, log.txt, model.safetensors, last/, samples/,
        report.html.

    Raises:
        ValueError, FileNotFoundError: bad data or settings, before any training.
        FileExistsError: `config.out` is not empty.
        TrainingStopped: the loss stayed non-finite.
        ProcessLost: another process that shares the batches ended or does not answer.
        KeyboardInterrupt: Ctrl-C; the state is saved first, and the message says how to go on.
    """
    with together():
        return _run_training(config, pictures, objective, None if resume is None else Path(resume), start)


def _run_training(
    config: RunConfig, pictures: PictureSet, objective: Objective, resume: Path | None, start: Path | None
) -> Path:
    relocated: dict[str, tuple[str, str]] = {}
    if resume is not None:
        saved, config = load_config(resume), going_on(resume, config)
        relocated = moved(saved, config)
    check_trackers(config)
    accelerator = _accelerator(config)
    team = Team(accelerator.process_index, accelerator.num_processes, accelerator.device)
    _check_share(config, team)
    held_out, why_none = validation_pictures(config, goes_on=resume is not None)
    if held_out is not None:
        held_out = with_measuring_masks(held_out, config.validate_pictures, strict=config.select == "miou")
    differing = [] if resume is None else check_record(resume, config, pictures, held_out)
    if differing and relocated:
        places = " ".join(f"--{name.replace('_', '-')} {new}" for name, (_, new) in relocated.items())
        raise ValueError(
            f"{places} does not hold what {resume} began with: {'; '.join(differing)}. Give the place where the same "
            "files lie now, or start a new run"
        )
    if config.select == "miou" and (held_out is None or not held_out.has_masks):
        raise ValueError(
            f"--select miou needs masks of split {config.val_split!r} of {config.data}; add masks or use --select last"
        )
    state = load_state(start) if start is not None else None
    if start is not None and state is not None:
        require_classes(state, pictures.classes, start)
    set_seed(config.seed)
    model = build_network(config, pictures.classes, pretrained=resume is None)
    _check_smallest_batch(config, model, team)
    if resume is None:
        config = with_fitting_batches(config, model, pictures, objective, accelerator)
    run = team.from_main(lambda: _new_run(config, team, pictures, held_out) if resume is None else resume)
    if resume is None:
        config = _resolved(config, run)
    elif relocated and team.is_main:
        write_text(run / "config.json", config.to_json())
    if resume is not None:
        state = load_state(run)
        require_classes(state, pictures.classes, run)
    with log_to(run) if team.is_main else errors_only(), together():
        log.info("run folder: %s", run)
        for name, (old, new) in relocated.items():
            log.info("--%s has moved from %s to %s", name.replace("_", "-"), old, new)
        if relocated:
            compared = "the same by name, size and tags" if (run / RECORD).is_file() else OLDER
            log.info("its pictures are %s", compared)
        if differing:
            log.warning("the data is not what this run began with: %s", "; ".join(differing))
        log.info("%d training pictures, classes: %s", len(pictures.pictures), ", ".join(pictures.classes))
        if held_out is None:
            log.log(logging.INFO if config.held_out is None else logging.WARNING, "no validation: %s", why_none)
        log_findings(dict.fromkeys((*pictures.findings, *(held_out.findings if held_out else ()))), log)
        for dead in nothing_learned(config.weights):
            log.warning("--weights %s: %s %s", config.weights, dead.message, dead.cure)
        _fit(config, run, accelerator, team, model.to(accelerator.device), pictures, held_out, objective, state)
        leave()
    return run


def check_out(config: RunConfig) -> None:
    """Refuse a place for the run before anything is read; see `new_run_folder`, which makes it."""
    if config.out is None:
        check_folder(Path("runs"), "the default --out")
    else:
        check_new_folder(Path(config.out))


def _new_run(config: RunConfig, team: Team, pictures: PictureSet, held_out: PictureSet | None) -> Path:
    """Make the run folder with what is known before training."""
    run = new_run_folder(config.out, config.preset_name)
    write_text(run / "config.json", _resolved(config, run).to_json())
    data = {each.split: _data_summary(each) for each in (pictures, held_out) if each is not None}
    write_record(run, config, pictures, held_out)
    about = environment() | {"processes": team.count, "data": data}
    write_text(run / "environment.json", json.dumps(about, indent=2) + "\n")
    return run


def _data_summary(pictures: PictureSet) -> dict[str, Any]:
    return {"num_images": len(pictures.pictures), "findings": [each.as_dict() for each in pictures.findings]}


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
            each = f" of {team.count} processes" if team.count > 1 else ""
            raise ValueError(
                f"--{name.replace('_', '-')} {phase.batch_size} leaves one picture per step{each}, too few for this "
                "network: its norms average over a picture that it has pooled to one cell. Use --"
                f"{name.replace('_', '-')} {least * team.count} or more."
            )


def _resolved(config: RunConfig, run: Path) -> RunConfig:
    """The config with its places spelled out, so that the run goes on from any folder."""
    return located(config).replace(out=str(run))


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


def _fit(
    config: RunConfig,
    run: Path,
    accelerator: Accelerator,
    team: Team,
    network: SegmentationNetwork,
    pictures: PictureSet,
    held_out: PictureSet | None,
    objective: Objective,
    saved: dict[str, Any] | None,
) -> None:
    average = None
    if config.average_decay > 0:
        average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(config.average_decay))  # type: ignore[no-untyped-call]
        average.module.eval().requires_grad_(False)
    state = TrainingState(network, build_optimizer(network, config.optim), average, accelerator.scaler)
    if saved is not None:
        state.load_dict(saved, team)
        log.info("going on at step %d of %d", state.step, config.steps)
    else:
        own_random_state(team, step=0)
    model, optimizer = accelerator.prepare(network, state.optimizer)
    network.train()
    batches = _batches(config, pictures, network, state.step, team)
    records = Records(config, run, state.step, writes=team.is_main)
    with named_deaths(), stop_signal() as stop, Bar("step", shown=team.is_main) as bar:
        if state.unvalidated is not None:  # it was interrupted where a validation was due
            row, state.unvalidated = state.unvalidated, None
            records.write(row | _validate(config, run, team, state, held_out, row["phase"]))
        while state.step < config.steps:
            moment = _moment(config, state, model, team)
            row, batch = _step(config, accelerator, moment, optimizer, state, batches, objective)
            stopping = team.any(stop.is_set())
            sheets = team.is_main and not stopping and config.sample_every > 0
            if sheets and _due(state.step, config.sample_every, config.steps):
                sheet = objective.write_samples(run, moment, batch, state.step)
                records.write_picture("samples", sheet, state.step)
            if team.is_main and not stopping and _tags_are_done(config, state.step):
                learned = look_at(Segmenter(state.keeper, config), pictures, masks=False)
                if learned.reasons:
                    log.warning("after the tag phase: nothing is learned so far, %s", " and ".join(learned.reasons))
            validates = _due(state.step, config.validate_every, config.steps)
            if validates and not stopping:
                try:
                    row |= _validate(config, run, team, state, held_out, moment.phase, stop)
                except _Interrupted:
                    stopping = True
            if validates and stopping:
                state.unvalidated = row
            elif _due(state.step, config.log_every, config.steps) or not row.keys().isdisjoint(("miou", "tag_map")):
                records.write(row)
            bar.update(state.step, config.steps, describe(row))
            if _due(state.step, config.save_every, config.steps) or stopping:
                _save(run, team, state)
            if stopping:
                raise KeyboardInterrupt(
                    f"Stopped and saved at step {state.step} of {config.steps}. "
                    f"Go on with: tag2mask {config.kind} --resume {shlex.quote(str(run))}"
                )
    records.close(state.step)
    if team.is_main:
        _finish(config, run, state, pictures)


def _tags_are_done(config: RunConfig, step: int) -> bool:
    """Whether the tag phase ends with this step and another one follows."""
    return step < config.steps and config.phase_at(step)[0] != config.phase_at(step - 1)[0]


def _save(run: Path, team: Team, state: TrainingState) -> None:
    saved = state.to_dict(team)
    if team.is_main:
        save_state(run, saved)


def _moment(config: RunConfig, state: TrainingState, model: torch.nn.Module, team: Team) -> Moment:
    """Where the run stands before the next step."""
    stretch, done = config.phase_at(state.step)
    average = None if state.average is None else state.keeper
    progress = done / stretch.steps
    return Moment(model=model, network=state.model, average=average, phase=stretch.name, progress=progress, team=team)


def _step(
    config: RunConfig,
    accelerator: Accelerator,
    moment: Moment,
    optimizer: Any,
    state: TrainingState,
    batches: Iterator[Batch],
    objective: Objective,
) -> tuple[dict[str, Any], Batch]:
    """One update of the weights; returns its row of metrics and the last batch."""
    stretch, _ = config.phase_at(state.step)
    model = moment.model
    rates = learning_rates(config, state.step)
    set_learning_rates(state.optimizer, rates)
    started, mining, finite = time.perf_counter(), 0.0, True
    for _ in range(config.optim.accumulate):
        batch = next(batches)
        _note_broken(state, batch, moment.team)
        with accelerator.accumulate(model):
            with accelerator.autocast():
                losses = objective.losses(moment, batch)
            finite = finite and bool(torch.isfinite(losses.total))
            if finite:
                accelerator.backward(losses.total)
                if accelerator.sync_gradients:
                    norm = accelerator.clip_grad_norm_(model.parameters(), config.optim.clip_norm or math.inf)
                    # fp16 overflows now and then; its scaler skips such a step and scales the next one less
                    finite = accelerator.scaler is not None or bool(torch.isfinite(norm))
            if finite:
                optimizer.step()
            if accelerator.sync_gradients or not finite:
                optimizer.zero_grad()
        mining += losses.mining_seconds
    _count_nonfinite(config, state, losses, finite=finite)
    if state.average is not None and finite:
        state.average.update_parameters(state.model)
    state.step += 1
    seconds = time.perf_counter() - started
    state.seconds += seconds
    row = {
        "step": state.step,
        "phase": stretch.name,
        "lr": rates["old_weights"],
        "total_loss": losses.total.item(),
        "images_per_second": _number(stretch.batch_size) * config.optim.accumulate / seconds,
        "skipped_steps": state.skipped,
    }
    row |= {f"{name}_loss": part.item() for name, part in losses.parts.items()}
    if losses.reliable_share is not None:
        row |= {"reliable_share": losses.reliable_share, "mining_share": mining / seconds}
    return row, batch


def _due(step: int, every: int, last: int) -> bool:
    return step == last or (every > 0 and step % every == 0)


def _batches(
    config: RunConfig, pictures: PictureSet, network: SegmentationNetwork, step: int, team: Team
) -> Iterator[Batch]:
    """This process's part of the batches of steps `step`, `step` + 1, ...

    Together they are the draws that one process would hold in a run that never stopped.
    """
    accumulate = config.optim.accumulate
    sizes = [_number(phase.batch_size) for phase in config.phases for _ in range(phase.steps * accumulate)]
    first = step * accumulate
    starts = [0, *itertools.accumulate(sizes)]
    draws = [list(team.share(range(starts[i], starts[i + 1]))) for i in range(first, len(sizes))]
    dataset = TrainingPictures(
        pictures,
        config.augment,
        config.image_size,
        fill_rgb=network.mean_rgb,
        seed=config.seed,
        batch_starts=starts,
    )
    loader = DataLoader(
        dataset,
        batch_sampler=draws,
        num_workers=config.workers,
        collate_fn=Batch.collate,
        pin_memory=team.device.type == "cuda",
        worker_init_fn=leave_stops_to_the_parent,
        generator=torch.Generator(),  # its own, or starting the loader would move the run's random state
    )
    return (batch.to(team.device) for batch in named_errors(loader))


def _number(batch_size: int | str) -> int:
    if isinstance(batch_size, str):
        raise ValueError(f"this run has no number of pictures per step yet, only {batch_size!r}")
    return batch_size


def _note_broken(state: TrainingState, batch: Batch, team: Team) -> None:
    new = [name for name in batch.broken if name not in state.broken]
    if team.any(bool(new)):
        for name in dict.fromkeys(itertools.chain(*team.gather(new))):
            state.broken.add(name)
            log.warning("%s cannot be read and is skipped (%d broken so far)", name, len(state.broken))


def _count_nonfinite(config: RunConfig, state: TrainingState, losses: Losses, *, finite: bool) -> None:
    if finite:
        state.nonfinite_in_a_row = 0
        return
    state.skipped += 1
    state.nonfinite_in_a_row += 1
    values = ", ".join(f"{name} {part.item():.3g}" for name, part in losses.parts.items())
    log.warning("step %d skipped: its loss or gradient is not finite (%s)", state.step + 1, values)
    if state.nonfinite_in_a_row >= MAX_NONFINITE:
        raise TrainingStopped(
            f"The loss or its gradient was not finite in {MAX_NONFINITE} steps in a row (last: {values}). Lower "
            "--optim.lr and --optim.joint-lr, set --optim.clip-norm 1, or use --precision fp32."
        )


class _Interrupted(Exception):
    """Ctrl-C during a validation."""


def _validate(
    config: RunConfig,
    run: Path,
    team: Team,
    state: TrainingState,
    held_out: PictureSet | None,
    phase: str,
    stop: Event | None = None,
) -> dict[str, float]:
    """Score the network so far: mIoU where the validation split has masks, else mean average precision of the tags.

    Raises:
        _Interrupted: `stop` was set meanwhile; several processes, which wait for each other, go on to the end.
    """

    def go_on(done: int, total: int) -> None:
        if stop is not None and stop.is_set() and team.count == 1:
            raise _Interrupted

    last = state.step == config.steps
    details = run if last else None
    masks = phase != "tags"
    scores = validate(config, state.keeper, held_out, masks=masks, details=details, team=team, progress=go_on)
    if config.select == "miou" and scores.get("miou", -1.0) > state.best_miou:
        state.best_miou = scores["miou"]
        selection = f"best mIoU on {config.val_split} at step {state.step}"
        if team.is_main:
            save_model(run / "model.safetensors", state.keeper, config, selection=selection)
    return scores


def _finish(config: RunConfig, run: Path, state: TrainingState, pictures: PictureSet) -> None:
    kept = state.keeper
    if config.select == "last" or state.best_miou < 0:
        save_model(run / "model.safetensors", kept, config, selection="last step")
        selection = "last step"
    else:
        best, _, metadata = load_model(run)
        kept.load_state_dict(best.state_dict())  # the run is over: nothing trains on
        selection = metadata["selection"]
    summary: dict[str, Any] = {"steps": state.step, "minutes_of_steps": round(state.seconds / 60, 2)} | peak_memory()
    learned = look_at(Segmenter(kept, config), pictures, masks=config.phases[-1].name != "tags")
    findings = learned.findings(second_step=config.kind == "retrain")
    if findings:
        save_model(run / "model.safetensors", kept, config, selection=selection, findings=findings)
        log_findings(findings, log)
    summary["learned"] = learned.as_dict() | {"findings": [each.as_dict() for each in findings]}
    write_text(run / SUMMARY, json.dumps(summary, indent=2) + "\n")
    if state.broken:
        log.warning("%d pictures could not be read: %s", len(state.broken), ", ".join(sorted(state.broken)[:20]))
    write_report(run)
    log.info("done: %s", run)
