"""Pictures that are read one by one to be scored, shared among the processes that train together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from tag2mask.base.team import Team
from tag2mask.data import Picture, PictureError
from tag2mask.scoring.report import Progress, tracked

_T = TypeVar("_T")


def readable(
    pictures: Sequence[Picture],
    read: Callable[[Picture], _T],
    *,
    broken: dict[str, str] | None,
    progress: Progress | None,
    team: Team,
) -> Iterator[tuple[Picture, _T]]:
    """This process's share of the pictures, each with what `read` makes of it; all processes must take all of them.

    Args:
        pictures: Of all processes.
        read: Reads a file of the picture.
        broken: Gets the message per picture that cannot be read, of all processes; None raises it.
        progress: Called with (done, all).
        team: The processes.
    """
    for picture in tracked(team.share(pictures), progress):
        try:
            found = read(picture)
        except PictureError as error:
            if broken is None:
                raise
            broken[picture.name] = str(error)
            continue
        yield picture, found
    for notes in team.gather(broken):
        if broken is not None and notes is not None:
            broken.update(notes)
