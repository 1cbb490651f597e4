"""`tag2mask.Segmenter`: a model ready to predict, a network of torch or an exported ONNX file. Imports no torch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from tag2mask.base.arrays import Size, is_large
from tag2mask.base.options import public
from tag2mask.base.processes import usual_threads
from tag2mask.base.spelling import class_name
from tag2mask.base.stages import Stages
from tag2mask.config.inference import Inference
from tag2mask.data.findings import Finding, log_findings
from tag2mask.inference.onnx_backend import OnnxBackend
from tag2mask.inference.prediction import Prediction, one_part
from tag2mask.inference.score_maps import Floats, ScoreMaps, probability_parts
from tag2mask.inference.sources import Source, as_rgb, pixels_of
from tag2mask.inference.tiles import Grid, blended_map, labels_of, network_size, tile_side, whole

if TYPE_CHECKING:
    from tag2mask.config import RunConfig
    from tag2mask.inference.torch_backend import TorchBackend
    from tag2mask.models.base import SegmentationNetwork

_Result = TypeVar("_Result")
_HELD = 1 << 26
"""Pixels of the pictures that are on their way at a time."""
View: TypeAlias = tuple[Floats, Floats]
"""Logits [K, h, w] and tag scores [C] of a picture at one scale, flipped or not."""

_log = logging.getLogger("tag2mask")
_BROKEN_SCORES = (
    "The model's scores of this picture are not finite (NaN or infinite): its weights are damaged. Get the model anew, "
    "or train again with a lower --optim.lr."
)


class Asked(NamedTuple):
    """A picture to predict."""

    source: Source
    tags: Sequence[str] | None = None
    """The classes that are known to be in it."""
    name: Any = None
    """Whatever the caller knows it by."""


class Segmenter:
    """A model ready to predict; `Segmenter.load(source)` gives one.

    Any number of threads may predict with one at a time. Of an exported model, for which torch is never imported, only
    what prediction needs is there; the rest raises a ValueError.
    """

    def __init__(
        self,
        model: SegmentationNetwork | OnnxBackend,
        config: RunConfig | None = None,
        *,
        device: str | None = None,
        selection: str = "last step",
        findings: Sequence[Finding] = (),
        license: str | None = None,
    ) -> None:
        """Wrap a network of torch, moved to `device` if that is given, or an exported model.

        Args:
            model: Network of `config`, or an opened ONNX file.
            config: The network's settings; `image_size` sets the size at which pictures enter it.
            device: auto, cpu, cuda, mps, or None to leave the model where it is.
            selection: Which weights these are, for the evaluation protocol.
            findings: What is to be said of the model wherever it is used, see `tag2mask.runs.health`.
            license: Its license, if its file states one.
        """
        self.selection, self.findings, self.license = selection, tuple(findings), license
        self.backend: OnnxBackend | TorchBackend
        if isinstance(model, OnnxBackend):
            self.backend, self.selection = model, model.selection
        elif config is None:
            raise ValueError("A network needs its config: Segmenter(model, config); Segmenter.load(RUN) reads both.")
        else:
            from tag2mask.inference.torch_backend import TorchBackend

            self.backend = TorchBackend(model, config, device)

    @classmethod
    @public
    def load(cls, source: str | Path | Segmenter, device: str = "auto") -> Segmenter:
        """The segmenter of a run folder, a `.safetensors` or `.onnx` file, or a model of the hub.

        Args:
            source: Path, or "hf://owner/name" (also "hf://owner/name@revision"), which is downloaded and cached. A
                `Segmenter` is given back as it is.
            device: auto (cuda, mps, cpu), cpu, cuda, mps; ONNX models know cpu and cuda.

        Raises:
            ValueError: what `source` names is not of these kinds, or the device is not there.
            FileNotFoundError: there is nothing of that name, or the run has no model yet.
        """
        if isinstance(source, Segmenter):
            return source
        on_hub = str(source).startswith("hf://")
        if Path(source).suffix.lower() == ".onnx" and not on_hub:
            return cls(OnnxBackend(source, device))
        need_network(source, "This", "tag2mask predict and tag2mask.Segmenter.load take ONNX files")
        from tag2mask.inference import hub
        from tag2mask.runs.checkpoints import LICENSE, load_model
        from tag2mask.runs.health import model_findings

        model, config, metadata = load_model(hub.download(str(source)) if on_hub else Path(source))
        findings = model_findings(metadata, config)
        log_findings(findings, _log)
        selection, license = metadata.get("selection", "last step"), metadata.get(LICENSE)
        return cls(model, config, device=device, selection=selection, findings=findings, license=license)

    @classmethod
    @public
    def from_pretrained(cls, source: str | Path, device: str = "auto") -> Segmenter:
        """`load` as libraries of the Hugging Face hub have it.

        "owner/name" (also "owner/name@revision") is a model there if no such path exists.
        """
        from tag2mask.inference import hub

        return cls.load(hub.address(source), device=device)

    @public
    def save_pretrained(
        self, folder: str | Path, *, evaluation: Mapping[str, Any] | None = None, license: str | None = None
    ) -> Path:
        """Write a folder that is ready for the hub: model.safetensors, config.json and README.md, the model card.

        Paths of this machine are left out: of the data, the masks and the weights only the last part of the name stays.

        Args:
            folder: New or empty folder.
            evaluation: Scores for the card, as `Report.as_dict` and evaluation.json have them.
            license: Name of the model's license, such as mit; None takes that of the weights that it began with.

        Raises:
            FileExistsError: the folder holds something.
            ValueError: `license` is None, and nobody states that of the weights that the model began with.
        """
        from tag2mask.inference import hub

        stated = self.stated_license(license)
        return hub.save(
            Path(folder),
            self.model,
            self.config,
            selection=self.selection,
            license=stated,
            findings=self.findings,
            evaluation=evaluation,
        )

    @public
    def stated_license(self, chosen: str | None = None) -> str | None:
        """The license that a model card states: the `chosen` one, else the model's own, else that of its first weights.

        None where nothing is stated: the model began with random numbers, and no license was chosen.

        Raises:
            ValueError: no name of a license, or none was chosen and nobody states that of the first weights.
        """
        from tag2mask.inference.licenses import first_weights, model_license

        return model_license(chosen, self.license, first_weights(self.config, self.selection))

    @public
    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        evaluation: Mapping[str, Any] | None = None,
        license: str | None = None,
    ) -> str:
        """Upload to the hub what `save_pretrained` writes.

        Args:
            repo_id: "owner/name" (also "hf://owner/name"); made if it is not there yet.
            private: Who may see a new repository; None is the owner's default.
            evaluation: Scores for the model card, as in evaluation.json.
            license: As in `save_pretrained`.

        Returns:
            The address of the upload.

        Raises:
            ValueError: no such name, no license as in `save_pretrained`, or the upload failed.
        """
        from tag2mask.inference import hub

        write = partial(self.save_pretrained, evaluation=evaluation, license=license)
        return hub.push(repo_id, write, private=private)

    def to(self, device: str) -> Self:
        """Move the model to a device, auto, cpu, cuda or mps (an ONNX model knows cpu and cuda), and give it back.

        Raises:
            ValueError: the device is not there.
        """
        self.backend = self.backend.to(device)
        return self

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; class i has label i + 1."""
        return self.backend.classes

    @property
    def network(self) -> TorchBackend:
        """The network on torch with its settings.

        Raises:
            ValueError: an exported model, which is no network of torch.
        """
        need_network(self, "This", "tag2mask.Segmenter.predict gives its masks")
        return self.backend  # type: ignore[return-value]  # what is not exported is on torch

    @property
    def model(self) -> SegmentationNetwork:
        """The network of torch."""
        return self.network.model

    @property
    def config(self) -> RunConfig:
        """The settings that the network was trained with."""
        return self.network.config

    def class_activation_maps(self, rgb: NDArray[np.uint8], names: Sequence[str]) -> Floats | None:
        """The maps of some classes, float32 [len(names), h, w] in 0..1 at the network's size.

        None for a model without a tag branch, and for a picture that only passes the network in tiles, whose maps have
        no common scale.

        Args:
            rgb: uint8 [H, W, 3].
            names: Classes; the maps are drawn as if these were the picture's tags, at the scales of the training.
        """
        if not self.has_maps(rgb):
            return None
        return self.network.class_activation_maps(rgb, [self.classes.index(name) for name in names])

    def has_maps(self, rgb: NDArray[np.uint8]) -> bool:
        """Whether `class_activation_maps` gives any for a picture uint8 [H, W, 3]."""
        enters_whole = tile_side((rgb.shape[0], rgb.shape[1]), None, self.backend.image_size) is None
        return self.backend.has_tag_branch and enters_whole

    @overload
    def predict(
        self, source: Iterable[Source], inference: Inference | None = None, *, stream: Literal[True], **options: Any
    ) -> Iterator[Prediction]: ...
    @overload
    def predict(
        self, source: list[Source] | tuple[Source, ...], inference: Inference | None = None, **options: Any
    ) -> list[Prediction]: ...
    @overload
    def predict(self, source: Source, inference: Inference | None = None, **options: Any) -> Prediction: ...
    @public
    def predict(
        self, source: Any, inference: Inference | None = None, *, stream: bool = False, **options: Any
    ) -> Prediction | list[Prediction] | Iterator[Prediction]:
        """Masks of pictures.

        Pictures of a list are read ahead, and their masks drawn, in threads of their own while the network works.

        Args:
            source: A path, a PIL image, or an array uint8 [H, W, 3] or [H, W]; or a list of these.
            inference: How they are predicted; None is `Inference()`.
            stream: Give the predictions one by one, as they are asked for, so that any number needs little memory;
                `source` may then be anything that gives sources one by one.
            options: Fields of `tag2mask.config.inference.Inference` by name, such as `crf=True` or `tags=["cat"]`,
                which replace those of `inference`.

        Returns:
            One `Prediction`; a list for a list; with `stream` an iterator in the order of the sources.

        Raises:
            ValueError: an unusable array, an unknown tag, or a file that is no picture; `data.PictureTooLarge` for one
                above `max_pixels`.
            TypeError: an option that is no field of `Inference`.
        """
        inference = (inference or Inference()).replace(**options)
        if stream:
            return self._stream(source, inference)
        if isinstance(source, (list, tuple)):
            return list(self._stream(source, inference))
        (asked,) = _asked([source], inference.tags)
        rgb = as_rgb(source, inference.max_pixels)
        ((maps, scores),) = self.score_maps([rgb], inference, allowed=[self._allowed(asked)])
        return self.prediction(rgb, maps, scores, inference)

    def _stream(self, sources: Iterable[Source], inference: Inference) -> Iterator[Prediction]:
        run = self.stages(inference, lambda _, prediction: prediction).run(_asked(sources, inference.tags))
        try:
            for outcome in run:
                yield outcome.get()
        finally:
            run.close()

    def stages(self, inference: Inference, finish: Callable[[Asked, Prediction], _Result]) -> Stages[Asked, _Result]:
        """How many pictures are predicted: read ahead in threads, through the network, and finished behind in threads.

        `finish` takes a picture and its prediction to the result, side by side with itself.
        """

        def finished(asked: Asked, rgb: NDArray[np.uint8], found: tuple[ScoreMaps, Floats]) -> _Result:
            return finish(asked, self.prediction(rgb, *found, inference))

        return Stages(
            read=lambda asked: as_rgb(asked.source, inference.max_pixels),
            work=lambda group: self.score_maps(
                [rgb for _, rgb in group], inference, allowed=[self._allowed(asked) for asked, _ in group]
            ),
            finish=finished,
            kind=partial(self._network_size, inference=inference),
            batch=inference.batch_size,
            cost=lambda asked: pixels_of(asked.source),
            budget=_HELD,
            jobs=min(8, usual_threads()),
        )

    def _allowed(self, asked: Asked) -> NDArray[np.bool_] | None:
        return None if asked.tags is None else self.allowed_labels(asked.tags)

    def _network_size(self, rgb: NDArray[np.uint8], inference: Inference) -> Size:
        return network_size((rgb.shape[0], rgb.shape[1]), self.backend.image_size, self.backend.stride)

    def prediction(
        self, rgb: NDArray[np.uint8], maps: ScoreMaps, tag_scores: Floats, inference: Inference
    ) -> Prediction:
        """What `score_maps` of a picture mean.

        Raises:
            ValueError: scores that are not finite.
        """
        if not all(np.isfinite(each).all() for each in (*maps.logits, tag_scores)):
            raise ValueError(_BROKEN_SCORES)
        parts = partial(probability_parts, rgb, maps, inference.crf)
        if inference.crf is not None and not is_large(maps.size):  # not computed twice
            parts = partial(one_part, whole(parts(), maps.size))
        return Prediction(
            rgb=rgb,
            mask=maps.labels() if inference.crf is None else labels_of(parts(), maps.size),
            tag_scores=dict(zip(self.classes, map(float, tag_scores), strict=True)),
            classes=self.classes,
            compute_parts=parts,
        )

    def allowed_labels(self, tags: Sequence[str]) -> NDArray[np.bool_]:
        """Labels that may occur, bool [K]: background and the named classes.

        Raises:
            ValueError: a name is not a class of this model.
        """
        tags = [class_name(name) for name in tags]
        if unknown := [name for name in tags if name not in self.classes]:
            raise ValueError(f"tags names {', '.join(map(repr, unknown))}; this model knows {', '.join(self.classes)}.")
        return np.array([True, *(name in tags for name in self.classes)])

    def score_maps(
        self,
        pictures: Sequence[NDArray[np.uint8]],
        inference: Inference | None = None,
        *,
        allowed: Sequence[NDArray[np.bool_] | None] | None = None,
        **options: Any,
    ) -> list[tuple[ScoreMaps, Floats]]:
        """Score maps and tag probabilities float32 [C] of pictures; the one way into the network for everything.

        Args:
            pictures: uint8 [H, W, 3] each; those of one size share a batch.
            inference: Scales, flip and tile; the tag probabilities are averaged over scales and flips too.
            allowed: Per picture a bool [K] of labels that may occur, or None for all.
            options: Fields of `Inference` by name.
        """
        inference = (inference or Inference()).replace(**options)
        views: list[list[View]] = [[] for _ in pictures]
        steps = (1, -1) if inference.flip else (1,)
        image_size, stride = self.backend.image_size, self.backend.stride
        sizes: list[Size] = [(rgb.shape[0], rgb.shape[1]) for rgb in pictures]
        sides = [tile_side(size, inference.tile, image_size) for size in sizes]
        with self.backend.inference():
            for scale in inference.scales:
                groups: dict[tuple[Size, tuple[int, ...]], dict[int, NDArray[np.uint8]]] = {}
                for i, (rgb, size, side) in enumerate(zip(pictures, sizes, sides, strict=True)):
                    if side is not None:
                        grid = Grid.of(size, side, image_size, stride, scale)
                        views[i] += [blended_map(rgb, grid, partial(self._tile_view, step=step)) for step in steps]
                    else:
                        new = network_size(size, image_size, stride, scale)
                        picture = self.backend.prepared(rgb, new)
                        groups.setdefault((new, picture.shape), {})[i] = picture
                for (new, shape), members in groups.items():
                    batch = np.stack(list(members.values()))
                    for step in steps:
                        found = self._views(batch, None if shape[:2] == new else scale, step)
                        for i, view in zip(members, found, strict=True):
                            views[i].append(view)
        mean, found_maps = self.backend.arithmetic.mean, []
        for i, (size, each) in enumerate(zip(sizes, views, strict=True)):
            logits, scores = zip(*each, strict=True)
            labels = None if allowed is None else allowed[i]
            maps = ScoreMaps(logits=logits, size=size, allowed=labels, arithmetic=self.backend.arithmetic)
            found_maps.append((maps, mean(scores)))
        return found_maps

    def _views(self, batch: NDArray[np.uint8], scale: float | None, step: int) -> list[View]:
        """Logits and tag scores of pictures uint8 [B, h, w, 3] that enter the network mirrored if `step` is -1."""
        logits, scores = self.backend.run(batch[:, :, ::step], scale)
        return list(zip(np.ascontiguousarray(logits[..., ::step]), scores, strict=True))

    def _tile_view(self, tile: NDArray[np.uint8], *, step: int) -> View:
        return self._views(tile[None], None, step)[0]


def need_network(run: object, who: str, instead: str) -> None:
    """Refuse an exported model (`run` is a path or a segmenter), which gives masks only, before any work.

    The message begins with `who` needs the network, and ends with what to do `instead` without it.

    Raises:
        ValueError: `run` is an exported model.
    """
    if isinstance(run, Segmenter):
        if not isinstance(run.backend, OnnxBackend):
            return
        what = "a segmenter of an exported model"
    else:
        kind = {".onnx": "an ONNX file", ".pt2": "a program of torch.export"}.get(Path(str(run)).suffix.lower())
        if kind is None or str(run).startswith("hf://"):
            return
        what = f"{run}, {kind}"
    raise ValueError(
        f"{who} needs the network itself, got {what}, which only predicts. Give the run folder or .safetensors file "
        f"that it was exported from; without one: {instead}."
    )


def _asked(sources: Iterable[Source], tags: Sequence[str] | Sequence[Sequence[str]] | None) -> Iterator[Asked]:
    """The sources with their tags: the same for all, or those of each.

    Raises:
        ValueError: tags that are neither, or not as many as there are sources.
    """
    if tags is None:
        return map(Asked, sources)
    if isinstance(tags, str):
        raise ValueError(f"tags is a list of class names, got the text {tags!r}; write [{tags!r}].")
    names = [entry for entry in tags if isinstance(entry, str)]
    if len(names) == len(tags):
        return map(Asked, sources, repeat(names))
    count = len(sources) if isinstance(sources, Sized) else len(tags)
    if names or len(tags) != count:
        raise ValueError(f"tags must be one list of class names, or one list for each of the {count} pictures.")
    return (Asked(source, None if each is None else list(each)) for source, each in zip(sources, tags, strict=True))
