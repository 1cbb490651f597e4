"""The command retrain: a config's fields as options, as in train."""

from __future__ import annotations

from collections.abc import Sequence

from tag2mask.cli.common import Result
from tag2mask.cli.train import config_command
from tag2mask.config import RetrainConfig


def command(rest: Sequence[str]) -> Result:
    """Masks to a supervised model: retrain PRESET --data PATH --masks DIR, or retrain --resume RUN."""
    return config_command(rest, RetrainConfig, "Masks to a supervised model.", "--data PATH --masks DIR")
