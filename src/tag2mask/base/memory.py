"""Memory that runs out: which errors say so, how much is free, how much some work takes. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tag2mask.base.processes import control_group_files

_WORDS = ("can't allocate memory", "not enough memory", "out of memory", "failed to allocate memory", "bad_alloc")
"""How torch on the CPU, onnxruntime and drivers put it."""
_MIB = 1 << 20
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_CGROUPS = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
"""Limit and use of a control group, as versions 2 and 1 call them."""


def ran_out(error: BaseException) -> str | None:
    """What an error says in one line if it says that memory ran out; None for every other error."""
    words = str(error).strip().partition("\n")[0]
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return words or "an array did not fit"
    if isinstance(error, OSError | ValueError):
        return None
    return words if any(word in str(error).lower() for word in _WORDS) else None


def free_bytes() -> int | None:
    """Memory that this process may still take: of the machine, its container and its own limit; None if unknown."""
    groups = [
        _left(path, path.with_name(used)) for limit, used in _CGROUPS for path in control_group_files("memory", limit)
    ]
    known = [_kib(Path("/proc/meminfo"), "MemAvailable"), *groups, _left_of_limit()]
    return min((number for number in known if number is not None), default=None)


def peak_bytes(work: Callable[[], object]) -> int:
    """The most memory that this process holds while it does `work`.

    Raises:
        ValueError: the system does not tell, as those other than Linux.
    """
    try:
        _CLEAR.write_text("5")  # the mark of the highest use starts anew
    except OSError as error:
        raise ValueError(
            f"This system does not tell how much memory some work takes ({error}), which --batch-size auto must know: "
            "give a number."
        ) from error
    work()
    peak = _kib(_STATUS, "VmHWM")
    assert peak is not None  # the line is there where clear_refs is
    return peak


def _kib(path: Path, name: str) -> int | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)


def _left(limit: Path, used: Path) -> int | None:
    """What a control group may still take; None where it has no limit."""
    try:
        return max(0, int(limit.read_text()) - int(used.read_text()))
    except (OSError, ValueError):  # no such group, or "max"
        return None


def _left_of_limit() -> int | None:
    """What the limit of the address space (ulimit -v) leaves."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit, used = resource.getrlimit(resource.RLIMIT_AS)[0], _kib(_STATUS, "VmSize")
    return None if limit == resource.RLIM_INFINITY or used is None else max(0, limit - used)
