"""The command convert: data sets, masks and weights as files of another format."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from tag2mask.base.console import Bar
from tag2mask.cli.advice import next_command
from tag2mask.cli.common import Command, Json, Result, finding_lines
from tag2mask.config.formats import DataOptions, MaskFormat, OutputOptions

if TYPE_CHECKING:
    from tag2mask.jobs.converting.exports import ConvertedExport
    from tag2mask.jobs.converting.folders import ConvertedData
    from tag2mask.jobs.converting.masks import ConvertedMasks
    from tag2mask.jobs.converting.weights import ConvertedWeights


class Convert(Command):
    """Data sets to a plain folder, masks to and from annotation tools, published weights to ours."""

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SOURCE")]
    """Folder of a data set or of masks NAME.png, export of an annotation tool, or published weights."""
    to: Literal["folder", "safetensors", "masks"] | MaskFormat
    """folder: plain folder of a data set. safetensors: a model, or weights to start from. masks: label PNG of an
    export. The others: masks for annotation tools (docs/formats.md)."""
    out: Path
    """New folder, or new file NAME.safetensors, .json (coco, label-studio) or .zip (cvat)."""
    data: Path | None = None
    """--to masks: the data set whose pictures were annotated."""
    splits: tuple[str, ...] = ()
    """Splits of the data set to write; default all."""
    classes: Path | None = None
    """Masks: file with a class per line, in the order of the labels; default classes.txt beside the masks."""
    images: Path | None = None
    """Masks: folder of their pictures, for names and sizes."""
    options: OutputOptions = OutputOptions()
    data_options: DataOptions = DataOptions()
    json: Json = False

    def _run(self) -> Result:
        from tag2mask.jobs.converting.exports import ConvertedExport
        from tag2mask.jobs.converting.folders import ConvertedData
        from tag2mask.jobs.converting.masks import ConvertedMasks
        from tag2mask.jobs.converting.run import convert

        with Bar("convert") as bar:
            result = convert(**self.arguments(), progress=bar.update)
        if isinstance(result, ConvertedMasks):
            return result, _mask_lines(result), 0
        if isinstance(result, ConvertedExport):
            return result, self._export_lines(result), 0
        lines = _data_lines(result) if isinstance(result, ConvertedData) else _weights_lines(self.source, result)
        return result, lines, 0

    def _export_lines(self, result: ConvertedExport) -> list[str]:
        lines = [
            f"{self.source} is {result.title}: {result.num_masks} masks ({result.num_empty} without object) of "
            f"the {result.num_images} pictures of {self.data}",
            f"classes: {', '.join(result.classes)}",
        ]
        if result.ignored_share:
            lines.append(f"not known: {result.ignored_share:.1%} of the pixels, which are 255")
        lines += [*finding_lines(result.findings), f"masks: {result.out}"]
        reading = {name: value for name, value in self.data_options.asked().items() if name not in _OF_EXPORT}
        return [*lines, next_command("train", "small", data=self.data, **reading, masks_for_some=result.out)]


_OF_EXPORT = ("unlabeled", "others", "mask_ids")
"""How data are read, of the export."""
_IMPORTS = {
    "coco": "give it to pycocotools, FiftyOne or detectron2, or to CVAT as COCO 1.0",
    "yolo": "put the pictures into images/ beside labels/ and give data.yaml to Ultralytics",
    "label-studio": "set Settings, Labeling Interface to the .xml beside it, then import the .json",
    "cvat": "Actions, Upload annotations, Segmentation mask 1.1 in a task with the same pictures, "
    "without Convert masks to polygons",
    "geojson": "drop a file on its open picture in QuPath",
    "voc": "add the pictures as JPEGImages/",
    "ultralytics-semantic": "give data.yaml to Ultralytics: yolo semantic train data=data.yaml model=yolo26n-sem.pt",
    "hf-imagefolder": 'datasets.load_dataset("imagefolder", data_dir=DIR) has the columns image and mask',
}
"""What to do with the files, in the words of docs/formats.md."""


def _mask_lines(result: ConvertedMasks) -> list[str]:
    lines = [f"{result.num_images} masks, classes: {', '.join(result.classes)}"]
    if result.ignored_share:
        lines.append(f"left out: {result.ignored_share:.1%} of the pixels, which are 255")
    if not result.known_pictures:
        lines.append("the pictures are taken to be called NAME.jpg; --images DIR looks")
    lines += finding_lines(result.findings)
    lines.append(f"{result.data_format}: {result.out}")
    return [*lines, f"next: {_IMPORTS[result.data_format]} (docs/formats.md)"]


def _data_lines(result: ConvertedData) -> list[str]:
    splits = ", ".join(f"{name} {count}" for name, count in result.splits.items()) or "by hash of the names"
    return [
        f"{result.num_images} pictures from {result.data_format}, {result.num_negatives} of them negatives, "
        f"{result.num_masks} with mask",
        f"classes: {', '.join(result.classes)}",
        f"splits: {splits}",
        *finding_lines(result.findings),
        f"folder: {result.out}",
        next_command("train", "small", data=result.out),
    ]


def _weights_lines(source: Path, result: ConvertedWeights) -> list[str]:
    lines = [f"{source} is {result.title}", f"holds: {', '.join(result.parts)}"]
    if result.left_out:
        lines.append(f"left out: {', '.join(result.left_out)}")
    if result.complete:
        return [*lines, f"model: {result.out}", next_command("evaluate", result.out, data="VOC2012")]
    preset = "voc-rrm" if "classifier" in result.parts else "voc-rrm-init"
    return [*lines, f"weights: {result.out}", next_command("train", preset, weights=result.out, data="VOC2012")]
