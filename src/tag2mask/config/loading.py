"""The config of a run folder. Imports no torch."""

from __future__ import annotations

import shlex
from pathlib import Path

from tag2mask.base.files import model_file
from tag2mask.config.run import RunConfig, parse_config


def load_config(run: str | Path) -> RunConfig:
    """The config of a run folder.

    Raises:
        FileNotFoundError: there is no config.json.
        ValueError: it cannot be read, see `parse_config`; the message names the file.
    """
    path = Path(run) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{run} is no run folder: it has no config.json")
    try:
        return parse_config(path.read_text(encoding="utf-8"))
    except ValueError as error:  # also text that is not UTF-8
        raise ValueError(f"{path}: {error}. Correct it, or start a new run.") from error


def require_finished(source: Path) -> None:
    """Refuse a run folder that has no model yet; other paths pass.

    Raises:
        FileNotFoundError: with the command that goes on.
    """
    if (source / "config.json").is_file() and not model_file(source).is_file():
        raise FileNotFoundError(
            f"{source} has no model.safetensors yet: the run has not ended. "
            f"Go on with `tag2mask {load_config(source).kind} --resume {shlex.quote(str(source))}`."
        )
