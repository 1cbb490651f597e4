"""Fuzz what strangers send: mutated pictures, masks, tag files of every format, settings, weights.

    python tools/fuzz_files.py --cases 20000 --seed 0        so many cases, spread over the families
    python tools/fuzz_files.py --seconds 600 --seed 1        so long
    python tools/fuzz_files.py --repeat tags:123 --seed 0    one case again, with its traceback

Each case takes a good file, damages it, and lets the package read it. Allowed are a result that is sane, or one of the
package's own errors whose message names the file; anything else is a finding, and so is a case that takes more than
20 seconds of work or 4 GiB. The work is done by child processes, so a crash of the interpreter is a finding as well.
The files of a finding are kept below --keep. Same seed, same cases. `tools/fuzz.py` is for the compiled core.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import json
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

FAMILIES = {
    "pictures": 0.25, "masks": 0.1, "tags": 0.3, "exports": 0.15, "configs": 0.08, "weights": 0.1, "onnx": 0.02,
}  # fmt: skip
"""Share of the cases."""
CPU_SECONDS, SILENT_SECONDS, MEMORY = 20, 300, 4 << 30
"""Most work of a case; most wall time without a new case; most memory of pictures, masks, tags and settings."""

Files = dict[str, bytes]
"""Relative path to content; the first is the one that is damaged."""


# -- damage ------------------------------------------------------------------------------------------------------------

BYTES = (
    b"\x00",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\x00\x00\x00\x00",
    b"\xef\xbb\xbf",
)
TOKENS = (
    "../", "/", "..", "\\", "C:\\", "\x00", "\n", "\r\n", "\r", '"', "'", ";", ",", "\t", ":", "[", "]", "{", "}",
    "<", ">", "&", "&amp;", "<!DOCTYPE a [<!ENTITY b 'c'>]>", "\\ud800", "\ud7ff", "\ufeff", "\u2028", "😀", "é",
    "null", "true", "NaN", "Infinity", "-1", "0", "1e999", "9" * 30, "9" * 5000, "[" * 2000, '{"a":' * 300, "a" * 300,
    "file_name", "tags", "http://[x", "/data/local-files/?d=../../x", "*a", "&a [*a]", "!!python/object:os.system",
    "2001-99-99", "cat",
)  # fmt: skip


def damaged(draw: random.Random, data: bytes, *, text: bool) -> bytes:
    """`data` after one to four accidents."""
    for _ in range(draw.choice((1, 1, 2, 4))):
        data = draw.choice(_TEXT_ACCIDENTS if text and draw.random() < 0.7 else _ACCIDENTS)(draw, data)
    if data.startswith(b"\x89PNG") and draw.random() < 0.7:
        data = _with_checksums(data)
    return data


def _flip(draw: random.Random, data: bytes) -> bytes:
    at, out = draw.randrange(len(data) + 1), bytearray(data)
    for place in range(at, min(len(out), at + draw.choice((1, 1, 4)))):
        out[place] ^= 1 << draw.randrange(8)
    return bytes(out)


def _set(draw: random.Random, data: bytes) -> bytes:
    at, new = draw.randrange(len(data) + 1), draw.choice(BYTES)
    return data[:at] + new + data[at + len(new) :]


def _cut(draw: random.Random, data: bytes) -> bytes:
    return data[: draw.randrange(len(data) + 1)]


def _drop(draw: random.Random, data: bytes) -> bytes:
    at = draw.randrange(len(data) + 1)
    return data[:at] + data[at + draw.choice((1, 2, 16, 200)) :]


def _repeat(draw: random.Random, data: bytes) -> bytes:
    at, size = draw.randrange(len(data) + 1), draw.choice((1, 8, 64))
    return data[:at] + data[at : at + size] * draw.choice((2, 3, 50)) + data[at + size :]


def _token(draw: random.Random, data: bytes) -> bytes:
    at = draw.randrange(len(data) + 1)
    return data[:at] + draw.choice(TOKENS).encode("utf-8", "surrogatepass") + data[at + draw.choice((0, 0, 1, 5)) :]


def _recode(draw: random.Random, data: bytes) -> bytes:
    return data.decode("utf-8", "replace").encode(draw.choice(("cp1252", "utf-16", "utf-8-sig")), "replace")


_ACCIDENTS: tuple[Callable[[random.Random, bytes], bytes], ...] = (_flip, _flip, _set, _set, _cut, _drop, _repeat)
_TEXT_ACCIDENTS: tuple[Callable[[random.Random, bytes], bytes], ...] = (_token, _token, _token, _token, _recode)


def _with_checksums(data: bytes) -> bytes:
    """A PNG whose chunks have right checksums, so that the damage is read."""
    out, at = bytearray(data), 8
    while at + 12 <= len(out):
        size = int.from_bytes(out[at : at + 4])
        end = at + 8 + size
        if end + 4 > len(out):
            break
        out[end : end + 4] = zlib.crc32(out[at + 4 : end]).to_bytes(4)
        at = end + 4
    return bytes(out)


# -- good files --------------------------------------------------------------------------------------------------------


def _picture(mode: str = "RGB", side: int = 9, **options: Any) -> bytes:
    from PIL import Image

    shades = random.Random(side)
    image = Image.new("RGB", (side, side + 2))
    image.putdata([tuple(shades.randrange(256) for _ in range(3)) for _ in range(side * (side + 2))])
    file = io.BytesIO()
    if mode == "I;16":
        image = Image.new("I;16", (side, side), 4000)
    (image if mode in ("RGB", "I;16") else image.convert(mode)).save(file, **options)
    return file.getvalue()


def picture_files() -> list[Files]:
    """A file of each kind of picture."""
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a picture"
    frames = [Image.new("RGB", (9, 11), color) for color in ("red", "green", "blue")]
    animated = {"save_all": True, "append_images": frames}
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("RGB", {"format": "PNG"}), ("P", {"format": "PNG"}), ("L", {"format": "PNG"}), ("LA", {"format": "PNG"}),
        ("RGBA", {"format": "PNG", "exif": exif}), ("I;16", {"format": "PNG"}), ("1", {"format": "PNG"}),
        ("RGB", {"format": "PNG", **animated}), ("RGB", {"format": "JPEG", "exif": exif}), ("CMYK", {"format": "JPEG"}),
        ("RGB", {"format": "JPEG", "progressive": True, "icc_profile": b"profile" * 40}), ("P", {"format": "GIF"}),
        ("RGB", {"format": "GIF", **animated}), ("RGB", {"format": "WEBP", "exif": exif}),
        ("RGBA", {"format": "WEBP", "lossless": True}), ("RGB", {"format": "WEBP", **animated}),
        ("RGB", {"format": "BMP"}), ("P", {"format": "BMP"}), ("RGB", {"format": "TIFF"}), ("F", {"format": "TIFF"}),
        ("RGB", {"format": "TIFF", "compression": "tiff_lzw"}), ("L", {"format": "TIFF", "compression": "packbits"}),
        ("RGB", {"format": "PPM"}), ("RGB", {"format": "JPEG2000"}),
    ]  # fmt: skip
    return [{"a.png": _picture(mode, **options)} for mode, options in kinds]


def mask_files() -> list[Files]:
    """Masks of both kinds."""
    return [{"a.png": _picture(mode, format="PNG")} for mode in ("P", "L", "1")]


def tag_files() -> list[tuple[str, str, Files]]:
    """(format, the file that is damaged, all files) of a small data set in each format of docs/data.md."""
    pictures = {name: b"x" for name in ("a.jpg", "b.jpg", "c d.png")}
    images = {f"images/{name}": data for name, data in pictures.items()}
    table = b'file_name,tags\na.jpg,cat;dog\nb.jpg,\n"c d.png","dog"\n'
    coco = {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(pictures)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [{"id": 1, "image_id": 0, "category_id": 2, "bbox": [0, 0, 1, 1]}],
    }
    lines = "".join(json.dumps({"file_name": name, "tags": ["cat"]}) + "\n" for name in pictures).encode()
    xml = (
        b'<?xml version="1.0" encoding="utf-8"?><annotations><meta><task><labels><label><name>cat</name></label>'
        b'</labels></task></meta><image id="0" name="a.jpg" subset="train"><tag label="cat"/></image>'
        b'<image id="1" name="b.jpg"><box label="cat"/></image></annotations>'
    )
    choice = {"type": "choices", "value": {"choices": ["cat", "dog"]}}
    tasks = [
        {"id": i, "data": {"image": f"/data/upload/1/{name}"}, "annotations": [{"result": [choice]}]}
        for i, name in enumerate(pictures)
    ]
    small = [{"id": i, "image": name, "choice": "cat", "annotation_id": 1} for i, name in enumerate(pictures)]
    columns = b'annotation_id,choice,image\n1,cat,a.jpg\n2,"{""choices"": [""cat"", ""dog""]}",b.jpg\n'
    yolo = b"names:\n  0: cat\n  1: dog\ntrain: images\nval: [images]\n"
    labels = {"labels/a.txt": b"0 0.5 0.5 1 1\n1 0.1 0.1 1 1\n", "data.yaml": yolo}
    voc = {f"JPEGImages/{name}.jpg": b"x" for name in ("a", "b")} | {"ImageSets/Segmentation/train.txt": b"a\nb\n"}
    object_xml = b"<annotation><object><name>cat</name></object><object><name>dog</name></object></annotation>"
    notes = {"Annotations/a.xml": object_xml, "Annotations/b.xml": b"<annotation/>"}
    shard = {"0.tar": _shard({"a.png": b"x", "a.json": b'{"tags": ["cat"]}', "b.png": b"x", "b.cls": b"1"})}
    extras = {"classes.txt": b"dog\ncat\n", "splits/train.txt": b"a.jpg\nb.jpg\n"}
    return [
        ("folder", "tags.csv", images | {"tags.csv": table}),
        ("folder", "tags.csv", images | {"tags.csv": b"file_name,cat,dog\na.jpg,1,0\nb.jpg,0,1\nc d.png,true,\n"}),
        ("folder", "classes.txt", images | {"tags.csv": table} | extras),
        ("folder", "splits/train.txt", images | {"tags.csv": table} | extras),
        ("hf-imagefolder", "metadata.csv", pictures | {"metadata.csv": table}),
        ("hf-imagefolder", "metadata.jsonl", pictures | {"metadata.jsonl": lines}),
        ("coco", "instances.json", images | {"instances.json": json.dumps(coco).encode()}),
        ("cvat", "annotations.xml", images | {"annotations.xml": xml}),
        ("label-studio", "export.json", images | {"export.json": json.dumps(tasks).encode()}),
        ("label-studio", "export.json", images | {"export.json": json.dumps(small).encode()}),
        ("label-studio", "export.csv", images | {"export.csv": columns}),
        ("yolo", "data.yaml", images | labels),
        ("yolo", "labels/a.txt", images | labels),
        ("voc", "Annotations/a.xml", voc | notes),
        ("voc", "ImageSets/Segmentation/train.txt", voc | notes),
        ("voc", "tags.csv", voc | {"tags.csv": b"file_name,tags\na.jpg,cat\nb.jpg,dog\n"}),
        ("webdataset", "0.tar", shard | {"classes.txt": b"cat\ndog\n"}),
    ]


def export_files() -> list[tuple[str, str, Files]]:
    """(source, the file that is damaged, all files) of small exports of annotation tools, and the data set around."""
    import numpy as np

    from tag2mask.outputs.rle import brush_rle, coco_counts, coco_string

    size = (11, 9)
    shown = np.arange(99).reshape(size) % 7 < 3
    runs = coco_counts(shown, (0, 0), size)
    ring = [1, 1, 8, 1, 8, 7.5, 1, 7]
    drawn = [[ring], {"size": list(size), "counts": coco_string(runs)}, {"size": list(size), "counts": runs}, []]
    coco = {
        "images": [{"id": 1, "file_name": "a.png", "height": 11, "width": 9}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": 1 + i % 2, "segmentation": each, "bbox": [0, 0, 3, 3], "iscrowd": 0}
            for i, each in enumerate(drawn)
        ],
    }
    round_ = {"x": 50, "y": 50, "radiusX": 9, "radiusY": 8}
    shared = {"original_width": 9, "original_height": 11, "image_rotation": 0}
    results = [
        {**shared, "type": "brushlabels", "value": {"rle": brush_rle(shown, (0, 0), size), "brushlabels": ["cat"]}},
        {**shared, "type": "polygonlabels", "value": {"points": [[5, 5], [90, 5], [50, 90]], "polygonlabels": ["dog"]}},
        {**shared, "type": "ellipselabels", "value": {**round_, "ellipselabels": ["dog"]}},
    ]  # fmt: skip
    tasks = [{"id": 1, "data": {"image": "/data/upload/1/a.png"}, "annotations": [{"result": results}]}]
    spot = base64.b64encode(_picture("1", 3, format="PNG")).decode()
    shapes = [
        {"label": "cat", "points": [[1, 1], [8, 1], [8, 7.5]], "shape_type": "polygon"},
        {"label": "dog", "points": [[2, 2], [4, 6]], "shape_type": "mask", "mask": spot},
        {"label": "dog", "points": [[5, 5], [6, 7]], "shape_type": "circle"},
    ]
    labelme = {"version": "6", "shapes": shapes, "imagePath": "a.png", "imageHeight": 11, "imageWidth": 9}
    colors = b"background:0,0,0::\ncat:128,0,0::\ndog:0,128,0::\n"
    text = b"0 0.1 0.1 0.9 0.1 0.9 0.8\n1 0.5 0.5 0.2 0.2\n"
    exports = [
        ("coco.json", {"coco.json": json.dumps(coco).encode()}),
        ("tasks.json", {"tasks.json": json.dumps(tasks).encode()}),
        ("a.json", {"a.json": json.dumps(labelme).encode()}),
        ("labels/a.txt", {"labels/a.txt": text, "data.yaml": b"names: [cat, dog]\n"}),
        ("labelmap.txt", {"labelmap.txt": colors, "SegmentationClass/a.png": _picture(format="PNG")}),
        ("SegmentationClass/a.png", {"SegmentationClass/a.png": _picture("P", format="PNG"), "labelmap.txt": colors}),
    ]
    photos = {"photos/images/a.png": _picture(format="PNG"), "photos/tags.csv": b"file_name,tags\na.png,cat;dog\n"}
    made = [("export", f"export/{name}", {f"export/{n}": d for n, d in files.items()}) for name, files in exports]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in exports[0][1].items():
            archive.writestr(name, data)
    made.append(("export.zip", "export.zip", {"export.zip": packed.getvalue()}))
    return [(source, name, files | photos) for source, name, files in made]


def _shard(members: Files) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.pax_headers = len(data), {"comment": "made by hand"}
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def weight_files() -> list[Files]:
    """Weights of every kind that is read, and the state of a run."""
    import torch
    from safetensors.torch import save

    from tag2mask.config import TrainConfig
    from tag2mask.models import build_network
    from tag2mask.runs.checkpoints import save_model

    tensors = {"body.weight": torch.ones(3, 2), "body.bias": torch.zeros(3)}
    pickled, old, state = io.BytesIO(), io.BytesIO(), io.BytesIO()
    torch.save({"state_dict": tensors}, pickled)
    torch.save(tensors, old, _use_new_zipfile_serialization=False)
    torch.save({"model": tensors, "step": 3, "rng": torch.get_rng_state(), "optimizer": {}}, state)
    golden = Path(__file__).parents[1] / "tests" / "golden"
    config = TrainConfig.preset("small", backbone="test_efficientnet", weights="none", image_size=64)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.safetensors"
        save_model(model, build_network(config, ("cat", "dog")), config)
        whole = model.read_bytes()
    return [
        {"a.safetensors": save(tensors, {"format": "tag2mask weights", "classes": '["cat"]'})},
        {"a.pt": pickled.getvalue()},
        {"a.pth": old.getvalue()},
        *({"a.params": path.read_bytes()} for path in sorted(golden.glob("mxnet_*.params"))),
        {"last/state.pt": state.getvalue()},
        {"model.safetensors": whole},
    ]


def onnx_files() -> list[Files]:
    """A model with the inputs, outputs and metadata of `tag2mask export`, of a few nodes."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    make = helper.make_tensor_value_info
    inputs = [
        make("rgb", TensorProto.UINT8, ["b", "h", "w", 3]),
        make("scale", TensorProto.DOUBLE, []),
        make("size", TensorProto.INT64, [2]),
    ]
    outputs = [make("logits", TensorProto.FLOAT, ["b", 3, "y", "x"]), make("tag_scores", TensorProto.FLOAT, ["b", 2])]
    nodes = [
        helper.make_node("Cast", ["rgb"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["logits"], perm=[0, 3, 1, 2]),
        helper.make_node("GlobalAveragePool", ["logits"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["tag_scores"]),
    ]
    weights = numpy_helper.from_array(np.full((3, 2), 0.001, np.float32), "weights")
    graph = helper.make_graph(nodes, "fuzz", inputs, outputs, [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    notes = {"format": "tag2mask", "classes": '["cat", "dog"]', "image_size": "64", "stride": "32", "selection": "last"}
    helper.set_model_props(model, notes)
    return [{"a.onnx": model.SerializeToString()}]


# -- cases -------------------------------------------------------------------------------------------------------------


class Finding(Exception):
    """A result that is not sane, or an error that is not the package's own."""


def expect(good: bool, what: str) -> None:
    """Raise `Finding` where something is not as it must be."""
    if not good:
        raise Finding(what)


def read_one(family: str, kind: str, root: Path, name: str) -> None:
    """Let the package read the damaged file `name` of `root`, and judge the result."""
    import numpy as np

    path = root / name
    if family == "pictures":
        from tag2mask.data.storage.pictures import read_picture

        rgb = read_picture(path)
        expect(rgb.ndim == 3 and rgb.shape[2] == 3 and rgb.size > 0, f"a picture of the shape {rgb.shape}")
        expect(rgb.dtype == np.uint8, f"a picture of {rgb.dtype}")
    elif family == "masks":
        from tag2mask.data.dataset import label_codes
        from tag2mask.data.storage.pictures import read_mask

        labels = np.unique(read_mask(path, label_codes(3, others="ignore")))
        expect(set(labels.tolist()) <= {0, 1, 2, 3, 255}, f"labels {labels}")
    elif family == "tags":
        _read_tags(root, kind)
    elif family == "exports":
        _read_export(root, kind)
    elif family == "configs":
        from tag2mask.config import load_config, parse_config

        config = load_config(root)
        expect(parse_config(config.to_json()) == config, "a config that does not survive JSON")
    else:
        _read_weights(path)


def _read_tags(root: Path, kind: str) -> None:
    from tag2mask.data import open_data

    pictures = open_data(root, data_format=kind)
    expect(1 <= pictures.num_classes <= 254, f"{pictures.num_classes} classes")
    for picture in pictures.pictures:
        place = picture.path.parents[1] if kind == "webdataset" else picture.path
        expect(place.resolve().is_relative_to(root.resolve()), f"{picture.path} is outside {root}")
        expect(all(0 <= tag < pictures.num_classes for tag in picture.tags), f"tags {picture.tags}")
    "\n".join((*pictures.classes, *(picture.name for picture in pictures.pictures))).encode()


def _read_export(root: Path, source: str) -> None:
    import numpy as np
    from PIL import Image

    import tag2mask

    result = tag2mask.convert(root / source, to="masks", data=root / "photos", out=root / "out")
    expect(result.num_masks == 1, f"{result.num_masks} masks")
    labels = np.asarray(Image.open(root / "out" / "a.png"))
    expect(labels.shape == (11, 9), f"a mask of {labels.shape}")
    expect(set(np.unique(labels).tolist()) <= {0, 1, 2, 255}, f"labels {np.unique(labels)}")


def _read_weights(path: Path) -> None:
    if path.suffix == ".onnx":
        import numpy as np

        import tag2mask

        out = tag2mask.Segmenter.load(path, device="cpu").predict(np.zeros((8, 8, 3), np.uint8))
        expect(out.mask.shape == (8, 8) and int(out.mask.max()) <= 2, "a mask of another size or label")
    elif path.name == "state.pt":
        from tag2mask.runs.checkpoints import load_state

        load_state(path.parents[1])
    elif path.name == "model.safetensors":
        from tag2mask.runs.checkpoints import load_model

        network = load_model(path)[0]
        expect(all(bool(p.isfinite().all()) for p in network.parameters()), "weights that are not finite")
    else:
        from tag2mask.models.weights import read_weights

        read_weights(path)


OWN_ERRORS = ("DataError", "MissingDataError", "SplitError", "PictureError", "PictureTooLarge", "ValueError")


def is_named(error: BaseException, root: Path) -> bool:
    """Whether an error is the package's own: a ValueError that it raised itself, which names a file of the case."""
    if type(error).__name__ not in OWN_ERRORS:
        return False
    frames = traceback.extract_tb(error.__traceback__)
    own = "tag2mask" in Path(frames[-1].filename).parts or type(error).__name__ != "ValueError"
    return own and (str(root) in str(error) or "scores of this picture" in str(error))


def good_files(family: str) -> list[tuple[str, str, Files]]:
    """(kind, name of the file that is damaged, all files) of a family."""
    if family in ("tags", "exports"):
        return tag_files() if family == "tags" else export_files()
    if family == "configs":
        from tag2mask.config import RetrainConfig, TrainConfig

        configs = (TrainConfig.preset("small", data="photos"), RetrainConfig.preset("small", data="d", masks="m"))
        return [("", "config.json", {"config.json": config.to_json().encode()}) for config in configs]
    made = {"pictures": picture_files, "masks": mask_files, "weights": weight_files, "onnx": onnx_files}[family]()
    return [("", next(iter(files)), files) for files in made]


def run_case(family: str, number: int, seed: int, root: Path, good: list[tuple[str, str, Files]]) -> bool:
    """Case `number` of a family in the folder `root`; whether the damaged file could be read.

    Raises:
        Finding: and whatever else the package must not raise.
    """
    draw = random.Random(f"{seed}/{family}/{number}")
    weighted = [each for each in good for _ in range(1 if each[1] == "model.safetensors" else 4)]
    kind, name, files = draw.choice(weighted)
    shutil.rmtree(root, ignore_errors=True)
    text = family in ("tags", "exports", "configs") and not name.endswith((".tar", ".zip", ".png"))
    for place, data in (files | {name: damaged(draw, files[name], text=text)}).items():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_bytes(data)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        read_one(family, kind, root, name)
    except Exception as error:
        if is_named(error, root):
            return False
        raise
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return True


# -- processes ---------------------------------------------------------------------------------------------------------


def child(family: str, first: int, cases: int, seed: int, work: Path, until: float) -> int:
    """Run cases; tell the parent the number of each before it runs, and the outcome of all at the end."""
    import resource

    def late(*_: object) -> None:
        raise Finding(f"more than {CPU_SECONDS} seconds of work")

    signal.signal(signal.SIGPROF, late)
    warnings.simplefilter("ignore")  # Pillow's, of large pictures and odd metadata
    good = good_files(family)
    if family in ("pictures", "masks", "tags", "configs"):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    read = done = failed = 0
    for number in range(first, first + cases):
        if time.time() > until:
            break
        (work / "number").write_text(str(number))
        try:
            read += run_case(family, number, seed, work / "case", good)
        except Exception as error:
            failed += 1
            keep(work, family, number, seed)
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(where.filename).name} line {where.lineno}"
            print(f"{family}:{number} failed: {type(error).__name__}: {str(error)[:300]!r} ({place})", flush=True)
        done += 1
    print(json.dumps({"done": done, "read": read, "failed": failed}), flush=True)
    return 0


def keep(work: Path, family: str, number: int, seed: int) -> None:
    """Copy the files of the case that failed."""
    place = work.parent / "findings" / f"{family}-{seed}-{number}"
    shutil.rmtree(place, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        shutil.copytree(work / "case", place)


def run_family(family: str, cases: int, seed: int, base: Path, until: float) -> dict[str, int]:
    """Cases of a family in child processes, a new one after each crash; counts."""
    total, first = {"done": 0, "read": 0, "failed": 0}, 0
    work = base / family
    work.mkdir(parents=True, exist_ok=True)
    while first < cases and time.time() < until:
        (work / "number").unlink(missing_ok=True)
        command = [sys.executable, __file__, "--child", family, str(first), str(cases - first), str(seed)]
        process = subprocess.Popen([*command, str(work), str(until)], stdout=subprocess.PIPE, text=True)
        lines = _output(process, work)
        last = lines.pop() if lines and lines[-1].startswith("{") else ""
        print("".join(lines), end="", flush=True)
        if last:
            for name, count in json.loads(last).items():
                total[name] += count
            return total
        if not (work / "number").is_file():
            raise RuntimeError(f"the process for {family} ended before its first case; see above")
        number = int((work / "number").read_text())
        keep(work, family, number, seed)
        print(f"{family}:{number} crashed the interpreter or hung: exit code {process.returncode}", flush=True)
        total["done"] += number + 1 - first
        total["failed"] += 1 + len(lines)
        first = number + 1
    return total


def _output(process: subprocess.Popen[str], work: Path) -> list[str]:
    """Lines of a child, which is ended when it starts no new case for a while."""
    while True:
        try:
            out, _ = process.communicate(timeout=10)
            return out.splitlines(keepends=True)
        except subprocess.TimeoutExpired:
            file = work / "number"
            if file.is_file() and time.time() - file.stat().st_mtime > SILENT_SECONDS:
                process.kill()


def shares(cases: int, families: list[str]) -> Iterator[tuple[str, int]]:
    """The number of cases of each family."""
    weight = sum(FAMILIES[name] for name in families)
    for name in families:
        yield name, max(1, round(cases * FAMILIES[name] / weight))


def main() -> int:
    """Run what the command line says; the exit code is 1 where there was a finding."""
    if sys.argv[1:2] == ["--child"]:
        family, first, cases, seed, work, until = sys.argv[2:]
        return child(family, int(first), int(cases), int(seed), Path(work), float(until))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000, help="cases over all families")
    parser.add_argument("--seconds", type=float, help="so long instead; a share for each family")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--keep", type=Path, help="folder for the files of findings; default a temporary one")
    parser.add_argument("--repeat", metavar="FAMILY:NUMBER", help="one case again, with its traceback")
    options = parser.parse_args()
    base = options.keep or Path(tempfile.mkdtemp(prefix="tag2mask-fuzz-"))
    if options.repeat:
        family, _, number = options.repeat.partition(":")
        read = run_case(family, int(number), options.seed, base / family / "case", good_files(family))
        print(f"{options.repeat}: {'read' if read else 'refused by name'}; its files: {base / family / 'case'}")
        return 0
    failed = done = 0
    for family, cases in shares(options.cases, options.families):
        until = float("inf")
        if options.seconds is not None:
            part = FAMILIES[family] / sum(FAMILIES[name] for name in options.families)
            cases, until = sys.maxsize // 2, time.time() + options.seconds * part
        counts = run_family(family, cases, options.seed, base, until)
        print(f"{family}: {counts['done']} cases, {counts['read']} read, {counts['failed']} findings", flush=True)
        failed, done = failed + counts["failed"], done + counts["done"]
        shutil.rmtree(base / family, ignore_errors=True)
    print(f"{done} cases from seed {options.seed}, {failed} findings{f': {base}' if failed else ''}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
