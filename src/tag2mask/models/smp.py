"""Every architecture of segmentation-models-pytorch (smp) as a network of this package."""

from __future__ import annotations

import difflib
import inspect
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from tag2mask.base.errors import first_line
from tag2mask.config import RetrainConfig
from tag2mask.models.backbones import LITE0, OWN_NORMALIZATION, train_only_used
from tag2mask.models.base import IMAGENET, RGB, SupervisedNetwork
from tag2mask.models.published import check_finite, misfits
from tag2mask.models.weights import packaged_lite0_state, read_weights

_OWN_ENCODERS: dict[str, tuple[RGB, RGB]] = {
    "inception": ((127.5,) * 3, (127.5,) * 3),
    "xception": ((127.5,) * 3, (127.5,) * 3),
    "dpn": ((124.0, 117.0, 104.0), (1 / 0.0167,) * 3),
}
"""Beginnings of smp's own encoder names whose weights were not trained on ImageNet's mean and deviation."""
_CLASSIFIERS = ("fc.", "classifier.", "head.", "last_linear.", "logits.")


class SmpNetwork(SupervisedNetwork):
    """A segmentation model of smp.

    Its scores stay at the size of its decoder: the last resizing, which smp does with aligned corners, is left to
    the caller, as for every network here. The features are the last map of the encoder, whose cells may be smaller
    than `stride`: that is what the sides of a picture must be multiples of, and images are stretched to the next one.

    Batch norms of the encoder are frozen, those of the decoder are new and train; decoders that pool the whole picture
    (pspnet, pan, deeplabv3, deeplabv3plus, upernet) then need batches of 2 pictures or more.
    """

    pretrained_prefix = "model.encoder."

    def __init__(
        self, model: Any, classes: tuple[str, ...], *, stride: int, smallest: int, mean: RGB, std: RGB
    ) -> None:
        """Wrap an smp model with K output channels; a side has at least `smallest` pixels, a multiple of `stride`."""
        super().__init__(classes, stride=stride, mean=mean, std=std)
        self.model = model
        self.smallest = smallest
        self.eval()
        side = max(smallest, 2 * stride)
        with torch.enable_grad():
            train_only_used(self, self.maps(torch.zeros(1, 3, side, side))[1])
        self.train()

    def maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, D, h, w] and segmentation scores [B, K, h', w'] of normalized images [B, 3, H, W]."""
        size = [max(self.smallest, -(-side // self.stride) * self.stride) for side in images.shape[-2:]]
        if list(images.shape[-2:]) != size:
            images = F.interpolate(images, size, mode="bilinear", align_corners=False)
        encoded = self.model.encoder(images.contiguous(memory_format=torch.channels_last))
        with_tokens = isinstance(encoded, tuple) and isinstance(encoded[0], list | tuple)  # a plain ViT's, for dpt
        features, *tokens = encoded if with_tokens else (encoded,)
        scores: Tensor = self.model.segmentation_head(self.model.decoder(features, *tokens))
        return features[-1], scores


def build_smp(config: RetrainConfig, classes: tuple[str, ...], weights: str) -> SmpNetwork:
    """The smp model `smp:NAME` of `config.architecture`, in any case, on the encoder `config.backbone`.

    Args:
        config: its backbone is a name of smp (`resnet34`, `tu-resnet18`) or, where smp has none of that name, of timm.
            Its output stride is read by `deeplabv3`, `deeplabv3plus` and `pan`, which dilate their encoder; others keep
            theirs.
        classes: class names, background not among them.
        weights: of the encoder, a file being one of smp or timm.

    Raises:
        ValueError: smp is not installed, has no such architecture or encoder or cannot combine them, or weights that
            are not there or do not fit.
    """
    try:
        import segmentation_models_pytorch as smp
    except ImportError as error:
        raise ValueError(
            "Architectures smp:NAME need the package segmentation-models-pytorch; pip install 'tag2mask[smp]'"
        ) from error
    makers: Mapping[str, Any] = smp.MODEL_ARCHITECTURES_MAPPING
    architecture = config.architecture.removeprefix("smp:")
    name = architecture.lower()
    if name not in makers:
        raise ValueError(f"smp has no architecture {architecture!r}; it has {', '.join(f'smp:{a}' for a in makers)}")
    encoder = _encoder_name(config.backbone, smp)
    takes = inspect.signature(makers[name].__init__).parameters
    wished = {"upsampling": 1, "encoder_output_stride": config.output_stride}
    options: dict[str, Any] = {key: value for key, value in wished.items() if key in takes}
    options |= {"encoder_name": encoder, "classes": len(classes) + 1}
    if name == "dpt":
        options["dynamic_img_size"] = True
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*timm-.* encoders are deprecated", category=DeprecationWarning)
        try:
            model = makers[name](encoder_weights=None, **options)
        except Exception as error:  # smp and timm raise many kinds
            raise ValueError(
                f"smp cannot build {name} on the encoder {encoder}: {first_line(error)}; choose another --backbone"
            ) from error
        bare = encoder.removeprefix("tu-").removeprefix("timm-")
        if weights not in ("default", "none"):
            _fill(model.encoder, read_weights(Path(weights)).tensors, encoder, weights)
        elif weights == "default" and bare == LITE0:
            _fill(model.encoder, packaged_lite0_state(), encoder, "the packaged file")
        elif weights == "default":
            try:
                model = makers[name](encoder_weights=True if encoder.startswith("tu-") else "imagenet", **options)
            except Exception as error:  # network, hub, missing weights
                raise ValueError(
                    f"No default weights for the encoder {encoder} ({first_line(error)}); go online, "
                    "give a file with --weights FILE, or start from random weights with --weights none"
                ) from error
    mean, std = _normalization(bare, encoder)
    cell = int(model.encoder.output_stride)
    stride = 2 * cell if name == "dpt" else max(32, cell)  # dpt halves the map of its ViT once
    smallest = 8 * cell if name == "pan" else stride  # pan halves the last map three times
    try:
        return SmpNetwork(model, classes, stride=stride, smallest=smallest, mean=mean, std=std)
    except RuntimeError as error:  # some pairs can be built but do not fit each other
        raise ValueError(
            f"smp cannot run {name} on the encoder {encoder}: {first_line(error)}; choose another --backbone"
        ) from error


def is_own_encoder(name: str) -> bool:
    """Whether smp itself has an encoder of this name, whose default weights are then not timm's."""
    import segmentation_models_pytorch as smp

    return name in smp.encoders.encoders


def _encoder_name(name: str, smp: Any) -> str:
    """`name` as smp spells it."""
    own = smp.encoders.encoders
    bare = name.removeprefix("tu-")
    if name in own:
        return name
    if timm.is_model(bare):
        return f"tu-{bare}"
    near = difflib.get_close_matches(name, [*own, *timm.list_models()], n=4, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else "see smp.encoders.get_encoder_names()"
    raise ValueError(f"smp has no encoder {name!r}, and timm no model of that name; {hint}")


def _normalization(bare: str, encoder: str) -> tuple[RGB, RGB]:
    """Mean and deviation, 0-255, that the encoder's weights expect; smp's own are ImageNet's but for a few."""
    if bare in OWN_NORMALIZATION:
        return OWN_NORMALIZATION[bare]
    if encoder.startswith("tu-"):
        config = timm.models.get_pretrained_cfg(bare)
        red, green, blue = (255.0 * m for m in config.mean)
        return (red, green, blue), tuple(255.0 * s for s in config.std)
    return next((own for start, own in _OWN_ENCODERS.items() if encoder.startswith(start)), IMAGENET)


def _fill(encoder: Any, state: Mapping[str, Tensor], name: str, source: str) -> None:
    """Load `state` into an encoder: nothing may be missing, and nothing unknown but layers that it cut off."""
    prefix, whole = "", dict[str, Tensor]()
    if name.startswith("tu-"):
        prefix = "model."
        with torch.device("meta"):  # the model with all its stages, of which smp keeps those that it needs
            whole = timm.create_model(name.removeprefix("tu-"), pretrained=False).state_dict()
    own: dict[str, Tensor] = encoder.state_dict()
    # timm says stages_0 for stages.0 in a model that gives out the maps of several stages.
    places = {key.removeprefix(prefix).replace(".", "_"): key for key in own}
    given = {places.get(key.replace(".", "_"), key): tensor for key, tensor in state.items()}
    cut_off = [key for key in given if key not in own and (key in whole or key.startswith(_CLASSIFIERS))]
    given = {key: tensor for key, tensor in given.items() if key not in cut_off}
    if told := misfits(given, own):
        raise ValueError(f"{source} does not fit the encoder {name}: {told}. Give the weights of that encoder")
    check_finite(given, source)
    encoder.load_state_dict(own | given)
