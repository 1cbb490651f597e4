"""Messages name an option as the reader knows it: `--max-pixels` in a command, `max_pixels` in Python. No torch.

In the code they are written with the names of the command; `public` functions translate them for Python.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")
_OPTION = re.compile(
    r"(?P<command>tag2mask [a-z-]+(?: [^\s,;`]+)*)"  # a command to paste stays as it is
    r"|(?<![\w-])--(?P<name>[a-z][a-z0-9]*(?:[-.][a-z0-9]+)*)"
    r"(?: (?P<value>[A-Z]+(?![\w/])|\d[\d.]*(?<=\d)(?![\w=])|\S*/[^\s:;,)]*(?<!\.)|'[^']*')"
    r"| (?P<word>none|skip|negative|shapes|masks|last|auto|look)\b)?"
)
_in_command = False
"""For the whole process, as the work of a command runs in threads too."""


@contextmanager
def as_command() -> Iterator[None]:
    """In this block messages name the options of the command line."""
    global _in_command
    before, _in_command = _in_command, True
    try:
        yield
    finally:
        _in_command = before


def for_reader(message: str) -> str:
    """A message whose options `--tile 512`, `--max-pixels` are `tile=512`, `max_pixels` unless a command runs."""

    def argument(found: re.Match[str]) -> str:
        if found["command"]:
            return found[0]
        value = found["value"] or (found["word"] and repr(found["word"]))
        return found["name"].replace("-", "_") + (f"={value}" if value else "")

    return message if _in_command else _OPTION.sub(argument, message)


def public(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """A function for users: what it raises names the arguments in Python, and the options in a command."""

    @functools.wraps(function)
    def called(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return function(*args, **kwargs)
        except (ValueError, OSError) as error:
            error.args = tuple(for_reader(each) if isinstance(each, str) else each for each in error.args)
            raise

    return called
