"""tag2mask: image-level tags in, pixel masks out. Submodules load on first use, so `import tag2mask` is instant."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.2.0"

_PUBLIC = {
    "TrainConfig": "config",
    "RetrainConfig": "config",
    "train": "training.first_step",
    "retrain": "training.second_step",
    "Segmenter": "inference.segmenter",
    "Prediction": "inference.prediction",
    "predict": "jobs.predicting.run",
    "evaluate": "scoring.evaluation",
    "pseudo_label": "jobs.pseudo_labels",
    "explain": "jobs.explanation",
    "check": "jobs.checking",
    "export": "jobs.exporting.run",
    "convert": "jobs.converting.run",
    "demo": "jobs.demonstration",
    "bench": "jobs.benchmark",
    "ui": "web.server",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"tag2mask.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'tag2mask' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
