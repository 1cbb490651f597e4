"""Files that are either complete or absent, and where a run keeps its model. Imports no torch."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

_LONGEST_STEM = 200
"""Bytes of a file's name that are kept in that of the file beside it: file systems take 255 in all."""


def model_file(source: Path) -> Path:
    """The file with the weights: of a run folder its model, there or not; any other path as it is."""
    return source / "model.safetensors" if source.is_dir() else source


def model_metadata(source: Path) -> dict[str, str]:
    """What a run folder's model, or a `.safetensors` file, says of itself; empty where there is no such file."""
    place = source if source.suffix == ".safetensors" else model_file(source)
    try:
        with place.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        return dict(header["__metadata__"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError):
        return {}


def check_folder(folder: Path, option: str = "--out") -> None:
    """Refuse, before any work, a folder that could not be written to.

    Raises:
        NotADirectoryError, PermissionError: with the option that named it.
    """
    folder = Path(folder)
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists() or each.is_symlink())
    if not there.is_dir():
        raise NotADirectoryError(f"{option} {folder}: {there} is no folder. Choose another place")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"{option} {folder}: {there} may not be written to. Choose another place")


def check_file(path: Path, option: str = "--out") -> None:
    """Refuse, before any work, a file that could not be written; see `check_folder`.

    Raises:
        IsADirectoryError: it is a folder.
    """
    if Path(path).is_dir():
        raise IsADirectoryError(f"{option} {path} is a folder; a file is needed. Choose another name")
    check_folder(Path(path).absolute().parent, option)


def check_new_folder(folder: Path, option: str = "--out") -> None:
    """Refuse, before any work, a folder that holds something: nothing is ever overwritten silently.

    Raises:
        FileExistsError: what is there, and the command that goes on where it is a run that was interrupted.
        NotADirectoryError, PermissionError: as `check_folder`.
    """
    check_folder(folder, option)
    if not Path(folder).is_dir() or not any(Path(folder).iterdir()):
        return
    told = f"{option} {folder} exists and is not empty. Choose another folder"
    if (verb := _kind_of_run(Path(folder))) is not None:
        resume = f"tag2mask {verb} --resume {shlex.quote(str(folder))}"
        raise FileExistsError(f"{told}, remove it, or go on with the run in it: {resume}")
    raise FileExistsError(f"{told} or remove it; there is no run in it that --resume could go on with.")


def _kind_of_run(folder: Path) -> str | None:
    """The command whose interrupted run this folder holds, or None."""
    if not (folder / "last" / "state.pt").is_file():
        return None
    try:
        return {"train": "train", "retrain": "retrain"}.get(json.loads((folder / "config.json").read_text())["kind"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def whole_file(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A file beside `path` to be filled in the block, renamed at its end, so that nobody ever sees half a file.

    Its permissions are those of any new file here, whatever the writer gave it.

    Args:
        path: What the file is called in the end.
        durable: Wait until the disk has it, so that it survives a loss of power too; and give the file beside it a
            fixed name, so that a killed process leaves at most one. Only one process may write such a file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The random part keeps two writers apart, also on two machines; writers choose the format by the suffix.
    writer = "" if durable else f".{secrets.token_hex(4)}"
    stem = path.stem.encode(errors="surrogateescape")[:_LONGEST_STEM].decode(errors="ignore")
    temporary = path.with_name(f".{stem}{writer}.part{path.suffix}")
    try:
        temporary.write_bytes(b"")
        mode = stat.S_IMODE(temporary.stat().st_mode)
        yield temporary
        if stat.S_IMODE(temporary.stat().st_mode) != mode:
            temporary.chmod(mode)
        if durable:
            _flush(temporary)
        temporary.replace(path)
        if durable:
            _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    number = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def write_atomically(path: Path, write: Callable[[Path], object], *, durable: bool = False) -> Path:
    """Let `write` fill a file beside `path`, then rename it, see `whole_file`."""
    path = Path(path)
    with whole_file(path, durable=durable) as temporary:
        write(temporary)
    return path


def write_text(path: Path, text: str) -> Path:
    """Write a UTF-8 text file: all of it or nothing."""
    return write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))


def write_lines(path: Path, lines: Iterable[str]) -> Path:
    """Write a UTF-8 text file with a line for each: all of it or nothing."""
    return write_text(path, "".join(f"{line}\n" for line in lines))


def replace_between(path: Path, begin: str, end: str, text: str) -> Path:
    """Put `text`, as lines of its own, between two marks of a text file.

    Raises:
        ValueError: the file has not exactly one of each mark, in order.
    """
    old = path.read_text(encoding="utf-8")
    if old.count(begin) != 1 or old.count(end) != 1 or old.index(begin) > old.index(end):
        raise ValueError(f"{path} must hold the line {begin} once and {end} once below it")
    before, after = old.split(begin)[0], old.split(end)[1]
    return write_text(path, f"{before}{begin}\n\n{text}\n{end}{after}")


def make_folder_atomically(path: Path, fill: Callable[[Path], object]) -> Path:
    """Let `fill` fill a folder beside `path`, then rename it; nothing is left behind if it fails.

    Raises:
        FileExistsError: there is something at `path`.
    """
    path = Path(path)
    if path.exists() or path.is_symlink():
        raise FileExistsError(f"{path} exists. Choose another name or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        temporary.mkdir()
        fill(temporary)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return path
