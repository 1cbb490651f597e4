"""The archive of the VOC test server: names, ids, palette, bytes."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from tag2mask import cli, predict
from tag2mask.config import TrainConfig
from tag2mask.data import VOC_CLASSES, voc_palette
from tag2mask.inference.segmenter import Segmenter
from tag2mask.models import build_network
from tag2mask.outputs import voc_archive
from tag2mask.runs.checkpoints import save_model

CLASSES = ("dog", "cat", "person")  # not in VOC's order
IDS = [0, 12, 8, 15]
TREE = "results/VOC2012/Segmentation/comp6_test_cls"


def network(classes):
    torch.manual_seed(0)
    config = TrainConfig.preset("small", backbone="test_resnet", weights="none", image_size=64)
    model = build_network(config, classes)
    model.segmenter[-1].weight.data.mul_(20)
    return model, config


@pytest.fixture(scope="module")
def segmenter():
    return Segmenter(*network(CLASSES), device="cpu")


@pytest.fixture
def pictures(tmp_path):
    folder, rng = tmp_path / "JPEGImages", np.random.default_rng(0)
    folder.mkdir()
    for name, size in (("2008_000001", (50, 66)), ("2008_000002", (66, 50)), ("2010_000003", (40, 40))):
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(folder / f"{name}.jpg")
    return folder


def test_ids_follow_the_names():
    assert voc_archive.voc_ids(CLASSES).tolist() == IDS
    assert voc_archive.voc_ids(VOC_CLASSES).tolist() == list(range(21))
    with pytest.raises(ValueError, match="knows zebra"):
        voc_archive.check_archive(("dog", "zebra"), ["a.jpg"])


def test_archive_holds_the_masks_with_voc_ids(segmenter, pictures, tmp_path):
    out = tmp_path / "out"
    summary = predict(segmenter, pictures, out, formats=["comp6", "png"])
    assert summary.archive == out / "results.tgz"
    with tarfile.open(summary.archive) as tar:
        names = ["2008_000001", "2008_000002", "2010_000003"]
        folders = ["results", "results/VOC2012", "results/VOC2012/Segmentation", TREE]
        assert tar.getnames() == folders + [f"{TREE}/{name}.png" for name in names]
        seen = set()
        for name in names:
            data = tar.extractfile(f"{TREE}/{name}.png").read()
            assert data == (out / TREE / f"{name}.png").read_bytes()
            image = Image.open(io.BytesIO(data))
            assert image.mode == "P"
            assert np.reshape(image.getpalette(), (-1, 3)).tolist() == voc_palette().tolist()
            own = np.array(Image.open(out / "masks" / f"{name}.png"))
            assert own.shape == np.array(Image.open(pictures / f"{name}.jpg")).shape[:2]
            np.testing.assert_array_equal(np.array(image), np.array(IDS)[own])
            seen |= set(np.unique(image))
    assert len(seen) > 1
    first = summary.archive.read_bytes()
    assert predict(segmenter, pictures, tmp_path / "again", formats=["comp6"]).archive.read_bytes() == first
    assert not (tmp_path / "again" / "masks").exists()


def test_comp5_has_its_own_folder(segmenter, pictures, tmp_path):
    archive = predict(segmenter, pictures / "2008_000001.jpg", tmp_path / "o", formats=["comp5"]).archive
    with tarfile.open(archive) as tar:
        assert tar.getnames()[-1] == "results/VOC2012/Segmentation/comp5_test_cls/2008_000001.png"
    with pytest.raises(ValueError, match="two archives"):
        predict(segmenter, pictures, tmp_path / "o", formats=["comp5", "comp6"])


def test_only_whole_archives_are_left(segmenter, pictures, tmp_path):
    out = tmp_path / "out"
    predict(segmenter, pictures, out, formats=["comp6"])
    (pictures / "2009_000009.jpg").write_bytes(b"no picture")
    summary = predict(segmenter, pictures, out, formats=["comp6"])
    assert summary.archive is None
    assert len(summary.errors) == 1
    assert not (out / "results.tgz").exists()


def test_archive_refuses_before_any_work(segmenter, pictures, tmp_path):
    (pictures / "sub").mkdir()
    (pictures / "sub" / "2008_000001.jpg").write_bytes((pictures / "2008_000001.jpg").read_bytes())
    with pytest.raises(ValueError, match="Two pictures are called 2008_000001"):
        predict(segmenter, pictures, tmp_path / "o", formats=["comp6"])
    other = Segmenter(*network(("dog", "zebra")), device="cpu")
    with pytest.raises(ValueError, match="knows zebra"):
        predict(other, pictures / "2008_000001.jpg", tmp_path / "o", formats=["comp6"])
    with pytest.raises(ValueError, match="no mask to pack"):
        voc_archive.pack_results(tmp_path, "comp6", [])
    assert not (tmp_path / "o").exists()


def test_list_restricts_the_sources(segmenter, pictures, tmp_path):
    names = tmp_path / "test.txt"
    names.write_text("2010_000003\n2008_000001.jpg\n")
    summary = predict(segmenter, pictures, tmp_path / "o", list_file=names)
    assert summary.written == ("2010_000003", "2008_000001")
    names.write_text("2010_000003\n2011_000001\n")
    with pytest.raises(ValueError, match=r"test\.txt line 2: '2011_000001' is not among"):
        predict(segmenter, pictures, tmp_path / "o", list_file=names)
    (pictures / "sub").mkdir()
    (pictures / "sub" / "2010_000003.jpg").write_bytes((pictures / "2010_000003.jpg").read_bytes())
    names.write_text("sub/2010_000003\n")
    assert predict(segmenter, pictures, tmp_path / "o", list_file=names).written == ("sub/2010_000003",)
    names.write_text("2010_000003\n")
    with pytest.raises(ValueError, match="name of 2 of the sources"):
        predict(segmenter, pictures, tmp_path / "o", list_file=names)


def test_command(pictures, tmp_path, capsys):
    model, config = network(CLASSES)
    run = tmp_path / "model.safetensors"
    save_model(run, model, config)
    names = tmp_path / "test.txt"
    names.write_text("2010_000003\n")
    words = ["predict", run, pictures, "--out", tmp_path / "o", "--format", "comp6", "--list", names]
    assert cli.main([str(word) for word in [*words, "--json"]]) == 0
    assert json.loads(capsys.readouterr().out)["archive"] == str(tmp_path / "o" / "results.tgz")
    (pictures / "2010_000003.jpg").write_bytes(b"x")
    assert cli.main([str(word) for word in words]) == 1
    assert "no results.tgz" in capsys.readouterr().out
