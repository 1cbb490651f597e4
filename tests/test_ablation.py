"""The ablation: equal steps for all rows, shared tag phases, going on after an interruption."""

from __future__ import annotations

import dataclasses
import json

import pytest
from filelock import FileLock

from experiments.ablation import BASE, ROWS, Ablation, Plan, RowResult, ablate, running
from experiments.ablation.page import table_lines
from experiments.ablation.rows import one_step_config, second_step_config, tag_phase_config
from experiments.resuming import Busy
from tag2mask.config import load_config

TINY = {
    "backbone": "test_efficientnet",
    "weights": "none",
    "image_size": 64,
    "workers": 0,
    "trackers": (),
    "batch_size": 2,
    "augment": {"crop_size": 64},
    "optim": {"lr": 0.01},
}


@pytest.fixture
def ablation(builtin, tmp_path, monkeypatch):
    """Two steps of everything on the built-in set."""
    values = {"train": {"small": TINY | {"joint_batch_size": 2}}, "retrain": {"small": TINY}}
    monkeypatch.setattr("tag2mask.config.run.PRESETS", values)
    plan = Plan(tag_steps=2, joint_steps=2, supervised_steps=2, second_seed_within=1.0)
    return Ablation(data=str(builtin), out=tmp_path / "out", plan=plan)


def test_rows_differ_in_one_thing_and_train_equally_long():
    plan = Plan()
    base = one_step_config(ROWS[BASE], plan, data="d", seed=0)
    for row in ROWS.values():
        config = one_step_config(row, plan, data="d", seed=0)
        assert (config.tag_steps, config.joint_steps, config.seed) == (base.tag_steps, base.joint_steps, base.seed)
        if row.kind == "one step" and row.name != BASE:
            assert config.method != base.method or config.segment_dilation != base.segment_dilation, row.name
        if row.profile == "clean":
            assert tag_phase_config(config) == tag_phase_config(base)
    steps = {
        second_step_config(ROWS[n], plan, data="d", split=None, masks="m", seed=0).steps
        for n in ("two-step", "two-step-warm", "ceiling")
    }
    assert steps == {plan.supervised_steps}


def test_two_seeds_of_every_row_and_nothing_twice(ablation, monkeypatch):
    names = ("official", BASE, "no-teacher", "keep-20", "two-step", "two-step-warm", "ceiling")
    results = ablate(ablation, names)
    assert sorted((r.seed, r.name) for r in results) == sorted((s, n) for s in (0, 1) for n in names)
    assert all(0 <= r.miou <= 1 for r in results)
    assert {p.name for p in ablation.out.glob("tags-*/")} >= {"tags-official-seed0", "tags-clean-seed0"}
    page = json.loads((ablation.out / "ablation.json").read_text())
    assert len(page["rows"]) == 14
    starts = {n: load_config(ablation.out / f"{n}-seed1" / "run").weights for n in names[4:]}
    assert starts == {"two-step": "none", "two-step-warm": str(ablation.out / f"{BASE}-seed1"), "ceiling": "none"}
    assert len(page["tag_phases"]) == 4
    assert (ablation.out / "ablation-kept.svg").is_file()
    assert (ablation.out / "ablation-rows.svg").is_file()

    def fail(*args, **kwargs):
        raise AssertionError("a row that is done was run again")

    monkeypatch.setattr(running, "train", fail)
    monkeypatch.setattr(running, "retrain", fail)
    monkeypatch.setattr(running, "evaluate", fail)
    assert ablate(ablation, names) == results


def test_it_goes_on_after_an_interruption(ablation, monkeypatch):
    train, calls = running.train, []

    def dies_in_the_second_run(config=None, *, resume=None):
        calls.append(resume)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train(config, resume=resume)

    monkeypatch.setattr(running, "train", dies_in_the_second_run)
    with pytest.raises(KeyboardInterrupt):
        ablate(ablation, ("official",))
    assert (ablation.out / "tags-official-seed0" / "result.json").is_file()
    assert [r.name for r in ablate(ablation, ("official",))] == ["official"]
    assert len(calls) == 3  # the tag phase was not trained twice


def test_no_process_does_what_another_is_at(ablation, monkeypatch):
    other = FileLock(ablation.out / "tags-official-seed0.lock")
    ablation.out.mkdir()
    other.acquire()
    waits = []

    def wait(seconds):
        waits.append([result.name for result in ablation.done()])
        other.release()

    monkeypatch.setattr("experiments.resuming.time.sleep", wait)
    assert [r.name for r in ablate(ablation, ("official", "ceiling"))] == ["official", "ceiling"]
    assert waits == [["ceiling"]]  # what was free came first, and the rest when it was


def test_masks_are_not_written_twice_at_once(ablation):
    row = ROWS["two-step"]
    ablation.row(ROWS[row.against], 0)
    with FileLock(ablation.out / f"masks-{row.against}-seed0.lock"), pytest.raises(Busy):
        ablation.row(row, 0)
    assert not (ablation.out / f"masks-{row.against}-seed0").exists()


def test_rows_of_another_length_are_not_mixed(ablation):
    ablate(ablation, ("ceiling",))
    other = dataclasses.replace(ablation, plan=dataclasses.replace(ablation.plan, supervised_steps=3))
    with pytest.raises(ValueError, match=r"other settings \(--supervised-steps \d+, now 3\); choose another --out"):
        ablate(other, ("ceiling",))
    elsewhere = dataclasses.replace(ablation, data="elsewhere")
    with pytest.raises(ValueError, match=r"other settings \(--data \S+, now \S+elsewhere\)"):
        ablate(elsewhere, ("ceiling",))
    split = dataclasses.replace(ablation, second_split="val")
    with pytest.raises(ValueError, match=r"other settings \(--second-split not given, now val\)"):
        ablate(split, ("ceiling",))


def test_seeds_may_be_added_to_a_folder(ablation):
    one_seed = dataclasses.replace(ablation, plan=dataclasses.replace(ablation.plan, second_seed_within=None))
    ablate(one_seed, ("ceiling",))
    assert len(ablate(ablation, ("ceiling",))) == 1


def test_an_unknown_row_is_refused(ablation):
    with pytest.raises(ValueError, match=r"no row nonsense; rows: official, paper, clean"):
        ablate(ablation, ("nonsense",))


def test_the_table_compares_equal_seeds_only():
    def result(name, seed, miou):
        return RowResult(
            name=name,
            group="g",
            title=name,
            kind="one step",
            seed=seed,
            miou=miou,
            iou={},
            minutes=1,
            shared_minutes=2,
            steps=3,
        )

    rows = [(BASE, 0, 0.5), ("official", 0, 0.51), (BASE, 1, 0.4), ("paper", 0, 0.3), ("no-teacher", 0, 0.45)]
    lines = table_lines([result(*row) for row in (*rows, ("no-energy", 0, 0.44))])
    assert lines[3].split(" | ")[4:6] == ["+1.0", "`clean`"]
    assert lines[4].split(" | ")[4:6] == ["-20.0", "`clean`"]
    assert lines[5].split(" | ")[4:6] == ["-5.0", "`clean`"]
    assert lines[6].split(" | ")[4:6] == ["-1.0", "`no-teacher`"]
    assert "1.0 + 2.0" in lines[2]
