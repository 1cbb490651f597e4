"""Networks of the second step, which learns from masks: built by the name of their architecture."""

from __future__ import annotations

from tag2mask.config import RetrainConfig
from tag2mask.models.backbones import build_backbone
from tag2mask.models.base import SupervisedNetwork
from tag2mask.models.deeplab import DeepLabV2
from tag2mask.models.largefov import VGG16, LargeFOV, load_vgg16
from tag2mask.models.smp import build_smp
from tag2mask.models.strides import freeze_early
from tag2mask.models.weights import load_weights

ARCHITECTURES = ("deeplab-v2", "largefov-vgg16", "smp:NAME")


def build_supervised(config: RetrainConfig, classes: tuple[str, ...], weights: str) -> SupervisedNetwork:
    """A network that is trained on masks, on the CPU, in training mode; see `build_network`.

    `deeplab-v2` takes any timm model or wide_resnet38 as backbone, `smp:NAME` an encoder of smp or a timm model.
    `largefov-vgg16` has its own backbone, of stride 8, and no default weights. Of smp only `deeplabv3`,
    `deeplabv3plus` and `pan` read the output stride; only `deeplab-v2` reads `dilate`.
    """
    network: SupervisedNetwork
    if config.architecture == "deeplab-v2":
        body = build_backbone(
            config.backbone,
            output_stride=config.output_stride,
            dilate=config.dilate,
            decoder_stride=config.decoder_stride,
        )
        load_weights(body, config.backbone, weights)
        body.finish()
        network = DeepLabV2(body, classes)
    elif config.architecture == "largefov-vgg16":
        if config.output_stride != VGG16.stride:
            raise ValueError(
                f"largefov-vgg16 has stride 8, got --output-stride {config.output_stride}; use --output-stride 8"
            )
        network = fov = LargeFOV(classes)
        load_vgg16(fov.backbone, weights)
    elif config.architecture.startswith("smp:"):
        network = build_smp(config, classes, weights)
    else:
        raise ValueError(f"There is no architecture {config.architecture!r}; there are {', '.join(ARCHITECTURES)}")
    if config.weights != "none":  # random layers must not be frozen
        freeze_early(network.get_submodule(network.pretrained_prefix.removesuffix(".")), config.freeze_stride)
    return network
