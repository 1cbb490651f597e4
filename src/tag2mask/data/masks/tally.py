"""What the counts over masks say: masks that cannot be used, foreign ids, absent classes. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tag2mask.config import BACKGROUND, IGNORE
from tag2mask.data.dataset import UNNAMED
from tag2mask.data.findings import Finding, about, are, listed, some
from tag2mask.data.masks.counts import MaskCounts
from tag2mask.data.masks.guesses import guessed_labelmap, guessed_mask_ids, unnamed_colors
from tag2mask.data.masks.labels import meaning
from tag2mask.data.storage.labelmap import LABELMAP

_MANY = 16
"""So many foreign ids are no list of classes, but a picture."""


class MaskTally(MaskCounts):
    """Counts over the masks of one split, and what they say."""

    def findings(self) -> tuple[Finding, ...]:
        """What these masks say: broken ones, foreign ids, tagged classes that never occur, masks unlike the tags."""
        agreement = self.agreement()
        unlike = [agreement] if agreement is not None and agreement.severity == "warning" else []
        return (*self._broken(), *self._foreign(), *self._absent(), *unlike)

    def agreement(self) -> Finding | None:
        """How many masks show just the classes of the tags; None where there is no tag or no mask.

        It does not name the masks that disagree, so that nobody corrects tags by masks and calls the result learnt from
        tags. A folder of masks that a model wrote may lack classes: of those, only what is no tag counts.
        """
        if not self.tagged.any():
            return None
        rarely = 2 * self.equal < self.masks if self.own else 2 * self.untagged > self.masks
        if self.foreign or self.absent:
            cure = "See the findings on ids and classes of these masks."
        elif rarely:
            cure = "Check that the ids of the masks follow the class list, and that no tag is missing."
        else:
            cure = "None needed: training looks at tags only, scores at masks only."
        return Finding(
            severity="warning" if rarely else "note",
            code="masks_and_tags",
            message=f"{self.equal} of {some(self.masks, 'mask')} of {self.whose} show just the classes of the tags; "
            f"{self.untagged} show a class that is no tag, {self.unseen} lack a class that is one.",
            cure=cure,
        )

    def nothing_left(self) -> str | None:
        """Why no class can be scored or learned from these masks; None where one can, or all show background only."""
        if not self.masks:
            return (
                f"None of the {some(self.num_broken, 'mask')} of {self.whose} can be used, for example "
                f"{self.broken[0][0]}: {self.broken[0][1]}"
                if self.num_broken
                else None
            )
        if self.labels[1 : len(self.classes) + 1].any() or not (self.absent or self.foreign or self.pixels[IGNORE]):
            return None
        ids = np.flatnonzero(self.pixels).tolist()
        if ids == [BACKGROUND]:
            return f"All masks of {self.whose} are background, though their pictures have tags."
        return (
            f"No mask of {self.whose} shows a class. Their ids are {self._shares(ids)}; known are "
            f"{meaning(self.codes, self.classes)}. {self.cure()}"
        )

    def foreign_words(self) -> str:
        """`40, 80 ...; known are 0 background, 1 ball, 255 ignored`."""
        more = " ..." * (len(self.foreign) > 6)
        return f"{', '.join(map(str, self.foreign[:6]))}{more}; known are {meaning(self.codes, self.classes)}"

    def cure(self) -> str:
        """How the ids or colors can be given classes."""
        if self.codes.colors is not None:
            path = self.first_strange if self._has_unnamed_colors else None
            lines = [] if path is None else unnamed_colors(self.codes.colors, path)
            more = f": {' and '.join(lines)} are colors of {path}" if lines else ""
            return f"Name every color in {self.codes.colors.path}, a line 'CLASS:r,g,b::' each{more}."
        if len(self.foreign) >= _MANY:
            return (
                "So many ids are those of a picture, or of edges that were smoothed: save the masks without smoothing "
                "and lossy compression, one id per class."
            )
        if self.own:
            return f"If ids stand for classes, say so: --mask-ids {guessed_mask_ids(self) or 'ID=CLASS'}"
        return (
            "Save labels, and put classes.txt, the class list that they follow, beside the masks; or name what stands "
            f"in them in {LABELMAP} beside the masks, a line each: "
            f"{' and '.join(guessed_labelmap(self)) or 'CLASS:r,g,b::'}"
        )

    @property
    def _has_unnamed_colors(self) -> bool:
        return self.codes.colors is not None and self.foreign == [UNNAMED]

    def _broken(self) -> tuple[Finding, ...]:
        return about(
            [f"{name}: {error}" for name, error in self.broken],
            code="broken_masks",
            message=f"{some(self.num_broken, 'mask')} of {self.whose} cannot be used.",
            cure="Do what the messages say.",
            count=self.num_broken,
        )

    def _foreign(self) -> tuple[Finding, ...]:
        if not self.foreign:
            return ()
        lost = self.pixels[self.is_foreign].sum() / self.pixels.sum()
        to_background = self.codes.table[self.foreign[0]] == BACKGROUND
        what = f"ids that are no label: {self._shares(self.foreign)}"
        what = "colors that labelmap.txt does not name" if self._has_unnamed_colors else what
        return about(
            self.strange,
            severity="note" if to_background else "warning",
            code="foreign_ids",
            message=f"{some(self.num_strange, 'mask')} of {self.whose} with {what}. These {lost:.1%} of all pixels "
            f"are {'background (--others)' if to_background else 'ignored (255)'}; known are "
            f"{meaning(self.codes, self.classes)}.",
            cure=self.cure(),
            count=self.num_strange,
        )

    def _absent(self) -> tuple[Finding, ...]:
        if not self.absent:
            return ()
        share = f" {self.ignored / self.pixels.sum():.1%} of all pixels are 255, which is ignored."
        names = [f"{self.classes[i]}: tagged in {some(int(self.tagged[i]), 'picture')} with mask" for i in self.absent]
        return about(
            names,
            code="absent_in_masks",
            message=f"{are(len(names), 'class')} tagged in pictures with masks of {self.whose}, and in none of "
            f"these masks.{share if self.ignored else ''}",
            cure=self.cure() if self.foreign or self.ignored else self._check_ids(),
        )

    def _shares(self, ids: Sequence[int]) -> str:
        order = sorted(ids, key=lambda number: -self.pixels[number])
        words = [f"{number} ({self.pixels[number] / self.pixels.sum():.1%} of the pixels)" for number in order[:6]]
        return listed(words) if len(ids) <= 6 else f"{', '.join(words)} and {len(ids) - 6} more"

    def _check_ids(self) -> str:
        words = guessed_mask_ids(self) if self.own and self.codes.colors is None else ""
        more = f"; if they do not: --mask-ids {words}" if words else "."
        return f"Check that the ids of the masks follow the class list{more}"
