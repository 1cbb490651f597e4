"""Models and states of a run: model.safetensors, which loads alone, and last/state.pt, from which a run goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from tag2mask import __version__
from tag2mask.base.errors import first_line
from tag2mask.base.files import model_file, write_atomically
from tag2mask.base.spelling import stored_classes
from tag2mask.config import RunConfig, parse_config, require_finished
from tag2mask.data.findings import Finding
from tag2mask.data.storage.tables import MAX_CLASSES, is_class_name
from tag2mask.models import build_network
from tag2mask.models.base import SegmentationNetwork
from tag2mask.models.published import check_finite, misfits
from tag2mask.models.weights import read_safetensors
from tag2mask.runs.health import FINDINGS

PUBLISHED = "published: "
"""How the `selection` of a converted model begins, before the title of the published file."""
LICENSE = "license"
"""Key of a model file's metadata: the license that its model card states."""
_STATE = frozenset(
    ("model", "optimizer", "average", "step", "skipped", "nonfinite_in_a_row", "broken", "best_miou", "rng")
)


def save_model(
    path: Path,
    model: SegmentationNetwork,
    config: RunConfig,
    *,
    selection: str = "last step",
    findings: Sequence[Finding] = (),
    license: str | None = None,
) -> None:
    """Write weights and everything needed to load them alone.

    Args:
        path: A `.safetensors` file.
        model: Network to save.
        config: Resolved config of the run, kept in the metadata.
        selection: Which model this is: "last step" or "best mIoU on val at step N".
        findings: What is to be said of the model wherever it is used, see `tag2mask.runs.health`.
        license: Name of its license, for those who take it further.
    """
    metadata = {
        "format": "tag2mask",
        "version": __version__,
        "config": config.to_json(),
        "classes": json.dumps(list(model.classes), ensure_ascii=False),
        "selection": selection,
    }
    if findings:
        metadata[FINDINGS] = json.dumps([each.as_dict() for each in findings], ensure_ascii=False)
    if license is not None:
        metadata[LICENSE] = license
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with _saving(path):
        write_atomically(path, lambda p: save_file(tensors, p, metadata=metadata), durable=True)


def load_model(source: Path) -> tuple[SegmentationNetwork, RunConfig, dict[str, str]]:
    """Read a network back from a run folder or a `.safetensors` file.

    Returns:
        The network in eval mode on the CPU, its config, and the file's metadata ("classes", "selection", "version").

    Raises:
        FileNotFoundError: no such file, or a run that has not written its model yet.
        ValueError: a file that tag2mask did not write, or one that does not fit its own config.
    """
    source = Path(source)
    path = model_file(source)
    require_finished(source)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give a run folder or a .safetensors file of tag2mask")
    try:
        tensors, metadata = read_safetensors(path)
    except Exception as error:  # safetensors raises its own error type for damaged files
        raise ValueError(f"{path} is no readable .safetensors file: {error}") from error
    if metadata.get("format") == "tag2mask weights":
        raise ValueError(f"{path} holds weights to start a training from (--weights {path}), not a whole model")
    if "config" not in metadata or "classes" not in metadata:
        raise ValueError(f"{path} was not written by tag2mask: its metadata has no config and classes")
    try:
        config = parse_config(metadata["config"])
        network = build_network(config, read_classes(metadata["classes"]), pretrained=False)
    except ValueError as error:
        raise ValueError(
            f"{path}: {error}. Its metadata is damaged or of another version; get the file anew"
        ) from error
    wanted = network.state_dict()
    if missing := sorted(wanted.keys() ^ tensors.keys()):
        raise ValueError(
            f"{path} does not fit its own config; tensors that differ: {', '.join(missing[:5])}. Get the file anew"
        )
    if told := misfits(tensors, wanted):
        raise ValueError(f"{path} does not fit its own config and classes: {told}. Get the file anew")
    check_finite(tensors, path, "Get it anew, or train again with a lower --optim.lr")
    network.load_state_dict(tensors)
    return network.eval(), config, metadata


def read_classes(text: str) -> tuple[str, ...]:
    """The class names that a file's metadata holds as JSON.

    Raises:
        ValueError: no list of different names, or more than a mask can hold.
    """
    try:
        names = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its classes are not JSON ({error})") from error
    if not isinstance(names, list) or not names or not all(is_class_name(name) for name in names):
        raise ValueError(f"its classes must be a list of names without control characters, got {text[:80]!r}")
    if len(set(names)) < len(names) or len(names) > MAX_CLASSES:
        raise ValueError(f"its classes must be at most {MAX_CLASSES} different names, got {len(names)}")
    return stored_classes(names)


LAST, TAG_PHASE = "last", "tag_phase"
"""Folders of a run with a state: of the last save, and of the end of the tag phase where other phases follow."""


def save_state(run: Path, state: Mapping[str, Any]) -> None:
    """Replace the resumable state `last/state.pt`; the old one stays until the new one is complete on the disk."""
    _write_state(run / LAST / "state.pt", state)


def save_tag_phase(run: Path, state: Mapping[str, Any]) -> None:
    """Keep the state at the end of the tag phase, from which `--tag-phase` begins; as `save_state`."""
    _write_state(run / TAG_PHASE / "state.pt", state)


def tag_phase_place(run: Path) -> str:
    """The folder of the state in which the tag phase of a run ended: of one without other phases the last."""
    return TAG_PHASE if (run / TAG_PHASE / "state.pt").is_file() else LAST


def _write_state(path: Path, state: Mapping[str, Any]) -> None:
    with _saving(path):
        write_atomically(path, lambda p: torch.save(dict(state), p), durable=True)


@contextmanager
def _saving(path: Path) -> Iterator[None]:
    """Full disks and the like as OSError with a cure: safetensors and torch.save have kinds of their own for them."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        kept = "the one before it is whole" if path.is_file() else "nothing is left of it"
        raise OSError(
            f"{path} could not be written ({first_line(error)}); {kept}. Free some space or correct the permissions of "
            f"{path.parent}, then go on with --resume where last/state.pt is there."
        ) from error


def load_state(run: Path, place: str = LAST) -> dict[str, Any]:
    """The state that `save_state` wrote, or that of `tag_phase_place`, on the CPU.

    Raises:
        FileNotFoundError: the run has saved nothing to go on from.
        ValueError: the file is damaged, or holds anything but tensors and plain values: no code in it ever runs.
    """
    path = run / place / "state.pt"
    if not path.is_file():
        raise FileNotFoundError(f"{run} has no saved state to go on from (last/state.pt); train it anew")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch each have their own kinds
        reason = first_line(error)
        raise ValueError(f"{path} cannot be read as the state of a run ({reason}). Train the run anew") from error
    if not isinstance(state, dict) or not _STATE.issubset(state):
        lacks = ", ".join(sorted(_STATE - set(state))) if isinstance(state, dict) else "everything"
        raise ValueError(f"{path} is no state of a run: it lacks {lacks}. Train the run anew")
    return state
