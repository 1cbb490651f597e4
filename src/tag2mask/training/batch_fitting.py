"""`--batch-size auto`: the most pictures whose training step fits into memory."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable

import torch
from accelerate import Accelerator

from tag2mask.base.memory import free_bytes, peak_bytes, ran_out
from tag2mask.batch import Batch
from tag2mask.config import Phase, RunConfig
from tag2mask.data import PictureSet
from tag2mask.data.training.loading import TrainingPictures
from tag2mask.method import Moment
from tag2mask.models.base import SegmentationNetwork
from tag2mask.training.loop import Objective
from tag2mask.training.optim import build_optimizer

log = logging.getLogger("tag2mask")

SHARE = 0.8
"""Share of the free memory that a step may fill; pictures differ, and other work grows too."""
_FEW, _MORE = 2, 6
"""Pictures of the two steps whose memory is compared on the CPU."""
_DRAWN = 8
"""Pictures that are read; larger batches repeat them."""


def with_fitting_batches(
    config: RunConfig,
    network: SegmentationNetwork,
    pictures: PictureSet,
    objective: Objective,
    accelerator: Accelerator,
) -> RunConfig:
    """`config` with numbers where it says auto: of each such phase, the most pictures of a step that fit.

    On the CPU two small steps are measured, and the memory that a picture adds is compared with `SHARE` of what is
    free; on a GPU sizes are tried, and `SHARE` of the largest that fits is taken. No number is above the number of
    training pictures. Weights and random numbers of the run stay as they are.

    Raises:
        MemoryError: not even one picture fits.
        ValueError: the system does not tell how much memory some work takes.
    """
    for phase, name in zip(config.phases, config.batch_fields, strict=True):
        if phase.batch_size != "auto":
            continue
        with torch.random.fork_rng():
            step = _trial(config, phase, network, pictures, objective, accelerator)
            least, most = network.smallest_batch(config.augment.crop_size), len(pictures.pictures)
            if most < least:
                raise ValueError(f"This network needs {least} pictures per step, and there is {most}; add pictures.")
            on_gpu = accelerator.device.type == "cuda"
            largest = _by_trying(step, most, least) if on_gpu else _by_measuring(step, config, most, least)
        if largest < least:
            raise MemoryError("not even one picture per step fits" if least == 1 else f"not even {least} pictures fit")
        log.info("--%s auto: %d pictures per step fit", name.replace("_", "-"), largest)
        config = config.replace(**{name: largest})
    return config


def _trial(
    config: RunConfig,
    phase: Phase,
    network: SegmentationNetwork,
    pictures: PictureSet,
    objective: Objective,
    accelerator: Accelerator,
) -> Callable[[int], None]:
    """A function that makes one step of `phase` with so many pictures, on a copy of the network."""
    data = TrainingPictures(
        pictures, config.augment, config.image_size, network.mean_rgb, config.seed, batch_starts=[0]
    )
    samples = [data[n] for n in range(_DRAWN)]

    def step(count: int) -> None:
        model = copy.deepcopy(network).to(accelerator.device).train()
        average = copy.deepcopy(model).eval().requires_grad_(False) if config.average_decay > 0 else None
        optimizer = build_optimizer(model, config.optim)
        batch = Batch.collate([samples[i % _DRAWN] for i in range(count)]).to(accelerator.device)
        moment = Moment(model=model, network=model, average=average, phase=phase.name, progress=0.5)
        with accelerator.autocast():
            losses = objective.losses(moment, batch)
        losses.total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _by_measuring(step: Callable[[int], None], config: RunConfig, most: int, least: int) -> int:
    """From the memory of two small steps, and what is free."""
    step(least)  # what is taken once and kept
    few, more = (peak_bytes(lambda n=n: step(n)) for n in (_FEW, _MORE))  # type: ignore[misc]
    sample = config.augment.crop_size**2 * (3 + 1 + 8)  # picture, valid, mask
    waiting = 2 * config.workers + 1  # batches that are loaded ahead
    each = max(1, (more - few) // (_MORE - _FEW)) + waiting * sample
    return min(most, int(SHARE * free_bytes() / each))


def _by_trying(step: Callable[[int], None], most: int, least: int = 1) -> int:
    """Doubling until it does not fit, then halving the gap to a sixteenth."""
    fits, fails, count = 0, most + 1, least
    while fits < most < fails:
        fits, fails = (count, fails) if _fits(step, count) else (fits, count)
        count = min(2 * count, most)
    while fails - fits > max(1, fits // 16):
        middle = (fits + fails) // 2
        if middle < least:
            return 0
        fits, fails = (middle, fails) if _fits(step, middle) else (fits, middle)
    return fits if fits in (0, most) else max(least, int(SHARE * fits))


def _fits(step: Callable[[int], None], count: int) -> bool:
    try:
        step(count)
    except (MemoryError, RuntimeError) as error:
        if ran_out(error) is None:
            raise
        return False
    finally:
        torch.cuda.empty_cache()
    return True
