"""The compiled core `tag2mask._core`, where it was built. Imports no torch."""

from __future__ import annotations

import importlib
from types import ModuleType


def find_core() -> tuple[ModuleType | None, str]:
    """The core; or None, and why it is missing."""
    try:
        return importlib.import_module("tag2mask._core"), ""
    except ImportError as error:
        return None, str(error)
