"""What a `predict` has done, so that a killed one goes on and many processes share the work. Imports no torch.

Each process appends to a file of its own, OUT/manifest/I-of-N.jsonl: a line of settings, then a line per picture when
all its files are there. Processes never wait for each other's pictures: one that finds every picture in the files of
its round gathers the results and marks the files as finished. Locks decide which one, and keep two processes from the
same share; the system releases them when a process ends, however it ends.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from filelock import BaseFileLock, FileLock, Timeout

from tag2mask.base.share import Share
from tag2mask.data.storage.searching import MANIFEST

_FINISHED = {"finished": True}


def settings_digest(settings: Mapping[str, Any]) -> str:
    """SHA-256 of the settings that change what is written; JSON values only."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Manifest:
    """The file of one process; open it as a context.

    It goes on where a round of the same settings was interrupted, or starts a new one.

    Raises:
        FileExistsError: on entering, another process works on the same share.
    """

    def __init__(self, out: Path, settings: str, share: Share) -> None:
        """Nothing is read or written before it is entered.

        Args:
            out: Folder of the results.
            settings: From `settings_digest`.
            share: Of this process.
        """
        self.folder, self.settings, self.share = out / MANIFEST, settings, share
        self.path = self.folder / f"{share.index}-of-{share.count}.jsonl"
        self.goes_on = False
        """Whether an interrupted round goes on."""
        self.done: frozenset[str] = frozenset()
        """Names of the pictures that need nothing any more, whichever process did them."""
        self._file: IO[str] | None = None
        self._own = FileLock(self.path.with_suffix(".lock"), timeout=0)

    def __enter__(self) -> Manifest:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._own.acquire()
        except Timeout:
            raise FileExistsError(
                f"Another process is writing the same pictures into {self.folder.parent} (its {self.share}, by "
                f"{self._own.lock_file}). Wait for it, or choose another --out. Processes that share the pictures need "
                "RANK and WORLD_SIZE, in Python share=(index, count)"
            ) from None
        self.goes_on = self._of_this_round(self.path)
        rows = (row for path in self._round() for _, row in _pictures(path))
        self.done = frozenset(row["name"] for row in rows if "error" not in row)
        if self.goes_on:
            with self.path.open("rb+") as torn:  # its last line may be cut
                torn.truncate(torn.read().rfind(b"\n") + 1)
        else:
            self.path.write_text(json.dumps({"settings": self.settings}) + "\n", encoding="utf-8")
        # added to, as the process that gathers adds its mark
        self._file = self.path.open("a", encoding="utf-8")
        return self

    def __exit__(self, *error: object) -> None:
        assert self._file is not None
        self._file.close()
        _remove(self._own)

    def add(self, name: str, scores: Mapping[str, float], error: str | None = None, **more: Any) -> None:
        """Note that all files of a picture are written, or why its prediction failed."""
        row: dict[str, Any] = {"name": name, "scores": dict(scores)}
        self._write(row | more if error is None else row | {"error": error})

    def finished(self, names: Sequence[str]) -> Gathered | None:
        """What all processes of the round know, once that is something about every picture; else None."""
        gathered = Gathered(list(self._round()))
        return gathered if all(name in gathered for name in names) else None

    @contextmanager
    def gathering(self, names: Sequence[str]) -> Iterator[Gathered | None]:
        """What all processes know about `names`, for the one that gathers it; None for the others.

        The block ends with `close_round`; a process that comes to its end meanwhile waits for that.
        """
        if self.finished(names) is None:
            yield None
            return
        lock = FileLock(self.folder / "gather.lock")
        with lock:
            yield None if self.is_closed else self.finished(names)
            if self.is_closed:
                _remove(lock)

    @property
    def is_closed(self) -> bool:
        """Whether the results of this round are gathered."""
        return _is_finished(self.path)

    def close_round(self) -> None:
        """Mark the files of the round; another call then starts anew. Files that other rounds have left are removed."""
        for path in sorted(self.folder.glob("*-of-*.jsonl")):
            if self._of_this_round(path):
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(_FINISHED) + "\n")
            else:
                with suppress(Timeout), FileLock(path.with_suffix(".lock"), timeout=0) as left:
                    path.unlink(missing_ok=True)
                    _remove(left)

    def _round(self) -> Iterator[Path]:
        return (path for path in sorted(self.folder.glob("*-of-*.jsonl")) if self._of_this_round(path))

    def _of_this_round(self, path: Path) -> bool:
        return _settings(path) == self.settings and not _is_finished(path)

    def _write(self, row: Mapping[str, Any]) -> None:
        assert self._file is not None
        self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
        self._file.flush()


class Gathered:
    """Lines of several files, by the name of the picture; they stay in the files."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._places: dict[str, tuple[int, int]] = {}
        for number, path in enumerate(paths):
            for offset, row in _pictures(path):
                # a picture that failed in one attempt and was done in the next stands twice
                if "error" not in row or row["name"] not in self._places:
                    self._places[row["name"]] = (number, offset)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def lines(self, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        """What `add` was given for each of `names`, in their order."""
        with ExitStack() as stack:
            files = [stack.enter_context(path.open("rb")) for path in self._paths]
            for name in names:
                number, offset = self._places[name]
                files[number].seek(offset)
                row = _parsed(files[number].readline())
                assert row is not None
                yield row


def _remove(lock: BaseFileLock) -> None:
    """Take a lock's file away and release it; who waits for it finds its round closed."""
    if os.name != "nt":  # Windows removes no open file
        Path(lock.lock_file).unlink(missing_ok=True)
    lock.release(force=True)


def _settings(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            row = _parsed(file.readline())
    except FileNotFoundError:
        return None
    return None if row is None else row.get("settings")


def _is_finished(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 64))
        return json.dumps(_FINISHED).encode() in file.read()


def _pictures(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The lines about pictures, each with the place in the file where it begins."""
    with path.open("rb") as file:
        offset = 0
        for text in file:
            row = _parsed(text)
            if row is not None and "name" in row:
                yield offset, row
            offset += len(text)


def _parsed(text: bytes) -> dict[str, Any] | None:
    """The object of a line; None for one that a kill has cut, or that is damaged."""
    if not text.endswith(b"\n"):
        return None
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not isinstance(row.get("name", ""), str):
        return None
    return row if "name" not in row or isinstance(row.get("scores"), dict) else None
