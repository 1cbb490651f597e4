"""The part of `tools/sanitize.sh` that takes seconds: random calls of the installed core, judged by the torch twin."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tag2mask.filtering import load_core

FUZZ = Path(__file__).parents[1] / "tools" / "fuzz.py"


@pytest.mark.skipif(load_core() is None, reason="the compiled core was not built")
def test_random_calls_of_the_core_are_right_or_refused() -> None:
    done = subprocess.run([sys.executable, str(FUZZ), "150", "0"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "150 cases from seed 0, 0 failed" in done.stdout
