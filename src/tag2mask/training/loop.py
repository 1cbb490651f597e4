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
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from tag2mask.base.console import Bar, stop_signal
from tag2mask.base.files import write_text
from tag2mask.base.options import for_reader
from tag2mask.base.team import Team
from tag2mask.batch import Batch, Losses
from tag2mask.config import RunConfig, TrainConfig
from tag2mask.data import PictureSet
from tag2mask.data.findings import log_findings
from tag2mask.data.training.loading import TrainingPictures, leave_stops_to_the_parent, named_deaths, named_errors
from tag2mask.inference.segmenter import Segmenter
from tag2mask.method import Moment
from tag2mask.models.base import SegmentationNetwork
from tag2mask.runs.checkpoints import load_model, save_model, save_state, save_tag_phase
from tag2mask.runs.folder import peak_memory
from tag2mask.runs.health import SUMMARY, Health
from tag2mask.training.health import KnownTags, measure
from tag2mask.training.optim import build_optimizer, learning_rates, set_learning_rates
from tag2mask.training.page import write_report
from tag2mask.training.records import Records, describe
from tag2mask.training.state import TrainingState, own_random_state
from tag2mask.training.watching import validate

log = logging.getLogger("tag2mask")

MAX_NONFINITE = 5
"""Steps in a row with a non-finite loss or gradient after which a run stops with advice."""


class TrainingStopped(RuntimeError):
    """The run cannot go on; the message says why and what to change."""


class Objective(Protocol):
    """What a run learns: the interface between the loop and the two steps."""

    def losses(self, at: Moment, batch: Batch) -> Losses:
        """The losses of the batch of which this process has B samples, on the model's device."""
        ...

    def write_samples(self, run: Path, at: Moment, batch: Batch, step: int) -> Path:
        """Write `samples/step-N.jpg` of a batch that was learned at that moment; the random state stays as it was."""
        ...


@dataclass(frozen=True)
class Job:
    """What a run trains with; all of it stays the same to the end."""

    config: RunConfig
    """With numbers for batch sizes, and absolute paths."""
    run: Path
    accelerator: Accelerator
    team: Team
    pictures: PictureSet
    held_out: PictureSet | None
    """What it is validated on."""
    known: KnownTags
    """What it is judged by."""
    objective: Objective


def fit(job: Job, network: SegmentationNetwork, saved: dict[str, Any] | None) -> None:
    """Train the network to the end of the run, from a saved state if there is one, and write what the run leaves."""
    config, team = job.config, job.team
    state = _state(job, network, saved)
    model, optimizer = job.accelerator.prepare(network, state.optimizer)
    network.train()
    batches = _batches(job, network, state.step)
    records = Records(config, job.run, state.step, writes=team.is_main)
    health: Health | None = None
    with named_deaths(), stop_signal() as stop, Bar("step", shown=team.is_main) as bar:
        if state.unvalidated is not None:  # it was interrupted where a validation was due
            row, state.unvalidated = state.unvalidated, None
            scores, health = _validate(job, state, row["phase"])
            records.write(row | scores)
        if _joint_begins(config, state.step):  # an interrupt, or a tag phase that was taken over or has learned nothing
            _judge(job, state, health or _validate(job, state, "tags")[1])
        while state.step < config.steps:
            moment = _moment(job, state, model)
            row, batch = _step(job, moment, optimizer, state, batches)
            stopping = team.any(stop.is_set())
            if team.is_main and not stopping:
                _show(job, state, moment, batch, records)
            joint_begins = _joint_begins(config, state.step)
            validates = joint_begins or _due(state.step, config.validate_every, config.steps)
            if validates and not stopping:
                try:
                    scores, health = _validate(job, state, moment.phase, stop)
                    row |= scores
                except _Interrupted:
                    stopping = True
            if validates and stopping:
                state.unvalidated = row
            elif validates or _due(state.step, config.log_every, config.steps):
                records.write(row)
            bar.update(state.step, config.steps, describe(row))
            if _due(state.step, config.save_every, config.steps) or stopping:
                _save(job, state)
            if joint_begins:
                _keep_tag_phase(job, state)
            if stopping:
                raise KeyboardInterrupt(
                    f"Stopped and saved at step {state.step} of {config.steps}. "
                    f"Go on with: tag2mask {config.kind} --resume {shlex.quote(str(job.run))}"
                )
            if joint_begins and health is not None:
                _judge(job, state, health)
    records.close(state.step)
    if team.is_main:
        health = _finish(job, state, health)
    if health is not None and isinstance(config, TrainConfig) and config.joint_steps == 0:
        _judge(job, state, health)


def _state(job: Job, network: SegmentationNetwork, saved: dict[str, Any] | None) -> TrainingState:
    """The state in which the first step begins."""
    config, average = job.config, None
    if config.average_decay > 0:
        average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(config.average_decay))  # type: ignore[no-untyped-call]
        average.module.eval().requires_grad_(False)
    state = TrainingState(network, build_optimizer(network, config.optim), average, job.accelerator.scaler)
    if saved is not None:
        state.load_dict(saved, job.team)
        log.info("going on at step %d of %d", state.step, config.steps)
    else:
        own_random_state(job.team, step=0)
    return state


def _save(job: Job, state: TrainingState) -> None:
    kept = state.to_dict(job.team)
    if job.team.is_main:
        save_state(job.run, kept)


def _show(job: Job, state: TrainingState, moment: Moment, batch: Batch, records: Records) -> None:
    """Write a sample sheet where one is due."""
    config, step = job.config, state.step
    if config.sample_every > 0 and _due(step, config.sample_every, config.steps):
        records.write_picture("samples", job.objective.write_samples(job.run, moment, batch, step), step)


def _joint_begins(config: RunConfig, step: int) -> bool:
    """Whether the tag phase has just ended and the joint phase is to come."""
    if not 0 < step < config.steps:
        return False
    (before, _), (phase, _) = config.phase_at(step - 1), config.phase_at(step)
    return (before.name, phase.name) == ("tags", "joint")


def _judge(job: Job, state: TrainingState, health: Health) -> None:
    """After the tag phase: name the classes that are not known; fail where masks would have nothing to learn from.

    Raises:
        TrainingStopped: with the command that trains on tags for longer; the state is saved.
    """
    assert isinstance(job.config, TrainConfig)
    reason = health.stop(job.run, job.config)
    if reason is not None:
        _save(job, state)
        raise TrainingStopped(for_reader(reason))
    if health.reasons and job.config.joint_steps:
        log.warning("after the tag phase: nothing is learned so far, %s", " and ".join(health.reasons))
    if health.weak:
        log.warning(
            "after the tag phase: no better than chance: %s. Train longer on tags (--tag-steps), with another "
            "--optim.lr, or add pictures of them",
            ", ".join(f"{each.name} (AP {each.ap:.2f}, by chance {each.chance:.2f})" for each in health.weak),
        )


def _keep_tag_phase(job: Job, state: TrainingState) -> None:
    """Keep the state of the end of the tag phase: equal to that of a run of tags alone."""
    kept = state.to_dict(job.team) | {"unvalidated": None}
    if job.team.is_main:
        save_tag_phase(job.run, kept)


def _moment(job: Job, state: TrainingState, model: torch.nn.Module) -> Moment:
    """Where the run stands before the next step."""
    phase, done = job.config.phase_at(state.step)
    return Moment(
        model=model,
        network=state.model,
        average=None if state.average is None else state.keeper,
        phase=phase.name,
        progress=done / phase.steps,
        team=job.team,
    )


def _step(
    job: Job, moment: Moment, optimizer: Any, state: TrainingState, batches: Iterator[Batch]
) -> tuple[dict[str, Any], Batch]:
    """One update of the weights; returns its row of metrics and the last batch."""
    config, accelerator, model = job.config, job.accelerator, moment.model
    rates = learning_rates(config, state.step)
    set_learning_rates(state.optimizer, rates)
    started, mining, finite = time.perf_counter(), 0.0, True
    for _ in range(config.optim.accumulate):
        batch = next(batches)
        _note_broken(state, batch, moment.team)
        with accelerator.accumulate(model):
            with accelerator.autocast():
                losses = job.objective.losses(moment, batch)
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
    _count_nonfinite(state, losses, finite=finite)
    if state.average is not None and finite:
        state.average.update_parameters(state.model)
    seconds = time.perf_counter() - started
    state.seconds += seconds
    pictures = int(config.phase_at(state.step)[0].batch_size) * config.optim.accumulate
    state.step += 1
    row = {"step": state.step, "phase": moment.phase, "lr": rates["old_weights"], "skipped_steps": state.skipped}
    row |= {"total_loss": losses.total.item(), "images_per_second": pictures / seconds}
    row |= {f"{name}_loss": part.item() for name, part in losses.parts.items()}
    if losses.reliable_share is not None:
        row |= {"reliable_share": losses.reliable_share, "mining_share": mining / seconds}
    if losses.background_share is not None:
        row["background_share"] = losses.background_share
    return row, batch


def _due(step: int, every: int, last: int) -> bool:
    return step == last or (every > 0 and step % every == 0)


def _batches(job: Job, network: SegmentationNetwork, step: int) -> Iterator[Batch]:
    """This process's part of the batches of steps `step`, `step` + 1, ...

    Together they are the draws that one process would hold in a run that never stopped.
    """
    config, team = job.config, job.team
    accumulate = config.optim.accumulate
    sizes = [int(phase.batch_size) for phase in config.phases for _ in range(phase.steps * accumulate)]
    first = step * accumulate
    starts = [0, *itertools.accumulate(sizes)]
    draws = [list(team.share(range(starts[i], starts[i + 1]))) for i in range(first, len(sizes))]
    dataset = TrainingPictures(
        job.pictures,
        config.augment,
        config.image_size,
        network.mean_rgb,
        config.seed,
        batch_starts=starts,
        sampling="balanced" if config.sampling == "balanced" else "uniform",
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


def _note_broken(state: TrainingState, batch: Batch, team: Team) -> None:
    new = [name for name in batch.broken if name not in state.broken]
    if team.any(bool(new)):
        for name in dict.fromkeys(itertools.chain(*team.gather(new))):
            state.broken.add(name)
            log.warning("%s cannot be read and is skipped (%d broken so far)", name, len(state.broken))


def _count_nonfinite(state: TrainingState, losses: Losses, *, finite: bool) -> None:
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


def _validate(job: Job, state: TrainingState, phase: str, stop: Event | None = None) -> tuple[dict[str, float], Health]:
    """Score the network so far: its health, and the mIoU where the validation split has masks and any were learned.

    Raises:
        _Interrupted: `stop` was set meanwhile; several processes, which wait for each other, go on to the end.
    """

    def go_on(done: int, total: int) -> None:
        if stop is not None and stop.is_set() and job.team.count == 1:
            raise _Interrupted

    config, team, masks, scores = job.config, job.team, phase != "tags", {}
    if masks:
        details = job.run if state.step == config.steps else None
        scores = validate(config, state.keeper, job.held_out, details=details, team=team, progress=go_on)
    if config.select == "miou" and scores.get("miou", -1.0) > state.best_miou:
        state.best_miou = scores["miou"]
        selection = f"best mIoU on {config.val_split} at step {state.step}"
        if team.is_main:
            save_model(job.run / "model.safetensors", state.keeper, config, selection=selection)
    broken: dict[str, str] = {}
    segmenter = Segmenter(state.keeper, config)
    health = measure(segmenter, job.known, masks=masks, broken=broken, progress=go_on, team=team)
    for message in broken.values():
        log.warning("left out of the held-out tags: %s", message)
    log.info("step %d: %s", state.step, "\n".join(health.lines()))
    return scores | health.row, health


def _finish(job: Job, state: TrainingState, health: Health | None) -> Health:
    """Write the model, summary.json and report.html; `health` is that of the last step; return the model's."""
    config, run, kept, selection = job.config, job.run, state.keeper, "last step"
    if config.select == "last" or state.best_miou < 0:
        save_model(run / "model.safetensors", kept, config, selection=selection)
    else:
        best, _, metadata = load_model(run)
        kept.load_state_dict(best.state_dict())  # the run is over: nothing trains on
        selection, health = metadata["selection"], None
    if health is None:
        health = measure(Segmenter(kept, config), job.known, masks=config.phases[-1].name != "tags")
    summary: dict[str, Any] = {"steps": state.step, "minutes_of_steps": round(state.seconds / 60, 2)} | peak_memory()
    findings = health.findings(second_step=config.kind == "retrain")
    if findings:
        save_model(run / "model.safetensors", kept, config, selection=selection, findings=findings)
        log_findings(findings, log)
    summary["health"] = health.as_dict() | {"findings": [each.as_dict() for each in findings]}
    write_text(run / SUMMARY, json.dumps(summary, indent=2) + "\n")
    if state.broken:
        log.warning("%d pictures could not be read: %s", len(state.broken), ", ".join(sorted(state.broken)[:20]))
    write_report(run)
    log.info("done: %s", run)
    return health
