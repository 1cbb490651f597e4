"""Pictures with tags, twelve unless others are given, written by hand in every format that `open_data` reads."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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


def pixels(name: str) -> np.ndarray:
    """A picture of its own, uint8 [H, W, 3]."""
    seed = int(Path(name).stem[-2:])
    return np.random.default_rng(seed).integers(0, 256, (6 + seed % 3, 8, 3), dtype=np.uint8)


def write_picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(path.name)).save(path)


def write_mask(path: Path, size: Sequence[int], shown: bool = True) -> None:
    """A mask of 0 and 255 of a picture of this size (height, width); all 0 where nothing is shown."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros(tuple(size[:2]), dtype=np.uint8)
    mask[1 : size[0] // 2, 2 : size[1] // 2] = 255 * shown
    Image.fromarray(mask).save(path)


def write_pair(place: Path, picture: str, mask: str, *, shown: bool = True) -> None:
    """A picture and its mask, `place` with these endings, of 64 x 48 pixels."""
    place.parent.mkdir(parents=True, exist_ok=True)
    seed = int(place.name[-2:])
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 48, 3), dtype=np.uint8)).save(f"{place}{picture}")
    write_mask(Path(f"{place}{mask}"), (64, 48), shown)


@dataclass(frozen=True)
class Tagged:
    """Pictures and their tags."""

    tags: Mapping[str, tuple[str, ...]]
    """By file name, sorted."""
    classes: tuple[str, ...]
    write: Callable[[Path], None] = write_picture
    """Writes the picture of the path's name there."""
    size: tuple[int, int] = (6, 8)
    """Height and width that annotations name."""

    @property
    def single(self) -> dict[str, tuple[str, ...]]:
        """The first tag alone, or that of no class."""
        return {name: tags[:1] or ("background",) for name, tags in self.tags.items()}

    def write_all(self, folder: Path) -> None:
        for name in self.tags:
            self.write(folder / name)


TWELVE = Tagged(TAGS, CLASSES)
SINGLE = TWELVE.single


def write_pictures(folder: Path, names=TAGS) -> None:
    for name in names:
        write_picture(folder / name)


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_table(path: Path, made: Tagged) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("file_name", "tags"), *((n, ";".join(t)) for n, t in made.tags.items())])


def plain_folder(root: Path, made: Tagged = TWELVE) -> None:
    made.write_all(root / "images")
    write_table(root / "tags.csv", made)


def voc_tree(root: Path, made: Tagged = TWELVE) -> None:
    """Every fifth picture in val; an annotation file for each picture, with a box per tag, as VOC has it."""
    made.write_all(root / "JPEGImages")
    for folder in ("Annotations", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for name, tags in made.tags.items():
        box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox>"
        objects = "".join(f"<object><name>{tag}</name>{box}</object>" for tag in tags)
        text = f"<annotation><filename>{name}</filename>{objects}</annotation>"
        (root / "Annotations" / name).with_suffix(".xml").write_text(text)
    names = [Path(name).stem for name in made.tags]
    val = set(names[::5])
    for split, members in (("train", [n for n in names if n not in val]), ("val", sorted(val))):
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("".join(f"{n}\n" for n in members))


def imagefolder(root: Path, made: Tagged = TWELVE) -> None:
    for name, (tag,) in made.single.items():
        made.write(root / tag / name)


def metadata_csv(root: Path, made: Tagged = TWELVE) -> None:
    made.write_all(root)
    write_table(root / "metadata.csv", made)


def metadata_jsonl(root: Path, made: Tagged = TWELVE) -> None:
    made.write_all(root)
    lines = [json.dumps({"file_name": name, "tags": list(tags)}) for name, tags in made.tags.items()]
    (root / "metadata.jsonl").write_text("\n".join(lines))


def coco_json(
    tags: Mapping[str, tuple[str, ...]] = TAGS, classes: tuple[str, ...] = CLASSES, size: tuple[int, int] = (6, 8)
) -> dict[str, object]:
    """COCO instances with boxes and polygons, one of them a crowd."""
    ids = {name: 7 * i + 5 for i, name in enumerate(classes)}
    h, w = size
    images = [{"id": 100 + i, "file_name": name, "height": h, "width": w} for i, name in enumerate(tags)]
    annotations = [
        {"image_id": image["id"], "category_id": ids[tag], "bbox": [0, 0, 4, 4], "area": 16, "iscrowd": 0, **shape}
        for image in images
        for tag in tags[image["file_name"]]
        for shape in (
            {"segmentation": [[0, 0, 4, 0, 4, 4, 0, 4]]},
            {"segmentation": {"size": [h, w], "counts": [0, 4, h * w - 4]}, "iscrowd": 1},
        )
    ]
    categories = [{"id": ids[name], "name": name, "supercategory": "animal"} for name in classes]
    annotations = [{"id": i, **each} for i, each in enumerate(annotations, start=1)]
    return {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": categories}


def coco(root: Path, made: Tagged = TWELVE) -> None:
    made.write_all(root / "images")
    write_json(root / "annotations" / "instances_default.json", coco_json(made.tags, made.classes, made.size))


def cvat_xml(kind: str = "tag", made: Tagged = TWELVE) -> str:
    labels = "".join(f"<label><name>{name}</name><color>#ff0000</color></label>" for name in made.classes)
    h, w = made.size
    shapes = {
        "tag": '<tag label="{}" source="manual"></tag>',
        "box": '<box label="{}" xtl="0" ytl="0" xbr="3" ybr="3"/>',
    }
    images = "".join(
        f'<image id="{i}" name="{name}" width="{w}" height="{h}">'
        f"{''.join(shapes[kind].format(t) for t in tags)}</image>"
        for i, (name, tags) in enumerate(made.tags.items())
    )
    meta = f"<meta><job><id>1</id><labels>{labels}</labels></job><dumped>2024-01-01</dumped></meta>"
    return f'<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>{meta}{images}</annotations>'


def cvat(root: Path, made: Tagged = TWELVE) -> None:
    made.write_all(root / "images")
    (root / "annotations.xml").write_text(cvat_xml(made=made))


def label_studio_tasks(made: Tagged = TWELVE) -> list[dict[str, object]]:
    """The JSON export: uploads, local files and a bucket; two annotators, a skipped and an empty annotation."""

    def annotation(*choices: str, cancelled: bool = False) -> dict[str, object]:
        value = {"choices": list(choices)}
        result = {"id": "r", "type": "choices", "from_name": "choice", "to_name": "image", "value": value}
        return {"id": 1, "was_cancelled": cancelled, "result": [result] if choices else [], "lead_time": 1.5}

    addresses = ("/data/upload/1/0a1b2c3d-{}", "/data/local-files/?d=photos/{}", "s3://bucket/some/{}", "{}")
    tasks = []
    for i, (name, tags) in enumerate(made.tags.items()):
        annotations = [
            annotation(*tags[:1]),
            *([annotation(*tags[1:])] if tags[1:] else []),
            annotation("dog", cancelled=True),
        ]
        data = {"text": "a note", "image": addresses[i % 4].format(name)}
        tasks.append({"id": i, "data": data, "annotations": annotations, "predictions": [], "meta": {}})
    tasks.append({"id": 99, "data": {"image": "/data/upload/1/new.jpg"}, "annotations": [], "predictions": []})
    return tasks


def label_studio(root: Path, made: Tagged = TWELVE) -> None:
    made.write_all(root / "images")
    write_json(root / "project-1.json", label_studio_tasks(made))


def label_studio_min_rows(made: Tagged = TWELVE) -> list[dict[str, object]]:
    def choice(tags: tuple[str, ...]) -> dict[str, object]:
        return {} if not tags else {"animal": tags[0] if len(tags) == 1 else {"choices": list(tags)}}

    own = {"annotator": 1, "annotation_id": 7, "created_at": "2024-01-01T00:00:00Z", "lead_time": 1.5}
    return [
        {"image": f"/data/upload/1/0a1b2c3d-{name}", "id": i, **choice(tags), **own}
        for i, (name, tags) in enumerate(made.tags.items())
    ]


def label_studio_min(root: Path, made: Tagged = TWELVE) -> None:
    made.write_all(root)
    write_json(root / "project-1-min.json", label_studio_min_rows(made))


def label_studio_csv(root: Path, made: Tagged = TWELVE) -> None:
    made.write_all(root / "images")
    with (root / "project-1.csv").open("w", newline="") as file:
        rows = label_studio_min_rows(made)
        writer = csv.DictWriter(file, sorted({key for row in rows for key in row}))
        writer.writeheader()
        for row in rows:
            cells = {key: json.dumps(value) if isinstance(value, dict) else value for key, value in row.items()}
            writer.writerow(cells)


def yolo(root: Path, made: Tagged = TWELVE) -> None:
    made.write_all(root / "images")
    (root / "labels").mkdir()
    shapes = ("0.5 0.5 0.2 0.2", "0.1 0.1 0.9 0.1 0.9 0.9")
    for name, tags in made.tags.items():
        if tags:
            lines = [f"{made.classes.index(tag)} {shape}" for tag in tags for shape in shapes]
            (root / "labels" / name).with_suffix(".txt").write_text("\n".join(lines) + "\n")
    names = "".join(f"  {i}: {name}\n" for i, name in enumerate(made.classes))
    (root / "data.yaml").write_text("path: ../somewhere/else\nnames:\n" + names)


WRITERS: dict[str, tuple[str, Callable[..., None]]] = {
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
