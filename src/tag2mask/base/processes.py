"""This process and its children: cores it may use, what a fork inherits, scripts that children run again.

Imports no torch.
"""

from __future__ import annotations

import ast
import contextlib
import ctypes
import math
import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS, _MAPS = Path("/proc/self/cgroup"), Path("/proc/self/maps")
_PAUSE_HARD = 2
"""omp_pause_hard of OpenMP 5.0."""

_NO_GUARD = (
    "A process that helps {script} (start method {method!r}) first runs that file again, and with it this very call. "
    'Put what the file does under a guard:\n\nif __name__ == "__main__":\n    run = tag2mask.train(config)\n    ...\n\n'
    "or, for a training, load the pictures in its own process (workers=0)."
)
_GUARDS = {"__name__", "current_process", "parent_process"}
"""Names by which a script finds out whether it is run again."""


def usable_cores() -> int:
    """Cores that this process may use: those of its affinity, and no more than its container's quota, rounded up."""
    return max(1, min([_cores_of_affinity(), *map(math.ceil, _quotas())]))


def usual_threads() -> int:
    """Threads for work that is shared among all cores: `usable_cores`, and no more than OMP_NUM_THREADS."""
    wish = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return min(usable_cores(), int(wish)) if wish.isdecimal() and int(wish) else usable_cores()


def in_threads(work: Callable[[_Item], _Result], items: Iterable[_Item], jobs: int = 0) -> Iterator[_Result]:
    """The results of `work` in the order of `items`, made in threads; no more than a few are held at a time.

    Args:
        work: Something that runs side by side with itself, such as the decoders of Pillow.
        items: Its argument, one for each result.
        jobs: Threads; 0 for one per core that this process may use, 8 at most.
    """
    jobs = jobs or min(8, usual_threads())
    waiting: deque[Future[_Result]] = deque()
    with ThreadPoolExecutor(jobs) as pool:
        for item in items:
            if len(waiting) >= 4 * jobs:
                yield waiting.popleft().result()
            waiting.append(pool.submit(work, item))
        while waiting:
            yield waiting.popleft().result()


def keep_torch_within_quota() -> None:
    """Let torch, before it is imported, start no more threads than a quota allows: it counts the affinity only."""
    if "torch" not in sys.modules and usable_cores() < _cores_of_affinity():
        os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))


def control_group_files(controller: str, name: str) -> Iterator[Path]:
    """The files `name` of this process's control groups, its own first, then those around it, whose limits hold too.

    Args:
        controller: As version 1 calls it: cpu or memory; in version 2 all have one tree.
        name: Such as cpu.max or memory.limit_in_bytes.
    """
    try:
        lines = _OWN_CGROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in [*lines, f"0:{controller}:/", "0::/"]:  # a container sees its own group as the root
        _, controllers, place = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        for root in (_CGROUPS / controllers, _CGROUPS / controller) if controllers else (_CGROUPS,):
            folder = root / place.strip("/")
            for group in (folder, *folder.parents):
                if (group / name).is_file():
                    yield group / name
                if group == root:
                    break


def _cores_of_affinity() -> int:
    if sys.version_info >= (3, 13):
        return os.process_cpu_count() or 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quotas() -> Iterator[float]:
    """Cores of every quota that holds here; each is "QUOTA PERIOD", in one file or in two."""
    files = [(path,) for path in control_group_files("cpu", "cpu.max")]
    pairs = [(path, path.with_name("cpu.cfs_period_us")) for path in control_group_files("cpu", "cpu.cfs_quota_us")]
    for each in (*files, *pairs):
        with contextlib.suppress(OSError, ValueError):  # "max"
            quota, period = (int(word) for file in each for word in file.read_text(encoding="utf-8").split())
            if quota > 0 and period > 0:
                yield quota / period


def survive_forks(one_thread: Callable[[], None]) -> None:
    """Let children that are forked from here on use torch, whatever their parent has computed before.

    GNU's OpenMP, which torch computes with on Linux, keeps its threads for the next time. A fork does not copy them,
    and the child would wait for them for ever. So they are ended before each fork; parent and child start theirs anew.

    Args:
        one_thread: For a library that is too old for that: makes torch compute in one thread, called in the child.
    """
    for library in _gnu_openmp():
        if hasattr(library, "omp_pause_resource_all"):
            os.register_at_fork(before=partial(library.omp_pause_resource_all, _PAUSE_HARD))
        else:
            os.register_at_fork(after_in_child=one_thread)


def _gnu_openmp() -> list[ctypes.CDLL]:
    """The libraries of GNU's OpenMP in this process; those of others look after forks themselves."""
    try:
        lines = _MAPS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []
    libraries = []
    for place in dict.fromkeys(line.split(maxsplit=5)[5] for line in lines if "/libgomp" in line):
        with contextlib.suppress(OSError):  # its file has been replaced since
            libraries.append(ctypes.CDLL(place))
    return libraries


def check_start(helpers: int, method: str | None = None) -> None:
    """Refuse work that helping processes would begin anew, since they run the script that asks for it once more.

    Args:
        helpers: Processes that the work starts; 0 for none.
        method: How: spawn, forkserver or fork; None for the default.

    Raises:
        ValueError: this is such a process, or the script has no guard against them.
    """
    method = method or multiprocessing.get_start_method()
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    again = getattr(multiprocessing.current_process(), "_inheriting", False)
    if again or (helpers and method != "fork" and script is not None and not _has_guard(Path(script))):
        raise ValueError(_NO_GUARD.format(method=method, script=script or "this script"))


def _has_guard(script: Path) -> bool:
    """Whether a file asks if it is run again; True too where that cannot be known."""
    try:
        tree = ast.parse(script.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return True
    names = (getattr(node, "id", None) or getattr(node, "attr", None) for node in ast.walk(tree))
    return not _GUARDS.isdisjoint(names)
