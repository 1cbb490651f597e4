"""tag2mask: image-level tags in, pixel masks out. Submodules load on first use, so `import tag2mask` is instant."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "TrainConfig": "config",
    "RetrainConfig": "config",
    "train": "training",
    "retrain": "retraining",
    "Segmenter": "prediction",
    "Prediction": "prediction",
    "predict": "predicting",
    "evaluate": "evaluation",
    "pseudo_label": "pseudo_labels",
    "explain": "explanation",
    "check": "checking",
    "export": "exporting",
    "convert": "conversion",
    "demo": "demonstration",
    "bench": "benchmark",
    "ui": "web.server",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"tag2mask.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'tag2mask' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
