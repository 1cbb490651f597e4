"""Masks for annotation tools: every format read back by a decoder written here, outlines against scikit-image."""

import io
import json
import zipfile
from typing import get_args
from urllib.parse import unquote

import numpy as np
import pytest
import yaml
from mask_cases import CLASSES, blobs, even_odd, hard_masks, iou, write_masks
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from skimage.measure import label as connected

import tag2mask
from tag2mask import cli
from tag2mask.config.formats import MASK_FORMATS, RESULTS, OutputFormat
from tag2mask.data import open_data, read_mask, read_picture, voc_palette
from tag2mask.data.storage.pictures import opened, upright_size
from tag2mask.jobs.converting.masks import convert_masks
from tag2mask.outputs import FORMATS, LabeledPicture, OutputOptions, Wanted, check, writers
from tag2mask.outputs.outlines import trace
from tag2mask.outputs.polygons import ring_polygons, single_polygon
from tag2mask.outputs.rle import brush_rle, coco_counts, coco_string

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools

MASKS = hard_masks()
SUFFIX = {"coco": ".json", "label-studio": ".json", "cvat": ".zip"}


def random_masks(count):
    rng = np.random.default_rng(1)
    for i in range(count):
        size = tuple(rng.integers(1, 24, 2))
        yield rng.random(size) < rng.random() if i % 3 else blobs(rng, size, 1, free=0.5) > 0


def convert(folder, to, **options):
    out = folder / f"out-{to}-{len(list(folder.iterdir()))}{SUFFIX.get(to, '')}"
    images = options.pop("images", None)
    assert (
        convert_masks(folder / "masks", format=to, out=out, images=images, options=OutputOptions(**options)).out == out
    )
    return out


@pytest.fixture
def folder(tmp_path):
    write_masks(tmp_path, MASKS)
    return tmp_path


# --- outlines ---


def test_regions_are_those_of_scikit_image():
    for mask in random_masks(150):
        regions, owner = trace(mask)
        expected = connected(mask, connectivity=1)
        np.testing.assert_array_equal(owner, expected)
        assert [r.area for r in regions] == np.bincount(expected.ravel())[1:].tolist()
        for i, region in enumerate(regions, start=1):
            y, x = np.nonzero(expected == i)
            assert region.box == (x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1)


def test_rings_are_exact_simple_and_turned_the_right_way():
    for mask in random_masks(60):
        regions, owner = trace(mask)
        for i, region in enumerate(regions, start=1):
            rings = ring_polygons(region)
            np.testing.assert_array_equal(even_odd(rings, mask.shape), owner == i)
            for k, (x, y) in enumerate(ring.T for ring in rings):
                assert len({*zip(x, y, strict=True)}) == len(x)  # meets itself nowhere
                steps = np.abs(np.diff(np.stack([x, y]), axis=1, append=[[x[0]], [y[0]]])) > 0
                assert (steps.sum(0) == 1).all()
                assert (steps[0] != np.roll(steps[0], 1)).all()  # corners only
                assert ((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() > 0) == (k == 0)


def length(ring):
    return np.abs(ring - np.roll(ring, 1, axis=0)).sum()


@pytest.mark.parametrize("inset", [0, 0.02])
def test_single_polygons_are_exact_and_stay_on_the_region(inset):
    for mask in random_masks(60):
        regions, owner = trace(mask)
        for i, region in enumerate(regions, start=1):
            polygon = single_polygon(region, inset=inset)
            assert len(region.slits) == len(region.rings) - 1
            np.testing.assert_array_equal(even_odd([polygon], mask.shape), owner == i)
            coco = coco_mask.decode(coco_mask.frPyObjects([polygon.ravel().tolist()], *map(int, mask.shape)))[..., 0]
            np.testing.assert_array_equal(coco, owner == i)
            if not inset:  # nothing is walked twice but the slits
                cuts = sum(slit.stop - slit.start for slit in region.slits)
                assert length(polygon) == sum(map(length, region.rings)) + 2 * cuts
            if inset:  # the outline itself, cut down to whole pixels, is painted by some readers
                whole = polygon.astype(int)
                for (x0, y0), (x1, y1) in zip(whole, np.roll(whole, -1, axis=0), strict=True):
                    steps = max(abs(x1 - x0), abs(y1 - y0), 1)
                    assert min(abs(x1 - x0), abs(y1 - y0)) == 0 or steps == 1
                    for t in range(steps + 1):
                        assert owner[y0 + t * (y1 - y0) // steps, x0 + t * (x1 - x0) // steps] == i


def test_tolerance_is_kept_and_saves_points():
    y, x = np.mgrid[:120, :160]
    disk = (x - 80) ** 2 + (y - 60) ** 2 < 50**2
    disk &= (x - 70) ** 2 + (y - 55) ** 2 > 20**2
    (region,), _ = trace(disk)
    exact = single_polygon(region)
    for tolerance in (0.75, 1.0, 3.0):
        for points in (single_polygon(region, tolerance=tolerance), *ring_polygons(region, tolerance=tolerance)):
            assert len(points) < len(exact) / 2
        points = single_polygon(region, tolerance=tolerance)
        assert iou(even_odd([points], disk.shape), disk) > 1 - 0.03 * tolerance
        for corner in exact:
            assert min(distance(corner, a, b) for a, b in zip(points, np.roll(points, -1, 0), strict=True)) <= tolerance
    assert len(single_polygon(trace(np.ones((1, 1), bool))[0][0], tolerance=50)) == 4


def distance(point, a, b):
    along = np.subtract(b, a)
    part = np.clip(np.dot(point - a, along) / max(np.dot(along, along), 1e-12), 0, 1)
    return np.hypot(*(point - a - part * along))


def test_a_row_of_many_holes_needs_no_recursion():
    mask = np.ones((5, 5001), bool)
    mask[2, 1::2] = False
    (region,), _ = trace(mask)
    polygon = single_polygon(region)
    assert len(region.slits) == 2500
    assert len(polygon) == 4 + 2500 * (4 + 4)
    assert coco_mask.area(coco_mask.frPyObjects([polygon.ravel().tolist()], 5, 5001))[0] == mask.sum()


# --- run lengths ---


def brush_decode(data):
    """Label Studio's run lengths to bytes, bit by bit as its editor reads them."""
    bits = "".join(f"{byte:08b}" for byte in data)
    place = 0

    def read(n):
        nonlocal place
        place += n
        return int(bits[place - n : place], 2)

    total, word, widths = read(32), read(5) + 1, [read(4) + 1 for _ in range(4)]
    out = []
    while len(out) < total:
        run, length = read(1), read(widths[read(2)]) + 1
        out += [read(word)] * length if run else [read(word) for _ in range(length)]
    assert len(bits) - place < 8
    return np.array(out)


def test_coco_run_lengths_are_those_of_pycocotools():
    rng = np.random.default_rng(2)
    for mask in random_masks(80):
        before, after = rng.integers(0, 3, (2, 2))
        whole = np.pad(mask, tuple(zip(before, after, strict=True)))
        corner = (int(before[1]), int(before[0]))
        expected = coco_mask.encode(np.asfortranarray(whole.astype(np.uint8)))
        counts = coco_counts(mask, corner, whole.shape)
        assert coco_string(counts).encode() == expected["counts"]
        assert sum(counts) == whole.size


def test_brush_run_lengths_decode_to_the_picture():
    for mask in random_masks(25):
        whole = np.pad(mask, ((1, 2), (3, 0)))
        np.testing.assert_array_equal(brush_decode(brush_rle(mask, (3, 1), whole.shape)), whole.ravel().repeat(4) * 255)
    large = np.zeros((300, 400), bool)  # runs longer than 16 bits can say
    large[299, 399] = True
    for mask in (large, ~large):
        np.testing.assert_array_equal(brush_decode(brush_rle(mask, (0, 0), mask.shape)), mask.ravel().repeat(4) * 255)
    with pytest.raises(ValueError, match="polygons"):
        brush_rle(large, (0, 0), (2**15, 2**15))


# --- formats ---


@pytest.mark.parametrize("instances", [False, True])
@pytest.mark.parametrize("shapes", ["rle", "polygons"])
def test_coco(folder, shapes, instances):
    coco = COCO(convert(folder, "coco", shapes=shapes, instances=instances))
    assert {c["id"]: c["name"] for c in coco.dataset["categories"]} == dict(enumerate(CLASSES, start=1))
    assert {i["file_name"] for i in coco.imgs.values()} == {f"{name}.jpg" for name in MASKS}
    for image in coco.imgs.values():
        labels = MASKS[image["file_name"].removesuffix(".jpg")]
        assert (image["height"], image["width"]) == labels.shape
        back = np.zeros_like(labels)
        for annotation in coco.imgToAnns[image["id"]]:
            mask = coco.annToMask(annotation).astype(bool)
            assert not back[mask].any()
            back[mask] = annotation["category_id"]
            y, x = np.nonzero(mask)
            assert annotation["bbox"] == [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]
            assert annotation["area"] == mask.sum()
            assert annotation["iscrowd"] == 0
            if instances:
                assert connected(mask, connectivity=1).max() == 1
        np.testing.assert_array_equal(back, np.where(labels == 255, 0, labels))


def test_yolo(folder):
    out = convert(folder, "yolo")
    assert [line.split(": ")[1] for line in (out / "data.yaml").read_text("utf-8").splitlines()[4:]] == [
        json.dumps(name, ensure_ascii=False) for name in CLASSES
    ]
    assert {p.relative_to(out / "labels").as_posix() for p in (out / "labels").rglob("*.txt")} == {
        f"{name}.txt" for name in MASKS
    }
    for name, labels in MASKS.items():
        back = np.zeros_like(labels)
        for line in (out / "labels" / f"{name}.txt").read_text().splitlines():
            class_id, *numbers = line.split()
            points = np.array(numbers, float).reshape(-1, 2)
            assert len(points) >= 4
            assert ((points > 0) & (points < 1)).all()
            back[even_odd([points * labels.shape[::-1]], labels.shape)] = int(class_id) + 1
        np.testing.assert_array_equal(back, np.where(labels == 255, 0, labels))


@pytest.mark.parametrize("shapes", ["rle", "polygons"])
def test_label_studio(folder, shapes):
    out = convert(folder, "label-studio", shapes=shapes)
    tasks = json.loads(out.read_text("utf-8"))
    prefix = "/data/local-files/?d="
    names = [unquote(task["data"]["image"].removeprefix(prefix)).removesuffix(".jpg") for task in tasks]
    assert set(names) == set(MASKS)
    assert tasks[0]["data"]["image"].isascii()
    for name, task in zip(names, tasks, strict=True):
        labels = MASKS[name]
        back = np.zeros_like(labels)
        (prediction,) = task["predictions"]
        for result in prediction["result"]:
            assert (result["original_height"], result["original_width"]) == labels.shape
            value = result["value"]
            (label,) = value[result["type"]]
            if shapes == "rle":
                mask = brush_decode(value["rle"]).reshape(*labels.shape, 4)[..., 3] > 0
            else:
                mask = even_odd([np.array(value["points"]) / 100 * labels.shape[::-1]], labels.shape)
            back[mask] = CLASSES.index(label) + 1
        np.testing.assert_array_equal(back, np.where(labels == 255, 0, labels))
    config = out.with_suffix(".xml").read_text("utf-8")
    used = {(r["type"], r["from_name"]) for t in tasks for r in t["predictions"][0]["result"]}
    tag, kind = ("BrushLabels", "brushlabels") if shapes == "rle" else ("PolygonLabels", "polygonlabels")
    assert used == {(kind, "brush" if shapes == "rle" else "polygon")}
    assert f'<{tag} name="{used.pop()[1]}" toName="image">' in config


def test_geojson(folder):
    out = convert(folder, "geojson")
    assert {p.relative_to(out).as_posix() for p in out.rglob("*.geojson")} == {f"{name}.geojson" for name in MASKS}
    for name, labels in MASKS.items():
        collection = json.loads((out / f"{name}.geojson").read_text("utf-8"))
        assert collection["picture"] == {
            "file_name": f"{name}.jpg",
            "height": labels.shape[0],
            "width": labels.shape[1],
        }
        back = np.zeros_like(labels)
        for feature in collection["features"]:
            rings = feature["geometry"]["coordinates"]
            assert all(ring[0] == ring[-1] and len(ring) >= 5 for ring in rings)
            mask = even_odd([ring[:-1] for ring in rings], labels.shape)
            properties = feature["properties"]
            assert properties["area"] == mask.sum()
            assert properties["class"] == properties["classification"]["name"] == CLASSES[properties["label"] - 1]
            back[mask] = properties["label"]
        np.testing.assert_array_equal(back, np.where(labels == 255, 0, labels))


def colors_to_ids(rgb, colors):
    ids = np.full(rgb.shape[:2], -1)
    for i, color in enumerate(colors):
        ids[(rgb == np.array(color)).all(-1)] = i
    assert (ids >= 0).all()  # no undeclared color
    return ids


@pytest.mark.parametrize("instances", [False, True])
def test_cvat(folder, instances):
    out = convert(folder, "cvat", instances=instances)
    with zipfile.ZipFile(out) as archive:
        lines = archive.read("labelmap.txt").decode().splitlines()
        assert lines[0].startswith("#")
        fields = [line.split(":") for line in lines[1:]]
        assert [f[0] for f in fields] == ["background", *CLASSES]
        colors = [[int(v) for v in f[1].split(",")] for f in fields]
        listed = archive.read("ImageSets/Segmentation/default.txt").decode().splitlines()
        assert set(listed) == set(MASKS)
        for name, labels in MASKS.items():
            classes, objects = (
                np.array(Image.open(io.BytesIO(archive.read(f"Segmentation{kind}/{name}.png"))))
                for kind in ("Class", "Object")
            )
            shown = np.where(labels == 255, 0, labels)
            np.testing.assert_array_equal(colors_to_ids(classes, colors), shown)
            numbers = colors_to_ids(objects, voc_palette())
            np.testing.assert_array_equal(numbers > 0, shown > 0)
            expected = connected(shown, background=0, connectivity=1) if instances else shown
            pairs = np.unique(np.stack([numbers.ravel(), expected.ravel()]), axis=1)
            assert pairs.shape[1] == len(np.unique(numbers)) == len(np.unique(expected))


@pytest.mark.parametrize(("dots", "objects"), [(253, 254), (254, 253), (900, 253)])
def test_objects_that_a_palette_cannot_number_share_one(tmp_path, dots, objects):
    labels = np.zeros((80, 60), np.uint8)
    labels[10::2, ::2].flat[:dots] = 1
    labels[1:6, 1:6] = 2
    write_masks(tmp_path, {"a": labels})
    with zipfile.ZipFile(convert(tmp_path, "cvat", instances=True)) as archive:
        colors = np.array(Image.open(io.BytesIO(archive.read("SegmentationObject/a.png"))))
    numbers = colors_to_ids(colors, voc_palette())
    np.testing.assert_array_equal(numbers > 0, labels > 0)
    assert numbers.max() == objects
    assert len({(n, c) for n, c in zip(numbers.ravel(), labels.ravel(), strict=True)}) == numbers.max() + 1
    assert len(np.unique(numbers[labels == 2])) == 1


def test_voc_goes_back_into_this_package(folder):
    out = convert(folder, "voc", instances=True)
    for name, labels in MASKS.items():
        image = Image.open(out / "SegmentationClass" / f"{name}.png")
        assert image.mode == "P"
        np.testing.assert_array_equal(np.array(image), labels)
        objects = np.array(Image.open(out / "SegmentationObject" / f"{name}.png"))
        np.testing.assert_array_equal(objects == 255, labels == 255)
        np.testing.assert_array_equal(objects == 0, labels == 0)
    animals = {"a": np.array([[0, 1, 255], [2, 2, 0]], np.uint8)}
    write_masks(folder / "animals", animals, ("dog", "cat"))
    out = convert(folder / "animals", "voc")
    assert np.array(Image.open(out / "SegmentationClass" / "a.png")).tolist() == [[0, 12, 255], [8, 8, 0]]
    (out / "JPEGImages").mkdir()
    Image.new("RGB", (3, 2)).save(out / "JPEGImages" / "a.jpg")
    data = open_data(out, split="default", need_tags=False, data_format="voc")
    assert data.classes == ("dog", "cat")
    np.testing.assert_array_equal(read_mask(data.pictures[0].mask, data.mask_codes), animals["a"])
    assert convert_masks(out / "SegmentationClass", format="coco", out=folder / "c.json").classes == ("dog", "cat")


def semantic_world(root, suffix=".jpg"):
    """Masks of the usual kind with their pictures, one of them in a sub-folder and one with a 255."""
    rng = np.random.default_rng(4)
    masks = {"a b": blobs(rng, (20, 30), 3), "sub/größe": blobs(rng, (24, 16), 3, free=0.0)}
    masks["a b"][:5] = 255
    write_masks(root, masks)
    for name, labels in masks.items():
        path = root / "images" / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*labels.shape, 3), dtype=np.uint8)).save(path)
    return masks


@pytest.mark.parametrize("link", [False, True])
def test_ultralytics_semantic(tmp_path, link):
    masks = semantic_world(tmp_path)
    out = convert(tmp_path, "ultralytics-semantic", images=tmp_path / "images", link=link)
    for name, labels in masks.items():
        image = Image.open(out / "masks" / f"{name}.png")
        assert image.mode == "L"
        np.testing.assert_array_equal(np.array(image), labels)
        copy, picture = out / "images" / f"{name}.jpg", tmp_path / "images" / f"{name}.jpg"
        assert copy.read_bytes() == picture.read_bytes()
        assert copy.samefile(picture) == link
    about = yaml.safe_load((out / "data.yaml").read_text("utf-8"))
    assert about["names"] == dict(enumerate(["background", *CLASSES]))
    assert (about["masks_dir"], about["train"], about["val"]) == ("masks", "images", "images")
    assert len(list(out.rglob("*"))) == 9  # nothing but two pictures, two masks, their folders and data.yaml


def test_hf_imagefolder_by_datasets(tmp_path, monkeypatch):
    """Each row's mask is that of its picture; a.jpg and a.png in one folder are no matter."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    masks = semantic_world(tmp_path)
    Image.fromarray(masks["a b"]).save(tmp_path / "masks" / "a b.png.png")
    (tmp_path / "masks" / "a b.png").rename(tmp_path / "masks" / "a b.jpg.png")
    Image.new("RGB", masks["a b"].shape[::-1]).save(tmp_path / "images" / "a b.png")
    out = convert(tmp_path, "hf-imagefolder", images=tmp_path / "images")
    rows = datasets.load_dataset("imagefolder", data_dir=str(out), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(rows) == 3
    for row in rows:
        name = "sub/größe" if row["mask"].size[::-1] == masks["sub/größe"].shape else "a b"
        assert row["image"].size == row["mask"].size
        np.testing.assert_array_equal(np.array(row["mask"]), masks[name])
    assert json.loads((out / "id2label.json").read_text("utf-8"))["3"] == CLASSES[2]


def test_ultralytics_semantic_refuses_what_it_would_lose(tmp_path):
    semantic_world(tmp_path, ".gif")
    with pytest.raises(ValueError, match="writes the pictures too: give their folder"):
        convert(tmp_path, "ultralytics-semantic")
    with pytest.raises(ValueError, match=r"Ultralytics reads no \.gif: save a b\.gif as PNG"):
        convert(tmp_path, "ultralytics-semantic", images=tmp_path / "images")
    assert not list(tmp_path.glob("*out*"))


# --- the folder ---


def test_pictures_give_names_and_sizes(tmp_path):
    write_masks(tmp_path, {"a.jpg": np.ones((4, 6), np.uint8), "a.png": np.ones((4, 6), np.uint8)})
    images = tmp_path / "images"
    images.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (4, 6)).save(images / "a.jpg", exif=exif)  # shown as 6 wide, 4 high
    Image.new("RGB", (6, 4)).save(images / "a.png")
    for given in (images, None):
        tasks = json.loads(convert(tmp_path, "label-studio", images=given).read_text())
        assert [task["data"]["image"][-5:] for task in tasks] == ["a.jpg", "a.png"]
    assert len(COCO(convert(tmp_path, "coco")).imgs) == 2
    assert sorted(p.name for p in convert(tmp_path, "geojson").iterdir()) == ["a.jpg.geojson", "a.png.geojson"]
    for to in ("yolo", "cvat", "voc"):
        with pytest.raises(ValueError, match=r"both a\.jpg and a\.png"):
            convert(tmp_path, to)
    Image.new("RGB", (4, 6)).save(images / "a.png")
    with pytest.raises(ValueError, match="6 x 4"):
        convert(tmp_path, "coco", images=images)
    (tmp_path / "masks" / "a.png.png").rename(tmp_path / "masks" / "a.png")
    with pytest.raises(ValueError, match=r"2 pictures of the mask a\.png"):
        convert(tmp_path, "coco", images=images)
    (images / "a.jpg").unlink()
    with pytest.raises(ValueError, match=r"no picture of the mask a\.jpg"):
        convert(tmp_path, "coco", images=images)


def test_nothing_is_left_of_what_fails(tmp_path):
    write_masks(tmp_path, {"a": np.ones((3, 3), np.uint8), "b": np.full((3, 3), 4, np.uint8)})
    before = sorted(tmp_path.rglob("*"))
    for to in ("coco", "yolo", "label-studio", "cvat", "geojson", "voc"):
        with pytest.raises(ValueError, match="mask of b holds label 4, but there are 3 classes"):
            convert(tmp_path, to)
        assert sorted(tmp_path.rglob("*")) == before


def test_wrong_calls_say_what_is_needed(tmp_path):
    masks = write_masks(tmp_path, {"a": np.ones((3, 3), np.uint8)})
    with pytest.raises(ValueError, match=r"must end in \.json"):
        tag2mask.convert(masks, to="coco", out=tmp_path / "a.txt")
    (tmp_path / "a.xml").touch()
    for to, out in (("geojson", masks), ("label-studio", tmp_path / "a.json")):
        with pytest.raises(FileExistsError, match="exists"):
            tag2mask.convert(masks, to=to, out=out)
    with pytest.raises(ValueError, match="no format that can be written"):
        tag2mask.convert(masks, to="excel", out=tmp_path / "a")
    with pytest.raises(FileNotFoundError, match="no folder"):
        tag2mask.convert(tmp_path / "none", to="geojson", out=tmp_path / "a")
    with pytest.raises(ValueError, match="tolerance"):
        OutputOptions(tolerance=-1)
    with pytest.raises(ValueError, match="shapes"):
        OutputOptions(shapes="dots")
    for name, to in (("a:b", "cvat"), ("ignored", "voc")):
        (tmp_path / "classes.txt").write_text(name)
        with pytest.raises(ValueError, match=f"cannot hold the class '{name}'"):
            convert(tmp_path, to)
    (tmp_path / "classes.txt").write_text("kitty")
    write_masks(tmp_path, {"# 1": np.ones((3, 3), np.uint8)})
    for to in ("cvat", "voc"):
        with pytest.raises(ValueError, match="cannot hold the name '# 1'"):
            convert(tmp_path, to)
    (tmp_path / "classes.txt").write_text("dog\nzebra")
    with pytest.raises(ValueError, match="zebra are not among them"):
        convert(tmp_path, "voc")
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(FileNotFoundError, match="have no names"):
        convert(tmp_path, "coco")


def test_scores_come_with_the_objects(tmp_path):
    labels = np.array([[1, 0], [2, 2]], np.uint8)
    with writers(tmp_path, ["coco", "label-studio", "geojson", "png"], ("a", "b"), OutputOptions()) as add:
        add(LabeledPicture("x", "x.jpg", labels, {"a": 0.25, "b": 0.75}))
        assert not (tmp_path / "coco.json").exists()
    coco = json.loads((tmp_path / "coco.json").read_text())
    assert [a["score"] for a in coco["annotations"]] == [0.25, 0.75]
    (task,) = json.loads((tmp_path / "label-studio.json").read_text())
    assert task["predictions"][0]["score"] == 0.5
    features = json.loads((tmp_path / "geojson" / "x.geojson").read_text())["features"]
    assert [f["properties"]["score"] for f in features] == [0.25, 0.75]


# --- the commands ---


def test_convert_command(folder, capsys):
    words = ["convert", folder, "--to", "coco", "--out", folder / "c.json", "--instances"]
    assert cli.main([str(word) for word in words]) == 0
    said = capsys.readouterr().out
    assert "255" in said
    assert "--images" in said
    assert len(COCO(folder / "c.json").imgs) == len(MASKS)
    capsys.readouterr()
    words = ["convert", folder, "--to", "yolo", "--out", folder / "y", "--json"]
    assert cli.main([str(word) for word in words]) == 0
    assert json.loads(capsys.readouterr().out)["num_images"] == len(MASKS)
    assert cli.main([str(word) for word in words]) == 1
    assert "exists" in capsys.readouterr().err


def test_predict_writes_every_format(tmp_path, capsys):
    import torch

    from tag2mask import TrainConfig
    from tag2mask.models import build_network
    from tag2mask.runs.checkpoints import save_model

    torch.manual_seed(0)
    config = TrainConfig.preset("small", backbone="test_resnet", weights="none", image_size=64)
    model = build_network(config, CLASSES)
    model.segmenter[-1].weight.data.mul_(20)
    save_model(tmp_path / "m.safetensors", model, config)
    pictures = tmp_path / "pictures"
    (pictures / "sub").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("a b.jpg", "sub/a b.png", "c.jpg"):
        Image.fromarray(rng.integers(0, 255, (50, 66, 3), dtype=np.uint8)).save(pictures / name)
    (pictures / "broken.jpg").write_bytes(b"x")
    out = tmp_path / "out"
    formats = ["png", "coco", "yolo", "label-studio", "cvat", "geojson", "voc"]
    words = ["predict", tmp_path / "m.safetensors", pictures, "--out", out, "--json", "--format", *formats]
    assert cli.main([str(word) for word in words]) == 1  # for the broken one
    said = json.loads(capsys.readouterr().out)
    assert said["files"]["cvat"] == str(out / "cvat.zip")
    coco = COCO(out / "coco.json")
    assert {i["file_name"] for i in coco.imgs.values()} == {"a b.jpg", "sub/a b.png", "c.jpg"}
    for image in coco.imgs.values():
        mask = np.array(Image.open(out / "masks" / f"{image['file_name'][:-4]}.png"))
        back = sum(coco.annToMask(a) * a["category_id"] for a in coco.imgToAnns[image["id"]])
        np.testing.assert_array_equal(back, mask)
        assert mask.any()
    for place in ("yolo/labels/sub/a b.txt", "label-studio.xml", "geojson/c.geojson", "voc/SegmentationClass/c.png"):
        assert (out / place).is_file()
    assert (out / "classes.txt").read_text("utf-8").split("\n")[:-1] == list(CLASSES)
    first = (out / "coco.json").read_bytes()
    assert convert_masks(out, format="coco", out=tmp_path / "c.json", images=pictures).classes == CLASSES
    again = COCO(tmp_path / "c.json")
    assert sorted(a["area"] for a in again.anns.values()) == sorted(a["area"] for a in coco.anns.values())
    (pictures / "c.png").write_bytes((pictures / "c.jpg").read_bytes())
    assert cli.main([str(word) for word in words]) == 1
    assert "both c.jpg and c.png" in capsys.readouterr().err
    assert (out / "coco.json").read_bytes() == first


# --- what a format cannot hold is refused before any work ---

LONG = tuple(f"c{i}" for i in range(255))
REFUSED = {
    "coco": {"classes": [LONG], "pictures": []},
    "geojson": {"classes": [LONG], "pictures": []},
    "label-studio": {"classes": [LONG], "pictures": []},
    "yolo": {"classes": [LONG], "pictures": [("a.jpg", "A.png"), ("images/a.jpg",), ("sub/images/a.jpg",)]},
    "ultralytics-semantic": {
        "classes": [LONG],
        "pictures": [("a.jpg", "A.png"), ("images/a.jpg",), ("sub/images/a.jpg",), ("a.gif",), ("a",)],
    },
    "hf-imagefolder": {"classes": [LONG], "pictures": [("a.jpg", "A.jpg")]},
    "cvat": {
        "classes": [LONG, ("#x",), ("a:b",), ("a\nb",), (" a",), ("a ",), ("background",)],
        "pictures": [("#b.jpg",), (" a.jpg",), ("a .jpg",), ("a\nb.jpg",), ("a.jpg", "a.png")],
    },
    "voc": {
        "classes": [LONG, ("#x",), ("a:b",), (" a",), ("ignored",), ("cat", "zebra")],
        "pictures": [("#b.jpg",), (" a.jpg",), ("a .jpg",), ("a\u2028b.jpg",), ("a.jpg", "a.png")],
    },
}
"""Class lists and names of pictures that a format cannot hold; the others of this table it can."""
ODD_CLASSES = [("#x",), ("a:b",), (" a",), ("ignored",), ("a/b", 'c"d', "<e>&'f'"), ("cat", "zebra"), ("größe", "写真")]
ODD_PICTURES = [("#b.jpg",), (" a.jpg",), ("a .jpg",), ("a:b.jpg",), ("sub/#c.jpg",), ("a\nb.jpg",), ("a.jpg", "a.png")]


def refuses(to, classes=CLASSES, pictures=("a.jpg",), max_pixels=1000):
    try:
        check([to], Wanted(classes, pictures, OutputOptions(), max_pixels))
    except ValueError:
        return True
    return False


@pytest.mark.parametrize("to", REFUSED)
def test_each_format_refuses_what_it_cannot_hold_and_writes_the_rest(to, tmp_path):
    assert FORMATS.keys() == REFUSED.keys() == set(MASK_FORMATS)
    assert RESULTS.keys() == set(get_args(OutputFormat))
    for classes in REFUSED[to]["classes"]:
        assert refuses(to, classes=classes), classes
    for pictures in REFUSED[to]["pictures"]:
        assert refuses(to, pictures=pictures), pictures
    assert refuses(to, pictures=("a.jpg", "a.jpg"))
    labels = np.array([[1, 0], [1, 1]], np.uint8)
    Image.new("RGB", (2, 2)).save(tmp_path / "picture.jpg")
    held = [(c, ("a.jpg",)) for c in ODD_CLASSES] + [(CLASSES, p) for p in ODD_PICTURES]
    written = 0
    for number, (classes, pictures) in enumerate(held):
        if not refuses(to, classes, pictures):
            with FORMATS[to].writer(tmp_path / f"{number}{SUFFIX.get(to, '')}", classes, OutputOptions()) as add:
                for name in pictures:
                    add(LabeledPicture(name, name, labels, path=tmp_path / "picture.jpg"))
            written += 1
    assert written >= len(held) - 10, "whatever a check lets through is written"


@pytest.mark.parametrize("to", ["cvat", "voc"])
@pytest.mark.parametrize(
    ("classes", "name", "words"),
    [(("#x",), "a.jpg", "cannot hold the class '#x'"), (CLASSES, "#b.jpg", "cannot hold the name '#b'")],
)
def test_predict_refuses_a_name_before_it_predicts(to, classes, name, words, tmp_path):
    import torch

    from tag2mask import Segmenter, TrainConfig, predict
    from tag2mask.models import build_network

    config = TrainConfig.preset("small", backbone="test_resnet", weights="none", image_size=64)
    torch.manual_seed(0)
    segmenter = Segmenter(build_network(config, classes), config, device="cpu")
    (tmp_path / "in").mkdir()
    Image.new("RGB", (30, 20)).save(tmp_path / "in" / name)
    for _ in range(2):
        with pytest.raises(ValueError, match=words):
            predict(segmenter, tmp_path / "in", tmp_path / "out", formats=("png", "coco", to))
        assert not (tmp_path / "out").exists()
    assert predict(segmenter, tmp_path / "in", tmp_path / "out", formats=("png", "coco", "yolo")).complete


def test_convert_refuses_before_it_reads_a_mask(tmp_path):
    masks = write_masks(tmp_path, {"#b": np.ones((3, 3), np.uint8)})
    (masks / "c.png").write_bytes(b"no picture")
    for to in ("cvat", "voc"):
        with pytest.raises(ValueError, match="cannot hold the name '#b'"):
            convert(tmp_path, to)


def test_a_brush_that_is_too_large_is_refused_before_it_is_drawn(tmp_path):
    assert refuses("label-studio", max_pixels=2**30)
    assert not refuses("label-studio", max_pixels=2**30 - 1)
    check(["label-studio"], Wanted(CLASSES, ["a.jpg"], OutputOptions(shapes="polygons"), 2**30))
    with pytest.raises(ValueError, match="at most 1073741823 pixels"):
        brush_rle(np.ones((1, 1), bool), (0, 0), (2**15, 2**15))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["tif", "jpg", "png", "webp"])
def test_pictures_that_are_turned_fit_the_masks_of_predict(orientation, suffix, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "images").mkdir()
    Image.new("RGB", (40, 20)).save(tmp_path / f"images/a.{suffix}", exif=exif)
    size = (20, 40) if orientation < 5 else (40, 20)
    assert read_picture(tmp_path / f"images/a.{suffix}").shape[:2] == size
    with opened(tmp_path / f"images/a.{suffix}") as image:
        assert upright_size(image) == size
    write_masks(tmp_path, {"a": np.ones(size, np.uint8)})
    (image,) = json.loads(convert(tmp_path, "coco", images=tmp_path / "images").read_text())["images"]
    assert (image["height"], image["width"]) == size
    write_masks(tmp_path, {"a": np.ones(size[::-1], np.uint8)})
    with pytest.raises(ValueError, match="after EXIF rotation"):
        convert(tmp_path, "coco", images=tmp_path / "images")


def test_masks_of_one_name_and_pictures_without_mask_are_said(tmp_path):
    write_masks(tmp_path, {"a": np.ones((4, 4), np.uint8), "b": np.ones((4, 4), np.uint8)})
    (tmp_path / "images").mkdir()
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        Image.new("RGB", (4, 4)).save(tmp_path / "images" / name)
    Image.new("RGB", (4, 4)).save(tmp_path / "masks" / "lossy.jpg")
    made = convert_masks(tmp_path, format="coco", out=tmp_path / "c.json", images=tmp_path / "images")
    assert [(each.code, each.names) for each in made.findings] == [
        ("no_png", ("lossy.jpg",)), ("pictures_without_mask", ("c.jpg",))
    ]  # fmt: skip
    write_masks(tmp_path, {"a.jpg": np.ones((4, 4), np.uint8)})
    for images in (tmp_path / "images", None):
        with pytest.raises(ValueError, match=r"Two pictures are called 'a\.jpg'"):
            convert(tmp_path, "coco", images=images)
    (tmp_path / "masks" / "a.jpg.png").rename(tmp_path / "masks" / "a.PNG")
    if len(list((tmp_path / "masks").glob("a.*"))) == 2:
        with pytest.raises(ValueError, match="are masks of one name"):
            convert(tmp_path, "coco")
