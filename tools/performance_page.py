"""What `tag2mask bench --json` wrote, as Markdown, or put between the two marks of a page.

python tools/performance_page.py bench.json
python tools/performance_page.py bench.json docs/performance.md
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tag2mask.base.files import write_text
from tag2mask.jobs.benchmark.page import blocks, conditions, notes
from tag2mask.jobs.benchmark.results import BenchReport, Point, Row

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


def report_of(values: Any) -> BenchReport:
    """The report that `--json` printed.

    Raises:
        ValueError: it is something else.
    """
    try:
        rows = [Row(**row) for row in values["rows"]]
        curves = {name: [Point(**point) for point in values[name]] for name in ("pixels", "labels")}
        return BenchReport(**values | {"rows": rows} | curves)
    except (TypeError, KeyError) as error:
        raise ValueError(f"this is no report of `tag2mask bench --json` of this version ({error})") from error


def markdown(report: BenchReport, folder: Path | None = None) -> str:
    """The report as Markdown; plots are linked relative to `folder`, where the page lies."""
    parts = [conditions(report)]
    for title, cells in blocks(report):
        head, *rows = [f"| {' | '.join(row)} |" for row in cells]
        parts += [f"### {title}", "\n".join([head, "|---" * len(cells[0]) + "|", *rows])]
    parts += ["\n".join(f"- {note}" for note in notes(report))]
    for plot in report.plots:
        link = plot if folder is None else os.path.relpath(plot, folder)
        parts.append(f"![{Path(plot).stem.replace('-', ' ')}]({Path(link).as_posix()})")
    return "\n\n".join(part for part in parts if part) + "\n"


def fill_page(page: Path, report: BenchReport) -> None:
    """Replace what stands between the two marks of a page.

    Raises:
        ValueError: the page has not exactly one of each mark, in order.
    """
    text = page.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"{page} must hold the line {BEGIN} once and {END} once below it")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    write_text(page, f"{before}{BEGIN}\n\n{markdown(report, page.parent)}\n{END}{after}")


def main(arguments: Sequence[str]) -> int:
    """Do what the command asks; returns the exit code."""
    if not 1 <= len(arguments) <= 2 or arguments[0].startswith("-"):
        print("usage: python tools/performance_page.py FILE.json [PAGE.md]", file=sys.stderr)
        return 2
    source = Path(arguments[0])
    try:
        report = report_of(json.loads(source.read_text(encoding="utf-8")))
        if len(arguments) == 1:
            print(markdown(report), end="")
        else:
            fill_page(Path(arguments[1]), report)
    except (OSError, ValueError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        print(f"error: {source}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
