"""Models for use elsewhere: ONNX, a program of torch.export, a folder for the hub; each compared with the network."""

from __future__ import annotations

import copy
import importlib
import io
import json
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import timm.layers.padding
import torch
from numpy.typing import NDArray
from torch.export import Dim, ExportedProgram

from tag2mask import __version__
from tag2mask.base.errors import first_line
from tag2mask.base.files import check_file, check_new_folder, write_atomically
from tag2mask.base.options import public
from tag2mask.inference import hub
from tag2mask.inference.hub import named_selection
from tag2mask.inference.onnx_backend import session_options
from tag2mask.inference.segmenter import Segmenter, need_network
from tag2mask.jobs.exporting.deployed import OUTPUTS, Deployed
from tag2mask.jobs.exporting.parity import Parity, Predict, compare, comparison_pictures
from tag2mask.runs.checkpoints import load_model
from tag2mask.runs.places import recorded_counts

ExportFormat = Literal["onnx", "torch", "hub"]
OPSET = 18
"""Version of the ONNX operators; every runtime since 2023 knows it."""
_PLACES = {"onnx": "model.onnx", "torch": "model.pt2", "hub": "hub"}
_MAX_BYTES = 2**31 - 1
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ExportSummary:
    """What `export` wrote."""

    format: ExportFormat
    out: Path
    size_bytes: int
    """Of the file, or of all files in the folder."""
    seconds: float
    parity: Parity
    license: str | None = None
    """Which the model card of the hub folder states; None where it states none, and for other formats."""


@public
def export(
    run: str | Path | Segmenter,
    *,
    format: ExportFormat = "onnx",
    out: str | Path | None = None,
    data: str | Path | None = None,
    split: str = "val",
    limit: int = 8,
    evaluation: str | Path | None = None,
    license: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ExportSummary:
    """Write a model for use elsewhere and measure how near it is to the network.

    `onnx` and `torch` take pictures uint8 [B, H, W, 3] of any size and batch and hold all preprocessing and resizing;
    inputs, outputs and their names are those of `Deployed.forward`. `hub` is a folder with model.safetensors,
    config.json and a model card.

    Args:
        run: Run folder of either step, .safetensors file or `Segmenter`.
        format: See above.
        out: New file (.onnx, .pt2) or folder; default model.onnx, model.pt2 or hub in the run folder.
        data: Data set whose pictures the export is compared on; None generates pictures of six sizes.
        split: Split of `data`; its tags and masks are not read.
        limit: Compare on at most so many pictures of `data`; 0 for all.
        evaluation: evaluation.json of `tag2mask evaluate --out` for the model card; default that of the run folder.
        license: Name of the model's license for its card, such as mit; None takes that of the weights that it began
            with.
        progress: Called with (pictures compared, all).

    Raises:
        FileExistsError: `out` is there.
        ValueError: an unknown format, a missing package, a network that cannot be exported for every size, or a hub
            folder without `license` where nobody states that of the first weights.
    """
    began = time.monotonic()
    if format not in _PLACES:
        raise ValueError(f"--format must be one of {', '.join(_PLACES)}, got {format!r}.")
    if format != "hub" and (evaluation, license) != (None, None):
        raise ValueError(
            f"--evaluation and --license are for the model card, which only the format hub has; got --format {format}."
        )
    need_network(run, "export", "it is exported already, and its kind cannot be changed")
    folder = _folder_of(run)
    path = _new_place(format, out, folder)
    segmenter = Segmenter.load(run, device="cpu")
    # a copy that an export may take apart
    model = copy.deepcopy(segmenter.model).cpu().requires_grad_(False).eval()
    reference = Segmenter(model, segmenter.config, selection=segmenter.selection, findings=segmenter.findings)
    stated = segmenter.stated_license(license) if format == "hub" else None
    pictures, origin = comparison_pictures(data, split, limit)
    _log.info("writing %s", path)
    if format == "hub":
        hub.save(
            path,
            model,
            segmenter.config,
            selection=segmenter.selection,
            license=stated,
            findings=segmenter.findings,
            evaluation=_evaluation(evaluation, folder),
            pictures=None if folder is None else recorded_counts(folder),
        )
        predict = _by_segmenter(Segmenter(*load_model(path)[:2], device="cpu"))
    elif format == "torch":
        export_torch(reference, path)
        predict = _by_program(path)
    else:
        export_onnx(reference, path)
        predict = _by_onnxruntime(path)
    parity = compare(reference, predict, pictures, origin=origin, progress=progress)
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    size = sum(p.stat().st_size for p in files)
    return ExportSummary(
        format=format, out=path, size_bytes=size, seconds=time.monotonic() - began, parity=parity, license=stated
    )


def _folder_of(run: str | Path | Segmenter) -> Path | None:
    """The folder of a run or file; None for a network in memory and for a model of the hub."""
    if isinstance(run, Segmenter) or str(run).startswith("hf://"):
        return None
    return Path(run) if Path(run).is_dir() else Path(run).parent


def _new_place(format: ExportFormat, out: str | Path | None, folder: Path | None) -> Path:
    if out is None and folder is None:
        raise ValueError("export needs --out PATH here; only a run has a folder of its own.")
    path = Path(out) if out is not None else Path(str(folder)) / _PLACES[format]
    suffix = Path(_PLACES[format]).suffix
    if suffix and path.suffix.lower() != suffix:
        raise ValueError(f"--format {format} writes a {suffix} file, got --out {path}; name it {path.stem}{suffix}.")
    if path.is_file() or (suffix and path.exists()):
        raise FileExistsError(f"{path} exists; remove it or choose another --out.")
    if suffix:
        check_file(path)
    else:
        check_new_folder(path)
    return path


def _evaluation(path: str | Path | None, folder: Path | None) -> Mapping[str, Any] | None:
    """Scores for the model card: those of `path`, else of the run folder, else none."""
    place = Path(path) if path is not None else None if folder is None else folder / "evaluation.json"
    if place is None or (path is None and not place.is_file()):
        return None
    try:
        values: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
        values["miou"], values["iou"].items(), values["protocol"].items()
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{place} holds no scores ({error!r}); give an evaluation.json of `tag2mask evaluate RUN --out DIR`."
        ) from error
    return values


def export_program(segmenter: Segmenter, *, with_options: bool) -> ExportedProgram:
    """The network, on the CPU, with everything around it as a program for pictures of any size and batch.

    With options it has the inputs `scale` and `size` too.

    Raises:
        ValueError: the network asks for the size of its picture in a way that fixes it.
    """
    deployed = Deployed(segmenter.model, segmenter.config.image_size)
    sample: tuple[torch.Tensor, ...] = (torch.zeros(2, 70, 90, 3, dtype=torch.uint8),)
    shapes: dict[str, Any] = {"rgb": {0: Dim("batch"), 1: Dim("height"), 2: Dim("width")}}
    if with_options:
        sample = (*sample, torch.tensor(1.0, dtype=torch.float64), torch.tensor([60, 80]))
        shapes |= {"scale": {}, "size": {}}
    failed = f"This network (backbone {segmenter.config.backbone}) cannot be exported for pictures of any size"
    with _exporter(failed, "Use the run itself"), _padding_in_whole_numbers():
        program = torch.export.export(deployed, sample, dynamic_shapes=shapes)
    for node in program.graph.nodes:  # traces name the files of this machine
        node.meta.pop("stack_trace", None)
    return program


def same_padding(size: int, kernel_size: int, stride: int, dilation: int) -> int:
    """TensorFlow's padding of one side, as timm's `get_same_padding` has it, in whole numbers.

    timm divides with fractions, which torch.export cannot simplify where `size` is a multiple of `stride`.
    """
    return max((-(-size // stride) - 1) * stride + (kernel_size - 1) * dilation + 1 - size, 0)


@contextmanager
def _padding_in_whole_numbers() -> Iterator[None]:
    original = timm.layers.padding.get_same_padding
    timm.layers.padding.get_same_padding = same_padding
    try:
        yield
    finally:
        timm.layers.padding.get_same_padding = original


def export_torch(segmenter: Segmenter, path: Path) -> Path:
    """Write a program of torch.export; its metadata is the extra file tag2mask.json."""
    program = export_program(segmenter, with_options=False)
    extra = {"tag2mask.json": json.dumps(metadata(segmenter), ensure_ascii=False)}

    def write(target: Path) -> None:
        with target.open("wb") as file:  # a path would give its temporary name to the archive
            torch.export.save(program, file, extra_files=extra)

    return write_atomically(path, write)


def export_onnx(segmenter: Segmenter, path: Path) -> Path:
    """Write an ONNX model with `metadata` in its metadata_props and defaults for the inputs `scale` and `size`.

    Raises:
        ValueError: onnx and onnxscript are missing, the network cannot be exported, or it is larger than 2 GB.
    """
    try:
        onnx = importlib.import_module("onnx")
        importlib.import_module("onnxscript")
    except ImportError as error:
        raise ValueError(f"ONNX export needs onnx and onnxscript ({error}); pip install 'tag2mask[onnx]'") from error
    program = export_program(segmenter, with_options=True)
    failed = f"This network (backbone {segmenter.config.backbone}) cannot be written as ONNX"
    with _exporter(failed, "Use --format torch"):
        model: Any = torch.onnx.export(
            program,
            dynamo=True,
            external_data=False,
            input_names=["rgb", "scale", "size"],
            output_names=list(OUTPUTS),
            opset_version=OPSET,
            verbose=False,
        )
    proto = model.model_proto
    _correct(proto)
    defaults = (
        onnx.helper.make_tensor("scale", onnx.TensorProto.DOUBLE, [], [1.0]),
        onnx.helper.make_tensor("size", onnx.TensorProto.INT64, [2], [0, 0]),
    )
    proto.graph.initializer.extend(defaults)
    onnx.helper.set_model_props(proto, metadata(segmenter))
    if proto.ByteSize() > _MAX_BYTES:
        raise ValueError(f"The model has {proto.ByteSize() / 1e9:.1f} GB, an ONNX file holds 2; use --format torch.")
    return write_atomically(path, lambda p: onnx.save(proto, p))


def _correct(proto: Any) -> None:
    """Set right how maps of one row or column are resized, and leave out notes and traces of the exporter.

    Older versions of it write `pytorch_half_pixel`, which takes the first row where torch takes the middle.
    """
    for part in (*proto.graph.node, *proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    for node in proto.graph.node:
        for attribute in node.attribute:
            if attribute.name == "coordinate_transformation_mode" and attribute.s == b"pytorch_half_pixel":
                attribute.s = b"half_pixel"


def metadata(segmenter: Segmenter) -> dict[str, str]:
    """What a program says of itself: format, version, and as JSON classes, image_size and stride; selection."""
    return {
        "format": "tag2mask",
        "version": __version__,
        "classes": json.dumps(list(segmenter.classes), ensure_ascii=False),
        "image_size": json.dumps(segmenter.config.image_size),
        "stride": json.dumps(segmenter.model.stride),
        "selection": named_selection(segmenter.selection),
    }


@contextmanager
def _exporter(failed: str, cure: str) -> Iterator[None]:
    """No warnings, log lines and prints of an exporter, which show whole graphs.

    Raises:
        ValueError: it fails; with what went wrong at the bottom of the chain of errors.
    """
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # exporters have many kinds
        root: BaseException = error
        while root.__cause__ is not None:
            root = root.__cause__
        raise ValueError(f"{failed}: {first_line(root)}. {cure}, or another backbone.") from error
    finally:
        logging.disable(disabled)


def _by_onnxruntime(path: Path) -> Predict:
    """By the program alone, as other tools run it."""
    try:
        runtime: Any = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise ValueError(
            f"{path} is written, but comparing it needs onnxruntime: pip install 'tag2mask[onnx]'"
        ) from error
    session = runtime.InferenceSession(path, session_options(runtime), providers=["CPUExecutionProvider"])
    return lambda rgb: tuple(session.run(["mask", "probs"], {"rgb": rgb}))


def _by_program(path: Path) -> Predict:
    program = torch.export.load(path).module()

    def predict(rgb: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        with torch.inference_mode():
            outputs = program(torch.from_numpy(rgb))
        return outputs["mask"].numpy(), outputs["probs"].numpy()

    return predict


def _by_segmenter(segmenter: Segmenter) -> Predict:
    def predict(rgb: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        results = segmenter.predict(list(rgb))
        return np.stack([each.mask for each in results]), np.stack([each.probs for each in results])

    return predict
