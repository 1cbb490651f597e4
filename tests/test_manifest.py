"""Predicting many pictures: going on after an interruption, several processes, shards."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from time import sleep

import numpy as np
import pytest
from PIL import Image

from tag2mask import cli
from tag2mask.config.inference import Inference
from tag2mask.jobs.predicting.manifest import Manifest, Share, settings_digest
from tag2mask.jobs.predicting.run import predict
from tag2mask.runs.checkpoints import save_model


@pytest.fixture
def model(segmenter, tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(path, segmenter.model, segmenter.config)
    return path


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(7):
        Image.fromarray(rng.integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


def as_process(monkeypatch, index, count):
    monkeypatch.setenv("RANK", str(index))
    monkeypatch.setenv("WORLD_SIZE", str(count))


def scores(out):
    with (out / "scores.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


class Interrupted(Exception):
    pass


def interrupt_after(count):
    def progress(done, total):
        if done == count:
            raise Interrupted

    return progress


def test_an_interrupted_call_goes_on_and_gathers_the_same(model, pictures, tmp_path):
    formats = ("npz", "coco", "geojson")
    predict(model, pictures, tmp_path / "whole", formats=formats, device="cpu")
    out, seen = tmp_path / "out", []
    with pytest.raises(Interrupted):
        predict(model, pictures, out, formats=formats, device="cpu", progress=interrupt_after(3))
    assert not (out / "coco.json").exists()
    assert not (out / "scores.csv").exists()
    times = {path: path.stat().st_mtime_ns for path in (out / "probs").iterdir()}
    result = predict(model, pictures, out, formats=formats, device="cpu", progress=lambda done, _: seen.append(done))
    assert len(result.written) == 7
    assert seen[-1] == 7
    assert all(path.stat().st_mtime_ns == time for path, time in times.items()), "done pictures stay as they are"
    for name in ("coco.json", "scores.csv"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (out / ".masks").exists()


def test_other_options_or_a_finished_call_start_anew(model, pictures, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(Interrupted):
        predict(model, pictures, out, device="cpu", progress=interrupt_after(3))
    first = (out / "masks" / "0.png").stat().st_mtime_ns
    predict(model, pictures, out, device="cpu", flip=True)
    second = (out / "masks" / "0.png").stat().st_mtime_ns
    assert second != first
    predict(model, pictures, out, device="cpu", flip=True)
    assert (out / "masks" / "0.png").stat().st_mtime_ns != second
    assert len(list((out / "manifest").iterdir())) == 1


def test_the_record_and_its_fields_by_name_are_the_same_settings(model, pictures, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(Interrupted):
        predict(model, pictures, out, device="cpu", flip=True, progress=interrupt_after(3))
    first = (out / "masks" / "0.png").stat().st_mtime_ns
    assert predict(model, pictures, out, device="cpu", inference=Inference(flip=True)).complete
    assert (out / "masks" / "0.png").stat().st_mtime_ns == first
    with pytest.raises(TypeError, match=r"no option zoom; there are crf, scales, flip"):
        predict(model, pictures, out, device="cpu", zoom=2)
    with pytest.raises(ValueError, match="from a table"):
        predict(model, pictures, out, device="cpu", inference=Inference(tags=["cat"]))


def test_a_broken_picture_is_tried_again(model, pictures, tmp_path):
    whole = (pictures / "3.png").read_bytes()
    (pictures / "3.png").write_bytes(b"")
    with pytest.raises(Interrupted):
        predict(model, pictures, tmp_path / "out", device="cpu", progress=interrupt_after(5))
    (pictures / "3.png").write_bytes(whole)
    result = predict(model, pictures, tmp_path / "out", device="cpu")
    assert not result.errors
    assert len(scores(tmp_path / "out")) == 7


def test_processes_share_the_pictures_and_the_last_one_gathers(model, pictures, tmp_path):
    predict(model, pictures, tmp_path / "whole", formats=("png", "coco"), device="cpu")
    out = tmp_path / "out"
    for index in (2, 0, 1):  # whichever comes last
        result = predict(model, pictures, out, formats=("png", "coco"), device="cpu", share=(index, 3))
        assert len(result.written) == (3 if index == 2 else 2)
        assert result.complete == (index == 1)
        assert (out / "coco.json").exists() == (index == 1)
    for name in ("coco.json", "scores.csv", "masks/4.png"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_fewer_processes_may_go_on(model, pictures, tmp_path):
    predict(model, pictures, tmp_path / "out", device="cpu", share=(1, 2))
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out" / "masks").iterdir()}
    result = predict(model, pictures, tmp_path / "out", device="cpu")
    assert result.complete
    assert len(scores(tmp_path / "out")) == 7
    for name, time in times.items():
        assert (tmp_path / "out" / "masks" / name).stat().st_mtime_ns == time


def share_and_gather(model, pictures, out, index, seconds, results, meeting):
    """A process of two that comes to its end with the other, and gathers so many seconds later."""
    import torch

    torch.set_num_threads(1)
    from tag2mask.jobs.predicting import run as predicting

    gather, write = predicting._gather, predicting.write_lines

    def late(*arguments):
        sleep(seconds)
        gather(*arguments)

    def met(path, lines):  # classes.txt, which follows the last picture
        meeting.wait(60)
        return write(path, lines)

    predicting._gather, predicting.write_lines = late, met
    result = predicting.predict(model, pictures, out, formats=("coco",), device="cpu", share=(index, 2))
    results.put((index, result.complete, sorted(result.files)))


def test_of_two_processes_that_end_together_one_gathers(model, pictures, tmp_path, forks):
    out, results, meeting = tmp_path / "out", forks.Queue(), forks.Barrier(2)
    both = [
        forks.Process(target=share_and_gather, args=(model, pictures, out, index, 0.6 * index, results, meeting))
        for index in range(2)
    ]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert sorted(results.get() for _ in both) == [(0, True, ["coco"]), (1, True, ["coco"])]
    predict(model, pictures, tmp_path / "whole", formats=("coco",), device="cpu")
    assert (out / "coco.json").read_bytes() == (tmp_path / "whole" / "coco.json").read_bytes()
    assert not (out / ".masks").exists()
    assert not list(out.rglob("*.lock"))


def test_a_second_process_of_the_same_share_is_refused(model, pictures, tmp_path):
    out, refused = tmp_path / "out", []

    def again(done, total):
        if done == 1:
            with pytest.raises(FileExistsError, match="Another process is writing the same pictures") as error:
                predict(model, pictures, out, device="cpu")
            refused.append(error)

    assert len(predict(model, pictures, out, device="cpu", progress=again).written) == 7
    assert refused
    assert len(scores(out)) == 7


def test_what_another_process_is_writing_is_not_cleared_away(model, pictures, tmp_path):
    settings = settings_digest({"another": "call"})
    with Manifest(tmp_path, settings, Share(index=1, count=2)) as other:
        other.add("one", {"cat": 0.5})
        predict(model, pictures, tmp_path, device="cpu")
        other.add("two", {"cat": 0.5})
        assert other.finished(["one", "two"]) is not None
    predict(model, pictures, tmp_path, device="cpu")
    assert [path.name for path in (tmp_path / "manifest").iterdir()] == ["0-of-1.jsonl"]


def test_a_call_whose_masks_are_lost_makes_them_again(model, pictures, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(Interrupted):
        predict(model, pictures, out, formats=("coco",), device="cpu", progress=interrupt_after(3))
    (out / ".masks" / "1.png").unlink()
    assert len(predict(model, pictures, out, formats=("coco",), device="cpu").written) == 7
    assert len(scores(out)) == 7


def test_the_share_is_an_argument_and_the_command_reads_it(model, pictures, tmp_path, monkeypatch, capsys):
    as_process(monkeypatch, 1, 3)  # somebody's own job
    result = predict(model, pictures, tmp_path / "whole", device="cpu")
    assert result.complete
    assert len(result.written) == 7
    assert predict(model, pictures, tmp_path / "part", device="cpu", share=(2, 3)).written == ("4", "5", "6")
    words = ["predict", model, pictures, "--out", tmp_path / "command", "--device", "cpu", "--json"]
    assert cli.main([str(word) for word in words]) == 0
    assert json.loads(capsys.readouterr().out)["written"] == ["2", "3"]
    for share in ((3, 3), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match=r"\(index, count\)"):
            predict(model, pictures, tmp_path / "none", device="cpu", share=share)
    assert not (tmp_path / "none").exists()


def test_every_picture_falls_to_one_process():
    for total in (0, 1, 5, 100):
        for count in (1, 2, 7):
            parts = [i for index in range(count) for i in Share(index=index, count=count).range(total)]
            assert parts == list(range(total))


@pytest.mark.parametrize(("rank", "world"), [("2", "2"), ("-1", "2"), ("a", "2")])
def test_a_strange_environment_is_refused(monkeypatch, rank, world):
    as_process(monkeypatch, rank, world)
    with pytest.raises(ValueError, match="RANK"):
        Share.of_environment()


def test_a_cut_line_is_done_again(tmp_path):
    settings = settings_digest({"a": 1})
    with Manifest(tmp_path, settings, Share()) as manifest:
        manifest.add("one", {"cat": 0.5})
        manifest.add("two", {"cat": 0.25})
    path = tmp_path / "manifest" / "0-of-1.jsonl"
    path.write_bytes(path.read_bytes()[:-7])
    with Manifest(tmp_path, settings, Share()) as manifest:
        assert manifest.goes_on
        assert manifest.done == {"one"}
        manifest.add("two", {"cat": 0.75})
        gathered = manifest.finished(["one", "two"])
    assert [line["scores"]["cat"] for line in gathered.lines(["one", "two"])] == [0.5, 0.75]
    with Manifest(tmp_path, settings_digest({"a": 2}), Share()) as manifest:
        assert not manifest.goes_on


def test_pictures_of_shards(model, pictures, tmp_path):
    for shard in range(2):
        with tarfile.open(tmp_path / f"{shard:02d}.tar", "w") as archive:
            for i in range(3):
                data = (pictures / f"{3 * shard + i}.png").read_bytes()
                for name in (f"a/{i}.png", f"a/{i}.mask.png"):
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    result = predict(model, f"{tmp_path}/{{00..01}}.tar", tmp_path / "out", formats=("png", "yolo"), device="cpu")
    assert sorted(result.written) == [f"{shard:02d}/a/{i}" for shard in range(2) for i in range(3)]
    predict(model, pictures, tmp_path / "plain", device="cpu")
    assert (tmp_path / "out/masks/01/a/2.png").read_bytes() == (tmp_path / "plain/masks/5.png").read_bytes()
