"""A trained network on torch behind a `Segmenter`: pictures to logits, and what only the network itself can tell."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from tag2mask.base.arrays import Size
from tag2mask.cam import multi_scale_cam
from tag2mask.config import CRFParams, MethodConfig, RunConfig, TrainConfig
from tag2mask.crf import dense_crf
from tag2mask.inference.folding import folded, state_of
from tag2mask.inference.score_maps import Arithmetic, Floats
from tag2mask.inference.tiles import network_size
from tag2mask.models.base import SegmentationNetwork
from tag2mask.models.network import Network


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


def _widened(values: Floats, width: int, columns: slice) -> Floats:
    if columns != slice(None):
        return TORCH._widened(values, width, columns)
    size = (values.shape[1], width)
    return F.interpolate(torch.from_numpy(values)[None], size, mode="bilinear", align_corners=False)[0].numpy()


def _dense_crf(rgb: NDArray[np.uint8], probs: Floats, present: NDArray[np.bool_] | None, crf: CRFParams) -> Floats:
    picture = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)[None]
    labels = None if present is None else torch.from_numpy(present)[None]
    return dense_crf(picture, torch.from_numpy(probs)[None], params=crf, present=labels)[0].numpy()


TORCH = Arithmetic(
    lerp=lambda start, end, weight: torch.lerp(*map(torch.from_numpy, (start, end, weight))).numpy(),
    widened=_widened,
    softmax=lambda logits: torch.from_numpy(logits).softmax(0).numpy(),
    mean=lambda values: torch.from_numpy(np.stack(values)).mean(0).numpy(),
    dense_crf=_dense_crf,
)
"""torch's CPU kernels, which share their work among threads; their last bits are not numpy's."""


class TorchBackend:
    """A network of torch and its settings."""

    arithmetic = TORCH

    def __init__(self, model: SegmentationNetwork, config: RunConfig, device: str | None = None) -> None:
        """Wrap a network, moved to `device` if that is given; see `Segmenter`."""
        self.model, self.config = model, config
        self._users, self._lock, self._was_training = 0, threading.Lock(), False
        self._quick: tuple[object, SegmentationNetwork] | None = None
        """Tells apart the weights that were folded, and what came of it."""
        if device is not None:
            self.to(device)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; class i has label i + 1."""
        return tuple(self.model.classes)

    @property
    def image_size(self) -> int | None:
        """Longer side at which pictures enter the network; None keeps theirs."""
        return self.config.image_size

    @property
    def stride(self) -> int:
        """Pixels per cell of the network's map."""
        return self.model.stride

    @property
    def has_tag_branch(self) -> bool:
        """Whether class activation maps can be drawn."""
        return isinstance(self.model, Network)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.model.parameters()).device

    def to(self, device: str) -> Self:
        """Move the network to a device."""
        self.model.to(resolve_device(device))
        return self

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Evaluation mode without gradients; the last thread to leave puts the network's mode back."""
        with self._lock:
            if self._users == 0:
                self._was_training = self.model.training
                self.model.eval()
            self._users += 1
        try:
            with torch.inference_mode():
                yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0 and self._was_training:
                    self.model.train()

    def prepared(self, rgb: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
        """A picture [H, W, 3] resized to `size`."""
        picture = torch.from_numpy(np.require(rgb, requirements=["C", "W"])).permute(2, 0, 1)
        small: NDArray[np.uint8] = resize(picture, list(size), antialias=True).permute(1, 2, 0).numpy()
        return small

    def run(self, rgb: NDArray[np.uint8], scale: float | None = None) -> tuple[Floats, Floats]:
        """Logits [B, K, h', w'] and tag scores [B, C] of pictures uint8 [B, h, w, 3] of the network's size."""
        with self.inference():
            pictures = torch.from_numpy(np.require(rgb, requirements=["C", "W"])).permute(0, 3, 1, 2).to(self.device)
            network = self._for_prediction()
            outputs = network(network.normalize(pictures))
            return outputs.seg_logits.float().cpu().numpy(), outputs.tag_logits.float().sigmoid().cpu().numpy()

    def _for_prediction(self) -> SegmentationNetwork:
        """The network, on a CPU in the form that predicts fastest, made anew when its weights have changed."""
        if self.device.type != "cpu":
            return self.model
        state = state_of(self.model)
        with self._lock:
            if self._quick is None or self._quick[0] != state:
                self._quick = state, folded(self.model)
            return self._quick[1]

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

    def resized(self, rgb: NDArray[np.uint8]) -> Tensor:
        """The picture [H, W, 3] as it enters the network: uint8 [3, h, w] on the network's device."""
        size = network_size((rgb.shape[0], rgb.shape[1]), self.image_size, self.stride)
        return torch.from_numpy(self.prepared(rgb, size)).permute(2, 0, 1).to(self.device)

    def cams(
        self, rgb: NDArray[np.uint8], tags: Tensor, scales: Sequence[float] | None = None
    ) -> tuple[Tensor, Tensor]:
        """CAMs float [1, C, h, w] of one picture and that picture uint8 [1, 3, h, w], both at the network's size.

        `tags` is bool [C]; `scales` defaults to those of the run's training. On the network's device.
        """
        network, method = self.first_step()
        small = self.resized(rgb)[None]
        with self.inference():
            present = tags[None].to(small.device)
            images = network.normalize(small)
            return multi_scale_cam(network, images, present, scales or method.cam_scales), small

    def class_activation_maps(self, rgb: NDArray[np.uint8], labels: Sequence[int]) -> Floats:
        """The maps [len(labels), h, w] of some classes by their place in `classes`, as if these were the tags."""
        tags = torch.zeros(len(self.classes), dtype=torch.bool)
        tags[list(labels)] = True
        maps: Floats = self.cams(rgb, tags)[0][0, list(labels)].cpu().numpy()
        return maps
