"""The command predict: masks of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from tag2mask.base.console import Bar
from tag2mask.base.share import Share
from tag2mask.cli.advice import after_predicting
from tag2mask.cli.common import Command, Device, Json, Misuse, Result, Run, tell_errors
from tag2mask.cli.inference import InferenceOptions
from tag2mask.config.formats import OutputFormat, OutputOptions

if TYPE_CHECKING:
    from tag2mask.jobs.predicting.run import PredictSummary


class Predict(Command):
    """Write masks for files, folders and globs: OUT/masks, OUT/overlays, OUT/scores.csv."""

    run: Run
    """Run folder, .safetensors or .onnx file."""
    sources: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="SOURCE...")]
    """Pictures, folders (with their sub-folders), globs."""
    out: Path
    """Folder for the results."""
    formats: Annotated[tuple[OutputFormat, ...], tyro.conf.arg(name="format", metavar="F...")] = ("png",)
    """png (masks, overlays), ids (grey masks), npz (probabilities), comp5, comp6 (VOC test server), and those of
    docs/formats.md."""
    options: OutputOptions = OutputOptions()
    inference: InferenceOptions = InferenceOptions()
    tags: Path | None = None
    """Table like tags.csv, or a data set: the classes known to be in a picture."""
    list_file: Annotated[Path | None, tyro.conf.arg(name="list")] = None
    """File with a picture name per line; others are left out."""
    rank: bool = False
    """Also rank.csv, rank.html: what a person should look at first."""
    device: Device = "auto"
    json: Json = False

    def _run(self) -> Result:
        if not self.sources:
            raise Misuse("predict needs at least one picture, folder or glob after RUN.")
        from tag2mask.jobs.predicting.run import predict

        share = Share.of_environment()
        with Bar("predict") as bar:
            result = predict(**self.arguments(), progress=bar.update, share=(share.index, share.count))
        tell_errors(result.errors)
        tools = bool(result.files)
        line = after_predicting(self.run, self.sources, result.out, self.formats, tools=tools, ranked=self.rank)
        return result, [*self._lines(result), line], 1 if result.errors else 0

    def _lines(self, result: PredictSummary) -> list[str]:
        """What was written, and where."""
        out = result.out
        limit = self.inference.max_pixels
        large = f" ({result.too_large} of them above --max-pixels {limit})" if result.too_large else ""
        lines = [f"{len(result.written)} pictures done, {len(result.errors)} failed{large}: {out}"]
        if "png" in self.formats:
            lines.append(f"masks: {out / 'masks'}, overlays: {out / 'overlays'}")
        if "ids" in self.formats:
            lines.append(f"grey masks: {out / 'ids'}")
        if not result.complete:
            lines.append("other processes have pictures left; the last one writes the files of all, such as scores.csv")
        lines += [f"{name}: {path}" for name, path in result.files.items()]
        if self.rank and result.complete:
            lines.append(f"look first at the pictures on top of {out / 'rank.html'} (all: rank.csv)")
        if result.archive is not None:
            lines.append(f"archive: {result.archive}")
        elif result.complete and {"comp5", "comp6"} & set(self.formats):
            lines.append("no results.tgz was written, because it would not be complete")
        return lines
