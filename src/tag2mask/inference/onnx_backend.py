"""Prediction by an exported ONNX model on onnxruntime: numpy and Pillow, no torch."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tag2mask.base.arrays import Size, is_large, row_strips
from tag2mask.base.memory import ran_out
from tag2mask.base.processes import usual_threads
from tag2mask.base.spelling import stored_classes
from tag2mask.config import CRFParams
from tag2mask.config.codes import MAX_SIDE
from tag2mask.data.storage.tables import is_class_name
from tag2mask.inference.segmenter import BROKEN_SCORES, Prediction, Segmenter
from tag2mask.inference.tiles import Grid, Part, blended_map, crf_parts, labels_of, tile_side, whole

_STRIP = 1 << 18
"""Pixels whose probabilities are computed at a time, so that a huge picture needs little memory."""
_PROVIDERS = {"cpu": ("CPUExecutionProvider",), "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider")}


class OnnxSegmenter(Segmenter):
    """An ONNX file of `tag2mask export`, ready to predict; `tag2mask.Segmenter.load("model.onnx")` gives one.

    `predict` takes what the network itself takes and gives the same up to the last digits of float32; pictures share a
    batch where they have one size.
    """

    def __init__(self, path: str | Path, *, device: str = "auto") -> None:
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
        self._path = path

    def _predict_batch(
        self,
        pictures: Sequence[NDArray[np.uint8]],
        tags: Sequence[Sequence[str] | None],
        crf: CRFParams | None,
        scales: Sequence[float],
        flip: bool,
        tile: int | None,
    ) -> list[Prediction]:
        logits: list[list[NDArray[np.float32]]] = [[] for _ in pictures]
        scores: list[list[NDArray[np.float32]]] = [[] for _ in pictures]
        for members in _by_size(pictures):
            size = (pictures[members[0]].shape[0], pictures[members[0]].shape[1])
            side = tile_side(size, tile, self.image_size)
            by_hand = side is not None or is_large(size)
            batch = np.empty(0, dtype=np.uint8) if by_hand else np.stack([pictures[i] for i in members])
            for scale in scales:
                for step in (1, -1) if flip else (1,):
                    if by_hand:
                        grid = self._grid(size, side, scale)
                        found = [blended_map(pictures[i], grid, partial(self._run_tile, step=step)) for i in members]
                    else:
                        maps, tag_scores = self._run(np.ascontiguousarray(batch[:, :, ::step]), scale)
                        found = list(zip(maps[..., ::step], tag_scores, strict=True))
                    for i, (each, score) in zip(members, found, strict=True):
                        logits[i].append(each)
                        scores[i].append(score)
        results = []
        for rgb, maps_of, scores_of, names in zip(pictures, logits, scores, tags, strict=True):
            size = (rgb.shape[0], rgb.shape[1])
            score_maps = NumpyScoreMaps(logits=tuple(maps_of), size=size, labels_allowed=self._allowed(names))
            mean = np.mean(scores_of, axis=0)
            results.append(self._prediction(rgb, score_maps, mean, crf))
        return results

    def _run(self, rgb: NDArray[np.uint8], scale: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Logits [B, K, h, w] and tag scores [B, C] of pictures [B, H, W, 3].

        Raises:
            ValueError: the model fails, gives other shapes, or numbers that are not finite.
        """
        # The smallest size: the maps are upsampled here, strip by strip, which a huge picture needs.
        feeds = {"rgb": rgb, "scale": np.array(scale, dtype=np.float64), "size": np.array([1, 1])}
        try:
            logits, tag_scores = self._session.run(["logits", "tag_scores"], feeds)
        except Exception as error:  # onnxruntime has a dozen kinds of its own
            if (no_memory := ran_out(error)) is not None:
                raise MemoryError(no_memory) from error
            reason = " ".join(str(error).split())[:300]
            raise ValueError(f"{self._path} cannot be run on a picture: {reason}. Export it anew.") from error
        shapes = [list(np.shape(each)) for each in (logits, tag_scores)]
        count = len(self.classes)
        if shapes[0][:2] != [len(rgb), count + 1] or len(shapes[0]) != 4 or shapes[1] != [len(rgb), count]:
            raise ValueError(
                f"{self._path} gives outputs of the shapes {shapes[0]} and {shapes[1]}, needed "
                f"[{len(rgb)}, {count + 1}, h, w] and [{len(rgb)}, {count}] for its {count} classes. Export it anew."
            )
        if not (np.isfinite(logits).all() and np.isfinite(tag_scores).all()):
            raise ValueError(BROKEN_SCORES)
        return logits, tag_scores

    def _grid(self, size: Size, side: int | None, scale: float) -> Grid:
        """Tiles of a picture; one where it enters the network as a whole.

        Large pictures are resized here in any case: the model's own resize takes 16 bytes for each of their pixels.
        """
        if side is not None:
            return Grid.of(size, side, self.image_size, self.stride, scale)
        longer = max(size) if self.image_size is None else self.image_size
        factor = scale * longer / max(size)
        h, w = (max(self.stride, round(length * factor / self.stride) * self.stride) for length in size)
        return Grid.whole((h, w))

    def _run_tile(self, tile: NDArray[np.uint8], *, step: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Logits [K, h', w'] and tag scores [C] of a tile [h, w, 3] that has the network's size already."""
        scale = 1.0 if self.image_size is None else max(tile.shape[:2]) / self.image_size
        logits, scores = self._run(np.ascontiguousarray(tile[None, :, ::step]), scale)
        return logits[0, ..., ::step], scores[0]

    def _allowed(self, names: Sequence[str] | None) -> tuple[int, ...]:
        """Labels that may occur, ascending: background and the named classes, or all."""
        return (0, *(i for i, name in enumerate(self.classes, 1) if names is None or name in names))

    def _prediction(
        self, rgb: NDArray[np.uint8], maps: NumpyScoreMaps, scores: NDArray[np.float32], crf: CRFParams | None
    ) -> Prediction:
        tag_scores = {name: float(score) for name, score in zip(self.classes, scores, strict=True)}
        if crf is not None and not is_large(maps.size):
            refined = _dense_crf(rgb, maps, crf, slice(None), slice(None))
            mask = refined.argmax(0).astype(np.uint8)
            return Prediction(
                rgb=rgb, mask=mask, tag_scores=tag_scores, classes=self.classes, compute_probs=lambda: refined
            )
        parts = maps.parts
        if crf is not None:
            parts = partial(crf_parts, maps.size, crf, partial(_dense_crf, rgb, maps, crf))
        return Prediction(
            rgb=rgb,
            mask=maps.labels() if crf is None else labels_of(parts(), maps.size),
            tag_scores=tag_scores,
            classes=self.classes,
            compute_probs=lambda: whole(parts(), maps.size),
            compute_parts=parts,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class NumpyScoreMaps:
    """`tag2mask.inference.score_maps.ScoreMaps` in numpy: logits of one picture, probabilities on request."""

    logits: tuple[NDArray[np.float32], ...]
    """float32 [K, h, w] each, flips undone."""
    size: tuple[int, int]
    """(H, W) of the picture."""
    labels_allowed: tuple[int, ...]
    """Labels that may occur, ascending."""

    def probs(self, rows: slice = slice(None), columns: slice = slice(None)) -> NDArray[np.float32]:
        """Probabilities float32 [K, rows, columns] that sum to 1 over K; 0 for labels that are not allowed."""
        height, width = (len(range(n)[part]) for n, part in zip(self.size, (rows, columns), strict=True))
        first = range(self.size[0])[rows].start
        out = np.zeros((self.logits[0].shape[0], height, width), dtype=np.float32)
        for strip in row_strips((height, width), _STRIP):
            part = slice(first + strip.start, first + strip.stop)
            out[list(self.labels_allowed), strip] = self._of_allowed(part, columns)
        return out

    def labels(self) -> NDArray[np.uint8]:
        """The most probable label of each pixel, uint8 [H, W]."""
        names = np.array(self.labels_allowed, dtype=np.uint8)
        strips = row_strips(self.size, _STRIP)
        return np.concatenate([names[self._of_allowed(rows, slice(None)).argmax(0)] for rows in strips])

    def parts(self) -> Iterator[Part]:
        """Probabilities strip by strip."""
        for rows in row_strips(self.size, _STRIP):
            yield rows, slice(0, self.size[1]), self.probs(rows)

    def _of_allowed(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        """Probabilities over the allowed labels [L, rows, columns]."""
        height, width = self.size
        labels = list(self.labels_allowed)
        total: NDArray[np.float32] | np.float32 = np.float32(0)
        for each in self.logits:
            low, high = _reach(each.shape[1], height, rows)
            wide = _resized(each[:, low:high], width, axis=2, part=columns)
            scores = _resized(wide, height, axis=1, part=rows, whole=each.shape[1], first=low)
            total = total + _label_probs(scores, labels)
        return np.asarray(total / np.float32(len(self.logits)), dtype=np.float32)


def _reach(cells: int, pixels: int, part: slice) -> tuple[int, int]:
    """First and last + 1 of the cells that some of the pixels of a side are between."""
    places = range(pixels)[part]
    first, last = ((place + 0.5) * cells / pixels - 0.5 for place in (places[0], places[-1]))
    return max(0, math.floor(first) - 1), min(cells, math.floor(last) + 3)


def _resized(
    values: NDArray[np.float32],
    new_size: int,
    *,
    axis: int,
    part: slice = slice(None),
    whole: int | None = None,
    first: int = 0,
) -> NDArray[np.float32]:
    """Linear resize of one axis with aligned edges (align_corners=False).

    Args:
        values: Numbers at the old positions.
        new_size: Number of new positions.
        axis: Which axis.
        part: The new positions that are asked for.
        whole: Number of old positions where `values` has only some of them.
        first: The first of those.
    """
    size = values.shape[axis] if whole is None else whole
    position = ((np.arange(new_size, dtype=np.float32)[part] + 0.5) * np.float32(size / new_size) - 0.5).clip(min=0)
    low = np.minimum(position.astype(np.int64), size - 1)
    high = np.minimum(low + 1, size - 1)
    weight = (position - low).astype(np.float32).reshape([-1 if i == axis else 1 for i in range(values.ndim)])
    start = values.take(low - first, axis)
    blended: NDArray[np.float32] = start + (values.take(high - first, axis) - start) * weight
    return blended


def _label_probs(logits: NDArray[np.float32], labels: list[int]) -> NDArray[np.float32]:
    """`score_maps.label_probs` of the labels that may occur, background first: [L, H, W] of [K, H, W]."""
    probs = _softmax(logits)
    if len(labels) == len(logits):
        return probs
    if len(labels) == 1:
        return np.ones_like(probs[:1])
    return np.concatenate([probs[:1], (1 - probs[:1]) * _softmax(logits[labels[1:]])])


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    exponents = np.exp(logits - logits.max(0))
    probs: NDArray[np.float32] = exponents / exponents.sum(0)
    return probs


def _dense_crf(
    rgb: NDArray[np.uint8], maps: NumpyScoreMaps, crf: CRFParams, rows: slice, columns: slice
) -> NDArray[np.float32]:
    """Probabilities [K, rows, columns] of the dense CRF of that part of the picture alone, by the compiled core."""
    try:
        core = importlib.import_module("tag2mask._core")
    except ImportError as error:
        raise ValueError(
            f"crf with an ONNX model needs the compiled core of tag2mask, which is missing ({error}): install a C++ "
            "compiler and reinstall tag2mask, load the run itself, or leave crf out."
        ) from error
    scores = maps.probs(rows, columns)[None, None]
    present = np.zeros((1, scores.shape[2]), dtype=np.uint8)
    present[0, list(maps.labels_allowed)] = 1
    out = np.zeros_like(scores)
    bad = core.dense_crf(
        np.ascontiguousarray(rgb[rows, columns].transpose(2, 0, 1)[None]),
        scores,
        present,
        None,
        out,
        crf.gaussian_sxy,
        crf.gaussian_compat,
        crf.bilateral_sxy,
        crf.bilateral_srgb,
        crf.bilateral_compat,
        crf.iterations,
        usual_threads(),
    )
    if bad >= 0:
        raise ValueError("The model's probabilities hold NaN, so there is nothing to refine; export the run anew.")
    refined: NDArray[np.float32] = out[0, 0]
    return refined


def _by_size(pictures: Sequence[NDArray[np.uint8]]) -> list[list[int]]:
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, rgb in enumerate(pictures):
        groups.setdefault(rgb.shape, []).append(i)
    return list(groups.values())


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
