"""What every segmenter shares: results, options, and `tag2mask.Segmenter`, which loads the right one. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tag2mask.base.spelling import class_name
from tag2mask.base.values import Value, equal
from tag2mask.config import MAX_PIXELS, CRFParams
from tag2mask.data.findings import Finding
from tag2mask.inference.sources import Source, as_rgb
from tag2mask.inference.tiles import Part, check_limits
from tag2mask.outputs import render

CRFChoice: TypeAlias = bool | CRFParams | Literal["inference", "aaai_inference"] | None


BROKEN_SCORES = (
    "The model's scores of this picture are not finite (NaN or infinite): its weights are damaged. Get the model anew, "
    "or train again with a lower --optim.lr."
)


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


def check_scales(scales: Sequence[float]) -> None:
    """Refuse scales that are none, or not positive."""
    if not scales or not all(0 < scale < float("inf") for scale in scales):
        raise ValueError(f"scales must hold at least one positive number, got {tuple(scales)}")


def check_tags(tags: Sequence[str], classes: Sequence[str]) -> None:
    """Refuse names that are no class of the model."""
    if unknown := [name for name in tags if name not in classes]:
        raise ValueError(f"tags names {', '.join(map(repr, unknown))}; this model knows {', '.join(classes)}.")


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction(Value):
    """What the network says about one picture, at the picture's size (after EXIF rotation).

    Two are equal when picture, mask, scores, classes and probabilities are. Pickled, as to another process, it takes
    its probabilities along: 4 K H W bytes, computed if need be.
    """

    rgb: NDArray[np.uint8]
    """The picture, uint8 [H, W, 3]."""
    mask: NDArray[np.uint8]
    """Labels uint8 [H, W] in {0..C}; class i of `classes` is i + 1."""
    tag_scores: dict[str, float]
    """Probability of the tag classifier per class name."""
    classes: tuple[str, ...]
    compute_probs: Callable[[], NDArray[np.float32]] = field(compare=False)
    """Gives `probs`; a big picture's probabilities are computed only when asked for."""
    compute_parts: Callable[[], Iterator[Part]] | None = field(default=None, compare=False)
    """Gives `parts`; None makes one part of `probs`."""

    @cached_property
    def probs(self) -> NDArray[np.float32]:
        """float32 [K, H, W], background first, sums to 1 over K.

        Computed when first asked for, with a CRF only above `tiling.LARGE` pixels; then kept: 4 K H W bytes.
        """
        return self.compute_probs()

    def parts(self) -> Iterator[Part]:
        """`probs` piece by piece as (rows, columns, float32 [K, rows, columns]), for which little memory is enough."""
        if self.compute_parts is None or "probs" in self.__dict__:
            height, width = self.mask.shape
            return iter([(slice(0, height), slice(0, width), self.probs)])
        return self.compute_parts()

    def __eq__(self, other: object) -> bool:
        same = super().__eq__(other)  # without the probabilities, which may have to be computed
        return same if same is not True or self is other else equal(self.probs, getattr(other, "probs", None))

    __hash__ = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (self.rgb, self.mask, self.tag_scores, self.classes, self.probs)

    def overlay(self) -> Image.Image:
        """The picture with its objects tinted and a legend below."""
        return render.overlay(self.rgb, self.mask, self.classes, self.tag_scores)


def _unpickled(
    rgb: NDArray[np.uint8],
    mask: NDArray[np.uint8],
    tag_scores: dict[str, float],
    classes: tuple[str, ...],
    probs: NDArray[np.float32],
) -> Prediction:
    return Prediction(rgb=rgb, mask=mask, tag_scores=tag_scores, classes=classes, compute_probs=lambda: probs)


class Segmenter:
    """A model ready to predict; `Segmenter.load(source)` gives the right kind.

    A run or a `.safetensors` file gives the network itself on torch (`torch_backend.Segmenter`), a `.onnx` file a
    program on onnxruntime (`onnx_backend.OnnxSegmenter`), for which torch is never imported.
    """

    classes: Any
    """tuple[str, ...]: class names; class i has label i + 1."""
    selection: str
    """Which weights these are, for the evaluation protocol."""
    findings: tuple[Finding, ...] = ()
    """What is to be said of the model wherever it is used."""

    def __new__(cls, *arguments: Any, **options: Any) -> Self:
        """`Segmenter(model, config)` wraps a network of torch."""
        if cls is Segmenter:
            from tag2mask.inference.torch_backend import Segmenter as TorchSegmenter

            return object.__new__(TorchSegmenter)  # type: ignore[return-value]  # a subclass
        return object.__new__(cls)

    @classmethod
    def load(cls, source: str | Path, device: str = "auto") -> Segmenter:
        """The segmenter of a run folder, a `.safetensors` or `.onnx` file, or a model of the hub.

        Args:
            source: Path, or "hf://owner/name" (also "hf://owner/name@revision"), which is downloaded and cached.
            device: auto (cuda, mps, cpu), cpu, cuda, mps; ONNX models know cpu and cuda.

        Raises:
            ValueError: what `source` names is not of these kinds, or the device is not there.
            FileNotFoundError: there is nothing of that name, or the run has no model yet.
        """
        if Path(source).suffix.lower() == ".onnx" and not str(source).startswith("hf://"):
            from tag2mask.inference.onnx_backend import OnnxSegmenter

            return OnnxSegmenter(source, device=device)
        from tag2mask.inference.torch_backend import Segmenter as TorchSegmenter

        return TorchSegmenter.load(source, device=device)

    def class_activation_maps(self, rgb: NDArray[np.uint8], names: Sequence[str]) -> NDArray[np.float32] | None:
        """The maps of some classes, float32 [len(names), h, w] in 0..1 at the network's size; None without tags.

        Args:
            rgb: uint8 [H, W, 3].
            names: Classes; the maps are drawn as if these were the picture's tags.
        """
        return None

    @classmethod
    def from_pretrained(cls, source: str | Path, device: str = "auto") -> Segmenter:
        """`load` under the name that the Hugging Face hub's libraries use: a folder, or "hf://owner/name"."""
        return cls.load(source, device=device)

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
        tile: int | None = None,
        max_pixels: int = MAX_PIXELS,
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
        tile: int | None = None,
        max_pixels: int = MAX_PIXELS,
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
        tile: int | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> Prediction | list[Prediction]:
        """Masks of pictures.

        Args:
            source: A path, a PIL image, or an array uint8 [H, W, 3] or [H, W]; or a list of these.
            crf: None for none; True, a preset's name or `CRFParams` to refine the probabilities at the picture's size.
            scales: Factors on the network's picture size whose probabilities are averaged.
            flip: Average with the mirrored picture.
            tags: Names of the classes known to be in the picture: all others get probability 0, and these share what
                the network gives to objects. For a list of pictures either one list of names for all, or one per
                picture.
            batch_size: Pictures that pass the network together.
            tile: Side in pixels of overlapping tiles, each of which is seen as a picture of its size would be; their
                maps are blended. A picture that fits into one is not cut. None takes tiles of `tiling.TILE` for
                pictures above `tiling.LARGE` pixels, and only where the run keeps their size (`image_size` None).
            max_pixels: Larger files and PIL images are refused.

        Returns:
            One `Prediction`, or a list for a list.

        Raises:
            ValueError: an unusable array, an unknown tag, or a file that is no picture; `data.PictureTooLarge` for one
                above `max_pixels`.
        """
        many = isinstance(source, (list, tuple))
        sources: Sequence[Source] = source if isinstance(source, (list, tuple)) else [source]
        params = resolve_crf(crf)
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        check_scales(scales)
        check_limits(tile, max_pixels)
        names = _tags_per_picture(tags, len(sources))
        for each in names:
            check_tags(each or (), self.classes)
        predictions: list[Prediction] = []
        for start in range(0, len(sources), batch_size):
            batch = slice(start, start + batch_size)
            pictures = [as_rgb(each, max_pixels) for each in sources[batch]]
            predictions += self._predict_batch(pictures, names[batch], params, scales, flip, tile)
        return predictions if many else predictions[0]

    def _predict_batch(
        self,
        pictures: Sequence[NDArray[np.uint8]],
        tags: Sequence[Sequence[str] | None],
        crf: CRFParams | None,
        scales: Sequence[float],
        flip: bool,
        tile: int | None,
    ) -> list[Prediction]:
        """Predictions of pictures uint8 [H, W, 3], with the tags known of each or None."""
        raise NotImplementedError


def _tags_per_picture(tags: Sequence[str] | Sequence[Sequence[str]] | None, count: int) -> list[Sequence[str] | None]:
    if tags is None:
        return [None] * count
    if isinstance(tags, str):
        raise ValueError(f"tags is a list of class names, got the text {tags!r}; write [{tags!r}].")
    names = [class_name(entry) for entry in tags if isinstance(entry, str)]
    if len(names) == len(tags):
        return [names] * count
    if names or len(tags) != count:
        raise ValueError(f"tags must be one list of class names, or one list for each of the {count} pictures.")
    return [None if each is None else [class_name(name) for name in each] for each in tags]
