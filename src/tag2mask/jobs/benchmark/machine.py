"""What a measurement ran on."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tag2mask import __version__
from tag2mask.base.processes import usable_cores
from tag2mask.filtering import load_core
from tag2mask.jobs.benchmark.peer import peer_version


def describe_machine() -> dict[str, Any]:
    """Core in use, processor, versions, and the load average before anything ran."""
    core = load_core()
    return {
        "core": f"compiled core, {core.instruction_set()}" if core is not None else "torch twin (no compiled core)",
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}",
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "versions": {
            "tag2mask": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "pydensecrf": peer_version(),
        },
    }


def _cpu_model() -> str:
    """The processor's name; `platform.processor` is empty or vague on most systems."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.lower().startswith("model name"):
                return line.split(":", 1)[1].strip()
    if sys.platform == "darwin":
        asked = ["sysctl", "-n", "machdep.cpu.brand_string"]
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    return platform.processor() or platform.machine()
