"""Masks from annotation tools, by files that the tools' own libraries wrote. Run with -m formats (extra `formats`)."""

import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from mask_cases import CLASSES, blobs, hard_masks, write_masks
from PIL import Image
from test_masks_in import as_text, data_set, masks_and_photos, submitted, written, zipped

import tag2mask
from tag2mask.jobs.converting.masks import convert_masks
from tag2mask.outputs import OutputOptions

pytestmark = [
    pytest.mark.formats,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # of pycocotools
]

MASKS = {name: np.where(mask == 255, 0, mask) for name, mask in hard_masks().items()}
SHOWING = {name: mask for name, mask in MASKS.items() if mask.any()}
"""Libraries write no mask of a picture without object."""


# --- from our file through a tool's library to its export ---


def cvat_by_datumaro(files: Path, out: Path) -> Path:
    """CVAT's Segmentation mask 1.1: it imports and exports by datumaro, in colors, and packs a zip."""
    dm = pytest.importorskip("datumaro")
    tree = out / "tree"
    with zipfile.ZipFile(files / "cvat.zip") as archive:
        archive.extractall(tree)
    data = dm.Dataset.import_from(str(tree), "voc_segmentation")
    data.export(str(out / "export"), "voc_segmentation", save_media=False, label_map="source", apply_colormap=True)
    return zipped(out / "export", out / "export.zip")


def coco_by_datumaro(files: Path, out: Path) -> Path:
    """COCO 1.0 as CVAT and datumaro write it: what is painted becomes run lengths with iscrowd."""
    dm = pytest.importorskip("datumaro")
    (out / "in" / "annotations").mkdir(parents=True)
    shutil.copy(files / "coco.json", out / "in" / "annotations" / "instances_default.json")
    (out / "in" / "images").symlink_to((files / "images").resolve())
    data = dm.Dataset.import_from(str(out / "in"), "coco_instances")
    data.export(str(out / "export"), "coco_instances", save_media=False, segmentation_mode="mask")
    return out / "export"


def coco_by_pycocotools(files: Path, out: Path) -> Path:
    """What pycocotools makes of the file, written with its own run lengths, compressed and not in turn."""
    library = pytest.importorskip("pycocotools.coco")
    mask = pytest.importorskip("pycocotools.mask")
    coco = library.COCO(str(files / "coco.json"))
    for number, each in coco.anns.items():
        shown = coco.annToMask(each)
        encoded = mask.encode(np.asfortranarray(shown))
        each["segmentation"] = {"size": encoded["size"], "counts": encoded["counts"].decode()}
        if number % 2:
            flat = shown.ravel(order="F")
            ends = np.flatnonzero(np.diff(flat)) + 1
            runs = np.diff([0, *ends, flat.size]).tolist()
            each["segmentation"]["counts"] = [0, *runs] if flat[0] else runs
            each["iscrowd"] = 1
    out.mkdir(parents=True)
    (out / "coco.json").write_text(json.dumps(coco.dataset))
    return out / "coco.json"


def label_studio_by_its_sdk(kind: str, files: Path, out: Path) -> Path:
    """Tasks that somebody has submitted as they were, exported by Label Studio's converter."""
    converter = pytest.importorskip("label_studio_sdk.converter")
    out.mkdir(parents=True)
    shutil.copy(files / "label-studio.json", out / "tasks.json")
    submitted(out / "tasks.json")
    config = (files / "label-studio.xml").read_text(encoding="utf-8")
    tool = converter.Converter(config=config, project_dir=None, download_resources=False)
    tool.convert(str(out / "tasks.json"), str(out / "export"), kind, is_dir=False)
    return out / "export"


TOOLS = {
    "cvat, datumaro": (cvat_by_datumaro, "cvat"),
    "coco, datumaro": (coco_by_datumaro, "coco"),
    "coco, pycocotools": (coco_by_pycocotools, "coco"),
    "label-studio, JSON": (lambda files, out: label_studio_by_its_sdk("JSON", files, out), "label-studio"),
    "label-studio, JSON-MIN": (lambda files, out: label_studio_by_its_sdk("JSON_MIN", files, out), "label-studio"),
}
"""From a folder with our files and images/ to the export, and what that is."""


@pytest.fixture(scope="module")
def hard(tmp_path_factory):
    return masks_and_photos(tmp_path_factory.mktemp("hard"), MASKS)


@pytest.mark.parametrize("instances", [False, True])
@pytest.mark.parametrize("shapes", ["rle", "polygons"])
@pytest.mark.parametrize("tool", TOOLS)
def test_masks_come_back_through_the_tool(hard, tmp_path, tool, shapes, instances):
    files = tmp_path / "files"
    files.mkdir()
    (files / "images").symlink_to(hard / "photos" / "images")
    options = OutputOptions(shapes=shapes, instances=instances)
    through, data_format = TOOLS[tool]
    suffix = {"cvat": ".zip"}.get(data_format, ".json")
    convert_masks(
        hard / "masks",
        format=data_format,
        out=files / f"{data_format}{suffix}",
        images=hard / "photos" / "images",
        options=options,
    )
    come_back(through(files, tmp_path / "tool"), hard / "photos", SHOWING, tmp_path, data_format)


def come_back(export, photos, masks, tmp_path, data_format):
    result = tag2mask.convert(export, to="masks", data=photos, out=tmp_path / "masks")
    assert result.data_format == data_format
    found = written(result)
    assert found.keys() >= masks.keys()
    for name, mask in found.items():
        np.testing.assert_array_equal(mask, masks.get(name, np.zeros_like(mask)), err_msg=name)


# --- what only the tool writes ---


def test_brushes_that_label_studios_sdk_packs(tmp_path):
    brush = pytest.importorskip("label_studio_sdk.converter.brush")
    rng = np.random.default_rng(7)
    masks = {f"p{i}": blobs(rng, (40, 56), 3) for i in range(3)}
    photos = data_set(tmp_path / "photos", [f"{n}.jpg" for n in masks], CLASSES, {f"{n}.jpg": (40, 56) for n in masks})
    tasks = []
    for number, (name, mask) in enumerate(masks.items()):
        shared = {
            "original_height": 40,
            "original_width": 56,
            "image_rotation": 0,
            "from_name": "brush",
            "to_name": "image",
        }
        results = [
            {
                **shared,
                "id": f"r{label}",
                "type": "brushlabels",
                "value": {
                    "format": "rle",
                    "rle": brush.mask2rle(((mask == label) * 255).astype(np.uint8)),
                    "brushlabels": [CLASSES[label - 1]],
                },
            }
            for label in np.unique(mask[mask > 0]).tolist()
        ]
        annotation = {"id": number, "result": results, "completed_by": 1, "was_cancelled": False}
        tasks.append(
            {"id": number, "data": {"image": f"/data/upload/1/0a1b2c3d-{name}.jpg"}, "annotations": [annotation]}
        )
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    come_back(tmp_path / "tasks.json", photos, masks, tmp_path / "one", "label-studio")


def test_labelme_as_it_paints_itself(tmp_path):
    """Written by its LabelFile; equal to what its own shapes_to_label paints, polygons with any corners too."""
    labelme = pytest.importorskip("labelme")
    utils = pytest.importorskip("labelme.utils")
    rng = np.random.default_rng(8)
    size = (90, 120)
    photos = data_set(
        tmp_path / "photos", [f"p{i}.jpg" for i in range(6)], CLASSES, {f"p{i}.jpg": size for i in range(6)}
    )
    expected = {}
    (tmp_path / "json").mkdir()
    for i in range(6):
        shapes = []
        for label in (1, 2, 3, 1):
            turns = np.sort(rng.random(17)) * 2 * np.pi
            points = np.stack(
                [60 + 40 * rng.random(17) * np.cos(turns), 45 + 40 * rng.random(17) * np.sin(turns)], axis=1
            )
            shapes.append({"label": CLASSES[label - 1], "points": points.tolist(), "shape_type": "polygon"})
        spot = blobs(rng, (21, 31), 1) > 0
        shapes.append(
            {"label": CLASSES[2], "points": [[70, 50], [100, 70]], "shape_type": "mask", "mask": as_text(spot)}
        )
        path = tmp_path / "json" / f"p{i}.json"
        labelme.LabelFile().save(
            str(path), shapes=shapes, image_path=f"../photos/images/p{i}.jpg", image_height=90, image_width=120
        )
        known = {name: label for label, name in enumerate(CLASSES, start=1)}
        expected[f"p{i}"], _ = utils.shapes_to_label(size, labelme.LabelFile(str(path)).shapes, known)
    come_back(tmp_path / "json", photos, expected, tmp_path, "labelme")


@pytest.fixture
def ultralytics(monkeypatch, tmp_path):
    """The library, with its settings out of the way of the user's."""
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path / "settings"))
    return pytest.importorskip("ultralytics")


def test_yolo_labels_of_ultralytics(ultralytics, tmp_path):
    """Its converter writes outlines, without holes: equal to the filled objects, but for those of one or two pixels."""
    cv2 = pytest.importorskip("cv2")
    from ultralytics.data.converter import convert_segment_masks_to_yolo_seg

    rng = np.random.default_rng(9)
    masks = {f"p{i}": blobs(rng, (97, 131), 3) for i in range(5)}
    folder = write_masks(tmp_path / "made", masks)
    for name, mask in masks.items():  # it reads grey files
        Image.fromarray(mask).save(folder / f"{name}.png")
    convert_segment_masks_to_yolo_seg(str(folder), str(tmp_path / "y" / "labels"), classes=len(CLASSES))
    (tmp_path / "y" / "data.yaml").write_text(
        json.dumps({"names": list(CLASSES)}).replace('"names"', "names")[1:-1] + "\n", encoding="utf-8"
    )
    photos = data_set(tmp_path / "photos", [f"{n}.jpg" for n in masks], CLASSES, {f"{n}.jpg": (97, 131) for n in masks})
    expected = {}
    for name, mask in masks.items():
        things = []
        for label in (1, 2, 3):
            contours, _ = cv2.findContours((mask == label).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
            for contour in contours:
                if len(contour) >= 3:
                    filled = cv2.drawContours(np.zeros(mask.shape, np.uint8), [contour], 0, 1, -1) > 0
                    things.append((np.count_nonzero(filled), label, filled))
        expected[name] = np.zeros(mask.shape, np.uint8)
        for _, label, filled in sorted(things, key=lambda each: -each[0]):
            expected[name][filled] = label
    come_back(tmp_path / "y", photos, expected, tmp_path, "yolo")


def test_png_of_opencv_and_voc_of_datumaro(tmp_path):
    cv2 = pytest.importorskip("cv2")
    dm = pytest.importorskip("datumaro")
    rng = np.random.default_rng(10)
    classes = ("cat", "dog", "person")
    masks = {f"p{i}": blobs(rng, (40, 56), 3) for i in range(3)}
    photos = data_set(tmp_path / "photos", [f"{n}.jpg" for n in masks], classes, {f"{n}.jpg": (40, 56) for n in masks})
    (tmp_path / "ids").mkdir()
    for name, mask in masks.items():
        assert cv2.imwrite(os.fspath(tmp_path / "ids" / f"{name}.png"), mask)
    (tmp_path / "ids" / "classes.txt").write_text("\n".join(classes))
    come_back(tmp_path / "ids", photos, masks, tmp_path / "one", "png")
    items = [
        dm.DatasetItem(
            id=name,
            media=dm.Image.from_numpy(np.zeros((40, 56, 3), np.uint8)),
            annotations=[dm.Mask(mask == label, label=label - 1, id=label, group=label) for label in (1, 2, 3)],
        )
        for name, mask in masks.items()
    ]
    data = dm.Dataset.from_iterable(items, categories=list(classes))
    for color in (True, False):  # VOC's own twenty, as RGB and as palette, without labelmap.txt
        root = tmp_path / f"voc{color}"
        data.export(str(root), "voc_segmentation", label_map="voc", apply_colormap=color)
        (root / "labelmap.txt").unlink()
        come_back(root, photos, masks, tmp_path / f"two{color}", "voc")
