"""The numbers of the method, as frozen dataclasses. Imports no torch.

A field's docstring is its help text on the command line. Sources: [P] the AAAI 2020 paper,
[C] the published code, [M] measured here (docs/results.md).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from tag2mask.config.fields import setting, unread_by_tags

Profile = Literal["official", "paper", "clean"]


def require(ok: bool, message: str) -> None:
    """Refuse a setting."""
    if not ok:
        raise ValueError(message)


def require_finite(config: Any, prefix: str = "--") -> None:
    """Refuse NaN and infinities in the fields of a dataclass, also in those of its dataclasses and tuples."""
    for each in dataclasses.fields(config):
        value, name = getattr(config, each.name), prefix + each.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            require_finite(value, f"{name}.")
        numbers = [n for n in (value if isinstance(value, tuple) else (value,)) if isinstance(n, float)]
        require(all(map(math.isfinite, numbers)), f"{name} must be a finite number, got {value}")


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
            require(value > 0 and math.isfinite(value), f"CRFParams.{name} must be greater than 0, got {value}")
        for name in ("gaussian_compat", "bilateral_compat"):
            value = getattr(self, name)
            require(math.isfinite(value), f"CRFParams.{name} must be a finite number, got {value}")
        require(self.iterations >= 0, f"CRFParams.iterations must be 0 or more, got {self.iterations}")

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
        require(0 < self.keep <= 1, f"--method.reliable.keep must lie in (0, 1], got {self.keep}")
        require(
            self.background_power >= self.foreground_power > 0,
            "--method.reliable.background-power must be at least --method.reliable.foreground-power, which must be "
            f"greater than 0; got {self.background_power} and {self.foreground_power}",
        )
        for name in ("min_cam", "min_background", "min_crf"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"--method.reliable.{name.replace('_', '-')} must lie in [0, 1], got {value}")

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
    gate: bool = True
    """The gate S that spares pixels which the reliable labels teach [P]; False is S = 1, the plain dense-CRF loss."""
    gradient: Literal["surrogate", "exact"] = "surrogate"
    """`surrogate`: -2 S A as published; `exact`: the derivative with the gate S held fixed."""

    def __post_init__(self) -> None:
        for name in ("sigma_rgb", "sigma_xy", "scale"):
            value = getattr(self, name)
            require(value > 0, f"--method.energy.{name.replace('_', '-')} must be greater than 0, got {value}")
        require(self.weight >= 0, f"--method.energy.weight must be 0 or more, got {self.weight}")


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """The rules of one training step."""

    REMOVED: ClassVar[dict[str, Any]] = {"cam_flip": False}
    """Keys of older versions, and the value that still means the same."""

    cam_scales: tuple[float, ...] = unread_by_tags((1.0, 0.5, 1.5, 2.0))
    """Scales of the class activation maps; 1.0 comes first and alone carries gradient (to the tag loss) [P, C]."""
    cam_mode: Literal["train", "eval"] = unread_by_tags("eval")
    """Dropout in the CAM passes: `train` leaves it on as published, `eval` switches it off."""
    cam_precision: Literal["auto", "same"] = unread_by_tags("auto")
    """`auto` draws CAMs in bf16 on CPUs with such instructions; `same` as --precision says."""
    ema: float = 0.99
    """Decay of a running average of the weights that draws the CAMs and becomes the model; 0 switches it off [C]."""
    teacher: float = setting(0.8, tag_phase=0.0)
    """Share of the running average's own segmentation, given the tags, in the maps that become labels; it rises
    from 0 to this between a quarter and half of the joint phase, and with it the share of pixels that are labeled rises
    to all (not in the paper). Needs --method.ema; 0 switches it off. With it a joint phase far longer than the 300
    steps of `small` gains nothing [M]."""
    teacher_power: float = unread_by_tags(1.5)
    """Exponent of the background score once the teacher has its whole share: its maps need no sharpening."""
    pool_valid: bool = True
    """Average-pool the features over real pixels only; the published code pools the padding too."""
    reliable: ReliableConfig = unread_by_tags(factory=ReliableConfig.clean)
    """Which pixels may teach the segmentation."""
    energy: EnergyConfig = unread_by_tags(factory=EnergyConfig)
    """Dense energy loss."""
    class_distance: float = unread_by_tags(0.0)
    """Weight of the batch-based class distance of the 2022 extension (1 there); 0 switches it off [C]."""

    def __post_init__(self) -> None:
        require(self.class_distance >= 0, f"--method.class-distance must be 0 or more, got {self.class_distance}")
        require(
            len(self.cam_scales) > 0 and self.cam_scales[0] == 1.0 and min(self.cam_scales) > 0,
            f"--method.cam-scales must start with 1.0 and be positive, got {self.cam_scales}",
        )
        require(0 <= self.ema < 1, f"--method.ema must lie in [0, 1), got {self.ema}")
        require(0 <= self.teacher <= 1, f"--method.teacher must lie in [0, 1], got {self.teacher}")
        require(self.teacher_power > 0, f"--method.teacher-power must be greater than 0, got {self.teacher_power}")
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
