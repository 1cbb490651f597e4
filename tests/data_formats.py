"""Twelve pictures with tags, written in every format that `open_data` reads."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("horse", "dog", "cat")
TAGS: dict[str, tuple[str, ...]] = {
    "p00.jpg": ("cat",),
    "p01.jpg": ("dog",),
    "p02.png": ("cat", "dog"),
    "p03.jpg": (),
    "p04.jpg": ("horse",),
    "p05.jpg": ("cat", "dog", "horse"),
    "p06.png": ("dog",),
    "p07.jpg": ("cat",),
    "p08.jpg": ("horse",),
    "p09.jpg": ("dog", "horse"),
    "p10.jpg": (),
    "p11.jpg": ("cat",),
}
SINGLE = {name: tags[:1] or ("background",) for name, tags in TAGS.items()}


def pixels(name: str) -> np.ndarray:
    """A picture of its own, uint8 [H, W, 3]."""
    seed = int(Path(name).stem[-2:])
    return np.random.default_rng(seed).integers(0, 256, (6 + seed % 3, 8, 3), dtype=np.uint8)


def write_picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(path.name)).save(path)


def write_pictures(folder: Path, names=TAGS) -> None:
    for name in names:
        write_picture(folder / name)


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def imagefolder(root: Path) -> None:
    for name, (tag,) in SINGLE.items():
        write_picture(root / tag / name)


def metadata_csv(root: Path) -> None:
    write_pictures(root)
    with (root / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file_name", "tags"), *((n, ";".join(t)) for n, t in TAGS.items())])


def metadata_jsonl(root: Path) -> None:
    write_pictures(root)
    lines = [json.dumps({"file_name": name, "tags": list(tags)}) for name, tags in TAGS.items()]
    (root / "metadata.jsonl").write_text("\n".join(lines))


def coco_json(tags: Mapping[str, tuple[str, ...]] = TAGS) -> dict[str, object]:
    """COCO instances with boxes and polygons, one of them a crowd."""
    ids = {name: 7 * i + 5 for i, name in enumerate(CLASSES)}
    images = [{"id": 100 + i, "file_name": name, "height": 6, "width": 8} for i, name in enumerate(tags)]
    annotations = [
        {"image_id": image["id"], "category_id": ids[tag], "bbox": [0, 0, 4, 4], "area": 16, "iscrowd": 0, **shape}
        for image in images
        for tag in tags[image["file_name"]]
        for shape in (
            {"segmentation": [[0, 0, 4, 0, 4, 4, 0, 4]]},
            {"segmentation": {"size": [6, 8], "counts": [0, 4, 44]}, "iscrowd": 1},
        )
    ]
    categories = [{"id": ids[name], "name": name, "supercategory": "animal"} for name in CLASSES]
    annotations = [{"id": i, **each} for i, each in enumerate(annotations, start=1)]
    return {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": categories}


def coco(root: Path) -> None:
    write_pictures(root / "images")
    write_json(root / "annotations" / "instances_default.json", coco_json())


def cvat_xml(kind: str = "tag") -> str:
    labels = "".join(f"<label><name>{name}</name><color>#ff0000</color></label>" for name in CLASSES)
    shapes = {
        "tag": '<tag label="{}" source="manual"></tag>',
        "box": '<box label="{}" xtl="0" ytl="0" xbr="3" ybr="3"/>',
    }
    images = "".join(
        f'<image id="{i}" name="{name}" width="8" height="6">{"".join(shapes[kind].format(t) for t in tags)}</image>'
        for i, (name, tags) in enumerate(TAGS.items())
    )
    meta = f"<meta><job><id>1</id><labels>{labels}</labels></job><dumped>2024-01-01</dumped></meta>"
    return f'<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>{meta}{images}</annotations>'


def cvat(root: Path) -> None:
    write_pictures(root / "images")
    (root / "annotations.xml").write_text(cvat_xml())


def label_studio_tasks() -> list[dict[str, object]]:
    """The JSON export: uploads, local files and a bucket; two annotators, a skipped and an empty annotation."""

    def annotation(*choices: str, cancelled: bool = False) -> dict[str, object]:
        value = {"choices": list(choices)}
        result = {"id": "r", "type": "choices", "from_name": "choice", "to_name": "image", "value": value}
        return {"id": 1, "was_cancelled": cancelled, "result": [result] if choices else [], "lead_time": 1.5}

    addresses = ("/data/upload/1/0a1b2c3d-{}", "/data/local-files/?d=photos/{}", "s3://bucket/some/{}", "{}")
    tasks = []
    for i, (name, tags) in enumerate(TAGS.items()):
        annotations = [
            annotation(*tags[:1]),
            *([annotation(*tags[1:])] if tags[1:] else []),
            annotation("dog", cancelled=True),
        ]
        data = {"text": "a note", "image": addresses[i % 4].format(name)}
        tasks.append({"id": i, "data": data, "annotations": annotations, "predictions": [], "meta": {}})
    tasks.append({"id": 99, "data": {"image": "/data/upload/1/new.jpg"}, "annotations": [], "predictions": []})
    return tasks


def label_studio(root: Path) -> None:
    write_pictures(root / "images")
    write_json(root / "project-1.json", label_studio_tasks())


def label_studio_min_rows() -> list[dict[str, object]]:
    def choice(tags: tuple[str, ...]) -> dict[str, object]:
        return {} if not tags else {"animal": tags[0] if len(tags) == 1 else {"choices": list(tags)}}

    own = {"annotator": 1, "annotation_id": 7, "created_at": "2024-01-01T00:00:00Z", "lead_time": 1.5}
    return [
        {"image": f"/data/upload/1/0a1b2c3d-{name}", "id": i, **choice(tags), **own}
        for i, (name, tags) in enumerate(TAGS.items())
    ]


def label_studio_min(root: Path) -> None:
    write_pictures(root)
    write_json(root / "project-1-min.json", label_studio_min_rows())


def label_studio_csv(root: Path) -> None:
    write_pictures(root / "images")
    with (root / "project-1.csv").open("w", newline="") as file:
        rows = label_studio_min_rows()
        writer = csv.DictWriter(file, sorted({key for row in rows for key in row}))
        writer.writeheader()
        for row in rows:
            cells = {key: json.dumps(value) if isinstance(value, dict) else value for key, value in row.items()}
            writer.writerow(cells)


def yolo(root: Path) -> None:
    write_pictures(root / "images")
    (root / "labels").mkdir()
    shapes = ("0.5 0.5 0.2 0.2", "0.1 0.1 0.9 0.1 0.9 0.9")
    for name, tags in TAGS.items():
        if tags:
            lines = [f"{CLASSES.index(tag)} {shape}" for tag in tags for shape in shapes]
            (root / "labels" / name).with_suffix(".txt").write_text("\n".join(lines) + "\n")
    (root / "data.yaml").write_text("path: ../somewhere/else\nnames:\n  0: horse\n  1: dog\n  2: cat\n")


WRITERS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "metadata.csv": ("hf-imagefolder", metadata_csv),
    "metadata.jsonl": ("hf-imagefolder", metadata_jsonl),
    "coco": ("coco", coco),
    "cvat": ("cvat", cvat),
    "label-studio": ("label-studio", label_studio),
    "label-studio-min": ("label-studio", label_studio_min),
    "label-studio-csv": ("label-studio", label_studio_csv),
    "yolo": ("yolo", yolo),
}
"""Format and writer; the class lists of the first two and of Label Studio are sorted."""
