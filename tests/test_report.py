"""report.html: complete, self-contained, escaped."""

import json
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from tag2mask.base.charts import Series, histogram, line_chart
from tag2mask.config import TrainConfig
from tag2mask.scoring.report import report_from_confusion
from tag2mask.training.page import Figure, write_report


@pytest.fixture
def run(tmp_path):
    (tmp_path / "config.json").write_text(TrainConfig.preset("small", data="<b>photos</b>").to_json())
    (tmp_path / "environment.json").write_text('{"torch": "2.9", "gpu": null}')
    (tmp_path / "metrics.csv").write_text(
        "step,phase,lr,tag_loss,segmentation_loss,energy_loss,total_loss,reliable_share,images_per_second,miou\n"
        "1,tags,0.01,0.7,,,0.7,,20,\n2,tags,0.01,0.5,,,0.5,,21,\n3,joint,0.01,0.4,2.0,-0.1,2.3,0.3,9,0.41\n"
    )
    (tmp_path / "samples").mkdir()
    for step in range(5):
        Image.new("RGB", (40, 20)).save(tmp_path / "samples" / f"step-{step:06d}.jpg")
    return tmp_path


def test_the_report_is_one_file_with_everything(run):
    scores = report_from_confusion(np.array([[8, 2], [0, 0]]), ('<i>"cat"',), 3, {"split": "val", "data": "<u>"})
    other = report_from_confusion(np.array([[9, 0], [1, 0]]), ('<i>"cat"',), 3, {"split": "val"})
    path = write_report(
        run,
        title="cats & <dogs>",
        summary="Two words.",
        tiles={"mIoU": "40.0 %"},
        scores={"segmentation": scores, "CAM": other},
        figures=[Figure(caption="held out", image=Image.new("RGB", (30, 30)))],
    )
    page = path.read_text()
    assert path == run / "report.html"
    assert "cats &amp; &lt;dogs&gt;" in page
    assert not any(text in page for text in ("<b>photos", '<i>"cat"', "<u>"))
    assert "&lt;i&gt;&#34;cat&#34;" in page
    assert not re.search(r"https?://", page)
    assert "<script" not in page
    assert re.findall(r'src="(\w+):', page) == ["data"] * 4  # the figure and three sample sheets
    assert ">80.0 %<" in page  # 8 / (8 + 2)
    assert 'class="best">90.0 %' in page
    assert all(f">{name}</text>" in page for name in ("Losses", "Share of reliable pixels"))
    assert 'name="viewport"' in page
    assert "method.reliable.keep" in page


def test_a_bare_run_has_a_report_too(tmp_path):
    (tmp_path / "config.json").write_text(TrainConfig.preset("small").to_json())
    assert "config.json" in write_report(tmp_path).read_text()


def test_line_chart_shows_every_line_and_survives_odd_values():
    """The same chart is the same text, names are escaped, and no value leaves a path that is no number."""
    series = [Series(name="x < y", points=((0, 0.0), (5, 1.0), (10, 2.0))), Series(name="one", points=((5, -1.0),))]
    svg = line_chart("a < b", series, mark=5)
    assert svg == line_chart("a < b", series, mark=5)
    texts = ["".join(each.itertext()) for each in ET.fromstring(svg).iter("text")]
    assert {"a < b", "x < y 2", "one -1"} <= set(texts)
    assert not re.search(r"<metadata|<!DOCTYPE|\d{4}-\d{2}-\d{2}", svg)
    odd = Series(name="t", points=((0, float("nan")), (1, float("inf"))))
    assert "nan" not in line_chart("t", [odd]) and "inf" not in line_chart("t", [odd])


def test_a_histogram_names_its_counts_and_lower_bounds():
    svg = histogram([(32 * 2**i, i) for i in range(6)])
    texts = ["".join(each.itertext()) for each in ET.fromstring(svg).iter("text")]
    assert [text for text in texts if text] == ["32", "64", "128", "256", "512", "1024", "1", "2", "3", "4", "5"]


def test_a_finished_run_reports_its_validation_time_and_memory(tiny_config):
    from tag2mask.training.first_step import train

    run = train(tiny_config)
    scores = json.loads((run / "validation" / "scores.json").read_text(encoding="utf-8"))
    assert len(scores["pictures"]) == 4
    assert np.sum(scores["confusion"]) > 0
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    assert summary["steps"] == 6
    assert summary["minutes_of_steps"] >= 0
    page = (run / "report.html").read_text(encoding="utf-8")
    for heading in ("IoU per label", "Confusion", "Worst pictures", "Best pictures", "Time and memory"):
        assert heading in page
    ranked = sorted(scores["pictures"].values())
    assert ranked[0] <= scores["miou"] <= 1


def test_the_confusion_of_many_labels_stays_in_the_file(run):
    (run / "validation").mkdir()
    labels = [f"c{i}" for i in range(40)]
    scores = {"miou": 0.5, "iou": dict.fromkeys(labels, 0.5), "confusion": [[0] * 40] * 40, "protocol_line": "p"}
    (run / "validation" / "scores.json").write_text(json.dumps(scores))
    page = write_report(run).read_text()
    assert 'class="confusion"' not in page
    assert "validation/scores.json" in page
