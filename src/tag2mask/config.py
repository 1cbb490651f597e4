"""Every number of a run, as frozen dataclasses that survive JSON. Imports no torch.

A field's docstring is its help text on the command line. Sources: [P] the AAAI 2020 paper,
[C] the published code, [M] measured here (docs/results.md).
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

BACKGROUND = 0
"""Label of the background; class `i` of the class list is `i + 1`."""
IGNORE = 255
"""Label of pixels that teach nothing and are not scored."""

Profile = Literal["official", "paper", "clean"]
_T = typing.TypeVar("_T")


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise ValueError(message)


@dataclass(frozen=True)
class CRFParams:
    """Parameters of the dense CRF (Krähenbühl & Koltun 2011) with Potts compatibility."""

    gaussian_sxy: float = 3.0
    """Width of the smoothness kernel, in pixels."""
    gaussian_compat: float = 3.0
    """Weight of the smoothness kernel."""
    bilateral_sxy: float = 80.0
    """Spatial width of the appearance kernel, in pixels."""
    bilateral_srgb: float = 13.0
    """Color width of the appearance kernel, in levels of 0-255."""
    bilateral_compat: float = 10.0
    """Weight of the appearance kernel."""
    iterations: int = 10
    """Mean-field steps; there is no early stop."""

    def __post_init__(self) -> None:
        for name in ("gaussian_sxy", "bilateral_sxy", "bilateral_srgb"):
            value = getattr(self, name)
            _require(value > 0 and math.isfinite(value), f"CRFParams.{name} must be greater than 0, got {value}")
        for name in ("gaussian_compat", "bilateral_compat"):
            value = getattr(self, name)
            _require(math.isfinite(value), f"CRFParams.{name} must be a finite number, got {value}")
        _require(self.iterations >= 0, f"CRFParams.iterations must be 0 or more, got {self.iterations}")

    @classmethod
    def mining(cls) -> CRFParams:
        """The training CRF: 3/3, 80/13/10, 10 steps [C]."""
        return cls()

    @classmethod
    def inference(cls) -> CRFParams:
        """The inference CRF of today's published code: 3/3, 83/5/4 [C]."""
        return cls(bilateral_sxy=83.0, bilateral_srgb=5.0, bilateral_compat=4.0)

    @classmethod
    def aaai_inference(cls) -> CRFParams:
        """The inference CRF at the time of the paper: 4/3, 83/5/3 [C, first commits]."""
        return cls(gaussian_sxy=4.0, bilateral_sxy=83.0, bilateral_srgb=5.0, bilateral_compat=3.0)


@dataclass(frozen=True, kw_only=True)
class ReliableConfig:
    """Which pixels may teach the segmentation."""

    foreground_power: float = 4.0
    """Exponent of the background score (1 - max CAM)^a in the CRF vote for objects; lower gives more background [C]."""
    background_power: float = 32.0
    """Exponent in the CRF vote for background; must not be lower than --foreground-power [C]."""
    votes: Literal["two", "one"] = "two"
    """`two`: one CRF per exponent; where they disagree is ignored [C]. `one`: only --foreground-power [P eq. 5]."""
    cam_power: float = 32.0
    """Exponent of the background score in the CAM's own argmax (32 [C])."""
    keep: float = 0.4
    """Share of each class's CAM pixels that is trusted, highest first, in (0, 1] [P, C]."""
    min_cam: float = 0.1
    """CAM below this is never trusted as an object [C]."""
    min_background: float = 0.8
    """Background score that the CAM must exceed to be trusted as background [C]."""
    min_crf: float = 0.8
    """CRF posterior below this is ignored [C]; 0 switches the test off [P]."""
    agreement: Literal["union", "equal"] = "union"
    """`union`: where any class's CAM is trusted [C]. `equal`: where CAM and CRF name the same class [P eq. 7]."""
    crf: CRFParams = field(default_factory=CRFParams.mining)
    """Dense CRF of the votes."""

    def __post_init__(self) -> None:
        _require(0 < self.keep <= 1, f"--method.reliable.keep must lie in (0, 1], got {self.keep}")
        _require(
            self.background_power >= self.foreground_power > 0,
            "--method.reliable.background-power must be at least --method.reliable.foreground-power, which must be "
            f"greater than 0; got {self.background_power} and {self.foreground_power}",
        )
        for name in ("min_cam", "min_background", "min_crf"):
            value = getattr(self, name)
            _require(0 <= value <= 1, f"--method.reliable.{name.replace('_', '-')} must lie in [0, 1], got {value}")

    @classmethod
    def official(cls) -> ReliableConfig:
        """The published code's rule (docs/method.md, reliable labels)."""
        return cls()

    @classmethod
    def paper(cls) -> ReliableConfig:
        """Equations 5-7: one CRF, a share per class, CAM and CRF must name the same class."""
        return cls(votes="one", cam_power=4.0, min_cam=0.0, min_background=0.0, min_crf=0.0, agreement="equal")

    @classmethod
    def clean(cls) -> ReliableConfig:
        """The default: the published votes, with CAM and CRF naming the same class."""
        return cls(agreement="equal")


@dataclass(frozen=True, kw_only=True)
class EnergyConfig:
    """The dense energy loss (paper, joint loss)."""

    weight: float = 1e-7
    """Weight of the loss, which sums over pixels; 1e-7 belongs to crops of 321 at half size [C]. 0 switches it off."""
    sigma_rgb: float = 15.0
    """Color width, in levels of 0-255."""
    sigma_xy: float = 100.0
    """Spatial width, in pixels of the crop before --scale."""
    scale: float = 0.5
    """Size at which the energy is evaluated, relative to the crop."""
    gradient: Literal["surrogate", "exact"] = "surrogate"
    """`surrogate`: -2 S A as published; `exact`: the derivative with the gate S held fixed."""

    def __post_init__(self) -> None:
        for name in ("sigma_rgb", "sigma_xy", "scale"):
            value = getattr(self, name)
            _require(value > 0, f"--method.energy.{name.replace('_', '-')} must be greater than 0, got {value}")
        _require(self.weight >= 0, f"--method.energy.weight must be 0 or more, got {self.weight}")


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """The rules of one training step."""

    cam_scales: tuple[float, ...] = (1.0, 0.5, 1.5, 2.0)
    """Scales of the class activation maps; 1.0 comes first and alone carries gradient (to the tag loss) [P, C]."""
    cam_mode: Literal["train", "eval"] = "eval"
    """Dropout in the CAM passes: `train` leaves it on as published, `eval` switches it off."""
    cam_flip: bool = False
    """Average each CAM with that of the mirrored picture (not in the published code)."""
    cam_precision: Literal["auto", "same"] = "auto"
    """`auto` draws CAMs in bf16 on CPUs with such instructions; `same` as --precision says."""
    ema: float = 0.99
    """Decay of a running average of the weights that draws the CAMs and becomes the model; 0 switches it off [C]."""
    pool_valid: bool = True
    """Average-pool the features over real pixels only; the published code pools the padding too."""
    reliable: ReliableConfig = field(default_factory=ReliableConfig.clean)
    """Which pixels may teach the segmentation."""
    energy: EnergyConfig = field(default_factory=EnergyConfig)
    """Dense energy loss."""

    def __post_init__(self) -> None:
        _require(
            len(self.cam_scales) > 0 and self.cam_scales[0] == 1.0 and min(self.cam_scales) > 0,
            f"--method.cam-scales must start with 1.0 and be positive, got {self.cam_scales}",
        )
        _require(0 <= self.ema < 1, f"--method.ema must lie in [0, 1), got {self.ema}")

    @classmethod
    def of(cls, profile: Profile) -> MethodConfig:
        """The rules of a profile: `official` published code, `paper` equations, `clean` the best of both."""
        published = cls(cam_mode="train", cam_precision="same", ema=0.0, pool_valid=False)
        if profile == "official":
            return dataclasses.replace(published, reliable=ReliableConfig.official())
        if profile == "paper":
            return dataclasses.replace(published, reliable=ReliableConfig.paper())
        if profile == "clean":
            return cls()
        raise ValueError(f"--profile must be official, paper or clean, got {profile!r}")


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """The joint transform of picture, mask and valid area."""

    crop_size: int = 224
    """Height and width of a training crop in pixels; even."""
    scale: tuple[float, float] = (0.7, 1.3)
    """Range of the random scale, drawn per picture (the published code draws one per batch)."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    jitter: tuple[float, float, float, float] = (0.3, 0.3, 0.3, 0.1)
    """Color jitter: brightness, contrast, saturation, hue; zeros switch it off."""

    def __post_init__(self) -> None:
        _require(
            self.crop_size >= 2 and self.crop_size % 2 == 0,
            f"--augment.crop-size must be even and at least 2, got {self.crop_size}",
        )
        _require(0 < self.scale[0] <= self.scale[1], f"--augment.scale must be 0 < low <= high, got {self.scale}")
        _require(0 <= self.flip <= 1, f"--augment.flip must lie in [0, 1], got {self.flip}")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimizer and schedule. The joint phase starts its own poly decay at --optim.joint-lr."""

    name: Literal["sgd", "adamw"] = "sgd"
    """`sgd` with the published groups (x1, x2 old biases, x10 new weights, x20 new biases), or `adamw`."""
    lr: float = 0.01
    """Learning rate at the start of the tag phase."""
    joint_lr: float = 0.01
    """Learning rate at the start of the joint phase."""
    joint_multipliers: bool = True
    """Keep the group multipliers in the joint phase (the published from-ImageNet run loses them there)."""
    head_multiplier: float = 10.0
    """Factor on the learning rate of new weights; their biases get twice that [C]."""
    momentum: float = 0.9
    """SGD momentum (the published code passes its weight decay here, so has none), or AdamW's first beta."""
    weight_decay: float = 5e-4
    """Decay of weights; biases and norms have none."""
    poly_power: float = 0.9
    """lr = lr0 (1 - t/T)^power."""
    warmup: int = 0
    """Steps over which each phase's learning rate rises to its value."""
    clip_norm: float = 0.0
    """Largest gradient norm; 0 switches clipping off."""
    accumulate: int = 1
    """Batches whose gradients are averaged into one step."""

    def __post_init__(self) -> None:
        for name in ("lr", "joint_lr"):
            _require(getattr(self, name) > 0, f"--optim.{name.replace('_', '-')} must be greater than 0")
        _require(self.accumulate >= 1, f"--optim.accumulate must be at least 1, got {self.accumulate}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run from tags. `TrainConfig.preset(name, data=...)` is the usual way to make one."""

    preset_name: str = "small"
    """Preset that the run started from."""
    data: str = ""
    """Folder of pictures and tags, or a PASCAL VOC tree."""
    data_format: Literal["auto", "folder", "voc"] = "auto"
    """Format of --data when looking is not enough."""
    train_split: str | None = None
    """Name of a split, or a file with one picture per line."""
    val_split: str = "val"
    """Split that validation reads; it is skipped when there is none."""
    tags_from: Literal["tags", "masks"] = "tags"
    """`masks` derives the tags from the masks; never done unless asked."""
    others: Literal["ignore", "background"] = "ignore"
    """Mask ids outside the class list become 255, or 0."""
    out: str | None = None
    """Run folder; default runs/<preset>, then -2, -3 ..."""
    profile: Profile = "clean"
    """Rules of the method: official, paper or clean. Fields under --method override it one by one."""

    backbone: str = "tf_efficientnet_lite0"
    """Any timm model, or wide_resnet38."""
    weights: str = "default"
    """`default` pretrained weights of the backbone, `none`, or a file (.safetensors, .pth)."""
    output_stride: int = 16
    """Stride of the feature map, 8, 16 or 32; a plain ViT keeps its patch size."""
    dilate: bool = False
    """Dilate the convolutions behind a dropped stride. Dilated depthwise convolutions are slow on CPU."""
    freeze_stride: int = 0
    """Pretrained layers up to this stride do not train, which makes a step cheaper; 0 trains all, as published."""
    dropout: float = 0.5
    """Dropout before the tag classifier [C]."""
    segment_dilation: int | None = None
    """Dilation of the segmentation branch in cells; None is 96 pixels wide at every stride, as published [C]."""
    image_size: int | None = 320
    """Longer side to which pictures are resized before anything else, in training and prediction; None keeps them."""

    batch_size: int = 16
    """Pictures per step in the tag phase."""
    joint_batch_size: int = 8
    """Pictures per step in the joint phase."""
    tag_steps: int = 600
    """Steps that train on tags only."""
    joint_steps: int = 450
    """Steps with all losses, after the tag phase."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimizer and schedule."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Joint transform."""
    method: MethodConfig = field(default_factory=MethodConfig)
    """Rules of the training step."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the network; fp16 needs a GPU."""
    workers: int = 2
    """Processes that load pictures; 0 loads in the main process."""
    seed: int = 0
    """Two CPU runs with one seed are equal bit by bit."""
    log_every: int = 20
    """Steps between log lines."""
    sample_every: int = 100
    """Steps between sample sheets; 0 for none."""
    validate_every: int = 0
    """Steps between validations; 0 validates once, at the end."""
    validate_pictures: int = 0
    """Validate on at most so many pictures; 0 for all."""
    save_every: int = 100
    """Steps between saves of the resumable state."""
    select: Literal["last", "miou"] = "last"
    """Model that is kept: the last step, as published, or the best on validation masks."""

    def __post_init__(self) -> None:
        for name in ("data", "out", "train_split", "weights"):
            if isinstance(value := getattr(self, name), os.PathLike):
                object.__setattr__(self, name, os.fspath(value))
        _require(
            self.image_size is None or self.image_size >= 1, f"--image-size must be at least 1, got {self.image_size}"
        )
        _require(self.workers >= 0, f"--workers must be 0 or more, got {self.workers}")
        _require(
            self.segment_dilation is None or self.segment_dilation >= 1,
            f"--segment-dilation must be at least 1, got {self.segment_dilation}",
        )
        _require(self.output_stride in (8, 16, 32), f"--output-stride must be 8, 16 or 32, got {self.output_stride}")
        for name in ("batch_size", "joint_batch_size", "log_every", "save_every"):
            value = getattr(self, name)
            _require(value >= 1, f"--{name.replace('_', '-')} must be at least 1, got {value}")
        _require(
            self.tag_steps >= 0 and self.joint_steps >= 0 and self.tag_steps + self.joint_steps > 0,
            "--tag-steps and --joint-steps must be 0 or more and not both 0, "
            f"got {self.tag_steps} and {self.joint_steps}",
        )
        _require(
            not (self.select == "miou" and self.validate_every == 0),
            "--select miou compares validations during training, so it needs --validate-every N",
        )

    @property
    def steps(self) -> int:
        """All steps of the run."""
        return self.tag_steps + self.joint_steps

    @classmethod
    def preset(cls, name: str, *, profile: Profile | None = None, **changes: Any) -> TrainConfig:
        """The named preset with `changes`.

        Raises:
            ValueError: unknown preset or field, with the ones there are.
        """
        if name not in PRESETS:
            raise ValueError(f"There is no preset {name!r}; presets: {', '.join(PRESETS)}")
        config = PRESETS[name]()
        if profile is not None:
            config = config.replace(profile=profile)
        return config.replace(**changes)

    def replace(self, **changes: Any) -> Self:
        """A copy with other values; another profile brings its own method unless that is given too."""
        if "profile" in changes and "method" not in changes:
            changes["method"] = MethodConfig.of(changes["profile"])
        known = {f.name for f in dataclasses.fields(self)}
        if unknown := sorted(set(changes) - known):
            raise ValueError(f"TrainConfig has no field {', '.join(unknown)}; fields: {', '.join(sorted(known))}")
        return dataclasses.replace(self, **changes)

    def to_json(self) -> str:
        """All fields as JSON; `from_json` gives the same config back."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> TrainConfig:
        """The config that `to_json` wrote; unknown or ill-typed keys are refused by name."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"The config is not JSON: {error}") from error
        return _from_dict(cls, values, "config")


def _from_dict(cls: type[_T], values: Any, where: str) -> _T:
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} must be an object, got {type(values).__name__}")
    hints = typing.get_type_hints(cls)
    names = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - names):
        raise ValueError(f"{where} has unknown keys {', '.join(unknown)}; known: {', '.join(sorted(names))}")
    return cls(**{key: _value(hints[key], value, f"{where}.{key}") for key, value in values.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    """`value` as `hint` wants it: nested dataclasses, tuples for lists, floats for ints; else refused."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _from_dict(typing.cast(type, hint), value, where)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _value(next(a for a in args if a is not type(None)), value, where)
    if origin is Literal:
        if value not in args:
            raise ValueError(f"{where} must be one of {', '.join(map(str, args))}, got {value!r}")
        return value
    if origin is tuple and isinstance(value, (list, tuple)):
        each = args[:1] * len(value) if args[-1] is Ellipsis else args
        if len(each) != len(value):
            raise ValueError(f"{where} needs {len(each)} values, got {value!r}")
        return tuple(_value(a, v, where) for a, v in zip(each, value, strict=True))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise ValueError(f"{where} must be {getattr(hint, '__name__', hint)}, got {value!r}")


def small() -> TrainConfig:
    """EfficientNet-lite0 at stride 16, tags then all losses: an hour on two CPU cores."""
    return TrainConfig(
        freeze_stride=4,
        segment_dilation=1,
        tag_steps=1200,
        joint_steps=900,
        optim=OptimConfig(lr=0.01, joint_lr=0.002, warmup=20, clip_norm=5.0),
        augment=AugmentConfig(jitter=(0.3, 0.3, 0.3, 0.0)),
        workers=1,
        sample_every=300,
    )


PRESETS: dict[str, Callable[[], TrainConfig]] = {"small": small}


def load_config(run: Path) -> TrainConfig:
    """The config of a run folder."""
    path = Path(run) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{run} is no run folder: it has no config.json")
    return TrainConfig.from_json(path.read_text(encoding="utf-8"))
