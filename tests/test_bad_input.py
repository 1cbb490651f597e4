"""Bad input: a table of what strangers send. Each row ends in a named error with a cure, or in a counted skip.

A row makes its input in a fresh folder and gives the command line; the command runs in this process. Whatever the row,
nothing may be left half written, no traceback and no NaN may be printed, and the whole must end within a minute.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import math
import os
import pickle
import re
import shutil
import signal
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from data_formats import coco_json
from PIL import Image
from safetensors.torch import load_file, save_file

from tag2mask import cli
from tag2mask.config import TrainConfig
from tag2mask.runs.checkpoints import save_model

SECONDS = 60
"""Longest that a row may take, in the time of a loaded machine."""


class Row(NamedTuple):
    """What is sent, and what must be said."""

    make: Callable[[Path, Path], list[Any]]
    """(empty folder, model) to the command line."""
    says: str
    """Pattern in what is printed: the input and the cure."""
    code: int


ROWS: dict[str, Row] = {}


def row(says: str, code: int = 1, name: str = "") -> Callable[[Any], Any]:
    """Put a function into the table, under its name."""

    def add(make: Callable[[Path, Path], list[Any]]) -> Any:
        key = name or make.__name__
        assert key not in ROWS, key
        ROWS[key] = Row(make, says, code)
        return make

    return add


@pytest.fixture(scope="module")
def model(tmp_path_factory, segmenter) -> Path:
    """A model for the five classes of the built-in set, in a file."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(path, segmenter.model, segmenter.config)
    return path


@pytest.fixture(autouse=True)
def in_time():
    def late(*_):
        raise AssertionError(f"not done after {SECONDS} s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)


def call(*arguments: Any) -> int:
    return cli.main([str(each) for each in arguments])


def snapshot(folder: Path) -> dict[str, bytes | str]:
    """Content of each file, kind of everything else."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        found[name] = path.read_bytes() if path.is_file() and not path.is_symlink() else "no file"
    return found


# -- pictures: predict goes on with the others -------------------------------------------------------------------------


def noise(size=(12, 9), mode="RGB", seed=0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int, height: int, *, depth: int = 8, color: int = 2, rows: bytes | None = None, extra: bytes = b""
) -> bytes:
    """A PNG by hand; `rows` are its bytes before compression, None for a grey ramp that is too short."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    data = zlib.compress(b"\0" * 400 if rows is None else rows)
    return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


JPEG, PNG = encoded(noise((64, 48)), format="JPEG"), encoded(noise((64, 48)), format="PNG")
FRAMES = [noise(seed=seed) for seed in range(3)]
GIF = encoded(FRAMES[0], format="GIF", save_all=True, append_images=FRAMES[1:])
FORGED_JPEG = re.sub(rb"(\xff\xc0\x00\x11\x08)....", rb"\1" + b"\xff\xdc\xff\xdc", JPEG, count=1, flags=re.DOTALL)

REFUSED_PICTURES: dict[str, tuple[str, bytes]] = {
    "empty file": ("a.jpg", b""),
    "truncated JPEG": ("a.jpg", JPEG[: len(JPEG) // 2]),
    "truncated PNG": ("a.png", PNG[: len(PNG) // 2]),
    "PNG of which only the signature is there": ("a.png", PNG[:8]),
    "PNG with a wrong checksum": ("a.png", PNG[:30] + b"\0\0\0\0" + PNG[34:]),
    "PNG without pixels": ("a.png", png(4, 4, rows=b"")),
    "PNG with sides of 0": ("a.png", png(0, 0)),
    "PNG that claims 60000 x 60000": ("a.png", png(60000, 60000)),
    "PNG that claims 2^31 x 1": ("a.png", png(2**31 - 1, 1)),
    "PNG that unpacks to 400 million pixels": ("a.png", png(20000, 20000, depth=1, color=0, rows=b"\0" * 2501 * 20000)),
    "PNG whose comment unpacks to 5 MB": ("a.png", png(4, 4, extra=chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(5 << 20))))),
    "JPEG that claims 65500 x 65500": ("a.jpg", FORGED_JPEG),
    "GIF header alone": ("a.gif", GIF[:13]),
    "truncated WebP": ("a.webp", encoded(noise((64, 48)), format="WEBP")[:60]),
    "BMP with a negative width": ("a.bmp", b"BM" + struct.pack("<IHHIIiiHHIIIIII", 70, 0, 0, 54, 40, -5, 7, 1, 24, *[0] * 6)),
    "TIFF whose directories form a ring": ("a.tif", b"II*\0\x08\0\0\0" + struct.pack("<HHHIII", 1, 256, 4, 1, 5, 8)),
    "text called .jpg": ("a.jpg", b"dear reader, this is no picture"),
    "HTML called .jpg": ("a.jpg", b"<html><body>404</body></html>"),
    "SVG called .png": ("a.png", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'),
    "PDF called .png": ("a.png", b"%PDF-1.4\n1 0 obj <<>> endobj\ntrailer <<>>\n%%EOF"),
    "EPS called .png": ("a.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) run\n%%EOF\n"),
    "zip called .jpg": ("a.jpg", b"PK\x03\x04" + bytes(60)),
    "random bytes": ("a.png", np.random.default_rng(1).bytes(500)),
}  # fmt: skip


def exif_of(orientation: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


DEEP = encoded(Image.fromarray(np.arange(108, dtype=np.uint16).reshape(9, 12) * 600), format="PNG")
TAKEN_PICTURES: dict[str, tuple[str, bytes]] = {
    "PNG called .jpg": ("a.jpg", encoded(noise(), format="PNG")),
    "animated GIF": ("a.gif", GIF),
    "animated WebP": ("a.webp", encoded(FRAMES[0], format="WEBP", save_all=True, append_images=FRAMES[1:])),
    "animated PNG": ("a.png", encoded(FRAMES[0], format="PNG", save_all=True, append_images=FRAMES[1:])),
    "EXIF rotation that does not exist": ("a.jpg", encoded(noise(), format="JPEG", exif=exif_of(99))),
    "EXIF of random bytes": ("a.jpg", encoded(noise(), format="JPEG", exif=b"Exif\0\0" + np.random.default_rng(2).bytes(90))),
    "EXIF that ends in the middle": ("a.jpg", encoded(noise(), format="JPEG", exif=exif_of(3)[:-9])),
    "broken ICC profile": ("a.jpg", encoded(noise(), format="JPEG", icc_profile=b"no profile" * 30)),
    "grey of 16 bits": ("a.png", DEEP),
    "CMYK": ("a.jpg", encoded(noise(mode="CMYK"), format="JPEG")),
    "palette with transparency": ("a.png", encoded(noise(mode="P"), format="PNG", transparency=0)),
    "one pixel": ("a.png", encoded(noise((1, 1)), format="PNG")),
    "one row": ("a.png", encoded(noise((300, 1)), format="PNG")),
    "bytes behind the end": ("a.png", encoded(noise(), format="PNG") + b"<script>" * 20),
    "name with emoji, quotes and markup": ("\U0001f600 'a' \"b\" <blink>.png", encoded(noise(), format="PNG")),
    "name with a line break": ("a\nb.png", encoded(noise(), format="PNG")),
    "name that looks like an option": ("--out.png", encoded(noise(), format="PNG")),
}  # fmt: skip


@pytest.fixture
def quick(monkeypatch, segmenter):
    """The model is loaded once for all pictures."""
    from tag2mask.inference.segmenter import Segmenter

    monkeypatch.setattr(Segmenter, "load", classmethod(lambda cls, run, device="auto": segmenter))


@pytest.mark.parametrize("kind", REFUSED_PICTURES)
def test_a_bad_picture_is_named_counted_and_left_out(kind, quick, model, tmp_path, capsys):
    name, data = REFUSED_PICTURES[kind]
    pictures, out = tmp_path / "pictures", tmp_path / "out"
    pictures.mkdir()
    (pictures / name).write_bytes(data)
    (pictures / "good.png").write_bytes(encoded(noise(), format="PNG"))
    assert call("predict", model, pictures, "--out", out, "--rank") == 1
    said = capsys.readouterr()
    cures = (r"cannot be read as a picture: .+\. Replace or remove it\.", r"is left out: .+ a higher --max-pixels\.")
    assert re.search(rf"error: .*{re.escape(name)} ({'|'.join(cures)})", said.err)
    assert "1 pictures done, 1 failed" in said.out
    assert "Traceback" not in said.err + said.out
    assert [path.name for path in (out / "masks").iterdir()] == ["good.png"]
    assert not list(out.rglob("*.part*"))
    assert check_scores(out) == ["good.png"]


@pytest.mark.parametrize("kind", TAKEN_PICTURES)
def test_an_odd_picture_is_taken(kind, quick, model, tmp_path, capsys):
    name, data = TAKEN_PICTURES[kind]
    pictures, out = tmp_path / "pictures", tmp_path / "out"
    pictures.mkdir()
    (pictures / name).write_bytes(data)
    assert call("predict", model, pictures, "--out", out, "--format", "png", "coco", "--rank", "--crf") == 0
    assert "Traceback" not in "".join(capsys.readouterr())
    with Image.open(io.BytesIO(data)) as image, Image.open(next((out / "masks").iterdir())) as mask:
        assert mask.size == image.size
        assert int(np.asarray(mask).max()) <= 5
    assert check_scores(out) == [name]
    assert "<blink>" not in (out / "rank.html").read_text(encoding="utf-8")
    assert json.loads((out / "coco.json").read_text(encoding="utf-8"))["images"][0]["file_name"] == name


def check_scores(out: Path) -> list[str]:
    """Names in scores.csv, whose numbers are finite."""
    with (out / "scores.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    assert all(math.isfinite(float(cell)) for line in rows for cell in line[1:])
    return [line[0] for line in rows]


def test_a_pipe_is_not_waited_for(quick, model, tmp_path, capsys):
    os.mkfifo(tmp_path / "a.png")
    assert call("predict", model, tmp_path / "a.png", "--out", tmp_path / "out") == 1
    assert re.search(
        r"a\.png is a folder, pipe or device; a picture file is needed\. Name, replace or remove it",
        capsys.readouterr().err,
    )


def test_check_counts_what_cannot_be_read(tmp_path, capsys):
    data = {f"{number}.png": content for number, (_, content) in enumerate(REFUSED_PICTURES.values())}
    data |= {f"good{number}.png": encoded(noise(seed=number), format="PNG") for number in range(4)}
    folder(tmp_path / "data", "file_name,tags\n" + "".join(f"{name},<script>\n" for name in data), pictures=data)
    assert call("check", tmp_path / "data", "--out", tmp_path / "page.html") == 1
    said = capsys.readouterr()
    assert re.search(rf"{len(REFUSED_PICTURES)} (?:of \d+ )?pictures? .*(?:cannot|broken|read)", said.out), said.out
    assert "Traceback" not in said.err + said.out
    assert "<script>" not in re.sub(r"<script>\s*[^<]*</script>", "", (tmp_path / "page.html").read_text())


# -- tags: `convert` reads a data set, and writes all of it or nothing --------------------------------------------------


def folder(root: Path, table: str | bytes | None, *, pictures: Any = ("a.jpg", "b.jpg"), **texts: str | bytes) -> Path:
    """A plain folder; `texts` are other files, with `__` for a slash and `_` before the suffix."""
    named = pictures if isinstance(pictures, dict) else dict.fromkeys(pictures, JPEG)
    files = {f"images/{name}": data for name, data in named.items()}
    files |= {name.replace("__", "/").replace("_txt", ".txt"): text for name, text in texts.items()}
    if table is not None:
        files["tags.csv"] = table
    return tree(root, files)


def tree(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return root


def tags(says: str, name: str, table: str | bytes | None, **texts: Any) -> None:
    """A row: a plain folder with this table."""
    row(says, name=name)(lambda t, m: convert(t, folder(t / "data", table, **texts)))


def data(says: str, name: str, files: dict[str, str | bytes]) -> None:
    """A row: a data set of these files, and pictures a.jpg and b.jpg."""
    row(says, name=name)(lambda t, m: convert(t, tree(t / "data", {"a.jpg": JPEG, "b.jpg": JPEG} | files)))


def convert(t: Path, source: Path) -> list[Any]:
    return ["convert", source, "--to", "folder", "--out", t / "out"]


H = "file_name,tags\n"
tags(r"tags\.csv line 1: the header must be 'file_name,tags'", "tags: empty file", b"")
tags(
    r"line 1: the header must be .*separated by commas",
    "tags: semicolons between columns",
    "file_name;tags\na.jpg;cat\n",
)
tags(r"line 2: .*leaves the picture folder\. Give the path relative to it", "tags: dots", f"{H}../a.jpg,cat\n")
tags(r"line 2: .*leaves the picture folder", "tags: absolute", f"{H}/etc/a.jpg,cat\n")
tags(r"line 2: .*leaves the picture folder", "tags: drive", f"{H}C:\\a.jpg,cat\n")
tags(r"line 2: .*leaves the picture folder", "tags: backslashes", f"{H}x\\..\\..\\a.jpg,cat\n")
tags(r"line 2: .*is no name of a file.*Correct it", "tags: NUL in a name", f"{H}a\0.jpg,cat\n")
tags(r"line 2: .*is no name of a file: at most 255", "tags: name without end", f"{H}{'a' * 300}.jpg,cat\n")
tags(r"line 2: .*is no name of a file", "tags: path without end", f"{H}{'a/' * 3000}a.jpg,cat\n")
tags(r"line 3: 'a\.jpg' is already on line 2\. Keep one row", "tags: name twice", f"{H}a.jpg,cat\na.jpg,cat\n")
tags(r"line 2: there is no picture .*e\.jpg\. Add it", "tags: no such picture", f"{H}e.jpg,cat\n")
tags(r"unknown class 'catt'.*Did you mean 'cat'", "tags: misspelled", f"{H}a.jpg,catt\n", classes_txt="cat\n")
tags(r"line 3: not valid csv .*Correct the quotes", "tags: open quote", f'{H}a.jpg,"cat\nb.jpg,dog\n')
tags(r"not UTF-8 text \(byte 22\)\. Save it as UTF-8", "tags: Windows-1252", f"{H}a.jpg,Käfer\n".encode("cp1252"))
tags(r"not UTF-8 text \(byte 0\)\. Save it as UTF-8", "tags: UTF-16", f"{H}a.jpg,cat\n".encode("utf-16"))
tags(r"line 2: 3 cells, but the header has 2\. Separate tags by ';'", "tags: comma between tags", f"{H}a.jpg,cat,dog\n")
tags(r"line 2: column 'cat' must hold 0 or 1, got 'yes'", "tags: yes in a column", "file_name,cat\na.jpg,yes\n")
tags(
    r"names 300 classes; a mask holds at most 254", "tags: 300 classes", f"{H}a.jpg,{';'.join(map(str, range(300)))}\n"
)
tags(
    r"has a line break or another control character, or more than 255 characters\. Rename it",
    "tags: class without end",
    f"{H}a.jpg,{'x' * 999}\n",
)
tags(r"has a line break or another control character.*Rename it", "tags: bell in a class", f"{H}a.jpg,ca\x07t\n")
tags(r"No usable picture: .* has no tag at all\. Tag", "tags: all empty", f"{H}a.jpg,\nb.jpg,\n")
tags(r"has images/ but no tags\.csv\. Write one", "tags: none", None)
tags(
    r"classes\.txt line 1: background is label 0.*Remove the line",
    "classes: background",
    f"{H}a.jpg,cat\n",
    classes_txt="background\n",
)
tags(r"classes\.txt line 2: class 'cat' is already", "classes: twice", f"{H}a.jpg,cat\n", classes_txt="cat\ncat\n")
tags(r"classes\.txt is not UTF-8", "classes: Windows-1252", f"{H}a.jpg,cat\n", classes_txt="Bär\n".encode("cp1252"))
tags(
    r"train\.txt line 1: .*leaves the picture folder", "split: dots", f"{H}a.jpg,cat\n", splits__train_txt="../a.jpg\n"
)
tags(
    r"train\.txt line 1: 'e\.jpg' is no picture of this",
    "split: stranger",
    f"{H}a.jpg,cat\n",
    splits__train_txt="e.jpg\n",
)
tags(r"field larger than field limit.*Correct the quotes", "tags: cell of 200 kB", f"{H}a.jpg,{'cat;' * 50000}\n")

COCO = json.dumps(coco_json())
ONE = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"id": 1, "image_id": 1, "category_id": 1}]}
ONE["categories"] = [{"id": 1, "name": "cat"}]


def coco(**changes: Any) -> dict[str, str | bytes]:
    return {"instances.json": json.dumps(ONE | changes)}


def image(name: Any) -> dict[str, Any]:
    return {"images": [{"id": 1, "file_name": name}]}


data(
    r"instances\.json line \d+: not valid JSON .*Export or download",
    "COCO: cut",
    {"instances.json": COCO[: len(COCO) - 40]},
)
data(r"nested too deeply", "COCO: nested 100,000 deep", {"instances.json": COCO[:-1] + ', "x": ' + "[" * 100_000})
data(
    r"instances\.json: not valid JSON .*digits",
    "COCO: number of 9,000 digits",
    {"instances.json": COCO[:-1] + ', "x": ' + "9" * 9000 + "}"},
)
data(r"leaves the picture folder", "COCO: dots", coco(**image("../../etc/a.jpg")))
data(r"leaves the picture folder", "COCO: absolute", coco(**image("/etc/a.jpg")))
data(r"file_name must be text, got 5", "COCO: number for a name", coco(**image(5)))
data(r"is no name of a file", "COCO: half a character in a name", coco(**image("a\ud800.jpg")))
data(r"two images have the same id\. Give each", "COCO: id twice", coco(images=[*ONE["images"], *ONE["images"]]))
data(
    r"no category with the id 7.*Correct it",
    "COCO: no such category",
    coco(annotations=[{"image_id": 1, "category_id": 7}]),
)
data(r"no image with the id \[1\]", "COCO: list for an id", coco(annotations=[{"image_id": [1], "category_id": 1}]))
data(
    r"the class 'c\\nat' has a line break or another control character.*Rename",
    "COCO: line break in a class",
    coco(categories=[{"id": 1, "name": "c\nat"}]),
)
data(
    r"the class .*has a line break or another control character.*Rename",
    "COCO: half a character in a class",
    coco(categories=[{"id": 1, "name": "\ud800"}]),
)
data(r"is an address, and nothing is downloaded", "COCO: address", coco(**image("http://evil.example/e.jpg")))
data(
    r"metadata\.jsonl line 2: not valid JSON .*Write one object per line",
    "metadata: no JSON",
    {"metadata.jsonl": '{"file_name": "a.jpg", "tags": ["cat"]}\n{\n'},
)
data(
    r"line 1: tags must be a list of class names",
    "metadata: nested tags",
    {"metadata.jsonl": '{"file_name": "a.jpg", "tags": [["cat"]]}\n'},
)
XML = '<?xml version="1.0"?>{}<annotations><image id="0" name="{}"><tag label="{}"/></image></annotations>'
BOMB = (
    "<!DOCTYPE a [<!ENTITY a '"
    + "x" * 99
    + "'>"
    + "".join(f"<!ENTITY {b} '{f'&{a};' * 40}'>" for a, b in zip("abcde", "bcdef", strict=True))
    + "]>"
)
data(
    r"annotations\.xml line \d+: not valid XML .*Export it again",
    "CVAT: a billion laughs",
    {"annotations.xml": XML.format(BOMB, "a.jpg", "&f;")},
)
data(
    r"not valid XML \(undefined entity",
    "CVAT: entity from a file",
    {
        "annotations.xml": XML.format('<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>', "a.jpg", "cat").replace(
            "</image>", "&b;</image>"
        )
    },
)
data(
    r"not valid XML .*Save it as UTF-8",
    "CVAT: encoding of nobody",
    {"annotations.xml": XML.format("", "a.jpg", "cat").replace('"1.0"', '"1.0" encoding="klingon"')},
)
data(r"leaves the picture folder", "CVAT: dots", {"annotations.xml": XML.format("", "../a.jpg", "cat")})
data(r"CVAT for video\. Export as", "CVAT: video", {"annotations.xml": "<annotations><track id='0'/></annotations>"})


def label_studio(picture: Any, choices: Any = ("cat",)) -> dict[str, str | bytes]:
    result = [{"type": "choices", "value": {"choices": choices}}]
    return {"export.json": json.dumps([{"id": 1, "data": {"image": picture}, "annotations": [{"result": result}]}])}


data(
    r"task 1: the picture 'http://\[x/e\.jpg' is an address.*Put e\.jpg|is an address, and nothing is downloaded",
    "Label Studio: address that is none",
    label_studio("http://[x/e.jpg"),
)
data(
    r"written into the file itself\. Export with picture files",
    "Label Studio: picture as text",
    label_studio("data:image/png;base64,AAAA"),
)
data(
    r"the picture '/data/local-files/\?d=\.\./\.\./etc/passwd' is an address",
    "Label Studio: local file elsewhere",
    label_studio("/data/local-files/?d=../../etc/passwd"),
)
data(r"choices must be a list of class names", "Label Studio: number for a choice", label_studio("a.jpg", choices=[5]))
YOLO = {"images/a.jpg": JPEG, "labels/a.txt": "0 0.5 0.5 1 1\n"}
data(
    r"not valid YAML .*python.*Correct it",
    "YOLO: YAML that names code",
    YOLO | {"data.yaml": "names: [cat]\nx: !!python/object/apply:os.system ['touch /tmp/pwned']\n"},
)
LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
data(
    r"names must be a list of class names",
    "YOLO: YAML that unfolds without end, as names",
    YOLO | {"data.yaml": f"{LAUGHS}names: *a11\n"},
)
data(
    r"there is no class 7; .*Correct the number",
    "YOLO: class number",
    YOLO | {"data.yaml": "names: [cat]\n", "labels/a.txt": "7 0 0 1 1\n"},
)
data(
    r"must start with the number of a class, got '99999",
    "YOLO: class number of 5,000 digits",
    YOLO | {"data.yaml": "names: [cat]\n", "labels/a.txt": "9" * 5000},
)
data(
    r"must start with the number of a class, got '-1'",
    "YOLO: negative class number",
    YOLO | {"data.yaml": "names: [cat]\n", "labels/a.txt": "-1 0 0 1 1\n"},
)
data(
    r"there is no folder or list '\.\./\.\./etc' below",
    "YOLO: pictures elsewhere",
    YOLO | {"data.yaml": "names: [cat]\ntrain: ../../etc\n"},
)
data(
    r"train names 'a{50}.*which can be no folder or list\. Correct it",
    "YOLO: folder without end",
    YOLO | {"data.yaml": f"names: [cat]\ntrain: {'a' * 5000}\n"},
)
data(
    r"is an address, and nothing is downloaded",
    "Label Studio: address without end",
    label_studio(f"/data/upload/{'a' * 5000}.jpg"),
)
VOC = {
    "JPEGImages/a.jpg": JPEG,
    "ImageSets/Segmentation/train.txt": "a\n",
    "Annotations/a.xml": "<annotation><object><name>cat</name></object></annotation>",
}
data(
    r"train\.txt line 1: .*leaves the picture folder", "VOC: dots", VOC | {"ImageSets/Segmentation/train.txt": "../a\n"}
)
data(
    r"a\.xml line 1: not valid XML .*Correct it or write tags\.csv",
    "VOC: cut XML",
    VOC | {"Annotations/a.xml": "<annotation><obj"},
)
data(
    r"unknown class 'gnu'.*Correct the name",
    "VOC: unknown class",
    VOC | {"Annotations/a.xml": "<annotation><object><name>gnu</name></object></annotation>"},
)
data(
    r"has files of coco and of cvat\. Say which to read with --data-format",
    "two formats at once",
    coco() | {"annotations.xml": XML.format("", "a.jpg", "cat")},
)
data(
    r"state\.json: .*leaves the picture folder",
    "Hugging Face: file elsewhere",
    {"state.json": '{"_data_files": [{"filename": "../../x.arrow"}]}', "dataset_info.json": "{}"},
)


@row(r"There is no folder .*nowhere\. --data takes the folder")
def no_such_folder(t, m):
    return convert(t, t / "nowhere")


@row(r"is a file\. --data takes the folder of a data set")
def zip_for_a_folder(t, m):
    with zipfile.ZipFile(t / "data.zip", "w") as archive:
        archive.writestr("../../evil.txt", "x")
    return convert(t, t / "data.zip")


@row(r"is no known data set\. Looked for .*found nothing")
def empty_folder(t, m):
    (t / "data").mkdir()
    return convert(t, t / "data")


@row(
    r"YAML|train|there is no folder or list|No usable picture|has no label file|picture",
    code=0,
    name="YOLO: YAML that unfolds without end, as train",
)
def yaml_bomb_as_train(t, m):
    return convert(t, tree(t / "data", YOLO | {"data.yaml": f"{LAUGHS}names: [cat]\ntrain: *a11\n"}))


@row(r"a\.jpg is a link that leaves the data folder .*Copy the pictures")
def link_to_a_file_elsewhere(t, m):
    root = folder(t / "data", f"{H}a.jpg,cat\nb.jpg,cat\n")
    (t / "secret.jpg").write_bytes(JPEG)
    (root / "images" / "a.jpg").unlink()
    (root / "images" / "a.jpg").symlink_to(t / "secret.jpg")
    return convert(t, root)


@row(r"a\.jpg is a link that leaves the data folder")
def link_out_of_a_linked_folder(t, m):
    root = folder(t / "data", f"{H}a.jpg,cat\nb.jpg,cat\n")
    (t / "secret.jpg").write_bytes(JPEG)
    (root / "images").rename(t / "elsewhere")
    (root / "images").symlink_to(t / "elsewhere")  # allowed, if nothing leaves it
    (t / "elsewhere" / "a.jpg").unlink()
    (t / "elsewhere" / "a.jpg").symlink_to(t / "secret.jpg")
    return convert(t, root)


@row(r"a\.png is a link that leaves the data folder")
def link_to_a_mask_elsewhere(t, m):
    root = folder(t / "data", f"{H}a.jpg,cat\nb.jpg,cat\n")
    (root / "masks").mkdir()
    (root / "masks" / "a.png").symlink_to("/etc/hostname")
    return convert(t, root)


@row(r"\.jpg is a link that leaves the data folder")
def link_in_a_voc_tree(t, m):
    root = tree(t / "data", VOC)
    picture = next((root / "JPEGImages").iterdir())
    picture.rename(t / "elsewhere.jpg")
    picture.symlink_to(t / "elsewhere.jpg")
    return convert(t, root)


# -- shards ------------------------------------------------------------------------------------------------------------


def member(name: str, content: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def shard(
    says: str, name: str, *members: tuple[tarfile.TarInfo, bytes], change: Callable[[bytes], bytes] = bytes
) -> None:
    """A row: a tar file of a good sample and these members."""

    def make(t: Path, m: Path) -> list[Any]:
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for info, content in (member("0.jpg", JPEG), member("0.txt", b"cat"), *members):
                archive.addfile(info, io.BytesIO(content))
        (t / "data").mkdir()
        (t / "data" / "0.tar").write_bytes(change(file.getvalue()))
        return convert(t, t / "data")

    row(says, name=name)(make)


shard(
    r"0\.tar member '\.\./a\.jpg': .*leaves the picture folder",
    "tar: dots",
    member("../a.jpg", JPEG),
    member("../a.txt", b"cat"),
)
shard(r"leaves the picture folder", "tar: absolute", member("/a.jpg", JPEG), member("/a.txt", b"cat"))
shard(
    r"is no plain file .*Pack the file itself",
    "tar: symbolic link",
    member("a.jpg", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
)
shard(
    r"is no plain file .*Pack the file itself",
    "tar: hard link",
    member("a.jpg", type=tarfile.LNKTYPE, linkname="../../x"),
)
shard(
    r"is no plain file .*Pack the file itself",
    "tar: device",
    member("a.jpg", type=tarfile.CHRTYPE, devmajor=1, devminor=5),
)
shard(r"is no plain file .*Pack the file itself", "tar: pipe", member("a.jpg", type=tarfile.FIFOTYPE))
shard(
    r"cannot be read as an uncompressed tar file|claims -|ends in the middle",
    "tar: negative size",
    member("a.jpg", pax_headers={"size": "-1024"}),
)
shard(
    r"ends in the middle of 'a\.jpg': copy it again",
    "tar: forged size",
    member("a.jpg", pax_headers={"size": "99999999999"}),
)
shard(r"too many for tags", "tar: tags of 2 MB", member("a.jpg", JPEG), member("a.txt", b"c" * 2_000_000))
shard(
    r"cannot be read: .*Save it as UTF-8", "tar: Windows-1252 tags", member("a.jpg", JPEG), member("a.txt", b"K\xe4fer")
)
shard(
    r"has the pictures .*Keep one per sample",
    "tar: two pictures of one name",
    member("1.jpg", JPEG),
    member("1.png", PNG),
    member("1.txt", b"cat"),
)
shard(r"unpack a compressed one", "tar: compressed", change=lambda data: zlib.compress(data, wbits=31))
shard(r"cannot be read as an uncompressed tar file", "tar: something else", change=lambda data: b"no tar" * 400)
shard(r"cannot be read as an uncompressed tar file", "tar: empty", change=lambda data: b"")
shard(r"ends in the middle of", "tar: cut", change=lambda data: data[:900])


# -- tags that are unusual and right -----------------------------------------------------------------------------------

GOOD_TABLES = {
    "BOM and CRLF": ('\ufefffile_name,tags\r\na.jpg,cat;dog\r\nb.jpg,\r\n', {"a.jpg": ["cat", "dog"], "b.jpg": []}),
    "emoji and accents": ("file_name,tags\na.jpg,\U0001f431;Käfer\nb.jpg,日本\n", {"a.jpg": ["Käfer", "\U0001f431"], "b.jpg": ["日本"]}),
    "quotes and commas": ('file_name,tags\na.jpg,"""big"" cat, grey;dog"\nb.jpg,dog\n', {"a.jpg": ['"big" cat, grey', "dog"], "b.jpg": ["dog"]}),
    "spaces and empty tags": ("file_name,tags\n a.jpg , cat ;; dog ;cat\nb.jpg,;\n\n", {"a.jpg": ["cat", "dog"], "b.jpg": []}),
    "markup and formulas": ("file_name,tags\na.jpg,<b>;=1+1\nb.jpg,{0}\n", {"a.jpg": ["<b>", "=1+1"], "b.jpg": ["{0}"]}),
}  # fmt: skip


@pytest.mark.parametrize("kind", GOOD_TABLES)
def test_unusual_tags_survive_a_conversion(kind, tmp_path, capsys):
    from tag2mask.data import open_data

    table, wanted = GOOD_TABLES[kind]
    folder(tmp_path / "data", table, splits__train_txt="a.jpg\nb.jpg\n")
    assert call(*convert(tmp_path, tmp_path / "data")) == 0, capsys.readouterr().err
    for root in (tmp_path / "data", tmp_path / "out"):
        found = open_data(root)
        assert {p.name: sorted(found.classes[i] for i in p.tags) for p in found.pictures} == wanted


# -- masks -------------------------------------------------------------------------------------------------------------


def masks(
    says: str, name: str, mask: bytes, *more: str, classes: str | None = "cat\n", picture: bytes | None = None
) -> None:
    """A row: a mask, and a picture where there is one."""

    def make(t: Path, m: Path) -> list[Any]:
        tree(t / "masks", {"a.png": mask} | ({} if classes is None else {"classes.txt": classes}))
        if picture is not None:
            tree(t / "images", {"a.jpg": picture})
        return [
            "convert",
            t / "masks",
            "--to",
            "coco",
            "--out",
            t / "out.json",
            *more,
            *(["--images", t / "images"] if picture else []),
        ]

    row(says, name=name)(make)


def mask_of(label: int, mode: str = "L", size: tuple[int, int] = (64, 48)) -> bytes:
    return encoded(Image.new(mode, size, label), format="PNG")


masks(r"a\.png is RGB, not an indexed PNG\. Save it as", "mask: RGB", PNG)
masks(r"a\.png is JPEG RGB, not an indexed PNG", "mask: JPEG", JPEG)
masks(r"a\.png is I;16, not an indexed PNG", "mask: 16 bits", DEEP)
masks(
    r"of fewer than 8 bits, not an indexed PNG",
    "mask: grey of 4 bits",
    png(4, 4, depth=4, color=0, rows=b"\0\x10\x10" * 4),
)
masks(r"a\.png cannot be read as a mask: .*Replace or remove", "mask: cut", mask_of(1)[:40])
masks(r"a\.png is left out: .*more than the limit of", "mask: bomb", png(60000, 60000, depth=8, color=0))
masks(r"holds label 7, but there are 1 classes", "mask: label without class", mask_of(7))
masks(r"have no names: there is no classes\.txt.*--classes FILE", "mask: no classes", mask_of(1), classes=None)
masks(
    r"a\.png is 4 x 4 .*its picture 48 x 64 .*Draw the mask",
    "mask: another size",
    mask_of(1, size=(4, 4)),
    picture=JPEG,
)
masks(r"has no picture of the mask|cannot be read as a picture", "mask: broken picture", mask_of(1), picture=b"x")
masks(r"--tolerance is a number of pixels, 0 or more, got nan", "mask: tolerance NaN", mask_of(1), "--tolerance", "nan")


# -- settings ----------------------------------------------------------------------------------------------------------


def config(
    says: str, name: str, change: Callable[[dict[str, Any]], Any], code: int = 1, *, saved: bool = False
) -> None:
    """A row: going on with a run whose config.json is changed: to text, or to other values; `saved`: it has a state."""

    def make(t: Path, m: Path) -> list[Any]:
        from tag2mask.config import TrainConfig
        from tag2mask.runs.checkpoints import _STATE

        values = json.loads(TrainConfig.preset("small", data=str(t / "data"), backbone="test_resnet").to_json())
        changed = change(values)
        text = changed if isinstance(changed, (str, bytes)) else json.dumps(values if changed is None else changed)
        folder(t / "data", f"{H}a.jpg,cat\nb.jpg,cat\n")
        tree(t / "run", {"config.json": text})
        if saved:
            (t / "run" / "last").mkdir()
            torch.save(dict.fromkeys(_STATE, 0), t / "run" / "last" / "state.pt")
        return ["train", "--resume", t / "run"]

    row(says, code, name=name)(make)


config(r"config\.json: The config is not JSON", "config: empty", lambda c: "")
config(r"config\.json: The config is not JSON", "config: cut", lambda c: json.dumps(c)[:50])
config(
    r"config\.json: .*utf-8.* Correct it",
    "config: Windows-1252",
    lambda c: json.dumps(c | {"data": "ä"}, ensure_ascii=False).encode("cp1252"),
)
config(r"config\.json: .*not JSON", "config: nested", lambda c: "[" * 100_000)
config(r"config must be an object, got list", "config: list", lambda c: [c])
config(
    r"config\.kind must be one of train, retrain, got 'os\.system'",
    "config: kind that is code",
    lambda c: c | {"kind": "os.system"},
)
config(
    r"unknown keys __class__, _target_",
    "config: keys that are code",
    lambda c: c | {"__class__": "os.system", "_target_": "os.system"},
)
config(r"config\.optim\.lr must be a finite number, got nan", "config: NaN", lambda c: c["optim"].update(lr=math.nan))
config(
    r"config\.optim\.lr must be a finite number, got inf", "config: infinite", lambda c: c["optim"].update(lr=math.inf)
)
config(r"config\.batch_size must be int, got '3'", "config: text for a number", lambda c: c.update(batch_size="3"))
config(r"config\.batch_size must be int, got True", "config: true for a number", lambda c: c.update(batch_size=True))
config(
    r"--batch-size must be 1 to 65536, or auto, got 1000000000",
    "config: batches without end",
    lambda c: c.update(batch_size=10**9),
)
config(r"--tag-steps must be 0 to 10000000", "config: steps without end", lambda c: c.update(tag_steps=10**15))
config(
    r"There is no backbone 'hf-hub:evil/code'",
    "config: backbone from the hub",
    lambda c: c.update(backbone="hf-hub:evil/code"),
    saved=True,
)
config(
    r"There is no backbone 'local-dir:/tmp/evil'",
    "config: backbone from a folder",
    lambda c: c.update(backbone="local-dir:/tmp/evil"),
    saved=True,
)
config(
    r"config\.precision must be one of fp32, bf16, fp16",
    "config: word that is none",
    lambda c: c.update(precision="fp8"),
)
config(r"has no saved state to go on from \(last/state\.pt\)", "config: no state", lambda c: None)


# -- weights -----------------------------------------------------------------------------------------------------------


class Evil:
    """A pickle that makes a file when it is loaded as pickles are."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self):
        return Path.touch, (self.place,)


def weights(says: str, name: str, change: Callable[[bytes], bytes], file: str = "m.safetensors") -> None:
    """A row: predicting with a model whose bytes are changed."""

    def make(t: Path, m: Path) -> list[Any]:
        tree(t, {file: change(m.read_bytes()), "a.jpg": JPEG})
        return ["predict", t / file, t / "a.jpg", "--out", t / "out"]

    row(says, name=name)(make)


def with_metadata(**changes: Any) -> Callable[[bytes], bytes]:
    """Changes of the metadata of a .safetensors file; a function changes the old value."""

    def change(data: bytes) -> bytes:
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        old = header["__metadata__"]
        header["__metadata__"] = {
            k: v
            for k, v in (old | {n: f(old[n]) if callable(f) else f for n, f in changes.items()}).items()
            if v is not None
        }
        text = json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + data[8 + size :]

    return change


def with_tensors(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[bytes], bytes]:
    def changed(data: bytes) -> bytes:
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / "m.safetensors"
            path.write_bytes(data)
            tensors = load_file(path)
            size = int.from_bytes(data[:8], "little")
            change(tensors)
            save_file(tensors, path, metadata=json.loads(data[8 : 8 + size])["__metadata__"])
            return path.read_bytes()

    return changed


def pickled(data: bytes) -> bytes:
    return pickle.dumps(Evil(Path("/tmp/tag2mask-pwned")))


UNREADABLE = r"m\.safetensors is no readable \.safetensors file"
weights(UNREADABLE, "model: empty", lambda data: b"")
weights(UNREADABLE, "model: cut", lambda data: data[: len(data) // 2])
weights(UNREADABLE, "model: header of 2^60 bytes", lambda data: (2**60).to_bytes(8, "little") + data[8:])
weights(UNREADABLE, "model: header that is no JSON", lambda data: data[:20] + b"\xff" * 9 + data[29:])
weights(UNREADABLE, "model: pickle", pickled)
weights(r"was not written by tag2mask", "model: of something else", with_metadata(config=None))
weights(
    r"m\.safetensors: The config is not JSON.*get the file anew",
    "model: config that is no JSON",
    with_metadata(config="{"),
)
weights(
    r"unknown keys _target_",
    "model: config that names code",
    with_metadata(config=lambda old: json.dumps(json.loads(old) | {"_target_": "os.system"})),
)
weights(
    r"There is no backbone 'hf-hub:evil/x'",
    "model: backbone from the hub",
    with_metadata(config=lambda old: json.dumps(json.loads(old) | {"backbone": "hf-hub:evil/x"})),
)
weights(r"its classes must be a list of names", "model: classes that are text", with_metadata(classes='"cat"'))
weights(
    r"its classes must be a list of names",
    "model: class with half a character",
    with_metadata(classes='["\\ud800", "b", "c", "d", "e"]'),
)
weights(
    r"its classes must be at most 254 different",
    "model: 300 classes",
    with_metadata(classes=json.dumps([str(i) for i in range(300)])),
)
weights(r"does not fit its own config and classes", "model: classes too few", with_metadata(classes='["cat"]'))
weights(
    r"is damaged: .*not finite \(NaN\)\. Get it anew",
    "model: NaN",
    with_tensors(lambda t: t["classifier.weight"].fill_(math.nan)),
)
weights(
    r"tensors that differ: extra\. Get the file anew",
    "model: tensor too many",
    with_tensors(lambda t: t.update(extra=torch.ones(1))),
)
weights(
    r"scores of this picture are not finite .*Get the model anew",
    "model: weights that overflow",
    with_tensors(lambda t: t["segmenter.0.weight"].fill_(3e38)),
)
weights(
    r"is no readable|does not exist|no ONNX model that onnxruntime can run",
    "model: ONNX that is none",
    lambda data: b"no model",
    "m.onnx",
)


@row(r"run has no model\.safetensors yet: the run has not ended|is no run folder|does not exist")
def folder_that_is_no_run(t, m):
    tree(t, {"run/x.txt": "x", "a.jpg": JPEG})
    return ["predict", t / "run", t / "a.jpg", "--out", t / "out"]


@row(r"A model of the hub is named \"hf://owner/name\"")
def address_that_leaves_the_hub(t, m):
    tree(t, {"a.jpg": JPEG})
    return ["predict", "hf://../../etc", t / "a.jpg", "--out", t / "out"]


@row(r"evil\.pt cannot be read as weights .*needed: \.safetensors")
def start_from_a_pickle(t, m):
    folder(t / "data", f"{H}a.jpg,cat\nb.jpg,cat\n")
    (t / "evil.pt").write_bytes(pickled(b""))
    options = ["--backbone", "test_resnet", "--weights", t / "evil.pt", "--out", t / "run"]
    return ["train", "small", "--data", t / "data", *options]


@row(r"has no model\.safetensors yet: the run has not ended.*tag2mask train --resume")
def start_from_a_run_that_has_not_ended(t, m):
    folder(t / "data", f"{H}a.jpg,cat\nb.jpg,cat\n")
    (t / "first").mkdir()
    (t / "first" / "config.json").write_text(TrainConfig.preset("small").to_json())
    return ["train", "small", "--data", t / "data", "--weights", t / "first", "--out", t / "run"]


# -- arguments ---------------------------------------------------------------------------------------------------------


def arguments(says: str, code: int, *words: str) -> None:
    """A row: a command line; {t} is its folder, which has a picture and a data set, {m} the model."""

    def make(t: Path, m: Path) -> list[Any]:
        folder(t / "data", f"{H}a.jpg,cat\nb.jpg,cat\n")
        tree(t, {"a.jpg": JPEG, "file": "x"})
        return [word.format(t=t, m=m) for word in words]

    row(says, code, name=f"command: {' '.join(words).replace('{t}/', '').replace('{m}', 'MODEL')[:70]}")(make)


TRAIN = ("train", "small", "--data", "{t}/data", "--out", "{t}/run")
PREDICT = ("predict", "{m}", "{t}/a.jpg", "--out")
arguments(r"no command 'pedict'\. Did you mean 'predict'", 2, "pedict")
arguments(r"no preset 'smal'; presets: .*Did you mean 'small'", 2, "train", "smal", "--data", "{t}/data")
arguments(r"train needs --data PATH", 2, "train", "small")
arguments(r"predict needs at least one picture", 2, "predict", "{m}", "--out", "{t}/out")
arguments(r"There is no .*nothing\.jpg", 1, "predict", "{m}", "{t}/nothing.jpg", "--out", "{t}/out")
arguments(r"No file matches .*x\*\.jpg", 1, "predict", "{m}", "{t}/x*.jpg", "--out", "{t}/out")
arguments(r"scales must hold at least one positive number", 1, *PREDICT, "{t}/out", "--scales", "0")
arguments(r"scales must hold at least one positive number, got \(nan", 1, *PREDICT, "{t}/out", "--scales", "nan")
arguments(r"scales must hold at least one positive number, got \(inf", 1, *PREDICT, "{t}/out", "--scales", "inf")
arguments(r"--out .*/file: .*/file is no folder\. Choose another place", 1, *PREDICT, "{t}/file")
arguments(r"--out .*/file/out: .*/file is no folder\. Choose another place", 1, *PREDICT, "{t}/file/out")
arguments(r"File name too long\. Choose a shorter name", 1, *PREDICT, "{t}/" + "x" * 300)
arguments(r"invalid choice|--format", 2, *PREDICT, "{t}/out", "--format", "bmp")
arguments(r"Device 'gpu9' is not available here .*use auto or cpu", 1, *PREDICT, "{t}/out", "--device", "gpu9")
arguments(r"leaves the picture folder|There is no|tags", 1, *PREDICT, "{t}/out", "--tags", "{t}/none.csv")
arguments(r"--optim\.lr must be (?:a finite number|greater than 0)", 2, *TRAIN, "--optim.lr", "nan")
arguments(r"--augment\.crop-size must be 2 to 65536, got 0", 2, *TRAIN, "--augment.crop-size", "0")
arguments(r"--image-size must be 1 to 65536, got -5", 2, *TRAIN, "--image-size", "-5")
arguments(r"--workers must be 0 to 1024, got 99999", 2, *TRAIN, "--workers", "99999")
arguments(r"--batch-size must be 1 to 65536, or auto, got 0", 2, *TRAIN, "--batch-size", "0")
arguments(
    r"There is no weights file .*none\.pt; give a file",
    1,
    *TRAIN,
    "--backbone",
    "test_resnet",
    "--weights",
    "{t}/none.pt",
)
arguments(r"There is no backbone 'resnet1'.*did you mean", 1, *TRAIN, "--backbone", "resnet1", "--weights", "none")
arguments(r"evaluate needs either RUN or --masks DIR", 2, "evaluate", "--data", "{t}/data")
arguments(r"has no split 'dev'; splits: train, val", 1, "evaluate", "{m}", "--data", "{t}/data", "--split", "dev")
arguments(r"min_images must be at least 1, got 0", 1, "check", "{t}/data", "--min-images", "0")
arguments(
    r"--out .*out\.txt must end in \.safetensors",
    1,
    "convert",
    "{t}/a.jpg",
    "--to",
    "safetensors",
    "--out",
    "{t}/out.txt",
)
arguments(
    r"file exists\. Choose another name or remove it", 1, "convert", "{t}/data", "--to", "folder", "--out", "{t}/file"
)
arguments(
    r"has no split 'nope'|splits", 1, "convert", "{t}/data", "--to", "folder", "--out", "{t}/out", "--splits", "nope"
)
arguments(r"--port must be 0 to 65535, got 99999999", 1, "ui", "{m}", "--port", "99999999")


# -- the table ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ROWS)
def test_bad_input_ends_in_a_named_error(name, model, tmp_path, capsys):
    make, says, code = ROWS[name]
    arguments_of = make(tmp_path, model)
    before = snapshot(tmp_path)
    got = call(*arguments_of)
    said = capsys.readouterr()
    everything = said.out + said.err
    assert got == code, everything
    assert re.search(says, " ".join(everything.split())), everything
    assert "Traceback" not in everything
    if code == 1:
        errors = [line for line in said.err.splitlines() if line.startswith("tag2mask: error: ")]
        assert len(errors) == 1, said.err
        assert len(errors[0]) < 1500
        assert not re.search(r"\bnan\b", said.out, re.IGNORECASE)
    after = snapshot(tmp_path)
    assert {name: after.get(name) for name in before} == before, "what was there is as it was"
    if code != 0:
        made = {place for place in after if place not in before and isinstance(after[place], bytes)}
        assert all(re.match(r"(?:run|out)/(?:log\.txt|classes\.txt|manifest/)", place) for place in made), made
    assert not Path("/tmp/tag2mask-pwned").exists() and not Path("/tmp/pwned").exists(), "no code of a file may run"


def test_the_table_is_long_enough():
    assert len(ROWS) + len(REFUSED_PICTURES) + len(TAKEN_PICTURES) >= 200


# -- the state of a run, and models for onnxruntime --------------------------------------------------------------------


@pytest.fixture
def run(tiny_config) -> Path:
    """A run that was saved after two of its six steps, and stopped."""
    from tag2mask.training import loop
    from tag2mask.training.first_step import train

    class Stop(Exception):
        pass

    def save(run: Path, state: Any) -> None:
        saved(run, state)
        raise Stop

    saved, loop.save_state = loop.save_state, save
    try:
        with pytest.raises(Stop):
            train(tiny_config)
    finally:
        loop.save_state = saved
    return Path(tiny_config.out)


def test_a_damaged_state_is_named_and_never_runs_code(run, tmp_path, capsys):
    path = run / "last" / "state.pt"
    good = path.read_bytes()
    state = torch.load(path, weights_only=True)
    file = io.BytesIO()
    bad: dict[str, Any] = {
        r"state\.pt cannot be read as the state of a run .*Train the run anew": pickle.dumps(Evil(tmp_path / "pwned")),
        r"state\.pt cannot be read .*Train": good[: len(good) // 2],
        r"state\.pt cannot be read as the state": b"",
        r"is no state of a run: it lacks .*average": {"model": {}, "step": 1},
        r"is no state of a run: it lacks everything": [1, 2],
        r"does not fit the run's config\.json.*Take both from one run": state | {"model": {"x": torch.ones(1)}},
        r"does not fit the run's config\.json, or is damaged .*cuda_rng": {
            k: v for k, v in state.items() if k != "cuda_rng"
        },
        r"or is damaged \(ValueError: step is -3\)": state | {"step": -3},
        r"or is damaged .*Take both": state | {"rng": torch.zeros(3, dtype=torch.uint8)},
    }
    for says, content in bad.items():
        if not isinstance(content, bytes):
            file.seek(0)
            file.truncate()
            torch.save(content, file)
            content = file.getvalue()
        path.write_bytes(content)
        assert call("train", "--resume", run) == 1, says
        said = capsys.readouterr()
        assert re.search(says, " ".join(said.err.split())), said.err
        assert "Traceback" not in said.err
        assert path.read_bytes() == content, "nothing replaces it"
        assert not (tmp_path / "pwned").exists()
    path.write_bytes(good)
    rows = (run / "metrics.csv").read_bytes()
    (run / "metrics.csv").write_bytes(rows + b"x,y\n")
    assert call("train", "--resume", run) == 1
    assert "metrics.csv is damaged" in capsys.readouterr().err
    (run / "metrics.csv").write_bytes(rows)
    assert call("train", "--resume", run) == 0, "the good state goes on"


def onnx_bytes(**notes: str) -> bytes:
    """A small model with the inputs and outputs of `tag2mask export`; `notes` replace its metadata."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    make = helper.make_tensor_value_info
    inputs = [make("rgb", 2, ["b", "h", "w", 3]), make("scale", 11, []), make("size", 7, [2])]
    outputs = [make("logits", 1, ["b", 3, "y", "x"]), make("tag_scores", 1, ["b", 2])]
    weights = numpy_helper.from_array(np.full((3, 2), float(notes.pop("weight", "0.001")), np.float32), "weights")
    if place := notes.pop("external", None):
        weights.ClearField("raw_data")
        weights.data_location = TensorProto.EXTERNAL
        weights.external_data.append(onnx.StringStringEntryProto(key="location", value=place))
    nodes = [
        helper.make_node("Cast", ["rgb"], ["floats"], to=1),
        helper.make_node("Transpose", ["floats"], ["logits"], perm=[0, 3, 1, 2]),
        helper.make_node("GlobalAveragePool", ["logits"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["tag_scores"]),
    ]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    good = {"format": "tag2mask", "classes": '["cat", "dog"]', "image_size": "64", "stride": "32", "selection": "last"}
    helper.set_model_props(model, {key: value for key, value in (good | notes).items() if value})
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("notes", "says"),
    [
        ({"format": ""}, r"is an ONNX model of something else; `tag2mask export"),
        ({"classes": ""}, r"its metadata is damaged \(KeyError\('classes'\)\)\. Export it anew"),
        ({"classes": "{"}, r"its metadata is damaged .*Export it anew"),
        ({"classes": '"cat"'}, r"its metadata names no classes\. Export it anew"),
        ({"classes": '["a\\u0000", "b"]'}, r"its metadata names no classes"),
        ({"classes": '["cat"]'}, r"gives outputs of the shapes .* for its 1 classes\. Export it anew"),
        ({"image_size": '"big"'}, r"its metadata gives the image_size big\. Export it anew"),
        ({"stride": "0"}, r"its metadata gives the stride 0"),
        ({"weight": "nan"}, r"scores of this picture are not finite .*Get the model anew"),
        ({"external": "../secret.bin"}, r"m\.onnx is no ONNX model that onnxruntime can run: .*Export it anew"),
        ({"external": "/etc/hostname"}, r"m\.onnx is no ONNX model that onnxruntime can run: .*Export it anew"),
    ],
)
def test_a_bad_onnx_model_is_named(notes, says, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    inside = tree(tmp_path / "models", {"m.onnx": onnx_bytes(**notes), "a.jpg": JPEG})
    (tmp_path / "secret.bin").write_bytes(bytes(24))
    assert call("predict", inside / "m.onnx", inside / "a.jpg", "--out", tmp_path / "out") == 1
    said = capsys.readouterr()
    assert re.search(says, " ".join(said.err.split())), said.err
    assert "Traceback" not in said.err
    assert "Fallback" not in said.out and "Falling back" not in said.out
    assert not list((tmp_path / "out").glob("masks/*"))


def test_onnx_metadata_that_is_no_text_is_named(tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    data = onnx_bytes(selection="LAST-STEP").replace(b"LAST-STEP", b"LAST-STE\xe5")
    tree(tmp_path, {"m.onnx": data, "a.jpg": JPEG})
    assert call("predict", tmp_path / "m.onnx", tmp_path / "a.jpg", "--out", tmp_path / "out") == 1
    assert re.search(r"m\.onnx: its metadata is damaged \(.*utf-8.*\)\. Export it anew", capsys.readouterr().err)


# -- the disk ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def few_bytes(size: int = 2000) -> Iterator[None]:
    """Files may not grow beyond `size`, as on a full disk; only in the block, or the tests' own log could not grow."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, old)


def test_a_full_disk_leaves_no_half_masks(quick, model, tmp_path, capsys):
    (tmp_path / "big.png").write_bytes(encoded(noise((400, 300)), format="PNG"))
    (tmp_path / "small.png").write_bytes(encoded(Image.new("RGB", (8, 8)), format="PNG"))
    with few_bytes():
        code = call("predict", model, tmp_path / "big.png", tmp_path / "small.png", "--out", tmp_path / "out")
    said = capsys.readouterr()
    assert code == 1
    assert "File too large" in said.err
    assert "Traceback" not in said.err
    assert not list((tmp_path / "out").rglob("*.part*"))
    for mask in (tmp_path / "out" / "masks").glob("*.png"):
        with Image.open(mask) as image:
            image.load()


def test_a_full_disk_while_converting_leaves_nothing(tmp_path, capsys):
    root = folder(tmp_path / "data", f"{H}a.jpg,cat\nb.jpg,dog\n", pictures={"a.jpg": JPEG * 4, "b.jpg": JPEG})
    with few_bytes():
        assert call(*convert(tmp_path, root)) == 1
    assert re.search(r"File too large\. A file may not grow further here: raise the limit", capsys.readouterr().err)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_in_training_keeps_the_last_state(error, run, monkeypatch, capsys):
    """The disk fills while the second state is written; then there is space again."""
    before = (run / "last" / "state.pt").read_bytes()
    save = torch.save

    def full(value: Any, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(error, os.strerror(error), str(path))

    monkeypatch.setattr(torch, "save", full)
    assert call("train", "--resume", run) == 1
    said = capsys.readouterr().err
    kept = r"(last/state\.pt .*; the one before it is whole|tag_phase/state\.pt .*; nothing is left of it)"
    assert re.search(rf"{kept}\. Free some space", said)
    assert "could not be written" in said
    assert "Traceback" not in said
    assert (run / "last" / "state.pt").read_bytes() == before
    assert [path.name for path in (run / "last").iterdir()] == ["state.pt"]
    assert os.strerror(error) in (run / "log.txt").read_text(encoding="utf-8")
    monkeypatch.setattr(torch, "save", save)
    assert call("train", "--resume", run) == 0
    assert (run / "model.safetensors").is_file()


def test_a_data_set_that_vanishes_in_training_keeps_the_last_state(run, builtin, tmp_path, monkeypatch, capsys):
    from tag2mask.data.training import loading

    before = (run / "last" / "state.pt").read_bytes()
    read = loading.read_picture

    def gone(path: Path) -> Any:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))

    monkeypatch.setattr(loading, "read_picture", gone)
    assert call("train", "--resume", run) == 1
    said = capsys.readouterr().err
    assert re.search(r"None of the 12 pictures of split 'train' in .* can be read, for example .*\. Replace them", said)
    assert "Traceback" not in said
    assert (run / "last" / "state.pt").read_bytes() == before
    assert not (run / "model.safetensors").exists()
    monkeypatch.setattr(loading, "read_picture", read)
    assert call("train", "--resume", run) == 0


def test_a_data_set_that_is_gone_before_a_resume_is_named(run, builtin, tmp_path, capsys):
    builtin.rename(builtin.with_name("away"))
    try:
        assert call("train", "--resume", run) == 1
        assert re.search(r"There is no folder .*data\. --data takes the folder", capsys.readouterr().err)
    finally:
        builtin.with_name("away").rename(builtin)
    assert (run / "last" / "state.pt").is_file()


@pytest.fixture
def nobody():
    """A folder that everybody may read and nobody may write, and a process that is nobody."""
    place = Path(tempfile.mkdtemp(prefix="tag2mask-"))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


@pytest.mark.parametrize("verb", ["convert", "predict", "train", "check"])
def test_a_folder_that_cannot_be_written_is_named(verb, quick, model, nobody, capsys):
    root = folder(nobody / "data", f"{H}a.jpg,cat\nb.jpg,dog\n")
    shutil.copy(model, nobody / "model.safetensors")
    (nobody / "locked").mkdir()
    (nobody / "locked").chmod(0o555)
    (nobody / "model.safetensors").chmod(0o644)
    out = nobody / "locked" / "out"
    words = {
        "convert": ["convert", root, "--to", "folder", "--out", out],
        "predict": ["predict", nobody / "model.safetensors", root / "images", "--out", out],
        "train": ["train", "small", "--data", root, "--out", out, "--backbone", "test_resnet", "--weights", "none"],
        "check": ["check", root, "--out", nobody / "locked" / "page.html"],
    }[verb]
    root_user = os.geteuid() == 0
    if root_user:
        os.seteuid(65534)
    try:
        code = call(*words)
    finally:
        if root_user:
            os.seteuid(0)
    said = capsys.readouterr()
    assert code == 1
    assert re.search(r"locked.*: Permission denied\. Change its permissions, or choose another place", said.err), (
        said.err
    )
    assert "Traceback" not in said.err
    assert not list((nobody / "locked").iterdir())
