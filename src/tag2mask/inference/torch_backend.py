"""A trained network that turns pictures into masks. Evaluation, pseudo labels and explanation all go through it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from tag2mask.base.arrays import is_large
from tag2mask.base.spelling import class_name
from tag2mask.config import CRFParams, MethodConfig, RunConfig, TrainConfig
from tag2mask.data.findings import Finding, log_findings
from tag2mask.inference import hub
from tag2mask.inference import segmenter as prediction
from tag2mask.inference.score_maps import ScoreMaps, probability_parts, refine
from tag2mask.inference.segmenter import BROKEN_SCORES, CRFChoice, Prediction, check_scales, check_tags, resolve_crf
from tag2mask.inference.tiles import Grid, blended_map, labels_of, tile_side, whole
from tag2mask.models.base import SegmentationNetwork
from tag2mask.models.network import Network
from tag2mask.runs.checkpoints import load_model
from tag2mask.runs.learned import kept_findings

__all__ = ["CRFChoice", "Prediction", "Segmenter", "check_scales", "resolve_crf", "resolve_device"]

_log = logging.getLogger("tag2mask")


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
        self,
        model: SegmentationNetwork,
        config: RunConfig,
        *,
        device: str | None = None,
        selection: str = "last step",
        findings: Sequence[Finding] = (),
    ) -> None:
        """Wrap a network, moved to `device` if that is given.

        Args:
            model: Network of `config`.
            config: Its settings; `image_size` sets the size at which pictures enter the network.
            device: auto, cpu, cuda, mps, or None to leave the model where it is.
            selection: Which weights these are, for the evaluation protocol.
            findings: What is to be said of the model wherever it is used, see `tag2mask.training.learned`.
        """
        if device is not None:
            model = model.to(resolve_device(device))
        self.model, self.config, self.selection, self.findings = model, config, selection, tuple(findings)

    @classmethod
    def load(cls, source: str | Path, device: str = "auto") -> Segmenter:
        """The segmenter of a run folder, a `.safetensors` file or a model of the hub ("hf://owner/name").

        Raises:
            ValueError: what `source` names is not of these kinds, or the device is not there.
            FileNotFoundError: there is nothing of that name, or the run has no model yet.
        """
        need_network(source, "This", "tag2mask predict and tag2mask.Segmenter.load take ONNX files")
        path = hub.download(str(source)) if str(source).startswith("hf://") else Path(source)
        model, config, metadata = load_model(path)
        findings = kept_findings(metadata)
        log_findings(findings, _log)
        return cls(model, config, device=device, selection=metadata.get("selection", "last step"), findings=findings)

    @classmethod
    def from_pretrained(cls, source: str | Path, device: str = "auto") -> Segmenter:
        """`load` under the name that the Hugging Face hub's libraries use: a folder, or "hf://owner/name"."""
        return cls.load(source, device=device)

    def save_pretrained(self, folder: str | Path, *, evaluation: Mapping[str, Any] | None = None) -> Path:
        """Write a folder that is ready for the hub; see `tag2mask.inference.hub.save`."""
        return hub.save(
            Path(folder),
            self.model,
            self.config,
            selection=self.selection,
            evaluation=evaluation,
            findings=self.findings,
        )

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
        """As `tag2mask.inference.segmenter.Segmenter.class_activation_maps`, at the scales of the run's training.

        None too for a picture that only passes the network in tiles, whose maps have no common scale.
        """
        enters_whole = tile_side((rgb.shape[0], rgb.shape[1]), None, self.config.image_size) is None
        if not isinstance(self.model, Network) or not enters_whole:
            return None
        from tag2mask.inference.first_step import picture_cams, tag_vector

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
        tile: int | None = None,
    ) -> list[tuple[ScoreMaps, Tensor]]:
        """Score maps and tag probabilities [C] of pictures; the one way into the network for everything.

        Args:
            pictures: uint8 [H, W, 3] each; those of one network size share a batch.
            scales: Factors on the network size; their probabilities are averaged, and the tag probabilities too.
            flip: Average with the mirrored picture.
            allowed: Per picture a bool [K] of labels that may occur, or None for all.
            tile: Side of tiles in pixels; None cuts large pictures that keep their size (`tiling.tile_side`).

        Raises:
            ValueError: a scale is not positive.
        """
        check_scales(scales)
        logits: list[list[Tensor]] = [[] for _ in pictures]
        tags: list[list[Tensor]] = [[] for _ in pictures]
        sides = [tile_side((rgb.shape[0], rgb.shape[1]), tile, self.config.image_size) for rgb in pictures]
        with self.inference():
            for scale in scales:
                resized = {i: self.resized(rgb, scale) for i, rgb in enumerate(pictures) if sides[i] is None}
                for members in _by_shape(resized):
                    batch = torch.stack([resized[i] for i in members])
                    for mirrored in (False, True) if flip else (False,):
                        maps, scores = self._run(batch, mirrored=mirrored)
                        for i, each, score in zip(members, maps, scores, strict=True):
                            logits[i].append(each)
                            tags[i].append(score)
                for i, side in enumerate(sides):
                    if side is None:
                        continue
                    for mirrored in (False, True) if flip else (False,):
                        each, score = self._tiled(pictures[i], side, scale, mirrored=mirrored)
                        logits[i].append(each)
                        tags[i].append(score)
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

    def _run(self, rgb: Tensor, *, mirrored: bool) -> tuple[Tensor, Tensor]:
        """Logits float32 [B, K, h', w'] and tag scores [B, C] of pictures uint8 [B, 3, h, w], on the CPU."""
        outputs = self.model(self.model.normalize(rgb.flip(-1) if mirrored else rgb))
        maps = outputs.seg_logits.flip(-1) if mirrored else outputs.seg_logits
        return maps.float().cpu(), outputs.tag_logits.float().sigmoid().cpu()

    def _tiled(self, rgb: NDArray[np.uint8], side: int, scale: float, *, mirrored: bool) -> tuple[Tensor, Tensor]:
        """Logits [K, h, w] and tag scores [C] of a picture in tiles."""
        grid = Grid.of((rgb.shape[0], rgb.shape[1]), side, self.config.image_size, self.model.stride, scale)
        logits, scores = blended_map(rgb, grid, partial(self._run_tile, mirrored=mirrored))
        return torch.from_numpy(logits), torch.from_numpy(scores)

    def _run_tile(self, tile: NDArray[np.uint8], *, mirrored: bool) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        picture = torch.from_numpy(np.array(tile)).permute(2, 0, 1)[None]
        logits, scores = self._run(picture.to(self.device), mirrored=mirrored)
        return logits[0].numpy(), scores[0].numpy()

    def allowed_labels(self, tags: Sequence[str]) -> Tensor:
        """Labels that may occur, bool [K]: background and the named classes.

        Raises:
            ValueError: a name is not a class of this model.
        """
        tags = [class_name(name) for name in tags]
        check_tags(tags, self.classes)
        return torch.tensor([True, *(name in tags for name in self.classes)])

    def _predict_batch(
        self,
        pictures: Sequence[NDArray[np.uint8]],
        tags: Sequence[Sequence[str] | None],
        crf: CRFParams | None,
        scales: Sequence[float],
        flip: bool,
        tile: int | None,
    ) -> list[Prediction]:
        allowed = [None if names is None else self.allowed_labels(names) for names in tags]
        maps = self.score_maps(pictures, scales=scales, flip=flip, allowed=allowed, tile=tile)
        return [self._prediction(rgb, each, scores, crf) for rgb, (each, scores) in zip(pictures, maps, strict=True)]

    def _prediction(self, rgb: NDArray[np.uint8], maps: ScoreMaps, tags: Tensor, crf: CRFParams | None) -> Prediction:
        if not all(bool(torch.isfinite(each).all()) for each in (*maps.logits, tags)):
            raise ValueError(BROKEN_SCORES)
        scores = {name: float(score) for name, score in zip(self.classes, tags, strict=True)}
        if crf is not None and not is_large(maps.size):
            probs = refine(rgb, maps, crf).numpy()
            mask = probs.argmax(0).astype(np.uint8)
            return Prediction(rgb=rgb, mask=mask, tag_scores=scores, classes=self.classes, compute_probs=lambda: probs)
        parts = partial(probability_parts, rgb, maps, crf)
        return Prediction(
            rgb=rgb,
            mask=labels_of(parts(), maps.size),
            tag_scores=scores,
            classes=self.classes,
            compute_probs=lambda: whole(parts(), maps.size),
            compute_parts=parts,
        )


_PROGRAMS = {".onnx": "an ONNX file", ".pt2": "a program of torch.export"}


def need_network(run: object, who: str, instead: str) -> None:
    """Refuse an exported model, which gives masks only, before any work.

    Args:
        run: What was given for a run: a path or a segmenter.
        who: Who needs the network, as the message begins.
        instead: What to do where only the exported model is at hand.

    Raises:
        ValueError: `run` is an exported model.
    """
    if isinstance(run, Segmenter):
        return
    if isinstance(run, prediction.Segmenter):
        what = "a segmenter of an exported model"
    else:
        kind = _PROGRAMS.get(Path(str(run)).suffix.lower())
        if kind is None or str(run).startswith("hf://"):
            return
        what = f"{run}, {kind}"
    raise ValueError(
        f"{who} needs the network itself, got {what}, which only predicts. Give the run folder or .safetensors file "
        f"that it was exported from; without one: {instead}."
    )


def _by_shape(tensors: Mapping[int, Tensor]) -> list[list[int]]:
    """The keys of tensors of one shape, shape by shape."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, tensor in tensors.items():
        groups.setdefault(tuple(tensor.shape), []).append(i)
    return list(groups.values())
