"""Which picture of a data set an export means. Imports no torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from tag2mask.base.spelling import nfc
from tag2mask.data.dataset import DataError
from tag2mask.data.readers.locating import PictureFiles, among
from tag2mask.data.storage.suffixes import without_suffix


class PictureNames:
    """The pictures of a data set, to be found by what tools call them.

    A path, of which the longest end that is a picture's name or the end of one counts; an address, as those of Label
    Studio; a path without suffix.
    """

    def __init__(self, names: Iterable[str], root: Path) -> None:
        self._by_name = {nfc(name): name for name in names}
        self._by_stem: defaultdict[str, list[str]] = defaultdict(list)
        for key, name in self._by_name.items():
            self._by_stem[without_suffix(key)].append(name)
        self._root = root
        self._whole, self._stems = (
            PictureFiles(root, tuple(sorted(each)), (), ()) for each in (self._by_name, self._by_stem)
        )

    def find(self, reference: str, where: str) -> str | None:
        """The name of the picture; None where the data set has none.

        Raises:
            DataError: it may be several.
        """
        reference = nfc(reference)
        if (found := among(self._whole, reference, where, foreign=True)) is not None:
            return self._by_name[found]
        if (stem := among(self._stems, reference, where, foreign=True)) is None:
            return None
        names = self._by_stem[stem]
        if len(names) > 1:
            raise DataError(
                f"{where}: {reference!r} could be {' or '.join(sorted(names)[:3])} in {self._root}. Rename one there, "
                "and annotate it anew."
            )
        return names[0]
