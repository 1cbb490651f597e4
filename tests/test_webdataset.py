"""WebDataset shards: found, listed, read in place, drawn shard by shard."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tag2mask.data import DataError, MissingDataError, PictureError, list_splits, open_data, read_mask, read_picture
from tag2mask.data.storage.shards import find_shards
from tag2mask.data.training.loading import TrainingPictures
from tag2mask.data.training.sampling import SHARDS_MIXED, shard_order


def png(value: int, size: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def labels(value: int, size: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (size, size), value).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def write_shards(folder: Path, count: int = 3, each: int = 4, name: str = "{:03d}.tar") -> Path:
    for shard in range(count):
        members = {}
        for i in range(each):
            number = shard * each + i
            members[f"{number:06d}.png"] = png(number)
            members[f"{number:06d}.json"] = json.dumps({"tags": ["cat"] if number % 2 else ["cat", "dog"]}).encode()
        write_tar(folder / name.format(shard), members)
    return folder


def test_patterns_name_shards(tmp_path):
    write_shards(tmp_path, count=3)
    three = [tmp_path / f"{i:03d}.tar" for i in range(3)]
    assert (
        find_shards(tmp_path)
        == find_shards(f"{tmp_path}/{{000..002}}.tar")
        == find_shards(f"{tmp_path}/*.tar")
        == three
    )
    assert find_shards(f"{tmp_path}/{{000,002}}.tar") == [three[0], three[2]]
    with pytest.raises(MissingDataError, match=r"003\.tar"):
        find_shards(f"{tmp_path}/{{000..003}}.tar")
    with pytest.raises(DataError, match="must rise"):
        find_shards(f"{tmp_path}/{{5..2}}.tar")


def test_pictures_and_tags_are_read_in_place(tmp_path):
    write_shards(tmp_path)
    train = open_data(f"{tmp_path}/{{000..002}}.tar")
    held_out = open_data(tmp_path, split="val")
    assert train.data_format == "webdataset"
    assert train.classes == ("cat", "dog")
    pictures = {p.name: p for p in (*train.pictures, *held_out.pictures)}
    assert len(pictures) == 12
    for name, picture in pictures.items():
        number = int(Path(name).stem)
        assert read_picture(picture.path)[0, 0, 0] == number
        assert picture.tags == ((0,) if number % 2 else (0, 1))


def test_other_tags_masks_splits_and_samples_without_tags(tmp_path):
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    write_tar(
        tmp_path / "train-00.tar",
        {
            "./a.jpg.png": b"",  # its first dot starts the suffix: no picture
            "b.png": png(1),
            "b.cls": b"1",
            "b.mask.png": labels(2),
            "c.png": png(2),
            "c.txt": b"dog; cat",
            "d.png": png(3),
            "e.json": b'{"tags": []}',
            "f.png": png(4),
            "f.json": b'{"width": 8}',
            "g.png": png(5),
            "g.json": b'{"tags": []}',
        },
    )
    write_tar(tmp_path / "val-00.tar", {"b.png": png(9), "b.cls": b"dog"})
    assert list_splits(tmp_path) == ("train", "val")
    train, val = open_data(tmp_path), open_data(tmp_path, split="val")
    assert train.classes == ("dog", "cat")
    assert [(p.name, p.tags) for p in train.pictures] == [("b.png", (1,)), ("c.png", (0, 1)), ("g.png", ())]
    assert (read_mask(train.pictures[0].mask, train.mask_codes) == 2).all()
    assert [(p.name, p.tags) for p in val.pictures] == [("val-00/b.png", (0,))]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"../a.png": b"x", "../a.txt": b"cat"}, "leaves the picture folder"),
        ({"/a.png": b"x", "/a.txt": b"cat"}, "leaves the picture folder"),
        ({"a.png": b"x", "a.jpg": b"x", "a.txt": b"cat"}, "has the pictures png, jpg"),
        ({"a.png": b"x", "a.json": b"{"}, "cannot be read"),
        ({"a.png": b"x", "a.txt": b"\xff"}, "cannot be read"),
        ({"a.png": b"x", "a.cls": b"0"}, "classes.txt"),
        ({"a.png": b"x", "a.txt": b"c" * 2_000_000}, "too many for tags"),
        ({"a.png": b"x"}, "No usable picture"),
    ],
)
def test_bad_shards_are_refused(tmp_path, members, message):
    write_tar(tmp_path / "0.tar", members)
    with pytest.raises(DataError, match=message):
        open_data(tmp_path)


def test_links_cut_and_compressed_shards_are_refused(tmp_path):
    with tarfile.open(tmp_path / "link.tar", "w") as archive:
        info = tarfile.TarInfo("a.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(info)
    with pytest.raises(DataError, match="no plain file"):
        open_data(tmp_path / "link.tar")
    whole = write_tar(tmp_path / "whole.tar", {"a.txt": b"cat", "a.png": png(1) * 200})
    (tmp_path / "cut.tar").write_bytes(whole.read_bytes()[:3000])
    with pytest.raises(DataError, match="ends in the middle of"):
        open_data(tmp_path / "cut.tar")
    (tmp_path / "zipped.tar").write_bytes(b"\x1f\x8b" + bytes(600))
    with pytest.raises(DataError, match="uncompressed"):
        open_data(tmp_path / "zipped.tar")


def test_a_shard_that_shrinks_after_listing_is_named(tmp_path):
    write_shards(tmp_path, count=1)
    picture = open_data(tmp_path).pictures[-1]
    (tmp_path / "000.tar").write_bytes(b"")
    with pytest.raises(PictureError, match="it was cut or changed"):
        read_picture(picture.path)


def test_epochs_keep_shards_together_and_draw_every_picture_once(tmp_path):
    shards = [np.arange(10 * i, 10 * i + 10) for i in range(3 * SHARDS_MIXED)]
    first, second = (shard_order(shards, np.random.default_rng((0, epoch))) for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(10 * len(shards)))
    assert (first != second).any()
    window = first[: 10 * SHARDS_MIXED] // 10
    assert len(set(window)) == SHARDS_MIXED, "the first draws come from so many shards"
    assert len(set(window[:10])) > 1, "and are mixed among them"


def test_draws_from_shards_equal_those_of_any_worker_and_resume(tmp_path):
    from tag2mask.config import AugmentConfig

    write_shards(tmp_path, count=10, each=2)
    pictures = open_data(tmp_path)
    loaders = [
        TrainingPictures(pictures, AugmentConfig(crop_size=8), None, fill_rgb=(0, 0, 0), seed=0) for _ in range(2)
    ]
    count = len(pictures.pictures)
    assert sorted(loaders[0][n].name for n in range(count)) == sorted(p.name for p in pictures.pictures)
    for n in (count + 3, 2, 5 * count):
        one, other = loaders[0][n], loaders[1][n]
        assert one.name == other.name
        assert (one.rgb == other.rgb).all()


def test_shards_of_the_webdataset_package_are_read(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    with webdataset.ShardWriter(str(tmp_path / "%03d.tar"), maxcount=2) as sink:
        for i in range(5):
            sink.write({"__key__": f"s{i}", "png": png(i), "json": {"tags": ["cat"]}})
    names = [p.name for split in ("train", "val") for p in open_data(tmp_path, split=split).pictures]
    assert sorted(names) == [f"s{i}.png" for i in range(5)]
