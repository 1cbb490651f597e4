"""A report as a table for a terminal."""

from __future__ import annotations

from tag2mask.base.tables import text_table
from tag2mask.jobs.benchmark.results import BenchReport, Row

TITLE = "Kernels, predictions and training step"


def milliseconds(value: float | None) -> str:
    """69.0 ms, 1.21 s, or nothing where nothing was measured."""
    return "" if value is None else f"{value:.1f} ms" if value < 1000 else f"{value / 1000:.2f} s"


_HEAD = ["work", "tag2mask", "against", "other", "ratio", "asked", ""]
_VERDICTS = {None: "", True: "met", False: "not met"}


def _row_cells(row: Row) -> list[str]:
    speedup = row.measure == "speedup"
    value = (
        ""
        if row.value is None
        else f"{row.value:.{1 if row.value >= 2 else 2}f} ×"
        if speedup
        else f"{100 * row.value:.2f} %"
    )
    bar = "" if row.bar is None else f"≥ {row.bar:g} ×" if speedup else f"≤ {100 * row.bar:g} %"
    own, peer = milliseconds(row.own_ms), milliseconds(row.peer_ms)
    return [row.work, own, row.against, peer, value, bar, _VERDICTS[row.met]]


def conditions(report: BenchReport) -> str:
    """Command, date, machine and versions of a report, in one line."""
    machine = report.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    load = "" if machine["load"] is None else f" Load average at the start: {machine['load']:.2f}."
    return (
        f"`{report.command}`, {report.date}. {machine['core']}; {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['gpu'] or 'no GPU'}, {machine['system']}; {versions}.{load}"
    ).replace("pydensecrf pydensecrf", "pydensecrf")


def notes(report: BenchReport) -> list[str]:
    """What the numbers of the tables leave out, a sentence each."""
    told = []
    for row in report.rows:
        if row.crf_share is not None:
            theirs = "" if row.peer_crf_share is None else f" ({100 * row.peer_crf_share:.0f} % with pydensecrf)"
            told.append(f"CRF votes and reliable labels take {100 * row.crf_share:.0f} % of the training step{theirs}.")
    differences = [row.max_difference for row in report.rows if row.max_difference is not None]
    if differences:
        told.append(f"Both give the same marginals: the largest difference in this run is {max(differences):.1e}.")
    if report.quick:
        told.append("A quick look at small sizes; the bars hold at full size only and are not judged.")
    return told + [f"Not measured: {name}: {reason}" for name, reason in report.skipped.items()]


def cells(report: BenchReport) -> list[list[str]]:
    """The table, its head first."""
    return [_HEAD, *map(_row_cells, report.rows)]


def table_lines(report: BenchReport) -> list[str]:
    """The report for a terminal: aligned columns."""
    table = ["", TITLE, *text_table(cells(report), right=False)] if report.rows else []
    return [conditions(report), *table, "", *notes(report)]
