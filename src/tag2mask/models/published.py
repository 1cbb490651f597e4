"""Files of weights that the authors published: which one a file is, and the names of its tensors here (method 1.3)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tag2mask.data.readers.voc import VOC_CLASSES
from tag2mask.models.network import Network
from tag2mask.models.wide_resnet38 import WideResNet38


@dataclass(frozen=True)
class Kind:
    """One kind of published file."""

    title: str
    """What it is, for people."""
    parts: tuple[str, ...]
    """Parts of the network that it holds, of `backbone`, `classifier`, `segmenter` and `attention`."""
    preset: str | None = None
    """Preset of the complete model that it is; None for weights to start training from."""
    license: str | None = None
    """Of the repository that publishes it; None where that has none, and for files of unknown origin."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes of its tag classifier in order, which for every published one are VOC's twenty [C voc12/data.py]."""
        return VOC_CLASSES if "classifier" in self.parts else ()


IMAGENET = Kind("ResNet-38 (A1) trained on ImageNet, MXNet's names", ("backbone",), license="apache-2.0")
BACKBONE = Kind("ResNet-38 without branches", ("backbone",))
CLASSIFIER = Kind("PSA's ResNet-38 tag classifier of PASCAL VOC (res38_cls)", ("backbone", "classifier"), license="mit")
RRM = Kind("RRM of the AAAI 2020 paper (RRM_final)", ("backbone", "classifier", "segmenter"), "voc-rrm")
RRM_ATTENTION = Kind(
    "RRM with attention (RRM(attention)_final)",
    ("backbone", "classifier", "segmenter", "attention"),
    "voc-rrm-attention",
)
KINDS = (IMAGENET, BACKBONE, CLASSIFIER, RRM, RRM_ATTENTION)

# The published attention multiplies transpose(w1 x) with (w2 x), normalizes over the index of w1 and weighs (w3 x) with
# it [C network/RRM(attention).py]: w1 is the query, w2 the key and w3 the value of method 9. The code itself has no
# such names.
_BRANCHES = {
    "classifier": "fc8",
    "segmenter.0": "fc8_seg_conv1",
    "segmenter.2": "fc8_seg_conv2",
    "attention.query": "GAU_w1",
    "attention.key": "GAU_w2",
    "attention.value": "GAU_w3",
    "attention.fuse": "fc8_seg_conv3",
    "attention.score": "fc8_seg_conv4",
}
_MXNET_BLOCK = re.compile(r"(res|bn)(\d)(?:a|b(\d+))_branch(\w+?)_(weight|gamma|beta|(?:moving_)?(?:mean|var))")
_MXNET_LAST = re.compile(r"bn7_(gamma|beta|(?:moving_)?(?:mean|var))")
_NORM = {"gamma": "weight", "beta": "bias", "mean": "running_mean", "var": "running_var"}
LEFT_OUT = ("linear1000_weight", "linear1000_bias")
"""The ImageNet classifier of the MXNet file, of which nothing here makes use."""


def kind_of(names: Collection[str]) -> Kind | None:
    """The kind of published file that has tensors of these names, without `module.`; None for any other file."""
    if any(_MXNET_BLOCK.fullmatch(_bare(name)) for name in names):
        return IMAGENET
    if not any(re.match(r"b\d(_\d)?\.conv_branch", name) for name in names):
        return None
    if any(name.startswith("GAU_") for name in names):
        return RRM_ATTENTION
    if any(name.startswith("fc8_seg_") for name in names):
        return RRM
    return CLASSIFIER if any(name.startswith("fc8.") for name in names) else BACKBONE


def published_shapes(kind: Kind) -> dict[str, Tensor]:
    """Every tensor of such a file under this package's names, of the right shape and without values (meta device)."""
    with torch.device("meta"):
        network = Network(WideResNet38(), VOC_CLASSES, attention="attention" in kind.parts)
    return {name: tensor for name, tensor in network.state_dict().items() if name.partition(".")[0] in kind.parts}


def network_tensors(state: Mapping[str, Tensor], kind: Kind, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a published file under this package's names, all of them and no other ones, as float32.

    Args:
        state: what the file holds, without `module.`.
        kind: which file it is.
        wanted: as `published_shapes` gives it.

    Raises:
        ValueError: tensors are unknown, missing or misshapen; names them as the published PyTorch files do. Counts of
            batches may be missing (old files have none) and are left out: nothing reads them.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        new = torch_name(name) if kind is IMAGENET else name
        if not (kind is IMAGENET and _bare(name) in LEFT_OUT):
            renamed[name if new in renamed else new] = tensor  # a second tensor of that name is reported as unknown
    ours = {published_name(name): name for name in wanted}
    if told := misfits(renamed, {published_name(name): tensor for name, tensor in wanted.items()}):
        raise ValueError(f"it looks like {kind.title}, but {told}")
    return {ours[name]: tensor.float() for name, tensor in renamed.items() if not _is_count(name)}


def torch_name(name: str) -> str:
    """The name in the published PyTorch files of a tensor of the MXNet file; a name of no such tensor as it is."""
    bare = _bare(name)
    if bare == "conv1a_weight":
        return "conv1a.weight"
    if match := _MXNET_LAST.fullmatch(bare):
        return f"bn7.{_NORM[match[1].removeprefix('moving_')]}"
    if match := _MXNET_BLOCK.fullmatch(bare):
        layer, stage, block, branch, what = match.groups()
        where = f"b{stage}_{block}" if block else f"b{stage}"
        if layer == "res" and what == "weight":
            return f"{where}.conv_branch{branch}.weight"
        if layer == "bn" and what != "weight":
            return f"{where}.bn_branch{branch}.{_NORM[what.removeprefix('moving_')]}"
    return name


def published_name(name: str) -> str:
    """The name in the published PyTorch files of one of this package's tensors."""
    module, _, last = name.rpartition(".")
    return name.removeprefix("backbone.") if name.startswith("backbone.") else f"{_BRANCHES[module]}.{last}"


def misfits(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """What keeps `given` from being loaded as `wanted`: unknown and missing names, shapes, types; "" if nothing does.

    Files of old PyTorch versions count no batches, and nothing reads that count, so it may be missing.
    """
    both = [name for name in wanted if name in given]
    problems = {
        "unknown": sorted(set(given) - set(wanted)),
        "missing": sorted(name for name in set(wanted) - set(given) if not _is_count(name)),
        "of another shape": [
            f"{name} {tuple(given[name].shape)} instead of {tuple(wanted[name].shape)}"
            for name in both
            if given[name].shape != wanted[name].shape
        ],
        "without real numbers": [
            f"{name} ({given[name].dtype})"
            for name in both
            if wanted[name].is_floating_point() and not given[name].is_floating_point()
        ],
    }
    return "; ".join(f"{len(names)} {what}: {_some(names)}" for what, names in problems.items() if names)


def check_finite(tensors: Mapping[str, Tensor], source: object, cure: str = "Get it again") -> None:
    """Refuse weights that hold NaN or infinities.

    Raises:
        ValueError: it names `source`, the first tensors concerned, and `cure`.
    """
    if broken := [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]:
        raise ValueError(f"{source} is damaged: {', '.join(broken[:6])} hold values that are not finite (NaN). {cure}")


def _is_count(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _bare(name: str) -> str:
    """A name of MXNet without `arg:` or `aux:`."""
    return name.removeprefix("arg:").removeprefix("aux:")


def _some(names: Iterable[str], most: int = 6) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
