"""The same forty pictures through every input format, one training, and its predictions in every output format.

Plain `pytest` writes the input by hand and reads the output with what the tests always have. `pytest -m formats` does
the same with the formats' own libraries on both sides; it needs the extra `formats`.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
import tarfile
import zipfile
from pathlib import Path
from urllib.parse import unquote

import data_formats
import numpy as np
import pytest
import torch
from data_formats import Tagged
from mask_cases import even_odd
from PIL import Image
from test_masks_in_readers import TOOLS, come_back
from test_output_readers import as_mask, check_voc, grown, painted, yolo_polygons
from test_outputs import brush_decode, colors_to_ids

from tag2mask import cli
from tag2mask.data import list_splits, open_data, read_picture, voc_palette
from tag2mask.data.builtin.shapes import write_builtin
from tag2mask.data.readers.voc import VOC_CLASSES
from tag2mask.inference.segmenter import Segmenter
from tag2mask.runs.checkpoints import save_model

NAMES = {"ball": "cat", "crate": "cow", "donut": "dog", "leaf": "horse", "starfish": "sheep"}
"""The classes of the built-in set under names of VOC, which --format comp6 needs."""
CLASSES = tuple(sorted(NAMES.values()))
TRAINING = [
    *("--backbone", "test_efficientnet", "--weights", "none", "--image-size", "64", "--augment.crop-size", "64"),
    *("--batch-size", "4", "--joint-batch-size", "2", "--tag-steps", "2", "--joint-steps", "2", "--workers", "0"),
    *("--sample-every", "0", "--trackers"),
]


def call(capsys, *words: object) -> dict[str, object]:
    """The object that a command prints with --json; it must end well."""
    code = cli.main([*map(str, words), "--json"])
    told = capsys.readouterr()
    assert code == 0, told.err
    return json.loads(told.out)


@pytest.fixture(scope="module")
def forty(tmp_path_factory) -> Tagged:
    """Forty pictures of the built-in set and their true tags; some show none of the classes, many several."""
    folder = write_builtin(tmp_path_factory.mktemp("forty") / "set", train=30, val=10, size=64)
    with (folder / "tags.csv").open(newline="") as file:
        rows = [(row["file_name"], row["tags"].split(";")) for row in csv.DictReader(file)]
    # new names: `datasets` takes train_0000.jpg for a picture of the split train
    files = {f"animal_{i:02d}.jpg": folder / "images" / name for i, (name, _) in enumerate(rows)}
    tags = {name: tuple(sorted(NAMES[tag] for tag in tags if tag)) for name, (_, tags) in zip(files, rows, strict=True)}
    assert len(tags) == 40
    assert {len(each) for each in tags.values()} >= {0, 1, 2}
    return Tagged(tags, CLASSES, lambda path: copied(files[path.name], path), (48, 64))


def copied(source: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, place)


# -- in ----------------------------------------------------------------------------------------------------------------


def hf_dataset(root: Path, made: Tagged) -> None:
    """As `datasets` saves a table of pictures and lists of ClassLabel."""
    from datasets import ClassLabel, Dataset, Features, List
    from datasets import Image as Picture

    loose = root.with_name("loose")
    made.write_all(loose)
    numbers = [[made.classes.index(tag) for tag in tags] for tags in made.tags.values()]
    features = Features({"image": Picture(), "tags": List(ClassLabel(names=list(made.classes)))})
    rows = {"image": [str(loose / name) for name in made.tags], "tags": numbers}
    Dataset.from_dict(rows, features=features).save_to_disk(root)
    shutil.rmtree(loose)


def webdataset_shards(root: Path, made: Tagged) -> None:
    """As `webdataset` writes samples, nine in a shard."""
    import webdataset

    root.mkdir()
    made.write_all(root.with_name("loose"))
    with webdataset.ShardWriter(str(root / "shard-%03d.tar"), maxcount=9, verbose=0) as sink:
        for name, tags in made.tags.items():
            picture = (root.with_name("loose") / name).read_bytes()
            sink.write({"__key__": Path(name).stem, "jpg": picture, "json": {"tags": list(tags)}})
    assert len(list(root.glob("*.tar"))) == 5


def with_datumaro(kind: str, root: Path, made: Tagged, val: bool = True) -> None:
    """As datumaro exports image tags and boxes; every fourth picture in val, or no splits."""
    import datumaro as dm

    loose = root.with_name("loose")
    made.write_all(loose)
    items = []
    shown = np.zeros(made.size, bool)
    shown[3:14, 2:22] = True
    for i, (name, tags) in enumerate(made.tags.items()):
        annotations = []
        for number, label in enumerate(map(made.classes.index, tags), start=1):
            annotations += [dm.Label(label), dm.Bbox(2, 3, 20, 11, label=label, id=number, group=number)]
            if kind == "voc":  # its lists for segmentation name what has masks
                annotations.append(dm.Mask(shown, label=label, id=number, group=number))
        subset = "default" if not val else "val" if i % 4 == 0 else "train"
        media = dm.Image.from_file(str(loose / name))
        items.append(dm.DatasetItem(id=Path(name).stem, subset=subset, annotations=annotations, media=media))
    data = dm.Dataset.from_iterable(items, categories=list(made.classes), media_type=dm.Image)
    data.export(str(root), kind, save_media=True)
    if kind == "voc":  # colored masks, and no file for a picture without objects, where VOC has one
        shutil.rmtree(root / "SegmentationClass")
        for name, tags in made.tags.items():
            path = (root / "Annotations" / name).with_suffix(".xml")
            assert path.is_file() == bool(tags)
            if not tags:
                path.write_text("<annotation></annotation>")


def with_label_studio(kind: str, root: Path, made: Tagged) -> None:
    """The tasks of the JSON export, written by Label Studio's own converter."""
    from label_studio_sdk.converter import Converter

    values = "".join(f'<Choice value="{name}"/>' for name in made.classes)
    config = (
        '<View><Image name="image" value="$image"/>'
        f'<Choices name="choice" toName="image" choice="multiple">{values}</Choices></View>'
    )
    tasks = root.with_name("tasks.json")
    data_formats.write_json(tasks, data_formats.label_studio_tasks(made)[:-1])
    Converter(config=config, project_dir=None).convert(str(tasks), str(root), kind, is_dir=False)
    made.write_all(root / "images")


BY_HAND = {
    "folder": ("folder", data_formats.plain_folder),
    "voc": ("voc", data_formats.voc_tree),
    "imagefolder": ("imagefolder", data_formats.imagefolder),
    **data_formats.WRITERS,
    "hf-dataset": ("hf-dataset", hf_dataset),
    "webdataset": ("webdataset", webdataset_shards),
}
"""data_format and writer; those two formats cannot be written by hand, their packages belong to the extra dev."""
BY_LIBRARY = {
    "voc, datumaro": ("voc", lambda root, made: with_datumaro("voc", root, made)),
    "coco, datumaro": ("coco", lambda root, made: with_datumaro("coco_instances", root, made)),
    "cvat, datumaro": ("cvat", lambda root, made: with_datumaro("cvat", root, made, val=False)),
    "yolo, datumaro": ("yolo", lambda root, made: with_datumaro("yolo_ultralytics", root, made)),
    "label-studio JSON": ("label-studio", lambda root, made: with_label_studio("JSON", root, made)),
    "label-studio JSON-MIN": ("label-studio", lambda root, made: with_label_studio("JSON_MIN", root, made)),
    "label-studio CSV": ("label-studio", lambda root, made: with_label_studio("CSV", root, made)),
}


def tags_by_file(root: Path) -> dict[str, tuple[str, ...]]:
    """The tags of the pictures of all splits, by the name of the file."""
    splits = list_splits(root) or ("train", "val")
    found = {}
    for pictures in (open_data(root, split=split, need_tags=False) for split in splits):
        for picture in pictures.pictures:
            assert Path(picture.name).name not in found
            found[Path(picture.name).name] = tuple(sorted(pictures.classes[i] for i in picture.tags))
    return found


def check_and_convert(name: str, data_format: str, root: Path, made: Tagged, capsys) -> None:
    """`check` finds the format and every picture, `convert` makes a plain folder with the true tags."""
    truth = dict(made.tags)
    if data_format == "imagefolder":
        truth = {picture: tuple(tag for tag in tags if tag != "background") for picture, tags in made.single.items()}
    report = call(capsys, "check", root)
    assert report["data_format"] == data_format
    assert report["fit"] is True
    assert sum(split["num_images"] for split in report["splits"].values()) == 40
    assert sum(split["num_broken"] for split in report["splits"].values()) == 0
    assert sum(split["num_negatives"] for split in report["splits"].values()) == list(truth.values()).count(())
    result = call(capsys, "convert", root, "--to", "folder", "--out", root.with_name("plain"))
    assert (result["num_images"], result["data_format"]) == (40, data_format)
    assert tags_by_file(root.with_name("plain")) == truth
    assert open_data(root.with_name("plain")).data_format == "folder"


def needs(name: str) -> None:
    for word, package in (("hf-", "datasets"), ("webdataset", "webdataset"), ("datumaro", "datumaro")):
        if word in name:
            pytest.importorskip(package)
    if name.startswith("label-studio "):
        pytest.importorskip("label_studio_sdk")


@pytest.mark.parametrize("name", BY_HAND)
def test_input(name, forty, tmp_path, capsys):
    needs(name if name in ("hf-dataset", "webdataset") else "")
    data_format, write = BY_HAND[name]
    write(tmp_path / "data", forty)
    check_and_convert(name, data_format, tmp_path / "data", forty, capsys)


@pytest.mark.formats
@pytest.mark.parametrize("name", BY_LIBRARY)
def test_input_written_by_its_library(name, forty, tmp_path, capsys):
    needs(name)
    data_format, write = BY_LIBRARY[name]
    write(tmp_path / "data", forty)
    check_and_convert(name, data_format, tmp_path / "data", forty, capsys)


@pytest.mark.formats
@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "imagefolder"])
def test_folders_are_what_their_libraries_read(name, forty, tmp_path):
    """No library writes these: `datasets` and torchvision read what the hand has written, with the same tags."""
    BY_HAND[name][1](tmp_path / "data", forty)
    if name == "imagefolder":
        theirs = pytest.importorskip("torchvision.datasets").ImageFolder(tmp_path / "data")
        found = {Path(path).name: (theirs.classes[label],) for path, label in theirs.samples}
        assert found == forty.single
        return
    datasets = pytest.importorskip("datasets")
    folder = str(tmp_path / "data")
    rows = datasets.load_dataset("imagefolder", data_dir=folder, split="train", cache_dir=str(tmp_path / "cache"))
    found = {}
    for row in rows.cast_column("image", datasets.Image(decode=False)):
        tags = row["tags"] if isinstance(row["tags"], list) else (row["tags"] or "").split(";")
        found[Path(row["image"]["path"]).name] = tuple(sorted(tag for tag in tags if tag))
    assert found == forty.tags


# -- one training ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(forty, tmp_path_factory) -> Path:
    """Trained for four steps on the CVAT export as it is; then the scores are centered, so that masks show all labels."""
    root = tmp_path_factory.mktemp("model")
    data_formats.cvat(root / "task", forty)
    assert cli.main(["train", "small", "--data", str(root / "task"), "--out", str(root / "run"), *TRAINING]) == 0
    trained = Segmenter.load(root / "run", device="cpu")
    assert trained.classes == CLASSES
    head = trained.model.segmenter[-1]
    head.weight.data.mul_(20)
    pictures = [read_picture(root / "task" / "images" / name) for name in forty.tags]
    maps = np.stack([maps.logits[0].mean((1, 2)) for maps, _ in trained.score_maps(pictures)])
    head.bias.data.sub_(torch.from_numpy(maps.mean(0)))
    save_model(root / "centered.safetensors", trained.model, trained.config)
    return root / "centered.safetensors"


# -- out ---------------------------------------------------------------------------------------------------------------

ALL = (
    "png",
    "coco",
    "yolo",
    "label-studio",
    "cvat",
    "geojson",
    "voc",
    "ultralytics-semantic",
    "hf-imagefolder",
    "comp6",
)


class Predicted:
    """The files of `predict --format ...` in their three kinds, and the masks that they must hold."""

    def __init__(self, root: Path) -> None:
        self.pictures = root / "pictures"
        self.plain, self.polygons, self.instances = (root / kind for kind in ("plain", "polygons", "instances"))
        files = sorted((self.plain / "masks").glob("*.png"))
        self.masks = {path.stem: np.array(Image.open(path)) for path in files}

    def objects(self) -> list[Path]:
        return [self.plain, self.polygons, self.instances]


def predicted(model: Path, forty: Tagged, root: Path, count: int) -> Predicted:
    for name in list(forty.tags)[:count]:
        forty.write(root / "pictures" / name)
    for kind, options in (("plain", []), ("polygons", ["--shapes", "polygons"]), ("instances", ["--instances"])):
        words = ["predict", model, root / "pictures", "--out", root / kind, "--format", *ALL, *options]
        assert cli.main([str(word) for word in words]) == 0
    made = Predicted(root)
    assert len(made.masks) == count
    assert set(np.unique(np.concatenate([mask.ravel() for mask in made.masks.values()]))) == set(range(6))
    for kind in (made.polygons, made.instances):
        for name, mask in made.masks.items():
            np.testing.assert_array_equal(np.array(Image.open(kind / "masks" / f"{name}.png")), mask)
    return made


@pytest.fixture(scope="module")
def some(model, forty, tmp_path_factory) -> Predicted:
    """Predictions of six pictures, which readers in Python manage."""
    return predicted(model, forty, tmp_path_factory.mktemp("some"), 6)


@pytest.fixture(scope="module")
def every(model, forty, tmp_path_factory) -> Predicted:
    """Predictions of all forty pictures."""
    return predicted(model, forty, tmp_path_factory.mktemp("every"), 40)


def compare(found: dict[str, np.ndarray], made: Predicted) -> None:
    assert found.keys() == made.masks.keys()
    for name, mask in made.masks.items():
        np.testing.assert_array_equal(found[name], mask, err_msg=name)


def coco_masks(coco) -> dict[str, np.ndarray]:
    """Labels by picture, of an object with the names of pycocotools' COCO."""
    assert [coco.cats[i]["name"] for i in sorted(coco.cats)] == list(CLASSES)
    found = {}
    for image in coco.imgs.values():
        things = coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]]))
        pairs = [(a["category_id"], np.asarray(coco.annToMask(a)).astype(bool)) for a in things]
        found[Path(image["file_name"]).stem] = painted((image["height"], image["width"]), pairs)
    return found


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
def test_coco(some):
    library = pytest.importorskip("pycocotools.coco")
    for kind in some.objects():
        compare(coco_masks(library.COCO(str(kind / "coco.json"))), some)


def test_yolo(some):
    for kind in some.objects():
        found = {}
        for name, mask in some.masks.items():
            found[name] = np.zeros(mask.shape, int)
            for label, points in yolo_polygons(kind / "yolo" / "labels" / f"{name}.txt", mask):
                found[name][even_odd([points], mask.shape)] = label
        compare(found, some)


def task_results(file: Path) -> dict[str, list[dict]]:
    tasks = json.loads(file.read_text(encoding="utf-8"))
    return {
        Path(unquote(task["data"]["image"]).split("?d=")[1]).stem: task["predictions"][0]["result"] for task in tasks
    }


def test_label_studio(some):
    for kind in (some.plain, some.polygons):
        found = {}
        for name, results in task_results(kind / "label-studio.json").items():
            size = some.masks[name].shape
            found[name] = np.zeros(size, int)
            for result in results:
                value, (label,) = result["value"], result["value"][result["type"]]
                if kind == some.plain:
                    shown = brush_decode(value["rle"]).reshape(*size, 4)[..., 3] > 0
                else:
                    shown = even_odd([np.array(value["points"]) / 100 * size[::-1]], size)
                found[name][shown] = CLASSES.index(label) + 1
        compare(found, some)


def test_cvat(some):
    for kind in some.objects():
        with zipfile.ZipFile(kind / "cvat.zip") as archive:
            fields = [line.split(":") for line in archive.read("labelmap.txt").decode().splitlines()[1:]]
            assert [field[0] for field in fields] == ["background", *CLASSES]
            colors = [[int(v) for v in field[1].split(",")] for field in fields]
            found = {
                name: colors_to_ids(np.array(Image.open(archive.open(f"SegmentationClass/{name}.png"))), colors)
                for name in archive.read("ImageSets/Segmentation/default.txt").decode().split()
            }
        compare(found, some)


def test_geojson(some):
    found = {}
    for name, mask in some.masks.items():
        found[name] = np.zeros(mask.shape, int)
        text = (some.plain / "geojson" / f"{name}.geojson").read_text(encoding="utf-8")
        for feature in json.loads(text)["features"]:
            rings = [ring[:-1] for ring in feature["geometry"]["coordinates"]]
            found[name][even_odd(rings, mask.shape)] = feature["properties"]["label"]
    compare(found, some)


@pytest.mark.parametrize("name", ["ultralytics-semantic", "hf-imagefolder"])
def test_pictures_and_masks(name, some):
    for kind in some.objects():
        root = kind / name
        compare({path.stem: np.array(Image.open(path)) for path in (root / "masks").iterdir()}, some)
        pictures = {path.name: path.read_bytes() for path in some.pictures.iterdir()}
        assert {path.name: path.read_bytes() for path in (root / "images").iterdir()} == pictures


VOC_IDS = np.array([0, *(VOC_CLASSES.index(name) + 1 for name in CLASSES)])


def test_voc_and_comp6(some):
    """Ids and colors of PASCAL VOC, as a tree and in the archive of its test server."""
    folder = "results/VOC2012/Segmentation/comp6_test_cls"
    with tarfile.open(some.plain / "results.tgz") as archive:
        names = [member.name for member in archive if member.isfile()]
        sent = {Path(name).stem: Image.open(io.BytesIO(archive.extractfile(name).read())) for name in names}
    assert set(names) == {f"{folder}/{name}.png" for name in some.masks}
    for name, mask in some.masks.items():
        tree = Image.open(some.plain / "voc" / "SegmentationClass" / f"{name}.png")
        for image in (tree, sent[name]):
            assert image.mode == "P"
            np.testing.assert_array_equal(np.reshape(image.getpalette(), (-1, 3)), voc_palette())
            np.testing.assert_array_equal(np.array(image), VOC_IDS[mask])


# -- out, by the libraries ---------------------------------------------------------------------------------------------


@pytest.mark.formats
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
@pytest.mark.parametrize("library", ["pycocotools.coco", "faster_coco_eval"])
def test_coco_by_its_libraries(every, library):
    reader = pytest.importorskip(library).COCO
    for kind in every.objects():
        compare(coco_masks(reader(str(kind / "coco.json"))), every)


@pytest.mark.formats
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
def test_coco_by_datumaro(every, tmp_path):
    dm = pytest.importorskip("datumaro")
    for kind in every.objects():
        root = tmp_path / kind.name
        copied(kind / "coco.json", root / "annotations" / "instances_default.json")
        shutil.copytree(every.pictures, root / "images")
        found = {}
        for item in dm.Dataset.import_from(str(root), "coco_instances"):
            size = every.masks[item.id].shape
            shapes = [a for a in item.annotations if a.type != dm.AnnotationType.bbox]  # it makes one of each box
            found[item.id] = painted(size, [(a.label + 1, as_mask(a, size)) for a in shapes])
        compare(found, every)


@pytest.mark.formats
def test_coco_and_yolo_by_supervision(every):
    """Run lengths to the pixel; it paints the outline of polygons too: up to a row and a column more."""
    sv = pytest.importorskip("supervision")
    images = str(every.pictures)
    rle, polygons = (
        sv.DetectionDataset.from_coco(images, annotations_path=str(kind / "coco.json"), force_masks=True)
        for kind in (every.plain, every.polygons)
    )
    yolo = every.plain / "yolo"
    yolo = sv.DetectionDataset.from_yolo(images, str(yolo / "labels"), str(yolo / "data.yaml"))
    for data in (rle, polygons, yolo):
        assert tuple(data.classes) == CLASSES
        seen = set()
        for place, _, things in data:
            mask = every.masks[Path(place).stem]
            seen.add(Path(place).stem)
            for label in range(1, len(CLASSES) + 1):
                own = [] if things.mask is None else things.mask[things.class_id == label - 1]
                shown = np.any(own, axis=0) if len(own) else np.zeros(mask.shape, bool)
                if data is rle:
                    np.testing.assert_array_equal(shown, mask == label)
                else:
                    assert not (shown & ~grown(mask == label)).any()
                    assert shown[mask == label].all()
        assert seen == set(every.masks)


@pytest.mark.formats
def test_yolo_as_ultralytics_paints_it(every):
    cv2 = pytest.importorskip("cv2")
    found = {}
    for name, mask in every.masks.items():
        pairs = []
        for label, points in yolo_polygons(every.plain / "yolo" / "labels" / f"{name}.txt", mask):
            canvas = np.zeros(mask.shape, np.uint8)
            cv2.fillPoly(canvas, [points.astype(np.int32)], 1)
            pairs.append((label, canvas.astype(bool)))
        found[name] = painted(mask.shape, pairs)
    compare(found, every)


@pytest.mark.formats
def test_label_studio_by_its_sdk(every):
    """Predictions fit the labeling interface; the brush holds every pixel."""
    brush = pytest.importorskip("label_studio_sdk.converter.brush")
    interface = pytest.importorskip("label_studio_sdk.label_interface").LabelInterface
    for kind in every.objects():
        config = interface((kind / "label-studio.xml").read_text(encoding="utf-8"))
        for task in json.loads((kind / "label-studio.json").read_text(encoding="utf-8")):
            assert config.validate_prediction(task["predictions"][0], return_errors=True) == []
    for kind in (every.plain, every.instances):
        found = {}
        for name, results in task_results(kind / "label-studio.json").items():
            size = every.masks[name].shape
            pairs = []
            for result in results:
                shown = brush.decode_rle(result["value"]["rle"]).reshape(*size, 4)[..., 3] > 0
                pairs.append((CLASSES.index(result["value"]["brushlabels"][0]) + 1, shown))
            found[name] = painted(size, pairs)
        compare(found, every)


@pytest.mark.formats
@pytest.mark.parametrize("kind", ["plain", "polygons", "instances"])
@pytest.mark.parametrize("tool", TOOLS)
def test_masks_come_back_through_the_tool(every, tmp_path, tool, kind):
    """predict, the tool's format, the tool's library, its export, masks: equal pixels."""
    through, data_format = TOOLS[tool]
    files = tmp_path / "files"
    shutil.copytree(getattr(every, kind), files)
    shutil.copytree(every.pictures, files / "images")
    rows = "".join(f"{path.name},\n" for path in sorted(every.pictures.iterdir()))
    photos = tmp_path / "photos"
    shutil.copytree(every.pictures, photos / "images")
    (photos / "tags.csv").write_text(f"file_name,tags\n{rows}")
    (photos / "classes.txt").write_text("\n".join(CLASSES))
    come_back(through(files, tmp_path / "tool"), photos, every.masks, tmp_path, data_format)


@pytest.mark.formats
def test_cvat_and_voc_by_datumaro(every, tmp_path):
    dm = pytest.importorskip("datumaro")
    for kind in every.objects():
        with zipfile.ZipFile(kind / "cvat.zip") as archive:
            archive.extractall(tmp_path / kind.name)
        for tree in (tmp_path / kind.name, kind / "voc"):
            if not (tree / "JPEGImages").exists():
                shutil.copytree(every.pictures, tree / "JPEGImages")
            check_voc(dm, tree, every.masks, CLASSES)


@pytest.mark.formats
def test_comp6_by_datumaro(every, tmp_path):
    """The masks of the archive, laid into a VOC tree, are masks of PASCAL VOC with its own twenty classes."""
    dm = pytest.importorskip("datumaro")
    with tarfile.open(every.plain / "results.tgz") as archive:
        archive.extractall(tmp_path, filter="data")
    tree = tmp_path / "tree"
    shutil.move(tmp_path / "results/VOC2012/Segmentation/comp6_test_cls", tree / "SegmentationClass")
    names = tree / "ImageSets" / "Segmentation" / "test.txt"
    names.parent.mkdir(parents=True)
    names.write_text("".join(f"{name}\n" for name in every.masks))
    shutil.copytree(every.pictures, tree / "JPEGImages")
    check_voc(dm, tree, every.masks, CLASSES)


@pytest.mark.formats
def test_geojson_by_shapely(every):
    shapely = pytest.importorskip("shapely")
    found = {}
    for name, mask in every.masks.items():
        found[name] = np.zeros(mask.shape, int)
        y, x = np.mgrid[: mask.shape[0], : mask.shape[1]] + 0.5
        text = (every.plain / "geojson" / f"{name}.geojson").read_text(encoding="utf-8")
        for feature in json.loads(text)["features"]:
            polygon = shapely.from_geojson(json.dumps(feature["geometry"]))
            assert shapely.is_valid_reason(polygon) == "Valid Geometry"
            found[name][shapely.contains_xy(polygon, x, y)] = feature["properties"]["label"]
    compare(found, every)
