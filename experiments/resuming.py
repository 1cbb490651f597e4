"""Results in folders: they go on after an interruption, and several processes share the work."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from filelock import FileLock, Timeout

from tag2mask.base.files import write_text
from tag2mask.config import RunConfig

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Config = TypeVar("_Config", bound=RunConfig)
_Job = TypeVar("_Job")
_Result = TypeVar("_Result", bound="DataclassInstance")

Busy = Timeout
"""It is locked by another process that shares the folder."""
_PATIENCE = 5.0
"""Seconds until a process looks again for work that no other has locked."""
_RESULT = "result.json"


def share_out(left: Callable[[], Sequence[_Job]], work: Callable[[_Job], object]) -> None:
    """Do what is `left`, which is asked anew after each job; what raises Busy waits for the others."""
    while jobs := left():
        if not any(_free(work, job) for job in jobs):
            time.sleep(_PATIENCE)


def _free(work: Callable[[_Job], object], job: _Job) -> bool:
    """Whether the job could be done: not if another process has locked it, or something that it needs."""
    try:
        work(job)
    except Busy:
        return False
    return True


def alone(folder: Path) -> FileLock:
    """A lock on what is made in `folder`, which ends with the process; raises Busy. It lies beside the folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(folder.with_name(f"{folder.name}.lock"), timeout=0)


def once(folder: Path, kind: type[_Result], work: Callable[[], _Result]) -> _Result:
    """The result that is kept in `folder`, or that of `work`, which is kept then.

    Raises:
        Busy: another process is at it.
    """
    with alone(folder):
        if (result := kept(folder, kind)) is None:
            result = work()
            write_text(folder / _RESULT, json.dumps(asdict(result), indent=2) + "\n")
    return result


def kept(folder: Path, kind: type[_Result]) -> _Result | None:
    """The result in a folder; None where there is none yet."""
    path = folder / _RESULT
    return kind(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def trained(config: _Config, folder: Path, run: Callable[..., Path]) -> None:
    """Train into `folder`, go on with what is there, or leave it if it is done."""
    if (folder / "model.safetensors").is_file():
        return
    if (folder / "last").is_dir():
        run(resume=folder)
        return
    if (folder / "config.json").is_file():
        shutil.rmtree(folder)  # ended before its first save
    run(config.replace(out=str(folder)))


def timed(folder: Path, work: Callable[[], None]) -> float:
    """Do `work` and return the minutes that it has taken over all interrupted attempts.

    The minutes lie beside the folder, as a run wants its folder to itself; those before a kill are lost.
    """
    before = minutes_of(folder)
    started = time.perf_counter()
    try:
        work()
    finally:
        spent = (time.perf_counter() - started) / 60
        total = before + (spent if spent > 0.01 else 0.0)
        write_text(_minutes_file(folder), f"{total:.4f}\n")
    return total


def minutes_of(folder: Path) -> float:
    """Minutes that the work on `folder` has taken by now, see `timed`."""
    place = _minutes_file(folder)
    return float(place.read_text(encoding="utf-8")) if place.is_file() else 0.0


def _minutes_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.minutes")


def refuse_other_settings(page: Path, now: Mapping[str, Any]) -> None:
    """Refuse to mix rows of different settings in one table.

    Args:
        page: JSON file of the rows, if there are any yet; its settings stand at its top or in its `plan`.
        now: The settings of now, by the name of their option.

    Raises:
        ValueError: a setting was another one.
    """
    if not page.is_file():
        return
    stored = json.loads(page.read_text(encoding="utf-8"))
    before = stored | stored["plan"]
    differing = [
        f"--{name.replace('_', '-')} {before[name] or 'not given'}, now {value or 'not given'}"
        for name, value in now.items()
        if before[name] != value
    ]
    if differing:
        raise ValueError(f"{page.parent} holds rows of other settings ({'; '.join(differing)}); choose another --out")
