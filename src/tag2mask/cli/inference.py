"""The record `Inference` as options: a field of it is an option of the commands here by itself."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from tag2mask.config.inference import CRFPreset, Inference


@dataclass(frozen=True, kw_only=True)
class InferenceOptions(Inference):
    """The options of `predict`. What a command line cannot say, or says in another way, has `init=False`."""

    crf: bool = False
    """Refine with the dense CRF at the picture's size."""
    tags: None = field(default=None, init=False)
    batch_size: int = field(default=1, init=False)
    crf_preset: CRFPreset | None = None
    """Parameters of that CRF (implies --crf)."""

    def __post_init__(self) -> None:
        """The function that gets these values judges them."""
        object.__setattr__(self, "scales", tuple(self.scales))

    def asked(self) -> dict[str, Any]:
        """Arguments of the Python functions: those that differ from their default, by name."""
        values = {each.name: getattr(self, each.name) for each in dataclasses.fields(Inference)}
        values["crf"] = self.crf_preset or self.crf
        return {
            each.name: values[each.name] for each in dataclasses.fields(Inference) if values[each.name] != each.default
        }


@dataclass(frozen=True, kw_only=True)
class DataInferenceOptions(InferenceOptions):
    """The options of commands that look at the pictures of a data set."""

    tile: None = field(default=None, init=False)
    max_pixels: int = field(default=Inference.max_pixels, init=False)
