"""`tag2mask bench`: what is timed and in which order, the arithmetic, the tables, the command."""

import dataclasses
import json
import subprocess
import sys
import time
import types
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import torch

from tag2mask import bench, cli
from tag2mask.cli.common import jsonable
from tag2mask.config import CRFParams
from tag2mask.filtering import Lattice
from tag2mask.jobs import benchmark
from tag2mask.jobs.benchmark import NAMES, inputs, measuring, timing, training_step
from tag2mask.jobs.benchmark.cases import CASES, Case
from tag2mask.jobs.benchmark.measuring import make_row
from tag2mask.jobs.benchmark.page import table_lines
from tag2mask.jobs.benchmark.peer import load_peer, peer_votes
from tag2mask.jobs.benchmark.results import BenchReport
from tools import performance_page
from tools.performance_page import BEGIN, END, Curves, Point, main, markdown, report_of

TOOL = Path(__file__).parents[1] / "tools" / "performance_page.py"

ASKED = {  # the table of the issue: work, what it is held against
    "pair-l3": ((448, 448), 3, 10),
    "pair-l5": ((448, 448), 5, 7),
    "pair-l21": ((448, 448), 21, 4),
    "cold-l3": ((448, 448), 3, 5),
    "batch-8": ((448, 448), 3, 10),
    "inference-l21": ((375, 500), 21, 4),
    "energy-160": ((160, 160), 21, 0.019),
    "energy-224": ((224, 224), 21, 0.039),
    "twin-l3": ((448, 448), 3, 0.5),
    "cuda-batch-8": ((448, 448), 3, 200),
}


class FakePeer:
    """pydensecrf's interface without its work: the marginals are softmax(-unary)."""

    def __init__(self):
        self.made = []
        self.DenseCRF2D = lambda width, height, labels: FakeCRF(self, width, height, labels)


class FakeCRF:
    def __init__(self, peer, width, height, labels):
        self.shape, self.calls = (width, height, labels), {}
        peer.made.append(self)

    def setUnaryEnergy(self, unary):
        assert unary.dtype == np.float32
        assert unary.flags.c_contiguous
        assert unary.shape == (self.shape[2], self.shape[0] * self.shape[1])
        self.unary = unary

    def addPairwiseGaussian(self, **options):
        self.calls["gaussian"] = options

    def addPairwiseBilateral(self, **options):
        self.calls["bilateral"] = options

    def inference(self, steps):
        self.calls["steps"] = steps
        e = np.exp(-self.unary)
        return e / e.sum(0)


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless `clock.now` is moved."""
    fake = types.SimpleNamespace(now=100.0)
    monkeypatch.setattr(timing, "_CLOCKS", {"cpu": lambda: fake.now, "wall": lambda: -1.0})
    return fake


def python(*arguments):
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, timeout=120)


# Order, clock, arithmetic


def test_contenders_alternate_after_an_uncounted_round_and_only_the_work_is_timed(clock):
    order = []

    def work(name, seconds):
        def run():
            order.append(name)
            clock.now += seconds.pop(0)

        return run

    def forget():
        order.append("forget")
        clock.now += 1000

    timers = {
        "own": timing.timed(work("own", [50, 3, 1, 2]), "cpu", forget),
        "peer": timing.timed(work("peer", [70, 30, 20, 40]), "cpu"),
    }
    assert timing.interleave(timers, 3) == {"own": [3, 1, 2], "peer": [30, 20, 40]}
    assert order == ["forget", "own", "peer"] * 4
    assert timing.timed(lambda: None, "wall")() == 0  # the other clock


def row(own, peer, measure="speedup", bar=10.0, judged=True):
    names = {"name": "x", "work": "ours", "against": "theirs", "clock": "cpu", "threads": 1}
    seconds = {"own": own} | ({"peer": peer} if peer else {})
    return make_row(seconds, measure=measure, bar=bar, judged=judged, **names)


def test_medians_and_ratio():
    fast = row([0.003, 0.5, 0.002], [0.03, 0.01, 0.09])  # medians 3 ms and 30 ms
    assert (fast.own_ms, fast.peer_ms, fast.rounds) == (pytest.approx(3), pytest.approx(30), 3)
    assert fast.value == pytest.approx(10)
    assert fast.own_all_ms == pytest.approx([3, 500, 2])
    assert fast.peer_all_ms == pytest.approx([30, 10, 90])
    small = row([0.003, 0.5, 0.002], [0.03, 0.01, 0.09], measure="share", bar=0.1)
    assert small.value == pytest.approx(0.1)
    even = row([0.002, 0.004], [0.06, 0.03])  # an even count: the mean of the middle two
    assert even.value == pytest.approx(15)


@pytest.mark.parametrize(
    ("peer", "measure", "bar", "judged", "met"),
    [
        (2.0, "speedup", 2.0, True, True),
        (2.0, "speedup", 2.01, True, False),
        (2.0, "share", 0.5, True, True),
        (2.0, "share", 0.49, True, False),
        (2.0, "speedup", 1.0, False, None),
        (2.0, "speedup", None, True, None),
        (None, "speedup", 1.0, True, None),
    ],
)
def test_a_bar_is_met_or_not_or_not_judged(peer, measure, bar, judged, met):
    assert row([1.0], peer and [peer], measure, bar, judged).met is met


def point(side, own_ms, peer_ms=None, labels=3):
    return Point(
        height=side, width=side, labels=labels, rounds=3, own_ms=own_ms, peer_ms=peer_ms, vertices_per_pixel=0.05
    )


def test_growth_is_per_pixel_from_512_to_the_largest():
    curve = [point(256, 9.0), point(512, 10.0), point(1024, 80.0), point(2048, 192.0)]
    assert performance_page.growth(curve) == pytest.approx(1.2)  # 16 times the pixels, 19.2 times the time
    assert performance_page.growth(curve[:1]) is None
    assert performance_page.growth(curve[:2]) is None
    assert performance_page.growth([]) is None


def test_cases_are_those_of_the_issue():
    assert {name: (case.size, case.labels, case.bar) for name, case in CASES.items()} == ASKED
    assert {name for name, case in CASES.items() if case.clock == "wall"} == {"batch-8", "cuda-batch-8"}
    assert {name for name, case in CASES.items() if case.threads == 2} == {"batch-8"}
    assert {name for name, case in CASES.items() if case.energy} == {"energy-160", "energy-224"}
    assert [CASES[name].runs for name in ("pair-l3", "cold-l3", "batch-8", "inference-l21", "twin-l3")] == [
        2,
        1,
        2,
        1,
        1,
    ]
    assert CASES["inference-l21"].params == CRFParams.inference()


# What is timed


def test_the_peer_gets_the_published_calls(monkeypatch):
    peer = FakePeer()
    case = Case(work="{size}", bar=1.0, size=(16, 20), batch=2, params=CRFParams.inference())
    seen = measuring.measure_case("x", case, 3, peer)
    assert seen.work == "16×20"
    assert len(peer.made) == 2 + 4 * (1 + 3)  # the first picture to compare, then two of two unaries in four rounds
    crf = peer.made[-1]
    assert crf.shape == (20, 16, 3)
    picture = crf.calls["bilateral"].pop("rgbim")
    np.testing.assert_array_equal(picture, inputs.dead_leaves(1, (16, 20)))
    assert crf.calls == {
        "gaussian": {"sxy": 3.0, "compat": 3.0},
        "bilateral": {"sxy": 83.0, "srgb": 5.0, "compat": 4.0},
        "steps": 10,
    }
    scores = inputs.score_maps(2, 3, (16, 20), 2)[1, 1].clamp(1e-5, 1)  # last picture, last unary
    np.testing.assert_allclose(crf.unary, -scores.log().flatten(1).numpy(), rtol=1e-6)
    assert 0.01 < seen.max_difference <= 1  # the fake does not smooth: a difference must show


def test_cold_forgets_the_cache_before_every_run(monkeypatch):
    order = []
    monkeypatch.setattr(measuring, "clear_cache", lambda: order.append("forget"))
    monkeypatch.setattr(measuring, "dense_crf", lambda *a, **k: order.append("run"))
    measuring.measure_case("x", Case(work="", bar=1.0, size=(8, 8), cold=True), 2, None)
    assert order == ["forget", "run"] * 3
    order.clear()
    measuring.measure_case("x", Case(work="", bar=1.0, size=(8, 8)), 2, None)
    assert order == ["run"] * 3


@pytest.mark.parametrize("count", [1, 2])
def test_threads_of_torch_are_set_and_come_back(monkeypatch, count):
    before, seen = torch.get_num_threads(), []
    monkeypatch.setattr(measuring, "dense_crf", lambda *a, **k: seen.append(torch.get_num_threads()))
    measuring.measure_case("x", Case(work="", bar=1.0, size=(8, 8), threads=count), 1, None)
    assert seen == [count, count]
    assert torch.get_num_threads() == before
    with pytest.raises(KeyError), timing.threads(before + 1):
        raise KeyError
    assert torch.get_num_threads() == before


def test_the_twin_is_asked_for_by_name(monkeypatch):
    seen = []
    monkeypatch.setattr(measuring, "dense_crf", lambda *a, backend: seen.append(backend))
    for name in ("twin-l3", "pair-l3"):
        measuring.measure_case(name, dataclasses.replace(CASES[name], size=(8, 8)), 1, None)
    assert seen == ["torch", "torch", "auto", "auto"]


def test_the_energy_case_is_the_filter_of_the_loss(monkeypatch):
    case = dataclasses.replace(CASES["energy-160"], size=(12, 10))
    rgb, scores = inputs.pictures(4, (12, 10)), inputs.score_maps(4, 21, (12, 10), 1)
    out = measuring.own_work(case, rgb, scores)()
    assert out.shape == (4, 21, 12, 10)
    expected = Lattice.bilateral(rgb[3], 50.0, 15.0).filter(scores[3, 0])
    torch.testing.assert_close(out[3], expected, rtol=1e-5, atol=1e-5)
    peer = FakePeer()
    monkeypatch.setattr(measuring, "ENERGY_PEER", (16, 20))
    seen = measuring.measure_case("x", case, 2, peer)
    assert (seen.measure, seen.against) == ("share", "share of one pydensecrf run at 16×20, L = 21")
    assert seen.value == pytest.approx(seen.own_ms / seen.peer_ms)
    assert [crf.shape for crf in peer.made] == [(20, 16, 21)] * 3
    assert peer.made[0].calls["bilateral"]["srgb"] == CRFParams.mining().bilateral_srgb


def test_both_give_the_same_marginals():
    peer = load_peer() or pytest.skip("pydensecrf is not installed")
    for name in ("pair-l5", "batch-8"):  # in this process, and in two others
        seen = measuring.measure_case(name, CASES[name], 2, peer, shrink=8)
        assert seen.work == CASES[name].work.format(size="56×56")
        assert 0 < seen.max_difference <= 1e-4
        assert seen.rounds == len(seen.peer_all_ms) == 2
        assert seen.peer_ms > 0
        assert seen.met is None


@pytest.mark.parametrize("factor", [1, 4])
def test_sizes_have_pixels_in_fours(factor):
    assert all(np.prod(inputs.shrunk(case.size, factor)) % 4 == 0 for case in CASES.values())
    assert inputs.shrunk((375, 500), factor) == {1: (375, 500), 4: (92, 124)}[factor]


def test_every_second_training_step_runs_on_the_peer(tiny_config, monkeypatch):
    peer = FakePeer()
    infer = FakeCRF.inference
    monkeypatch.setattr(FakeCRF, "inference", lambda crf, steps: time.sleep(0.2) or infer(crf, steps))
    seen = training_step.measure_training(2, peer, config=tiny_config)
    assert len(peer.made) == 3 * tiny_config.joint_batch_size * 2  # of six steps three, two runs for each picture
    assert {crf.calls["steps"] for crf in peer.made} == {10}
    assert (seen.rounds, len(seen.peer_all_ms)) == (2, 2)
    assert 0 < seen.crf_share < 1
    assert 0 < seen.peer_crf_share < 1
    votes = seen.own_ms * seen.crf_share, seen.peer_ms * seen.peer_crf_share
    assert votes[1] - votes[0] > 500  # four runs of 0.2 s in the peer's steps, none in the own
    assert seen.value == pytest.approx(seen.peer_ms / seen.own_ms)
    assert "batch of 2, 64×64" in seen.work


def test_the_training_step_without_a_peer(tiny_config):
    seen = training_step.measure_training(1, None, config=tiny_config)
    assert (seen.peer_ms, seen.value, seen.peer_crf_share) == (None, None, None)
    assert seen.own_ms > 0


def test_votes_of_the_peer_leave_absent_labels_out():
    scores = torch.rand(2, 2, 4, 5, 6)
    present = torch.tensor([[True, True, False, True], [True, False, False, False]])
    rgb = torch.zeros(2, 3, 5, 6, dtype=torch.uint8)
    out = peer_votes(FakePeer(), rgb, scores, CRFParams.mining(), present)
    expected = torch.zeros_like(scores)
    for i in range(2):  # softmax of the logarithm is the share
        expected[i, :, present[i]] = scores[i][:, present[i]].clamp(1e-5) / scores[i][:, present[i]].clamp(1e-5).sum(
            1, keepdim=True
        )
    torch.testing.assert_close(out, expected)


# Pictures


def test_pictures_are_as_hard_for_a_lattice_as_photographs():
    rgb = inputs.pictures(2, (448, 448))
    assert torch.equal(rgb, inputs.pictures(2, (448, 448)))
    assert not torch.equal(rgb[0], rgb[1])
    for picture in rgb:  # twelve VOC pictures of this size: 10 % to 90 % are 0.02-0.07 and 0.13-0.35
        assert 0.03 < Lattice.bilateral(picture, 80.0, 13.0).num_vertices / 448**2 < 0.08
        assert 0.15 < Lattice.bilateral(picture, 83.0, 5.0).num_vertices / 448**2 < 0.4


def test_scores_are_those_of_cams():
    scores = inputs.score_maps(2, 4, (40, 30), 2)
    assert scores.shape == (2, 2, 4, 40, 30)
    assert scores.min() >= 0
    assert scores.max() <= 1
    cams = scores[:, :, 1:]
    assert torch.equal(cams[:, 0], cams[:, 1])
    best = cams[:, 0].amax(1)
    torch.testing.assert_close(scores[:, 0, 0], (1 - best) ** 4)
    torch.testing.assert_close(scores[:, 1, 0], (1 - best) ** 32)
    assert 0.02 < (best > 0.5).float().mean() < 0.9  # objects and background


# The function and the command


def test_without_a_peer_own_times_alone_and_how_to_get_it(monkeypatch):
    monkeypatch.setattr(benchmark, "load_peer", lambda: None)
    report = bench(("cold-l3",), quick=True, rounds=1)
    (cold,) = report.rows
    assert (cold.name, cold.peer_ms, cold.value, cold.met, cold.peer_all_ms) == ("cold-l3", None, None, None, [])
    assert cold.own_ms > 0
    assert "pip install pydensecrf2" in "\n".join(table_lines(report))


def test_cuda_is_skipped_with_a_reason(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    report = bench(("cuda-batch-8",), rounds=1)
    assert report.rows == []
    assert "no CUDA GPU" in report.skipped["cuda-batch-8"]


def test_quick_run_as_a_command(tmp_path):
    done = python("-m", "tag2mask", "bench", "--quick", "--rounds", "3", "--only", "pair-l3", "energy-160", "--json")
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)  # one object and nothing else
    assert set(values) == {field.name for field in dataclasses.fields(BenchReport)}
    assert values["quick"] is True
    assert values["command"] == "tag2mask bench --quick --rounds 3 --only pair-l3 energy-160"
    machine = values["machine"]
    assert machine["core"].startswith(("compiled core, ", "torch twin"))
    assert machine["cores"] >= 1
    assert machine["versions"]["torch"] == torch.__version__
    assert [each["name"] for each in values["rows"]] == ["pair-l3", "energy-160"]
    for each in values["rows"]:
        assert (each["rounds"], len(each["own_all_ms"]), each["clock"]) == (3, 3, "cpu")
        assert each["own_ms"] == sorted(each["own_all_ms"])[1]
        assert 0.05 < each["own_ms"] < 10_000  # milliseconds
        assert each["met"] is None
        if each["peer_ms"] is not None:
            over = (
                each["peer_ms"] / each["own_ms"] if each["measure"] == "speedup" else each["own_ms"] / each["peer_ms"]
            )
            assert each["value"] == pytest.approx(over)
    assert "bench 1/2  energy-160" in done.stderr
    (tmp_path / "bench.json").write_text(done.stdout)
    page = python(TOOL, tmp_path / "bench.json")
    assert (page.returncode, page.stderr) == (0, "")
    assert "| both CRF runs of a picture (R = 2), 112×112, L = 3, one thread | " in page.stdout


def test_the_table(capsys):
    assert cli.main(["bench", "--quick", "--rounds", "1", "--only", "pair-l3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "core" in lines[0]
    assert lines[1:3] == ["", "Kernels, predictions and training step"]
    assert "112×112, L = 3" in lines[4]
    assert lines[-1] == "next: tag2mask bench"


def test_the_curves_and_the_plots(tmp_path, capsys, monkeypatch):
    small = {"pixels": [((64, 64), 3), ((128, 128), 3)], "labels": [((112, 112), 2), ((112, 112), 5)]}
    monkeypatch.setattr(performance_page, "PROBLEMS", small)
    monkeypatch.setattr(performance_page, "load_peer", lambda: None)
    assert main(["--curves", str(tmp_path)]) == 0
    curves = performance_page.curves_of(json.loads(capsys.readouterr().out))
    assert [(p.height, p.width, p.labels) for p in curves.pixels] == [(64, 64, 3), (128, 128, 3)]
    assert [p.labels for p in curves.labels] == [2, 5]
    assert all(p.own_ms > 0 and p.peer_ms is None for p in curves.labels)
    for name in ("pixels", "labels"):
        path = tmp_path / f"performance-{name}.svg"
        assert path.stat().st_size < 40_000
        text = " ".join(ET.fromstring(path.read_text()).itertext())
        assert "tag2mask" in text
        assert "ms" in text
        assert ("megapixels" in text) == (name == "pixels")
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "pair-3"], "Did you mean 'pair-l3'?"),
        (["--only", "pair-l3", "everything"], "there is no measurement 'everything'"),
        (["--rounds", "0"], "at least 1"),
        (["--round", "1.5"], "--rounds"),
    ],
)
def test_misuse_is_code_2_with_a_hint_and_measures_nothing(arguments, words, capsys, monkeypatch):
    monkeypatch.setattr(benchmark, "measure_case", lambda *a, **k: pytest.fail("measured"))
    assert cli.main(["bench", *arguments]) == 2
    told = capsys.readouterr()
    assert words in " ".join(told.err.replace("│", " ").split())
    assert told.out == ""


def test_help_names_every_measurement_without_torch():
    code = (
        "import sys\nfrom tag2mask.cli import main\ncode = main(['bench', '--help'])\n"
        "sys.exit(9 if 'torch' in sys.modules else code)"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    page = " ".join(done.stdout.replace("│", " ").split())
    assert all(name in page for name in NAMES)


# Markdown


@pytest.fixture
def report():
    rows = [
        dataclasses.replace(row([0.0612], [0.7451]), work="both runs", max_difference=8.1e-6),
        dataclasses.replace(row([0.0152], [0.75], "share", 0.019), work="energy"),
        dataclasses.replace(row([1.21], None, bar=None), work="step", crf_share=0.117, peer_crf_share=0.5),
    ]
    versions = {"tag2mask": "0.1.0", "torch": "2.9", "pydensecrf": "pydensecrf2 1.1"}
    machine = {"core": "compiled core, avx2", "cpu": "Fast CPU", "cores": 2, "gpu": None}
    return BenchReport(
        command="tag2mask bench --rounds 7",
        date="2026-01-02",
        machine=machine | {"system": "Linux x86_64", "load": 0.125, "versions": versions},
        quick=False,
        rows=rows,
        skipped={"cuda-batch-8": "there is no CUDA GPU that torch can use"},
    )


@pytest.fixture
def curves(tmp_path):
    return Curves(
        pixels=[point(512, 80.0, 900.0), point(2048, 1408.0, 15000.0)],
        labels=[],
        plots=[str(tmp_path / "docs" / "images" / "performance-pixels.svg")],
    )


def test_markdown(report, curves, tmp_path):
    assert markdown(report, curves, tmp_path / "docs").splitlines() == [
        "`tag2mask bench --rounds 7`, 2026-01-02. compiled core, avx2; Fast CPU, 2 cores, no GPU, "
        "Linux x86_64; tag2mask 0.1.0, torch 2.9, pydensecrf2 1.1. Load average at the start: 0.12.",
        "",
        "### Kernels, predictions and training step",
        "",
        "| work | tag2mask | against | other | ratio | asked |  |",
        "|---|---|---|---|---|---|---|",
        "| both runs | 61.2 ms | theirs | 745.1 ms | 12.2 × | ≥ 10 × | met |",
        "| energy | 15.2 ms | theirs | 750.0 ms | 2.03 % | ≤ 1.9 % | not met |",
        "| step | 1.21 s | theirs |  |  |  |  |",
        "",
        "### Cost against pixels (both CRF runs of a picture, one thread)",
        "",
        "|  | tag2mask | pydensecrf | ratio | tag2mask per megapixel | lattice vertices per pixel |",
        "|---|---|---|---|---|---|",
        "| 512×512, L = 3 | 80.0 ms | 900.0 ms | 11.2 × | 305.2 ms | 0.050 |",
        "| 2048×2048, L = 3 | 1.41 s | 15.00 s | 10.7 × | 335.7 ms | 0.050 |",
        "",
        "- CRF votes and reliable labels take 12 % of the training step (50 % with pydensecrf).",
        "- Both give the same marginals: the largest difference in this run is 8.1e-06.",
        "- Not measured: cuda-batch-8: there is no CUDA GPU that torch can use",
        "- A pixel at 2048×2048 costs 1.10 × one at 512×512; at most 1.3 ×: met.",
        "",
        "![performance pixels](images/performance-pixels.svg)",
    ]


def test_the_json_gives_the_same_report_and_curves_back(report, curves):
    assert report_of(json.loads(json.dumps(report, default=jsonable))) == report
    assert performance_page.curves_of(json.loads(json.dumps(dataclasses.asdict(curves)))) == curves


def test_a_page_is_filled_between_its_marks_again_and_again(report, curves, tmp_path, capsys):
    source, drawn, page = tmp_path / "bench.json", tmp_path / "curves.json", tmp_path / "docs" / "performance.md"
    page.parent.mkdir()
    source.write_text(json.dumps(report, default=jsonable))
    drawn.write_text(json.dumps(dataclasses.asdict(curves)))
    page.write_text(f"# Speed\n\n{BEGIN}\nold numbers\n{END}\n\nEnd.\n")
    assert main([str(source), str(drawn), str(page)]) == 0
    once = page.read_text()
    assert once == f"# Speed\n\n{BEGIN}\n\n{markdown(report, curves, page.parent)}\n{END}\n\nEnd.\n"
    assert main([str(source), str(drawn), str(page)]) == 0
    assert page.read_text() == once
    assert main([str(source), str(page)]) == 0
    assert "Cost against" not in page.read_text()
    assert capsys.readouterr().out == ""


def test_the_page_of_the_docs_names_every_measurement_and_can_be_filled():
    text = (Path(__file__).parents[1] / "docs" / "performance.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in NAMES)
    assert text.count(BEGIN) == text.count(END) == 1
    assert text.index(BEGIN) < text.index(END)


@pytest.mark.parametrize("text", ["no marks", f"{BEGIN}", f"{END}\n{BEGIN}", f"{BEGIN}\n{BEGIN}\n{END}"])
def test_a_page_without_its_marks_is_left_alone(report, tmp_path, text, capsys):
    source, page = tmp_path / "bench.json", tmp_path / "page.md"
    source.write_text(json.dumps(report, default=jsonable))
    page.write_text(text)
    assert main([str(source), str(page)]) == 1
    assert page.read_text() == text
    assert "must hold the line" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "code"),
    [("", 1), ("[]", 1), ("{}", 1), ('{"rows": [{"nme": 1}], "pixels": [], "labels": []}', 1), (None, 1)],
)
def test_a_file_that_is_no_report_is_refused_in_one_line(content, code, tmp_path, capsys):
    source = tmp_path / "bench.json"
    if content is not None:
        source.write_text(content)
    assert main([str(source)]) == code
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert "bench.json" in told.err


@pytest.mark.parametrize("arguments", [[], ["--help"], ["a", "b", "c"]])
def test_usage_of_the_page_writer(arguments, capsys):
    assert main(arguments) == 2
    assert "usage: python tools/performance_page.py" in capsys.readouterr().err
