"""The run folder: its making, its log, and what it tells of the machine."""

from __future__ import annotations

import logging
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from tag2mask import __version__
from tag2mask.base.files import check_new_folder
from tag2mask.base.processes import usable_cores

log = logging.getLogger("tag2mask")


def new_run_folder(out: str | None, preset: str) -> Path:
    """Make the run folder: `out` if given, else runs/<preset>, runs/<preset>-2, ...

    Raises:
        FileExistsError: `out` already holds something; nothing is ever overwritten silently.
    """
    if out is not None:
        folder = Path(out)
        check_new_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            (folder / "log.txt").touch(exist_ok=False)
        except FileExistsError as error:
            raise FileExistsError(
                f"--out {folder}: another run has just begun there. Choose another folder."
            ) from error
        return folder
    number = 1
    while True:
        folder = Path("runs") / (preset if number == 1 else f"{preset}-{number}")
        with suppress(FileExistsError):
            folder.mkdir(parents=True, exist_ok=False)
            return folder
        number += 1


def environment() -> dict[str, Any]:
    """Versions and hardware of this process, for `environment.json`."""
    import timm
    import torchvision

    return {
        "tag2mask": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "timm": timm.__version__,
        "cpu_count": usable_cores(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "command": sys.argv,
    }


def peak_memory() -> dict[str, int]:
    """The most memory that this process has held, in MiB, and that on its GPU, where there is one."""
    found: dict[str, int] = {}
    if sys.platform != "win32":
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found["peak_memory_mib"] = round(peak / (2**20 if sys.platform == "darwin" else 2**10))
    if torch.cuda.is_available():
        found["peak_gpu_memory_mib"] = round(torch.cuda.max_memory_allocated() / 2**20)
    return found


@contextmanager
def log_to(run: Path) -> Iterator[None]:
    """Write what is logged, and the error that ends the work, to `log.txt`.

    Raises:
        FileExistsError: another process trains in this folder.
    """
    lock = FileLock(run / ".lock", timeout=0)
    try:
        with suppress(NotImplementedError):  # a file system without locks
            lock.acquire()
    except Timeout as error:
        raise FileExistsError(
            f"Another process is training in {run}, and two would overwrite each other's files: wait for its end, or "
            "stop it first."
        ) from error
    handler = logging.FileHandler(run / "log.txt", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    try:
        yield
    except BaseException as error:
        # to the file alone: whoever called says it to the person
        told = f"{type(error).__name__}: {error}"
        handler.handle(log.makeRecord(log.name, logging.ERROR, __file__, 0, told, (), None))
        raise
    finally:
        log.setLevel(level)
        log.removeHandler(handler)
        handler.close()
        with suppress(OSError):  # Windows removes no open file
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


@contextmanager
def errors_only() -> Iterator[None]:
    """Log nothing but errors: of several processes that train together one speaks for all."""
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
