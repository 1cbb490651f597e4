"""The measurements of prediction: pictures in, masks or files out, beside what the network alone needs."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image

from tag2mask.config import CRFParams, TrainConfig
from tag2mask.crf import dense_crf
from tag2mask.data.storage.pictures import read_picture
from tag2mask.inference.segmenter import Segmenter
from tag2mask.inference.tiles import network_size
from tag2mask.jobs.benchmark.inputs import Size, pictures, shrunk, size_text
from tag2mask.jobs.benchmark.measuring import make_row
from tag2mask.jobs.benchmark.results import Row
from tag2mask.jobs.benchmark.timing import Clock, interleave, threads, timed
from tag2mask.jobs.predicting.run import predict
from tag2mask.models import build_network


@dataclass(frozen=True, kw_only=True)
class PredictionCase:
    """One line of the table before it is measured."""

    work: str
    bar: float
    labels: int = 21
    count: int = 40
    """Pictures."""
    batch: int = 1
    threads: int = 1
    crf: bool = False
    files: bool = False
    """The files of `tag2mask predict`, in place of masks in memory."""

    @property
    def against(self) -> str:
        """What the other contender does."""
        return "network and CRF alone" if self.crf else "decoding, resizing and forward pass, one by one"

    @property
    def clock(self) -> Clock:
        """CPU time for one thread, else wall time."""
        return "cpu" if self.threads == 1 else "wall"


_ONE = "predict {count} pictures {size} one by one, L = {labels}, one thread"
PREDICTIONS: dict[str, PredictionCase] = {
    "predict-l3": PredictionCase(work=_ONE, bar=0.95, labels=3),
    "predict-l21": PredictionCase(work=_ONE, bar=0.88),
    "predict-l81": PredictionCase(work=_ONE, bar=0.75, labels=81),
    "predict-batch-8": PredictionCase(
        work="predict {count} pictures {size} by eight, L = {labels}, one thread", bar=1.1, batch=8
    ),
    "predict-files": PredictionCase(
        work="tag2mask predict: {count} pictures {size}, masks and overlays as files, L = {labels}, two threads",
        bar=0.7,
        count=200,
        threads=2,
        files=True,
    ),
    "predict-crf": PredictionCase(
        work="tag2mask predict --crf: {count} pictures {size}, masks and overlays as files, L = {labels}, two threads",
        bar=0.85,
        threads=2,
        files=True,
        crf=True,
    ),
}
"""By name."""
_SIZE: Size = (375, 500)


def measure_prediction(name: str, case: PredictionCase, rounds: int, *, shrink: int = 1) -> Row:
    """One line of the table: the preset `small` with random weights on pictures like photographs.

    The value is the pictures per second of tag2mask as a share of those of the network alone, with as many threads.
    """
    size, count = shrunk(_SIZE, shrink), case.count // shrink
    config = TrainConfig.preset("small")
    classes = [f"class {i}" for i in range(1, case.labels)]
    with tempfile.TemporaryDirectory() as folder, threads(case.threads):
        files = _photos(Path(folder) / "photos", count, size)
        segmenter = Segmenter(build_network(config, classes, pretrained=False).eval(), config, device="cpu")
        timers = {
            "own": timed(_own(segmenter, case, files, Path(folder)), case.clock),
            "peer": timed(_network_alone(segmenter, case, files), case.clock),
        }
        seconds = interleave(timers, rounds)
    return make_row(
        seconds,
        name=name,
        work=case.work.format(count=count, size=size_text(size), labels=case.labels),
        against=case.against,
        clock=case.clock,
        threads=case.threads,
        measure="speedup",
        bar=case.bar,
        judged=shrink == 1,
    )


def _photos(folder: Path, count: int, size: Size) -> list[Path]:
    """JPEG files; few are drawn, as that takes longer than to predict them."""
    folder.mkdir()
    drawn = [each.permute(1, 2, 0).numpy() for each in pictures(8, size)]
    files = [folder / f"{i:04}.jpg" for i in range(count)]
    for i, file in enumerate(files):
        Image.fromarray(drawn[i % len(drawn)]).save(file, quality=90)
    return files


def _own(segmenter: Segmenter, case: PredictionCase, files: Sequence[Path], folder: Path) -> Callable[[], Any]:
    def write() -> None:
        out = folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        done = predict(segmenter, list(files), out, crf=case.crf, batch_size=case.batch)
        if len(done.written) != len(files):
            raise RuntimeError(f"{len(done.written)} of {len(files)} pictures were written: {done.errors}")

    if case.files:
        return write
    if case.batch > 1:
        return lambda: [out.mask for out in segmenter.predict(list(files), batch_size=case.batch)]
    return lambda: [segmenter.predict(file).mask for file in files]


def _network_alone(segmenter: Segmenter, case: PredictionCase, files: Sequence[Path]) -> Callable[[], Any]:
    """Decoding, resizing and the forward pass of the network as it is, one picture after the other."""
    network, backend = segmenter.model, segmenter.network

    def one(file: Path) -> Any:
        rgb = read_picture(file)
        size = (rgb.shape[0], rgb.shape[1])
        small = backend.prepared(rgb, network_size(size, backend.image_size, backend.stride))
        with torch.inference_mode():
            outputs = network(network.normalize(torch.from_numpy(small).permute(2, 0, 1)[None].contiguous()))
        if case.crf:
            probs = F.interpolate(outputs.seg_logits, size, mode="bilinear", align_corners=False).softmax(dim=1)
            return dense_crf(torch.from_numpy(rgb).permute(2, 0, 1)[None].contiguous(), probs, CRFParams.inference())
        return outputs

    return lambda: [one(file) for file in files]
