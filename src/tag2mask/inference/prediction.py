"""What a network says about one picture. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tag2mask.base.values import Value, equal
from tag2mask.data.dataset import voc_palette
from tag2mask.inference.tiles import Part, whole
from tag2mask.outputs import render

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction(Value):
    """What the network says about one picture, at the picture's size (after EXIF rotation).

    Two are equal when picture, mask, scores, classes and probabilities are. Pickled, as to another process, it takes
    its probabilities along: 4 K H W bytes, computed if need be.
    """

    rgb: NDArray[np.uint8]
    """The picture, uint8 [H, W, 3]."""
    mask: NDArray[np.uint8]
    """Labels uint8 [H, W] in {0..C}; class i of `classes` is i + 1."""
    tag_scores: dict[str, float]
    """Probability of the tag classifier per class name."""
    classes: tuple[str, ...]
    compute_parts: Callable[[], Iterator[Part]] = field(compare=False)
    """Gives `parts`; they are computed only when asked for, each time anew."""

    @cached_property
    def probs(self) -> NDArray[np.float32]:
        """float32 [K, H, W], background first, sums to 1 over K.

        Computed when first asked for, with a CRF only above `base.arrays.LARGE` pixels; then kept: 4 K H W bytes.
        """
        return whole(self.compute_parts(), (self.mask.shape[0], self.mask.shape[1]))

    def parts(self) -> Iterator[Part]:
        """`probs` piece by piece as (rows, columns, float32 [K, rows, columns]), for which little memory is enough."""
        return one_part(self.probs) if "probs" in self.__dict__ else self.compute_parts()

    def __eq__(self, other: object) -> bool:
        same = super().__eq__(other)  # without the probabilities, which may have to be computed
        return same if same is not True or self is other else equal(self.probs, getattr(other, "probs", None))

    __hash__ = None

    def __reduce__(self) -> tuple[Any, ...]:
        values = {name: getattr(self, name) for name in ("rgb", "mask", "tag_scores", "classes")}
        return partial(Prediction, **values, compute_parts=partial(one_part, self.probs)), ()

    def overlay(self) -> Image.Image:
        """The picture with its objects tinted and a legend below."""
        return render.overlay(self.rgb, self.mask, self.classes, self.tag_scores)

    def save(self, path: str | Path) -> Path:
        """Write the mask as an indexed PNG with the VOC palette, whole or not at all; replaces a file that is there.

        Raises:
            ValueError: the name does not end in .png.
            OSError: it cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise ValueError(f"A mask is saved as PNG, got {path}; name it {path.stem}.png.")
        return render.save_mask(path, self.mask)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the picture with its objects tinted, and a legend of their classes with tag scores.

        On the axes of matplotlib that are given or new ones, which come back: `matplotlib.pyplot.show()` shows them.
        """
        from matplotlib import pyplot
        from matplotlib.patches import Patch

        ax = pyplot.subplots()[1] if ax is None else ax
        ax.imshow(render.blend_labels(self.rgb, self.mask))
        ax.set_axis_off()
        shown = [(label, self.classes[label - 1]) for label in np.unique(self.mask).tolist() if label]
        handles = [
            Patch(color=voc_palette()[label] / 255, label=f"{name} (tag {self.tag_scores[name]:.2f})")
            for label, name in shown
        ]
        if handles:
            ax.legend(handles=handles)
        return ax


def one_part(probs: NDArray[np.float32]) -> Iterator[Part]:
    """Probabilities [K, H, W] as a single part."""
    yield slice(0, probs.shape[1]), slice(0, probs.shape[2]), probs
