"""Several processes that train one network: who shares the work, sums over all of them, and what ends them all.

PyTorch's own engine does it: torchrun or `accelerate launch` start the processes, gloo (CPU) or NCCL (GPU) carry the
tensors. Each process holds the whole network and a share of every batch. A loss that is a ratio of sums takes its sums
over the whole batch with `Team.total`, so that the gradients, which PyTorch averages over the processes, are those of
one process with the whole batch.
"""

from __future__ import annotations

import atexit
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from tag2mask.base.errors import first_line
from tag2mask.base.share import Share

_T = TypeVar("_T")

TIMEOUT = "TAG2MASK_TIMEOUT"
"""Environment variable: seconds that a process waits for the others before it takes them for lost."""
_SECONDS = 600.0
_REASON = "tag2mask/reason"
_LOST = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out waiting")


class ProcessLost(RuntimeError):
    """Another process of the job has ended or does not answer; the message says why, where that is known."""


@dataclass(frozen=True)
class Team:
    """The processes that train together, as one of them sees them. Methods that say "all" must be called by all."""

    index: int = 0
    """Which process this is; 0 is the main one, the only one that writes files and log lines."""
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Where this process computes."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes."""
        return self.index == 0

    def share(self, items: Sequence[_T]) -> Sequence[_T]:
        """This process's part of `items`, neighbours; the parts of all are every item once, in order."""
        own = Share(index=self.index, count=self.count).range(len(items))
        return items[own.start : own.stop]

    def total(self, x: Tensor) -> Tensor:
        """The sum of `x` over all processes, differentiable.

        Its gradient is the sum over all processes as well: whatever each of them does with the total counts. PyTorch
        then averages the gradients of the weights, so a loss that every process computes from totals counts once.
        """
        return x if self.count == 1 else cast(Tensor, _Total.apply(x))

    def number(self, x: int) -> int:
        """The sum of `x` over all processes."""
        return x if self.count == 1 else int(self.total(torch.tensor(x, device=self.device)))

    def any(self, flag: bool) -> bool:
        """Whether it is True in any of all processes."""
        return self.number(int(flag)) > 0

    def gather(self, value: _T) -> list[_T]:
        """The small values of all processes, by index."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def from_main(self, make: Callable[[], _T]) -> _T:
        """What the main process makes; all wait for it."""
        return cast(_T, self.gather(make() if self.is_main else None)[0])


ALONE = Team()
"""One process that has the whole batch."""


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _summed(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _summed(grads[0])


def _summed(x: Tensor) -> Tensor:
    out = x.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(out)
    return out


def timeout() -> timedelta:
    """How long a process waits for the others: TAG2MASK_TIMEOUT in seconds, else ten minutes.

    Raises:
        ValueError: it is no number of seconds greater than 0.
    """
    text = os.environ.get(TIMEOUT, "")
    try:
        seconds = float(text) if text else _SECONDS
        if not 0 < seconds < 1e9:
            raise ValueError
    except ValueError:
        raise ValueError(f"{TIMEOUT} must be a number of seconds greater than 0, got {text!r}") from None
    return timedelta(seconds=seconds)


@contextmanager
def together() -> Iterator[None]:
    """The work of a team: what ends one process is told to the others, which end with that reason.

    Raises:
        ProcessLost: instead of the error of a broken connection.
    """
    try:
        with warnings.catch_warnings():
            # depthwise convolutions that run with channels last; costs a copy of small tensors
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
            yield
    except BaseException as error:
        if isinstance(error, ProcessLost):
            raise
        if not _is_lost(error):
            _tell(error)
            raise
        said = first_line(error)[:300]
        reason = _told() or f"it was killed, hangs, or its machine cannot be reached ({said}); memory may have run out"
        raise ProcessLost(
            f"Another process of this job is lost: {reason}. Cure that, then go on with --resume where last/state.pt "
            f"is there. A process that is only slow gets more time with {TIMEOUT}, in seconds."
        ) from error


def _is_lost(error: BaseException) -> bool:
    """Whether this is how the engine reports that another process does not answer."""
    if isinstance(error, dist.DistError):
        return True
    return type(error) is RuntimeError and any(word in str(error) for word in _LOST)


def _store() -> Any:
    """Where processes leave word for each other; torchrun keeps it beyond the death of any of them."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return None
    return dist.distributed_c10d._get_default_store()


def _tell(error: BaseException) -> None:
    store = _store()
    if store is None:
        return
    try:
        reason = f"process {dist.get_rank()} ended with {type(error).__name__}: {' '.join(str(error).split())[:2000]}"
        store.set(_REASON, reason)
    except (RuntimeError, ValueError):  # the store died with the process that kept it
        return


def _told() -> str:
    store = _store()
    if store is None:
        return ""
    try:
        return store.get(_REASON).decode().rstrip(".") if store.check([_REASON]) else ""
    except (RuntimeError, ValueError):
        return ""


def leave() -> None:
    """All have done their work: wait for the slowest, and take leave in order when Python ends."""
    if dist.is_initialized():
        dist.barrier()
        atexit.unregister(_destroy)
        atexit.register(_destroy)


def _destroy() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
