"""The command line: one verb per public function. Nothing here imports torch for --help.

Exit codes: 0 done, 1 failed (one line on stderr; the traceback with TAG2MASK_DEBUG=1), 2 misused.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import json
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from tag2mask import __version__
from tag2mask.base.memory import ran_out
from tag2mask.base.options import as_command
from tag2mask.base.processes import keep_torch_within_quota
from tag2mask.base.share import Share
from tag2mask.cli.common import Verb, jsonable, misused, suggest, verb
from tag2mask.cli.examples import EXAMPLES

__all__ = ["main"]

VERBS = tuple(EXAMPLES)
"""Each is a file of this package."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    _ready_streams()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    name, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if name in ("--help", "-h", "help"):
        print(_help())
        return 0
    if name == "--version":
        print(f"tag2mask {__version__}")
        return 0
    if name not in VERBS:
        return misused(f"there is no command {name!r}.{suggest(name, VERBS)}")
    _log_to_stderr()
    keep_torch_within_quota()
    try:
        with as_command(), contextlib.redirect_stdout(sys.stderr) if "--json" in rest else contextlib.nullcontext():
            values, lines, code = _command(name)(rest)
    except SystemExit as stop:  # tyro: 0 after --help, 2 after a misuse that it has explained
        return int(stop.code or 0)
    except KeyboardInterrupt as stop:
        return _failed(str(stop) or "stopped by Ctrl-C", stop)
    except BrokenPipeError:  # the reader of a pipe has gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _failed(_with_cure(error), error)
    except ValueError as error:
        return _failed(str(error), error)
    except (MemoryError, RuntimeError) as error:
        if (reason := ran_out(error)) is not None:
            return _failed(f"out of memory ({reason}). {_LESS_MEMORY.get(name, _ANY_LESS_MEMORY)}", error)
        if not type(error).__module__.startswith("tag2mask"):
            raise
        return _failed(str(error), error)
    if values or lines:
        print(json.dumps(values, default=jsonable) if "--json" in rest else "\n".join(lines))
    return code


_LESS_MEMORY = {
    "train": "Lower --batch-size and --joint-batch-size (auto finds the most that fits), --augment.crop-size or "
    "--workers.",
    "retrain": "Lower --batch-size (auto finds the most that fits), --augment.crop-size or --workers.",
}
_ANY_LESS_MEMORY = "Make the pictures smaller, or use a machine with more memory."
_CURES = {
    errno.ENOSPC: "The disk is full: free some space and repeat the command",
    errno.EDQUOT: "Your share of the disk is full: free some space and repeat the command",
    errno.EFBIG: "A file may not grow further here: raise the limit (ulimit -f) or choose another disk",
    errno.EROFS: "The disk cannot be written to: choose another place",
    errno.EACCES: "Change its permissions, or choose another place",
    errno.EPERM: "Change its permissions, or choose another place",
    errno.EEXIST: "Choose another name, or remove what is there",
    errno.ENOTDIR: "A folder is needed where a file is: choose another name",
    errno.EISDIR: "A file is needed where a folder is: choose another name",
    errno.ENAMETOOLONG: "Choose a shorter name",
    errno.EMFILE: "Too many files are open: raise the limit (ulimit -n) or lower --workers",
}


def _with_cure(error: OSError) -> str:
    """The message of an error of this package, or that of the system with what to do about it."""
    if error.errno not in _CURES or error.strerror is None:
        return str(error)
    place = "" if error.filename2 is None and error.filename is None else f"{error.filename2 or error.filename}: "
    return f"{place}{error.strerror}. {_CURES[error.errno]}."


def _failed(message: str, error: BaseException) -> int:
    if os.environ.get("TAG2MASK_DEBUG") == "1":
        traceback.print_exception(error)
    line = " ".join(each.strip() for each in message.splitlines())  # blanks inside may be those of a name
    print(f"tag2mask: error: {_who()}{line}", file=sys.stderr)
    return 1


def _who() -> str:
    """Which of several processes speaks."""
    with contextlib.suppress(ValueError):
        share = Share.of_environment()
        return f"{share}: " if share.count > 1 else ""
    return ""


def _command(name: str) -> Verb:
    """The function `command` of a file, or what its `Command` of that name (PseudoLabel) makes."""
    module = importlib.import_module(f"tag2mask.cli.{name.replace('-', '_')}")
    kind = getattr(module, name.title().replace("-", ""), None)
    return module.command if kind is None else verb(name, kind)


def _help() -> str:
    verbs = "\n".join(f"  {name:<14}{(_command(name).__doc__ or '').splitlines()[0]}" for name in VERBS)
    return (
        "tag2mask: image-level tags in, pixel masks out.\n\nusage: tag2mask COMMAND ...\n\n"
        f"{verbs}\n\ntag2mask COMMAND --help lists a command's options; tag2mask --version prints the version.\n"
        "Exit codes: 0 done, 1 failed, 2 misused. TAG2MASK_DEBUG=1 shows tracebacks."
    )


def _ready_streams() -> None:
    """Let no stream fail: one that the caller closed is None, so that errors would go to stdout; and not every encoding
    has every letter of a name, which then comes as a number.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 (for good)
        elif isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


class _Stderr(logging.Handler):
    """Log lines to whatever sys.stderr is now, so that they do not tear a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


def _log_to_stderr() -> None:
    log = logging.getLogger("tag2mask")
    log.setLevel(logging.INFO)
    log.propagate = False
    if not any(isinstance(handler, _Stderr) for handler in log.handlers):
        log.addHandler(_Stderr(logging.INFO))
