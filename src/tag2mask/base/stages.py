"""Reading ahead in threads, work in the caller's thread, finishing behind in threads. Imports no torch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, Self, TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(eq=False)
class Outcome(Generic[_Item, _Result]):
    """What came of one item."""

    item: _Item
    result: _Result | None = None
    error: Exception | None = None

    def get(self) -> _Result:
        """The result, or the error, raised."""
        if self.error is not None:
            raise self.error
        return self.result  # type: ignore[return-value]  # there is one where there is no error


@dataclass(frozen=True, kw_only=True)
class Stages(Generic[_Item, _Result]):
    """The functions of the stages, and how much is held at a time."""

    read: Callable[[_Item], Any]
    """An item to what is worked on; runs side by side with itself."""
    work: Callable[[Sequence[tuple[_Item, Any]]], Sequence[Any]]
    """Some items with what was read of them, all of one `kind`, to a result each; runs in the caller's thread."""
    finish: Callable[[_Item, Any, Any], _Result]
    """An item, what was read and what work made of it to the result; runs side by side with itself."""
    kind: Callable[[Any], Hashable] = lambda value: None
    """What must be equal of things that are worked on together."""
    batch: int = 1
    """Most items that are worked on together."""
    cost: Callable[[_Item], int] = lambda item: 0
    """What an item takes while it is held, in units of `budget`."""
    budget: int = 1 << 62
    """Items of more than this together are not held; a single one may cost more."""
    jobs: int = 1
    """Threads that read and finish."""

    def run(self, items: Iterable[_Item]) -> Run[_Item, _Result]:
        """Begin; items are asked for as they are needed, in the caller's thread."""
        return Run(self, iter(items))


@dataclass(eq=False)
class _Slot:
    """An item on its way."""

    item: Any
    cost: int
    reading: Future[Any]
    finishing: Future[Any] | None = None
    error: Exception | None = None

    @property
    def is_waiting(self) -> bool:
        return self.finishing is None and self.error is None

    def read(self) -> bool:
        """Whether it could be read; waits for it."""
        try:
            self.reading.result()
        except Exception as error:
            self.error = error
        return self.error is None


class Run(Generic[_Item, _Result]):
    """The outcomes in the order of the items.

    An exception of a stage is the outcome of its item; where several were worked on together each is tried alone first.
    Anything else, such as a KeyboardInterrupt, is raised. Whoever takes not all of them closes it.
    """

    def __init__(self, stages: Stages[_Item, _Result], items: Iterator[_Item]) -> None:
        """Start the threads."""
        self.stages, self.items = stages, items
        self.pool = ThreadPoolExecutor(stages.jobs)
        self.slots: deque[_Slot] = deque()
        self.coming: list[tuple[Any, int]] = []
        """The item that comes next, if it has been asked for already, with its cost."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Outcome[_Item, _Result]:
        while True:
            self._read_ahead()
            if not self.slots:
                self.pool.shutdown()
                raise StopIteration
            group, full = self._group()
            if not full and not (group and group[0] is self.slots[0]):
                return self._outcome(self.slots.popleft())
            self._work(group)

    def close(self) -> list[Outcome[_Item, _Result]]:
        """Begin nothing more, wait for what has begun, and give the outcomes that were finished but not taken."""
        self.pool.shutdown(cancel_futures=True)
        done = [slot for slot in self.slots if slot.finishing is not None and not slot.finishing.cancelled()]
        self.slots.clear()
        return [self._outcome(slot) for slot in done]

    def _group(self) -> tuple[list[_Slot], bool]:
        """What is worked on next: the first full batch of one kind that is held, else all there is of the first kind.

        The second is whether it is full.
        """
        kinds: dict[Hashable, list[_Slot]] = {}
        for slot in self.slots:
            if slot.is_waiting and slot.read():
                group = kinds.setdefault(self.stages.kind(slot.reading.result()), [])
                group.append(slot)
                if len(group) == self.stages.batch:
                    return group, True
        return next(iter(kinds.values()), []), False

    def _read_ahead(self) -> None:
        """Give out readings while there is room; two batches are held, and a few for each thread."""
        stages = self.stages
        while len(self.slots) < 2 * stages.batch + 2 * stages.jobs:
            if not self.coming:
                self.coming = [(item, stages.cost(item)) for item in islice(self.items, 1)]
            if not self.coming:
                return
            item, cost = self.coming[0]
            if self.slots and sum(slot.cost for slot in self.slots) + cost > stages.budget:
                return
            self.coming = []
            self.slots.append(_Slot(item, cost, self.pool.submit(stages.read, item)))

    def _work(self, group: Sequence[_Slot]) -> None:
        try:
            made = self.stages.work([(slot.item, slot.reading.result()) for slot in group])
        except Exception as error:
            if len(group) == 1:
                group[0].error = error
            else:
                for slot in group:
                    self._work([slot])
            return
        for slot, value in zip(group, made, strict=True):
            slot.finishing = self.pool.submit(self.stages.finish, slot.item, slot.reading.result(), value)

    @staticmethod
    def _outcome(slot: _Slot) -> Outcome[Any, Any]:
        if slot.error is not None:
            return Outcome(slot.item, error=slot.error)
        assert slot.finishing is not None
        try:
            return Outcome(slot.item, slot.finishing.result())
        except Exception as error:
            return Outcome(slot.item, error=error)
