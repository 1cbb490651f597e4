"""Files that appear whole, with the permissions of any other."""

from __future__ import annotations

import os
import stat

import pytest

from tag2mask.base.files import whole_file, write_text
from tag2mask.runs.checkpoints import save_model

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs permissions")


@pytest.fixture(params=[0o022, 0o002, 0o077])
def mask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def permissions(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_every_file_follows_the_umask_whoever_writes_it(segmenter, mask, tmp_path):
    save_model(tmp_path / "model.safetensors", segmenter.model, segmenter.config)
    segmenter.save_pretrained(tmp_path / "hub")
    write_text(tmp_path / "a.txt", "a")
    for durable in (False, True):
        with whole_file(tmp_path / f"{durable}.txt", durable=durable) as temporary:
            temporary.unlink(missing_ok=True)
            os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 6
    assert {path.name: permissions(path) for path in files} == {path.name: 0o666 & ~mask for path in files}


def test_writers_on_machines_with_equal_process_numbers_do_not_meet(tmp_path):
    with whole_file(tmp_path / "a.txt") as one, whole_file(tmp_path / "a.txt") as two:
        assert one != two
        one.write_text("1")
        two.write_text("2")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
