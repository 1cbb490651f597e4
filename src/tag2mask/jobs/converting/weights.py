"""Published files of weights into files of this package: the part of `convert` for weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from tag2mask import __version__
from tag2mask.base.files import write_atomically
from tag2mask.config import TrainConfig
from tag2mask.models import build_network
from tag2mask.models.published import KINDS
from tag2mask.models.weights import WeightsFile, read_weights
from tag2mask.runs.checkpoints import LICENSE, PUBLISHED, save_model


@dataclass(frozen=True, kw_only=True)
class ConvertedWeights:
    """What `convert` made of a file of weights."""

    out: Path
    title: str
    """What the file is."""
    parts: tuple[str, ...]
    """Parts of the network that it holds: backbone, classifier, segmenter, attention."""
    left_out: tuple[str, ...]
    """Tensors of the file that nothing here makes use of."""
    complete: bool
    """A model that predicts alone; otherwise weights to start training from."""


def convert_weights(source: Path, out: Path) -> ConvertedWeights:
    """Write a published file of weights as this package stores weights (docs/weights.md).

    RRM's final weights become a complete model, which `Segmenter.load`, `predict` and `evaluate` take alone; its
    settings are those of the preset `voc-rrm` or `voc-rrm-attention`. ImageNet's `.params` and PSA's tag classifier
    become a file for `TrainConfig.weights`, with the names of the classes in its metadata.

    Args:
        source: MXNet `.params`, or a state dict of PyTorch.
        out: New file `NAME.safetensors`.

    Raises:
        ValueError: no published file, or one that is not whole; names the tensors.
    """
    if out.suffix != ".safetensors":
        raise ValueError(f"--out {out} must end in .safetensors, which is how the format is recognized later")
    file = read_weights(source)
    if file.kind is None:
        raise ValueError(
            f"{source} holds {file.title} with names of no published file. Known are: "
            f"{'; '.join(kind.title for kind in KINDS)}"
        )
    if file.kind.preset is None:
        title, classes = file.title, json.dumps(list(file.classes))
        metadata = {"format": "tag2mask weights", "version": __version__, "title": title, "classes": classes}
        if file.kind.license is not None:
            metadata[LICENSE] = file.kind.license
        tensors = {name: tensor.contiguous() for name, tensor in file.tensors.items()}
        write_atomically(out, lambda path: save_file(tensors, path, metadata=metadata))
    else:
        _write_model(file, file.kind.preset, out)
    return ConvertedWeights(
        out=out, title=file.title, parts=file.parts, left_out=file.left_out, complete=file.kind.preset is not None
    )


def _write_model(file: WeightsFile, preset: str, out: Path) -> None:
    """A model that loads alone."""
    config = TrainConfig.preset(preset)
    with torch.device("meta"):  # the file's tensors take the places; nothing is drawn or copied
        network = build_network(config, file.classes, pretrained=False)
    counts = {name: torch.tensor(0) for name in network.state_dict() if name.endswith("num_batches_tracked")}
    network.load_state_dict({**counts, **file.tensors}, assign=True)
    save_model(out, network, config, selection=f"{PUBLISHED}{file.title}")
