"""Masks from annotation tools: every format, by files written here; tests/test_masks_in_readers.py has those of the tools."""

import base64
import io
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from mask_cases import CLASSES, blobs, even_odd, hard_masks, iou, write_masks
from PIL import Image
from pycocotools import mask as coco_library

import tag2mask
from tag2mask import cli
from tag2mask.data import DataError, open_data, read_mask, voc_palette
from tag2mask.data.exports import FORMATS, read_export
from tag2mask.data.exports.shapes import brush_mask, coco_lengths, coco_mask, ellipse, filled, outlined, rectangle
from tag2mask.jobs.converting.masks import convert_masks
from tag2mask.outputs import OutputOptions
from tag2mask.outputs.outlines import trace
from tag2mask.outputs.polygons import single_polygon
from tag2mask.outputs.rle import brush_rle, coco_counts, coco_string
from tag2mask.training.first_step import with_some_masks

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools

MASKS = hard_masks()
CAT, DOG, SIZE = 1, 2, (30, 40)


def data_set(root, names=("a.jpg", "b.jpg", "c.jpg"), classes=("cat", "dog"), sizes=None):
    """A plain folder of grey pictures, all tagged with all classes."""
    for name in names:
        path = root / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (sizes or {}).get(name, SIZE)[::-1]).save(path)
    rows = "".join(f'"{name}",{";".join(classes)}\n' for name in names)
    (root / "tags.csv").write_text(f"file_name,tags\n{rows}", encoding="utf-8")
    (root / "classes.txt").write_text("\n".join(classes), encoding="utf-8")
    return root


@pytest.fixture
def photos(tmp_path):
    return data_set(tmp_path / "photos")


def convert(source, photos, **options):
    out = photos.parent / f"out-{len(list(photos.parent.iterdir()))}"
    return tag2mask.convert(source, to="masks", data=photos, out=out, **options)


def written(result):
    """The masks of a folder by name."""
    return {
        path.relative_to(result.out).as_posix()[:-4]: np.array(Image.open(path))
        for path in sorted(result.out.rglob("*.png"))
    }


def codes(result):
    return [finding.code for finding in result.findings]


def found(result, code):
    return next(finding for finding in result.findings if finding.code == code)


def box(x, y, to_x, to_y, label, size=SIZE):
    mask = np.zeros(size, np.uint8)
    mask[y:to_y, x:to_x] = label
    return mask


# --- what predict and convert write comes back, pixel for pixel ---


def masks_and_photos(root, masks):
    """A folder with masks, and a data set of their pictures in photos/."""
    write_masks(root, masks)
    data_set(root / "photos", [f"{n}.jpg" for n in masks], CLASSES, {f"{n}.jpg": m.shape for n, m in masks.items()})
    return root


@pytest.fixture(scope="module")
def hard(tmp_path_factory):
    return masks_and_photos(tmp_path_factory.mktemp("hard"), MASKS)


def submitted(path):
    """Tasks with predictions, after somebody has submitted each as it is."""
    tasks = json.loads(path.read_text(encoding="utf-8"))
    for number, task in enumerate(tasks):
        task |= {"id": number, "annotations": [task["predictions"][0] | {"id": number, "was_cancelled": False}]}
    path.write_text(json.dumps(tasks), encoding="utf-8")


@pytest.mark.parametrize("instances", [False, True])
@pytest.mark.parametrize("shapes", ["rle", "polygons"])
@pytest.mark.parametrize("to", ["coco", "yolo", "label-studio", "cvat", "voc"])
def test_our_files_come_back(hard, tmp_path, to, shapes, instances):
    out = tmp_path / f"export{ {'coco': '.json', 'label-studio': '.json', 'cvat': '.zip'}.get(to, '') }"
    options = OutputOptions(shapes=shapes, instances=instances)
    convert_masks(hard / "masks", format=to, out=out, images=hard / "photos" / "images", options=options)
    if to == "label-studio":
        submitted(out)
    result = tag2mask.convert(out, to="masks", data=hard / "photos", out=tmp_path / "m", unlabeled="negative")
    assert result.data_format == {"voc": "cvat"}.get(to, to)
    assert result.classes == CLASSES
    masks = written(result)
    assert masks.keys() == MASKS.keys()
    for name, labels in MASKS.items():
        expected = labels if to == "voc" else np.where(labels == 255, 0, labels)
        np.testing.assert_array_equal(masks[name], expected, err_msg=name)


def test_they_teach_measure_and_lie_in_masks(photos, tmp_path):
    rng = np.random.default_rng(3)
    masks = {name: blobs(rng, SIZE, 2) for name in "abc"}
    write_masks(tmp_path / "made", masks, ("cat", "dog"))
    convert_masks(tmp_path / "made" / "masks", format="coco", out=tmp_path / "c.json")
    result = convert(tmp_path / "c.json", photos)
    assert (result.out / "classes.txt").read_text() == "cat\ndog\n"
    taught = with_some_masks(open_data(photos, split="train"), result.out)
    for picture in taught.pictures:
        np.testing.assert_array_equal(read_mask(picture.mask, taught.mask_codes), masks[picture.name[:-4]])
    shutil.copytree(result.out, photos / "masks")
    inside = [picture for split in ("train", "val") for picture in open_data(photos, split=split).pictures]
    assert all(picture.mask is not None for picture in inside)
    assert tag2mask.evaluate(masks=result.out, data=photos, split="train").miou == 1


# --- shapes ---


def test_polygons_of_corners_are_exact_and_others_are_those_of_pycocotools_but_for_the_edge():
    rng = np.random.default_rng(1)
    for i in range(40):
        mask = blobs(rng, (37, 52), 1, free=0.5) > 0 if i % 2 else rng.random((9, 12)) < 0.6
        regions, owner = trace(mask)
        for number, region in enumerate(regions, start=1):
            np.testing.assert_array_equal(drawn(filled, single_polygon(region), mask.shape), owner == number)
            np.testing.assert_array_equal(
                drawn(outlined, single_polygon(region, inset=0.02) + 0.01, mask.shape), owner == number
            )
    differ, edge = 0, 0
    for _ in range(50):
        turns = np.sort(rng.random(24)) * 2 * np.pi
        points = 60 + (20 + 25 * rng.random(24)) * np.stack([np.cos(turns), np.sin(turns)])
        size = (117, 125)
        ours = drawn(filled, points.T, size)
        np.testing.assert_array_equal(ours, even_odd([points.T], size))
        theirs = coco_library.decode(coco_library.frPyObjects([points.T.ravel().tolist()], *size))[..., 0] > 0
        around = coco_library.decode(coco_library.frPyObjects([points.T.ravel().tolist()], *size))[..., 0]
        around = sum(abs(np.diff(around.astype(int), axis=axis)).sum() for axis in (0, 1))
        differ, edge = differ + np.count_nonzero(ours != theirs), edge + around
    assert 0 < differ < 0.06 * edge


def drawn(fill, points, size):
    piece = fill(np.asarray(points, float), size)
    mask = np.zeros(size, bool)
    (x, y), (h, w) = piece.corner, piece.mask.shape
    mask[y : y + h, x : x + w] = piece.mask
    return mask


def test_shapes_that_leave_the_picture_are_cut():
    whole = np.ones((5, 7), bool)
    for fill in (filled, outlined):
        np.testing.assert_array_equal(drawn(fill, rectangle(-1e6, -3, 2e6, 99), (5, 7)), whole)
        assert not drawn(fill, rectangle(10, 1, 3, 3), (5, 7)).any()
        assert not drawn(fill, np.zeros((0, 2)), (5, 7)).any()
    np.testing.assert_array_equal(drawn(filled, rectangle(2, 1, 3, 2, 90), (5, 7)), box(0, 1, 2, 4, 1, (5, 7)) > 0)
    disk = drawn(filled, ellipse(30, 20, 20, 10, 90), (50, 60))
    y, x = np.mgrid[:50, :60] + 0.5
    assert iou(disk, ((x - 30) / 10) ** 2 + ((y - 20) / 20) ** 2 < 1) > 0.99


def test_run_lengths_are_read_as_they_are_written():
    rng = np.random.default_rng(2)
    for i in range(60):
        mask = np.asfortranarray(rng.random(tuple(rng.integers(1, 40, 2))) < rng.random())
        counts = coco_counts(mask, (0, 0), mask.shape)
        theirs = coco_library.encode(mask.astype(np.uint8))["counts"].decode()
        assert coco_lengths(theirs) == coco_lengths(coco_string(counts)) == counts
        for form in (theirs, counts):
            np.testing.assert_array_equal(coco_mask(form, mask.shape), mask)
        np.testing.assert_array_equal(brush_mask(brush_rle(mask, (0, 0), mask.shape), mask.shape), mask)
        if i % 10 == 0:
            soft = rng.integers(0, 256, mask.shape)
            np.testing.assert_array_equal(brush_mask(literal_brush(soft), mask.shape), soft >= 128)
    for wrong in ("0~", "P", "é"):
        with pytest.raises(ValueError, match=r"run lengths|ascii"):
            coco_lengths(wrong)
    for wrong in ([3, -1], [5], ["2", 2], None, [2**70]):
        with pytest.raises(ValueError, match="run lengths"):
            coco_mask(wrong, (2, 1))
    for wrong in ([1, 2], [256], ["x"], brush_rle(np.ones((3, 3), bool), (0, 0), (3, 3))[:-1]):
        with pytest.raises(ValueError, match="brush"):
            brush_mask(wrong, (3, 3))


def literal_brush(alpha):
    """Bytes as they stand, three at a time: the other kind of block that Label Studio's editor writes."""
    values = np.stack([np.zeros_like(alpha)] * 3 + [alpha], axis=-1).ravel().tolist()
    bits = f"{len(values):032b}{7:05b}{2:04b}{3:04b}{7:04b}{15:04b}"
    for start in range(0, len(values), 3):
        block = values[start : start + 3]
        bits += f"0{0:02b}{len(block) - 1:03b}" + "".join(f"{value:08b}" for value in block)
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


# --- COCO ---


def coco(root, annotations, names=("a.jpg",), categories=("cat", "dog"), size=SIZE, name="coco.json"):
    """A COCO file; annotations are (index of the picture, category, what else)."""
    data = {
        "images": [{"id": i, "file_name": n, "height": size[0], "width": size[1]} for i, n in enumerate(names)],
        "categories": [{"id": 10 * i, "name": n} for i, n in enumerate(categories, start=1)],
        "annotations": [
            {"id": i, "image_id": image, "category_id": 10 * (categories.index(category) + 1), "iscrowd": 0, **more}
            for i, (image, category, more) in enumerate(annotations)
        ],
    }
    path = root / name
    path.write_text(json.dumps(data))
    return path


def ring(x, y, to_x, to_y):
    return [x, y, to_x, y, to_x, to_y, x, to_y]


def lengths(mask):
    return coco_counts(mask > 0, (0, 0), mask.shape)


def test_coco_polygons_add_up_and_the_smaller_object_is_on_top(photos, tmp_path):
    crowd = {"segmentation": {"size": list(SIZE), "counts": lengths(box(0, 20, 40, 30, 1))}, "iscrowd": 1}
    path = coco(
        tmp_path,
        [
            (0, "dog", {"segmentation": [ring(5, 5, 8, 9)]}),
            (0, "cat", {"segmentation": [ring(2, 2, 12, 12), ring(20, 2, 30, 12)]}),
            (0, "dog", crowd),
        ],
    )
    result = convert(path, photos)
    expected = box(2, 2, 12, 12, CAT) + box(20, 2, 30, 12, CAT) + box(0, 20, 40, 30, DOG)
    expected[5:9, 5:8] = DOG
    np.testing.assert_array_equal(written(result)["a"], expected)
    assert codes(result) == ["crowds", "overlaps"]
    assert found(result, "crowds").names == ("a.jpg",)
    assert found(result, "overlaps").message.startswith(
        f"{path}: 1 picture with objects of several classes on one pixel (1.0%"
    )
    assert (result.data_format, result.num_masks, result.num_images, result.num_empty) == ("coco", 1, 3, 0)


def test_boxes_are_not_known_inside(photos, tmp_path):
    annotations = [
        (0, "cat", {"segmentation": [], "bbox": [2, 2, 20, 10]}),
        (0, "dog", {"segmentation": [ring(4, 4, 8, 8)]}),
    ]
    result = convert(coco(tmp_path, annotations), photos)
    expected = box(2, 2, 22, 12, 255)
    expected[4:8, 4:8] = DOG
    np.testing.assert_array_equal(written(result)["a"], expected)
    assert found(result, "boxes").count == 1
    assert result.ignored_share == pytest.approx((200 - 16) / 1200)
    with pytest.raises(DataError, match=r"No mask of .* would show a class.*1 picture with boxes.*Draw the objects"):
        convert(coco(tmp_path, annotations[:1]), photos)
    with pytest.raises(DataError, match="annotation 0 has neither segmentation nor bbox"):
        convert(coco(tmp_path, [(0, "cat", {})]), photos)


@pytest.mark.parametrize("others", ["ignore", "background"])
def test_classes_are_matched_by_name(photos, tmp_path, others):
    annotations = [
        (0, "zebra", {"segmentation": [ring(0, 0, 4, 4)]}),
        (0, "Cat", {"segmentation": [ring(10, 10, 14, 14)]}),
        (1, "background", {"segmentation": [ring(0, 0, 4, 4)]}),
        (1, "ignored", {"segmentation": [ring(5, 5, 9, 9)]}),
    ]
    path = coco(tmp_path, annotations, ("a.jpg", "b.jpg"), ("zebra", "Cat", "background", "ignored"))
    result = convert(path, photos, others=others)
    masks = written(result)
    other = 255 if others == "ignore" else 0
    np.testing.assert_array_equal(masks["a"], box(0, 0, 4, 4, other) + box(10, 10, 14, 14, CAT))
    np.testing.assert_array_equal(masks["b"], box(5, 5, 9, 9, 255))
    assert codes(result) == ["other_classes", "classes_not_drawn", "spelled_otherwise"]
    assert found(result, "other_classes").names == ("zebra: 1 picture",)
    assert found(result, "classes_not_drawn").names == ("dog",)
    assert found(result, "spelled_otherwise").names == ("Cat as cat",)
    assert result.classes == ("cat",)
    with pytest.raises(DataError, match="do not know dog"):  # they would teach that dogs are background
        with_some_masks(open_data(photos, split="train"), result.out)
    with (result.out / "classes.txt").open("a") as file:
        file.write("dog\n")
    with_some_masks(open_data(photos, split="train"), result.out)


def test_no_class_in_common_is_an_error(photos, tmp_path):
    path = coco(tmp_path, [(0, "zebra", {"segmentation": [ring(0, 0, 4, 4)]})], categories=("zebra", "horse"))
    with pytest.raises(
        DataError, match=r"No class in common: those of .*coco\.json are zebra, horse, those of .*photos cat, dog"
    ):
        convert(path, photos)
    labelme(tmp_path / "me", {"a.jpg": [("zebra", "polygon", [[1, 1], [9, 1], [9, 9]])]})
    with pytest.raises(DataError, match=r"No mask of .* would show a class.*1 class that .* does not have.*zebra 1"):
        convert(tmp_path / "me", photos)


def test_pictures_are_counted_and_named(photos, tmp_path):
    shape = {"segmentation": [ring(0, 0, 4, 4)]}
    names = ("x/a.jpg", "nowhere.jpg", "b.jpg", "c.jpg")
    path = coco(tmp_path, [(0, "cat", shape), (1, "cat", shape)], names)
    result = convert(path, photos)
    assert written(result).keys() == {"a"}
    assert found(result, "unlabeled").names == ("b.jpg", "c.jpg")
    assert found(result, "without_picture").names == ("nowhere.jpg",)
    assert written(convert(path, photos, unlabeled="negative")).keys() == {"a", "b", "c"}
    with pytest.raises(DataError, match=r"both mean the picture a\.jpg. Keep one"):
        convert(coco(tmp_path, [(0, "cat", shape), (1, "cat", shape)], ("x/a.jpg", "a.jpg")), photos)
    with pytest.raises(DataError, match=r"none of its 1 annotated picture is in .*for example z\.jpg; .*photos has"):
        convert(coco(tmp_path, [(0, "cat", shape)], ("z.jpg",)), photos)
    with pytest.raises(DataError, match=r"No mask can be made.* 1 of 1 picture without annotation: left out"):
        convert(coco(tmp_path, [], ("a.jpg",)), photos)


def test_other_sizes_are_left_out_and_named(photos, tmp_path):
    shape = {"segmentation": [ring(0, 0, 4, 4)]}
    path = coco(tmp_path, [(0, "cat", shape), (1, "cat", shape)], ("a.jpg", "b.jpg"))
    Image.new("RGB", (30, 40)).save(photos / "images" / "b.jpg")
    result = convert(path, photos)
    assert written(result).keys() == {"a"}
    (name,) = found(result, "broken_masks").names
    assert name == "b.jpg was drawn on 30 x 40 (height x width), the picture has 40 x 30 after EXIF rotation"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 40)).save(photos / "images" / "b.jpg", exif=exif)  # shown as 40 wide, 30 high
    assert written(convert(path, photos)).keys() == {"a", "b"}
    rle = {"segmentation": {"size": [40, 30], "counts": [1200]}}
    with pytest.raises(
        DataError, match=r"No mask can be made.*run lengths for \[40, 30\], but the picture has \[30, 40\]"
    ):
        convert(coco(tmp_path, [(0, "cat", rle)]), photos)
    (photos / "images" / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"1 mask left out\. a\.jpg: .*a\.jpg cannot be read as a picture"):
        convert(coco(tmp_path, [(0, "cat", shape)]), photos)


def test_pictures_of_one_stem_keep_their_suffix(tmp_path):
    photos = data_set(tmp_path / "photos", ("a.jpg", "a.png", "sub/größe 1.jpg"))
    shape = {"segmentation": [ring(0, 0, 4, 4)]}
    path = coco(tmp_path, [(0, "cat", shape), (1, "dog", shape)], ("a.png", "sub/gro\u0308ße 1.jpg"))
    result = convert(path, photos)
    assert written(result).keys() == {"a.png", "sub/größe 1"}
    files = {p.name: p.mask for p in with_some_masks(open_data(photos, split="train"), result.out).pictures}
    assert files.get("a.jpg") is None
    root = tmp_path / "y"
    yolo(root, {"a": "0 0.1 0.1 0.5 0.1 0.5 0.5\n"})
    with pytest.raises(DataError, match=r"'train/a' could be a\.jpg or a\.png in"):
        convert(root, photos)


# --- Label Studio ---


def region(kind, value, labels=("cat",), size=SIZE, **more):
    return {
        "id": more.pop("id", kind),
        "type": kind,
        "original_height": size[0],
        "original_width": size[1],
        "image_rotation": 0,
        "value": {**value, **({kind: list(labels)} if labels else {})},
        **more,
    }


def percent(x, y, to_x, to_y):
    return [[px * 100 / SIZE[1], py * 100 / SIZE[0]] for px, py in ((x, y), (to_x, y), (to_x, to_y), (x, to_y))]


def polygon(x, y, to_x, to_y, label="cat", **more):
    return region("polygonlabels", {"points": percent(x, y, to_x, to_y), "closed": True}, [label], **more)


def tasks(root, annotations, name="tasks.json", **more):
    """One task per entry: the picture, and its annotations or lists of regions."""
    made = [
        {
            "id": i,
            "data": {"image": image},
            "annotations": [each if isinstance(each, dict) else {"result": each} for each in done],
            **more,
        }
        for i, (image, done) in enumerate(annotations)
    ]
    path = root / name
    path.write_text(json.dumps(made))
    return path


def test_label_studio_regions(photos, tmp_path):
    brush = brush_rle(box(20, 5, 30, 25, 1) > 0, (0, 0), SIZE)
    regions = [
        polygon(2, 2, 12, 12),
        polygon(5, 5, 30, 15, "dog"),  # later, so on top, though it is larger
        region("brushlabels", {"format": "rle", "rle": brush}),
        region("rectanglelabels", {"x": 80, "y": 0, "width": 20, "height": 50, "rotation": 0}, ["dog"]),
        region("ellipselabels", {"x": 10, "y": 80, "radiusX": 5, "radiusY": 10, "rotation": 0}, ["dog"]),
        region("keypointlabels", {"x": 50, "y": 50, "width": 1}),
        region("choices", {"choices": ["good"]}, ()),
        region("polygon", {"points": percent(0, 0, 9, 9)}, ()),
    ]
    result = convert(tasks(tmp_path, [("/data/upload/3/0a1b2c3d-a.jpg", [regions])]), photos)
    expected = box(2, 2, 12, 12, CAT)
    expected[5:15, 5:30] = DOG
    expected[5:25, 20:30] = CAT
    expected[0:15, 32:40] = 255
    y, x = np.mgrid[:30, :40] + 0.5
    expected[((x - 4) / 2) ** 2 + ((y - 24) / 3) ** 2 < 1] = DOG
    np.testing.assert_array_equal(written(result)["a"], expected)
    assert result.data_format == "label-studio"
    assert codes(result) == ["not_painted", "boxes", "overlaps"]
    assert found(result, "not_painted").names == (
        "/data/upload/3/0a1b2c3d-a.jpg: keypointlabels",
        "/data/upload/3/0a1b2c3d-a.jpg: polygon without a label",
    )


def test_label_studio_annotations(photos, tmp_path):
    two = [
        {"result": [polygon(0, 0, 9, 9)], "updated_at": "2026-11-02"},
        {"result": [polygon(0, 0, 9, 9, "dog")], "updated_at": "2026-11-03"},
        {"result": [polygon(0, 0, 3, 3)], "updated_at": "2026-11-04", "was_cancelled": True},
    ]
    truth = [{**two[0], "ground_truth": True}, two[1]]
    path = tasks(tmp_path, [("a.jpg", two), ("s3://bucket/photos/b.jpg", truth), ("c.jpg", [[]])])
    result = convert(path, photos)
    masks = written(result)
    np.testing.assert_array_equal(masks["a"], box(0, 0, 9, 9, DOG))
    np.testing.assert_array_equal(masks["b"], box(0, 0, 9, 9, CAT))
    assert not masks["c"].any()  # somebody looked at it, and saw nothing
    assert result.num_empty == 1
    assert found(result, "several_annotations").count == 2
    path = tasks(tmp_path, [("a.jpg", []), ("b.jpg", [[polygon(0, 0, 9, 9)]])], predictions=[{"result": []}])
    result = convert(path, photos)
    assert codes(result) == ["predictions", "unlabeled"]
    assert found(result, "unlabeled").names == ("a.jpg",)
    turned = tasks(tmp_path, [("a.jpg", [[polygon(0, 0, 9, 9, image_rotation=90)]])])
    with pytest.raises(DataError, match=r"task 0: the picture was turned in Label Studio\. Turn it back"):
        convert(turned, photos)


def test_label_studio_with_labels_and_brush_apart_and_json_min(photos, tmp_path):
    """<Labels> with <Polygon>: two results of one region."""
    outline = {"points": percent(0, 0, 9, 9), "closed": True}
    halves = [region("polygon", outline, (), id="r"), region("labels", outline, ["dog"], id="r")]
    result = convert(tasks(tmp_path, [("a.jpg", [halves])]), photos)
    np.testing.assert_array_equal(written(result)["a"], box(0, 0, 9, 9, DOG))
    assert codes(result) == []
    flat = [
        {
            "image": "a.jpg",
            "id": 1,
            "annotation_id": 7,
            "shape": [{**outline, "polygonlabels": ["cat"], "original_width": 40, "original_height": 30}],
        },
        {"image": "b.jpg", "id": 2, "annotation_id": 8},
        {"image": "c.jpg", "id": 3},
    ]
    path = tmp_path / "min.json"
    path.write_text(json.dumps(flat))
    result = convert(path, photos)
    masks = written(result)
    np.testing.assert_array_equal(masks["a"], box(0, 0, 9, 9, CAT))
    assert masks.keys() == {"a", "b"}
    path.write_text(path.read_text().replace('"id": 1', f'"bytes": [{"255, " * 300_000}0], "id": 1'))
    assert convert(path, photos).num_masks == 2  # its first sign comes after a megabyte


# --- LabelMe ---


def labelme(root, pictures, size=SIZE):
    for name, shapes in pictures.items():
        data = {
            "version": "5.5.0",
            "flags": {},
            "shapes": [
                {
                    "label": label,
                    "points": points,
                    "group_id": None,
                    "shape_type": kind,
                    "flags": {},
                    "mask": None,
                    **dict(*more),
                }
                for label, kind, points, *more in shapes
            ],
            "imagePath": name,
            "imageData": None,
            "imageHeight": size[0],
            "imageWidth": size[1],
        }
        path = root / Path(name.replace("\\", "/")).with_suffix(".json").name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(data))


def as_text(mask):
    content = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8)).save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode()


def test_labelme_shapes(photos, tmp_path):
    ring = np.ones((5, 6), bool)
    ring[2, 2:4] = False
    shapes = [
        ("cat", "polygon", [[2, 2], [11.4, 2], [11.9, 11.9], [2, 11]]),
        ("dog", "polygon", [[5, 5], [29, 5], [29, 14], [5, 14]]),
        ("dog", "mask", [[30, 20], [35, 24]], {"mask": as_text(ring)}),
        ("cat", "rectangle", [[39, 29], [34, 0]]),
        ("dog", "circle", [[5, 22], [5, 26]]),
        ("cat", "point", [[1, 1]]),
        ("_background_", "polygon", [[5, 5], [7, 5], [7, 7], [5, 7]]),
        ("__ignore__", "polygon", [[10, 5], [12, 5], [12, 7], [10, 7]]),
    ]
    labelme(tmp_path / "me", {"..\\images\\a.jpg": shapes, "b.jpg": []})
    result = convert(tmp_path / "me", photos)
    masks = written(result)
    expected = box(34, 0, 39, 29, 255)
    expected[2:12, 2:12] = CAT
    expected[5:15, 5:30] = DOG
    expected[20:25, 30:36][ring] = DOG
    expected[5:8, 5:8] = 0
    expected[5:8, 10:13] = 255
    y, x = np.mgrid[:30, :40] + 0.5
    expected[(x - 5) ** 2 + (y - 22) ** 2 < 16] = DOG
    np.testing.assert_array_equal(masks["a"], expected)
    assert not masks["b"].any()
    assert codes(result) == ["not_painted", "boxes", "overlaps"]
    assert found(result, "not_painted").names == ("a.json shape 6: point",)
    assert (result.data_format, result.classes) == ("labelme", ("cat", "dog"))


def test_labelme_errors_name_the_shape(photos, tmp_path):
    for shape, says in (
        (("cat", "cube", [[1, 1]]), "a.json shape 1: 'cube' of 1 points is no shape"),
        (("cat", "polygon", [[1, "x"], [2, 2]]), "a.json shape 1: points must be pairs of numbers"),
        (("cat", "polygon", [[1, 1e300], [2, 2]]), "a.json shape 1: points must be pairs of numbers"),
        ((3, "polygon", [[1, 1]]), "a.json shape 1: must have a label"),
        (("cat", "mask", [[38, 1], [50, 9]], {"mask": as_text(np.ones((9, 13)))}), "leaves the picture"),
        (("cat", "mask", [[1, 1], [5, 5]], {"mask": "%%%"}), "a mask that is no picture"),
    ):
        shutil.rmtree(tmp_path / "me", ignore_errors=True)
        labelme(tmp_path / "me", {"a.jpg": [shape]})
        with pytest.raises(DataError, match=says):
            convert(tmp_path / "me", photos)


# --- YOLO ---


def yolo(root, labels, names="names: [cat, dog]\n", folder="labels/train"):
    (root / folder).mkdir(parents=True)
    for name, text in labels.items():
        (root / folder / f"{name}.txt").write_text(text)
    if names:
        (root / "data.yaml").write_text(names)


def line(class_id, x, y, to_x, to_y):
    """An outline as OpenCV finds it, on the outermost pixels, with six digits."""
    points = ((x, y), (to_x - 1, y), (to_x - 1, to_y - 1), (x, to_y - 1))
    return f"{class_id} " + " ".join(f"{round(px / SIZE[1], 6)} {round(py / SIZE[0], 6)}" for px, py in points) + "\n"


def test_yolo_labels(photos, tmp_path):
    labels = {
        "a": line(0, 2, 2, 30, 23) + line(1, 7, 7, 13, 11),
        "b": "",
        "c": line(1, 7, 7, 13, 11) + line(0, 2, 2, 30, 23) + "0 0.5 0.5 1 1\n",
    }
    yolo(tmp_path / "y", labels)
    result = convert(tmp_path / "y", photos)
    masks = written(result)
    expected = box(2, 2, 30, 23, CAT)
    expected[7:11, 7:13] = DOG
    np.testing.assert_array_equal(masks["a"], expected)
    np.testing.assert_array_equal(masks["c"], np.where(expected == 0, 255, expected))
    assert not masks["b"].any()
    assert codes(result) == ["boxes", "overlaps"]
    np.testing.assert_array_equal(written(convert(tmp_path / "y" / "data.yaml", photos))["a"], expected)


@pytest.mark.parametrize(
    ("text", "names", "says"),
    [
        ("2 0 0 1 0 1 1\n", "names: [cat, dog]\n", r"a\.txt line 1: there is no class 2"),
        ("0 0 0 1 0 1\n", "names: [cat, dog]\n", r"a\.txt line 1: 5 numbers after the class are no polygon"),
        ("0 0 0 1 0 1 1 1\n", "names: [cat, dog]\n", "points must be pairs"),
        ("0 0 0 x 0 1 1\n", "names: [cat, dog]\n", r"a\.txt line 1: could not convert"),
        ("0 0 0 nan 0 1 1\n", "names: [cat, dog]\n", "points must be pairs"),
        ("0 0 0 1 0 1 1\n", "names: [cat, dog]\nkpt_shape: [2, 3]\n", "poses are no masks"),
        ("0 0 0 1 0 1 1\n", "", "neither data.yaml with names nor classes.txt"),
    ],
)
def test_yolo_errors(photos, tmp_path, text, names, says):
    yolo(tmp_path / "y", {"a": text}, names)
    with pytest.raises(DataError, match=says):
        convert(tmp_path / "y", photos)


def test_darknet_labels_beside_the_pictures(photos, tmp_path):
    yolo(tmp_path / "y", {"a": line(1, 2, 2, 9, 9)}, "", folder="obj_train_data")
    (tmp_path / "y" / "obj.names").write_text("cat\ndog\n")
    (tmp_path / "y" / "obj.data").write_text("classes = 2\ntrain = train.txt\nnames = obj.names\n")
    (tmp_path / "y" / "train.txt").write_text("obj_train_data/a.jpg\n")
    np.testing.assert_array_equal(written(convert(tmp_path / "y", photos))["a"], box(2, 2, 9, 9, DOG))


# --- masks as PNG ---


def png(folder, masks, palette=None):
    folder.mkdir(parents=True, exist_ok=True)
    for name, mask in masks.items():
        image = Image.fromarray(np.asarray(mask).astype(np.uint8))
        if palette is not None:
            image.putpalette(np.asarray(palette).astype(np.uint8).tobytes())
        image.save(folder / f"{name}.png")
    return folder


def test_png_with_ids(photos, tmp_path):
    mask = box(2, 2, 12, 12, 1) + box(20, 2, 30, 12, 2) + box(0, 20, 9, 29, 255) + box(20, 20, 29, 29, 7)
    folder = png(tmp_path / "p" / "masks", {"a": mask, "b": np.zeros(SIZE)})
    with pytest.raises(DataError, match=r"labels of .*masks have no names.* give it as classes=FILE"):
        convert(folder.parent, photos)
    (folder.parent / "classes.txt").write_text("dog\ncat\n")
    expected = box(2, 2, 12, 12, DOG) + box(20, 2, 30, 12, CAT) + box(0, 20, 9, 29, 255) + box(20, 20, 29, 29, 255)
    for source in (folder, folder.parent):
        result = convert(source, photos)
        np.testing.assert_array_equal(written(result)["a"], expected)
        assert not written(result)["b"].any()
        assert found(result, "foreign_ids").names == ("a.jpg: id 7",)
        assert result.data_format == "png"
    result = convert(folder, photos, mask_ids=("7=cat", "255=background"))
    expected = np.where(mask == 7, CAT, np.where(mask == 255, 0, expected))
    np.testing.assert_array_equal(written(result)["a"], expected)
    (tmp_path / "list.txt").write_text("kitten\nwolf\n")
    with pytest.raises(DataError, match="No class in common"):
        convert(folder, photos, classes=tmp_path / "list.txt")
    with pytest.raises(ValueError, match="classes and mask_ids are for masks as PNG"):
        convert(coco(tmp_path, []), photos, mask_ids=("7=cat",))


@pytest.mark.parametrize("mode", ["ids", "palette", "rgb"])
def test_voc_masks(photos, tmp_path, mode):
    ids = box(2, 2, 12, 12, 8) + box(20, 2, 30, 12, 12) + box(0, 20, 9, 29, 255) + box(20, 20, 29, 29, 15)
    pixels = voc_palette()[ids] if mode == "rgb" else ids
    png(tmp_path / "voc" / "SegmentationClass", {"a": pixels}, voc_palette() if mode == "palette" else None)
    png(tmp_path / "voc" / "SegmentationObject", {"a": pixels})
    result = convert(tmp_path / "voc", photos)
    expected = box(2, 2, 12, 12, CAT) + box(20, 2, 30, 12, DOG) + box(0, 20, 9, 29, 255) + box(20, 20, 29, 29, 255)
    np.testing.assert_array_equal(written(result)["a"], expected)
    assert found(result, "other_classes").names == ("person: 1 picture",)
    assert result.data_format == "voc"


def test_colors(photos, tmp_path):
    rgb = np.zeros((*SIZE, 3), np.uint8)
    rgb[2:12, 2:12], rgb[2:12, 20:30], rgb[20:25, 20:25] = (250, 50, 10), (0, 200, 40), (9, 9, 9)
    folder = png(tmp_path / "x" / "SegmentationClass", {"a": rgb})
    with pytest.raises(DataError, match=r"No mask of .* would show a class.*a\.jpg: 9,9,9|No mask of .* would show"):
        convert(tmp_path / "x", photos)
    labels = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ndog:250,50,10::\ncat:0,200,40::\n"
    (folder.parent / "labelmap.txt").write_text(labels)
    result = convert(tmp_path / "x", photos)
    expected = box(2, 2, 12, 12, DOG) + box(20, 2, 30, 12, CAT) + box(20, 20, 25, 25, 255)
    np.testing.assert_array_equal(written(result)["a"], expected)
    assert found(result, "foreign_ids").names == ("a.jpg: 9,9,9",)
    assert result.data_format == "cvat"


def test_photographs_are_no_masks(photos, tmp_path):
    rng = np.random.default_rng(0)
    png(tmp_path / "p", {"a": rng.integers(0, 256, (*SIZE, 3))})
    (tmp_path / "p" / "classes.txt").write_text("cat\ndog\n")
    with pytest.raises(DataError, match="in colors that are none of the VOC palette"):
        convert(tmp_path / "p", photos)
    png(tmp_path / "p", {"a": np.full((9, 9), 1)})
    with pytest.raises(DataError, match="was drawn on 9 x 9"):
        convert(tmp_path / "p", photos)


# --- which format it is ---


def zipped(folder, path, inside=""):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, inside + file.relative_to(folder).as_posix())
    return path


def every_kind(root):
    """A small export of each format: one cat in a.jpg."""
    cat = box(2, 2, 12, 12, CAT)
    (root / "coco" / "annotations").mkdir(parents=True)
    coco(
        root / "coco" / "annotations",
        [(0, "cat", {"segmentation": [ring(2, 2, 12, 12)]})],
        name="instances_default.json",
    )
    (root / "label-studio").mkdir()
    tasks(root / "label-studio", [("a.jpg", [[polygon(2, 2, 12, 12)]])])
    labelme(root / "labelme", {"a.jpg": [("cat", "polygon", [[2, 2], [11, 2], [11, 11], [2, 11]])]})
    yolo(root / "yolo", {"a": line(0, 2, 2, 12, 12)})
    png(root / "png", {"a": cat})
    (root / "png" / "classes.txt").write_text("cat\ndog\n")
    png(root / "voc" / "SegmentationClass", {"a": 8 * cat})
    png(root / "cvat" / "SegmentationClass", {"a": voc_palette()[cat]})
    (root / "cvat" / "labelmap.txt").write_text("background:0,0,0::\ncat:128,0,0::\ndog:0,128,0::\n")
    return ("coco", "label-studio", "labelme", "yolo", "png", "voc", "cvat"), cat


def test_every_format_is_told_by_its_files_in_a_folder_and_in_a_zip(photos, tmp_path):
    kinds, cat = every_kind(tmp_path / "e")
    for kind in kinds:
        folder = tmp_path / "e" / kind
        for number, inside in enumerate(("", "task 3/", "a/b/")):
            path = zipped(folder, tmp_path / f"{kind}{number}.zip", inside)
            for source in (folder, path) if not number else (path,):
                result = convert(source, photos)
                assert result.data_format == kind
                np.testing.assert_array_equal(written(result)["a"], cat, err_msg=kind)
                assert not any("/tmp" in each.message.replace(str(tmp_path), "") for each in result.findings)
    assert set(kinds) == {*FORMATS, "voc"}


def test_two_formats_and_none_are_errors(photos, tmp_path):
    every_kind(tmp_path / "e")
    both = tmp_path / "both"
    shutil.copytree(tmp_path / "e" / "yolo", both)
    shutil.copy(tmp_path / "e" / "label-studio" / "tasks.json", both)
    with pytest.raises(
        DataError, match=r"may be label-studio \(.*tasks\.json\) or yolo \(.*both\). Give the file or folder"
    ):
        convert(both, photos)
    assert convert(both / "tasks.json", photos).data_format == "label-studio"
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(
        FileNotFoundError, match=r"is no export of masks\. Looked for: SegmentationClass/.*LabelMe.*YOLO"
    ):
        convert(empty, photos)
    (empty / "annotations.xml").write_text("<?xml version='1.0'?>\n<annotations></annotations>")
    with pytest.raises(FileNotFoundError, match=r"export the task as Segmentation mask 1\.1 instead"):
        convert(empty, photos)
    (tmp_path / "x.json").write_text('{"x": 1}')
    with pytest.raises(FileNotFoundError, match=r"x\.json is no export of masks"):
        convert(tmp_path / "x.json", photos)
    with pytest.raises(FileNotFoundError, match=r"There is no .*nowhere"):
        convert(tmp_path / "nowhere", photos)
    pictures = data_set(tmp_path / "data")
    Image.new("RGB", (4, 4)).save(pictures / "images" / "d.png")
    with pytest.raises(FileNotFoundError, match="is no export of masks"):
        convert(pictures, photos)


def test_strangers_zips(photos, tmp_path):
    every_kind(tmp_path / "e")
    whole = zipped(tmp_path / "e" / "coco", tmp_path / "good.zip")
    cut = tmp_path / "cut.zip"
    cut.write_bytes(whole.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"cut\.zip cannot be read as a zip file"):
        convert(cut, photos)
    for name, says in (("../out.json", "leaves the picture folder"), ("/etc/out.json", "leaves the picture folder")):
        with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
            archive.writestr(name, "{}")
        with pytest.raises(DataError, match=says):
            convert(tmp_path / "bad.zip", photos)
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        link = zipfile.ZipInfo("link.json")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match=r"link\.json is a link or device"):
        convert(tmp_path / "link.zip", photos)
    with zipfile.ZipFile(tmp_path / "large.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("large.json", "{}")
        archive.filelist[0].file_size = 2**60
    with pytest.raises(DataError, match=r"would need .* bytes in .*Unpack it elsewhere"):
        convert(tmp_path / "large.zip", photos)
    (tmp_path / "e" / "coco" / "annotations" / "out.json").symlink_to("/etc/hostname")
    with pytest.raises(DataError, match="is a link that leaves the data folder"):
        convert(tmp_path / "e" / "coco", photos)


def test_nothing_is_left_of_what_fails(photos, tmp_path):
    path = coco(tmp_path, [(0, "cat", {"segmentation": {"size": list(SIZE), "counts": [3]}})])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match="No mask can be made"):
        tag2mask.convert(path, to="masks", data=photos, out=tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(FileExistsError, match="exists"):
        tag2mask.convert(path, to="masks", data=photos, out=photos)
    with pytest.raises(ValueError, match="to='masks' and data go together"):
        tag2mask.convert(path, to="masks", out=tmp_path / "out")
    with pytest.raises(ValueError, match="go together"):
        tag2mask.convert(photos, to="folder", data=photos, out=tmp_path / "out")


def test_the_reader_looks_at_no_mask_before_it_is_painted(photos, tmp_path):
    """An export of thousands of pictures is listed without a decoded mask in memory."""
    path = coco(tmp_path, [(0, "cat", {"segmentation": {"size": list(SIZE), "counts": "!"}})])
    assert len(read_export(path).pictures) == 1


def test_command(photos, tmp_path, capsys):
    path = coco(tmp_path, [(0, "cat", {"segmentation": [ring(2, 2, 12, 12)]})])
    words = ["convert", str(path), "--to", "masks", "--data", str(photos), "--out", str(tmp_path / "corrected")]
    assert cli.main(words) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == f"{path} is COCO JSON: 1 masks (0 without object) of the 3 pictures of {photos}"
    assert told[-2] == f"masks: {tmp_path / 'corrected'}"
    assert told[-1] == f"next: tag2mask train small --data {photos} --masks-for-some {tmp_path / 'corrected'}"
    shutil.rmtree(tmp_path / "corrected")
    assert cli.main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data_format"] == "coco"
    assert cli.main(["convert", str(path), "--to", "masks", "--out", str(tmp_path / "x")]) == 1
    assert "--to masks and --data go together" in capsys.readouterr().err
