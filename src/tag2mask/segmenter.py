"""A trained network that turns pictures into masks. Evaluation, pseudo labels and explanation all go through it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeAlias, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from tag2mask import render
from tag2mask.config import CRFParams, MethodConfig, RunConfig, TrainConfig
from tag2mask.models.base import SegmentationNetwork
from tag2mask.models.network import Network
from tag2mask.runs import load_model
from tag2mask.score_maps import ScoreMaps, refine
from tag2mask.sources import Source, as_rgb

CRFChoice: TypeAlias = bool | CRFParams | Literal["inference", "aaai_inference"] | None


def resolve_crf(crf: CRFChoice) -> CRFParams | None:
    """The CRF that `crf` stands for: None or False for none, True for `CRFParams.inference()`, or a preset's name."""
    if crf is None or crf is False:
        return None
    if crf is True:
        return CRFParams.inference()
    if isinstance(crf, CRFParams):
        return crf
    presets = {"inference": CRFParams.inference, "aaai_inference": CRFParams.aaai_inference}
    if crf not in presets:
        raise ValueError(f"crf must be None, True, CRFParams or one of {', '.join(presets)}, got {crf!r}")
    return presets[crf]()


def resolve_device(device: str) -> torch.device:
    """The device that `device` stands for: `auto` takes cuda, else mps, else cpu.

    Raises:
        ValueError: the device is not there.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"Device {device!r} is not available here ({error}); use auto or cpu.") from error
    return torch.device(device)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the network says about one picture, at the picture's size (after EXIF rotation)."""

    rgb: NDArray[np.uint8]
    """The picture, uint8 [H, W, 3]."""
    mask: NDArray[np.uint8]
    """Labels uint8 [H, W] in {0..C}; class i of `classes` is i + 1."""
    tag_scores: dict[str, float]
    """Probability of the tag classifier per class name."""
    classes: tuple[str, ...]
    compute_probs: Callable[[], NDArray[np.float32]]
    """Gives `probs`; a big picture's probabilities are computed only when asked for."""

    @cached_property
    def probs(self) -> NDArray[np.float32]:
        """float32 [K, H, W], background first, sums to 1 over K."""
        return self.compute_probs()

    def overlay(self) -> Image.Image:
        """The picture with its objects tinted and a legend below."""
        return render.overlay(self.rgb, self.mask, self.classes, self.tag_scores)


class Segmenter:
    """A network ready to predict; `Segmenter.load(run)` is the usual way to get one."""

    def __init__(
        self, model: SegmentationNetwork, config: RunConfig, *, device: str | None = None, selection: str = "last step"
    ) -> None:
        """Wrap a network, moved to `device` if that is given.

        Args:
            model: Network of `config`.
            config: Its settings; `image_size` sets the size at which pictures enter the network.
            device: auto, cpu, cuda, mps, or None to leave the model where it is.
            selection: Which weights these are, for the evaluation protocol.
        """
        if device is not None:
            model = model.to(resolve_device(device))
        self.model, self.config, self.selection = model, config, selection

    @classmethod
    def load(cls, source: str | Path, device: str = "auto") -> Segmenter:
        """The segmenter of a run folder or of a `.safetensors` file.

        Raises:
            ValueError: what `source` names is not of these kinds, or the device is not there.
            FileNotFoundError: there is nothing of that name, or the run has no model yet.
        """
        text = str(source)
        if text.startswith("hf://"):
            raise ValueError(f"{text}: models of the hub cannot be loaded by this version; download the run folder.")
        path = Path(source)
        if path.suffix.lower() == ".onnx":
            raise ValueError(f"{path}: ONNX files cannot be loaded by this version; give the run or its .safetensors.")
        model, config, metadata = load_model(path)
        return cls(model, config, device=device, selection=metadata.get("selection", "last step"))

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; class i has label i + 1."""
        return tuple(self.model.classes)

    def first_step(self) -> tuple[Network, MethodConfig]:
        """The network with its tag branch, and the rules that it was trained by: what class activation maps need.

        Raises:
            ValueError: a network of the second step, which has neither.
        """
        if not isinstance(self.model, Network) or not isinstance(self.config, TrainConfig):
            raise ValueError(
                "This is a network of the second step, which has no class activation maps and no reliable labels; "
                "give the run of `tag2mask train` whose masks it learned from."
            )
        return self.model, self.config.method

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.model.parameters()).device

    def network_size(self, size: tuple[int, int], scale: float = 1.0) -> tuple[int, int]:
        """Size (h, w) at which a picture of `size` (H, W) enters the network.

        The longer side becomes `config.image_size` (None keeps it) times `scale`; both sides are rounded to multiples
        of the stride, so that the feature map covers the picture exactly.
        """
        longer = max(size) if self.config.image_size is None else self.config.image_size
        factor, stride = scale * longer / max(size), self.model.stride
        h, w = (max(stride, round(side * factor / stride) * stride) for side in size)
        return h, w

    def resized(self, rgb: NDArray[np.uint8], scale: float = 1.0) -> Tensor:
        """The picture [H, W, 3] as it enters the network: uint8 [3, h, w] on the network's device."""
        picture = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)
        size = self.network_size((rgb.shape[0], rgb.shape[1]), scale)
        small: Tensor = resize(picture, list(size), antialias=True)
        return small.to(self.device)

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Evaluation mode without gradients; the network's mode is put back afterwards."""
        training = self.model.training
        self.model.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            self.model.train(training)

    def score_maps(
        self,
        pictures: Sequence[NDArray[np.uint8]],
        *,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        allowed: Sequence[Tensor | None] | None = None,
    ) -> list[tuple[ScoreMaps, Tensor]]:
        """Score maps and tag probabilities [C] of pictures; the one way into the network for everything.

        Args:
            pictures: uint8 [H, W, 3] each; those of one network size share a batch.
            scales: Factors on the network size; their probabilities are averaged, and the tag probabilities too.
            flip: Average with the mirrored picture.
            allowed: Per picture a bool [K] of labels that may occur, or None for all.

        Raises:
            ValueError: a scale is not positive.
        """
        check_scales(scales)
        logits: list[list[Tensor]] = [[] for _ in pictures]
        tags: list[list[Tensor]] = [[] for _ in pictures]
        with self.inference():
            for scale in scales:
                resized = [self.resized(rgb, scale) for rgb in pictures]
                for members in _by_shape(resized):
                    batch = torch.stack([resized[i] for i in members])
                    for mirrored in (False, True) if flip else (False,):
                        images = self.model.normalize(batch.flip(-1) if mirrored else batch)
                        outputs = self.model(images)
                        maps = outputs.seg_logits.flip(-1) if mirrored else outputs.seg_logits
                        for i, each, tag in zip(members, maps.float().cpu(), outputs.tag_logits, strict=True):
                            logits[i].append(each)
                            tags[i].append(tag.float().sigmoid().cpu())
        return [
            (
                ScoreMaps(
                    logits=tuple(logits[i]),
                    size=(rgb.shape[0], rgb.shape[1]),
                    allowed=None if allowed is None else allowed[i],
                ),
                torch.stack(tags[i]).mean(0),
            )
            for i, rgb in enumerate(pictures)
        ]

    def allowed_labels(self, tags: Sequence[str]) -> Tensor:
        """Labels that may occur, bool [K]: background and the named classes.

        Raises:
            ValueError: a name is not a class of this model.
        """
        if unknown := [name for name in tags if name not in self.classes]:
            raise ValueError(f"tags names {', '.join(map(repr, unknown))}; this model knows {', '.join(self.classes)}.")
        return torch.tensor([True, *(name in tags for name in self.classes)])

    @overload
    def predict(
        self,
        source: Source,
        *,
        crf: CRFChoice = None,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        tags: Sequence[str] | Sequence[Sequence[str]] | None = None,
        batch_size: int = 1,
    ) -> Prediction: ...
    @overload
    def predict(
        self,
        source: list[Source] | tuple[Source, ...],
        *,
        crf: CRFChoice = None,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        tags: Sequence[str] | Sequence[Sequence[str]] | None = None,
        batch_size: int = 1,
    ) -> list[Prediction]: ...
    def predict(
        self,
        source: Source | list[Source] | tuple[Source, ...],
        *,
        crf: CRFChoice = None,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        tags: Sequence[str] | Sequence[Sequence[str]] | None = None,
        batch_size: int = 1,
    ) -> Prediction | list[Prediction]:
        """Masks of pictures.

        Args:
            source: A path, a PIL image, or an array uint8 [H, W, 3] or [H, W]; or a list of these.
            crf: None for none; True, a preset's name or `CRFParams` to refine the probabilities at the picture's size.
            scales: Factors on the network's picture size whose probabilities are averaged.
            flip: Average with the mirrored picture.
            tags: Names of the classes known to be in the picture: all others get probability 0. For a list of
                pictures either one list of names for all, or one per picture.
            batch_size: Pictures that pass the network together.

        Returns:
            One `Prediction`, or a list for a list.

        Raises:
            ValueError: an unusable array, an unknown tag, or a file that is no picture.
        """
        if isinstance(source, (list, tuple)):
            return self._predict_list(source, resolve_crf(crf), scales, flip, tags, batch_size)
        return self._predict_list([source], resolve_crf(crf), scales, flip, tags, 1)[0]

    def _predict_list(
        self,
        sources: Sequence[Source],
        crf: CRFParams | None,
        scales: Sequence[float],
        flip: bool,
        tags: Sequence[str] | Sequence[Sequence[str]] | None,
        batch_size: int,
    ) -> list[Prediction]:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        per_picture = _tags_per_picture(tags, len(sources))
        allowed = [None if names is None else self.allowed_labels(names) for names in per_picture]
        predictions: list[Prediction] = []
        for start in range(0, len(sources), batch_size):
            pictures = [as_rgb(source) for source in sources[start : start + batch_size]]
            maps = self.score_maps(pictures, scales=scales, flip=flip, allowed=allowed[start : start + batch_size])
            for rgb, (each, scores) in zip(pictures, maps, strict=True):
                predictions.append(self._prediction(rgb, each, scores, crf))
        return predictions

    def _prediction(self, rgb: NDArray[np.uint8], maps: ScoreMaps, tags: Tensor, crf: CRFParams | None) -> Prediction:
        scores = {name: float(score) for name, score in zip(self.classes, tags, strict=True)}
        if crf is None:
            mask = maps.labels().numpy()
            return Prediction(
                rgb=rgb, mask=mask, tag_scores=scores, classes=self.classes, compute_probs=lambda: maps.probs().numpy()
            )
        probs = refine(rgb, maps, crf)
        mask = probs.argmax(0).to(torch.uint8).numpy()
        return Prediction(
            rgb=rgb, mask=mask, tag_scores=scores, classes=self.classes, compute_probs=lambda: probs.numpy()
        )


def check_scales(scales: Sequence[float]) -> None:
    """Refuse scales that are none, or not positive."""
    if not scales or min(scales) <= 0:
        raise ValueError(f"scales must hold at least one positive number, got {tuple(scales)}")


def _by_shape(tensors: Sequence[Tensor]) -> list[list[int]]:
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, tensor in enumerate(tensors):
        groups.setdefault(tuple(tensor.shape), []).append(i)
    return list(groups.values())


def _tags_per_picture(tags: Sequence[str] | Sequence[Sequence[str]] | None, count: int) -> list[Sequence[str] | None]:
    if tags is None:
        return [None] * count
    if isinstance(tags, str):
        raise ValueError(f"tags is a list of class names, got the text {tags!r}; write [{tags!r}].")
    names = [entry for entry in tags if isinstance(entry, str)]
    if len(names) == len(tags):
        return [names] * count
    if names or len(tags) != count:
        raise ValueError(f"tags must be one list of class names, or one list for each of the {count} pictures.")
    return list(tags)
