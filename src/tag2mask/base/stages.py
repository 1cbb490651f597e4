"""Reading ahead in threads, work in the caller's thread, finishing behind in threads. Imports no torch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Generic, TypeVar

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

    def run(self, items: Iterable[_Item]) -> Iterator[Outcome[_Item, _Result]]:
        """The outcomes in the order of the items, which are asked for as they are needed, in the caller's thread.

        An exception of a stage is the outcome of its item; where several were worked on together each is tried alone
        first. Anything else, such as a KeyboardInterrupt, ends the run; what has not begun then never does.
        """
        pool = ThreadPoolExecutor(self.jobs)
        try:
            yield from _Run(self, iter(items), pool).outcomes()
        finally:
            pool.shutdown(cancel_futures=True)


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


@dataclass(eq=False)
class _Run:
    stages: Stages[Any, Any]
    items: Iterator[Any]
    pool: ThreadPoolExecutor
    slots: deque[_Slot] = field(default_factory=deque)
    coming: list[tuple[Any, int]] = field(default_factory=list)
    """The item that comes next, if it has been asked for already, with its cost."""

    def outcomes(self) -> Iterator[Outcome[Any, Any]]:
        while True:
            self._read_ahead()
            if not self.slots:
                return
            group, full = self._group()
            if full or (group and group[0] is self.slots[0]):
                self._work(group)
            else:
                yield self._outcome(self.slots.popleft())

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
