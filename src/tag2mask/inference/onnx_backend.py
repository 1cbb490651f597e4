"""An exported ONNX model on onnxruntime behind a `Segmenter`: pictures to logits. numpy and Pillow, no torch."""

from __future__ import annotations

import contextlib
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tag2mask.base.arrays import Size, is_large
from tag2mask.base.memory import ran_out
from tag2mask.base.processes import usual_threads
from tag2mask.base.spelling import stored_classes
from tag2mask.config.codes import MAX_SIDE
from tag2mask.data.storage.tables import is_class_name
from tag2mask.inference.score_maps import NUMPY, Floats
from tag2mask.inference.tiles import resized

_PROVIDERS = {"cpu": ("CPUExecutionProvider",), "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider")}


class OnnxBackend:
    """An ONNX file of `tag2mask export`."""

    arithmetic = NUMPY
    has_tag_branch = False

    def __init__(self, path: str | Path, device: str = "auto") -> None:
        """Read the file.

        Args:
            path: A file that `tag2mask export --format onnx` wrote.
            device: auto (cuda where onnxruntime has it, else cpu), cpu or cuda.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no ONNX model or not of tag2mask, the device is not there, or onnxruntime is missing.
        """
        path, runtime = Path(path), _onnxruntime()
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; `tag2mask export RUN --format onnx` writes such a file.")
        try:
            providers = _providers(runtime, device)
            # a second attempt makes sense on another device only, and prints
            again = int(len(providers) > 1)
            options = session_options(runtime)
            self._session = runtime.InferenceSession(path, options, providers=providers, enable_fallback=again)
        except Exception as error:  # onnxruntime has a dozen kinds of its own
            reason = " ".join(str(error).split())
            raise ValueError(f"{path} is no ONNX model that onnxruntime can run: {reason}. Export it anew.") from error
        try:
            metadata = self._session.get_modelmeta().custom_metadata_map
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: its metadata is damaged ({error}). Export it anew.") from error
        if metadata.get("format") != "tag2mask":
            raise ValueError(
                f"{path} is an ONNX model of something else; `tag2mask export RUN --format onnx` writes one for here."
            )
        try:
            classes: Any = json.loads(metadata["classes"])
            sizes = {name: json.loads(metadata[name]) for name in ("image_size", "stride")}
            self.selection = metadata["selection"]
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{path}: its metadata is damaged ({error!r}). Export it anew.") from error
        if not isinstance(classes, list) or not classes or not all(is_class_name(name) for name in classes):
            raise ValueError(f"{path}: its metadata names no classes. Export it anew.")
        for name, value in sizes.items():
            if not (isinstance(value, int) and 1 <= value <= MAX_SIDE) and not (name == "image_size" and value is None):
                raise ValueError(f"{path}: its metadata gives the {name} {str(value)[:40]}. Export it anew.")
        self.classes: tuple[str, ...] = stored_classes(classes)
        self.image_size: int | None = sizes["image_size"]
        self.stride: int = sizes["stride"]
        self.path = path

    def to(self, device: str) -> OnnxBackend:
        """The same file, opened for a device."""
        return OnnxBackend(self.path, device)

    def inference(self) -> contextlib.AbstractContextManager[None]:
        """Nothing: an exported model is never in training."""
        return contextlib.nullcontext()

    def prepared(self, rgb: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
        """A picture [H, W, 3] as it is, which the model resizes itself; that takes 16 bytes a pixel.

        So large pictures are resized to `size` here.
        """
        return resized(rgb, size, (0, 0), size) if is_large((rgb.shape[0], rgb.shape[1])) else rgb

    def run(self, rgb: NDArray[np.uint8], scale: float | None = None) -> tuple[Floats, Floats]:
        """Logits [B, K, h, w] and tag scores [B, C] of pictures [B, H, W, 3].

        `scale` is a factor on the network's picture size; None for pictures, such as tiles, that have it already.

        Raises:
            ValueError: the model fails, or gives other shapes.
        """
        if scale is None:
            scale = 1.0 if self.image_size is None else max(rgb.shape[1:3]) / self.image_size
        # The smallest size: the maps are upsampled here, strip by strip, which a huge picture needs.
        feeds = {"rgb": np.ascontiguousarray(rgb), "scale": np.array(scale, dtype=np.float64), "size": np.array([1, 1])}
        try:
            logits, tag_scores = self._session.run(["logits", "tag_scores"], feeds)
        except Exception as error:  # onnxruntime has a dozen kinds of its own
            if (no_memory := ran_out(error)) is not None:
                raise MemoryError(no_memory) from error
            reason = " ".join(str(error).split())[:300]
            raise ValueError(f"{self.path} cannot be run on a picture: {reason}. Export it anew.") from error
        shapes = [list(np.shape(each)) for each in (logits, tag_scores)]
        count = len(self.classes)
        if shapes[0][:2] != [len(rgb), count + 1] or len(shapes[0]) != 4 or shapes[1] != [len(rgb), count]:
            raise ValueError(
                f"{self.path} gives outputs of the shapes {shapes[0]} and {shapes[1]}, needed "
                f"[{len(rgb)}, {count + 1}, h, w] and [{len(rgb)}, {count}] for its {count} classes. Export it anew."
            )
        return logits, tag_scores


def session_options(runtime: Any) -> Any:
    """Options of a session of onnxruntime: as many threads as cores may be used; on its own it takes the host's."""
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # it warns of inputs with defaults
    options.intra_op_num_threads = usual_threads()
    return options


def _onnxruntime() -> Any:
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise ValueError("ONNX files need onnxruntime; pip install 'tag2mask[onnx]'") from error


def _providers(runtime: Any, device: str) -> list[str]:
    """Execution providers of onnxruntime for `device`."""
    there = runtime.get_available_providers()
    if device == "auto":
        device = "cuda" if "CUDAExecutionProvider" in there else "cpu"
    if device not in _PROVIDERS or _PROVIDERS[device][0] not in there:
        raise ValueError(
            f"Device {device!r} is not available for ONNX models here (onnxruntime has {', '.join(there)}); "
            "use auto or cpu."
        )
    return list(_PROVIDERS[device])
