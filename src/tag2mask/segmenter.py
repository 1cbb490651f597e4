"""A trained network that turns pictures into masks. Evaluation, pseudo labels and explanation all go through it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from tag2mask import hub, prediction
from tag2mask.config import CRFParams, MethodConfig, RunConfig, TrainConfig
from tag2mask.models.base import SegmentationNetwork
from tag2mask.models.network import Network
from tag2mask.prediction import CRFChoice, Prediction, check_scales, check_tags, resolve_crf
from tag2mask.runs import load_model
from tag2mask.score_maps import ScoreMaps, refine

__all__ = ["CRFChoice", "Prediction", "Segmenter", "check_scales", "resolve_crf", "resolve_device"]


def resolve_device(device: str) -> torch.device:
    """The device that `device` stands for: `auto` takes cuda, else mps, else cpu.

    Of several processes on a machine (LOCAL_RANK, as torchrun sets it) each takes a GPU of its own.

    Raises:
        ValueError: the device is not there.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    place = os.environ.get("LOCAL_RANK", "")
    if device == "cuda" and place.isdecimal() and torch.cuda.is_available():
        device = f"cuda:{int(place) % torch.cuda.device_count()}"
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"Device {device!r} is not available here ({error}); use auto or cpu.") from error
    return torch.device(device)


class Segmenter(prediction.Segmenter):
    """A network of torch ready to predict; `Segmenter.load(run)` is the usual way to get one."""

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
        """The segmenter of a run folder, a `.safetensors` file or a model of the hub ("hf://owner/name").

        Raises:
            ValueError: what `source` names is not of these kinds, or the device is not there.
            FileNotFoundError: there is nothing of that name, or the run has no model yet.
        """
        path = hub.download(str(source)) if str(source).startswith("hf://") else Path(source)
        if path.suffix.lower() == ".onnx":
            raise ValueError(
                f"{path}: an ONNX file can only predict (`tag2mask predict`, `tag2mask.Segmenter.load`); this "
                "needs the network itself: give the run or its .safetensors."
            )
        model, config, metadata = load_model(path)
        return cls(model, config, device=device, selection=metadata.get("selection", "last step"))

    @classmethod
    def from_pretrained(cls, source: str | Path, device: str = "auto") -> Segmenter:
        """`load` under the name that the Hugging Face hub's libraries use: a folder, or "hf://owner/name"."""
        return cls.load(source, device=device)

    def save_pretrained(self, folder: str | Path, *, evaluation: Mapping[str, Any] | None = None) -> Path:
        """Write a folder that is ready for the hub; see `tag2mask.hub.save`."""
        return hub.save(Path(folder), self.model, self.config, selection=self.selection, evaluation=evaluation)

    def push_to_hub(
        self, repo_id: str, *, private: bool | None = None, evaluation: Mapping[str, Any] | None = None
    ) -> str:
        """Upload to the hub what `save_pretrained` writes.

        Args:
            repo_id: "owner/name" (also "hf://owner/name"); made if it is not there yet.
            private: Who may see a new repository; None is the owner's default.
            evaluation: Scores for the model card, as in evaluation.json.

        Returns:
            The address of the upload.

        Raises:
            ValueError: no such name, or the upload failed.
        """
        return hub.push(repo_id, lambda folder: self.save_pretrained(folder, evaluation=evaluation), private=private)

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

    def class_activation_maps(self, rgb: NDArray[np.uint8], names: Sequence[str]) -> NDArray[np.float32] | None:
        """As `tag2mask.prediction.Segmenter.class_activation_maps`, at the scales of the run's training."""
        if not isinstance(self.model, Network):
            return None
        from tag2mask.label_quality import picture_cams, tag_vector

        cams = picture_cams(self, rgb, tag_vector(self, names))[0][0]
        return np.asarray(cams[[self.classes.index(name) for name in names]].cpu().numpy(), dtype=np.float32)

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
        check_tags(tags, self.classes)
        return torch.tensor([True, *(name in tags for name in self.classes)])

    def _predict_batch(
        self,
        pictures: Sequence[NDArray[np.uint8]],
        tags: Sequence[Sequence[str] | None],
        crf: CRFParams | None,
        scales: Sequence[float],
        flip: bool,
    ) -> list[Prediction]:
        allowed = [None if names is None else self.allowed_labels(names) for names in tags]
        maps = self.score_maps(pictures, scales=scales, flip=flip, allowed=allowed)
        return [self._prediction(rgb, each, scores, crf) for rgb, (each, scores) in zip(pictures, maps, strict=True)]

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


def _by_shape(tensors: Sequence[Tensor]) -> list[list[int]]:
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, tensor in enumerate(tensors):
        groups.setdefault(tuple(tensor.shape), []).append(i)
    return list(groups.values())
