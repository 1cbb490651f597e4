"""The whole job on the built-in data set: write pictures, learn from their tags, score, report."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image

from tag2mask.base.choosing import some_of_each
from tag2mask.base.console import Bar
from tag2mask.base.files import write_text
from tag2mask.base.options import public
from tag2mask.config import TrainConfig
from tag2mask.data import PictureSet, open_data, read_mask, read_picture
from tag2mask.data.builtin.shapes import write_builtin
from tag2mask.inference.first_step import tag_vector
from tag2mask.inference.segmenter import Segmenter
from tag2mask.outputs.render import SampleRow, sample_sheet
from tag2mask.runs.folder import new_run_folder
from tag2mask.scoring.evaluation import score_pictures
from tag2mask.scoring.label_quality import score_cams, score_reliable_labels
from tag2mask.scoring.report import LabelQuality, Report
from tag2mask.training.first_step import train
from tag2mask.training.page import Figure, percent, write_report

log = logging.getLogger("tag2mask")


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What `demo` measured and where it is."""

    run: Path
    """Run folder of the training."""
    report: Path
    """report.html with scores and pictures."""
    segmentation: Report
    """Segmentation branch on the held-out pictures, without tags."""
    cam: Report
    """CAM on the same pictures with their true tags and the best background threshold."""
    reliable: LabelQuality
    """Reliable labels of training pictures."""
    seconds: float


def demo_config(data: Path, run: Path) -> TrainConfig:
    """The preset `small` cut down to the small pictures of the built-in set and to minutes."""
    config = TrainConfig.preset("small", data=str(data), out=str(run))
    # After so few steps the CAMs are wide and soft, and the published exponents of the background score, 4 and 32, cut
    # them at 0.28 and 0.08. Exponents of 1 and 2 cut at 0.50 and 0.38, near where the objects end (docs/method.md).
    rules = dataclasses.replace(
        config.method.reliable,
        foreground_power=1.0,
        background_power=2.0,
        cam_power=1.0,
        min_background=0.25,
        keep=0.85,
        agreement="union",
    )
    method = dataclasses.replace(
        config.method,
        cam_scales=(1.0, 0.5),
        ema=0.97,
        teacher=0.0,
        reliable=rules,
        energy=dataclasses.replace(config.method.energy, weight=3e-7),
    )
    return config.replace(
        image_size=160,
        output_stride=8,
        batch_size=8,
        joint_batch_size=4,
        tag_steps=100,
        joint_steps=140,
        augment=dataclasses.replace(config.augment, crop_size=160),
        optim=dataclasses.replace(config.optim, joint_lr=0.006),
        method=method,
        log_every=5,
        sample_every=80,
    )


@public
def demo(out: str | Path | None = None, *, config: TrainConfig | None = None) -> DemoResult:
    """Learn masks from the tags of the built-in pictures and report on held-out ones. Needs no network and no GPU.

    Args:
        out: New or empty folder for data/, run/ and report.html; default runs/demo, then -2, -3 ...
        config: Settings instead of `demo_config`; their `data` and `out` are not used.

    Raises:
        FileExistsError: `out` is not empty.
    """
    began = time.perf_counter()
    out = new_run_folder(None if out is None else str(out), "demo")
    log.info("demo folder: %s", out)
    data = write_builtin(out / "data")
    settings = demo_config(data, out / "run")
    if config is not None:
        settings = config.replace(data=settings.data, out=settings.out)
    run = train(settings)
    segmenter, learned_from, held_out = Segmenter.load(run), open_data(data), open_data(data, split="val")
    with Bar("score masks") as bar:
        segmentation = score_pictures(segmenter, held_out, progress=bar.update)
    with Bar("score CAMs") as bar:
        cam = score_cams(segmenter, held_out, progress=bar.update)
    with Bar("score reliable labels") as bar:
        reliable = score_reliable_labels(segmenter, learned_from, limit=40, progress=bar.update)
    seconds = time.perf_counter() - began
    sheet = held_out_sheet(segmenter, held_out, threshold=float(cam.protocol["background_threshold"]))
    report = write_report(
        run,
        title="tag2mask demo: masks learned from tags",
        summary=(
            f"A network saw {len(learned_from.pictures)} generated pictures and the names of the objects in them, "
            f"never a mask. Scored on {segmentation.num_images} other pictures with exact masks."
        ),
        tiles={
            "mIoU of the segmentation": percent(segmentation.miou),
            "mIoU of the thresholded CAM (true tags given, best threshold)": percent(cam.miou),
            "reliable labels: right / pixels covered": f"{percent(reliable.precision)} / {percent(reliable.coverage)}",
            "from start to scores": f"{seconds:.0f} s",
        },
        scores={"segmentation": segmentation, "CAM, true tags, best threshold": cam},
        figures=[Figure(caption="Held-out pictures", image=sheet)],
        out=out / "report.html",
    )
    scores = {
        "segmentation_miou": segmentation.miou,
        "cam_miou": cam.miou,
        "reliable_precision": reliable.precision,
        "reliable_coverage": reliable.coverage,
        "seconds": seconds,
    }
    write_text(out / "scores.json", json.dumps(scores, indent=2) + "\n")
    return DemoResult(run=run, report=report, segmentation=segmentation, cam=cam, reliable=reliable, seconds=seconds)


@torch.no_grad()
def held_out_sheet(segmenter: Segmenter, pictures: PictureSet, *, threshold: float, most: int = 8) -> Image.Image:
    """Picture, CAM, CAM cut at `threshold`, prediction and truth of some pictures of each class."""
    rows = []
    for i in some_of_each([picture.tags for picture in pictures.pictures], most):
        picture = pictures.pictures[i]
        rgb = read_picture(picture.path)
        names = tuple(pictures.classes[i] for i in picture.tags)
        cams, _ = segmenter.network.cams(rgb, tag_vector(segmenter, names))
        cams = F.interpolate(cams.cpu(), rgb.shape[:2], mode="bilinear", align_corners=False)[0]
        value, winner = cams.max(0)
        rows.append(
            SampleRow(
                name=picture.name,
                rgb=rgb,
                tags=names,
                cams=cams.numpy(),
                cam_labels=torch.where(value > threshold, winner + 1, 0).numpy(),
                prediction=segmenter.predict(rgb).mask,
                truth=None if picture.mask is None else read_mask(picture.mask, pictures.mask_codes),
            )
        )
    return sample_sheet(rows, segmenter.classes)
