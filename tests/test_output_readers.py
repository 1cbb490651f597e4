"""Masks for annotation tools, read back by the libraries that people use. Run with -m formats (extra `formats`)."""

import json
import zipfile

import numpy as np
import pytest
from mask_cases import CLASSES, hard_masks, iou, write_masks
from PIL import Image
from test_outputs import semantic_world

from tag2mask.jobs.converting.masks import convert_masks
from tag2mask.outputs import OutputOptions
from tag2mask.outputs.outlines import trace

pytestmark = [
    pytest.mark.formats,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # of pycocotools
]

MASKS = hard_masks()
SHOWN = {name: np.where(labels == 255, 0, labels) for name, labels in MASKS.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Masks and grey pictures of their sizes."""
    root = tmp_path_factory.mktemp("masks")
    write_masks(root, MASKS)
    for name, labels in MASKS.items():
        path = root / "images" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", labels.shape[::-1]).save(path)
    return root


def convert(folder, out, to, **options):
    convert_masks(folder / "masks", format=to, out=out, images=folder / "images", options=OutputOptions(**options))
    return out


def painted(size, objects):
    """Labels of (label, mask) pairs, which may not overlap."""
    back = np.zeros(size, int)
    for label, mask in objects:
        assert not back[mask].any()
        back[mask] = label
    return back


def grown(mask):
    """The mask and the pixels to the right of it, below it, and both."""
    padded = np.pad(mask, ((1, 0), (1, 0)))
    return padded[1:, 1:] | padded[:-1, 1:] | padded[1:, :-1] | padded[:-1, :-1]


@pytest.mark.parametrize("instances", [False, True])
@pytest.mark.parametrize("shapes", ["rle", "polygons"])
def test_coco_by_faster_coco_eval(folder, tmp_path, shapes, instances):
    COCO = pytest.importorskip("faster_coco_eval").COCO
    coco = COCO(str(convert(folder, tmp_path / "c.json", "coco", shapes=shapes, instances=instances)))
    for image in coco.imgs.values():
        things = coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]]))
        labels = SHOWN[image["file_name"][:-4]]
        pairs = [(a["category_id"], np.asarray(coco.annToMask(a)).astype(bool)) for a in things]
        np.testing.assert_array_equal(painted(labels.shape, pairs), labels)


def test_coco_by_datumaro(folder, tmp_path):
    dm = pytest.importorskip("datumaro")
    for shapes in ("rle", "polygons"):
        root = tmp_path / shapes
        (root / "annotations").mkdir(parents=True)
        (root / "images").symlink_to(folder / "images")
        convert(folder, root / "annotations" / "instances_default.json", "coco", shapes=shapes)
        seen = set()
        for item in dm.Dataset.import_from(str(root), "coco_instances"):
            labels = SHOWN[item.id]
            seen.add(item.id)
            pairs = []
            for a in item.annotations:
                if a.type == dm.AnnotationType.bbox:  # it makes one of each box
                    continue
                assert a.type == (dm.AnnotationType.mask if shapes == "rle" else dm.AnnotationType.polygon)
                pairs.append((a.label + 1, as_mask(a, labels.shape)))
            np.testing.assert_array_equal(painted(labels.shape, pairs), labels)
        assert seen == set(MASKS)


def as_mask(annotation, size):
    """A mask or polygon of datumaro as bool [H, W]; polygons by pycocotools."""
    from pycocotools import mask as coco_mask

    if hasattr(annotation, "image"):
        return np.asarray(annotation.image).astype(bool)
    points = [float(p) for p in annotation.points]
    return coco_mask.decode(coco_mask.frPyObjects([points], *map(int, size)))[..., 0].astype(bool)


def test_coco_by_supervision(folder, tmp_path):
    sv = pytest.importorskip("supervision")
    for shapes in ("rle", "polygons"):
        path = convert(folder, tmp_path / f"{shapes}.json", "coco", shapes=shapes)
        images = str(folder / "images")
        data = sv.DetectionDataset.from_coco(images, annotations_path=str(path), force_masks=True)
        assert tuple(data.classes) == CLASSES
        for place, _, things in data:
            labels = SHOWN[place.split("/images/")[1][:-4]]
            for label in range(1, len(CLASSES) + 1):
                masks = [] if things.mask is None else things.mask[things.class_id == label - 1]
                got = np.any(masks, axis=0) if len(masks) else np.zeros(labels.shape, bool)
                if shapes == "rle":
                    np.testing.assert_array_equal(got, labels == label)
                else:  # it paints the outline as part of the object
                    assert not (got & ~grown(labels == label)).any()
                    assert got[labels == label].all()


def yolo_polygons(path, labels):
    for line in path.read_text().splitlines():
        class_id, *numbers = line.split()
        yield int(class_id) + 1, np.array(numbers, np.float32).reshape(-1, 2) * np.float32(labels.shape[::-1])


def test_yolo_as_ultralytics_paints_it(folder, tmp_path):
    """Its data loader cuts the coordinates down to whole numbers and fills them with OpenCV."""
    cv2 = pytest.importorskip("cv2")
    out = convert(folder, tmp_path / "y", "yolo")
    for name, labels in SHOWN.items():
        pairs = []
        for label, points in yolo_polygons(out / "labels" / f"{name}.txt", labels):
            mask = np.zeros(labels.shape, np.uint8)
            cv2.fillPoly(mask, [points.astype(np.int32)], 1)
            pairs.append((label, mask.astype(bool)))
        np.testing.assert_array_equal(painted(labels.shape, pairs), labels)


def test_yolo_by_supervision(folder, tmp_path):
    """It rounds the coordinates and paints the outline: up to a row and a column more."""
    sv = pytest.importorskip("supervision")
    y, x = np.mgrid[:360, :400]
    disk = ((x - 200) ** 2 + (y - 180) ** 2 < 170**2).astype(np.uint8)
    write_masks(tmp_path, {"disk": disk})
    (tmp_path / "images").mkdir()
    Image.new("RGB", (400, 360)).save(tmp_path / "images" / "disk.jpg")
    for root, masks in ((folder, SHOWN), (tmp_path, {"disk": disk})):
        out = convert(root, tmp_path / f"y{len(masks)}", "yolo")
        pictures = {name for name in masks if "/" not in name}  # it looks at one folder
        data = sv.DetectionDataset.from_yolo(str(root / "images"), str(out / "labels"), str(out / "data.yaml"))
        assert tuple(data.classes) == CLASSES
        seen = {place.split("/images/")[1][:-4]: things for place, _, things in data}
        assert set(seen) >= pictures
        for name in pictures:
            for label in range(1, len(CLASSES) + 1):
                if not (masks[name] == label).any():
                    continue
                got = np.any(seen[name].mask[seen[name].class_id == label - 1], axis=0)
                assert not (got & ~grown(masks[name] == label)).any()
                assert got[masks[name] == label].all()
    assert iou(got if name == "disk" else np.any(seen["disk"].mask, axis=0), disk == 1) >= 0.99


@pytest.mark.parametrize("instances", [False, True])
def test_label_studio_brush_by_its_sdk(folder, tmp_path, instances):
    brush = pytest.importorskip("label_studio_sdk.converter.brush")
    tasks = json.loads(
        convert(folder, tmp_path / "l.json", "label-studio", instances=instances).read_text(encoding="utf-8")
    )
    for (name, labels), task in zip(sorted(SHOWN.items()), sorted(tasks, key=key), strict=True):
        pairs = []
        for result in task["predictions"][0]["result"]:
            flat = brush.decode_rle(result["value"]["rle"])
            mask = flat.reshape(result["original_height"], result["original_width"], 4)[..., 3] > 0
            pairs.append((CLASSES.index(result["value"]["brushlabels"][0]) + 1, mask))
        np.testing.assert_array_equal(painted(labels.shape, pairs), labels, err_msg=name)


def key(task):
    from urllib.parse import unquote

    return unquote(task["data"]["image"].split("?d=")[1])[:-4]


@pytest.mark.parametrize("shapes", ["rle", "polygons"])
def test_label_studio_predictions_fit_the_config_by_its_sdk(folder, tmp_path, shapes):
    interface = pytest.importorskip("label_studio_sdk.label_interface").LabelInterface
    path = convert(folder, tmp_path / "l.json", "label-studio", shapes=shapes)
    config = interface(path.with_suffix(".xml").read_text(encoding="utf-8"))
    for task in json.loads(path.read_text(encoding="utf-8")):
        for prediction in task["predictions"]:
            assert config.validate_prediction(prediction, return_errors=True) == []


@pytest.mark.parametrize("instances", [False, True])
def test_cvat_by_datumaro(folder, tmp_path, instances):
    dm = pytest.importorskip("datumaro")
    with zipfile.ZipFile(convert(folder, tmp_path / "c.zip", "cvat", instances=instances)) as archive:
        archive.extractall(tmp_path / "tree")
    check_voc(dm, tmp_path / "tree", SHOWN, CLASSES)


def kept_by_cvat(mask):
    """A mask as CVAT stores it, run lengths of the rows of its box, and back."""
    y, x = np.nonzero(mask)
    box = (slice(y.min(), y.max() + 1), slice(x.min(), x.max() + 1))
    flat = mask[box].ravel()
    runs = np.diff([0, *(np.flatnonzero(np.diff(flat)) + 1), flat.size])
    back = np.zeros(mask.shape, bool)
    back[box] = np.repeat((np.arange(len(runs)) % 2 == 1) ^ flat[0], runs).reshape(back[box].shape)
    return back


@pytest.mark.parametrize("instances", [False, True])
@pytest.mark.parametrize("to", ["cvat", "coco"])
def test_cvat_keeps_holes_and_pieces(folder, tmp_path, to, instances):
    """As CVAT uploads: datumaro reads, and each mask becomes an object of its own, one per class or per region.

    Of "Segmentation mask 1.1" it makes polygons unless it is told not to: holes and more are lost.
    """
    dm = pytest.importorskip("datumaro")
    if to == "cvat":
        with zipfile.ZipFile(convert(folder, tmp_path / "c.zip", "cvat", instances=instances)) as archive:
            archive.extractall(tmp_path / "tree")
        data = dm.Dataset.import_from(str(tmp_path / "tree"), "voc_segmentation")
    else:
        (tmp_path / "tree" / "annotations").mkdir(parents=True)
        (tmp_path / "tree" / "images").symlink_to(folder / "images")
        place = tmp_path / "tree" / "annotations" / "instances_default.json"
        convert(folder, place, "coco", instances=instances)
        data = dm.Dataset.import_from(str(tmp_path / "tree"), "coco_instances")
    names = [label.name for label in data.categories()[dm.AnnotationType.label]]
    lost = 0
    for item in data:
        labels = SHOWN[item.id]
        masks = [a for a in item.annotations if a.type == dm.AnnotationType.mask]
        pairs = [(CLASSES.index(names[a.label]) + 1, np.asarray(a.image).astype(bool)) for a in masks]
        stored = [(label, kept_by_cvat(mask)) for label, mask in pairs]
        np.testing.assert_array_equal(painted(labels.shape, stored), labels, err_msg=item.id)
        regions = [len(trace(labels == label)[0]) for label in range(1, len(CLASSES) + 1)]
        assert len(masks) == (min(sum(regions), 254) if instances else np.count_nonzero(regions))
        polygons = dm.Dataset.from_iterable([item], categories=data.categories(), media_type=dm.Image)
        for each in polygons.transform("masks_to_polygons"):
            shapes = [a for a in each.annotations if a.type == dm.AnnotationType.polygon]
            back = np.zeros(labels.shape, int)
            for a in shapes:
                back[as_mask(a, labels.shape)] = CLASSES.index(names[a.label]) + 1
            lost += np.count_nonzero(back != labels)
    assert lost > 0.1 * sum(labels.size for labels in SHOWN.values())


@pytest.mark.parametrize("link", [False, True])
def test_ultralytics_semantic_by_its_loader(tmp_path, monkeypatch, link):
    """Its SemanticDataset finds every mask, accepts its ids, and loads every pixel, 255 as ignored."""
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path / "settings"))
    library = pytest.importorskip("ultralytics", minversion="8.4.52")
    masks = semantic_world(tmp_path)
    out = convert(tmp_path, tmp_path / "u", "ultralytics-semantic", link=link)
    monkeypatch.setattr("ultralytics.data.utils.check_font", lambda name: None)  # it would be fetched
    about = library.data.utils.check_det_dataset(str(out / "data.yaml"))
    assert about["nc"] == 1 + len(CLASSES)
    config = library.cfg.get_cfg(overrides={"task": "semantic", "imgsz": 32})
    data = library.data.build.build_yolo_dataset(config, about["train"], 1, about, mode="val", rect=False)
    assert type(data).__name__ == "SemanticDataset"
    assert len(data.labels) == len(masks)
    for index, label in enumerate(data.labels):
        name = label["im_file"].split("/images/")[1][:-4]
        np.testing.assert_array_equal(data.load_mask(index), masks[name])
    assert data[0]["semantic_mask"].max() == 255


def test_voc_by_datumaro(folder, tmp_path):
    dm = pytest.importorskip("datumaro")
    out = convert(folder, tmp_path / "v", "voc", instances=True)
    (out / "JPEGImages").symlink_to(folder / "images")
    check_voc(dm, out, SHOWN, CLASSES)


def check_voc(dm, root, masks, classes):
    data = dm.Dataset.import_from(str(root), "voc_segmentation")
    names = [label.name for label in data.categories()[dm.AnnotationType.label]]
    seen = set()
    for item in data:
        pairs = [
            (classes.index(names[a.label]) + 1, np.asarray(a.image).astype(bool))
            for a in item.annotations
            if names[a.label] in classes
        ]
        np.testing.assert_array_equal(painted(masks[item.id].shape, pairs), masks[item.id], err_msg=item.id)
        seen.add(item.id)
    assert seen == set(masks)


def test_geojson_by_shapely(folder, tmp_path):
    shapely = pytest.importorskip("shapely")
    out = convert(folder, tmp_path / "g", "geojson")
    for name, labels in SHOWN.items():
        features = json.loads((out / f"{name}.geojson").read_text(encoding="utf-8"))["features"]
        back = np.zeros(labels.shape, int)
        y, x = np.mgrid[: labels.shape[0], : labels.shape[1]] + 0.5
        for feature in features:
            polygon = shapely.from_geojson(json.dumps(feature["geometry"]))
            assert shapely.is_valid_reason(polygon) == "Valid Geometry"
            assert polygon.area == feature["properties"]["area"]
            assert polygon.exterior.is_ccw  # RFC 7946, 3.1.6
            assert not any(ring.is_ccw for ring in polygon.interiors)
            back[shapely.contains_xy(polygon, x, y)] = feature["properties"]["label"]
        np.testing.assert_array_equal(back, labels, err_msg=name)
