"""Pictures of a set as samples: the random crops of training."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from tag2mask.base.errors import first_line
from tag2mask.batch import Sample
from tag2mask.config import AugmentConfig
from tag2mask.config.run import Sampling
from tag2mask.data.dataset import DataError, Picture, PictureSet
from tag2mask.data.storage.pictures import PictureError, read_mask, read_picture
from tag2mask.data.training.sampling import draw_order
from tag2mask.data.training.transforms import Draw, draw, joint_transform

_T = TypeVar("_T")
_log = logging.getLogger(__name__)

_DEAD_WORKER = (
    "A process that loads pictures died: {} If it printed an error above, that is why. Otherwise memory may have run "
    "out: lower --workers (0 loads in the main process) or --image-size, then go on with --resume."
)
_SIGNAL_COMES = 0.5
"""Seconds within which the system tells of a process whose connection has broken."""


class TrainingPictures(Dataset[Sample]):
    """Draw `n` of a whole training run, for every `n`.

    Draws `e N .. (e + 1) N - 1` are the N pictures in an order that (seed, e) fixes; the augmentation of draw `n` is
    fixed by (seed, n). So neither the number of workers nor a resumed run changes any sample. A scale that is drawn per
    batch is fixed by (seed, first draw of the batch).
    A picture that cannot be read is passed over to the next of its epoch's order and named in `Sample.broken`.
    """

    def __init__(
        self,
        pictures: PictureSet,
        augment: AugmentConfig,
        image_size: int | None,
        fill_rgb: tuple[int, int, int],
        seed: int,
        batch_starts: Sequence[int] | None = None,
        sampling: Sampling = "uniform",
    ) -> None:
        """Samples of `pictures`.

        Args:
            pictures: From `open_data`.
            augment: The joint transform.
            image_size: Longer side to which pictures are resized before the random scale; None keeps them.
            fill_rgb: Colour of the padding, the backbone's mean, 0-255.
            seed: 0 or more.
            batch_starts: First draw of every batch, rising from 0; needed where `augment` draws scales per batch.
            sampling: Which pictures are drawn, see `data.training.sampling`.

        Raises:
            ValueError: scales per batch, and no batches.
        """
        if augment.scale_per == "batch" and not batch_starts:
            raise ValueError("--augment.scale-per batch needs to know where batches start: give batch_starts")
        self.pictures = pictures
        self.augment = augment
        self.image_size = image_size
        self.fill_rgb = fill_rgb
        self.seed = seed
        self.batch_starts = batch_starts
        self.order = draw_order(pictures, sampling, seed)

    def __getitem__(self, n: int) -> Sample:
        """Draw `n`.

        Raises:
            DataError: no picture of the set can be read.
        """
        broken: list[str] = []
        for index in self.order.candidates(n):
            picture = self.pictures.pictures[index]
            try:
                return self._sample(picture, n, tuple(broken))
            except (PictureError, FileNotFoundError):
                broken.append(picture.name)
        raise DataError(
            f"None of the {len(broken)} pictures of split {self.pictures.split!r} in {self.pictures.root} can be read, "
            f"for example {broken[0]}. Replace them."
        )

    def _sample(self, picture: Picture, n: int, broken: tuple[str, ...]) -> Sample:
        rgb = read_picture(picture.path)
        mask = self._mask(picture, (rgb.shape[0], rgb.shape[1]))
        crop = joint_transform(
            rgb,
            mask,
            self._draw(n),
            crop_size=self.augment.crop_size,
            image_size=self.image_size,
            fill_rgb=self.fill_rgb,
        )
        tags = torch.zeros(self.pictures.num_classes, dtype=torch.bool)
        tags[list(picture.tags)] = True
        return Sample(crop.rgb, crop.valid, tags, crop.mask, picture.name, broken)

    def _draw(self, n: int) -> Draw:
        drawn = draw(np.random.default_rng((self.seed, n, 1)), self.augment)
        if self.augment.scale_per == "picture" or self.batch_starts is None:
            return drawn
        first = self.batch_starts[bisect_right(self.batch_starts, n) - 1]
        return replace(drawn, scale=float(np.random.default_rng((self.seed, first, 2)).uniform(*self.augment.scale)))

    def _mask(self, picture: Picture, size: tuple[int, int]) -> NDArray[np.uint8] | None:
        """The mask, or None: training on tags only measures with masks, so a broken one must not stop it."""
        if picture.mask is None:
            return None
        try:
            return read_mask(picture.mask, self.pictures.mask_codes, size)
        except (PictureError, FileNotFoundError) as error:
            _log.warning("Training goes on without this mask: %s", error)
            return None


def named_errors(batches: Iterable[_T]) -> Iterator[_T]:
    """`batches` of a data loader, whose errors say what a person needs: without the worker's traceback.

    Raises:
        DataError: a worker found no usable picture, or died (it was killed, or the machine has no memory left).
    """
    try:
        with named_deaths():
            yield from batches
    except DataError as error:
        lines = str(error).strip().splitlines()  # a worker's error arrives as the text of its traceback
        raise DataError(lines[-1].partition("DataError: ")[2] or lines[-1]) from error
    except (ConnectionError, EOFError) as error:  # it died while it handed a batch over
        with suppress(RuntimeError):  # torch raises at the signal of its death, which would break into what follows
            time.sleep(_SIGNAL_COMES)
        raise DataError(_DEAD_WORKER.format("it broke off in the middle of a batch.")) from error


@contextmanager
def named_deaths() -> Iterator[None]:
    """A block in which workers load pictures. torch reports a dead one at once, in the middle of whatever runs.

    Raises:
        DataError: a worker died.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DataError(_DEAD_WORKER.format(f"{first_line(error)}.")) from error


def leave_stops_to_the_parent(worker: int) -> None:
    """Start of a process that loads pictures: Ctrl-C and SIGTERM end it only if they come from its parent.

    Terminals, torchrun and schedulers send them to the whole process group or job; the loop then ends the step in
    progress and saves, for which it needs its workers. A worker whose parent is gone ends by itself (torch looks).
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_the_parent_says, daemon=True).start()
    elif hasattr(os, "setpgid"):  # macOS does not tell who sent a signal
        os.setpgid(0, 0)


def _end_when_the_parent_says() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
