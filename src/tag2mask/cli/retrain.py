"""The command retrain: a config's fields as options, as in train."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tag2mask.cli.common import Result
from tag2mask.cli.train import config_command
from tag2mask.config import RetrainConfig


def command(rest: Sequence[str]) -> Result:
    """Masks to a supervised model: retrain PRESET --data PATH --masks DIR, or retrain --resume RUN."""

    def run(config: RetrainConfig, resume: Path | None) -> Path:
        from tag2mask.training.second_step import retrain

        return retrain(config, resume=resume)

    return config_command(rest, RetrainConfig, "Masks to a supervised model.", "--data PATH --masks DIR", run)
