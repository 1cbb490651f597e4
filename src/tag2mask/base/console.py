"""Progress on stderr, and Ctrl-C. Imports no torch."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rich.progress import Progress

log = logging.getLogger("tag2mask")

SECONDS_PER_LINE = 5.0
_PACE_SECONDS, _PACE_ITEMS = 30.0, 8
"""The pace is measured over so many seconds, or over so many items where they are slow."""
_FIRST_SECONDS, _FIRST_ITEMS = 3.0, 3
"""Before this no pace is told."""


class Remaining:
    """How long the rest will take, from the pace of the last items; nothing until that means something.

    What comes before the first item (processes that start, a first slow step) does not count.
    """

    def __init__(self) -> None:
        self.seen: deque[tuple[float, int]] = deque()

    def update(self, now: float, done: int, total: int) -> float | None:
        """Seconds that the items behind `done` will take, or None."""
        if self.seen and done < self.seen[-1][1]:
            self.seen.clear()  # another pass over the items
        self.seen.append((now, done))
        while len(self.seen) > _PACE_ITEMS and now - self.seen[1][0] > _PACE_SECONDS:
            self.seen.popleft()
        began, items = self.seen[0][0], done - self.seen[0][1]
        if done >= total:
            return 0.0
        if items < _FIRST_ITEMS or now - began < _FIRST_SECONDS:
            return None
        return (now - began) / items * (total - done)


class Bar:
    """Progress over pictures or steps: a rich bar on a terminal, a line every few seconds elsewhere; on stderr."""

    def __init__(self, name: str, *, shown: bool = True) -> None:
        self.name, self.shown = name, shown
        self.last = time.monotonic()
        self.remaining = Remaining()
        self.rich: Progress | None = None

    def __enter__(self) -> Self:
        if self.shown and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            columns = (BarColumn(bar_width=20), MofNCompleteColumn(), TextColumn("{task.fields[text]}"))
            self.rich = Progress(TextColumn(self.name), *columns, console=Console(stderr=True))
            self.task = self.rich.add_task(self.name, total=None, text="")
            self.rich.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.rich is not None:
            self.rich.stop()

    def update(self, done: int, total: int, text: str = "") -> None:
        """Show that `done` of `total` are done, and a text about the last one."""
        now = time.monotonic()
        text = "  ".join(filter(None, (text, _left(self.remaining.update(now, done, total)))))
        if self.rich is not None:
            self.rich.update(self.task, completed=done, total=total, text=text)
            return
        if not self.shown:
            return
        if done == total or now - self.last >= SECONDS_PER_LINE:
            self.last = now
            print(f"{self.name} {done}/{total}  {text}", file=sys.stderr, flush=True)


def _left(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02d} left"


@contextmanager
def stop_signal() -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets: the step in progress ends and is saved; a second one ends at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def on_signal(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        log.warning("stopping after this step ...")
        stop.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
