"""Masks of tagged pictures from the evidence of their tags (`tag2mask.evidence`), in two rounds over the pictures."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tag2mask.data import Picture
from tag2mask.data.findings import Finding, about, some
from tag2mask.evidence import EXPONENTS, LARGE, Evidence, class_exponents, evidence_labels, tag_evidence
from tag2mask.inference.first_step import tag_vector
from tag2mask.inference.segmenter import Segmenter

TaggedPicture: TypeAlias = tuple[Picture, NDArray[np.uint8], Sequence[str]]
"""A picture of a data set, its pixels uint8 [H, W, 3], and the names of its tags."""
_OTHERS = 0.25
"""Share of pictures without a large object from which on they alone teach what background is."""


class EvidenceMasks:
    """The masks of one run's pictures."""

    def __init__(self, segmenter: Segmenter) -> None:
        """Of a network of the first step.

        Raises:
            ValueError: a network of the second step.
        """
        self.segmenter = segmenter
        self.network, self.method = segmenter.network.first_step()
        self.exponents: dict[str, float] = {}
        """The exponent of each class that has a picture."""
        self.findings: tuple[Finding, ...] = ()
        """Tags without evidence."""

    @property
    def settings(self) -> dict[str, Any]:
        """How the masks were made, for a file."""
        method = self.method
        return {
            "crf": asdict(method.reliable.crf),
            "scales": list(method.cam_scales),
            "flip": False,
            "exponents": self.exponents,
        }

    def of(self, pictures: Iterable[TaggedPicture]) -> Iterator[tuple[Picture, NDArray[np.uint8]]]:
        """The mask of each picture [H, W, 3] with its tags, in labels of the run: after a look at all of them."""
        looked, left = [], dict[int, list[Tensor]]()
        for picture, rgb, tags in pictures:
            packed = _Packed(self._look(rgb, tags)) if tags else None
            looked.append((picture, rgb.shape[:2], packed))
            if packed is not None:
                for tag, shares in zip(packed.tags, packed.left, strict=True):
                    left.setdefault(tag, []).append(shares)
        places = class_exponents(left)
        classes = self.segmenter.classes
        self.exponents = {classes[tag]: EXPONENTS[place] for tag, place in sorted(places.items())}
        large = sum(packed is not None and any(places[tag] >= LARGE for tag in packed.tags) for *_, packed in looked)
        others_teach = len(looked) - large >= _OTHERS * len(looked)
        unknown = []
        for picture, size, packed in looked:
            labels = np.zeros(size, dtype=np.uint8)
            if packed is not None:
                small, without = evidence_labels(packed.unpacked(), places, others_teach=others_teach)
                labels = F.interpolate(small[None, None].to(torch.uint8), size, mode="nearest")[0, 0].numpy()
                unknown += [f"{picture.name}: {classes[tag]}" for tag in without]
            yield picture, labels
        self.findings = about(
            unknown,
            severity="note",
            code="tags_without_evidence",
            message=f"{some(len(unknown), 'tag')} without evidence in the picture; where they may be is 255.",
            cure="Look at some; if they are most tags of a class, train longer or on larger pictures.",
        )

    def _look(self, rgb: NDArray[np.uint8], tags: Sequence[str]) -> Evidence:
        present = tag_vector(self.segmenter, tags)
        with self.segmenter.network.inference():
            cams, small = self.segmenter.network.cams(rgb, present)
            numbers = torch.nonzero(present).flatten().tolist()
            return tag_evidence(self.network, small[0], cams[0], numbers, self.method.reliable.crf)


class _Packed:
    """`Evidence` in little memory: a region of few pieces is a few hundred bytes."""

    def __init__(self, evidence: Evidence) -> None:
        self.tags, self.left = evidence.tags, evidence.left
        self._shape = evidence.regions.shape
        self._regions = zlib.compress(np.packbits(evidence.regions.numpy()).tobytes(), level=1)

    def unpacked(self) -> Evidence:
        bits = np.frombuffer(zlib.decompress(self._regions), dtype=np.uint8)
        regions = np.unpackbits(bits, count=self._shape.numel()).astype(bool).reshape(self._shape)
        return Evidence(self.tags, torch.from_numpy(regions), self.left)
