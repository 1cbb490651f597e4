"""The protocol that makes two numbers comparable, as one line for people."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tag2mask.config.inference import CRF_PRESETS


def protocol_line(protocol: Mapping[str, Any]) -> str:
    """One line that says how a number came about; what the protocol does not hold is left out."""
    pictures = f"{protocol.get('num_images', '?')} pictures"
    parts = [f"data {protocol['data']}"] if "data" in protocol else []
    parts += [f"split {protocol['split']}, {pictures}" if "split" in protocol else "", _source(protocol)]
    if "size" in protocol:
        parts.append(f"scored at {str(protocol['size']).split(':')[0]} size")
    if "image_size" in protocol:
        size = protocol["image_size"]
        parts.append("network input at the picture's size" if size is None else f"network input {size} px")
    if "scales" in protocol:
        scales = ", ".join(f"{scale:g}" for scale in protocol["scales"])
        parts.append(f"{'scale' if len(protocol['scales']) == 1 else 'scales'} {scales}")
    if "flip" in protocol:
        parts.append("with flip" if protocol["flip"] else "no flip")
    if "crf" in protocol:
        parts.append(crf_words(protocol["crf"]))
    if "label_prior" in protocol:
        parts.append(f"label prior: {protocol['label_prior']}")
    if "model_selection" in protocol:
        parts.append(f"weights: {protocol['model_selection']}")
    parts.append(_ignored(protocol))
    if protocol.get("labels_not_scored"):
        parts.append(f"not in the mean: {', '.join(protocol['labels_not_scored'])}")
    return "; ".join(filter(None, parts))


def _source(protocol: Mapping[str, Any]) -> str:
    source = protocol.get("masks_from", "network")
    if source == "CAM":
        threshold = protocol.get("background_threshold")
        return "CAM" if threshold is None else f"CAM at background threshold {threshold:g}, the best of those tried"
    if source in ("network", "reliable labels"):
        return "" if source == "network" else source
    return f"masks of {source}, {100 * protocol.get('unlabeled_share', 0):.1f} % of the pixels unlabeled"


def _ignored(protocol: Mapping[str, Any]) -> str:
    if "ignored_ids" not in protocol:
        return ""
    foreign = protocol.get("classes_counted_as_255")
    return f"ignored: {protocol['ignored_ids']}" + (f", and the classes {', '.join(foreign)}" if foreign else "")


def crf_words(crf: Mapping[str, Any] | None) -> str:
    """The CRF of a protocol by name and numbers: widths/compatibility of its kernels and its steps."""
    if crf is None:
        return "no CRF"
    name = next((n for n, params in CRF_PRESETS.items() if dataclasses.asdict(params) == dict(crf)), "custom")
    return (
        f"CRF {name} (Gaussian {crf['gaussian_sxy']:g}/{crf['gaussian_compat']:g}, bilateral "
        f"{crf['bilateral_sxy']:g}/{crf['bilateral_srgb']:g}/{crf['bilateral_compat']:g}, "
        f"{crf['iterations']} iterations)"
    )
