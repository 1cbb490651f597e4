"""The training loop: run folder, exact resume, determinism, and the faults of the published code cured."""

from __future__ import annotations

import csv
import dataclasses
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import tag2mask
from tag2mask import cli
from tag2mask.batch import Batch, Losses
from tag2mask.config import IGNORE, EnergyConfig, MethodConfig, OptimConfig, TrainConfig
from tag2mask.losses import SEGMENTATION_LOSSES
from tag2mask.method import Moment, class_activation_maps, taught, training_losses
from tag2mask.models import build_network
from tag2mask.reliable import reliable_labels
from tag2mask.runs.checkpoints import load_model, load_state
from tag2mask.runs.metrics import COLUMNS, MetricsFile
from tag2mask.teacher import teacher_maps, teacher_ramp, teacher_rule
from tag2mask.training import first_step as training
from tag2mask.training import loop
from tag2mask.training.first_step import TrainingStopped, train


def rows(run):
    """The rows of metrics.csv without the columns that measure time."""
    with (run / "metrics.csv").open(newline="") as file:
        return [
            {k: v for k, v in row.items() if k not in ("images_per_second", "mining_share")}
            for row in csv.DictReader(file)
        ]


def same_weights(a, b):
    one, two = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def test_run_folder_is_complete_and_loads_alone(tiny_config, tmp_path):
    run = tag2mask.train(tiny_config.replace(sample_every=6, method=MethodConfig(ema=0.5)))
    for name in ("config.json", "environment.json", "metrics.csv", "log.txt", "model.safetensors", "report.html"):
        assert (run / name).stat().st_size > 0, name
    assert (run / "samples" / "step-000006.jpg").is_file()
    assert TrainConfig.from_json((run / "config.json").read_text()) == tiny_config.replace(
        sample_every=6, method=MethodConfig(ema=0.5), sampling="uniform"
    )
    alone = (run / "model.safetensors").rename(tmp_path / "alone.safetensors")
    model, config, metadata = load_model(alone)
    assert metadata["selection"] == "last step"
    assert model.num_classes == len(model.classes) >= 4
    assert config.backbone == "test_efficientnet"
    assert [row["phase"] for row in rows(run)] == ["tags"] * 3 + ["joint"] * 3
    last = rows(run)[-1]
    assert float(last["miou"]) >= 0
    assert float(last["total_loss"]) == pytest.approx(
        float(last["tag_loss"]) + float(last["segmentation_loss"]) + float(last["energy_loss"]), abs=1e-4
    )


def test_two_runs_with_one_seed_are_equal_and_another_seed_differs(tiny_config, tmp_path):
    a = train(tiny_config.replace(out=str(tmp_path / "a")))
    b = train(tiny_config.replace(out=str(tmp_path / "b"), workers=1))
    c = train(tiny_config.replace(out=str(tmp_path / "c"), seed=1))
    assert same_weights(a, b)
    assert rows(a) == rows(b)
    assert not same_weights(a, c)


@pytest.mark.parametrize("stop_at", [2, 4])
def test_resume_equals_an_uninterrupted_run(tiny_config, tmp_path, monkeypatch, stop_at):
    whole = train(tiny_config.replace(out=str(tmp_path / "whole"), method=MethodConfig(ema=0.5)))
    config = tiny_config.replace(out=str(tmp_path / "broken"), method=MethodConfig(ema=0.5))
    save = loop.save_state

    def save_then_die(run, state):
        save(run, state)
        if state["step"] == stop_at:
            raise RuntimeError("power cut")

    monkeypatch.setattr(loop, "save_state", save_then_die)
    with pytest.raises(RuntimeError, match="power cut"):
        train(config)
    monkeypatch.setattr(loop, "save_state", save)
    assert load_state(tmp_path / "broken")["step"] == stop_at
    torch.manual_seed(99)
    resumed = train(config, resume=tmp_path / "broken")
    assert same_weights(whole, resumed)
    assert rows(whole) == rows(resumed)


def test_a_tag_phase_that_is_taken_over_equals_one_that_was_trained(tiny_config, tmp_path):
    method = MethodConfig(ema=0.5)
    whole = train(tiny_config.replace(out=str(tmp_path / "whole"), method=method))
    tags = train(tiny_config.replace(out=str(tmp_path / "tags"), method=method, joint_steps=0))
    taken = train(tiny_config.replace(out=str(tmp_path / "taken"), method=method, tag_phase=str(tags), sampling="auto"))
    assert same_weights(whole, taken)
    assert [row["step"] for row in rows(taken)] == ["4", "5", "6"]
    with pytest.raises(ValueError, match="other settings: method, seed"):
        train(tiny_config.replace(out=str(tmp_path / "no"), seed=1, tag_phase=str(tags)))
    again = train(tiny_config.replace(out=str(tmp_path / "again"), method=method, tag_phase=str(whole), joint_steps=2))
    other = train(tiny_config.replace(out=str(tmp_path / "other"), method=method, tag_phase=str(tags), joint_steps=2))
    assert same_weights(again, other)
    kept, alone = load_state(whole, "tag_phase"), load_state(tags)
    for name in alone.keys() - {"seconds"}:
        assert same_values(kept[name], alone[name]), name
    with pytest.raises(ValueError, match=rf"taken that over itself\. Give tag_phase={tags}"):
        train(tiny_config.replace(out=str(tmp_path / "no"), method=method, tag_phase=str(taken)))
    (whole / "tag_phase/state.pt").unlink()  # as in runs of older versions
    with pytest.raises(ValueError, match=r"keeps no state of its tag phase.*joint_steps=0"):
        train(tiny_config.replace(out=str(tmp_path / "no"), method=method, tag_phase=str(whole)))
    assert not (tmp_path / "no").exists()


def same_values(one, two):
    """Whether two states, or parts of them, are equal to the last bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same_values(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(same_values, one, two))
    return one == two


def test_an_interrupt_at_the_end_of_the_tag_phase_keeps_its_state_and_an_earlier_one_is_named(
    tiny_config, tmp_path, monkeypatch
):
    config = tiny_config.replace(validate_every=3, save_every=9)
    whole = train(config.replace(out=str(tmp_path / "whole")))
    step = loop._step

    def interrupted(*args, **kwargs):
        row, batch = step(*args, **kwargs)
        if row["step"] == stops[-1]:
            os.kill(os.getpid(), signal.SIGINT)
        return row, batch

    stops = []
    monkeypatch.setattr(loop, "_step", interrupted)
    for at, out, alone in ((3, "end", {}), (2, "early", {"joint_steps": 0}), (2, "before", {})):
        stops.append(at)
        with pytest.raises(KeyboardInterrupt):
            train(config.replace(out=str(tmp_path / out), **alone))
    monkeypatch.setattr(loop, "_step", step)
    taken = train(config.replace(out=str(tmp_path / "taken"), tag_phase=str(tmp_path / "end")))
    assert same_weights(whole, taken)
    for out, words in (("early", "has made 2 of its 3 steps on tags"), ("before", "has not come to its end")):
        with pytest.raises(ValueError, match=rf"{words}.*train --resume {tmp_path / out}"):
            train(config.replace(out=str(tmp_path / "no"), tag_phase=str(tmp_path / out)))


@pytest.mark.parametrize(
    ("number", "at", "during"), [(signal.SIGINT, 2, False), (signal.SIGTERM, 4, False), (signal.SIGINT, 2, True)]
)
def test_no_validation_after_an_interrupt_until_the_run_goes_on(tiny_config, tmp_path, monkeypatch, number, at, during):
    config = tiny_config.replace(tag_steps=1, validate_every=2, validate_pictures=1, save_every=9)
    whole = train(config.replace(out=str(tmp_path / "whole")))
    step, validate, validations = loop._step, loop.validate, []

    def interrupted(*args, **kwargs):
        result = step(*args, **kwargs)
        if result[0]["step"] == at and not during:
            os.kill(os.getpid(), number)
        return result

    def noted(*args, **kwargs):
        validations.append(len(validations))
        if during and len(validations) == 1:
            os.kill(os.getpid(), number)
        return validate(*args, **kwargs)

    monkeypatch.setattr(loop, "_step", interrupted)
    monkeypatch.setattr(loop, "validate", noted)
    handler = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt, match=rf"step {at} of 4.*train --resume"):
        train(config)
    assert signal.getsignal(number) is handler
    assert len(validations) == at // 2 - 1 + during
    monkeypatch.setattr(loop, "_step", step)
    run = train(config, resume=config.out)
    assert len(validations) == 2 + during
    assert same_weights(run, whole)
    same = [
        [(row["step"], row["miou"], row["tag_map"], row["total_loss"]) for row in rows(each)] for each in (run, whole)
    ]
    assert same[0] == same[1]


def test_ctrl_c_says_it_once(tiny_config, monkeypatch, capsys):
    step = loop._step

    def interrupted(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGINT)
        return step(*args, **kwargs)

    config = tiny_config.replace(joint_steps=0)
    monkeypatch.setattr(loop, "_step", interrupted)
    words = ["--tag-steps", "3", "--joint-steps", "0", "--backbone", "test_efficientnet", "--weights", "none"]
    words += ["--workers", "0", "--batch-size", "2", "--image-size", "64", "--augment.crop-size", "64"]
    assert cli.main(["train", "small", "--data", config.data, "--out", config.out, *words]) == 1
    told = capsys.readouterr().err
    assert told.count("Stopped and saved at step 1 of 3") == 1
    assert "KeyboardInterrupt: Stopped and saved" in (Path(config.out) / "log.txt").read_text(encoding="utf-8")


def test_an_error_of_a_run_is_printed_once(tiny_config, monkeypatch, capsys):
    def broken(*args, **kwargs):
        raise ValueError("no such luck")

    monkeypatch.setattr(loop, "_step", broken)
    words = ["--tag-steps", "1", "--joint-steps", "0", "--backbone", "test_efficientnet", "--weights", "none"]
    assert cli.main(["train", "small", "--data", tiny_config.data, "--out", tiny_config.out, *words]) == 1
    assert capsys.readouterr().err.count("no such luck") == 1
    assert "no such luck" in (Path(tiny_config.out) / "log.txt").read_text(encoding="utf-8")


def test_no_sample_sheets_on_request(tiny_config):
    run = train(tiny_config.replace(joint_steps=0, tag_steps=1, sample_every=0))
    assert not (run / "samples").exists()


def test_resume_refuses_other_settings(tiny_config):
    run = train(tiny_config.replace(joint_steps=0, tag_steps=1))
    with pytest.raises(ValueError, match=r"config\.json"):
        train(tiny_config, resume=run)


def test_accumulated_gradients_equal_one_large_batch(tiny_config, tmp_path):
    base = tiny_config.replace(tag_steps=2, joint_steps=0, dropout=0.0)
    one = train(base.replace(out=str(tmp_path / "one"), batch_size=4))
    optim = OptimConfig(lr=0.01, joint_lr=0.01, accumulate=2)
    two = train(base.replace(out=str(tmp_path / "two"), batch_size=2, optim=optim))
    a, b = load_file(one / "model.safetensors"), load_file(two / "model.safetensors")
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=1e-6, rtol=1e-4)


def test_clipping_bounds_the_step(tiny_config, tmp_path):
    """With plain SGD the weights move by at most lr x the clipped norm."""
    base = tiny_config.replace(tag_steps=1, joint_steps=0)
    optim = OptimConfig(lr=1.0, momentum=0.0, weight_decay=0.0, head_multiplier=1.0, clip_norm=1e-3)
    run = train(base.replace(optim=optim))
    torch.manual_seed(base.seed)
    after, _, _ = load_model(run)
    from accelerate.utils import set_seed

    set_seed(base.seed)
    before = build_network(base, after.classes)
    moved = sum(((p - q) ** 2).sum() for p, q in zip(before.parameters(), after.parameters(), strict=True)) ** 0.5
    # biases move with twice the learning rate
    assert 0 < moved <= 2e-3


def test_non_finite_losses_are_skipped_counted_and_end_the_run(tiny_config, monkeypatch, tmp_path):
    losses = training.training_losses

    def sometimes_nan(*args, **kwargs):
        result = losses(*args, **kwargs)
        bad.append(len(bad) in when)
        return Losses({"tag": result.parts["tag"] * float("nan")}) if bad[-1] else result

    monkeypatch.setattr(training, "training_losses", sometimes_nan)
    bad, when = [], {1, 2}
    run = train(tiny_config)
    assert rows(run)[-1]["skipped_steps"] == "2"
    assert all(torch.isfinite(t).all() for t in load_file(run / "model.safetensors").values())
    bad, when = [], set(range(100))
    with pytest.raises(TrainingStopped, match=r"5 steps in a row.*--optim\.lr"):
        train(tiny_config.replace(out=str(tmp_path / "nan"), tag_steps=20))


def test_non_finite_gradients_are_skipped(tiny_config, monkeypatch):
    losses, seen = training.training_losses, []

    def once_without_gradient(*args, **kwargs):
        result = losses(*args, **kwargs)
        seen.append(result.total)
        nothing = (result.total - result.total.detach()).sqrt()  # 0, and no gradient there
        return Losses(result.parts | {"tag": result.parts["tag"] + nothing}) if len(seen) in (2, 5) else result

    monkeypatch.setattr(training, "training_losses", once_without_gradient)
    run = train(tiny_config)
    assert len(seen) == 6 and all(torch.isfinite(each) for each in seen)
    assert rows(run)[-1]["skipped_steps"] == "2"
    assert all(torch.isfinite(t).all() for t in load_file(run / "model.safetensors").values())


@pytest.mark.parametrize("tag_steps", [0, 20])
def test_a_run_that_diverges_ends_with_advice(tiny_config, tag_steps):
    """Really diverging: no step is replaced. In the joint phase no CRF may meet what is left of the maps."""
    steep = OptimConfig(lr=1e12, joint_lr=1e12)
    config = tiny_config.replace(tag_steps=tag_steps, joint_steps=20, optim=steep)
    with pytest.raises(TrainingStopped, match=r"5 steps in a row.*--optim\.lr"):
        train(config)


def test_fp16_on_cpu_is_refused(tiny_config):
    with pytest.raises(ValueError, match="fp16 needs a GPU"):
        train(tiny_config.replace(precision="fp16", device="cpu"))


def test_bf16_trains(tiny_config):
    run = train(tiny_config.replace(precision="bf16", tag_steps=1, joint_steps=1))
    assert rows(run)[-1]["skipped_steps"] == "0"


def test_a_filled_folder_is_never_overwritten(tiny_config, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="resume"):
        train(tiny_config)
    assert [p.name for p in folder.iterdir()] == ["mine.txt"]


def test_select_miou_keeps_the_best_and_says_so(tiny_config):
    run = train(tiny_config.replace(select="miou", validate_every=1))
    _, _, metadata = load_model(run)
    scores = {row["step"]: float(row["miou"]) for row in rows(run) if row["miou"]}
    best = max(scores, key=lambda step: (scores[step], -int(step)))
    assert metadata["selection"] == f"best mIoU on val at step {best}"


def test_select_miou_without_masks_is_refused_before_training(tiny_config, tmp_path):
    data = three_pictures(tmp_path, ["cat", "dog", ""])
    with pytest.raises(ValueError, match="select='last'"):
        train(tiny_config.replace(data=str(data), select="miou", validate_every=1))
    assert not (tmp_path / "run").exists()


def test_broken_pictures_are_named_skipped_and_counted(tiny_config, builtin, tmp_path, caplog):
    import shutil

    data = shutil.copytree(builtin, tmp_path / "data")
    victim = sorted((data / "images").iterdir())[0]
    names = (data / "splits" / "train.txt").read_text().split()
    victim = data / "images" / names[0]
    victim.write_bytes(victim.read_bytes()[:60])
    with caplog.at_level("WARNING", logger="tag2mask"):
        train(tiny_config.replace(data=str(data), tag_steps=6, joint_steps=0))
    told = [m for m in caplog.messages if victim.name in m]
    assert "1 broken so far" in told[0]


def test_broken_validation_pictures_do_not_end_a_run(tiny_config, builtin, tmp_path, caplog):
    import shutil

    data = shutil.copytree(builtin, tmp_path / "data")
    broken = [data / "images" / name for name in (data / "splits" / "val.txt").read_text().split()]
    broken[0].write_bytes(b"no picture")
    with caplog.at_level("WARNING", logger="tag2mask"):
        run = train(tiny_config.replace(data=str(data), tag_steps=1, joint_steps=1, validate_every=1))
    left_out = [message for message in caplog.messages if message.startswith("left out of the")]
    assert all(broken[0].name in message for message in left_out)
    kinds = [message.split(":")[0].split()[-1] for message in left_out]
    assert kinds == ["tags", "validation", "tags"]  # of the first step, then of the last
    assert [bool(row["tag_map"]) for row in rows(run)] == [True, True]
    assert float(rows(run)[-1]["miou"]) >= 0
    for path in broken:
        path.write_bytes(b"")
    run = train(tiny_config.replace(data=str(data), out=str(tmp_path / "none"), tag_steps=0, joint_steps=1))
    assert rows(run)[-1]["miou"] == ""


def three_pictures(tmp_path, tags):
    from PIL import Image

    folder = tmp_path / "three"
    (folder / "images").mkdir(parents=True)
    (folder / "splits").mkdir()
    lines = ["file_name,tags"]
    generator = torch.Generator().manual_seed(0)
    for i, tag in enumerate(tags):
        pixels = torch.randint(0, 256, (48, 64, 3), dtype=torch.uint8, generator=generator).numpy()
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
        lines.append(f"{i}.png,{tag}")
    (folder / "tags.csv").write_text("\n".join(lines) + "\n")
    (folder / "splits" / "train.txt").write_text("\n".join(f"{i}.png" for i in range(len(tags))) + "\n")
    return folder


@pytest.mark.parametrize("profile", ["official", "paper", "clean"])
def test_three_pictures_with_a_negative_are_enough(tiny_config, tmp_path, profile):
    """The published code needs 401 pictures (its list of draws runs out), and fails on one without tags."""
    data = three_pictures(tmp_path, ["cat", "cat;dog", ""])
    config = tiny_config.replace(data=str(data), profile=profile, method=MethodConfig.of(profile))
    run = train(config)
    assert rows(run)[-1]["step"] == "6"
    assert rows(run)[-1]["skipped_steps"] == "0"


def padded_batch(classes, size=64):
    generator = torch.Generator().manual_seed(4)
    valid = torch.zeros(2, size, size, dtype=torch.bool)
    valid[:, :40, 8:48] = True
    return Batch(
        rgb=torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8, generator=generator),
        valid=valid,
        tags=torch.tensor([[True] + [False] * (classes - 1)] * 2),
        mask=torch.full((2, size, size), IGNORE),
        names=("a", "b"),
    )


def test_nothing_is_learned_from_padding(tiny_config, monkeypatch):
    """No label, no cross-entropy and no energy gradient on padding (the published code labels it)."""
    network = build_network(tiny_config, ("a", "b"))
    batch = padded_batch(2)
    seen = {}
    monkeypatch.setitem(
        SEGMENTATION_LOSSES, "balanced", lambda logits, labels, **_: seen.update(labels=labels) or logits.sum() * 0
    )

    def energy(rgb, probs, labels, valid, *args, **_):
        from tag2mask.losses import dense_energy_loss

        probs = probs.detach().requires_grad_()
        dense_energy_loss(rgb, probs, labels, valid, *args[:3], 1.0, args[4]).backward()
        seen["gradient"] = probs.grad
        return probs.sum() * 0

    monkeypatch.setattr("tag2mask.method.dense_energy_loss", energy)
    for profile in ("official", "paper", "clean"):
        training_losses(Moment(model=network, network=network), batch, MethodConfig.of(profile))
        assert (seen["labels"][~batch.valid] == IGNORE).all()
        padding = ~batch.valid[:, None]
        assert seen["gradient"].shape[-2:] == padding.shape[-2:]
        assert seen["gradient"].abs().sum() > 0
        assert (seen["gradient"] * padding).abs().max() == 0


def test_batch_without_reliable_foreground_or_background_is_finite(tiny_config):
    """Cross-entropy over no pixel is NaN in the published code."""
    network = build_network(tiny_config, ("a", "b"))
    batch = padded_batch(2)
    negatives = Batch(batch.rgb, batch.valid, torch.zeros_like(batch.tags), batch.mask, batch.names)
    for each in (negatives, batch):
        method = MethodConfig(energy=EnergyConfig(weight=0.0))
        losses = training_losses(Moment(model=network, network=network), each, method)
        assert torch.isfinite(losses.total)
        losses.total.backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def test_the_teacher_takes_over_by_half_of_the_joint_phase():
    method = MethodConfig(teacher=0.4)
    assert [round(teacher_ramp(method, p), 3) for p in (0.0, 0.25, 0.375, 0.5, 1.0)] == [0.0, 0.0, 0.5, 1.0, 1.0]
    assert teacher_ramp(MethodConfig(teacher=0.0), 1.0) == 0.0
    with pytest.raises(ValueError, match=r"needs a running average"):
        MethodConfig(teacher=0.4, ema=0.0)


def test_every_pixel_is_labeled_when_the_teacher_is_there():
    method = MethodConfig(teacher=0.8)
    assert teacher_rule(method, 0.0) == method.reliable
    batch = padded_batch(2)
    cams = torch.rand(2, 2, *batch.rgb.shape[-2:]) * batch.tags[:, :, None, None] * batch.valid[:, None]
    shares = []
    for ramp in (0.0, 0.5, 1.0):
        rule = teacher_rule(method, ramp)
        labels = reliable_labels(batch.rgb, cams, batch.tags, rule, batch.valid)
        shares.append(((labels != IGNORE).sum() / batch.valid.sum()).item())
        assert (labels[~batch.valid] == IGNORE).all()
    assert shares[0] < shares[1] < shares[2]
    assert shares[2] > 0.97
    assert teacher_rule(method, 1.0).foreground_power == method.teacher_power


def test_the_teacher_knows_tags_and_padding(tiny_config):
    network = build_network(tiny_config, ("a", "b")).eval()
    batch = padded_batch(2)
    tags = torch.tensor([[True, False], [False, False]])
    batch = Batch(batch.rgb, batch.valid, tags, batch.mask, batch.names)
    images = network.normalize(batch.rgb, batch.valid)
    cams = torch.rand(2, 2, *batch.rgb.shape[-2:]) * tags[:, :, None, None] * batch.valid[:, None]
    scores = network(images).seg_logits
    mixed = 0.75 * cams + 0.25 * teacher_maps(scores, batch)
    logits = torch.nn.functional.interpolate(scores, cams.shape[-2:], mode="bilinear")
    object_share = 1 - logits[0].softmax(0)[0]  # all of it is "a", as "b" is not there
    expected = 0.75 * cams[0, 0] + 0.25 * object_share * batch.valid[0]
    assert torch.allclose(mixed[0, 0], expected, atol=1e-6)
    assert (mixed[0, 1] == 0).all()
    assert (mixed[1] == 0).all()
    assert (mixed[:, :, ~batch.valid[0]][0] == 0).all()


def test_the_teachers_pass_serves_the_cams_too(tiny_config, monkeypatch):
    network = build_network(tiny_config, ("a", "b")).eval()
    batch = padded_batch(2)
    # where CAMs are drawn in bf16, the teacher's pass gives them its finer features
    method = dataclasses.replace(tiny_config.method, cam_precision="same")
    images = network.normalize(batch.rgb, batch.valid)
    cams, scores = class_activation_maps(network, images, batch, method), network(images).seg_logits
    passes = []
    network.register_forward_hook(lambda *args: passes.append(args))
    alone = taught(network, images, batch, method, average=network, progress=0.25)
    assert torch.equal(alone.maps, cams)
    assert alone.teacher is None
    assert alone.rule == method.reliable
    assert len(passes) == len(method.cam_scales)
    passes.clear()
    mixed = taught(network, images, batch, method, average=network, progress=1.0)
    share = method.teacher
    assert mixed.teacher_share == share
    assert torch.equal(mixed.maps, (1 - share) * cams + share * teacher_maps(scores, batch))
    assert len(passes) == len(method.cam_scales), "the teacher's own and those at the other scales"


def test_a_run_with_a_teacher_differs_from_one_without(tiny_config, tmp_path):
    plain = train(tiny_config.replace(joint_steps=6, method=MethodConfig(ema=0.5, teacher=0.0)))
    config = tiny_config.replace(
        joint_steps=6, method=MethodConfig(ema=0.5, teacher=0.5), out=str(tmp_path / "teacher")
    )
    assert not same_weights(plain, train(config))


def test_a_new_loss_is_a_name_in_its_parts(tiny_config, monkeypatch):
    """Its column, its word in the log and its line in the chart follow; the columns of today stay."""
    losses = training.training_losses

    def with_another(at, *args, **kwargs):
        result = losses(at, *args, **kwargs)
        return Losses(result.parts | {"toy": result.total * 0 + 0.5}) if at.phase == "joint" else result

    monkeypatch.setattr(training, "training_losses", with_another)
    run = train(tiny_config.replace(tag_steps=1, joint_steps=1))
    first, last = rows(run)
    assert (first["toy_loss"], last["toy_loss"]) == ("", "0.5")
    assert [name for name in first if name != "toy_loss"] == [name for name in COLUMNS if name in first]
    assert "toy 0.500" in (run / "log.txt").read_text(encoding="utf-8")
    assert "toy loss" in (run / "report.html").read_text(encoding="utf-8")


def test_metrics_of_an_older_version_go_on(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,phase,old_loss,total_loss\n1,tags,0.5,0.7\n2,tags,0.4,0.6\n", encoding="utf-8")
    MetricsFile(tmp_path, resume_step=1).write({"step": 2, "phase": "tags", "new_loss": 0.25, "total_loss": 1.0})
    with path.open(newline="", encoding="utf-8") as file:
        told = [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]
    assert told == [
        {"step": "1", "phase": "tags", "old_loss": "0.5", "total_loss": "0.7"},
        {"step": "2", "phase": "tags", "new_loss": "0.25", "total_loss": "1"},
    ]


def test_a_run_goes_on_without_its_config(tiny_config):
    run = train(tiny_config.replace(joint_steps=0, tag_steps=1))
    assert train(resume=str(run)) == run
    with pytest.raises(ValueError, match=r"tag2mask\.train needs a config, or resume=RUN"):
        train()
    with pytest.raises(ValueError, match=r"is a run of tag2mask\.train, not of tag2mask\.retrain"):
        tag2mask.retrain(resume=run)
