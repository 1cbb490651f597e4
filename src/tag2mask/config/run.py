"""Every number of a run, as frozen dataclasses that survive JSON. Imports no torch.

A field's docstring is its help text on the command line; `method` holds the numbers of the method itself.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, Self

from tag2mask.config.augment import AugmentConfig
from tag2mask.config.codes import MAX_BATCH, MAX_SIDE
from tag2mask.config.fields import Settings, from_dict, path_field, require, setting, unread_by_tags
from tag2mask.config.formats import DataOptions
from tag2mask.config.method import MethodConfig, Profile, SegmentationLoss
from tag2mask.config.optim import OptimConfig
from tag2mask.config.presets import PRESETS

Sampling = Literal["uniform", "balanced"]
MAX_STEPS = 10_000_000
"""Most steps of a phase."""
MAX_WORKERS = 1024
"""Most processes that load pictures."""
NO_SPLIT = "none"
"""`--val-split none`: nothing is validated."""


def _check_batch(option: str, size: int | str) -> None:
    known = size == "auto" or (isinstance(size, int) and 1 <= size <= MAX_BATCH)
    require(known, f"{option} must be 1 to {MAX_BATCH}, or auto, got {size}")


class Phase(NamedTuple):
    """A stretch of steps with one set of losses and its own decay of the learning rate."""

    name: Literal["tags", "joint", "supervised"]
    steps: int
    batch_size: int | Literal["auto"]
    lr: float
    """Learning rate at its start."""
    multipliers: bool = True
    """Whether the parameter groups keep their factors."""


@dataclass(frozen=True, kw_only=True)
class RunConfig(DataOptions, Settings):
    """What every training run has, whatever it learns from."""

    kind: ClassVar[str]
    """`train` or `retrain`, as in config.json."""

    preset_name: str = setting("small", option=False, tag_phase="small")
    """Preset that the run started from."""
    data: str = path_field("", moves=True)
    """Folder of a data set: pictures and tags in any format of docs/data.md."""
    train_split: str | None = path_field(None, split=True, moves=True)
    """Name of a split, or a file with one picture per line."""
    val_split: str = path_field("val", split=True, moves=True, words=(NO_SPLIT,), tag_phase="val")
    """Split to validate on, by name or as a file; `none` for no validation, as with `val` where there is none."""
    out: str | None = path_field(None, tag_phase=None)
    """Run folder; default runs/<preset>, then -2, -3 ..."""
    backbone: str = "tf_efficientnet_lite0"
    """Any timm model, or wide_resnet38."""
    weights: str = path_field("default", words=("default", "none"))
    """`default` pretrained weights of the backbone, `none`, or a file (.safetensors, .pth, MXNet's .params)."""
    output_stride: int = 16
    """Stride of the feature map, 8, 16 or 32; a plain ViT keeps its patch size."""
    dilate: bool = False
    """Dilate the convolutions behind a dropped stride. Dilated depthwise convolutions are slow on CPU."""
    decoder_stride: Literal[0, 4, 8] = 0
    """Pixels per cell of the map from which CAMs and segmentation are drawn, by a light decoder that brings in early
    features; 0 for the backbone's own last map, as published."""
    freeze_stride: int = setting(0, within="[0, inf)")
    """Pretrained layers up to this stride do not train, which makes a step cheaper; 0 trains all, as published."""
    image_size: int | None = setting(320, within=f"[1, {MAX_SIDE}]")
    """Longer side to which pictures are resized before anything else, in training and prediction; None keeps them."""

    batch_size: int | Literal["auto"] = 16
    """Pictures per step, of all processes together; `auto` finds the most that fit into the memory of one process, at
    most the training pictures (docs/tiling.md)."""
    sampling: Literal["auto", "balanced", "uniform"] = "uniform"
    """`balanced` draws every class equally often and pictures without tags at most every third time; `auto` does so
    where classes differ more than 5 times or most pictures have no tag."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimizer and schedule."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Joint transform."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the network; fp16 needs a GPU."""
    workers: int = unread_by_tags(2, within=f"[0, {MAX_WORKERS}]")
    """Processes that load pictures, for each process that trains; 0 loads in that process."""
    seed: int = setting(0, within="[0, inf)")
    """Two CPU runs with one seed are equal bit by bit."""
    log_every: int = unread_by_tags(20, within="[1, inf)")
    """Steps between log lines."""
    sample_every: int = unread_by_tags(100, within="[0, inf)")
    """Steps between sample sheets; 0 for none."""
    validate_every: int = unread_by_tags(0, within="[0, inf)")
    """Steps between validations; 0 validates once, at the end. The tags are measured after the tag phase too."""
    validate_pictures: int = unread_by_tags(0, within="[0, inf)")
    """Score masks on at most so many pictures of the validation split; 0 for all."""
    save_every: int = unread_by_tags(100, within="[1, inf)")
    """Steps between saves of the resumable state."""
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = unread_by_tags(("tensorboard",))
    """Where else curves and pictures go; metrics.csv and report.html are always written."""
    select: Literal["last", "miou"] = unread_by_tags("last")
    """Model that is kept: the last step, as published, or the best on validation masks."""

    def __post_init__(self) -> None:
        for name in self.path_names():
            if isinstance(value := getattr(self, name), os.PathLike):
                object.__setattr__(self, name, os.fspath(value))
        super().__post_init__()
        _check_batch("--batch-size", self.batch_size)
        require(self.output_stride in (8, 16, 32), f"--output-stride must be 8, 16 or 32, got {self.output_stride}")
        if self.select == "miou":
            compares = "--select miou compares validations"
            require(self.validate_every > 0, f"{compares} during training, so it needs --validate-every N")
            off = f"{compares}, which --val-split none switches off; name a split with masks"
            require(self.held_out is not None, off)

    @property
    def held_out(self) -> str | None:
        """`val_split`, or None where nothing is to be validated."""
        return None if self.val_split == NO_SPLIT else self.val_split

    def cell_side(self, longer_side: float) -> float:
        """Height and width, in pixels of a picture, of a cell of the map that its masks are drawn from."""
        scale = 1.0 if self.image_size is None else longer_side / self.image_size
        return scale * (self.decoder_stride or self.output_stride)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The stretches of the run, in order; one without steps is left out."""
        raise NotImplementedError

    def _followed(self, lr: float, batch: Literal["batch_size", "joint_batch_size"]) -> float:
        """The learning rate for the batch of a phase, see `OptimConfig.follow_batch`."""
        size, own = (
            getattr(self, batch),
            PRESETS[self.kind].get(self.preset_name, {}).get(batch, getattr(type(self), batch)),
        )
        return lr * min(1.0, size / own) if self.optim.follow_batch and isinstance(size, int) else lr

    @property
    def batch_fields(self) -> tuple[str, ...]:
        """The field of the batch size of each of `phases`."""
        return tuple("joint_batch_size" if phase.name == "joint" else "batch_size" for phase in self.phases)

    def found_in(self, other: RunConfig) -> Self:
        """This config with the values that `other` has found for batches and draws where this one says auto."""
        names = [name for name in ("sampling", *self.batch_fields) if getattr(self, name) == "auto"]
        return self.replace(**{name: getattr(other, name) for name in names if hasattr(other, name)})

    @property
    def average_decay(self) -> float:
        """Decay of the running average of the weights; 0 for none."""
        raise NotImplementedError

    @property
    def steps(self) -> int:
        """All steps of the run."""
        return sum(phase.steps for phase in self.phases)

    def phase_at(self, step: int) -> tuple[Phase, int]:
        """The phase of `step` (from 0), and the steps that it has made then."""
        for phase in self.phases:
            if step < phase.steps:
                return phase, step
            step -= phase.steps
        raise ValueError(f"the run has {self.steps} steps, there is no step {self.steps + step}")

    @classmethod
    def path_names(cls, **marks: Any) -> tuple[str, ...]:
        """The fields that name folders or files, of these those with `marks` (`path_field`)."""
        wanted = {"path": True} | marks
        return tuple(each.name for each in dataclasses.fields(cls) if wanted.items() <= each.metadata.items())

    @classmethod
    def presets(cls) -> tuple[str, ...]:
        """Names of the presets."""
        return tuple(PRESETS[cls.kind])

    @classmethod
    def preset(cls, name: str, *, profile: Profile | None = None, **changes: Any) -> Self:
        """The named preset with `changes`.

        Raises:
            ValueError: unknown preset or field, with the ones there are.
        """
        if name not in PRESETS[cls.kind]:
            raise ValueError(f"There is no preset {name!r}; presets: {', '.join(cls.presets())}")
        values = dict(PRESETS[cls.kind][name])
        if "profile" in values:
            method = dataclasses.asdict(MethodConfig.of(values["profile"]))
            values["method"] = method | values.get("method", {})
        config = from_dict(cls, {"preset_name": name} | values, f"preset {name}")
        if profile is not None:
            changes = {"profile": profile} | changes
        return config.replace(**changes)

    def replace(self, **changes: Any) -> Self:
        """A copy with other values."""
        known = {f.name for f in dataclasses.fields(self)}
        if unknown := sorted(set(changes) - known):
            raise ValueError(
                f"{type(self).__name__} has no field {', '.join(unknown)}; fields: {', '.join(sorted(known))}"
            )
        return dataclasses.replace(self, **changes)

    def to_json(self) -> str:
        """All fields as JSON; `parse_config` gives the same config back."""
        return json.dumps({"kind": self.kind} | dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The config that `to_json` wrote; unknown or ill-typed keys are refused by name."""
        config = parse_config(text)
        if not isinstance(config, cls):
            raise ValueError(f"This is the config of a `{config.kind}` run, not of a `{cls.kind}` run")
        return config


MaskSource = Literal["segmentation", "evidence"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig):
    """One training run from tags. `TrainConfig.preset(name, data=...)` is the usual way to make one."""

    kind: ClassVar[str] = "train"

    profile: Profile = unread_by_tags("clean")
    """Rules of the method: official, paper or clean. Fields under --method override it one by one."""
    dropout: float = setting(0.5, within="[0, 1)")
    """Dropout before the tag classifier [C]."""
    pool_power: float = setting(1.0, within="[1, 16]")
    """Exponent p of the generalized mean (mean of f^p)^(1/p) that pools the tag branch: 1 is the average, as published;
    3 lets objects count that are far smaller than the picture."""
    prior: bool = False
    """Add the log odds of each class's frequency to its tag score, so that maps of rare classes are not empty."""
    segment_dilation: int | None = unread_by_tags(None, within="[1, inf)")
    """Dilation of the segmentation branch in cells; None is 96 pixels wide at every stride, as published [C]."""
    attention: bool = False
    """A global attention head beside the segmentation branch (2022 extension); the scores are the mean of both [C]."""
    joint_batch_size: int | Literal["auto"] = unread_by_tags(8)
    """Pictures per step in the joint phase, of all processes together; `auto` as for --batch-size."""
    tag_steps: int = setting(600, within=f"[0, {MAX_STEPS}]")
    """Steps that train on tags only."""
    joint_steps: int = setting(450, within=f"[0, {MAX_STEPS}]", tag_phase=0)
    """Steps with all losses, after the tag phase."""
    tag_phase: str | None = path_field(None, tag_phase=None)
    """Run folder whose finished tag phase is taken over instead of training one; its settings there must be equal."""
    masks_for_some: str = path_field("", moves=True, tag_phase="")
    """Folder of true masks NAME.png of some pictures, with classes.txt; there they replace the reliable labels."""
    method: MethodConfig = field(default_factory=MethodConfig)
    """Rules of the training step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_batch("--joint-batch-size", self.joint_batch_size)
        require(self.tag_steps + self.joint_steps > 0, "--tag-steps and --joint-steps must be not both 0, got 0 and 0")
        require(self.tag_phase is None or self.tag_steps > 0, "--tag-phase needs --tag-steps as that run had them")
        require(
            self.attention or self.method.class_distance == 0,
            "--method.class-distance compares features of the attention head, so it needs --attention",
        )

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Tags first, then all losses."""
        optim = self.optim
        phases = (
            Phase("tags", self.tag_steps, self.batch_size, self._followed(optim.lr, "batch_size")),
            Phase(
                "joint",
                self.joint_steps,
                self.joint_batch_size,
                self._followed(optim.joint_lr, "joint_batch_size"),
                optim.joint_multipliers,
            ),
        )
        return tuple(phase for phase in phases if phase.steps)

    @property
    def average_decay(self) -> float:
        """`method.ema`."""
        return self.method.ema

    @property
    def masks_from(self) -> MaskSource:
        """What `pseudo-label` draws masks from unless told: the segmentation branch, if any step has trained it."""
        return "segmentation" if self.joint_steps else "evidence"

    def replace(self, **changes: Any) -> Self:
        """A copy with other values; another profile brings its own method unless that is given too.

        The class distance belongs to the network's attention, not to a profile, and stays.
        """
        if "profile" in changes and "method" not in changes:
            method, kept = MethodConfig.of(changes["profile"]), self.method.class_distance
            changes["method"] = dataclasses.replace(method, class_distance=kept)
        return super().replace(**changes)


@dataclass(frozen=True, kw_only=True)
class RetrainConfig(RunConfig):
    """The second step: a supervised run on masks. `RetrainConfig.preset(name, data=..., masks=...)` makes one."""

    kind: ClassVar[str] = "retrain"

    masks: str = path_field("", moves=True)
    """Folder of training masks NAME.png, as pseudo-label writes them: labels of the classes.txt in it, and 255."""
    own_masks: bool = False
    """Train on the data set's own masks instead: what full supervision reaches."""
    architecture: str = "deeplab-v2"
    """deeplab-v2 (any timm --backbone), largefov-vgg16, or smp:NAME of segmentation-models-pytorch."""
    supervised_steps: int = setting(800, within=f"[1, {MAX_STEPS}]")
    """Training steps."""
    loss: SegmentationLoss = "plain"
    """As `--method.loss` of train."""
    ema: float = setting(0.0, within="[0, 1)")
    """Decay of a running average of the weights that becomes the model; 0 switches it off."""

    @property
    def phases(self) -> tuple[Phase, ...]:
        """One phase."""
        lr = self._followed(self.optim.lr, "batch_size")
        return (Phase("supervised", self.supervised_steps, self.batch_size, lr),)

    @property
    def average_decay(self) -> float:
        """`ema`."""
        return self.ema


_KINDS: dict[str, type[RunConfig]] = {"train": TrainConfig, "retrain": RetrainConfig}


def parse_config(text: str) -> RunConfig:
    """The config that `RunConfig.to_json` wrote.

    Raises:
        ValueError: not JSON, an unknown kind, or unknown or ill-typed keys, by name.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:  # not JSON, nested too deeply, or a number without end
        raise ValueError(f"The config is not JSON: {error}. Write it again with `RunConfig.to_json`") from error
    kind = values.pop("kind", "train") if isinstance(values, dict) else "train"
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(f"config.kind must be one of {', '.join(_KINDS)}, got {kind!r}")
    return from_dict(_KINDS[kind], values, "config")
