"""What a message calls an option: `--tile` for who typed a command, `tile` for who called Python. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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


def option(name: str, value: object = None) -> str:
    """The option `name` of a command, or the argument of a Python function, perhaps with a value.

    Args:
        name: As in Python: `max_pixels`, or `method.reliable.keep` for a field of a config in a config.
        value: `--tile 512` or `tile=512`, `--to coco` or `to='coco'`; a word in capitals stands for what the user
            gives: `--out DIR` or `out=DIR`.
    """
    if _in_command:
        return f"--{name.replace('_', '-')}" + ("" if value is None else f" {value}")
    if value is None:
        return name
    return f"{name}={value}" if str(value).isupper() else f"{name}={value!r}"
