"""The numbers of the method, as frozen dataclasses. Imports no torch.

A field's docstring is its help text on the command line. Sources: [P] the AAAI 2020 paper,
[C] the published code, [M] measured here (docs/results.md).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from tag2mask.config.fields import Settings, require, setting, unread_by_tags

Profile = Literal["official", "paper", "clean"]
SegmentationLoss = Literal["balanced", "plain", "dice"]


@dataclass(frozen=True)
class CRFParams(Settings):
    """Parameters of the dense CRF (Krähenbühl & Koltun 2011) with Potts compatibility."""

    PREFIX: ClassVar[str] = "CRFParams."

    gaussian_sxy: float = setting(3.0, within="(0, inf)")
    """Width of the smoothness kernel, in pixels."""
    gaussian_compat: float = 3.0
    """Weight of the smoothness kernel."""
    bilateral_sxy: float = setting(80.0, within="(0, inf)")
    """Spatial width of the appearance kernel, in pixels."""
    bilateral_srgb: float = setting(13.0, within="(0, inf)")
    """Color width of the appearance kernel, in levels of 0-255."""
    bilateral_compat: float = 10.0
    """Weight of the appearance kernel."""
    iterations: int = setting(10, within="[0, inf)")
    """Mean-field steps; there is no early stop."""

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
class ReliableConfig(Settings):
    """Which pixels may teach the segmentation."""

    PREFIX: ClassVar[str] = "--method.reliable."

    foreground_power: float = 4.0
    """Exponent of the background score (1 - max CAM)^a in the CRF vote for objects; lower gives more background [C]."""
    background_power: float = 32.0
    """Exponent in the CRF vote for background; must not be lower than --foreground-power [C]."""
    votes: Literal["two", "one"] = "two"
    """`two`: one CRF per exponent; where they disagree is ignored [C]. `one`: only --foreground-power [P eq. 5]."""
    cam_power: float = 32.0
    """Exponent of the background score in the CAM's own argmax (32 [C])."""
    keep: float = setting(0.4, within="(0, 1]")
    """Share of each class's CAM pixels that is trusted, highest first, in (0, 1] [P, C]."""
    min_cam: float = setting(0.1, within="[0, 1]")
    """CAM below this is never trusted as an object [C]."""
    min_background: float = setting(0.8, within="[0, 1]")
    """Background score that the CAM must exceed to be trusted as background [C]."""
    min_crf: float = setting(0.8, within="[0, 1]")
    """CRF posterior below this is ignored [C]; 0 switches the test off [P]."""
    agreement: Literal["union", "equal"] = "union"
    """`union`: where any class's CAM is trusted [C]. `equal`: where CAM and CRF name the same class [P eq. 7]."""
    unseeded: Literal["background", "ignore"] = "background"
    """A tagged picture of which no pixel got one of its tags teaches its `background` as published [C], or nothing:
    `ignore`. An empty CAM would teach that there is nothing, with all its pixels."""
    crf: CRFParams = field(default_factory=CRFParams.mining)
    """Dense CRF of the votes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.background_power >= self.foreground_power > 0,
            "--method.reliable.background-power must be at least --method.reliable.foreground-power, which must be "
            f"greater than 0; got {self.background_power} and {self.foreground_power}",
        )

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
        """The default: the published votes, with CAM and CRF naming the same class; unseeded pictures teach nothing."""
        return cls(agreement="equal", unseeded="ignore")


@dataclass(frozen=True, kw_only=True)
class EnergyConfig(Settings):
    """The dense energy loss (paper, joint loss)."""

    PREFIX: ClassVar[str] = "--method.energy."

    weight: float = setting(1e-7, within="[0, inf)")
    """Weight of the loss, which sums over pixels; 1e-7 belongs to crops of 321 at half size [C]. 0 switches it off."""
    sigma_rgb: float = setting(15.0, within="(0, inf)")
    """Color width, in levels of 0-255."""
    sigma_xy: float = setting(100.0, within="(0, inf)")
    """Spatial width, in pixels of the crop before --scale."""
    scale: float = setting(0.5, within="(0, inf)")
    """Size at which the energy is evaluated, relative to the crop."""
    gate: bool = True
    """The gate S that spares pixels which the reliable labels teach [P]; False is S = 1, the plain dense-CRF loss."""
    gradient: Literal["surrogate", "exact"] = "surrogate"
    """`surrogate`: -2 S A as published; `exact`: the derivative with the gate S held fixed."""


@dataclass(frozen=True, kw_only=True)
class MethodConfig(Settings):
    """The rules of one training step."""

    PREFIX: ClassVar[str] = "--method."
    REMOVED: ClassVar[dict[str, Any]] = {"cam_flip": False}
    """Keys of older versions, and the value that still means the same."""

    cam_scales: tuple[float, ...] = unread_by_tags((1.0, 0.5, 1.5, 2.0))
    """Scales of the class activation maps; 1.0 comes first and alone carries gradient (to the tag loss) [P, C]."""
    cam_mode: Literal["train", "eval"] = unread_by_tags("eval")
    """Dropout in the CAM passes: `train` leaves it on as published, `eval` switches it off."""
    cam_precision: Literal["auto", "same"] = unread_by_tags("auto")
    """`auto` draws CAMs in bf16 on CPUs with such instructions; `same` as --precision says."""
    ema: float = setting(0.99, within="[0, 1)")
    """Decay of a running average of the weights that draws the CAMs and becomes the model; 0 switches it off [C]."""
    teacher: float = setting(0.8, within="[0, 1]", tag_phase=0.0)
    """Share of the running average's own segmentation, given the tags, in the maps that become labels; it rises
    from 0 to this between a quarter and half of the joint phase, and with it the share of pixels that are labeled rises
    to all (not in the paper). Needs --method.ema; 0 switches it off. With it a joint phase far longer than the 300
    steps of `small` gains nothing [M]."""
    teacher_power: float = unread_by_tags(1.5, within="(0, inf)")
    """Exponent of the background score once the teacher has its whole share: its maps need no sharpening."""
    pool_valid: bool = True
    """Average-pool the features over real pixels only; the published code pools the padding too."""
    reliable: ReliableConfig = unread_by_tags(ReliableConfig.clean())
    """Which pixels may teach the segmentation."""
    loss: SegmentationLoss = unread_by_tags("balanced")
    """Loss of the segmentation: `balanced`, cross entropy of background plus that of objects [P, C]; `plain`, that of
    all labeled pixels; `dice`, `plain` plus a Dice loss in which an object of a thousandth of the picture counts."""
    energy: EnergyConfig = unread_by_tags(EnergyConfig())
    """Dense energy loss."""
    class_distance: float = unread_by_tags(0.0, within="[0, inf)")
    """Weight of the batch-based class distance of the 2022 extension (1 there); 0 switches it off [C]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            len(self.cam_scales) > 0 and self.cam_scales[0] == 1.0 and min(self.cam_scales) > 0,
            f"--method.cam-scales must start with 1.0 and be positive, got {self.cam_scales}",
        )
        require(
            self.teacher == 0 or self.ema > 0,
            "--method.teacher needs a running average: set --method.ema, as 0.99, or --method.teacher 0",
        )

    @classmethod
    def of(cls, profile: Profile) -> MethodConfig:
        """The rules of a profile: `official` published code, `paper` equations, `clean` the best of both."""
        published = cls(cam_mode="train", cam_precision="same", ema=0.0, teacher=0.0, pool_valid=False)
        if profile == "official":
            return dataclasses.replace(published, reliable=ReliableConfig.official())
        if profile == "paper":
            return dataclasses.replace(published, reliable=ReliableConfig.paper())
        if profile == "clean":
            return cls()
        raise ValueError(f"--profile must be official, paper or clean, got {profile!r}")
