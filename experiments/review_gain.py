"""`python -m experiments.review_gain`: what correcting a few masks is worth, on the built-in set.

A run on tags ranks its own training pictures; then the joint phase is trained anew with the true masks of the first of
the list, and of as many random pictures. All runs share one tag phase and have equal steps.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tag2mask.base.files import check_new_folder, write_lines, write_text
from tag2mask.data import PictureSet, open_data
from tag2mask.data.builtin.shapes import write_builtin
from tag2mask.inference.segmenter import Segmenter
from tag2mask.jobs.demonstration import demo_config
from tag2mask.jobs.predicting.run import predict
from tag2mask.scoring.evaluation import score_pictures
from tag2mask.training.first_step import train

log = logging.getLogger("tag2mask")


def review_gain(out: str | Path, *, counts: Sequence[int] = (20, 40), seed: int = 0) -> dict[str, float]:
    """Measure the mIoU on the held-out pictures by what was corrected.

    Args:
        out: New or empty folder for data, runs and gain.json.
        counts: Numbers of corrected pictures.
        seed: Of the runs, and of the random choice.

    Returns:
        mIoU in 0..1 by name: "tags only", "first 20 of the list", "20 random pictures", ...

    Raises:
        FileExistsError: `out` is not empty.
    """
    out = Path(out)
    check_new_folder(out)
    data = write_builtin(out / "data")
    pictures = open_data(data)
    whole = demo_config(data, out / "tags-only").replace(seed=seed, sample_every=0, validate_pictures=1)
    tag_phase = train(whole.replace(joint_steps=0, out=str(out / "tag-phase")))
    base = whole.replace(tag_phase=str(tag_phase))
    run = train(base)
    order = _ranking(run, data, out / "ranking")
    random = [str(name) for name in np.random.default_rng(seed).permutation(order)]
    scores = {"tags only": _miou(run, data)}
    for count in counts:
        for title, names in (
            (f"first {count} of the list", order[:count]),
            (f"{count} random pictures", random[:count]),
        ):
            folder = out / title.replace(" ", "-")
            masks = _copied(pictures, names, folder / "masks")
            config = base.replace(masks_for_some=str(masks), out=str(folder / "run"))
            scores[title] = _miou(train(config), data)
            log.info("%s: mIoU %.4f", title, scores[title])
    write_text(out / "gain.json", json.dumps(scores, indent=2) + "\n")
    return scores


def _ranking(run: Path, data: Path, out: Path) -> list[str]:
    """Names of the training pictures, the first to be looked at first."""
    split = data / "splits" / "train.txt"
    predict(run, data / "images", out, list_file=split, tags=data / "tags.csv", rank=True)
    with (out / "rank.csv").open(newline="", encoding="utf-8") as file:
        return [row["file"] for row in csv.DictReader(file)]


def _copied(pictures: PictureSet, names: Sequence[str], folder: Path) -> Path:
    folder.mkdir(parents=True)
    for picture in pictures.pictures:
        if picture.name in names and picture.mask is not None:
            shutil.copyfile(picture.mask, folder / picture.mask.name)
    write_lines(folder / "classes.txt", pictures.classes)
    return folder


def _miou(run: Path, data: Path) -> float:
    return score_pictures(Segmenter.load(run), open_data(data, split="val")).miou


def main() -> int:
    """Run it from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m experiments.review_gain", description=__doc__)
    parser.add_argument("--out", required=True, type=Path, help="new folder")
    parser.add_argument("--counts", nargs="+", type=int, default=[20, 40], help="numbers of corrected pictures")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    try:
        scores = review_gain(options.out, counts=options.counts, seed=options.seed)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(f"{title:<28} {value:.3f}" for title, value in scores.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
