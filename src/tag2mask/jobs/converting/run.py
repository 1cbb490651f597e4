"""`convert`: data sets, published weights and masks in other formats. Imports no torch before it is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tag2mask.base.files import check_folder
from tag2mask.base.options import public
from tag2mask.config.formats import MASK_FORMATS, DataOptions, OutputOptions

if TYPE_CHECKING:
    from tag2mask.jobs.converting.exports import ConvertedExport
    from tag2mask.jobs.converting.folders import ConvertedData
    from tag2mask.jobs.converting.masks import ConvertedMasks
    from tag2mask.jobs.converting.weights import ConvertedWeights

FORMATS = ("safetensors", "folder", "masks", *MASK_FORMATS)


@public
def convert(
    source: str | Path,
    *,
    to: str,
    out: str | Path,
    data: str | Path | None = None,
    splits: Sequence[str] = (),
    link: bool = False,
    classes: str | Path | None = None,
    images: str | Path | None = None,
    options: OutputOptions | None = None,
    progress: Callable[[int, int], object] | None = None,
    data_options: DataOptions | None = None,
    **fields: Any,
) -> ConvertedWeights | ConvertedData | ConvertedExport | ConvertedMasks:
    """Write `source` in another format.

    Args:
        source: For `folder` a data set (docs/data.md); for `safetensors` a published file of weights (docs/weights.md).
            For `masks` the export of an annotation tool, a folder, zip or JSON file (docs/formats.md, masks in).
            For the other formats (docs/formats.md) a folder of indexed PNG files NAME.png with labels 0..C and 255,
            searched with its sub-folders; or a folder with such a folder `masks` in it.
        to: `folder`, the plain folder; `safetensors`, the weights of this package; `masks`, label PNG;
            `coco`, `yolo`, `label-studio`, `cvat`, `geojson`, `voc`, `ultralytics-semantic` or `hf-imagefolder`, masks
            for other tools.
        out: New folder or file, as the format wants it: `NAME.safetensors`, `NAME.json`, `NAME.zip`.
        data: For `masks`: the data set whose pictures were annotated (docs/data.md), for names, sizes and classes.
        splits: Splits of a data set to write; default all. Pictures of no split are left out. Without splits of its
            own none are written, as the halves by hash stay the same with the names; those of `group_by` are written.
        link: Hard links to the pictures instead of copies, where the file system can do it.
        classes: For masks: text file with a class per line in the order of the labels; None takes the list that goes
            with the folder. In a folder called SegmentationClass VOC's classes have VOC's ids, and are the default.
        images: For masks: folder of their pictures, for names and sizes; None takes NAME.jpg.
        options: For masks: how objects are written.
        progress: Called with (done, all) pictures.
        data_options: How a data set is read where looking is not enough.
        fields: Fields of `data_options` by name, as `data_format`.

    Raises:
        FileExistsError: there is something at `out`.
        ValueError: another format, a data set or masks that cannot be used, names that the format cannot hold, or no
            published weights; names the cure.
    """
    source, out = Path(source).expanduser(), Path(out).expanduser()
    if to not in FORMATS:
        raise ValueError(f"--to {to} is no format that can be written; formats: {', '.join(FORMATS)}")
    if out.exists() or out.is_symlink():
        raise FileExistsError(f"--out {out} exists. Choose another name or remove it")
    check_folder(out.absolute().parent)
    reading = DataOptions.merged(data_options, fields)
    options = options or OutputOptions()
    link = link or options.link
    if (data is not None) != (to == "masks"):
        raise ValueError(
            "--to masks and --data go together: the data set whose pictures were annotated says the names, sizes and "
            "classes of the masks."
        )
    if to in MASK_FORMATS:
        from tag2mask.jobs.converting.masks import convert_masks

        return convert_masks(
            source,
            format=to,
            out=out,
            classes=None if classes is None else Path(classes),
            images=None if images is None else Path(images),
            options=replace(options, link=link),
            mask_ids=reading.mask_ids,
            progress=progress,
        )
    if images is not None or (classes is not None and to != "masks"):
        raise ValueError(f"--classes and --images are for masks (--to {', '.join(MASK_FORMATS)}), not for --to {to}.")
    if data is not None:
        from tag2mask.jobs.converting.exports import convert_export

        listed = None if classes is None else Path(classes)
        return convert_export(
            source, data=Path(data).expanduser(), out=out, reading=reading, classes=listed, progress=progress
        )
    if to == "folder":
        from tag2mask.jobs.converting.folders import write_plain_folder

        return write_plain_folder(source, out, options=reading, splits=splits, link=link, progress=progress)
    from tag2mask.jobs.converting.weights import convert_weights

    return convert_weights(source, out)
