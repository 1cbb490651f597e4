"""The folder in which the commands of the docs run: every name that the pages use, tiny."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import data_formats
import numpy as np
from PIL import Image

from tag2mask.data import voc_palette

CLASSES = {"ball": "cat", "crate": "cow", "donut": "dog", "leaf": "horse", "starfish": "sheep"}
"""The classes of the built-in set, and what the pages call them."""
VOC_IDS = np.array([0, 8, 10, 12, 13, 17], np.uint8)
"""VOC's ids of background and those classes."""
TINY = [
    *("--backbone", "test_efficientnet", "--weights", "none", "--image-size", "64", "--augment.crop-size", "64"),
    *("--batch-size", "2", "--workers", "0", "--sample-every", "0", "--trackers"),
]
SHORTER = {
    "train": [*TINY, "--joint-batch-size", "2", "--tag-steps", "1", "--joint-steps", "1"],
    "retrain": [*TINY, "--architecture", "deeplab-v2", "--supervised-steps", "1"],
    "bench": ["--quick", "--only", "pair-l3"],
}
"""What the tests append to a command of a page, so that it takes seconds; everything else runs as it stands there."""
MADE_ANEW = ("train", "retrain", "convert")
"""Commands that refuse what exists: what their --out names is removed before they run."""
PLACEHOLDERS = {"RUN": "runs/photos", "PATH": "photos", "DIR": "masks"}
"""Words of usage lines, and what the tests put there."""


def write_world(root: Path) -> None:
    """photos/, new_pictures/, cat.jpg, VOC trees, masks, a list, and runs trained for two steps."""
    from tag2mask.cli import main
    from tag2mask.data.builtin.shapes import write_builtin

    photos = write_builtin(root / "photos", train=8, val=3, size=64)
    _rename(photos)
    new = root / "new_pictures"
    new.mkdir()
    for name in ("a.jpg", "b.jpg"):
        shutil.copy(photos / "images" / name, new / f"new_{name}")
    shutil.copy(photos / "images" / "a.jpg", root / "cat.jpg")
    for name in ("voc12_animals", "VOC2012"):
        _voc_tree(photos, root / name)
    run = root / "runs" / "photos"
    code = main(["train", "small", "--data", str(photos), "--out", str(run), "--json", *SHORTER["train"]])
    assert code == 0
    for name in ("small", "animals", "demo/run"):
        shutil.copytree(run, root / "runs" / name)
    held_out = root / "runs" / "demo" / "data" / "images"
    held_out.mkdir(parents=True)
    shutil.copy(photos / "images" / "a.jpg", held_out / "val_0000.jpg")
    _export(photos, root / "export.zip")
    (root / "first.txt").write_text("a.jpg\nb.jpg\n")
    (root / "corrected").mkdir()
    shutil.copy(photos / "masks" / "a.png", root / "corrected")
    code = main(
        ["pseudo-label", str(run), "--data", str(photos), "--split", "val", "--out", str(root / "masks"), "--json"]
    )
    assert code == 0


def _rename(photos: Path) -> None:
    """Files a.jpg, b.jpg, ... and the classes of the pages."""
    letters = {path.stem: chr(ord("a") + i) for i, path in enumerate(sorted((photos / "images").iterdir()))}
    for folder in ("images", "masks"):
        for path in (photos / folder).iterdir():
            path.rename(path.with_stem(letters[path.stem]))
    for path in (photos / "tags.csv", photos / "classes.txt", *(photos / "splits").iterdir()):
        text = path.read_text()
        for old, new in {**letters, **CLASSES}.items():
            text = text.replace(old, new)
        path.write_text(text)


def _voc_tree(photos: Path, root: Path) -> None:
    """The same pictures as a PASCAL VOC tree."""
    shutil.copytree(photos / "images", root / "JPEGImages")
    (root / "SegmentationClassAug").mkdir()
    for path in (photos / "masks").iterdir():
        ids = Image.fromarray(VOC_IDS[np.asarray(Image.open(path))])
        ids.save(root / "SegmentationClassAug" / path.name)
    shutil.copy(photos / "tags.csv", root)
    shutil.copy(photos / "classes.txt", root)
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, names in {"train": ("train", "train_1037", "train_aug"), "val": ("val", "test")}.items():
        ids = (photos / "splits" / f"{split}.txt").read_text().replace(".jpg", "")
        for name in names:
            (lists / f"{name}.txt").write_text(ids)


def _shards(root: Path) -> None:
    """The hundred shards of the page, a picture and its tags in each."""
    root.mkdir()
    picture = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(picture, "JPEG")
    for i in range(100):
        tags = json.dumps({"tags": [["cat"], ["dog"], []][i % 3]}).encode()
        with tarfile.open(root / f"{i:03}.tar", "w") as tar:
            for suffix, content in ((".jpg", picture.getvalue()), (".json", tags)):
                member = tarfile.TarInfo(f"p{i:03}{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def _saved_to_disk(root: Path) -> None:
    """What the package datasets writes."""
    from datasets import Dataset, Features, Image, List, Value

    data_formats.write_pictures(root.with_name("loose"))
    names = list(data_formats.TAGS)
    rows = {
        "image": [str(root.with_name("loose") / name) for name in names],
        "tags": [list(data_formats.TAGS[name]) for name in names],
    }
    features = Features({"image": Image(), "tags": List(Value("string"))})
    Dataset.from_dict(rows, features=features).save_to_disk(root)


def _export(photos: Path, path: Path) -> None:
    """What comes back from CVAT, Segmentation mask 1.1: the true masks in colors."""
    names = (photos / "classes.txt").read_text().split()
    colors = [",".join(map(str, color)) for color in voc_palette()[: len(names) + 1].tolist()]
    with zipfile.ZipFile(path, "w") as archive:
        lines = (f"{name}:{color}::\n" for name, color in zip(("background", *names), colors, strict=True))
        archive.writestr("labelmap.txt", "# label:color_rgb:parts:actions\n" + "".join(lines))
        for mask in sorted((photos / "masks").iterdir()):
            content = io.BytesIO()
            Image.fromarray(voc_palette()[np.asarray(Image.open(mask))]).save(content, "PNG")
            archive.writestr(f"SegmentationClass/{mask.name}", content.getvalue())


def _tiles(root: Path) -> None:
    """Pictures and masks side by side."""
    for i in range(8):
        data_formats.write_pair(root / ("crack", "free")[i % 2] / f"a{i:02}", ".jpg", ".png", shown=i % 2 == 0)


def _inspection(root: Path) -> None:
    """As MVTec AD."""
    for i in range(8):
        part, kind = ("train", "good") if i < 3 else ("test", ("good", "broken", "scratched")[i % 3])
        data_formats.write_picture(root / part / kind / f"{i:03}.png")
        if kind != "good":
            data_formats.write_mask(
                root / "ground_truth" / kind / f"{i:03}_mask.png", data_formats.pixels(f"{i:03}").shape
            )


FOLDERS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "One folder per class": ("pets", data_formats.imagefolder),
    "Masks beside their pictures": ("tiles", _tiles),
    "Inspection pictures as of MVTec AD": ("bottle", _inspection),
    "Hugging Face imagefolder": ("pets", data_formats.metadata_jsonl),
    "COCO JSON": ("coco", data_formats.coco),
    "CVAT for images 1.1": ("task", data_formats.cvat),
    "Label Studio": ("pets", data_formats.label_studio),
    "YOLO labels": ("pets", data_formats.yolo),
    "A Hugging Face data set on disk": ("pets", _saved_to_disk),
    "WebDataset shards": ("shards", _shards),
    "To a plain folder": ("coco", data_formats.coco),
}
"""The folder that a section speaks of, written anew before its blocks run."""
