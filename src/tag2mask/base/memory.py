"""Memory that runs out: which errors say so, how much is free, how much some work takes. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tag2mask.base.processes import control_group_files

_WORDS = ("can't allocate memory", "not enough memory", "out of memory", "failed to allocate memory", "bad_alloc")
"""How torch on the CPU, onnxruntime and drivers put it."""
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


def free_bytes() -> int:
    """Memory in bytes that this process may still take: of the machine, its container and its own limit (ulimit -v)."""
    import psutil

    left: list[int] = [psutil.virtual_memory().available]
    for limit, used in _CGROUPS:
        for path in control_group_files("memory", limit):
            with suppress(OSError, ValueError):  # no such group, or "max"
                left.append(int(path.read_text()) - int(path.with_name(used).read_text()))
    with suppress(ImportError):  # Windows
        import resource

        limit_of_addresses = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit_of_addresses != resource.RLIM_INFINITY:
            left.append(limit_of_addresses - psutil.Process().memory_info().vms)
    return max(0, min(left))


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
    lines = _STATUS.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
