"""pydensecrf, the contender: its set-up, its runs, its processes."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import multiprocessing
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.connection import Connection
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tag2mask.base.processes import check_start
from tag2mask.config import CRFParams
from tag2mask.crf import MIN_SCORE
from tag2mask.jobs.benchmark.timing import Timer, timed

NO_PEER = "it is not installed, so only own times are shown; `pip install pydensecrf2` builds it (needs a C++ compiler)"


def load_peer() -> ModuleType | None:
    """pydensecrf, or None where it is not installed."""
    try:
        return importlib.import_module("pydensecrf.densecrf")
    except ImportError:
        return None


def peer_version() -> str | None:
    """Name and version of the installed package, None without one."""
    for name in ("pydensecrf2", "pydensecrf"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return f"{name} {importlib.metadata.version(name)}"
    return None


def crf_of(peer: ModuleType, rgb: NDArray[np.uint8], unary: NDArray[np.float32], params: CRFParams) -> Any:
    """The usual model: unary energies float32 [L, H W], and both kernels of a picture uint8 [H, W, 3].

    Args:
        peer: `pydensecrf.densecrf`, or a module with its names.
        rgb: C-contiguous.
        unary: C-contiguous.
        params: widths and weights; the steps are those that `inference` gets.

    Returns:
        A `DenseCRF2D` of `peer`.
    """
    height, width = rgb.shape[:2]
    crf = peer.DenseCRF2D(width, height, len(unary))
    crf.setUnaryEnergy(unary)
    crf.addPairwiseGaussian(sxy=params.gaussian_sxy, compat=params.gaussian_compat)
    crf.addPairwiseBilateral(
        sxy=params.bilateral_sxy, srgb=params.bilateral_srgb, rgbim=rgb, compat=params.bilateral_compat
    )
    return crf


def peer_work(peer: ModuleType, rgb: Tensor, scores: Tensor, params: CRFParams) -> Callable[[], Any]:
    """Every run of every picture uint8 [B, 3, H, W], one after the other, each with a new object, as is usual.

    The unary energies of the scores [B, R, L, H, W] are ready before the clock starts.
    """
    energies = -scores.clamp(MIN_SCORE, 1).log().flatten(3)
    pictures = rgb.permute(0, 2, 3, 1).contiguous()
    inputs = [(p.numpy(), run.contiguous().numpy()) for p, runs in zip(pictures, energies, strict=True) for run in runs]

    def run(picture: NDArray[np.uint8], unary: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.array(crf_of(peer, picture, unary, params).inference(params.iterations))

    return lambda: [run(*one) for one in inputs]


def _serve(pipe: Connection, rgb: NDArray[np.uint8], scores: NDArray[np.float32], params: CRFParams) -> None:
    """A process of the peer: waits for True, does its pictures, answers with the seconds it computed."""
    peer = load_peer()
    assert peer is not None  # the parent has it
    run = timed(peer_work(peer, torch.from_numpy(rgb), torch.from_numpy(scores), params), "wall")
    pipe.send(True)
    while pipe.recv():
        pipe.send(run())


def peer_processes(rgb: Tensor, scores: Tensor, params: CRFParams, count: int, stack: ExitStack) -> Timer:
    """The pictures shared by `count` processes that live as long as `stack`; the slower one's computing counts.

    Starting a process, sending it pictures and fetching its results is not timed, in favor of the peer.
    """
    check_start(count, "spawn")
    context = multiprocessing.get_context("spawn")
    pipes: list[Connection] = []
    for share in torch.arange(len(rgb)).chunk(count):
        mine, theirs = context.Pipe()
        process = context.Process(
            target=_serve, args=(theirs, rgb[share].numpy(), scores[share].numpy(), params), daemon=True
        )
        process.start()
        theirs.close()
        stack.callback(process.join)
        stack.callback(mine.send, False)
        pipes.append(mine)
    for pipe in pipes:
        pipe.recv()

    def run() -> float:
        for pipe in pipes:
            pipe.send(True)
        return max(float(pipe.recv()) for pipe in pipes)

    return run


def peer_votes(peer: ModuleType, rgb: Tensor, scores: Tensor, params: CRFParams, present: Tensor) -> Tensor:
    """`dense_crf` of [B, R, K, H, W] on pydensecrf, which knows no valid area."""
    out = torch.zeros(scores.shape)
    for i, labels in enumerate(present.cpu()):
        one = scores[i : i + 1, :, labels].float().cpu()
        marginals = peer_work(peer, rgb[i : i + 1].cpu(), one, params)()
        out[i, :, labels] = torch.from_numpy(np.stack(marginals)).reshape(one.shape[1:])
    return out.to(scores.device)
