"""What an error says, for a message that quotes it. Imports no torch."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without a stop at its end; the name of its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
